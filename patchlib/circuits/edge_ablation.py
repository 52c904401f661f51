"""The model with some of its edges cut, many sets at once: what a circuit of edges is tested with."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_seed, first_line, listed
from patchlib.circuits.cut_forwards import CutForwards, is_whole
from patchlib.circuits.edge_circuits import pruned
from patchlib.circuits.reference import like_prompts, reference_of, said_of
from patchlib.circuits.writing import check_weights
from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_graph import edge_graph
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import check_batch_tokens
from patchlib.patching.donors import SOURCES, PromptBatch
from patchlib.patching.metrics import METRICS, Readout, Reads
from patchlib.patching.selfcheck import fast_obstacle
from patchlib.patching.unpatched import Work
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs

HELD_BYTES = 256 * 2**20
"""Of what senders write differently, in one forward."""
ABOUT = {"other": "the corrupted prompt", "zero": "zeros"}


class EdgeAblation:
    """A task's clean forward passes with edges cut.

    Args:
        model: In eval mode; one whose edges can be told (``attribute_edges``).
        task: Its clean prompts are run.
        source: What a cut edge's sender is taken to write: ``"other"``, what it writes on the corrupted prompt;
            ``"mean"`` over the reference prompts of the same template (``PromptPairs.groups``) and length, position by
            position; ``"resample"``, on one of them, drawn for each prompt; ``"zero"``.
        reference: The task whose clean prompts ``"mean"`` and ``"resample"`` take; this task's own corrupted prompts
            when None, as for ``Ablation``.
        seed: Of the draw for ``"resample"``.
        metric: A name in ``patchlib.METRICS``.
        batch_tokens: Tokens in one forward; what suits the device when None.

    Attributes:
        graph: The model's edges.
        pairs: The task's prompts.
        source, stands_in: What stands in for what is cut, and the same in words.
        protocol: In words what a number depends on.

    Raises:
        SweepError: As ``attribute_edges``; an unknown source or metric, no reference prompt of some template.

    Example:
        With no edge cut it is the model, with every edge cut what it makes of the corrupted prompts:

        >>> ablation = patchlib.EdgeAblation(model, task)
        >>> every, none = ablation.graph.exists, ablation.graph.exists & False
        >>> ablation.measure([every, none]).mean(axis=1).round(1)  # mean logit difference over prompts
        array([ 4.4, -3.1], dtype=float32)
    """

    def __init__(
        self,
        model: TransformerBridge,
        task: PatchingDataset | PromptPairs,
        *,
        source: str = "other",
        reference: PatchingDataset | PromptPairs | None = None,
        seed: int = 0,
        metric: str = "logit_diff",
        batch_tokens: int | None = None,
    ) -> None:
        self.pairs = as_pairs(model, task)
        self.model, self.graph = model, edge_graph(model, patched=True)
        check_weights(model, range(self.graph.n_layers), "an ablation of edges")
        self.metric, self.source = check_choice("metric", metric, METRICS), check_choice("source", source, SOURCES)
        self._seed, self._batch_tokens = check_seed(seed), check_batch_tokens(model, batch_tokens)
        if source in ABOUT and reference is not None:
            raise SweepError(f"source={source!r} takes nothing from a reference: use source='mean' or 'resample'.")
        self._reference = reference_of(model, task, reference)
        self._like = None if source in ABOUT else like_prompts(self.pairs, self._reference)
        self.stands_in = ABOUT[source] if self._like is None else said_of(source, self._like, self._reference)
        self.protocol = self.said_of(self.stands_in)
        if not is_whole(model, self.graph):
            raise SweepError(f"{model.cfg.model_name} cannot be run with edges cut: its MLPs read what no hook shows.")

    def said_of(self, stands_in: str) -> str:
        """The protocol, with some words for what stands in."""
        return (
            f"{self.metric}, mean over n = {len(self.pairs)} prompts of {self.pairs.name!r}; edges cut, whose senders' "
            f"outputs are those of: {stands_in}; model {self.model.cfg.model_name}"
        )

    def measure(self, kept: Sequence[Bool[np.ndarray, "sender receiver"]]) -> Float[np.ndarray, "set example"]:
        """The metric of each prompt with all edges cut but those that are True, for each set of edges.

        Raises:
            SweepError: Sets of another shape than the graph's or of numbers, or logits that are not finite.
        """
        shape = self.graph.exists.shape
        mend = f"give a list of what edge_circuit returned, True or False for each of {list(shape)}"
        try:
            given = [np.asarray(edges) for edges in listed(kept)]
        except (TypeError, ValueError, RuntimeError) as error:  # rows of many lengths, a tensor that has a gradient
            raise SweepError(f"The sets of edges are no arrays ({first_line(error)}): {mend}.") from error
        if not given:
            raise SweepError(f"There is nothing to measure: {mend}.")
        if wrong := [edges for edges in given if edges.shape != shape or edges.dtype != bool]:
            raise SweepError(f"A set of edges is {wrong[0].dtype} of shape {list(wrong[0].shape)}: {mend}.")
        # Edges that lead from or to nothing change nothing: many sets are one without them, and are run once.
        leading = [pruned(self.graph, edges) for edges in given]
        sets = {edges.tobytes(): edges for edges in leading}
        rows = {key: row for row, key in enumerate(sets)}
        values = self._measured(torch.from_numpy(np.stack(list(sets.values()))))
        return values[[rows[edges.tobytes()] for edges in leading]]

    def unpatched(self) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, " example"]]:
        """The metric with no edge cut, and with every edge cut."""
        every = self.graph.exists
        values = self.measure([every, np.zeros_like(every)])
        return values[0], values[1]

    def _measured(self, sets: Bool[Tensor, "set sender receiver"]) -> Float[np.ndarray, "set example"]:
        metrics = {self.metric: METRICS[self.metric]}
        fast = fast_obstacle(self.model, max(map(len, self.pairs.clean_tokens))) is None
        work = Work(fast, Reads.of(metrics, self.pairs), self._batch_tokens)
        values = np.full((len(sets), len(self.pairs)), np.nan, dtype=np.float32)
        for examples, prompts in self._batches():
            forwards = CutForwards(self.model, self.graph, prompts, work)
            part, vocab = self.pairs.select(examples), forwards.reads.vocab
            readout = Readout(metrics, part, forwards.base_logits, vocab, len(self.pairs))
            n_tokens = forwards.n_examples * (forwards.n_pos - forwards.start)
            n_bytes = 4 * len(self.graph.senders) * n_tokens * self.graph.d_model
            n_sets = max(1, min(HELD_BYTES // n_bytes, self._batch_tokens // n_tokens))
            for some in torch.split(torch.arange(len(sets)), n_sets):
                read = readout(forwards.logits(sets[some]), "a forward with edges cut")[0]  # [set example]
                values[np.ix_(some.numpy(), np.array(examples))] = read.numpy()
        return values

    def _batches(self) -> Iterator[tuple[list[int], PromptBatch]]:
        """Prompts of one length, and of one template where a mean over it stands in."""
        like = self._like
        drawn = [] if like is None else like.drawn(self._seed)
        for bucket in length_batches(self.pairs, self._batch_tokens):
            groups = defaultdict(list)
            for i in bucket:
                groups[tuple(like.of_prompt[i]) if like is not None and self.source == "mean" else None].append(i)
            for averaged, examples in groups.items():
                chosen = self.pairs.select(examples)
                donors = None
                if like is not None:
                    numbers = averaged or [drawn[i] for i in examples]
                    donors = torch.stack([self._reference.clean_tokens[j] for j in numbers])
                yield examples, PromptBatch(chosen.clean_batch(), chosen.corrupted_batch(), self.source, donors)
