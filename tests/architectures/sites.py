"""Every site of an architecture swept, against loops by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import patchlib
from patchlib.errors import PatchlibError
from patchlib.patching.sites import check_patchable, get_site
from tests.architectures.models import Hand
from tests.helpers import sweep

STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("z", "q", "k", "v", "head_v", "pattern")
POSITIONS = (0, 5, 11)


class Finding(NamedTuple):
    """What came of one comparison.

    Attributes:
        what: The site and direction, or the tool.
        gap: The largest difference, relative to the largest value where that is above 1; None where there is none.
        refusal: The line with which patchlib refused.
        failure: A traceback's last line.
    """

    what: str
    gap: float | None = None
    refusal: str = ""
    failure: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it is neither right nor refused in one line."""
        return bool(self.failure) or "\n" in self.refusal or (self.gap is not None and not self.gap < 2e-3)

    def __str__(self) -> str:
        return self.failure or self.refusal or f"{self.gap:.1e}"


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value; NaN counts as one."""
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    if ours.shape != theirs.shape or ours.isnan().any() or theirs.isnan().any():
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def logit_diff(logits: Tensor, pairs: patchlib.PromptPairs) -> Tensor:
    """[example], at the last position."""
    right, wrong = pairs.answers.unbind(1)
    rows = torch.arange(len(pairs))
    return logits[rows, -1, right] - logits[rows, -1, wrong]


def seen_by_bridge(model: TransformerBridge, tokens: Tensor, *hooks: str) -> list[Tensor]:
    """What some hooks see, by run_with_hooks and nothing else."""
    kept = {}
    look = [(hook, lambda value, hook, name=hook: kept.__setitem__(name, value.clone())) for hook in hooks]
    model.run_with_hooks(tokens, fwd_hooks=look)
    return [kept[hook] for hook in hooks]


def by_bridge(model: TransformerBridge, hook: str, base: Tensor, theirs: Tensor, index: tuple) -> Tensor:
    """Logits with one cell taken from the other prompts."""

    def write(value: Tensor, hook: object) -> None:
        value[index] = theirs[index]

    return model.run_with_hooks(base, fwd_hooks=[(hook, write)])


def with_head_values(model: TransformerBridge, layer: int, base: Tensor, source: Tensor, head: int) -> Tensor:
    """One head's z from the base prompts' pattern and the other prompts' values."""
    pattern, v, z = (patchlib.SITES[name].hook_name(layer) for name in ("pattern", "v", "z"))
    (looks,), (values,) = seen_by_bridge(model, base, pattern), seen_by_bridge(model, source, v)
    group = head * values.shape[2] // looks.shape[1]

    def write(value: Tensor, hook: object) -> None:
        value[:, :, head] = looks[:, head] @ values[:, :, group]

    return model.run_with_hooks(base, fwd_hooks=[(z, write)])


def by_hand(hand: Hand, module: torch.nn.Module, side: str, base: Tensor, theirs: Tensor, index: tuple) -> Tensor:
    """The same on a module of Hugging Face's."""

    def write(value: Tensor) -> Tensor:
        value = value.clone()
        value[index] = theirs[index]
        return value

    return hand.patched(base, (module, write, side))


def cell_by_hand(
    model: TransformerBridge, hand: Hand, site: str, layer: int, base: Tensor, source: Tensor
) -> Callable[[int], Tensor]:
    """A cell's head or position -> the logits: on Hugging Face's modules where they have the site, else by hooks."""
    if site == "head_v":
        return lambda head: with_head_values(model, layer, base, source, head)
    module, side = None, "in"
    if site in ("resid_pre", "resid_post"):
        module, side = hand.layers[layer], "in" if site == "resid_pre" else "out"
    elif site == "z":
        module = hand.projections[layer]
    if module is None:
        hook = patchlib.SITES[site].hook_name(layer)
        (theirs,) = seen_by_bridge(model, source, hook)
        before = 1 if site in STREAM or site == "pattern" else 2
        return lambda cell: by_bridge(model, hook, base, theirs, (*[slice(None)] * before, cell))
    theirs = hand.seen(source, {"": (module, side)})[""]
    width = theirs.shape[-1] // int(model.cfg.n_heads)

    def logits(cell: int) -> Tensor:
        columns = (slice(None), slice(None), slice(cell * width, (cell + 1) * width))
        return by_hand(hand, module, side, base, theirs, columns if site == "z" else (slice(None), cell))

    return logits


