"""Modules in fewer kernels: what a forward spends beside its products of matrices."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation, SiLUActivation

from patchlib.patching.shortcuts import Forward

ACTIVATIONS: dict[type[torch.nn.Module], Forward] = {
    NewGELUActivation: partial(torch.ops.aten.gelu_.default, approximate="tanh"),
    GELUTanh: partial(torch.ops.aten.gelu_.default, approximate="tanh"),
    GELUActivation: torch.ops.aten.gelu_.default,
    SiLUActivation: torch.ops.aten.silu_.default,
}
"""Activation functions of transformers, in one kernel and in place."""


def lean_modules(model: TransformerBridge) -> dict[torch.nn.Module, Forward]:
    """Modules that compute the same in fewer kernels: together a tenth of a forward.

    TransformerLens spells LayerNorm out, to have hooks at its scale and its normalised input, where no site lies; torch
    has one kernel for it. GPT-2's GELU is spelt out by transformers in eight. And an activation function can write into
    its input, which nothing reads afterwards, instead of into memory that the system must first clear.
    """
    lean: dict[torch.nn.Module, Forward] = {}
    for module in model.modules():
        if isinstance(module, NormalizationBridge) and is_plain_layer_norm(module):
            lean[module] = partial(_layer_norm, module)
    for module in model.original_model.modules():
        if type(module) in ACTIVATIONS:
            lean[module] = ACTIVATIONS[type(module)]
    return lean


def is_plain_layer_norm(norm: NormalizationBridge) -> bool:
    """Whether TransformerLens computes what the model's own LayerNorm does."""
    own = norm.original_component
    return type(own) is torch.nn.LayerNorm and not norm.uses_weight_offset and own.eps == norm.config.eps


def _layer_norm(norm: NormalizationBridge, hidden: Float[Tensor, "batch pos d_model"], **_: Any) -> Tensor:
    own, given = norm.original_component, norm.hook_in(hidden)  # where resid_mid is patched
    output: Tensor = norm.hook_out(own(given))
    return output
