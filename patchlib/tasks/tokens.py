"""Text to tokens without surprises: BOS once, words that are one token, rows that line up."""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_count, check_kind, check_text, first_line, listed, shown
from patchlib.errors import AlignmentError, TaskError
from patchlib.models.context import longest_prompt

MAX_SHOWN = 40
"""Positions that an alignment error prints: about a screenful around the one where the prompts part."""
CARRIER = "and"
"""A word before the one that is looked up, so that it is tokenised as in the middle of a sentence."""


def as_ids(values: Any, name: str) -> Int[Tensor, "*shape"]:
    """Token ids or indices as an int64 tensor on the CPU; TaskError when they are not integers."""
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TaskError(f"The {name} cannot be read as whole numbers ({first_line(error)}).") from error
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
        raise TaskError(f"The {name} must be whole numbers, not {tensor.dtype}.")
    return tensor.to(device="cpu", dtype=torch.long, copy=True)  # what was given may be written into later


def as_row(values: Any, name: str) -> Int[Tensor, " pos"]:
    """One prompt's token ids; a leading axis of 1, as `model.to_tokens` gives it, is dropped."""
    row = as_ids(values, name)
    if row.ndim == 2 and len(row) == 1:
        row = row[0]
    if row.ndim != 1 or not len(row):
        raise TaskError(f"The {name} must be a row of one or more ids, but has shape {list(row.shape)}.")
    return row


def as_rows(values: Any, name: str) -> tuple[Int[Tensor, " pos"], ...]:
    """Prompts' token ids, a row each, from a tensor or from rows that may differ in length."""
    if (
        isinstance(values, str | Mapping)
        or not isinstance(values, Iterable)
        or (hasattr(values, "ndim") and not values.ndim)
    ):
        raise TaskError(f"The {name} prompts must be rows of token ids, not {shown(values)}.")
    return tuple(as_row(row, f"{name} prompt {i}") for i, row in enumerate(values))


def check_length(model: TransformerBridge, longest: int, name: str) -> None:
    """TaskError where a prompt of so many tokens is longer than the model's context."""
    n_ctx = longest_prompt(model)
    if longest > n_ctx:
        raise TaskError(
            f"{name!r} has a prompt of {longest} tokens, but {model.cfg.model_name} reads at most {n_ctx}: shorten it."
        )


