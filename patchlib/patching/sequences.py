"""Answers of several tokens: each is written behind its prompt, and its log-probability summed over its steps.

A pair becomes two examples, its prompts with the right and its prompts with the wrong answer behind them, whose last
token is not read and so left out (teacher forcing). What comes out of a sweep of these is put together again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import listed, shown
from patchlib.errors import SweepError
from patchlib.patching.experiment import Experiment, savable, warn_of_contrast
from patchlib.tasks.pairs import PromptPairs

Values = Any
FOLDED: dict[str, Callable[[Values, Values], Values]] = {
    "logit_diff": lambda right, wrong: right - wrong,
    "prob": lambda right, wrong: np.exp(right),
    "prob_diff": lambda right, wrong: np.exp(right) - np.exp(wrong),
    "accuracy": lambda right, wrong: (right > wrong).astype(right.dtype).where(right.notnull()),
}
"""What a metric is of the two log-probabilities; of answers of one token these are the metrics of that name."""


def log_prob(logits: Float[Tensor, "example pos d_vocab"], pairs: PromptPairs) -> Float[Tensor, " example"]:
    """The sum of the log-probabilities of what stands behind END, and of the right answer behind that."""
    ends = pairs.roles["END"].to(logits.device)
    first = int(ends.min())
    rows = torch.cat([pairs.clean_batch(), pairs.answers[:, :1]], dim=1).to(logits.device)  # [example pos+1]
    log_probs = logits[:, first:].float().log_softmax(-1).gather(-1, rows[:, first + 1 :, None]).squeeze(-1)
    is_answer = torch.arange(first, logits.shape[1], device=logits.device) >= ends[:, None]
    return (log_probs * is_answer).sum(-1)


@dataclass(frozen=True)
class Sequences:
    """A task whose answers have several tokens, and the metrics that were asked for.

    Attributes:
        asked: The task.
        names: Of the metrics.
    """

    asked: PromptPairs
    names: tuple[str, ...]

    @classmethod
    def of(cls, pairs: PromptPairs, metric: Any, **plain: Any) -> Sequences | None:
        """None where nothing that is asked reads several tokens.

        Args:
            pairs: The task.
            metric: As for ``sweep``.
            plain: Settings of a sweep that have to be left at None.

        Raises:
            SweepError: Metrics that read the answers beside others, or a setting that does not go with them.
        """
        entries = listed(
            ("logit_diff" if pairs.compute_metric is None else "task_metric") if metric is None else metric
        )
        names = [entry for entry in entries if isinstance(entry, str) and entry in FOLDED]
        if not pairs.continuations or not names:
            return None
        if len(names) < len(entries) or len(set(names)) < len(names):
            raise SweepError(
                f"{pairs.name!r} has answers of several tokens: ask for {', '.join(FOLDED)} in one call, each once, "
                "and for other metrics, which read the end of the prompt, in another."
            )
        if given := [name for name, value in plain.items() if value is not None]:
            raise SweepError(
                f"{pairs.name!r} has answers of several tokens, with which {given[0]}={shown(plain[given[0]])} does "
                "not go: leave it out, or take their first tokens, dataclasses.replace(pairs, continuations=())."
            )
        return cls(pairs, tuple(names))

    def positions(self, over: Sequence[str], positions: Any) -> Any:
        """The positions of the prompts where none were given, and not those of the answers behind them."""
        is_given = positions is not None or "pos" not in listed(over)
        return positions if is_given else list(range(max(map(len, self.asked.clean_tokens))))

    def forced(self) -> PromptPairs:
        """The right answers behind their prompts, then the wrong ones."""
        pairs = self.asked
        rows: dict[str, list[Tensor]] = {"clean": [], "corrupted": []}
        answers = []
        for which in (0, 1):
            for i, two in enumerate(pairs.continuations):
                *behind, last = two[which]
                for name, tokens in (("clean", pairs.clean_tokens[i]), ("corrupted", pairs.corrupted_tokens[i])):
                    rows[name].append(torch.cat([tokens, torch.tensor(behind, dtype=tokens.dtype)]))
                answers.append((last, 0 if last else 1))  # the second is not read
        return replace(
            pairs,
            clean_tokens=tuple(rows["clean"]),
            corrupted_tokens=tuple(rows["corrupted"]),
            answers=torch.tensor(answers),
            continuations=(),
            roles={role: index.repeat(2) for role, index in pairs.roles.items()},
            spans={name: indices * 2 for name, indices in pairs.spans.items()},
            groups=pairs.groups * 2,
            clusters=pairs.clusters * 2,
            compute_metric=None,
            keep_pads=True,  # they were looked at without the answers
        )

    def folded(self, result: xr.Dataset, model: TransformerBridge) -> xr.Dataset:
        """One example for each pair again, and the metrics that were asked for."""
        n = len(self.asked)
        values = result[[name for name in ("patched", "clean", "corrupted") if name in result]]
        values = values.sel(metric=log_prob.__name__, drop=True)
        right, wrong = (values.isel(example=slice(part, part + n)) for part in (0, n))
        wrong = wrong.assign_coords(example=right.example)
        texts = self.asked.example_prompts(model)
        coords: dict[str, Any] = {"metric": list(self.names)}
        coords |= {name: ("example", list(map(savable, column))) for name, column in texts.items()}
        data = {
            name: xr.concat([FOLDED[metric](right[name], wrong[name]) for metric in self.names], "metric")
            for name in values
        }
        attributes = {"n_examples": n, "answers": "several tokens, log-probabilities summed (teacher forcing)"}
        return xr.Dataset(data, attrs=result.attrs | attributes).assign_coords(coords)

    def run(self, experiment: Experiment) -> xr.Dataset:
        """What ``Experiment.run`` gives, of the task that was asked for."""
        result = self.folded(experiment.patched(), experiment.model)
        warn_of_contrast(result)
        return result.assign(effect=stats.effect(result))
