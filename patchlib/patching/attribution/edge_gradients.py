"""What every edge would do, from the gradient of the metric with respect to the stream as each receiver reads it.

Edge attribution patching (Syed et al. 2023, section 3): the effect of an edge is close to what its sender writes
differently in the other run, times the gradient of the metric by the stream that its receiver alone reads. One forward
and one backward pass give it for all edges. With integrated gradients (Hanna et al. 2024, "Have Faith in
Faithfulness", section 3) the gradient is a mean over points between the two runs.
"""

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_forwards import EdgeForwards, EdgeGrid
from patchlib.patching.attribution.edge_graph import EdgeGraph, Reader, refuse
from patchlib.patching.budget import default_logit_bytes, is_out_of_memory
from patchlib.patching.donors import PromptBatch
from patchlib.patching.metrics import Readout
from patchlib.patching.probes import alike, asked_once, probe_tokens
from patchlib.patching.shortcuts import brief_of
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import UNEMBED_LAST, Hooks, Work

GRAPH = 8
"""How much more memory a forward takes that keeps what a backward pass needs."""
MEND = (
    "take one made of the logits by differentiable functions of torch, such as logit_diff, prob or kl, or use "
    "method='exact'"
)
RULES = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
"""Where in each of the equal steps from the base run to the other the gradient is taken."""


