"""Logits -> one number per prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

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


METRICS: dict[str, Metric] = {"logit_diff": logit_diff, "prob": prob, "kl": kl, "accuracy": accuracy}
TASK_METRIC = "task_metric"
"""Name under which a task's own ``compute_metric`` appears in results."""


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
    if metric is None:
        metric = TASK_METRIC if has_own else "logit_diff"
    asked = [metric] if isinstance(metric, str) or callable(metric) else list(metric)
    known = [*METRICS, *([TASK_METRIC] if has_own else [])]
    chosen: dict[str, Metric | Callable] = {}
    for entry in asked:
        name = entry if isinstance(entry, str) else getattr(entry, "__name__", type(entry).__name__)
        if name in chosen:
            raise SweepError(f"Metric {name!r} was asked for twice; give each metric a name of its own.")
        if entry not in known if isinstance(entry, str) else not callable(entry):
            raise SweepError(
                f"Unknown metric {entry!r}. Choose from {', '.join(known)}, or pass a function "
                "(logits[example pos d_vocab], pairs) -> one number per example."
            )
        chosen[name] = METRICS.get(name, entry) if isinstance(entry, str) else entry
    if not chosen:
        raise SweepError(f"No metric was asked for. Choose from {', '.join(known)}.")
    return chosen


class Readout:
    """Several metrics of the same prompts, with what they compare against.

    Args:
        metrics: From ``resolve_metrics``.
        pairs: The prompts that the logits are of.
        clean_logits: The unpatched clean run's.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric | Callable],
        pairs: PromptPairs,
        clean_logits: Float[Tensor, "example read d_vocab"],
    ) -> None:
        self.metrics, self.pairs = metrics, pairs
        self.clean_logits = clean_logits[:, -1]
        self.answers = pairs.answers.to(clean_logits.device)

    @staticmethod
    def last_only(metrics: Mapping[str, Metric | Callable]) -> bool:
        """Whether none of the metrics may read other positions than the last."""
        return all(metric in METRICS.values() for metric in metrics.values())

    def __call__(
        self, logits: Float[Tensor, "cell example read d_vocab"], where: str
    ) -> Float[Tensor, "metric cell example"]:
        """Every metric of every run; SweepError, naming ``where``, for a number that is not finite."""
        return torch.stack([self._one(name, metric, logits, where) for name, metric in self.metrics.items()]).cpu()

    def _one(self, name: str, metric: Callable, logits: Tensor, where: str) -> Float[Tensor, "cell example"]:
        if metric in METRICS.values():
            values = metric(logits[:, :, -1], self.answers, self.clean_logits)
        elif metric is TASK_METRIC:
            own = self.pairs.compute_metric
            assert own is not None  # resolve_metrics lets the name through only where there is one
            rows = [[float(own(run[i : i + 1], i)) for i in range(len(self.pairs))] for run in logits]
            values = torch.tensor(rows, dtype=torch.float32)
        else:
            rows = [torch.as_tensor(metric(run, self.pairs)).detach() for run in logits]
            if any(row.shape != (len(self.pairs),) for row in rows):
                raise SweepError(
                    f"Metric {name!r} must give one number per example, shape [{len(self.pairs)}], "
                    f"not {list(rows[0].shape)}."
                )
            values = torch.stack(rows)
        if not torch.isfinite(values).all():
            raise SweepError(
                f"{name} is NaN or infinite in {where}. If the model runs in float16, load it in float32 "
                "(load_model(..., dtype='float32')); else look at its weights, or at the metric."
            )
        return values.float().cpu()
