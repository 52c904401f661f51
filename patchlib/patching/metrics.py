"""Logits -> numbers: one for each prompt (``METRICS``, as ``Readout`` applies them), or one for each token.

Example:
    >>> list(patchlib.METRICS)
    ['logit_diff', 'prob', 'prob_diff', 'kl', 'accuracy']

    Each is a function of the logits at the last position, here for two prompts and a vocabulary of three:

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, 0.0]])
    >>> answers = torch.tensor([[0, 1], [0, 1]])  # (right, wrong)
    >>> patchlib.METRICS["logit_diff"](logits, answers, logits)
    tensor([ 1.5000, -1.0000])
    >>> patchlib.METRICS["accuracy"](logits, answers, logits)
    tensor([1., 0.])

    Where several tokens are right, or wrong, the answers have an axis more, filled up with -1:

    >>> sets = torch.tensor([[[0, 2], [1, -1]]] * 2)
    >>> patchlib.METRICS["prob_diff"](logits, sets, logits)
    tensor([ 0.6715, -0.1522])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from patchlib._util import listed, shown
from patchlib.errors import SweepError
from patchlib.patching.own_metrics import (
    LAST_ONLY,
    MetricFunction,
    as_numbers,
    called,
    check_order,
    check_signature,
    scores,
)
from patchlib.tasks.answer_sets import NO_ID
from patchlib.tasks.pairs import PromptPairs

Logits = Float[Tensor, "*cell example d_vocab"]
CleanLogits = Float[Tensor, "example d_vocab"]
Answers = Int[Tensor, "example 2 *member"]
Values = Float[Tensor, "*cell example"]
Metric = Callable[[Logits, Answers, CleanLogits], Values]
"""(logits at the last position, (right, wrong) token ids, the clean logits there) -> one number a prompt.

The ids are two for each prompt, or two sets, filled up with -1."""
Metrics = dict[str, Metric | MetricFunction]
FLOAT32 = "If the model runs in float16, load it in float32 (load_model(..., dtype='float32'));"


def _pick(values: Logits, ids: Int[Tensor, " example"]) -> Values:
    return values.gather(-1, ids.expand(values.shape[:-1]).unsqueeze(-1)).squeeze(-1)  # [*cell example]


def _members(values: Logits, ids: Int[Tensor, "example member"], nothing: float) -> Float[Tensor, "*cell ex member"]:
    """The values of a set's members, and of what fills it up a value that adds nothing."""
    shape = (*values.shape[:-1], ids.shape[-1])
    return values.gather(-1, ids.clamp(min=0).expand(shape)).masked_fill(ids == NO_ID, nothing)


def _log_sum(logits: Logits, ids: Int[Tensor, "example *member"]) -> Values:
    return _pick(logits, ids) if ids.ndim == 1 else _members(logits, ids, -torch.inf).logsumexp(-1)


def _prob(logits: Logits, ids: Int[Tensor, "example *member"]) -> Values:
    probs = logits.softmax(-1)
    return _pick(probs, ids) if ids.ndim == 1 else _members(probs, ids, 0).sum(-1)


def logit_diff(logits: Logits, answers: Answers, clean_logits: CleanLogits) -> Values:
    """Logit of the right answer minus logit of the wrong one (Wang et al. 2022, section 2.3), in nats.

    Of sets, the log of how much more probable the right ones are together: log-sum-exp minus log-sum-exp of their
    logits, which for sets of one is the difference of two logits.
    """
    return _log_sum(logits, answers[:, 0]) - _log_sum(logits, answers[:, 1])


def prob(logits: Logits, answers: Answers, clean_logits: CleanLogits) -> Values:
    """Probability of the right answers, summed, in [0, 1]. Saturates: read it beside the logit difference."""
    return _prob(logits, answers[:, 0])


def prob_diff(logits: Logits, answers: Answers, clean_logits: CleanLogits) -> Values:
    """Probability of the right minus that of the wrong answers, in [-1, 1] (Hanna et al. 2023, section 2.2)."""
    return _prob(logits, answers[:, 0]) - _prob(logits, answers[:, 1])


def kl(logits: Logits, answers: Answers, clean_logits: CleanLogits) -> Values:
    """KL(clean || these logits) over the whole vocabulary, in nats: 0 for the clean logits themselves."""
    clean = clean_logits.log_softmax(-1)
    return (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)


def accuracy(logits: Logits, answers: Answers, clean_logits: CleanLogits) -> Values:
    """1 where the right answer (or set) is the more probable of the two, else 0, whatever else is above both."""
    return (logit_diff(logits, answers, clean_logits) > 0).float()


