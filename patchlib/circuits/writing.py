"""What stands between a head and the logits: norms, frozen at their scale, and what a head's weights leave out.

The tools of ``patchlib.circuits.heads`` read weights. Architectures differ in what else there is: norms behind the
attention, multipliers, gates, latent values, streams that are rescaled. So it is measured in a short forward pass of
each model, once, whether the weights tell what the model computes; where they do not, the tool refuses.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching import probes
from patchlib.patching.probes import alike, asked_once, mixed, probe_tokens, recorded
from patchlib.patching.sites import SITES, get_site
from patchlib.patching.unpatched import UNEMBED_LAST, Hooks

LARGE = 1024.0
"""So far from 0 that a norm's epsilon does not show, and a number of every floating dtype."""


class NormWeights(NamedTuple):
    """What a norm does besides dividing by its scale; measured, because classes differ in where they keep it.

    Attributes:
        gain: What each coordinate is multiplied with.
        bias: What is added.
        centred: Whether the mean is taken off first.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool

    def scaled(self, written: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the norm makes of something, but for its scale and bias."""
        return self.gain * (written - written.mean(-1, keepdim=True) if self.centred else written)


def norm_weights(model: TransformerBridge, norm: Any, device: torch.device) -> NormWeights:
    """Of a norm of the stream, which lies on a device; of no norm when None."""
    d_model, dtype = int(model.cfg.d_model), model.cfg.dtype
    if norm is None:
        return NormWeights(torch.ones(d_model, device=device), torch.zeros(d_model, device=device), False)
    signs = torch.ones(1, 1, d_model, device=device, dtype=dtype)
    signs[..., 1::2] = -1  # of mean 0 and variance 1
    with torch.no_grad():
        plus, minus, moved = (norm(x)[0, 0].float() for x in (LARGE * signs, -LARGE * signs, LARGE * (signs + 1)))
    gain, bias = (plus - minus) / 2 * signs[0, 0], (plus + minus) / 2
    return NormWeights(gain, bias, alike(moved, plus))


class Frozen(NamedTuple):
    """What became of the sum of some parts in one forward pass, as a linear map for each part.

    Attributes:
        weights: Of the norm in between.
        factor: What its scale and all that follows multiply with, ``[example 1]``.
    """

    weights: NormWeights
    factor: Float[Tensor, "example 1"]

    def __call__(self, part: Float[Tensor, "... example d_model"]) -> Float[Tensor, "... example d_model"]:
        """What of the result is this part's; a bias is nobody's."""
        return self.weights.scaled(part) * self.factor


def frozen(
    model: TransformerBridge,
    norm: Any,
    entering: Float[Tensor, "example d_model"],
    leaving: Float[Tensor, "example d_model"],
) -> Frozen:
    """The norm and multipliers between two activations; SweepError where they are not what makes the one the other."""
    weights = norm_weights(model, norm, entering.device)
    entering, leaving = entering.float(), leaving.float().to(entering.device)
    if norm is None and torch.equal(entering, leaving):
        return Frozen(weights, torch.ones_like(leaving[:, :1]))
    through, wanted = weights.scaled(entering), leaving - weights.bias
    factor = (through * wanted).sum(-1, keepdim=True) / through.square().sum(-1, keepdim=True)
    if not _near(model, through * factor, wanted):
        _refuse(model, "something else than a norm stands behind its attention or before its unembedding")
    return Frozen(weights, factor)


def last_position(
    model: TransformerBridge, rows: Int[Tensor, "example pos"], names: list[str]
) -> tuple[Float[Tensor, "example d_vocab"], dict[str, Tensor]]:
    """The last position's logits, and what some hooks see there, ``[example ...]``: nothing else is unembedded."""
    seen: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any, name: str) -> None:
        seen[name] = activation[:, -1].detach().clone()

    # It has to come first: what the unembedding is given is seen behind it.
    hooks: Hooks = [UNEMBED_LAST]
    hooks += [(name, partial(keep, name=name)) for name in names]
    logits: Tensor = model.run_with_hooks(rows.to(model.cfg.device), fwd_hooks=hooks)
    return logits[:, -1].float(), seen


