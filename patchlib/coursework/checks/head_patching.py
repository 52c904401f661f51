"""Checks of 02: one head's output, pattern against values, a team of heads, how many prompts, and OR or AND."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from scipy.stats import false_discovery_control
from transformer_lens.model_bridge import TransformerBridge

from patchlib import toys
from patchlib._util import Head, head_name, head_names
from patchlib.coursework.checks.library import (
    effects,
    few,
    layers_of,
    mean_of_ratios,
    quietly,
    swept,
    telling_heads,
)
from patchlib.coursework.compare import CheckFailed, call, compare, right
from patchlib.patching.sets import patch_set
from patchlib.patching.sites import SITES
from patchlib.tasks.pairs import PromptPairs

_CELLS = ("layer", "head")


def patched_head(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``patched_head(model, pairs, i, layer, head)``: a head's ``z`` denoised at all positions of prompt i.

    Args:
        answer: The student's function, which returns the logit difference of the patched forward pass.
        model: Any.
        task: Any; its last prompt is asked about, and the heads that move it most in two layers.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    i = len(task) - 1
    pair, layers = task.select([i]), layers_of(model)
    every = swept(model, pair, "z", _CELLS, layers=layers)
    heads = telling_heads(every, 3)
    n_heads = int(model.cfg.n_heads)

    def table(result: Any, aside: int = 0) -> list[float]:
        cells = [result.patched.sel(layer=layer, head=(head + aside) % n_heads) for layer, head in heads]
        return [float(cell.item()) for cell in cells]

    def other(site: str = "z", **how: Any) -> Any:
        return swept(model, pair, site, _CELLS, layers=layers, **how)

    def whole_layers() -> list[float]:
        result = swept(model, pair, "z", ("layer",), layers=layers)
        return [float(result.patched.sel(layer=layer).item()) for layer, _ in heads]

    likely = {
        "patched_head patched the corrupted output into the clean forward pass: keep the activations of the clean one, "
        "and run the corrupted tokens": lambda: table(other(direction="noise")),
        "patched_head patched all heads of the layer: index the head, the third axis of z": whole_layers,
        "patched_head patched the last position only: a head works at all of them": lambda: table(
            other(positions=["END"])
        ),
        "patched_head is one head off: heads count from 0": lambda: table(every, aside=1),
        "patched_head is one head off, by head - 1": lambda: table(every, aside=-1),
        "patched_head is that of the corrupted prompt without a patch: does the hook change z and return it, and is it "
        "in fwd_hooks?": lambda: [every.corrupted.item()] * len(heads),
        "patched_head has the wrong sign: the right answer's logit minus the wrong one's": lambda: [
            -value for value in table(every)
        ],
    }
    got = [call(answer, model, task, i, layer, head) for layer, head in heads]
    where = f"prompt {i}, {head_names(heads)}"
    compare(got, table(every), likely, where, name="patched_head", rtol=2e-4)
    right("patched_head", where)


def pattern_and_values(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``pattern_and_values(model, pairs, layer, head)``: two effects, of where it looks and of what it reads.

    Args:
        answer: The student's function: (effect of the pattern, effect of the values), denoised at all positions. Heads
            that share their values have them patched together.
        model: Any.
        task: Any; its last four prompts are asked about.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs, layers = few(task), layers_of(model)
    heads = telling_heads(swept(model, pairs, "z", _CELLS, layers=layers), 2)
    for layer, head in heads:
        _pattern_and_values(answer, model, pairs, layer, head)
    right("pattern_and_values", f"{head_names(heads)}, {len(pairs)} prompts")


def _pattern_and_values(
    answer: Callable[..., Any], model: TransformerBridge, pairs: PromptPairs, layer: int, head: int
) -> None:
    site, name = SITES["v"], "pattern_and_values"
    n_kv_heads = site.n_heads(model)
    group = int(model.cfg.n_heads) // n_kv_heads

    def effect(site: str, index: int, how: Callable[..., Any] = effects, **more: Any) -> float:
        over = ("layer", SITES[site].head_axis(model))
        return float(how(swept(model, pairs, site, over, layers=[layer], heads=[index], **more)).squeeze())

    def parts(*how: Any, kv_head: int = head // group, **more: Any) -> list[float]:
        return [effect("pattern", head, *how, **more), effect("v", kv_head, *how, **more)]

    expected = parts()
    likely: dict[str, Any] = {
        f"{name} has the two the wrong way round: first the pattern's effect, then the values'": expected[::-1],
        f"{name} is the effect of the head's output z, twice: patch hook_pattern and hook_v": lambda: (
            [effect("z", head)] * 2
        ),
        f"{name} is of noising: put the clean activation into the corrupted forward pass": lambda: parts(
            direction="noise"
        ),
        f"{name} is a mean of ratios: take the means over the prompts first, then divide": lambda: parts(
            mean_of_ratios
        ),
        f"{name} is 1 - effect: 0 is the corrupted forward pass and 1 the clean one": [1 - x for x in expected],
    }
    if group > 1:
        sentence = f"{name} has the values of another head: several heads share one, so head h reads values h // group"
        likely[sentence] = lambda: parts(kv_head=min(head, n_kv_heads - 1))
    got = call(answer, model, pairs, layer, head)
    compare(got, expected, likely, head_name(layer, head), name=name)


def team_effect(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``team_effect(model, pairs, heads)``: noised together, and the sum of the heads' single effects.

    Args:
        answer: The student's function: (together, sum), both effects of noising ``z`` at all positions.
        model: Any.
        task: Any; its last four prompts are asked about, with a team that has two heads in one layer.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs, (low, high) = few(task), layers_of(model)
    single = swept(model, pairs, "z", _CELLS, direction="noise", layers=[low, high])
    two = telling_heads(single.sel(layer=[low]), 2)
    team: list[Head] = [*two, *telling_heads(single.sel(layer=[high]), 1)]
    effects(single)  # or there were nothing to divide by

    def together(heads: list[Head], direction: str = "noise") -> float:
        how = {"site": "z", "direction": direction, "metric": "logit_diff", "progress": False}
        return float(quietly(patch_set, model, pairs, heads, **how).effect.values.squeeze())

    def alone(direction: str = "noise") -> float:
        result = (
            single
            if direction == "noise"
            else swept(model, pairs, "z", _CELLS, direction=direction, layers=[low, high])
        )
        return sum(float(result.effect.sel(layer=layer, head=head)) for layer, head in team)

    expected = [together(team), alone()]
    likely = {
        "team_effect has the two the wrong way round: first together, then the sum": expected[::-1],
        "team_effect: together is the sum: patch all of them in one forward pass": [expected[1]] * 2,
        "team_effect patched one head of each layer only: a second hook or index of the same layer has replaced the "
        "first": lambda: [together([two[1], team[2]]), expected[1]],
        "team_effect patched one head of each layer only: the second head of a layer is missing": lambda: [
            together([two[0], team[2]]),
            expected[1],
        ],
        "team_effect patched the last head only: does each head have a hook, with its own layer and index? (a function "
        "made in a loop sees the loop's last value)": lambda: [together([team[2]]), expected[1]],
        "team_effect is of denoising: corrupt the team in the clean forward pass": lambda: [
            together(team, "denoise"),
            alone("denoise"),
        ],
        "team_effect is 1 - effect: noising counts what is lost, mean(clean - patched) / mean(clean - corrupted)": [
            1 - expected[0],
            len(team) - expected[1],
        ],
        "team_effect gives the mean of the single effects: add them": [expected[0], expected[1] / len(team)],
        "team_effect has the wrong sign: noising counts what is lost, clean - patched": [-value for value in expected],
    }
    compare(call(answer, model, pairs, team), expected, likely, head_names(team), name="team_effect")
    right("team_effect", f"{head_names(team)}, {len(pairs)} prompts")


def prompts_needed(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``prompts_needed(n_cells, alpha)``: with how many prompts one cell alone can stand out.

    Args:
        answer: The student's function: the least n with which p_adjusted (Benjamini and Hochberg) is below alpha where
            all n prompts agree, of one cell, and none of the other cells stands out.
        model: Any; its heads are counted.
        task: Any; not asked.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    n_heads = int(model.cfg.n_layers) * int(model.cfg.n_heads)
    asked = [(n_heads, 0.05), (1, 0.05), (n_heads, 0.001), (50, 0.01)]

    def least(n_cells: int, alpha: float, sides: int = 2) -> int:
        def adjusted(n: int) -> float:  # one cell with the smallest p-value that n prompts can give, the others with 1
            return float(false_discovery_control([sides / 2**n] + [1.0] * (n_cells - 1))[0])

        return next(n for n in count(1) if sides / 2**n <= 1 and adjusted(n) < alpha)

    expected = [least(*question) for question in asked]
    likely = {
        "prompts_needed has not corrected for the number of cells: one of n_cells has its smallest p-value times "
        "n_cells": [least(1, alpha) for _, alpha in asked],
        "prompts_needed counts one side only: a sign-flip test of n prompts gives 2 / 2**n at least": [
            least(*question, sides=1) for question in asked
        ],
        "prompts_needed is one too few: p must be below alpha": [n - 1 for n in expected],
        "prompts_needed is one too many: give the least number": [n + 1 for n in expected],
    }
    got = [call(answer, *question) for question in asked]
    compare(got, expected, likely, f"(n_cells, alpha) {asked}", name="prompts_needed", atol=1e-9, rtol=0)
    right("prompts_needed", f"(n_cells, alpha) {', '.join(map(str, asked))}")


def kind_of_pair(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``kind_of_pair(model, pairs, first, second)``: "OR", "AND" or "neither" of two heads.

    Args:
        answer: The student's function.
        model: Any; two hand-built ones are asked about instead, since their circuits are known.
        task: Any; its seed draws their prompts.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    seed = (task.seed or 0) + 1
    gates = {"OR": toys.or_gate(n_prompts=8, seed=seed), "AND": toys.and_gate(n_prompts=8, seed=seed)}
    asked = {
        "the OR": ("OR", gates["OR"], (0, 1), (1, 2)),
        "the AND": ("AND", gates["AND"], (0, 1), (1, 2)),
        "two heads of the OR that are in no circuit": ("neither", gates["OR"], (0, 0), (1, 3)),
        "a head of the AND and one that is in no circuit": ("neither", gates["AND"], (0, 1), (1, 0)),
    }
    got = {name: call(answer, toy.model, toy.task, *heads) for name, (_, toy, *heads) in asked.items()}
    expected = {name: kind for name, (kind, *_) in asked.items()}
    if got == expected:
        right("kind_of_pair", f"{', '.join(asked)}; seed {seed}")
        return
    swapped = {"OR": "AND", "AND": "OR", "neither": "neither"}
    if got == {name: swapped.get(kind) for name, kind in expected.items()}:
        raise CheckFailed(
            "kind_of_pair has OR and AND the wrong way round: of an OR each head is sufficient (denoising sees it) and "
            "neither is necessary"
        )
    if len(set(got.values())) == 1:
        raise CheckFailed(f"kind_of_pair says {next(iter(got.values()))!r} of every pair: look at both directions")
    wrong = next(name for name in asked if got[name] != expected[name])
    if wrong.startswith("a head"):
        raise CheckFailed(f"kind_of_pair says {got[wrong]!r} of {wrong}: only one of them matters, so ask that both do")
    hint = {
        "OR": "does denoising see each of them, and noising neither?",
        "AND": "does noising see each, denoising neither?",
    }
    said = hint.get(expected[wrong], "a pair that neither direction sees is no gate")
    raise CheckFailed(f"kind_of_pair says {got[wrong]!r} of {wrong}: {said}")
