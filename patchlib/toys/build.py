"""What every toy is made of: named numbers in the residual stream, heads written by hand, prompts of token ids."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_count, check_seed
from patchlib.errors import TaskError
from patchlib.tasks.induction import MOST_PROMPTS
from patchlib.tasks.pairs import PromptPairs

Edge = tuple[str, str]
"""(sender, receiver), such as ("L0H1", "k of L1KV2")."""
Read = Float[Tensor, "d_head d_model"]
Prompt = tuple[list[int], list[int], int, int]
"""Clean and corrupted tokens, the right and the wrong answer."""

N_TOKENS, N_POS, D_HEAD = 16, 12, 16
TOKEN, POS, NOTE, ANSWER = range(16), range(16, 28), range(28, 44), range(44, 60)
BOS, ASK, YES, NO, TRUE, FALSE = range(6)
FILLERS = range(6, N_TOKENS)
X, Y, END = 2, 4, 6
"""Where the prompts of gates have their inputs, and where they end."""
SHARP = 12.0
"""Attention score of what a head looks for, where all else has 0: of 9 keys, the one gets .9999 of its attention."""
GAIN = 4.0
"""Logits for a 1 in ANSWER."""
FIRST, SECOND = (0, 1), (1, 2)
"""(layer, head) of the two heads of every toy."""


@dataclass(frozen=True, eq=False)
class Toy:
    """A model whose circuit is known.

    Attributes:
        model: Ready to patch; it has no tokenizer.
        task: Prompts as token ids, whose answer the clean and the corrupted one turn around.
        edges: The circuit, edge by edge: (sender, receiver), named as ``attribute_edges`` names them.
        about: What the circuit does, and what can see it.

    Example:
        >>> toy = patchlib.toys.induction()
        >>> toy.task
        PromptPairs('toy: induction', 24 pairs of 9 tokens)
        >>> ("L0H1", "k of L1KV2") in toy.edges
        True
        >>> print(toy.about)
        L0H1 notes at each token the one before it. L1H2 looks for the note of the last token, and copies what is there.
        Where it looks is all or nothing, so that gradients are nearly 0: they miss the edges into its q and k.
    """

    model: TransformerBridge
    task: PromptPairs
    edges: frozenset[Edge]
    about: str


def unwritten_model(name: str, seed: int) -> TransformerBridge:
    """Embeddings and unembedding as the module's table says; all else is small and random."""
    settings = {
        "d_model": ANSWER.stop, "n_layers": 2, "n_heads": 4, "d_head": D_HEAD, "d_mlp": 8, "n_ctx": N_POS,
        "d_vocab": N_TOKENS, "act_fn": "relu", "normalization_type": None, "initializer_range": 0.1,
        "init_weights": True,
        "seed": check_seed(seed, error=TaskError),
    }  # fmt: skip
    model = TransformerBridge.boot_native(settings).eval().requires_grad_(False)
    model.cfg.model_name = name
    model.embed.original_component.weight[:] = read(TOKEN)
    model.pos_embed.original_component.weight[:] = read(POS)[:N_POS]
    model.unembed.original_component.weight[:] = GAIN * read(ANSWER)
    return model


def read(numbers: range | list[int], shift: int = 0) -> Read:
    """Weights that read these numbers of the stream into the first of a head's, or of a vocabulary, ``shift`` later."""
    weights = torch.zeros(D_HEAD, ANSWER.stop)
    for i, number in enumerate(numbers):
        weights[i + shift, number] = 1
    return weights


def write_head(model: TransformerBridge, head: Head, *, q: Read, k: Read, v: Read, o: Read) -> None:
    """Put a head's weights in place of its random ones; ``o`` is given as what reads the numbers it writes."""
    layer, index = head
    attn, rows = model.blocks[layer].attn, slice(index * D_HEAD, (index + 1) * D_HEAD)
    attn.q.original_component.weight[rows] = q * D_HEAD**0.5  # attention divides by this
    attn.k.original_component.weight[rows] = k
    attn.v.original_component.weight[rows] = v
    attn.o.original_component.weight[:, rows] = o.T


def questions(model: TransformerBridge, n_prompts: int, seed: int, roles: dict[str, int]) -> PromptPairs:
    """Prompts with "yes", and corrupted ones with "no", at these positions; what else stands there means nothing."""

    def prompt(i: int, rng: random.Random) -> Prompt:
        fillers = [BOS, *rng.sample(FILLERS, END - 1), ASK]
        clean, corrupted = (
            [said if pos in roles.values() else token for pos, token in enumerate(fillers)] for said in (YES, NO)
        )
        return clean, corrupted, TRUE, FALSE

    return drawn_task(model, n_prompts, seed, prompt, roles | {"END": END})


def drawn_task(
    model: TransformerBridge,
    n_prompts: int,
    seed: int,
    prompt: Callable[[int, random.Random], Prompt],
    roles: dict[str, int],
) -> PromptPairs:
    """The prompts that ``prompt`` draws, given their numbers; ``roles`` are at the same position in all of them."""
    n, rng = check_count("n_prompts", n_prompts, error=TaskError, most=MOST_PROMPTS), random.Random(seed)
    clean, corrupted, right, wrong = zip(*(prompt(i, rng) for i in range(n)), strict=True)
    answers = torch.tensor(list(zip(right, wrong, strict=True)))  # [example 2]
    named = {role: torch.full((n,), position) for role, position in roles.items()}
    return PromptPairs(clean, corrupted, answers, roles=named, name=model.cfg.model_name, seed=seed)