def reads(model: TransformerBridge, layer: int, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """What the attention of a layer is given of a stream: some architectures have no norm there."""
    norm = getattr(model.blocks[layer], "ln1", None)
    read: Tensor = stream if norm is None else norm(stream)
    return read


def projected(model: TransformerBridge, layer: int, read: Float[Tensor, "... d_model"], name: str) -> Tensor:
    """``[... head d_head]``: queries ("Q"), keys ("K") or values ("V") of what attention is given, with their bias."""
    attn = model.blocks[layer].attn
    bias = getattr(attn, f"b_{name}", None)
    made = torch.einsum("...m,hmd->...hd", read, getattr(attn, f"W_{name}"))
    return made if bias is None else made + bias


def check_weights(model: TransformerBridge, layers: Sequence[int], tool: str, names: str = "QKV") -> None:
    """SweepError unless a head's weights tell what it reads and writes.

    Args:
        model: In eval mode.
        layers: Where the heads are.
        tool: Who asks, for the error.
        names: Which of Q, K and V are read; with V also what a head makes of its values.
    """
    for name in ("z", *names.lower()):
        get_site(model, name, layers)
    misfits = _misfits(model)
    if why := next((why for i in layers for name, why in misfits[i] if name in names + "O"), None):
        _refuse(model, why, tool)


Misfits = list[tuple[str, str]]
"""Which of a layer's weights do not make its activations, and what that says."""


@asked_once
def _misfits(model: TransformerBridge) -> dict[int, Misfits]:
    """Of each layer with heads, seen in one short forward pass."""
    layers = SITES["z"].layers(model)
    sites = {(name, i): SITES[name].hook_name(i) for name in ("resid_pre", *"qkvz", "pattern") for i in layers}
    sites |= {("out", i): f"blocks.{i}.attn.hook_out" for i in layers}
    seen = recorded(model, probe_tokens(model), list(sites.values()))
    return {
        i: _misfits_of(model, i, {name: seen.get(hook) for (name, j), hook in sites.items() if j == i}) for i in layers
    }


def _misfits_of(model: TransformerBridge, layer: int, seen: dict[str, Any]) -> Misfits:
    attn, wrong = model.blocks[layer].attn, []
    try:
        read = reads(model, layer, seen["resid_pre"])
        for name in "qkv":
            if not alike(projected(model, layer, read, name.upper()), seen[name]):
                wrong.append((name.upper(), f"{name} is not the norm's output times W_{name.upper()}"))
        if not alike(mixed(seen["pattern"], seen["v"]), seen["z"]):
            wrong.append(("V", "what a head gives is not its pattern times its values"))
        written = torch.einsum("ephd,hdm->epm", seen["z"], attn.W_O)
        if not alike(written if attn.b_O is None else written + attn.b_O, seen["out"]):
            wrong.append(("O", "what attention gives is not the sum of z times W_O"))
    except (AttributeError, RuntimeError) as error:  # an architecture that has its weights otherwise
        return [("O", f"its weights are not W_Q, W_K, W_V and W_O of each head ({type(error).__name__})")]
    return wrong


def check_adds_up(model: TransformerBridge, layers: Sequence[int], tool: str) -> None:
    """SweepError unless what attention writes arrives at the end of the stream as it was written."""
    if not all(_arrives(model, layer) for layer in {layers[0], layers[-1]}):
        _refuse(model, "what a layer adds to the stream is changed before the end", tool)


def check_end(model: TransformerBridge, tool: str) -> None:
    """SweepError unless the unembedding is given what the final norm makes of the last stream."""
    if not _ends_in_norm(model):
        _refuse(model, "something else than a norm stands before its unembedding", tool)


@asked_once
def _ends_in_norm(model: TransformerBridge) -> bool:
    stream = f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"
    seen = recorded(model, probe_tokens(model), [stream, "unembed.hook_in"])
    if len(seen) < 2:
        return False
    norm = getattr(model, "ln_final", None)
    return alike(seen[stream] if norm is None else norm(seen[stream]), seen["unembed.hook_in"])


@asked_once
def _arrives(model: TransformerBridge, layer: int) -> bool:
    """Whether a change of what attention writes changes the last stream by as much, all else that is added held."""
    end = f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"
    tokens, blocks = probe_tokens(model), list(model.blocks)
    free = {getattr(model.blocks[layer], name, None) for name in ("attn", "ln1_post")}
    held: dict[Any, Tensor] = {}

    def hold(module: Any, args: Any, output: Any) -> Any:
        several = isinstance(output, tuple | list)
        first = output[0] if several else output
        if module not in held:
            held[module] = first.clone()
        return type(output)((held[module], *output[1:])) if several else held[module]

    def move(written: Tensor, hook: Any) -> Tensor:
        return written + change.to(written)

    with ExitStack() as stack, torch.no_grad():
        for i, block in enumerate(blocks):
            for part in getattr(block, "original_component", block).children():
                # What has no parameters, such as a dropout, passes on what is held or free already.
                if (i != layer or part not in free) and any(True for _ in part.parameters()):
                    stack.enter_context(part.register_forward_hook(hold))
        before = recorded(model, tokens, [end])[end]
        generator = torch.Generator().manual_seed(0)
        change = torch.randn(before.shape, generator=generator).to(before) * before.std()
        after = recorded(model, tokens, [end], [(SITES["attn_out"].hook_name(layer), move)])[end]
    return alike(after - before, change)


def _near(model: TransformerBridge, made: Tensor, wanted: Tensor) -> bool:
    """As ``alike``, of float32 values that came from the model's dtype."""
    return bool((made - wanted).abs().max() <= probes.room(model.cfg.dtype) * wanted.abs().max())


def _refuse(model: TransformerBridge, why: str, tool: str = "direct_logit_attribution") -> None:
    raise SweepError(f"{tool} cannot be told of {model.cfg.model_name}: {why}. Use sweep(site='z') or path_patch.")
