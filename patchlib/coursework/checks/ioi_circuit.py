"""Checks of 03: direct logit attribution, a path to the logits, copying, faithfulness by two protocols, three seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, head_name, head_names
from patchlib.circuits.ablation import Ablation
from patchlib.circuits.circuit import Circuit, HeadSet, everywhere
from patchlib.circuits.copying import copying_scores
from patchlib.circuits.criteria import faithfulness
from patchlib.circuits.heads import direct_logit_attribution
from patchlib.coursework.checks.library import effects, few, layers_of, mean_of_ratios, quietly, swept, telling_heads
from patchlib.coursework.compare import call, compare, right
from patchlib.patching.sweeps import path_patch
from patchlib.tasks.pairs import PromptPairs

_CELLS = ("layer", "head")


def logit_attribution(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``logit_attribution(model, pairs, i, layer, head)``: what a head writes towards the answer, in logits.

    Args:
        answer: The student's function.
        model: Any whose attribution patchlib can tell.
        task: Any; its last prompt is asked about, and all heads of two layers.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    i = len(task) - 1
    pair, layers = task.select([i]), layers_of(model)
    heads = [(layer, head) for layer in layers for head in range(int(model.cfg.n_heads))]

    def table(pairs: PromptPairs) -> list[float]:
        values = direct_logit_attribution(model, pairs).isel(example=0)
        return [float(values.sel(layer=layer, head=head)) for layer, head in heads]

    expected = table(pair)
    factor = direct_logit_attribution(model, pair).norm_factor.item()
    likely: dict[str, Any] = {
        "logit_attribution is that of the corrupted prompt: run the clean one": lambda: table(pair.reversed()),
        "logit_attribution is that of the corrupted prompt: run the clean tokens": lambda: [
            -value for value in table(pair.reversed())
        ],
        "logit_attribution has the wrong sign: the right answer's direction minus the wrong one's": [
            -value for value in expected
        ],
        "logit_attribution leaves out the final norm's scale: send what the head wrote through it": [
            value / factor for value in expected
        ],
        "logit_attribution is one head off: heads count from 0": lambda: _aside(
            expected, heads, int(model.cfg.n_heads)
        ),
    }
    got = [call(answer, model, task, i, layer, head) for layer, head in heads]
    where = f"prompt {i}, layers {layers}"
    compare(got, expected, likely, where, name="logit_attribution", rtol=5e-4)
    right("logit_attribution", where)


def _aside(values: Sequence[float], heads: Sequence[Head], n_heads: int) -> list[float]:
    by_head = dict(zip(heads, values, strict=True))
    return [by_head[layer, (head + 1) % n_heads] for layer, head in heads]


def path_to_logits(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``path_to_logits(model, pairs, layer, head)``: the effect of noising a head's direct paths to the logits.

    Args:
        answer: The student's function.
        model: Any.
        task: Any; its last four prompts are asked about, at the heads that move it most in two layers.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs, layers = few(task), layers_of(model)

    def paths(direction: str = "noise") -> Any:
        how = {"layers": layers, "metric": "logit_diff", "progress": False, "direction": direction}
        return quietly(path_patch, model, pairs, "logits", _CELLS, **how).isel(metric=0)

    result = paths()
    heads = [*telling_heads(result, 1), *telling_heads(result.sel(layer=layers[:1]), 2)]

    def table(values: Any) -> list[float]:
        return [float(values[layers.index(layer), head]) for layer, head in heads]

    expected = table(effects(result))
    likely = {
        "path_to_logits lets the other heads follow: hold every head but this one at its clean output": lambda: table(
            effects(swept(model, pairs, "z", _CELLS, direction="noise", layers=layers, positions=["END"]))
        ),
        "path_to_logits lets the other heads follow: hold every head but this one at its clean z": lambda: table(
            effects(swept(model, pairs, "z", _CELLS, direction="noise", layers=layers))
        ),
        "path_to_logits is of denoising: all is clean but for the sender, which is corrupted": lambda: table(
            effects(paths("denoise"))
        ),
        "path_to_logits has the wrong sign: noising counts what is lost, (clean - patched) / (clean - corrupted)": [
            -value for value in expected
        ],
        "path_to_logits is 1 - effect: it should be the share of the contrast that is lost": [
            1 - value for value in expected
        ],
        "path_to_logits is a mean of ratios: take the means over the prompts first, then divide": lambda: table(
            mean_of_ratios(result)
        ),
    }
    got = [call(answer, model, pairs, layer, head) for layer, head in heads]
    compare(got, expected, likely, head_names(heads), name="path_to_logits")
    right("path_to_logits", f"{head_names(heads)}, {len(pairs)} prompts")


def copying(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``copying(model, tokens, layer, head, top_k)``: the share of tokens that a head's OV circuit copies.

    Args:
        answer: The student's function.
        model: Any whose copying patchlib can tell.
        task: Any; its answers are the tokens.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    tokens: Any = torch.tensor(sorted(set(task.answers.flatten().tolist())))
    d_vocab = int(model.cfg.d_vocab)
    asked = sorted({5, max(1, d_vocab // 5)})  # the second, so that heads differ in a model that copies nothing
    heads = [(layer, head) for layer in layers_of(model) for head in range(min(4, int(model.cfg.n_heads)))]
    # A head that writes nothing that the unembedding reads ties all logits, of which `topk` takes any: only where there
    # are no ties are some tokens not the last of all.
    written = copying_scores(model, tokens, heads, max(1, d_vocab - 1)).copying
    heads = [(layer, head) for layer, head in heads if float(written.sel(layer=layer, head=head)) > 0]

    def table(name: str = "copying", top_k: int | None = None) -> list[float]:
        scores = [copying_scores(model, tokens, heads, top_k or k)[name] for k in asked]
        return [float(score.sel(layer=layer, head=head)) for score in scores for layer, head in heads]

    expected = table()
    likely = {
        "copying counts the tokens that are lowest, which is suppressing: copied ones are among the highest": lambda: (
            table("suppressing")
        ),
        "copying counts the highest logit only: a token is copied where it is among the top_k": lambda: table(top_k=1),
        "copying always takes the first five: use top_k": lambda: table(top_k=5),
        "copying is the share of tokens that are not copied": [1 - value for value in expected],
        "copying is a number of tokens and not their share": [value * len(tokens) for value in expected],
    }
    got = [call(answer, model, tokens, layer, head, top_k) for top_k in asked for layer, head in heads]
    where = f"{len(tokens)} tokens, top_k {asked}, {head_names(heads)}"
    compare(got, expected, likely, where, name="copying", atol=1e-6)
    right("copying", where)


def two_protocols(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``two_protocols(ablation, circuit)``: faithfulness without and with the floor subtracted.

    Args:
        answer: The student's function: (m(C) / m(M), (m(C) - m(F)) / (m(M) - m(F))).
        model: Any.
        task: Any; its last four prompts are asked about, their heads replaced by a mean, and by zeros.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs = few(task)
    top = telling_heads(swept(model, pairs, "z", _CELLS, layers=layers_of(model)), 3)
    circuit = Circuit({"some": top})
    for source in ("mean", "zero"):
        ablation = quietly(Ablation, model, pairs, source=source)
        result = quietly(faithfulness, ablation, circuit)
        expected = [result.faithfulness, result.above_floor]
        sets = [HeadSet(circuit.head_positions(), keep=True), HeadSet({}, keep=False), HeadSet({}, keep=True)]
        alone, whole, floor = ablation.measure(sets).astype(np.float64)  # [example]
        without = ablation.measure([HeadSet(everywhere(top), keep=False)]).astype(np.float64).mean()
        m_whole, m_floor = whole.mean(), floor.mean()
        likely = {
            "two_protocols has the two the wrong way round: first m(C) / m(M), then the one above the floor": expected[
                ::-1
            ],
            "two_protocols has knocked out the circuit: keep its heads and knock out all others (keep=True)": [
                without / m_whole,
                (without - m_floor) / (m_whole - m_floor),
            ],
            "two_protocols is a mean of ratios: take each mean over the prompts first, then divide": [
                (alone / whole).mean(),
                ((alone - floor) / (whole - floor)).mean(),
            ],
            "two_protocols subtracts no floor: m(F) is the metric with every head knocked out": [expected[0]] * 2,
            "two_protocols takes the whole model for the floor, or the floor for the whole model": [
                alone.mean() / m_floor,
                (alone.mean() - m_whole) / (m_floor - m_whole),
            ],
            "two_protocols subtracts the floor above the line only": [
                expected[0],
                (alone.mean() - m_floor) / m_whole,
            ],
        }
        where = f"{head_names(top)}, others replaced by {source}"
        compare(call(answer, ablation, circuit), expected, likely, where, name="two_protocols")
    right("two_protocols", f"{head_names(top)}, others replaced by a mean and by zeros")


def survivors(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``survivors(model, tasks, n_top, layers)``: heads among the n_top largest in size in each of some tasks.

    Args:
        answer: The student's function: a set of (layer, head), by the effect of denoising z.
        model: Any.
        task: Any; its parts are the tasks.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    n = len(task)
    tasks = [task.select(range(start, n, 2)) for start in (0, 1)] + [few(task)]
    layers = layers_of(model)
    results = [effects(swept(model, pairs, "z", _CELLS, layers=layers)) for pairs in tasks]

    def top(values: Any, n_top: int, sizes: bool = True) -> set[Head]:
        order = np.argsort(-(np.abs(values) if sizes else values).ravel(), kind="stable")[:n_top]
        rows, heads = np.unravel_index(order, values.shape)
        return {(layers[int(row)], int(head)) for row, head in zip(rows, heads, strict=True)}

    def wrong(n_top: int) -> int:
        """How many of the mistakes below go unseen with this many heads."""
        by_size, signed = ([top(values, n_top, sizes) for values in results] for sizes in (True, False))
        survive = set.intersection(*by_size)
        others = (set.union(*by_size), by_size[0], by_size[-1], set.intersection(*signed), set[Head]())
        return sum(survive == other for other in others)

    n_top = min(range(2, max(3, results[0].size // 2)), key=wrong)
    tops = [top(values, n_top) for values in results]
    expected = set.intersection(*tops)
    likely = {
        "survivors gives the heads of any of the tasks: a head survives that is found in each": set.union(*tops),
        "survivors gives the heads of the first task only": tops[0],
        "survivors gives the heads of the last task only": tops[-1],
        "survivors ranks by the effect: rank by its size, or negative heads are lost": set.intersection(
            *(top(values, n_top, sizes=False) for values in results)
        ),
        "survivors ranks the mean effect over the tasks: ask each task by itself": top(np.mean(results, axis=0), n_top),
    }
    got = call(answer, model, tasks, n_top, layers)
    got = {(int(layer), int(head)) for layer, head in got}
    where = f"{len(tasks)} tasks, the first {n_top} of layers {layers}"
    compare(got, expected, likely, where, name="survivors")
    right("survivors", f"{where}: {', '.join(head_name(*head) for head in sorted(expected)) or 'none'}")
