"""Is this a model that can be patched, and the one that it is taken for?"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.quantization import unreadable_weight_reason

from patchlib.errors import PatchlibError, SweepError

LIBRARIES = ("transformer_lens", "transformers", "torch", "accelerate")
"""They hook modules too, to move tensors or to change their layout."""
_SPLIT: WeakKeyDictionary[TransformerBridge, list[tuple[torch.Tensor, int | None]]] = WeakKeyDictionary()
"""The weights of a model in hand of which TransformerLens has copied some, and how often they had been changed then."""


def check_model(model: TransformerBridge) -> None:
    """SweepError unless this is a model that patching makes sense for, as it is."""
    if not isinstance(model, TransformerBridge):
        raise SweepError(
            f"The model is a {type(model).__name__}; patchlib.load_model gives one to patch, of a name or a Hugging "
            "Face model."
        )
    if any(module.training for module in model.modules()):
        raise SweepError("The model is in train mode, where dropout makes logits random. Call model.eval() first.")
    check_as_it_is(model)
    if any(_n_changes(weight) != n_changes for weight, n_changes in _SPLIT.get(model, ())):
        raise SweepError(
            f"The weights of the {model.cfg.model_name} have changed since load_model, which copied some of them "
            "(TransformerLens splits this architecture's attention): call load_model with it again."
        )


def split_from(model: TransformerBridge, given: torch.nn.Module) -> None:
    """From now on ``check_model`` refuses the model where the one that some of its weights were copied from changes."""
    _SPLIT[model] = [(weight, _n_changes(weight)) for weight in given.parameters()]


def _n_changes(weight: torch.Tensor) -> int | None:
    return None if weight.is_inference() else weight._version


def check_as_it_is(model: torch.nn.Module, error: type[PatchlibError] = SweepError) -> None:
    """An error where something that is no weight changes what a model computes: hooks, forwards, adapters.

    Backward hooks are left alone, since a sweep has no backward pass.
    """
    if hooked := list(dict.fromkeys(_hooked(model))):
        raise error(
            f"The model has hooks left on it, at {_some(hooked)}: every number would be that of another model. Take "
            "them off with model.reset_hooks(including_permanent=True), or with remove() of what "
            "register_forward_hook() gave."
        )
    replaced = [name or "the model itself" for name, module in model.named_modules() if _is_replaced(module)]
    if replaced:
        raise error(
            f"The model has a forward that was put in place of its class's, at {_some(replaced)}: every number would "
            "be that of another model. Take it off with del module.forward, or make it a method of a class."
        )
    if adapted := [name for name, module in model.named_modules() if type(module).__module__.startswith("peft.")]:
        raise error(
            f"The model has adapters beside its weights, at {_some(adapted)}, which tools that read weights would "
            "leave out. Put them into the weights with merge_and_unload()."
        )


def plain_tensors(named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Plain tensors as they are, and what others consist of: a quantised weight's numbers and scales."""
    for name, tensor in named:
        if is_traceable_wrapper_subclass(tensor):
            yield from plain_tensors(
                (f"{name}.{part}", getattr(tensor, part)) for part in tensor.__tensor_flatten__()[0]
            )
        else:
            yield name, tensor


def check_readable(model: TransformerBridge) -> None:
    """SweepError where weights cannot be read as matrices, side by side: quantised ones, or on several devices."""
    devices = sorted({str(weight.device) for weight in model.original_model.parameters()})
    if len(devices) > 1:
        raise SweepError(
            f"{model.cfg.model_name} is divided among {', '.join(devices)}, and what reads weights wants them on one: "
            "load it on one device. (What runs the model alone, such as sweeps and ablations, takes it as it is.)"
        )
    for name, weight in model.original_model.named_parameters():
        if is_traceable_wrapper_subclass(weight) or unreadable_weight_reason(weight) is not None:
            raise SweepError(
                f"{model.cfg.model_name} has quantised weights, such as {name}, which cannot be read as matrices: load "
                "it without quantization. (What runs the model alone, such as sweeps and ablations, takes it as it is.)"
            )


def _hooked(model: torch.nn.Module) -> Iterator[str]:
    """Where a user's hooks are, TransformerLens' and PyTorch's."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        yield "every module (register_module_forward_hook)"
    for name, module in model.named_modules():
        handles = getattr(module, "fwd_hooks", ())  # TransformerLens wraps these before it gives them to PyTorch
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        for hook in (*(handle.user_hook for handle in handles), *hooks):
            if not _is_known(hook):
                yield str(module.name) if handles else name or "the model itself"


def _is_replaced(module: torch.nn.Module) -> bool:
    forward = vars(module).get("forward")
    return forward is not None and not _is_known(forward)


def _is_known(function: Any) -> bool:
    """Whether this is a library's, which are partial functions in accelerate."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__module__", "").split(".")[0] in LIBRARIES


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
