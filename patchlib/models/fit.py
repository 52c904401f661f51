"""Do the weights in a folder fit its config? transformers loads what it can, and leaves out the rest without a word."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from patchlib.errors import ModelError

MEND = "fetch or save the model again"
COMPUTED = re.compile(r"(inv_freq|position_ids|masked_bias|(attn|attention)\.bias|embed_positions\.weights)$")
"""Names of what old files hold though it is computed: masks, rotary frequencies, sinusoids."""


def check_fit(model: torch.nn.Module, report: Mapping[str, Any], source: str) -> None:
    """ModelError unless every weight of the model is from its files, and no weight in them was left out.

    Args:
        model: As transformers loaded it.
        report: What transformers says that it did not find, or could not use.
        source: The folder or hub name, for errors.
    """
    wrong = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"the weights in {source!r} do not fit their config.json ({len(wrong)} tensors are missing "
            f"or of another shape, such as {wrong[0]}); {MEND}"
        )
    left_out = sorted(key for key in report["unexpected_keys"] if _belongs(key, model))
    if left_out:
        raise ModelError(
            f"the weights in {source!r} do not fit their config.json, which has no place for {len(left_out)} of the "
            f"tensors, such as {left_out[0]}: without them it would be another model; {MEND}"
        )
    with ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for file in _files(source):
            opened = stack.enter_context(safe_open(file, framework="pt"))
            tensors |= dict.fromkeys(opened.keys(), opened)
        _check_dtypes(model, tensors, source)


def _belongs(key: str, model: torch.nn.Module) -> bool:
    """Whether a tensor is of a part that the model has; heads for other purposes and further towers are none."""
    names = {name: module for name, module in model.named_modules() if name}
    parts = {re.sub(r"\d+", "#", name) for name in names}
    stacks = {name for name, module in names.items() if isinstance(module, torch.nn.ModuleList)}
    # What stands around the layers may hold anything else too; what stands in them, or beside them, is the model.
    around = {"", *(stack[:i] for stack in stacks for i in range(len(stack)) if stack[i] == ".")}
    parents = [re.sub(r"\d+", "#", key[:i]) for i in range(len(key)) if key[i] == "."]
    known = [parent for parent in parents if parent in parts and parent not in around]
    return bool(known) and COMPUTED.search(key) is None


def _files(source: str) -> Iterator[Path]:
    """The safetensors files that transformers has read."""
    folder = Path(source)
    if not folder.is_dir():
        config = try_to_load_from_cache(source, "config.json")
        if not isinstance(config, str):
            return
        folder = Path(config).parent
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        yield whole
    elif index.is_file():
        yield from (folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values())))


def _check_dtypes(model: torch.nn.Module, tensors: Mapping[str, Any], source: str) -> None:
    """ModelError for weights that are whole numbers, which transformers would take as they are."""
    if getattr(model.config, "quantization_config", None) is not None:
        return
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for key, file in tensors.items():
        dtype = file.get_slice(key).get_dtype()
        if key in parameters and dtype[0] in "IUB" and dtype != "BF16":
            raise ModelError(f"the tensor {key} in {source!r} is of dtype {dtype}, no weight of a model; {MEND}")