def check_rows(
    model: TransformerBridge, rows: Sequence[Int[Tensor, " pos"]], name: str, keep_pads: bool = False
) -> None:
    """TaskError where a model cannot read some rows of token ids, or would read as text what only fills them up.

    Args:
        model: Its vocabulary, its context and its tokenizer's special tokens are what rows are checked against.
        rows: Of one set of prompts, clean and corrupted.
        name: What the error calls them.
        keep_pads: Rows may begin and end in special tokens; only BOS twice is refused still.
    """
    check_length(model, max(map(len, rows)), name)
    d_vocab, ids = int(model.cfg.d_vocab), torch.cat(list(rows))
    outside = ids[(ids < 0) | (ids >= d_vocab)]
    if len(outside):
        raise TaskError(
            f"{name!r} has the token id {outside[0].item()}, but {model.cfg.model_name} knows 0 to {d_vocab - 1}: "
            "tokenise with this model's tokenizer."
        )
    tokenizer = model.tokenizer
    bos, eos, pad = (getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad"))
    begins = [row[:2].tolist() for row in rows]
    if bos is not None and [bos, bos] in begins:
        raise TaskError(f"{name!r} has a prompt that begins with BOS twice: give it once, or none where it is added.")
    if keep_pads:
        return
    # GPT-2 has one token for BOS, EOS and padding: at the beginning of every row it is BOS, of some rows it fills up.
    n_begin = sum(begin[0] == pad for begin in begins)
    filled = n_begin > 0 if pad != bos else 0 < n_begin < len(rows)
    # torch's pad_sequence fills up with zeros, whatever token that is.
    filled |= any(int(row[-1]) in {bos, eos, pad} or (len(row) > 1 and row[-2:].tolist() == [0, 0]) for row in rows)
    if filled:
        raise TaskError(
            f"{name!r} has prompts that begin or end in padding, which would be read as text: give each as a row of "
            "its own length, [model.to_tokens(text)[0] for text in texts]; or set keep_pads=True, if you mean these."
        )


def check_pair(
    pair_idx: int, clean: Int[Tensor, " pos"], corrupted: Int[Tensor, " pos"], show: Callable[[int], str]
) -> None:
    """Raise AlignmentError where the rows differ in length, TaskError where they do not differ at all."""
    if torch.equal(clean, corrupted):
        raise TaskError(
            f"The clean and the corrupted prompt of pair {pair_idx} are the same tokens, so a patch cannot "
            "change anything: let them differ in one thing."
        )
    if len(clean) != len(corrupted):
        raise AlignmentError(
            f"The clean prompt of pair {pair_idx} has {len(clean)} tokens and its corrupted prompt "
            f"{len(corrupted)}, but patching needs token against token: choose words that take as many.\n"
            + _side_by_side(clean.tolist(), corrupted.tolist(), show)
        )


def check_spans(
    spans: Any, n_tokens: Sequence[int], taken: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Named spans as tuples; TaskError for a span that has no token, or one outside its prompt."""
    given = check_kind("spans", spans, Mapping, "give {name: token indices of each prompt}", TaskError)
    checked = {}
    for name, rows in given.items():
        check_text("A span's name", name, TaskError)
        rows = [[check_count("A token index", i, 0, TaskError) for i in listed(row)] for row in listed(rows)]
        fits = len(rows) == len(n_tokens) and all(
            row and max(row) < n and len(set(row)) == len(row) for row, n in zip(rows, n_tokens, strict=True)
        )
        if not fits or name in taken:
            why = "is the name of a role too" if name in taken else "must give tokens inside each prompt, each once"
            raise TaskError(f"Span {name!r} {why}.")
        checked[name] = tuple(map(tuple, rows))
    return checked


def _side_by_side(clean: list[int], corrupted: list[int], show: Callable[[int], str]) -> str:
    pairs = list(itertools.zip_longest(clean, corrupted))
    parting = next(i for i, (left, right) in enumerate(pairs) if left != right)
    first = max(0, min(parting - MAX_SHOWN // 4, len(pairs) - MAX_SHOWN))
    shown = pairs[first : first + MAX_SHOWN]
    texts = [["(nothing)" if token is None else show(token) for token in pair] for pair in shown]
    width = max(len(left) for left, _ in [("clean", "corrupted"), *texts])
    lines = [f"{'':>8}  {'clean':<{width}}  corrupted"]
    if first:
        lines.append(f"{'...':>8}  ({first} equal positions left out)")
    for i, (left, right) in enumerate(texts, start=first):
        mark = "  <- they part here" if i == parting else ""
        lines.append(f"{i:>8}  {left:<{width}}  {right}{mark}")
    left_out = len(pairs) - first - len(shown)
    if left_out:
        lines.append(f"{'...':>8}  ({left_out} more)")
    return "\n".join(lines)


def tokenizer_of(model: TransformerBridge) -> Any:
    """The model's tokenizer; TaskError where it has none, as one that was built by hand."""
    if model.tokenizer is None:
        raise TaskError(
            f"The model {model.cfg.model_name!r} has no tokenizer, which text needs: give token ids as PromptPairs, or "
            "load it with load_model(..., tokenizer=)."
        )
    return model.tokenizer


def text_of(model: TransformerBridge, ids: Int[Tensor, " pos"] | Sequence[int]) -> str:
    """Tokens as text; their ids where the model has no tokenizer."""
    return str(model.to_string(ids)) if model.tokenizer is not None else " ".join(str(int(token)) for token in ids)


def tokenize(model: TransformerBridge, text: str) -> Int[Tensor, " pos"]:
    """One prompt's tokens on the CPU, with BOS where the model's default has it but never twice, uncut."""
    tokenizer = tokenizer_of(model)
    row: Tensor = model.to_tokens(check_text("A prompt", text, TaskError), truncate=False)[0].cpu()
    bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
    # A text that has BOS written out would get a second one, which the model never saw in training.
    has_bos = bos is not None and text.startswith(bos)
    return row[1:] if has_bos and row[:2].tolist() == [bos_id, bos_id] else row


def tokenize_all(model: TransformerBridge, texts: Sequence[str]) -> list[list[int]]:
    """``tokenize`` of many prompts, in one call of the tokenizer where that gives the same tokens."""
    tokenizer = tokenizer_of(model)
    checked = [check_text("A prompt", text, TaskError) for text in texts]
    bos = tokenizer.bos_token
    ordinary = [text for text in checked if bos is None or not text.startswith(bos)]
    rows: dict[str, list[int]] = {}
    if ordinary:
        ids = tokenizer(ordinary, add_special_tokens=False)["input_ids"]
        ends = {text: tokenize(model, text).tolist() for text in (ordinary[0], ordinary[-1])}
        before = ends[ordinary[0]][: len(ends[ordinary[0]]) - len(ids[0])]
        if ends == {ordinary[0]: before + ids[0], ordinary[-1]: before + ids[-1]}:
            rows = {text: before + list(row) for text, row in zip(ordinary, ids, strict=True)}
    return [rows[text] if text in rows else tokenize(model, text).tolist() for text in checked]


def following(model: TransformerBridge, before: str, answer: str) -> list[int]:
    """An answer's tokens behind a text; its own, where they would begin inside the text's last token."""
    tokenizer = tokenizer_of(model)
    start, whole, alone = tokenizer([before or answer, before + answer, answer], add_special_tokens=False)["input_ids"]
    follows = bool(before) and whole[: len(start)] == start and len(whole) > len(start)
    return list(whole[len(start) :] if follows else alone)


def tokenizer_name(model: TransformerBridge) -> str:
    """The tokenizer's name, without the folder it was loaded from, and what tells its vocabulary from others."""
    tokenizer = tokenizer_of(model)
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    name = re.split(r"[/\\]", str(getattr(tokenizer, "name_or_path", "")).rstrip("/\\"))[-1] or "tokenizer"
    return f"{name}:{hashlib.sha256(vocabulary).hexdigest()[:8]}"


def single_tokens(
    model: TransformerBridge, words: Collection[str], kind: str = "words", least: int = 0
) -> dict[str, int]:
    """Word -> token id, for those words that are one token inside a sentence; the others are left out.

    Unknown words, which some tokenizers turn into one and the same token, are left out too.

    Args:
        model: Whose tokenizer reads them.
        words: Without the space before them.
        kind: What an error calls the words.
        least: How many must be single tokens; TaskError where fewer are.
    """
    tokenizer = tokenizer_of(model)
    (stem,) = tokenizer([CARRIER], add_special_tokens=False)["input_ids"]
    rows = tokenizer([f"{CARRIER} {word}" for word in words], add_special_tokens=False)["input_ids"]
    last = {word: row[-1] for word, row in zip(words, rows, strict=True) if row[:-1] == stem}
    single = {word: token for word, token in last.items() if tokenizer.decode([token]).strip() == word}
    if len(single) < least:
        raise TaskError(
            f"Only {len(single)} of {len(words)} {kind} are single tokens for this model; {least} are needed: "
            "use a model with a larger vocabulary, another kind of prompt, or your own prompts as PromptPairs."
        )
    return single
