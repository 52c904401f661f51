"""Prompts and models that several test files share."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import patchlib
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell
from patchlib.tasks.tokens import tokenize
from tests.tiny import load_tiny

sweep = functools.partial(patchlib.sweep, progress=False)
ATOL = 1e-4  # float32; the bound


def make_pairs(model, n=4, length=9, start=5, seed=0) -> patchlib.PromptPairs:
    """Random prompts that differ from `start` on, in some positions."""
    rng = torch.Generator().manual_seed(seed)
    clean = torch.randint(2, model.cfg.d_vocab, (n, length), generator=rng)
    corrupted = clean.clone()
    corrupted[:, start] = (clean[:, start] - 2 + 7) % (model.cfg.d_vocab - 2) + 2
    corrupted[: n // 2, -2] = (clean[: n // 2, -2] - 2 + 3) % (model.cfg.d_vocab - 2) + 2
    answers = torch.stack([torch.arange(n) + 2, torch.arange(n) + 40], dim=1)
    roles = {
        "first": torch.full((n,), start),
        "varied": torch.arange(n) % 3 + start,
        "END": torch.full((n,), length - 1),
    }
    return patchlib.PromptPairs(clean, corrupted, answers, roles=roles, name="random")


def telling_answers(clean: torch.Tensor, corrupted: torch.Tensor) -> list[int]:
    """The answers in which two runs' logits differ most, among those of which the clean one has the right one."""
    in_clean, in_both = (logits[:, None] - logits for logits in (clean, clean - corrupted))  # [right wrong]
    return list(divmod(int(torch.where(in_clean > in_both / 3, in_both, 0).argmax()), len(clean)))


def with_contrast(model: TransformerBridge, pairs: patchlib.PromptPairs) -> patchlib.PromptPairs:
    """The same prompts with the answers that the two runs differ in most: a random model's clean contrast."""
    with torch.no_grad():
        answers = [
            telling_answers(model(clean[None])[0, -1], model(corrupted[None])[0, -1])
            for clean, corrupted in zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)
        ]
    return replace(pairs, answers=torch.tensor(answers))


def contrast_pairs(model: TransformerBridge, n: int = 4, **how) -> patchlib.PromptPairs:
    """Random prompts of one length that give a contrast."""
    return with_contrast(model, make_pairs(model, n=n, **how))


def alike_pairs(model: TransformerBridge, n: int = 16, seed: int = 3) -> patchlib.PromptPairs:
    """Prompts that differ in their second token alone, so that a random model's heads do the same in all of them."""
    pairs = make_pairs(model, n=1, seed=seed)
    second = torch.randint(2, model.cfg.d_vocab, (n,), generator=torch.Generator().manual_seed(1))
    rows = []
    for batch in (pairs.clean_batch(), pairs.corrupted_batch()):
        rows.append(batch.repeat(n, 1))
        rows[-1][:, 1] = second
    roles = {role: positions.repeat(n) for role, positions in pairs.roles.items()}
    with torch.no_grad():
        clean, corrupted = (model(batch)[:, -1].mean(0) for batch in rows)
    answers = torch.tensor([telling_answers(clean, corrupted)]).repeat(n, 1)
    return patchlib.PromptPairs(*rows, answers, roles=roles, name="alike")


def mixed_pairs(model: TransformerBridge) -> patchlib.PromptPairs:
    """Prompts of 9, 7, 9, 7 and 9 tokens, which part at position 5 or 2, with the roles of both."""
    long, short = make_pairs(model, n=3, length=9, start=5), make_pairs(model, n=2, length=7, start=2, seed=1)
    order = [0, 3, 1, 4, 2]
    both = {
        name: [(*getattr(long, name), *getattr(short, name))[i] for i in order]
        for name in ("clean_tokens", "corrupted_tokens", "answers")
    }
    both["answers"] = torch.stack(both["answers"])
    roles = {role: torch.cat([long.roles[role], short.roles[role]])[order] for role in long.roles}
    return with_contrast(model, patchlib.PromptPairs(**both, roles=roles, name="mixed"))


def text_pairs(model: TransformerBridge, prompts: list[tuple[str, str]], **more) -> patchlib.PromptPairs:
    """Pairs from texts, with the answers Mary and John."""
    answers = torch.tensor([[model.to_single_token(" Mary"), model.to_single_token(" John")]] * len(prompts))
    clean, corrupted = ([tokenize(model, pair[i]) for pair in prompts] for i in (0, 1))
    return patchlib.PromptPairs(clean, corrupted, answers, **more)


def broken(model: TransformerBridge, value: float) -> TransformerBridge:
    """A copy of the model with this value in all of its last layer's weights."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.blocks[-1].parameters():
            parameter.fill_(value)
    return model


@functools.cache
def taught(kind: str = "gpt2") -> TransformerBridge:
    """A copy of a tiny model, trained for a second on the five built-in IOI prompts: the task has a contrast."""
    model = copy.deepcopy(load_tiny(kind))
    pairs = patchlib.IOIDataset(model).to_pairs(model)
    tokens = torch.cat([pairs.clean_batch(), pairs.corrupted_batch()])
    answers = torch.cat([pairs.answers[:, 0], pairs.answers[:, 1]])
    model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.original_model.parameters(), lr=0.01)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(tokens)[:, -1], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


@contextmanager
def computed_cells() -> Iterator[list[Cell]]:
    """The cells that fast sweeps compute, and do not take from a checkpoint."""
    honest, cells = PatchedForwards.patched_logits, []

    def counted(self, batch):
        cells.extend(batch if self.fast else [])
        return honest(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchedForwards, "patched_logits", counted)
        yield cells