METRICS: dict[str, Metric] = {
    "logit_diff": logit_diff,
    "prob": prob,
    "prob_diff": prob_diff,
    "kl": kl,
    "accuracy": accuracy,
}
ANSWERS_ONLY = (logit_diff, accuracy)
"""Metrics that read no logits but those of the answers."""


def task_metric(logits: Float[Tensor, "example pos d_vocab"], pairs: PromptPairs) -> Float[Tensor, "example"]:
    """The task's own ``compute_metric``, which sees one prompt at a time and all its positions."""
    compute_metric = pairs.compute_metric
    assert compute_metric is not None  # resolve_metrics gives this function only where there is one
    return torch.stack([as_numbers("task_metric", compute_metric(logits[i : i + 1], i), ()) for i in range(len(pairs))])


def resolve_metrics(
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None, pairs: PromptPairs
) -> Metrics:
    """Name -> metric, in the order asked for.

    Args:
        metric: Names from ``METRICS``, ``"task_metric"``, or functions
            ``(logits[example pos d_vocab], pairs) -> [example]``; one or several. None stands for the
            task's own metric where it has one, else for the logit difference.
        pairs: The task, which may have a metric of its own.

    Raises:
        SweepError: Unknown or doubled name, an empty list, ``"task_metric"`` for a task without one, accuracy of
            corrupted prompts for which no answer is right, or a metric that reads answers where these have several
            tokens.
    """
    by_name: Metrics = dict(METRICS)
    if pairs.compute_metric is not None:
        by_name["task_metric"] = task_metric
    if metric is None:
        metric = "logit_diff" if pairs.compute_metric is None else "task_metric"
    entries = listed(metric)
    chosen: Metrics = {}
    for entry in entries:
        name = entry if isinstance(entry, str) else getattr(entry, "__name__", type(entry).__name__)
        if name in chosen:
            raise SweepError(f"Metric {name!r} was asked for twice; give each metric a name of its own.")
        function = by_name.get(entry) if isinstance(entry, str) else entry
        if not callable(function):
            raise SweepError(
                f"Unknown metric {shown(entry)}. Choose from {', '.join(by_name)}, or pass a function "
                "(logits[example pos d_vocab], pairs) -> one number per example."
            )
        if function not in by_name.values():
            check_signature(name, function)
        chosen[name] = function
    if accuracy in chosen.values() and pairs.metadata.get("corrupted_answer") == "none":
        raise SweepError(
            f"{pairs.name!r} has corrupted prompts for which neither answer is right, so that accuracy says nothing of "
            "them: take 'logit_diff' or 'prob'."
        )
    check_answers(chosen, pairs)
    if not chosen:
        raise SweepError(f"No metric was asked for. Choose from {', '.join(by_name)}.")
    return chosen


def check_answers(metrics: Mapping[str, Callable[..., Tensor]], pairs: PromptPairs) -> None:
    """SweepError where a metric reads one token of answers that have several."""
    reading = [name for name, metric in metrics.items() if metric in METRICS.values() and metric is not kl]
    if pairs.continuations and reading:
        raise SweepError(
            f"{pairs.name!r} has answers of several tokens, which sweep, path_patch and baseline read, and nothing "
            f"else: for {reading[0]!r} of their first tokens, take dataclasses.replace(pairs, continuations=())."
        )


class Reads(NamedTuple):
    """What metrics read of the logits."""

    last_only: bool = True
    """The last position only; else all positions."""
    vocab: Int[Tensor, " read_vocab"] | None = None
    """The logits of these token ids, sorted; of all when None."""

    @classmethod
    def of(cls, metrics: Mapping[str, Callable[..., Tensor]], pairs: PromptPairs) -> Reads:
        """What these metrics read, of a task's prompts."""
        if all(metric in ANSWERS_ONLY for metric in metrics.values()):
            ids = pairs.answer_ids()
            return cls(vocab=torch.unique(ids[ids != NO_ID]))
        own = [metric for metric in metrics.values() if metric not in METRICS.values()]
        return cls(last_only=all(getattr(metric, LAST_ONLY, False) for metric in own))


