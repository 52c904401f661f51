"""The same cells as other libraries patch them, where they are installed: one forward a cell, all prompts in it.

Both are given GPT-2 as Hugging Face has it, in the process and with the threads of the other rows.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:  # which is a script
    import pandas as pd

    from tests.benchmarks.bench_sweep import Row


@cache
def _hugging_face(folder: str, device: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False).to(device)


def _prompts(row: Row) -> tuple[str, torch.Tensor, torch.Tensor, torch.Tensor, Any]:
    """The model's folder, base, source and answers on its device, and what picks the metric out of logits."""
    device = row.model.cfg.device
    tensors = (row.pairs.corrupted_batch(), row.pairs.clean_batch(), row.pairs.answers)
    base, source, answers = (tensor.to(device) for tensor in tensors)
    examples = torch.arange(len(base), device=device)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[examples, -1, answers[:, 0]] - logits[examples, -1, answers[:, 1]]

    return str(row.model.cfg.model_name), base, source, answers, metric


@torch.no_grad()
def with_nnsight(row: Row, index: pd.DataFrame) -> torch.Tensor:
    """The metric of these cells, `[cell example]`: the source's activations are kept from one trace."""
    folder, base, source, _, metric = _prompts(row)
    hf = _hugging_face(folder, str(row.model.cfg.device))
    model = importlib.import_module("nnsight").LanguageModel(hf, tokenizer=AutoTokenizer.from_pretrained(folder))
    width = hf.config.n_embd // hf.config.n_head
    by_head = row.site == "z"
    kept = []
    with model.trace({"input_ids": source}):
        for block in model.transformer.h:
            kept.append(block.attn.c_proj.input.save() if by_head else block.input.save())
    values = []
    for layer, cell in index.itertuples(index=False):
        at = (slice(None), slice(None), slice(cell * width, (cell + 1) * width)) if by_head else (slice(None), cell)
        with model.trace({"input_ids": base}):
            block = model.transformer.h[layer]
            activation = block.attn.c_proj.input if by_head else block.input
            activation[at] = kept[layer][at]
            logits = model.lm_head.output.save()
        values.append(metric(logits))
    return torch.stack(values).cpu()


@torch.no_grad()
def with_pyvene(row: Row, index: pd.DataFrame) -> torch.Tensor:
    """The metric of these cells, `[cell example]`: each call runs the source too, as its interface has it."""
    pyvene = importlib.import_module("pyvene")
    folder, base, source, _, metric = _prompts(row)
    hf = _hugging_face(folder, str(row.model.cfg.device))
    by_head = row.site == "z"
    component, unit = ("head_attention_value_output", "h.pos") if by_head else ("block_input", "pos")
    every_position = [list(range(base.shape[1]))] * len(base)
    values = []
    for layer, cell in index.itertuples(index=False):
        kind = pyvene.VanillaIntervention
        what = pyvene.RepresentationConfig(layer, component, unit, 1, intervention_type=kind)
        model = pyvene.IntervenableModel(pyvene.IntervenableConfig([what]), model=hf)
        model.set_device(base.device)
        where: list[Any] = [[cell]] * len(base)
        where = [[where, every_position]] if by_head else [where]
        _, patched = model({"input_ids": base}, [{"input_ids": source}], {"sources->base": (where, where)})
        values.append(metric(patched.logits))
    return torch.stack(values).cpu()


OTHERS: dict[str, Callable[[Row, pd.DataFrame], torch.Tensor]] = {"nnsight": with_nnsight, "pyvene": with_pyvene}


def installed(row: Row) -> dict[str, Callable[[Row, pd.DataFrame], torch.Tensor]]:
    """The libraries that are here and whose GPT-2 this row is of."""
    is_gpt2 = hasattr(getattr(row.model, "original_model", None), "transformer") and row.site in ("z", "resid_pre")
    return {name: patch for name, patch in OTHERS.items() if is_gpt2 and importlib.util.find_spec(name)}