def graph_tokens(model: TransformerBridge, n_senders: int, batch_tokens: int) -> int:
    """Tokens in one forward with its graph, beside which there is what each sender writes at each of them."""
    return max(1, min(batch_tokens // GRAPH, default_logit_bytes(model) // (4 * n_senders * int(model.cfg.d_model))))


class Point(NamedTuple):
    """Where a gradient is taken.

    Attributes:
        site: Senders of this site, in this layer, are held on the way to the other run.
        layer: The layer.
        share: Of the way.
        weight: Of the gradient in the mean.
    """

    site: str
    layer: int
    share: float
    weight: float


def points(forwards: EdgeForwards, method: str, steps: int, rule: str) -> Iterator[tuple[Point, slice]]:
    """Where a method takes gradients, and the senders whose edges they are for."""
    senders = forwards.graph.senders
    if method == "eap":
        yield Point("resid_pre", 0, 0.0, 1.0), slice(0, len(senders))
        return
    shares = [(step + RULES[rule]) / steps for step in range(steps)]
    if method == "eap-ig-inputs":
        for share in shares:
            yield Point("resid_pre", 0, share, 1 / steps), slice(0, len(senders))
        return
    first = 0
    for (site, layer), group in groupby(senders, key=lambda sender: (sender.site, sender.layer)):
        last = first + len(list(group))
        for share in shares:
            yield Point(site, layer, share, 1 / steps), slice(first, last)
        first = last


def edge_scores(
    forwards: EdgeForwards, readout: Readout, method: str, steps: int, rule: str, roles: Tensor | None, by_pos: bool
) -> Float[Tensor, "metric sender receiver *pos example"]:
    """The estimate for every pair of a sender and a receiver; of pairs that are no edge it is 0.

    Args:
        forwards: The unpatched forwards of some prompts.
        readout: Their metrics.
        method, steps, rule: As for ``attribute_edges``.
        roles: ``[example role]``, the positions that are wanted, if some are.
        by_pos: Whether all positions are wanted one by one; else their sum.
    """
    graph = forwards.graph

    def wanted(rows: Float[Tensor, "example row window d_model"]) -> Float[Tensor, "example row *pos d"]:
        """The positions that are wanted, one by one, or all in one long row."""
        if roles is None:
            return rows if by_pos else rows.flatten(2)[:, :, None]  # [example row 1 window*d_model]
        at = (roles - forwards.start).to(rows.device)
        known = rows.gather(2, at.clamp(min=0)[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[3]))
        return known * (at >= 0)[:, None, :, None]  # before the window the two runs are alike

    differences = torch.stack([forwards.difference(sender) for sender in graph.senders], dim=1)
    differences = wanted(differences).transpose(1, 2)  # [example pos sender d]
    sizes = len(readout.metrics), len(graph.senders), len(graph.readers), differences.shape[1], len(differences)
    scores = torch.zeros(sizes, device=differences.device)
    for point, rows in points(forwards, method, steps, rule):
        for metric, columns, gradient in stream_gradients(forwards, readout, point):
            n_read = graph.n_read(graph.readers[columns.start])
            read = slice(rows.start, min(rows.stop, n_read))
            if read.start < read.stop:
                by_reader = wanted(gradient.float().transpose(0, 1)).permute(0, 2, 3, 1)  # [example pos d reader]
                products = differences[:, :, read] @ by_reader  # [example pos sender reader]
                scores[metric, read, columns] += point.weight * products.permute(2, 3, 1, 0)
    if not by_pos and roles is None:
        return scores[..., 0, :]
    if by_pos and forwards.start:
        scores = torch.nn.functional.pad(scores, (0, 0, forwards.start, 0))
    return scores


def stream_gradients(
    forwards: EdgeForwards, readout: Readout, point: Point
) -> Iterator[tuple[int, slice, Float[Tensor, "reader example window d_model"]]]:
    """The gradient of each metric by the stream as each receiver alone reads it: metric, receivers, gradient.

    Receivers come some at a time. Those that do not follow what is held are left out.

    Raises:
        SweepError: The model or a metric gives no gradient, or memory runs out.
    """
    model, graph = forwards.model, forwards.graph
    try:
        with torch.enable_grad():
            kept, logits = _forward_with_graph(forwards, point)
            # Prompts do not mix, so that the gradient of the sum is each prompt's own. Summed here, since users turn
            # gradients off, and what is made of the values outside has none.
            sums = [readout.differentiable(name, logits[None])[0].sum() for name in readout.metrics]
        for number, of_metric in enumerate(sums):
            for columns, gradient in _by_readers(graph, kept, of_metric):
                yield number, columns, gradient
    except RuntimeError as error:
        if is_out_of_memory(error):
            mend = "Give fewer tokens at a time (batch_tokens)."
            raise SweepError(f"Memory ran out in a backward pass of {forwards.n_examples} prompts. {mend}") from error
        why = f"{model.cfg.model_name} gives no gradient ({brief_of(error)})"
        raise SweepError(f"{why}: load it without quantization, or use method='exact'.") from error


def _forward_with_graph(
    forwards: EdgeForwards, point: Point
) -> tuple[dict[str, Tensor], Float[Tensor, "example read read_vocab"]]:
    """What every receiver reads and makes of it, and the logits, with the graph from what is held on."""
    graph = forwards.graph
    held = SITES[point.site].hook_name(point.layer)
    kept: dict[str, Tensor] = {}

    def hold(activation: Tensor, hook: Any) -> Tensor:
        # The weights are frozen: this is what the graph begins at.
        kept[held] = forwards.between(held, point.share).to(activation).detach().requires_grad_()
        return kept[held]

    def keep(activation: Tensor, hook: Any, name: str) -> Tensor:
        # Returned, because TransformerLens may have converted it: what is kept has to be what the model goes on from.
        kept[name] = activation
        return activation

    readers = [reader for reader in graph.readers if reader.layer >= point.layer]
    names = {SITES[reader.site].hook_name(reader.layer) for reader in readers} | set(map(graph.read_hook, readers))
    hooks: Hooks = [(held, hold), *((name, partial(keep, name=name)) for name in sorted(names - {held}))]
    if forwards.reads.last_only and not forwards.fast:
        hooks.append(UNEMBED_LAST)
    logits = forwards._resume(hooks, 1, point.layer, forwards.start)
    return kept, forwards._read_from(forwards.start, logits, 1)[0]


def _by_readers(
    graph: EdgeGraph, kept: dict[str, Tensor], scalar: Float[Tensor, ""]
) -> Iterator[tuple[slice, Float[Tensor, "reader example window d_model"]]]:
    """The gradient of a scalar by the stream as each receiver alone reads it, receivers of one kind at a time."""
    made = {(reader.site, reader.layer): SITES[reader.site].hook_name(reader.layer) for reader in graph.readers}
    # What is held follows nothing, and nothing below it does.
    given = [name for name in made.values() if name in kept and kept[name].grad_fn is not None]
    gradients = torch.autograd.grad(scalar, [kept[name] for name in given], retain_graph=True, allow_unused=True)
    by_name = dict(zip(given, gradients, strict=True))
    first = 0
    for key, group in groupby(graph.readers, key=lambda reader: (reader.site, reader.layer)):
        readers = list(group)
        columns, first = slice(first, first + len(readers)), first + len(readers)
        if (gradient := by_name.get(made[key])) is not None:
            yield columns, _pulled_back(kept, readers, graph.read_hook(readers[0]), gradient)


def _pulled_back(
    kept: dict[str, Tensor], readers: list[Reader], read: str, gradient: Float[Tensor, "example window *made"]
) -> Float[Tensor, "reader example window d_model"]:
    """From the gradient by what receivers of one kind make, to that by the stream that each of them reads alone."""
    reader, made = readers[0], kept[SITES[readers[0].site].hook_name(readers[0].layer)]
    if reader.site == "final":
        return gradient[None]
    if reader.head is None:
        return torch.stack(torch.autograd.grad(made, kept[read], gradient, retain_graph=True))
    rows = gradient.new_zeros(len(readers), *gradient.shape)  # [reader example window head d_head]
    for row, reader in zip(rows, readers, strict=True):  # of one head alone: the others' are of other receivers
        row[:, :, reader.head] = gradient[:, :, reader.head]
    try:  # all heads at once: apart, the calls take longer than the work
        (pulled,) = torch.autograd.grad(made, kept[read], rows, retain_graph=True, is_grads_batched=True)
    except RuntimeError as error:  # a step that torch cannot take for several gradients at once
        if is_out_of_memory(error):
            raise
        pulled = torch.cat([torch.stack(torch.autograd.grad(made, kept[read], row, retain_graph=True)) for row in rows])
    return pulled


def check_readers(model: TransformerBridge, graph: EdgeGraph) -> None:
    """SweepError unless all that the metric hears of the first stream it hears through the receivers."""
    if not _readers_are_all(model, graph):
        refuse(model, "its stream is read by more than its heads' q, k and v, its MLPs and its logits")


@asked_once
def _readers_are_all(model: TransformerBridge, graph: EdgeGraph) -> bool:
    base, other = (row[None] for row in probe_tokens(model))
    grid = EdgeGrid(SITES["mlp_out"], {}, list(range(graph.n_layers)), graph=graph, chosen=[])
    forwards = EdgeForwards(model, grid, PromptBatch(base, other), Work(fast=False))
    with torch.enable_grad():
        kept, logits = _forward_with_graph(forwards, Point("resid_pre", 0, 0.0, 1.0))
        scalar = logits.square().sum()
    (whole,) = torch.autograd.grad(scalar, kept[SITES["resid_pre"].hook_name(0)], retain_graph=True)
    parts = [gradient.sum(0) for _, gradient in _by_readers(graph, kept, scalar)]
    return alike(torch.stack(parts).sum(0), whole)
