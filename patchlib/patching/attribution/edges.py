"""What each edge between two parts of a model does for a metric: estimated from gradients, or patched one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_count, listed, shown
from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_forwards import EdgeForwards, EdgeGrid
from patchlib.patching.attribution.edge_gradients import RULES, check_readers, edge_scores, graph_tokens
from patchlib.patching.attribution.edge_graph import EdgeGraph, edge_graph
from patchlib.patching.attribution.gradients import no_graph_left
from patchlib.patching.batching import length_batches
from patchlib.patching.donors import resolve_donors
from patchlib.patching.experiment import Experiment, resolve_how
from patchlib.patching.metrics import resolve_metrics
from patchlib.patching.own_metrics import MetricFunction
from patchlib.patching.parts import Part, start
from patchlib.patching.sites import SITES
from patchlib.progress import progress_bar
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs

Method = Literal["eap", "eap-ig-inputs", "eap-ig-activations", "exact"]
EdgeNames = tuple[str, str]
"""(sender, receiver)."""


def attribute_edges(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    method: Method = "eap",
    over: Sequence[str] = (),
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
    *,
    steps: int = 5,
    rule: Literal["midpoint", "left", "right"] = "midpoint",
    edges: Sequence[EdgeNames] | None = None,
    source: Literal["other", "zero", "mean", "resample"] = "other",
    reference: PatchingDataset | PromptPairs | None = None,
    source_seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> xr.Dataset:
    """How much each edge moves the metric: what one sender writes, as one receiver alone reads it.

    Senders are the embedding (the stream that enters layer 0), heads and MLPs; receivers are the queries, keys and
    values of each head (of each k/v head, where heads share them), MLPs and the logits. An edge is patched where the
    receiver reads the base prompts' stream with this sender's output from the other prompts, and all others read what
    they read. The estimates are linear in that difference, and see nothing of what bends behind it (saturated
    attention, for one): check the largest of them with ``method="exact"`` and ``edges``.

    Args:
        model: As for ``sweep``, with weights that can be read and a stream that is the sum of what is written to it.
        task: As for ``sweep``.
        method: ``"eap"`` multiplies the sender's difference with the gradient by what the receiver reads, in the base
            run (Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery", section 3).
            ``"eap-ig-inputs"`` takes the mean of that gradient at ``steps`` points, at which the embedding is held
            between the two runs' (Hanna et al. 2024, "Have Faith in Faithfulness", section 3);
            ``"eap-ig-activations"`` at points at which the sender is held between what it gives in the two runs, with
            the other heads of its layer: that takes ``steps`` forward and backward passes for every layer's heads and
            for every MLP. ``"exact"`` patches one edge at a time.
        over: Empty, or one of ``"pos"`` and ``"role"``: the position at which the sender writes and the receiver reads.
        direction: ``"denoise"``: corrupted prompts are the base, and what is written comes from the clean ones;
            ``"noise"`` the other way around.
        metric: As for ``sweep``; all but ``"exact"`` need one with a gradient, which accuracy has not.
        steps: Points of integrated gradients.
        rule: Where in each of the equal steps from the base run to the other the gradient is taken. The authors' code
            (hannamw/EAP-IG) leaves out the base run for inputs, which is ``"right"``, and the other run for
            activations, which is ``"left"``. Its activations differ in more: each edge there gets the sum over all
            nodes that are held, its own sender or not, divided by their number.
        edges: (sender, receiver) as the result names them, the others are NaN; all when None. Exactly all of them are
            for small models: the default one has about 70,000.
        source, reference, source_seed: As for ``sweep``.
        batch_tokens: Tokens in one forward; those with a graph take an eighth.
        progress: As for ``sweep``.

    Returns:
        ``score``, dims ``metric``, ``sender``, ``receiver``, then ``pos`` or ``role``, ``example``: by how much the
        metric moves off the base prompts', in its own units, estimated or measured; NaN where there is no such edge.
        ``clean`` and ``corrupted`` (``metric``, ``example``) are unpatched. Coordinates: ``sender`` ("embed", "L0H0",
        "MLP0"), ``receiver`` ("q of L0H0", "k of L0KV0", "MLP0", "logits") and those of ``sweep``; attributes: those
        of ``sweep`` and ``method``, ``steps`` (gradients taken for an edge), ``rule``, ``n_layers``, ``n_heads``,
        ``n_kv_heads``, ``d_model`` and ``parallel``.

    Raises:
        SweepError: As ``sweep``; a metric or a model without a gradient, an unknown method or edge, a model in which a
            norm stands behind attention or MLP.
        TaskError: As ``sweep``.

    Example:
        The largest estimates: two heads that write the answer or against it, and an MLP that is read as values.
        Patched, the two edges to the logits do what was estimated, and the third four fifths of it:

        >>> result = patchlib.attribute_edges(model, task, progress=False)
        >>> table = patchlib.edge_table(result, top_k=3)
        >>> table.round(2)
          sender     receiver  score  share
        0  L23H3       logits   3.31   0.44
        1  L24H4       logits  -1.93  -0.26
        2   MLP0  v of L23KV1   1.81   0.24
        >>> edges = list(zip(table.sender, table.receiver))
        >>> exact = patchlib.attribute_edges(model, task, "exact", edges=edges, progress=False)
        >>> patchlib.edge_table(exact).round(2)
          sender     receiver  score  share
        0  L23H3       logits   3.32   0.44
        1  L24H4       logits  -1.91  -0.26
        2   MLP0  v of L23KV1   1.45   0.19
    """
    pairs = as_pairs(model, task)
    check_choice("method", method, get_args(Method))
    check_choice("rule", rule, RULES)
    steps = check_count("steps", steps)
    graph = edge_graph(model, patched=method == "exact")
    axes = _axes(pairs, over)
    chosen = _chosen(graph, edges)
    donors = resolve_donors(model, pairs, direction, source, reference, source_seed)
    metrics = resolve_metrics(metric, pairs)
    how = resolve_how(model, pairs, "auto", batch_tokens, None, progress, None)
    values: dict[str, list[Any]] = {
        "sender": list(map(str, graph.senders)),
        "receiver": list(map(str, graph.readers)),
        **axes,
    }
    grid = EdgeGrid(SITES["mlp_out"], values, list(range(graph.n_layers)), graph=graph, chosen=chosen)
    experiment = EdgeExperiment(model, pairs, grid, donors, metrics, how)
    n_gradients = {"eap": 1, "exact": 0}.get(method, steps)
    recorded = {"method": method, "steps": n_gradients, **({"rule": rule} if "ig" in method else {})}
    if method == "exact":
        result = experiment.measured()
    else:
        with no_graph_left(model):
            check_readers(model, graph)
            result = experiment.estimated(method, steps, rule)
    return result.assign_attrs({**recorded, **graph.attributes()})


@dataclass(frozen=True)
class EdgeExperiment(Experiment):
    """A sweep of edges."""

    grid: EdgeGrid

    def start_forwards(self, examples: list[int], *, plain: bool = False) -> EdgeForwards:
        """The forwards of some examples (of one length), ready for edges to be patched."""
        prompts, work, _ = self._work(examples, plain)
        return EdgeForwards(self.model, self.grid, prompts, work)

    def attributes(self) -> dict[str, str | int]:
        """What a result records of the sweep: edges are of no one site."""
        return {name: value for name, value in super().attributes().items() if name != "site"}

    def measured(self) -> xr.Dataset:
        """Every edge patched."""
        result = self.patched()
        base = result[self.donors.base_and_other[0]]
        return result.drop_vars("patched").assign(score=(result.patched - base).transpose(*result.patched.dims))

    def estimated(self, method: str, steps: int, rule: str) -> xr.Dataset:
        """Every edge's score from gradients."""
        pairs, graph = self.pairs, self.grid.graph
        result = self.empty_result().rename(patched="score").assign_attrs(self.attributes())
        size = graph_tokens(self.model, len(graph.senders), self.how.batch_tokens)
        with progress_bar(len(pairs), f"{self.donors.direction} edges", self.how.progress) as bar:
            for examples in length_batches(pairs, size):
                forwards, readout, unpatched = start(self, Part(examples))
                assert isinstance(forwards, EdgeForwards)
                result.clean.values[:, examples] = unpatched.clean
                result.corrupted.values[:, examples] = unpatched.corrupted
                named = self.grid.values.get("role")
                roles = None if named is None else torch.stack([readout.pairs.roles[role] for role in named], dim=1)
                scores = edge_scores(forwards, readout, method, steps, rule, roles, "pos" in self.grid.values)
                if not scores.isfinite().all():
                    raise SweepError("A gradient is not finite: load the model in float32, or look at the metric.")
                positions = {"pos": slice(forwards.n_pos), "role": slice(None)}  # prompts may have fewer than others
                there = [positions.get(axis, slice(None)) for axis in ("metric", *self.grid.values)]
                result.score.values[(*there, examples)] = scores.cpu().numpy()
                bar.update(len(examples))
        is_chosen = np.zeros(graph.exists.shape, dtype=bool)
        is_chosen[tuple(np.transpose(self.grid.chosen))] = True
        return result.assign(score=result.score.where(xr.DataArray(is_chosen, dims=("sender", "receiver"))))


def _axes(pairs: PromptPairs, over: Sequence[str]) -> dict[str, list[int | str]]:
    """The position axis that was asked for, if any."""
    axes: dict[str, list[int | str]] = {"pos": list(range(max(map(len, pairs.clean_tokens))))}
    if pairs.roles:
        axes["role"] = list(pairs.roles)
    asked = listed(over)
    for axis in asked:
        if not isinstance(axis, str) or axis not in axes:
            raise SweepError(f"Cannot attribute edges over {shown(axis)}: give none, or one of {', '.join(axes)}.")
    if len(asked) > 1:
        raise SweepError(f"over={tuple(asked)} names more than one axis: give one of {', '.join(axes)}.")
    return {axis: axes[axis] for axis in asked}


def _chosen(graph: EdgeGraph, edges: Sequence[EdgeNames] | None) -> list[tuple[int, int]]:
    """The edges that were asked for, by number; SweepError for one that there is not."""
    if edges is None:
        return [(int(sender), int(reader)) for sender, reader in np.argwhere(graph.exists)]
    senders = {str(sender): i for i, sender in enumerate(graph.senders)}
    readers = {str(reader): i for i, reader in enumerate(graph.readers)}
    chosen = []
    for edge in listed(edges):
        match listed(edge):
            case [str(sender), str(reader)] if sender in senders and reader in readers:
                chosen.append((senders[sender], readers[reader]))
                if graph.exists[chosen[-1]]:
                    continue
                why = f"{reader} reads the stream before {sender} writes to it"
            case _:
                why = f"give (sender, receiver), such as {('embed', str(graph.readers[0]))} or ('MLP0', 'logits')"
        raise SweepError(f"There is no edge {shown(edge)}: {why}.")
    if not chosen or len(set(chosen)) < len(chosen):
        raise SweepError(f"edges={shown(edges)} must name at least one edge, each once.")
    return chosen