class Readout:
    """Several metrics of the same prompts, with what they compare against.

    Args:
        metrics: From ``resolve_metrics``.
        pairs: The prompts that the logits are of.
        clean_logits: Of the unpatched clean prompts.
        vocab: The token ids that the logits are of; all when None.
        n_all: How many prompts the task has; as many as ``pairs`` when None.

    Raises:
        SweepError: These prompts are a part of the task, and a metric goes by the place of a prompt among them.
    """

    def __init__(
        self,
        metrics: Mapping[str, Callable[..., Tensor]],
        pairs: PromptPairs,
        clean_logits: Float[Tensor, "example read read_vocab"],
        vocab: Int[Tensor, " read_vocab"] | None = None,
        n_all: int | None = None,
    ) -> None:
        self.metrics, self.pairs, self.n_all = metrics, pairs, n_all or len(pairs)
        self.clean_logits = clean_logits[:, -1]
        # Where only the answers' logits were computed, an answer's place among them stands for its token id.
        answers = pairs.answer_ids()
        if vocab is not None:
            answers = torch.where(answers == NO_ID, NO_ID, torch.searchsorted(vocab, answers))
        check_answers(metrics, pairs)
        self.answers = answers.to(clean_logits.device)
        for name, metric in metrics.items():
            if metric is not task_metric and metric not in METRICS.values():
                check_order(name, metric, clean_logits, pairs, self.n_all)

    def __call__(
        self, logits: Float[Tensor, "cell example read read_vocab"], origin: str
    ) -> Float[Tensor, "metric cell example"]:
        """Every metric of every cell; SweepError, naming the logits' ``origin``, for a number that is not finite."""
        if torch.isnan(logits).any():  # accuracy, for one, would count them as wrong answers
            raise SweepError(f"The logits are NaN in {origin}. {FLOAT32} else look at the model's weights.")
        values = [self._metric_values(name, metric, logits, origin) for name, metric in self.metrics.items()]
        return torch.stack(values).cpu()

    def _by_name(
        self, metric: Metric, logits: Float[Tensor, "cell example read read_vocab"]
    ) -> Float[Tensor, "cell example"]:
        return metric(logits[:, :, -1], self.answers, self.clean_logits)

    def _metric_values(
        self, name: str, metric: Callable[..., Tensor], logits: Tensor, origin: str
    ) -> Float[Tensor, "cell example"]:
        if metric in METRICS.values():
            values = self._by_name(metric, logits)
        else:
            values = torch.stack([scores(name, metric, rows, self.pairs, self.n_all) for rows in logits])
        values = values.float().cpu()
        if not torch.isfinite(values).all():
            raise SweepError(f"{name} is NaN or infinite in {origin}. {FLOAT32} else look at the metric.")
        return values

    def differentiable(
        self, name: str, logits: Float[Tensor, "1 example read read_vocab"]
    ) -> Float[Tensor, "1 example"]:
        """One metric of a forward that has a graph, with its own; SweepError for a metric that has no gradient."""
        metric = self.metrics[name]
        if metric in METRICS.values():
            values = self._by_name(metric, logits)
        elif metric is task_metric and self.pairs.compute_metric is not None:
            given = [self.pairs.compute_metric(logits[0, i : i + 1], i) for i in range(len(self.pairs))]
            values = torch.stack([value if isinstance(value, Tensor) else logits.new_tensor(value) for value in given])
            values = values.reshape(1, len(self.pairs))
        else:
            given = called(name, metric, logits[0], self.pairs, self.n_all)
            as_numbers(name, given, (len(self.pairs),))  # or it says what is wrong with them
            values = given[None] if isinstance(given, Tensor) else logits.new_zeros(1, len(self.pairs))
        if not values.requires_grad:
            raise SweepError(
                f"Metric {name!r} has no gradient (it counts, rounds or leaves torch): give one that moves smoothly "
                "with the logits, such as 'logit_diff', or patch exactly (sweep, or method='exact' of edges)."
            )
        if not torch.isfinite(values).all():
            raise SweepError(f"{name} is NaN or infinite in a forward pass with gradients. {FLOAT32} else look at it.")
        return values


def next_token_losses(
    logits: Float[Tensor, "*batch pos d_vocab"], tokens: Int[Tensor, "*batch pos"]
) -> Float[Tensor, "*batch pos"]:
    """Cross-entropy in nats of the token at each position, given those before it; NaN at position 0."""
    tokens = tokens.to(logits.device).expand(logits.shape[:-1])
    losses = cross_entropy(logits[..., :-1, :].flatten(0, -2), tokens[..., 1:].flatten(), reduction="none")
    if not torch.isfinite(losses).all():
        raise SweepError(f"A loss is NaN or infinite. {FLOAT32} else look at the model's weights.")
    losses = losses.view(*tokens.shape[:-1], -1)  # [*batch pos-1]
    return torch.cat([torch.full_like(losses[..., :1], torch.nan), losses], dim=-1)  # [*batch pos]
