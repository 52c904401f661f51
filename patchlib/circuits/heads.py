"""What a head writes: towards the answer, of the tokens that it attends to, and into the keys of later heads."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import shown
from patchlib.circuits.writing import (
    check_adds_up,
    check_weights,
    frozen,
    last_position,
)
from patchlib.errors import SweepError
from patchlib.models.check import check_readable
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.sites import SITES, get_site
from patchlib.patching.unpatched import Hooks
from patchlib.tasks.answer_sets import check_one_token
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs


def direct_logit_attribution(
    model: TransformerBridge, task: Task, hooks: Callable[[list[int]], Hooks] | None = None
) -> xr.DataArray:
    """What each head writes at the last position along the right minus the wrong answer's direction, in logits.

    The head's output (``z @ W_O``) is divided by the final norm's scale of the clean forward pass and weighted by the
    norm, then projected on the two answers' unembeddings (nostalgebraist 2020; Wang et al. 2022, section 3.1). A norm
    behind attention (Gemma 2, OLMo 2, GLM-4) counts in the same way, with the scale that it has for the whole sublayer,
    and so does what a model does to its logits: a scale (Granite, Cohere) or a softcap (Gemma 2), which is the factor
    that it was for each of the two answers. TransformerLens' ``direct_logit_attribution`` wants folded weights, which
    keeps them twice, and leaves those out.

    Because attention sums to 1, a head whose values have a bias (its own, or that of the norm before it) writes
    ``(b_V + b_norm @ W_V) @ W_O`` whatever it attends to. Here that constant counts as the head's: it is part of what
    the head writes. TransformerLens folds it into the sublayer's bias ``b_O``, so that its attribution is ours less
    the constant's.

    Args:
        model: In eval mode.
        task: Any.
        hooks: Forward hooks for the forward pass of some examples, such as ``Ablation.hooks``; none when None.

    Returns:
        Over layer (in hybrid models those that have heads), head and example, in logits. With what embedding, MLPs,
        other sublayers and biases (``b_O``, the final norm's and the unembedding's) write it adds up to the logit
        difference. The coordinate ``norm_factor`` (over example) is what the final norm multiplied with, one over its
        scale.

    Raises:
        SweepError: A model in train mode, or one whose stream is no sum of what heads write.
        TaskError: The task is unusable, or has sets of answers or answers of several tokens, which are no direction.

    Example:
        >>> attribution = patchlib.direct_logit_attribution(model, task).mean("example")
        >>> attribution.to_series().nlargest(3).round(1)
        layer  head
        23     3       1.8
        29     1       1.0
        23     2       0.7
        Name: direct_logit_attribution, dtype: float32
    """
    pairs = as_pairs(model, task)
    check_one_token(pairs, "direct_logit_attribution")
    check_readable(model)
    if hooks is not None and not callable(hooks):
        raise SweepError(f"hooks must be a function (examples) -> forward hooks, not {shown(hooks)}.")
    layers, n_layers = get_site(model, "z").layers(model), int(model.cfg.n_layers)
    get_site(model, "resid_post", [n_layers - 1])
    check_weights(model, layers, "direct_logit_attribution", names="")
    check_adds_up(model, layers, "direct_logit_attribution")
    attribution = np.zeros((len(layers), int(model.cfg.n_heads), len(pairs)), dtype=np.float32)
    norm_factor = np.ones(len(pairs), dtype=np.float32)
    for examples in length_batches(pairs, default_batch_tokens(model)):
        part = pairs.select(examples)
        with model.hooks(fwd_hooks=[] if hooks is None else hooks(examples)):
            values, factor = _towards_answers(model, part, layers, f"blocks.{n_layers - 1}.hook_resid_post")
        attribution[..., examples] = values.cpu().numpy()  # [layer head example]
        norm_factor[examples] = factor.cpu().numpy()
    coords = {"layer": layers, "head": range(attribution.shape[1]), "example": range(len(pairs))}
    array = xr.DataArray(attribution, coords, list(coords), name="direct_logit_attribution", attrs={"task": pairs.name})
    return array.assign_coords(norm_factor=("example", norm_factor))


@torch.no_grad()
def _towards_answers(
    model: TransformerBridge, pairs: PromptPairs, layers: Sequence[int], stream: str
) -> tuple[Float[Tensor, "layer head example"], Float[Tensor, " example"]]:
    """What the heads of prompts of one length write towards their answers, and what the final norm multiplies with."""
    blocks = {layer: model.blocks[layer] for layer in layers}
    z, attn_out = ([SITES[name].hook_name(layer) for layer in layers] for name in ("z", "attn_out"))
    sublayer = [f"blocks.{layer}.attn.hook_out" for layer in layers]
    logits, seen = last_position(
        model, pairs.clean_batch(), [*z, *attn_out, *sublayer, stream, "unembed.hook_in", "unembed.hook_out"]
    )
    final = frozen(model, getattr(model, "ln_final", None), seen[stream], seen["unembed.hook_in"])
    answers = pairs.answers.to(logits.device)
    # A scale or a softcap of the logits is the factor that it was for each answer.
    raw, capped = (values.float().gather(1, answers) for values in (seen["unembed.hook_out"], logits))
    factors = torch.where(raw == capped, 1, capped / raw)  # [example 2]
    right, wrong = (model.W_U.T[answers].float() * factors[..., None]).unbind(1)  # [example d_model]
    attribution = []
    for i, block in enumerate(blocks.values()):
        written = torch.einsum("ehd,hdm->hem", seen[z[i]], block.attn.W_O)  # [head example d_model]
        behind = frozen(model, getattr(block, "ln1_post", None), seen[sublayer[i]], seen[attn_out[i]])
        added = behind(written.float()).to(final.factor.device)  # layers may lie on several devices
        attribution.append((final(added) * (right - wrong)).sum(-1))
    return torch.stack(attribution), final.factor[:, 0]