def check_site(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs, site: str, direction: str) -> Finding:
    """patchlib's sweep of a site against a loop by hand, on Hugging Face's modules where these have the site."""
    base, source = pairs.corrupted_batch(), pairs.clean_batch()
    if direction == "noise":
        base, source = source, base
    over = ("layer", "pos") if site in STREAM else ("layer", "head")
    positions = {"positions": list(POSITIONS)} if site in STREAM else {}
    name = f"{site} {direction}"
    try:
        result = sweep(model, pairs, site, over, direction, metric="logit_diff", **positions)
    except PatchlibError as error:
        return Finding(name, refusal=str(error))
    except Exception as error:
        return Finding(name, failure=f"{type(error).__name__}: {str(error).splitlines()[:1]}")
    worst = 0.0
    for layer in result.layer.values.tolist():
        by_cell = cell_by_hand(model, hand, site, layer, base, source)
        for number, cell in enumerate(result[result.patched.dims[2]].values.tolist()):
            ours = result.patched.isel(metric=0).sel(layer=layer)[number].values
            worst = max(worst, gap(torch.tensor(ours), logit_diff(by_cell(cell), pairs)))
    return Finding(name, gap=worst)


def check_whole_stream(model: TransformerBridge, pairs: patchlib.PromptPairs, site: str) -> Finding:
    """With all of a stream taken from the other prompts, the model is the other prompts' from there on."""
    try:
        result = sweep(model, pairs, site, ("layer",), metric="logit_diff")
    except PatchlibError as error:
        return Finding(f"{site} whole", refusal=str(error))
    except Exception as error:
        return Finding(f"{site} whole", failure=f"{type(error).__name__}: {error}")
    whole = torch.from_numpy(result.patched.isel(metric=0).values)  # [layer example]
    return Finding(f"{site} whole", gap=gap(whole, torch.from_numpy(result.clean.values).expand_as(whole)))


def check_separate(model: TransformerBridge, pairs: patchlib.PromptPairs, site: str, layer: int) -> Finding:
    """A change of one head's queries, keys or values moves what that head (or its group) gives, and no other."""
    name = f"{site} of one head"
    try:
        chosen = get_site(model, site, [layer])
        check_patchable(model, chosen, by_head=True)
    except PatchlibError as error:
        return Finding(name, refusal=str(error))
    tokens, worst = pairs.clean_batch(), 0.0
    n_heads, n_here = int(model.cfg.n_heads), chosen.n_heads(model)
    z = patchlib.SITES["z"].hook_name(layer)

    def seen(hooks: list) -> Tensor:
        kept = []
        model.run_with_hooks(tokens, fwd_hooks=[*hooks, (z, lambda value, hook: kept.append(value.clone()))])
        return kept[0].reshape(*kept[0].shape[:2], n_heads, -1)  # latent attention shows it in another shape

    def double(value: Tensor, hook: object, head: int) -> None:
        value[(slice(None), head) if site == "pattern" else (slice(None), slice(None), head)] *= -2

    before = seen([])
    for head in range(n_here):
        after = seen([(chosen.hook_name(layer), partial(double, head=head))])
        others = [other for other in range(n_heads) if other * n_here // n_heads != head]
        worst = max(worst, gap(after[:, :, others], before[:, :, others]) if others else 0.0)
    return Finding(name, gap=worst)
