"""Checks of 05: a gradient by hand, the score of an edge, a circuit's curve, and gradients integrated by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, head_name, head_names
from patchlib.circuits.curves import faithfulness_curve
from patchlib.circuits.edge_ablation import EdgeAblation
from patchlib.circuits.edge_circuits import edge_circuit
from patchlib.coursework.checks.gradients import along, edge_parts, slopes_of
from patchlib.coursework.checks.library import few, layers_of, quietly, swept
from patchlib.coursework.compare import call, compare, right
from patchlib.patching.attribution.attribute import attribute
from patchlib.patching.attribution.edge_table import edge_table
from patchlib.patching.attribution.edges import attribute_edges
from patchlib.patching.sites import SITES
from patchlib.patching.sweeps import baseline
from patchlib.stats import moved_and_possible
from patchlib.tasks.pairs import PromptPairs

N_PROMPTS = 3
SHARES = [0.02, 0.2, 0.6]
"""Of all edges, in the circuits whose faithfulness is asked for."""
STEPS = 3


def gradient_effect(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``gradient_effect(model, pairs, layer, head)`` for the two heads that move the metric most.

    Args:
        answer: The student's function.
        model: Any whose logits have a gradient.
        task: Any; its last prompts are asked about.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs, over = few(task, N_PROMPTS), ("layer", "head")
    estimated = quietly(attribute, model, pairs, "z", over, metric="logit_diff", progress=False)
    shares: Any = _shares(estimated).to_series()
    heads: list[Head] = [(int(layer), int(head)) for layer, head in abs(shares).nlargest(2).index]
    expected, apart = np.array([shares[head] for head in heads]), _apart(model, pairs)

    @functools.cache
    def slopes(layer: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        return list(slopes_of(model, pairs, SITES["z"].hook_name(layer)))

    def scores(
        at: int = 0, whole_layer: bool = False, positions: slice = slice(None)
    ) -> Float[np.ndarray, "head example"]:
        """By gradients at the corrupted prompts (0) or at the clean ones (1), of one head of each layer or of all."""
        rows = []
        for layer, own in heads:
            products = [(prompt[at] * prompt[2])[positions] for prompt in slopes(layer)]  # [pos head d_head]
            chosen = slice(None) if whole_layer else slice(own, own + 1)
            rows.append([product[:, chosen].sum().item() for product in products])
        return np.array(rows)

    def exact() -> list[float]:
        return [_shares(_swept(model, pairs, "z", over, layers=[one], heads=[head])).item() for one, head in heads]

    likely = {
        "gradient_effect has the wrong sign: the change is clean minus corrupted": -expected,
        "gradient_effect is what PATCHING the head gives: here a gradient is wanted": exact,
        "gradient_effect takes the gradient at the clean prompts: take it at the corrupted ones": (
            lambda: scores(1).mean(1) / apart.mean()
        ),
        "gradient_effect is that of all heads of the layer: take one, [:, :, head]": lambda: (
            scores(whole_layer=True).mean(1) / apart.mean()
        ),
        "gradient_effect is that of the last position alone: sum over all positions": lambda: (
            scores(positions=slice(-1, None)).mean(1) / apart.mean()
        ),
        "gradient_effect is in logits: divide by how far clean and corrupted are apart": expected * apart.mean(),
        "gradient_effect is a sum over prompts, in logits: take means, and divide": expected * apart.sum(),
        "gradient_effect is a sum over prompts above the line and a mean below it": expected * len(pairs),
        "gradient_effect is a mean of ratios, which one prompt of little contrast spoils: take both means over the "
        "prompts first, then divide": lambda: (scores() / apart).mean(1),
    }
    got = [call(answer, model, pairs, *head) for head in heads]
    where = f"{head_names(heads)}, {len(pairs)} prompts"
    compare(got, expected, likely, where, name="gradient_effect", atol=1e-4)
    right("gradient_effect", where)


def edge_score(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``edge_score(model, pairs, sender, reader)`` for the two largest edges from a head to an MLP.

    Args:
        answer: The student's function.
        model: One whose edges can be told (``attribute_edges``), with a stream between attention and MLP.
        task: Any; its last prompts are asked about.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs = few(task, N_PROMPTS)
    scored = quietly(attribute_edges, model, pairs, "eap", metric="logit_diff", progress=False)
    table: Any = edge_table(scored, None)
    largest = table[table.sender.str.contains("H") & table.receiver.str.startswith("MLP")].head(2)
    edges = [(_head(row.sender), int(row.receiver.removeprefix("MLP"))) for row in largest.itertuples()]
    expected, apart = largest.score.to_numpy(), _apart(model, pairs)

    @functools.cache
    def parts() -> dict[str, Float[np.ndarray, " edge"]]:
        rows = [edge_parts(model, pairs, sender, reader) for sender, reader in edges]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    likely = {
        "edge_score has the wrong sign: the change is clean minus corrupted": -expected,
        "edge_score takes the gradient by the whole stream, which later layers read too: go back from hook_mlp_out, "
        "through this MLP alone": lambda: parts()["stream"],
        "edge_score takes the gradient by what the MLP WRITES: go one step further back, to what it reads": lambda: (
            parts()["output"]
        ),
        "edge_score is what goes PAST the MLP: the whole stream's gradient without what goes through it": lambda: (
            parts()["stream"] - expected
        ),
        "edge_score takes the gradient at the clean prompts: take it at the corrupted ones": lambda: parts()[
            "at clean"
        ],
        "edge_score is that of all heads of the layer: take one head's z, and its W_O": lambda: parts()["layer"],
        "edge_score is that of the last position alone: sum over all positions": lambda: parts()["last"],
        "edge_score is a sum over prompts: take the mean": expected * len(pairs),
        "edge_score is a share of the contrast: leave it in logits": expected / apart.mean(),
    }
    got = [call(answer, model, pairs, sender, reader) for sender, reader in edges]
    where = f"{' and '.join(f'{head_name(*sender)} to MLP{reader}' for sender, reader in edges)}, {len(pairs)} prompts"
    compare(got, expected, likely, where, name="edge_score", atol=1e-4)
    right("edge_score", where)


def curve(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``curve(ablation, scores, shares)``, ``[share]``, with scores of gradients.

    Args:
        answer: The student's function.
        model: One whose edges can be told (``attribute_edges``).
        task: Any; its last prompts are asked about.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs = few(task, N_PROMPTS)
    scores = quietly(attribute_edges, model, pairs, "eap", metric="logit_diff", progress=False)
    ablation = EdgeAblation(model, pairs)
    table = faithfulness_curve(ablation, scores, shares=SHARES, nodes=False, n_random=0, complement=False).table
    expected, every = table[table.ranking == "magnitude"].faithfulness.to_numpy(), ablation.graph.exists
    sizes = [max(1, int(share * every.sum())) for share in SHARES]

    @functools.cache
    def measured(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of circuits ``[share example]``, of the whole model and of no edge ``[example]``."""
        ranking: Any = "signed" if kind == "signed" else "magnitude"
        kept = [edge_circuit(scores, size, ranking=ranking).values for size in sizes]
        sets = [every & ~edges for edges in kept] if kind == "left" else kept
        values = ablation.measure([*sets, every, every & False]).astype(np.float64)
        return values[:-2], values[-2], values[-1]

    def ratios(kind: str) -> np.ndarray:
        circuits, whole, floor = measured(kind)
        shares: np.ndarray = (circuits - floor).mean(1) / (whole - floor).mean()
        return shares

    def made(of: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: of(*measured("right"))

    likely = {
        "curve ranks edges by their signed score: a large negative one is large too": lambda: ratios("signed"),
        "curve measures what is LEFT without the circuit: keep its edges, and cut the others": lambda: ratios("left"),
        "curve is 0 everywhere: does it keep the smallest edges, or none?": np.zeros(len(SHARES)),
        "curve lacks the floor: with no edge the metric is not 0, so subtract it above and below the line": made(
            lambda circuits, whole, floor: circuits.mean(1) / whole.mean()
        ),
        "curve subtracts the floor above the line and not below it": made(
            lambda circuits, whole, floor: (circuits - floor).mean(1) / whole.mean()
        ),
        "curve is a mean of ratios, which one prompt of little contrast spoils: take means over the prompts "
        "first, then divide": made(lambda circuits, whole, floor: ((circuits - floor) / (whole - floor)).mean(1)),
        "curve is 1 - faithfulness: 1 is the whole model, and 0 no edge": 1 - expected,
        "curve is the metric itself, and no share of the whole model's yet": made(
            lambda circuits, whole, floor: circuits.mean(1)
        ),
    }
    where = f"{', '.join(f'{share:.0%}' for share in SHARES)} of {every.sum()} edges, {len(pairs)} prompts"
    compare(call(answer, ablation, scores, list(SHARES)), expected, likely, where, name="curve")
    right("curve", where)


def midpoint_effect(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``midpoint_effect(model, pairs, layer, steps)`` of two layers' MLPs against integrated gradients.

    Args:
        answer: The student's function.
        model: Any whose logits have a gradient.
        task: Any; its last prompts are asked about.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    pairs, layers = few(task, N_PROMPTS), layers_of(model)
    how: dict[str, Any] = {"method": "integrated", "steps": STEPS, "along": "activations", "layers": layers}
    integrated = quietly(attribute, model, pairs, "mlp_out", ("layer",), metric="logit_diff", progress=False, **how)
    expected, apart = _shares(integrated).values, _apart(model, pairs).mean()

    def at(shares: Sequence[float]) -> Callable[[], list[float]]:
        return lambda: [along(model, pairs, SITES["mlp_out"].hook_name(layer), shares) / apart for layer in layers]

    likely = {
        "midpoint_effect has the wrong sign: the way leads from corrupted to clean": -expected,
        "midpoint_effect takes gradients at the beginning of each step: take its middle": at(
            [step / STEPS for step in range(STEPS)]
        ),
        "midpoint_effect takes gradients at the end of each step: take its middle": at(
            [(step + 1) / STEPS for step in range(STEPS)]
        ),
        "midpoint_effect takes gradients from one end of the way to the other (linspace(0, 1)): take the middle of "
        "each step": at([step / (STEPS - 1) for step in range(STEPS)]),
        "midpoint_effect is the gradient at the corrupted prompt alone": at([0.0]),
        "midpoint_effect is the gradient in the middle of the whole way, whatever the steps": at([0.5]),
        "midpoint_effect is the sum of the gradients: take their mean": expected * STEPS,
        "midpoint_effect is in logits: divide by how far clean and corrupted are apart": expected * apart,
        "midpoint_effect is what PATCHING gives: here gradients are wanted": lambda: (
            _shares(_swept(model, pairs, "mlp_out", ("layer",), layers=layers)).values
        ),
    }
    got = [call(answer, model, pairs, layer, STEPS) for layer in layers]
    where = f"layers {' and '.join(map(str, layers))} in {STEPS} steps, {len(pairs)} prompts"
    compare(got, expected, likely, where, name="midpoint_effect", atol=1e-4)
    right("midpoint_effect", where)


def _shares(result: xr.Dataset) -> xr.DataArray:
    """Ratios of means, of the first metric; also where a random model's contrast is none to divide by in earnest."""
    moved, possible = (part.isel(metric=0, drop=True).mean("example") for part in moved_and_possible(result))
    return moved.reset_coords(drop=True) / float(possible)


def _swept(model: TransformerBridge, pairs: PromptPairs, site: str, over: Sequence[str], **how: Any) -> xr.Dataset:
    return swept(model, pairs, site, over, **how).expand_dims("metric")


def _apart(model: TransformerBridge, pairs: PromptPairs) -> Float[np.ndarray, " example"]:
    unpatched = quietly(baseline, model, pairs, metric="logit_diff").isel(metric=0)
    apart: Float[np.ndarray, " example"] = (unpatched.clean - unpatched.corrupted).values.astype(np.float64)
    return apart


def _head(name: str) -> Head:
    layer, head = name.removeprefix("L").split("H")
    return int(layer), int(head)
