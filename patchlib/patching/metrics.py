"""Logits -> one number per prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from patchlib.errors import SweepError
from patchlib.tasks.base import PromptPairs

Metric = Callable[
    [Float[Tensor, "*cell example d_vocab"], Int[Tensor, "example 2"], Float[Tensor, "example d_vocab"]],
    Float[Tensor, "*cell example"],
]
"""(logits at the last position, (right, wrong) token ids, the clean run's logits there) -> one number a prompt."""


def _pick(values: Float[Tensor, "*cell example d_vocab"], ids: Int[Tensor, "example"]) -> Tensor:
    return values.gather(-1, ids.expand(values.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def logit_diff(
    logits: Float[Tensor, "*cell example d_vocab"],
    answers: Int[Tensor, "example 2"],
    clean_logits: Float[Tensor, "example d_vocab"],
) -> Float[Tensor, "*cell example"]:
    """Logit of the right answer minus logit of the wrong one (Wang et al. 2022, section 2.3), in nats."""
    return _pick(logits, answers[:, 0]) - _pick(logits, answers[:, 1])


def prob(
    logits: Float[Tensor, "*cell example d_vocab"],
    answers: Int[Tensor, "example 2"],
    clean_logits: Float[Tensor, "example d_vocab"],
) -> Float[Tensor, "*cell example"]:
    """Probability of the right answer, in [0, 1]. Saturates: read it beside the logit difference."""
    return _pick(logits.softmax(-1), answers[:, 0])


def kl(
    logits: Float[Tensor, "*cell example d_vocab"],
    answers: Int[Tensor, "example 2"],
    clean_logits: Float[Tensor, "example d_vocab"],
) -> Float[Tensor, "*cell example"]:
    """KL(clean run || this run) over the whole vocabulary, in nats: 0 on the clean run itself."""
    clean = clean_logits.log_softmax(-1)
    return (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)


def accuracy(
    logits: Float[Tensor, "*cell example d_vocab"],
    answers: Int[Tensor, "example 2"],
    clean_logits: Float[Tensor, "example d_vocab"],
) -> Float[Tensor, "*cell example"]:
    """1 where the right answer has a higher logit than the wrong one, else 0."""
    return (logit_diff(logits, answers, clean_logits) > 0).float()


def next_token_losses(
    logits: Float[Tensor, "*batch pos d_vocab"], tokens: Int[Tensor, "*batch pos"]
) -> Float[Tensor, "*batch pos"]:
    """Cross-entropy in nats of the token at each position, given those before it; NaN at position 0."""
    tokens = tokens.expand(logits.shape[:-1])
    losses = cross_entropy(logits[..., :-1, :].flatten(0, -2), tokens[..., 1:].flatten(), reduction="none")
    if not torch.isfinite(losses).all():
        raise SweepError(f"A loss is NaN or infinite. {FLOAT32} else look at the model's weights.")
    losses = losses.view(*tokens.shape[:-1], -1)
    return torch.cat([torch.full_like(losses[..., :1], torch.nan), losses], dim=-1)


METRICS: dict[str, Metric] = {"logit_diff": logit_diff, "prob": prob, "kl": kl, "accuracy": accuracy}
ANSWERS_ONLY = (logit_diff, accuracy)
"""Metrics that read no logits but those of the answers."""
FLOAT32 = "If the model runs in float16, load it in float32 (load_model(..., dtype='float32'));"


def task_metric(logits: Float[Tensor, "example pos d_vocab"], pairs: PromptPairs) -> Float[Tensor, "example"]:
    """The task's own ``compute_metric``, which sees one prompt at a time and all its positions."""
    own = pairs.compute_metric
    assert own is not None  # resolve_metrics gives this function only where there is one
    return torch.tensor([float(own(logits[i : i + 1], i)) for i in range(len(pairs))])


def resolve_metrics(
    metric: str | Callable | Sequence[str | Callable] | None, has_own: bool
) -> dict[str, Metric | Callable]:
    """Name -> metric, in the order asked for.

    Args:
        metric: Names from ``METRICS``, ``"task_metric"``, or functions
            ``(logits[example pos d_vocab], pairs) -> [example]``; one or several. None stands for the
            task's own metric where it has one, else for the logit difference.
        has_own: Whether the task overrides ``compute_metric``.

    Raises:
        SweepError: Unknown or doubled name, an empty list, or ``"task_metric"`` for a task without one.
    """
    known: dict[str, Metric | Callable] = {**METRICS, **({"task_metric": task_metric} if has_own else {})}
    if metric is None:
        metric = "task_metric" if has_own else "logit_diff"
    asked = [metric] if isinstance(metric, str) or not isinstance(metric, Iterable) else list(metric)
    chosen: dict[str, Metric | Callable] = {}
    for entry in asked:
        name = entry if isinstance(entry, str) else getattr(entry, "__name__", type(entry).__name__)
        if name in chosen:
            raise SweepError(f"Metric {name!r} was asked for twice; give each metric a name of its own.")
        function = known.get(entry) if isinstance(entry, str) else entry
        if not callable(function):
            raise SweepError(
                f"Unknown metric {entry!r}. Choose from {', '.join(known)}, or pass a function "
                "(logits[example pos d_vocab], pairs) -> one number per example."
            )
        chosen[name] = function
    if not chosen:
        raise SweepError(f"No metric was asked for. Choose from {', '.join(known)}.")
    return chosen


class Reads(NamedTuple):
    """What metrics read of the logits."""

    last_only: bool = True
    """The last position only; else all positions."""
    vocab: Int[Tensor, " read_vocab"] | None = None
    """The logits of these token ids, sorted; of all when None."""

    @classmethod
    def of(cls, metrics: Mapping[str, Metric | Callable], pairs: PromptPairs) -> Reads:
        """What these metrics read, of a task's prompts."""
        if all(metric in ANSWERS_ONLY for metric in metrics.values()):
            return cls(vocab=pairs.answers.unique())
        return cls(last_only=all(metric in METRICS.values() for metric in metrics.values()))


class Readout:
    """Several metrics of the same prompts, with what they compare against.

    Args:
        metrics: From ``resolve_metrics``.
        pairs: The prompts that the logits are of.
        clean_logits: The unpatched clean run's.
        vocab: The token ids that the logits are of; all when None.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric | Callable],
        pairs: PromptPairs,
        clean_logits: Float[Tensor, "example read read_vocab"],
        vocab: Int[Tensor, " read_vocab"] | None = None,
    ) -> None:
        self.metrics, self.pairs = metrics, pairs
        self.clean_logits = clean_logits[:, -1]
        answers = pairs.answers if vocab is None else torch.searchsorted(vocab, pairs.answers)
        self.answers = answers.to(clean_logits.device)

    def __call__(
        self, logits: Float[Tensor, "cell example read read_vocab"], where: str
    ) -> Float[Tensor, "metric cell example"]:
        """Every metric of every run; SweepError, naming ``where``, for a number that is not finite."""
        if torch.isnan(logits).any():  # accuracy, for one, would count them as wrong answers
            raise SweepError(f"The logits are NaN in {where}. {FLOAT32} else look at the model's weights.")
        return torch.stack([self._one(name, metric, logits, where) for name, metric in self.metrics.items()]).cpu()

    def _one(self, name: str, metric: Callable, logits: Tensor, where: str) -> Float[Tensor, "cell example"]:
        if metric in METRICS.values():
            values = metric(logits[:, :, -1], self.answers, self.clean_logits)
        else:
            rows = [torch.as_tensor(metric(run, self.pairs)).detach() for run in logits]
            if any(row.shape != (len(self.pairs),) for row in rows):
                raise SweepError(
                    f"Metric {name!r} must give one number per example, shape [{len(self.pairs)}], "
                    f"not {list(rows[0].shape)}."
                )
            values = torch.stack(rows)
        if not torch.isfinite(values).all():
            raise SweepError(f"{name} is NaN or infinite in {where}. {FLOAT32} else look at the metric.")
        return values.float().cpu()
