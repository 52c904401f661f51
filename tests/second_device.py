"""A second device on a machine that has none: tensors that compute on the CPU, and say that they lie elsewhere.

Whatever mixes them with others raises, as it would between two GPUs. `divided(model)` puts a model's layers from the
second on there, with accelerate's hooks, which move what goes from one device to the other.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta:1")
aten = torch.ops.aten
MAY_MIX = (aten.copy_.default, aten.index.Tensor, aten.index_put_.default)
"""They take their source, or their indices, from the CPU on any device."""


class There(torch.Tensor):
    """A tensor on the second device."""

    inner: torch.Tensor
    is_meta = False

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"There({self.inner})"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = [value for value in given if isinstance(value, There)]
    mixed = [value for value in given if not isinstance(value, There) and value.ndim]
    device = kwargs.get("device")
    if there and mixed and func not in MAY_MIX:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} has some on {DEVICE} and on cpu")
    is_there = bool(there) if device is None else torch.device(device).type == DEVICE.type
    if func is aten.copy_.default:
        is_there = isinstance(args[0], There)
    kwargs = kwargs | ({"device": "cpu"} if device is not None else {})
    wrapper_of = {id(value.inner): value for value in there}
    args, kwargs = tree_map(lambda value: value.inner if isinstance(value, There) else value, (args, kwargs))
    came = func(*args, **kwargs)

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not is_there:
            return value
        return wrapper_of.get(id(value)) if id(value) in wrapper_of else There(value)

    return tree_map(wrapped, came)


class TwoDevices(TorchDispatchMode):
    """Within it, tensors can be made on the second device."""

    def __enter__(self) -> Any:
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) then asks this mode for the device
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def divided(model: nn.Module, first: int = 1) -> nn.Module:
    """The Hugging Face Llama with its layers from ``first`` on, its last norm and its head on the second device."""
    for name, module in model.named_modules():
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        if (layer and int(layer) >= first) or name in ("model.norm", "lm_head"):
            for key, weight in module._parameters.items():
                module._parameters[key] = None if weight is None else nn.Parameter(There(weight.detach()), False)
            if name.count(".") == 2 or not layer:
                add_hook_to_module(module, AlignDevicesHook(execution_device=DEVICE, skip_keys=["past_key_values"]))
    home = AlignDevicesHook(execution_device="cpu", io_same_device=True, skip_keys=["past_key_values"])
    return add_hook_to_module(model, home)  # logits come out where tokens, or a stream, went in
