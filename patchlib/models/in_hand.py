"""A Hugging Face model in hand -> a TransformerBridge over the same weights; the model itself is left as it is."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.utilities.attn_implementation import force_eager_attention
from transformer_lens.utilities.multi_gpu import count_unique_devices, find_embedding_device
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from patchlib._util import check_kind
from patchlib.errors import ModelError
from patchlib.models.check import check_as_it_is, plain_tensors, split_from
from patchlib.models.names import is_decoder, unsupported
from patchlib.models.placement import Placement


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, placement: Placement) -> TransformerBridge:
    """The model with hooks: other modules over the same tensors, so that neither modules nor settings change in it.

    Args:
        model: Of an architecture that TransformerLens knows; on any device, in any dtype.
        tokenizer: Which TransformerLens may change; None for none.
        placement: Nothing may be asked for.

    Raises:
        ModelError: It is no such model, or not all there: adapters beside its weights, hooks, weights on a disk.
    """
    kind = type(model)
    check_kind(
        "A model in hand", model, PreTrainedModel, "give one of transformers', or a name from list_models(); what "
        "torch.compile or peft wraps goes in without that (_orig_mod, merge_and_unload()), and a TransformerBridge is "
        "ready to patch", ModelError,
    )  # fmt: skip
    architecture = next((name.__name__ for name in kind.__mro__ if name.__name__ in SUPPORTED_ARCHITECTURES), None)
    if architecture is None or not is_decoder(architecture):
        raise unsupported("in hand", kind.__name__)
    placement.check_unused()
    check_as_it_is(model, ModelError)
    check_in_memory(model, "in hand")
    # Quantised weights are of classes of their own, and go as they are; others become parameters without gradients.
    tensors: dict[int, Any] = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False)
        if type(weight) is torch.nn.Parameter
        else weight
        for weight in model.parameters()
    }
    hooked = copy.deepcopy(model, tensors | {id(buffer): buffer for buffer in model.buffers()})
    force_eager_attention(hooked)  # others give no patterns
    with users_randomness({weight.device for weight in model.parameters()}):
        bridge = build_bridge_from_module(
            hooked,
            architecture,
            hf_config=copy.deepcopy(hooked.config),
            tokenizer=tokenizer,
            device=find_embedding_device(hooked),
            model_name=f"{kind.__name__} in hand",
        )
    bridge.cfg.n_devices = count_unique_devices(hooked)
    if _storages(bridge.original_model) - _storages(model):
        split_from(bridge, model)
    return bridge


def check_in_memory(model: torch.nn.Module, called: str) -> None:
    """ModelError where weights lie on a disk, or are moved in for each forward: no hook or hash could read them."""
    away = [weight for weight, value in model.named_parameters() if value.is_meta]
    if away:
        raise ModelError(
            f"the model {called} has {len(away)} weights that are not in memory, such as {away[0]} (offloaded to a "
            "disk, or from a GPU to the CPU), where they cannot be patched: spread it over more devices, or take a "
            "smaller dtype or quantization_config"
        )


@contextmanager
def users_randomness(devices: Iterable[torch.device]) -> Iterator[None]:
    """PyTorch's global generators, of the CPU and of these devices, go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device for device in devices if device.type == "cuda"]):
        yield


@contextmanager
def own_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> Iterator[PreTrainedTokenizerBase | None]:
    """A copy, which TransformerLens may change, and read again from its folder; None for none."""
    if tokenizer is None:
        yield None
        return
    check_kind("tokenizer", tokenizer, PreTrainedTokenizerBase, "give one of transformers'", ModelError)
    with TemporaryDirectory(prefix="tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        yield AutoTokenizer.from_pretrained(folder)


def _storages(model: torch.nn.Module) -> set[int]:
    """Where the memory of its weights begins."""
    return {int(weight.untyped_storage().data_ptr()) for _, weight in plain_tensors(model.named_parameters())}
