"""Answers that mean another token than was thought: what does the model itself rank where they are read?"""

import warnings
from collections.abc import Iterable
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import user_level
from patchlib.errors import AnswerWarning
from patchlib.tasks.pairs import PromptPairs

MOST_LOOKED_AT = 4
"""Prompts of a task that are run for it: who leaves a space out does so in all of them."""
TOP = 5
TIMES, TIMES_AFTER_SPACE = 10, 2
"""The other spelling must be among the model's first TOP, and so many times as probable as the answer that was given:
a prompt that ends in a space is seldom meant, so that less is enough there."""
OPENING = "\"'([{\u201c\u2018"
"""After these, and after a space or a new line, a word has no space before it."""

_looked_at: WeakKeyDictionary[PromptPairs, WeakSet[TransformerBridge]] = WeakKeyDictionary()


def warn_of_answers(model: TransformerBridge, pairs: PromptPairs) -> None:
    """AnswerWarning where the model ranks an answer in another spelling, with or without the space before it.

    Only what looks wrong is run: answers without that space, and prompts that end in one. Each task is looked at once.
    """
    seen = _looked_at.setdefault(pairs, WeakSet())
    if model in seen or model.tokenizer is None:  # without one nothing is known of spellings
        return
    seen.add(model)
    for kind, rows, answers in (("right", pairs.clean_tokens, 0), ("wrong", pairs.corrupted_tokens, 1)):
        doubts = _doubts(model, rows, pairs.answers[:, answers].tolist())
        if doubt := next(iter(doubts), None):  # the others of the set are alike
            warnings.warn(f"{pairs.name!r}: the {kind} answer {doubt}", AnswerWarning, stacklevel=user_level())


def _doubts(model: TransformerBridge, rows: Iterable[Int[Tensor, " pos"]], answers: Iterable[int]) -> Iterable[str]:
    """What is doubtful about the answers, in the order of the prompts that they follow."""
    bos, eos = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    n_looked_at = 0
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if answer == bos != eos:
            yield f"of pair {i} is BOS, with which no prompt goes on: take model.to_single_token(text)."
        end, text = model.to_string(row[-1:]), model.to_string([answer])
        ends_in_space = len(row) > 1 and end.strip(" \t") == ""
        no_space = not end or end[-1].isspace() or end[-1] in OPENING  # a word after it has no space of its own
        other = _single(model, text.lstrip() if text.startswith(" ") else f" {text}")
        if n_looked_at == MOST_LOOKED_AT or not (
            ends_in_space or (other is not None and no_space == text.startswith(" "))
        ):
            continue
        n_looked_at += 1
        spellings = [token for token in (answer, other) if token is not None]
        given = _probabilities(model, row)
        without = _probabilities(model, row[:-1]) if ends_in_space else given
        best = max(spellings, key=lambda token: float(without[token]))
        times = TIMES_AFTER_SPACE if ends_in_space else TIMES
        is_ranked = best in without.topk(min(TOP, len(without))).indices.tolist()
        if is_ranked and (ends_in_space or best != answer) and without[best] >= times * given[answer]:
            cause = f"prompt {i} ends in a space: without it" if ends_in_space else "there"
            yield (
                f"{text!r} of pair {i} has probability {given[answer]:.2g}; {cause} the model ranks "
                f"{model.to_string([best])!r}, with {without[best]:.2g}. Is that the token that you mean?"
            )


def _single(model: TransformerBridge, text: str) -> int | None:
    """The token that this text is, if it is one."""
    ids = model.tokenizer([text], add_special_tokens=False)["input_ids"][0] if text else []
    return ids[0] if len(ids) == 1 else None


def _probabilities(model: TransformerBridge, row: Int[Tensor, " pos"]) -> Float[Tensor, " d_vocab"]:
    """Of what comes next, on the CPU."""
    with torch.no_grad():
        logits: Tensor = model(row[None].to(model.cfg.device))[0, -1].float().cpu()
    return logits.softmax(-1)
