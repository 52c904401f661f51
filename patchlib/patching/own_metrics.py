"""Metrics that users write: called with memory of their own, and taken at their word only where it can be checked."""

import copy
import inspect
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchlib._util import first_line, shown
from patchlib.errors import SweepError
from patchlib.tasks.pairs import PromptPairs

MetricFunction = Callable[[Float[Tensor, "example pos d_vocab"], PromptPairs], Any]
"""(logits, prompts) -> one number a prompt, in anything that torch makes a tensor of."""
CALL = "a sweep calls metric(logits[example pos d_vocab], pairs), with prompts of one length at a time"
MEND = "take what belongs to a prompt from pairs.answers, or from your own data as data[pairs.index]"
LAST_ONLY = "reads_last_position_only"
"""Attribute of a metric that does."""
MOST_NUMBERS = 2**24
"""Logits in the trial of a metric's order: 64 MiB."""


def at_last_position(metric: Callable[[Float[Tensor, "example d_vocab"], PromptPairs], Any]) -> MetricFunction:
    """A metric that reads the logits at the last position alone, so that none of the others have to be computed.

    It is as fast as ``"kl"`` then. A metric without this decorator is given the logits of all positions, whose
    unembedding takes about as long again as the patched forward.

    Args:
        metric: ``(logits[example d_vocab], pairs) -> [example]``.

    Returns:
        What ``sweep(metric=)`` and the like take; called with logits of all positions, it reads the last.

    Raises:
        SweepError: It is no function of two arguments.

    Example:
        >>> @patchlib.at_last_position
        ... def logit_of_the_answer(logits, pairs):
        ...     return logits.gather(-1, pairs.answers[:, :1]).squeeze(-1)
        >>> result = patchlib.baseline(model, task, metric=logit_of_the_answer)
        >>> bool((result.clean > result.corrupted).all())
        True
    """
    if not callable(metric):
        raise SweepError(f"at_last_position takes a function (logits[example d_vocab], pairs), not {shown(metric)}.")
    check_signature(getattr(metric, "__name__", type(metric).__name__), metric)

    @wraps(metric)
    def read(logits: Float[Tensor, "example pos d_vocab"], pairs: PromptPairs) -> Any:
        return metric(logits[:, -1], pairs)

    vars(read)[LAST_ONLY] = True
    return read


def check_signature(name: str, metric: Callable[..., Any]) -> None:
    """SweepError for a function that does not take (logits, pairs), such as those that TransformerLens' guides have."""
    try:
        signature = inspect.signature(metric)
    except (TypeError, ValueError):  # written in C: it shows when it is called
        return
    try:
        second = list(signature.bind(None, None).arguments)[1]
        parameter = signature.parameters[second]
        # A second parameter that has a value already was not meant for the prompts.
        taken = parameter.default is not parameter.empty and parameter.default is not None
        fits = not taken or "pair" in second or "prompt" in second
    except (TypeError, IndexError):
        fits = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())
    if not fits:
        taken_names = ", ".join(signature.parameters)
        raise SweepError(
            f"Metric {name!r} takes ({taken_names}), but {CALL}. Write lambda logits, pairs: ..., and {MEND}."
        )


def scores(
    name: str, metric: MetricFunction, logits: Float[Tensor, "example pos d_vocab"], pairs: PromptPairs, n_all: int
) -> Float[Tensor, " example"]:
    """What a metric gives for some prompts, in float32 on the CPU.

    Args:
        name: The metric's, in errors.
        metric: The function.
        logits: It gets a copy, because it may write into what it gets.
        pairs: Likewise.
        n_all: How many prompts the task has.

    Raises:
        SweepError: It fails, or does not give one real number for each prompt.
    """
    return as_numbers(name, called(name, metric, logits, pairs, n_all), (len(pairs),))


def called(
    name: str, metric: MetricFunction, logits: Float[Tensor, "example pos d_vocab"], pairs: PromptPairs, n_all: int
) -> Any:
    """Whatever a metric gives for some prompts; SweepError where it fails. The arguments are those of ``scores``."""
    try:
        return metric(logits.clone(), _copy(pairs))
    except SweepError:
        raise
    except Exception as error:  # a user's code may raise anything
        *_, last = traceback.extract_tb(error.__traceback__)
        part = f" on {len(pairs)} of {n_all} prompts" if len(pairs) < n_all else ""
        raise SweepError(
            f"Metric {name!r} fails{part} with {type(error).__name__}: {first_line(error)} ({last.name}, line "
            f"{last.lineno}). Note that {CALL}: {MEND}."
        ) from error


def as_numbers(name: str, given: Any, shape: tuple[int, ...]) -> Tensor:
    """What a metric gave as float32 on the CPU, copied, since it may use the memory again; SweepError if unusable."""
    wanted = f"one real number for each of the {shape[0]} prompts" if shape else "one real number"
    try:
        numbers = torch.as_tensor(given).detach().to("cpu", copy=True)
        if numbers.is_complex() or numbers.layout is not torch.strided:
            raise TypeError(f"{numbers.dtype} in layout {numbers.layout}".removesuffix(" in layout torch.strided"))
        numbers = numbers.float()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SweepError(
            f"Metric {name!r} must give {wanted}, not {type(given).__name__} ({first_line(error)})."
        ) from error
    if not shape and numbers.numel() == 1:
        numbers = numbers.reshape(())
    if numbers.shape != shape:
        mean = ": leave the mean over prompts out" if numbers.ndim == 0 else ""
        raise SweepError(f"Metric {name!r} must give {wanted}, shape {list(shape)}, not {list(numbers.shape)}{mean}.")
    return numbers


def check_order(
    name: str, metric: MetricFunction, logits: Float[Tensor, "example pos d_vocab"], pairs: PromptPairs, n_all: int
) -> None:
    """SweepError for a metric that goes by a prompt's place in the batch, where the batch is a part of the task.

    The same prompts are given again, backwards and over and over, up to as many as the task has: each must score what
    it scored before. A metric that counts through the answers of the whole task gives it another prompt's answer.
    """
    n = len(pairs)
    if n == n_all:
        return
    n_rows = min(n_all, max(n + 1, MOST_NUMBERS // logits[0].numel()))
    order = [n - 1 - row % n for row in range(n_rows)]
    order[-1] = order[0]  # a mean over the batch would be the same if all came equally often
    before = scores(name, metric, logits, pairs, n_all)
    again = scores(name, metric, logits[order], pairs.select(order), n_all)
    noise = 1e-4 * max(1.0, logits.abs().max().item())
    wrong = ((again - before[order]).abs() > noise).nonzero().flatten().tolist()
    if wrong:
        row, prompt = wrong[0], order[wrong[0]]
        raise SweepError(
            f"Metric {name!r} gives prompt {int(pairs.index[prompt])} another number when it stands elsewhere in a "
            f"batch ({before[prompt]:.4g}, then {again[row]:.4g}), but {CALL}, {n} of {n_all} here: {MEND}."
        )


def _copy(pairs: PromptPairs) -> PromptPairs:
    """The same prompts in memory of their own; checked already, and so not made anew."""
    copied = copy.copy(pairs)
    vars(copied).update(
        clean_tokens=tuple(row.clone() for row in pairs.clean_tokens),
        corrupted_tokens=tuple(row.clone() for row in pairs.corrupted_tokens),
        answers=pairs.answers.clone(),
        roles={role: positions.clone() for role, positions in pairs.roles.items()},
        metadata=dict(pairs.metadata),
        index=pairs.index.clone(),
    )
    return copied
