"""Checks of 01: the effect, the hook, a residual sweep by hand, and three maps predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib import toys
from patchlib.coursework.checks.library import effects, few, layers_of, mean_of_ratios, swept
from patchlib.coursework.compare import CheckFailed, call, compare, right
from patchlib.tasks.pairs import PromptPairs

_CLEAN, _CORRUPTED, _PATCHED = np.array([[3.0, 1.0, 2.0, 0.5], [-2.0, -1.0, -3.0, 0.1], [2.0, 1.5, -4.0, 3.0]])
"""Four prompts, one of them with hardly a contrast of its own, in which every mistake gives a number of its own."""


def effect(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``effect(clean, corrupted, patched)``: the ratio of means over prompts, of made-up and of real numbers.

    Args:
        answer: The student's function of three arrays ``[example]``.
        model: Any.
        task: Any.

    Raises:
        CheckFailed: With what is likely wrong.
    """

    def compared(clean: Any, corrupted: Any, patched: Any, where: str) -> None:
        moved, possible = (patched - corrupted).mean(), (clean - corrupted).mean()
        is_effect = moved / possible
        likely = {
            "effect is 1 - effect: 0 is the corrupted forward pass and 1 the clean one; did you measure what is still "
            "missing?": 1 - is_effect,
            "effect is a mean of ratios, which one prompt of little contrast spoils: take both means over the prompts "
            "first, then divide": ((patched - corrupted) / (clean - corrupted)).mean(),
            "effect is cut off at 0 or 1: a patch may do harm, or more than restore, and that is a finding": np.clip(
                is_effect, 0, 1
            ),
            "effect has the wrong sign: is the difference below the line clean - corrupted?": -is_effect,
            "effect is the difference and not the share: divide by mean(clean) - mean(corrupted)": moved,
            "effect is patched / clean: subtract the corrupted forward pass above and below the line": patched.mean()
            / clean.mean(),
            "effect is one number for each prompt: take the means over prompts": (patched - corrupted)
            / (clean - corrupted),
        }
        compare(call(answer, clean, corrupted, patched), is_effect, likely, where, name="effect")

    for patched in (_PATCHED, 2 * _CLEAN):  # the second restores more than all
        compared(_CLEAN, _CORRUPTED, patched, "made-up numbers of four prompts")
    result = swept(model, task, "resid_pre", ("layer", "role"), layers=layers_of(model))
    effects(result)  # or there were nothing to divide by
    cells = result.patched.stack(cell=("layer", "role"))
    for i, (layer, role) in enumerate(cells.cell.values):
        compared(result.clean.values, result.corrupted.values, cells[:, i].values, f"layer {layer} at {role}")
    right("effect", f"{cells.sizes['cell']} cells of the residual stream, {len(task)} prompts")


