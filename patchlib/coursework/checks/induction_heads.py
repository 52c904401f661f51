"""Checks of 04: the induction score, K-composition, the loss without heads, and where there is anything to copy."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, head_name, head_names
from patchlib.circuits.ablation import Ablation
from patchlib.circuits.attention import detector_scores
from patchlib.circuits.composition import k_composition, ov_factors, qk_factors
from patchlib.circuits.knockouts import ablated_losses
from patchlib.coursework.checks.library import quietly
from patchlib.coursework.checks.texts import mended_text as mended_text
from patchlib.coursework.checks.texts import prefix_matches as prefix_matches
from patchlib.coursework.checks.texts import seed_of
from patchlib.coursework.checks.texts import text_that_shows_nothing as text_that_shows_nothing
from patchlib.coursework.checks.texts import tokens_of as tokens_of
from patchlib.coursework.compare import call, compare, right
from patchlib.patching.sites import SITES
from patchlib.tasks.induction import repeated_tokens
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import text_of as text_of

N_ROWS, N_OTHERS, SEQ_LEN = 5, 12, 14
"""Rows, rows in which nothing comes twice, and tokens in a copy: others than the notebook has."""
Cache = Mapping[str, Float[Tensor, "example pos head d_head"]]


def induction_scores(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``induction_scores(model, rows, layer)``, ``[head]``, in the two layers where wrong ones show most.

    Args:
        answer: The student's function.
        model: Any.
        task: Its seed draws the rows.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    seed, seq_len = seed_of(task) + 11, _seq_len(model)
    rows = repeated_tokens(model, N_ROWS, seq_len, seed)
    scores = detector_scores(model, N_ROWS, seq_len, seed).induction
    layers = [int(layer) for layer in scores.max("head").to_series().nlargest(2).index]
    for layer in layers:
        got, where = call(answer, model, rows, layer), f"layer {layer}, rows of twice {seq_len} tokens"
        likely = _likely_scores(model, rows, layer)
        compare(got, scores.sel(layer=layer), likely, where, name="induction_scores", atol=1e-4)
    right("induction_scores", f"layers {' and '.join(map(str, layers))}, {N_ROWS} rows of twice {seq_len} tokens")


def _likely_scores(model: TransformerBridge, rows: PromptPairs, layer: int) -> dict[str, Any]:
    copy, n_pos = int(rows.roles["copy"][0]), len(rows.clean_tokens[0])
    seq_len = n_pos - copy

    def stripe(back: int, first: int = copy, layer: int = layer, summed: bool = False) -> Callable[[], Tensor]:
        def scores() -> Float[Tensor, " head"]:
            dest = torch.arange(first, n_pos)
            looks = _pattern(model, rows, layer)[:, :, dest, dest - back].mean(0)  # [head dest]
            return looks.sum(-1) if summed else looks.mean(-1)

        return scores

    return {
        "induction_scores looks at the same token in the first copy, which is a duplicate token head's score: an "
        "induction head looks one further, at what FOLLOWED it": stripe(seq_len),
        "induction_scores looks two behind the same token: one position too late": stripe(seq_len - 2),
        "induction_scores looks at the token before, which is a previous token head's score": stripe(1),
        "induction_scores begins one token early, at the last of the first copy, where nothing has come twice yet: "
        "begin at rows.roles['copy']": stripe(seq_len - 1, copy - 1),
        "induction_scores leaves out the second copy's first token, which can look back as well": stripe(
            seq_len - 1, copy + 1
        ),
        "induction_scores has dest and src the wrong way round: nothing looks at what comes later, so that all is 0": (
            np.zeros(int(model.cfg.n_heads))
        ),
        "induction_scores is a sum over places and not their mean": stripe(seq_len - 1, summed=True),
        "induction_scores is that of the layer below: layers count from 0": stripe(
            seq_len - 1, layer=max(0, layer - 1)
        ),
    }


def _pattern(model: TransformerBridge, rows: PromptPairs, layer: int) -> Float[Tensor, "example head dest src"]:
    name = SITES["pattern"].hook_name(layer)
    with torch.no_grad():
        pattern: Tensor = model.run_with_cache(_tokens(model, rows), names_filter=name)[1][name]
    return pattern.float().cpu()


def matrices(
    model: TransformerBridge, writer: Head, reader: Head
) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, "d_model d_model"]]:
    """The OV matrix of an earlier head and the QK matrix of a later one, the norms' gains before them folded in.

    Args:
        model: Any.
        writer: (layer, head) of the earlier head.
        reader: (layer, head) of the later one.

    Returns:
        ``w_ov``, what is read on its left and what is written on its right; ``w_qk``, queries and keys.
    """
    with torch.no_grad():
        (values, out), (keys, queries) = ov_factors(model, writer[0]), qk_factors(model, *reader)
        w_ov, w_qk = values[writer[1]] @ out[writer[1]], (keys @ queries).T
    return w_ov.cpu(), w_qk.cpu()


def k_composition_score(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``k_composition_score(w_ov, w_qk)`` for some pairs of heads.

    Args:
        answer: The student's function.
        model: Any with two layers or more.
        task: Its seed draws the heads.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    draw = random.Random(f"{seed_of(task)} composition")
    layer = draw.randrange(1, n_layers)
    reader, writers = (layer, draw.randrange(n_heads)), [(draw.randrange(layer), h) for h in range(min(3, n_heads))]
    scores: Any = k_composition(model, [reader], n_random=1).set_index(["layer", "head_index"]).score
    given = [matrices(model, writer, reader) for writer in writers]

    def wrong(product: Callable[[Tensor, Tensor], Tensor], norm: Callable[[Tensor], Tensor] = torch.norm) -> Any:
        return lambda: [float(norm(product(ov, qk)) / (norm(ov) * norm(qk))) for ov, qk in given]

    def spectral(matrix: Tensor) -> Tensor:
        largest: Tensor = torch.linalg.matrix_norm(matrix, ord=2)
        return largest

    expected = np.array([scores[writer] for writer in writers])
    likely = {
        "k_composition_score is that of Q-composition: without the transpose, w_ov stands on the queries' side": (
            wrong(lambda ov, qk: ov @ qk)
        ),
        "k_composition_score multiplies w_qk @ w_ov, as if w_ov read what w_qk gives: transpose the one that is "
        "written into the keys": wrong(lambda ov, qk: qk @ ov),
        "k_composition_score has w_ov on its reading side: what the head WRITES is on the right of w_ov": (
            wrong(lambda ov, qk: ov.T @ qk.T)
        ),
        "k_composition_score has w_ov on its reading side, and the queries' side of w_qk": wrong(
            lambda ov, qk: ov.T @ qk
        ),
        "k_composition_score is not divided by the sizes of the two matrices": lambda: [
            float((qk @ ov.T).norm()) for ov, qk in given
        ],
        "k_composition_score is a ratio of squares: take the roots": expected**2,
        "k_composition_score takes the spectral norm, which is the largest singular value: take the Frobenius norm": (
            wrong(lambda ov, qk: qk @ ov.T, spectral)
        ),
    }
    where = f"{head_names(writers)} into the keys of {head_name(*reader)}"
    got = [call(answer, *both) for both in given]
    compare(got, expected, likely, where, name="k_composition_score", atol=1e-5)
    right("k_composition_score", where)


def loss_without(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``loss_without(model, rows, others, heads)``: three heads with a high induction score, in two layers.

    Args:
        answer: The student's function.
        model: Any with two layers or more.
        task: Its seed draws the rows.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    seed, seq_len = seed_of(task) + 21, _seq_len(model)
    rows = repeated_tokens(model, N_ROWS, seq_len, seed)
    copy = int(rows.roles["copy"][0])
    others = repeated_tokens(model, N_OTHERS, seq_len, seed + 1).reversed()
    scores: Any = detector_scores(model, N_ROWS, seq_len, seed).induction.to_series()
    (layer, first), *_ = scores.nlargest(1).index
    (_, second), *_ = scores.drop((layer, first)).loc[[layer]].nlargest(1).index
    elsewhere, *_ = scores.drop(layer, level="layer").nlargest(1).index
    heads: list[Head] = [(int(at), int(head)) for at, head in ((layer, first), (layer, second), elsewhere)]
    ablation = quietly(Ablation, model, rows, reference=others)
    expected = float(ablated_losses(ablation, {"heads": heads}, copy).metric_mean["heads"])

    @functools.cache
    def of(given: str) -> Cache:
        return _outputs(model, others if given == "others" else rows)

    def losses(z: Callable[[Tensor], Tensor], given: str = "others", taken: list[Head] = heads) -> Tensor:
        return _losses(
            model, rows, {name: z(of_layer) for name, of_layer in of(given).items()}, taken
        )  # [example pos-1]

    def mean(z: Float[Tensor, "example pos head d_head"]) -> Float[Tensor, "pos head d_head"]:
        return z.mean(0)

    def late() -> Tensor:
        """Where every hook writes what the last one was to write."""
        last = mean(of("others")[SITES["z"].hook_name(heads[-1][0])])
        taken = [(at, heads[-1][1]) for at, _ in heads]
        return _losses(model, rows, {SITES["z"].hook_name(at): last for at, _ in taken}, taken)

    every = [(layer, head) for layer in {layer for layer, _ in heads} for head in range(int(model.cfg.n_heads))]
    likely = {
        "loss_without is the loss with all heads: is your hook in fwd_hooks, and does it change z?": lambda: losses(
            mean, taken=[]
        )[:, copy:].mean(),
        "loss_without counts the second copy's first token, which nothing tells: entry i of the losses is that of the "
        "token at i + 1": lambda: losses(mean)[:, copy - 1 :].mean(),
        "loss_without is the mean over both copies: take the second": lambda: losses(mean).mean(),
        "loss_without is the first copy's loss": lambda: losses(mean)[:, : copy - 1].mean(),
        "loss_without is the change of the loss, and not the loss": lambda: (
            losses(mean)[:, copy:].mean() - losses(mean, taken=[])[:, copy:].mean()
        ),
        "loss_without gives the heads zeros: give them their mean over the other rows": lambda: losses(
            lambda z: 0 * z[0]
        )[:, copy:].mean(),
        "loss_without gives the heads their mean over the rows themselves, in which everything comes twice: take it "
        "over `others`": lambda: losses(mean, "rows")[:, copy:].mean(),
        "loss_without takes the mean over positions too: keep them, as heads do something else at the start of a row": (
            lambda: losses(lambda z: z.mean((0, 1)).expand(z.shape[1:]))[:, copy:].mean()
        ),
        "loss_without gives the heads what they give on one other row: take the mean over all of these": lambda: losses(
            lambda z: z[0]
        )[:, copy:].mean(),
        "loss_without knocks out all heads of these layers: index the head, z[:, :, head]": lambda: losses(
            mean, taken=every
        )[:, copy:].mean(),
        "loss_without gives every layer the last head's mean: a function made in a loop sees its last values, so "
        "give it them as defaults, head=head": lambda: late()[:, copy:].mean(),
        "loss_without knocks out the last of the heads only": lambda: losses(mean, taken=heads[-1:])[:, copy:].mean(),
        "loss_without knocks out the first of the heads only": lambda: losses(mean, taken=heads[:1])[:, copy:].mean(),
    }
    where = f"without {head_names(heads)}, {N_ROWS} rows of twice {seq_len} tokens"
    got = call(answer, model, rows, others, list(heads))
    compare(got, expected, likely, where, name="loss_without", atol=1e-4, rtol=1e-4)
    right("loss_without", where)


def _outputs(model: TransformerBridge, rows: PromptPairs) -> Cache:
    names = [SITES["z"].hook_name(layer) for layer in range(int(model.cfg.n_layers))]
    with torch.no_grad():
        _, cache = model.run_with_cache(_tokens(model, rows), names_filter=names)
    return {name: cache[name] for name in names}


def _losses(
    model: TransformerBridge, rows: PromptPairs, z: Mapping[str, Tensor], heads: list[Head]
) -> Float[Tensor, "example pos-1"]:
    """Losses where some heads give what ``z`` (``[pos head d_head]`` by hook name) has for them."""

    def write(activation: Float[Tensor, "example pos head d_head"], hook: Any, name: str, head: int) -> Tensor:
        activation[:, :, head] = z[name][:, head]
        return activation

    names = [(SITES["z"].hook_name(layer), head) for layer, head in heads]
    hooks = [(name, functools.partial(write, name=name, head=head)) for name, head in names]
    how = {"return_type": "loss", "loss_per_token": True}
    with torch.no_grad():
        losses: Tensor = model.run_with_hooks(_tokens(model, rows), fwd_hooks=hooks, **how)
    return losses.float().cpu()


def _seq_len(model: TransformerBridge) -> int:
    return min(SEQ_LEN, int(model.cfg.n_ctx) // 2 - 1)


def _tokens(model: TransformerBridge, rows: PromptPairs) -> Int[Tensor, "example pos"]:
    return rows.clean_batch().to(model.cfg.device)
