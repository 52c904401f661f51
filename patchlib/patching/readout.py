"""What is read of a forward's logits, and the metrics of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchlib.errors import SweepError
from patchlib.patching.metrics import ANSWERS_ONLY, FLOAT32, METRICS
from patchlib.tasks.pairs import PromptPairs


class Reads(NamedTuple):
    """What metrics read of the logits."""

    last_only: bool = True
    """The last position only; else all positions."""
    vocab: Int[Tensor, " read_vocab"] | None = None
    """The logits of these token ids, sorted; of all when None."""

    @classmethod
    def of(cls, metrics: Mapping[str, Callable[..., Any]], pairs: PromptPairs) -> Reads:
        """What these metrics read, of a task's prompts."""
        if all(metric in ANSWERS_ONLY for metric in metrics.values()):
            return cls(vocab=torch.unique(pairs.answers))
        return cls(last_only=all(metric in METRICS.values() for metric in metrics.values()))


class Readout:
    """Several metrics of the same prompts, with what they compare against.

    Args:
        metrics: From ``resolve_metrics``.
        pairs: The prompts that the logits are of.
        clean_logits: Of the unpatched clean prompts.
        vocab: The token ids that the logits are of; all when None.
    """

    def __init__(
        self,
        metrics: Mapping[str, Callable[..., Any]],
        pairs: PromptPairs,
        clean_logits: Float[Tensor, "example read read_vocab"],
        vocab: Int[Tensor, " read_vocab"] | None = None,
    ) -> None:
        self.metrics, self.pairs = metrics, pairs
        self.clean_logits = clean_logits[:, -1]
        # Where only the answers' logits were computed, an answer's place among them stands for its token id.
        answers = pairs.answers if vocab is None else torch.searchsorted(vocab, pairs.answers)
        self.answers = answers.to(clean_logits.device)

    def __call__(
        self, logits: Float[Tensor, "cell example read read_vocab"], origin: str
    ) -> Float[Tensor, "metric cell example"]:
        """Every metric of every cell; SweepError, naming the logits' ``origin``, for a number that is not finite."""
        if torch.isnan(logits).any():  # accuracy, for one, would count them as wrong answers
            raise SweepError(f"The logits are NaN in {origin}. {FLOAT32} else look at the model's weights.")
        values = [self._metric_values(name, metric, logits, origin) for name, metric in self.metrics.items()]
        return torch.stack(values).cpu()

    def _metric_values(
        self, name: str, metric: Callable[..., Any], logits: Tensor, origin: str
    ) -> Float[Tensor, "cell example"]:
        values: Tensor
        if metric in METRICS.values():
            values = metric(logits[:, :, -1], self.answers, self.clean_logits)
        else:
            rows = [torch.as_tensor(metric(cell_logits, self.pairs)).detach() for cell_logits in logits]
            if any(row.shape != (len(self.pairs),) for row in rows):
                raise SweepError(
                    f"Metric {name!r} must give one number per example, shape [{len(self.pairs)}], "
                    f"not {list(rows[0].shape)}."
                )
            values = torch.stack(rows)
        if not torch.isfinite(values).all():
            raise SweepError(f"{name} is NaN or infinite in {origin}. {FLOAT32} else look at the metric.")
        return values.float().cpu()