def patched_metric(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``patched_metric(model, pairs, i, layer, position)``: one denoising patch of ``resid_pre`` with a hook.

    Args:
        answer: The student's function, which returns the logit difference of the patched forward pass.
        model: Any.
        task: Any; its last prompt is asked about.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    i = len(task) - 1
    pair, layers = task.select([i]), layers_of(model)
    changed = (pair.clean_tokens[0] != pair.corrupted_tokens[0]).nonzero()[:, 0]
    n_pos = len(pair.clean_tokens[0])
    positions = sorted({int(changed[0]), n_pos - 2, n_pos - 1})
    cells = [(layer, position) for layer in layers for position in positions]

    def swept_pair(site: str = "resid_pre", **how: Any) -> Any:
        return swept(model, pair, site, ("layer", "pos"), layers=layers, **how).isel(example=0)

    def table(result: Any, behind: int = 0) -> Any:
        return [float(result.patched.sel(layer=layer, pos=(pos + behind) % n_pos)) for layer, pos in cells]

    every = swept_pair()

    likely = {
        "patched_metric patched the corrupted value into the clean forward pass: keep the clean one's activations, "
        "and run the corrupted tokens": lambda: table(swept_pair(direction="noise")),
        "patched_metric is one position off: it patched position + 1": lambda: table(every, behind=1),
        "patched_metric is one position off: it patched position - 1": lambda: table(every, behind=-1),
        "patched_metric is that of the corrupted prompt without a patch: does the hook change the activation and "
        "return it, and is it in fwd_hooks?": lambda: [float(every.corrupted)] * len(cells),
        "patched_metric is that of the clean prompt, as if all positions had been patched: index the position only": (
            lambda: [float(every.clean)] * len(cells)
        ),
        "patched_metric is one layer late: hook_resid_pre is what a layer reads, hook_resid_post what it leaves": (
            lambda: table(swept_pair("resid_post"))
        ),
        "patched_metric has the wrong sign: the right answer's logit minus the wrong one's": lambda: [
            -value for value in table(every)
        ],
    }
    got = [call(answer, model, task, i, layer, position) for layer, position in cells]
    where = f"prompt {i}, (layer, position) {', '.join(map(str, cells))}"
    compare(got, table(every), likely, where, name="patched_metric")
    right("patched_metric", where)


def residual_sweep(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``residual_sweep(model, pairs, layers, role)``: effects ``[layer]`` of denoising a role in each prompt.

    Args:
        answer: The student's function.
        model: Any.
        task: Any; its last four prompts are asked about, at its last two roles.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs, layers = few(task), layers_of(model)
    for role in (roles := list(pairs.roles)[-2:]):
        _residual_sweep(answer, model, pairs, layers, role)
    right("residual_sweep", f"layers {layers} at {' and '.join(roles)}, {len(pairs)} prompts")


def _residual_sweep(
    answer: Callable[..., Any], model: TransformerBridge, pairs: PromptPairs, layers: list[int], role: str
) -> None:
    def at(site: str = "resid_pre", role: str = role, pairs: PromptPairs = pairs, **how: Any) -> Any:
        how = {"over": ("layer", "role"), "positions": [role], "layers": layers} | how
        return swept(model, pairs, site, **how).isel({how["over"][1]: 0})

    def beside(by: int) -> Any:
        rows = zip(pairs.roles[role], pairs.clean_tokens, strict=True)
        moved = {"beside": torch.tensor([(int(position) + by) % len(row) for position, row in rows])}
        return at(pairs=replace(pairs, roles={**pairs.roles, **moved}), role="beside").effect

    result = at()
    expected = effects(result)
    first = int(pairs.roles[role][0])
    likely = {
        "residual_sweep is a mean of ratios: take the means over the prompts first, then divide": lambda: (
            mean_of_ratios(result)
        ),
        "residual_sweep patched the corrupted values into the clean forward pass: this is noising": lambda: (
            at(direction="noise").effect
        ),
        "residual_sweep took the first prompt's position for all of them: read pairs.roles[role][i] for prompt i": (
            lambda: at(over=("layer", "pos"), positions=[first]).effect
        ),
        "residual_sweep is one layer late: patch what a layer reads, hook_resid_pre": lambda: at("resid_post").effect,
        "residual_sweep is 1 - effect: 0 is the corrupted forward pass and 1 the clean one": 1 - expected,
        "residual_sweep is the mean metric, and no effect yet: subtract the corrupted one and divide by the contrast": (
            result.patched.mean("example")
        ),
        "residual_sweep is the difference, and not yet divided by mean(clean) - mean(corrupted)": (
            (result.patched - result.corrupted).mean("example")
        ),
        "residual_sweep gives the layers from the last to the first: keep the order of `layers`": expected[::-1],
        "residual_sweep is one position off: it patched position + 1": lambda: beside(1),
        "residual_sweep is one position off: it patched position - 1": lambda: beside(-1),
    }
    got = call(answer, model, pairs, layers, role)
    compare(got, expected, likely, f"layers {layers} at {role}", name="residual_sweep")


MAPS = {
    "denoising": ("all positions, before layer 0", "position 0, before any layer", "last position, behind all layers"),
    "noising": ("all positions, before layer 0", "position 0, before any layer", "last position, behind all layers"),
    "OR, noising": ("L0H1", "L1H2", "L0H3"),
}
"""The maps of exercise 4 and the cells of each, in order."""


def predict(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``predict()``: the values of nine cells in three maps, to one decimal, which need no forward pass.

    Args:
        answer: The student's function, of nothing; it returns ``{map: [value of each cell of MAPS]}``.
        model: Any.
        task: Any.

    Raises:
        CheckFailed: Naming the cell, and the thought that leads astray; not the value.
    """
    got = call(answer)
    if not isinstance(got, dict) or set(got) != set(MAPS):
        raise CheckFailed(f"predict must return a dictionary with {', '.join(map(repr, MAPS))}")
    maps = {name: _ends(model, task, way) for name, way in (("denoising", "denoise"), ("noising", "noise"))}
    toy = toys.or_gate(n_prompts=8)
    heads = swept(toy.model, toy.task, "z", ("layer", "head"), direction="noise").effect
    maps["OR, noising"] = [float(heads.sel(layer=layer, head=head)) for layer, head in ((0, 1), (1, 2), (0, 3))]
    for name, values in maps.items():
        if len(np.atleast_1d(np.asarray(got[name], dtype=float))) != len(values):
            raise CheckFailed(f"predict()[{name!r}] must have a number for each of {', '.join(MAPS[name])}")
        for cell, value, expected in zip(MAPS[name], got[name], values, strict=True):
            if abs(value - expected) > 0.1:
                raise CheckFailed(f"{name}, {cell}: not {value:g}. {_thought(name, cell, value)}")
    right("predict", "nine cells of three maps")


def _ends(model: TransformerBridge, task: PromptPairs, way: str) -> list[float]:
    """Effects of patching everything, what cannot matter, and what alone is read."""
    everything = swept(model, task, "resid_pre", ("layer",), direction=way, layers=[0])
    nothing = swept(model, task, "resid_pre", ("layer", "pos"), direction=way, layers=[0], positions=[0])
    last = int(model.cfg.n_layers) - 1
    final = swept(model, task, "resid_post", ("layer", "role"), direction=way, layers=[last], positions=["END"])
    return [float(effects(result).ravel()[0]) for result in (everything, nothing, final)]


def _thought(name: str, cell: str, value: float) -> str:
    if name == "OR, noising":
        return "One of the two heads is enough: what is left when only one of them is corrupted?"
    if "position 0" in cell:
        return "Both prompts begin with the same token, and a causal model cannot look ahead: what does this change?"
    if name == "noising" and value == 0:
        return "Noising is not 1 - denoising: an effect of 1 says in both that all of the contrast has moved."
    return "What can the rest of the model still know of the prompt that it was run on?"
