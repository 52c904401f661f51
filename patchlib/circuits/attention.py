"""Where heads look: scores of the textbook heads, patterns, attention between named positions."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_choice, check_heads, head_name
from patchlib.models.check import check_model
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.sites import SITES, get_site
from patchlib.patching.unpatched import Hooks
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.induction import repeated_tokens
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import as_row, check_rows, text_of, tokenize


def detector_scores(model: TransformerBridge, n_rows: int = 4, seq_len: int = 50, seed: int = 0) -> xr.Dataset:
    """How much each head attends as the three textbook heads do, on random tokens that come twice.

    Each score is the mean attention along one stripe of the pattern (Elhage et al. 2021; Olsson et al. 2022,
    "In-context learning and induction heads", appendix on head activation evaluators), between 0 and 1:
    ``previous_token`` from each token to the one before it, ``duplicate_token`` from each token of the second copy
    to itself in the first, ``induction`` (prefix matching) from each token of the second copy to the one after that.

    Args:
        model: In eval mode.
        n_rows: How many rows of random tokens.
        seq_len: Tokens in one copy.
        seed: Of the draw.

    Returns:
        The three scores, over layer (in hybrid models those that have heads) and head.

    Raises:
        SweepError: A model in train mode.
        TaskError: As ``repeated_tokens``.

    Example:
        >>> scores = patchlib.detector_scores(model, n_rows=2)
        >>> scores.induction.to_series().nlargest(3).round(1)
        layer  head
        18     6       0.9
        17     3       0.8
               4       0.7
        Name: induction, dtype: float32
    """
    check_model(model)
    rows = repeated_tokens(model, n_rows, seq_len, seed).clean_batch()
    bos = rows.shape[1] > 2 * seq_len
    offsets = {"previous_token": 1, "duplicate_token": seq_len, "induction": seq_len - 1}

    def stripes(pattern: Float[Tensor, "example head dest src"]) -> Float[Tensor, "score head"]:
        """Mean attention to the token `offset` before, over those that have one after BOS."""
        diagonals = {name: pattern.diagonal(-offset, -2, -1)[..., int(bos) :] for name, offset in offsets.items()}
        # The first is the last token of the first copy: it looks as far back, but nothing has come twice yet.
        diagonals["induction"] = diagonals["induction"][..., 1:]
        return torch.stack([diagonal.mean((0, -1)) for diagonal in diagonals.values()])

    layers = get_site(model, "pattern").layers(model)
    scores = _of_patterns(model, rows, layers, stripes)  # [layer score head]
    coords = {"layer": layers, "score": list(offsets), "head": range(scores.shape[2])}
    by_score = xr.DataArray(scores.numpy(), coords, list(coords)).to_dataset("score")
    return by_score.assign_attrs(n_rows=n_rows, seq_len=seq_len, seed=seed, prepend_bos=str(bos))


def attention_patterns(
    model: TransformerBridge, prompt: str | Int[Tensor, " pos"], layer_heads: Iterable[Head]
) -> xr.DataArray:
    """Where some heads look from each token of a prompt.

    Args:
        model: In eval mode.
        prompt: A text, with BOS put first where the model wants one, or a row of token ids, which is run as it is.
        layer_heads: (layer, head) pairs.

    Returns:
        Over cell (such as ``"L9H6"``), dest and src, between 0 and 1; the coordinate ``token`` over src says what
        stands there.

    Raises:
        SweepError: A head that there is not, none at all, or a model in train mode.
        TaskError: An empty text, or tokens that the model cannot read.

    Example:
        >>> patterns = patchlib.attention_patterns(model, "red car sun boat tree dog red car sun", [(17, 4)])
        >>> from_last = patterns.sel(cell="L17H4").isel(dest=-1, src=slice(1, None))  # BOS is where heads rest
        >>> str(from_last.token.values[from_last.values.argmax()])  # what followed "sun" the first time
        ' boat'
    """
    check_model(model)
    heads = check_heads(layer_heads, int(model.cfg.n_layers), int(model.cfg.n_heads))
    row = tokenize(model, prompt) if isinstance(prompt, str) else as_row(prompt, "prompt")
    check_rows(model, [row], "The prompt")
    layers = sorted({layer for layer, _ in heads})
    get_site(model, "pattern", layers)
    patterns = _of_patterns(model, row[None], layers, lambda pattern: pattern[0])  # [layer head dest src]
    names, positions = [head_name(*head) for head in heads], range(len(row))
    tokens = [text_of(model, [token]) for token in row.tolist()]
    coords = {"cell": names, "dest": positions, "src": positions, "token": ("src", tokens)}
    values = torch.stack([patterns[layers.index(layer), head] for layer, head in heads]).numpy()
    return xr.DataArray(values, coords, ["cell", "dest", "src"], name="attention")


def attention_between(model: TransformerBridge, task: Task, dest: str) -> xr.DataArray:
    """How much each head attends from one named position to each of them, on the clean prompts.

    Args:
        model: In eval mode.
        task: With roles.
        dest: The role that looks, for example ``"END"``.

    Returns:
        Over layer (in hybrid models those that have heads), head, role (looked at) and example, between 0 and 1; 0 for
        roles after ``dest``.

    Raises:
        SweepError: A role that the task does not have, or a model in train mode.
        TaskError: The task is unusable.

    Example:
        >>> attention = patchlib.attention_between(model, task, "END").mean("example")
        >>> attention.sel(layer=23, head=3).to_series().round(1)
        role
        IO      0.1
        S1      0.1
        S1+1    0.0
        S2      0.5
        END     0.0
        Name: attention, dtype: float32
    """
    return attention_under(model, as_pairs(model, task), dest)


def attention_under(
    model: TransformerBridge, pairs: PromptPairs, dest: str, hooks: Callable[[list[int]], Hooks] | None = None
) -> xr.DataArray:
    """``attention_between`` with forward hooks for the forward pass of some examples; none when None."""
    check_choice("role", dest, pairs.roles)
    layers, n_heads = get_site(model, "pattern").layers(model), int(model.cfg.n_heads)
    attention = np.zeros((len(layers), n_heads, len(pairs.roles), len(pairs)), dtype=np.float32)
    for examples in length_batches(pairs, default_batch_tokens(model)):
        part = pairs.select(examples)
        sources = torch.stack(list(part.roles.values()))  # [role example]
        read = partial(_pick, index=(torch.arange(len(part)), part.roles[dest], sources))
        with model.hooks(fwd_hooks=[] if hooks is None else hooks(examples)):
            values = _of_patterns(model, part.clean_batch(), layers, read)  # [layer role example head]
        attention[..., examples] = values.permute(0, 3, 1, 2).numpy()  # [layer head role example]
    coords = {"layer": layers, "head": range(n_heads), "role": list(pairs.roles), "example": range(len(pairs))}
    return xr.DataArray(attention, coords, list(coords), name="attention", attrs={"dest": dest, "task": pairs.name})


def _pick(pattern: Float[Tensor, "example head dest src"], index: tuple[Tensor, ...]) -> Float[Tensor, "... head"]:
    """What the heads attend at some (examples, dests, srcs)."""
    return pattern.movedim(1, -1)[index]  # [example dest src head] -> [... head]


def _of_patterns(
    model: TransformerBridge, rows: Int[Tensor, "example pos"], layers: list[int], read: Callable[[Tensor], Tensor]
) -> Float[Tensor, "layer ..."]:
    """Something of some layers' attention pattern ``[example head dest src]``, one pattern alive at a time."""
    site = SITES["pattern"]
    of_layers: list[Tensor] = []

    def keep(pattern: Float[Tensor, "example head dest src"], hook: HookPoint) -> None:
        of_layers.append(read(pattern.detach().float().cpu()))

    hooks = [(site.hook_name(layer), keep) for layer in layers]
    with torch.no_grad():
        model.run_with_hooks(rows.to(model.cfg.device), fwd_hooks=hooks, return_type=None)
    return torch.stack(of_layers)
