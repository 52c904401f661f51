"""Where a model's weights go and in which form: what load_model is asked, checked before anything is read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformer_lens.utilities import get_device
from transformers.utils.quantization_config import QuantizationConfigMixin

from patchlib._util import check_count, check_kind, check_text, shown
from patchlib.errors import ModelError
from patchlib.models.names import brief

DeviceMap = str | Mapping[str, str | int]
MaxMemory = Mapping[str | int, str | int]


class Placement(NamedTuple):
    """What load_model's parameters of these names say."""

    device: str | torch.device | None = None
    dtype: torch.dtype | str | None = None
    device_map: DeviceMap | None = None
    n_devices: int | None = None
    max_memory: MaxMemory | None = None
    attn_implementation: str | None = None
    quantization_config: QuantizationConfigMixin | None = None

    def for_boot(self) -> dict[str, Any]:
        """Arguments of TransformerLens' boot_transformers; ModelError for what is wrong, alone or together."""
        given = [name for name in ("device", "device_map", "n_devices") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ModelError(f"{' and '.join(given)} say in two ways where the model goes: give one of them")
        if self.max_memory is not None and given not in (["device_map"], ["n_devices"]):
            raise ModelError("max_memory divides a model among devices: give device_map='auto' or n_devices with it")
        options: dict[str, Any] = {"dtype": torch.float32 if self.dtype is None else check_dtype(self.dtype)}
        if self.max_memory is not None:
            mend = "give {device: its memory}, such as {0: '20GiB'}"
            options["max_memory"] = dict(check_kind("max_memory", self.max_memory, Mapping, mend, ModelError))
        if self.device_map is not None:
            return options | {"device_map": _device_map(self.device_map)}
        if self.n_devices is not None:
            return options | {"n_devices": _n_devices(self.n_devices)}
        return options | {"device": check_device(self.device)}

    def for_weights(self) -> dict[str, Any]:
        """What transformers' from_pretrained gets beside that."""
        if self.attn_implementation is not None:
            check_text("attn_implementation", self.attn_implementation, ModelError)
        if self.quantization_config is not None:
            mend = "give one of transformers', such as a BitsAndBytesConfig"
            check_kind("quantization_config", self.quantization_config, QuantizationConfigMixin, mend, ModelError)
        names = ("attn_implementation", "quantization_config")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def asked(self) -> list[str]:
        """The names of what is said."""
        return [name for name, value in self._asdict().items() if value is not None]

    def check_unused(self) -> None:
        """ModelError where anything is asked for, of a model that is loaded already."""
        if self.asked():
            raise ModelError(
                f"{' and '.join(self.asked())} cannot be given for a model in hand, which is taken as it is: move, "
                "cast or load it so with PyTorch or transformers, then give it to load_model"
            )


def check_device(device: str | torch.device | None) -> torch.device:
    """The device, TransformerLens' own choice for None; ModelError for one that cannot compute here."""
    try:
        device = torch.device(get_device() if device is None else device)
        torch.zeros(1, device=device).item()  # the one test that holds for every kind of device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ModelError(
            f"the device {str(device)!r} cannot be used here ({brief(error)}); omit it or take 'cpu'"
        ) from error
    return device


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype; ModelError for one that is not floating."""
    torch_dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point:
        raise ModelError(f"{dtype!r} is no floating dtype; take torch.float32, 'float32', 'bfloat16' or 'float16'")
    return torch_dtype


def _device_map(device_map: DeviceMap) -> str | dict[str, str | int]:
    """A device map as accelerate takes it; ModelError where some of it would not stay in a device's memory."""
    kinds = "give 'auto', 'balanced' or {module: device}"
    check_kind("device_map", device_map, str | Mapping, kinds, ModelError)
    if isinstance(device_map, str):
        return device_map
    devices = {str(device).casefold() for device in device_map.values()}
    if not devices:
        raise ModelError(f"device_map={shown(device_map)} places nothing: {kinds}")
    if away := devices & {"disk", "meta"}:
        raise ModelError(
            f"device_map puts weights on {min(away)!r}, where they cannot be patched: leave them in the memory of "
            "devices, or take a smaller dtype or quantization_config"
        )
    if "cpu" in devices and len(devices) > 1:
        raise ModelError(
            "device_map divides a model between the CPU and others, which TransformerLens does not run: take the CPU "
            "alone, or GPUs alone"
        )
    return dict(device_map)


def _n_devices(n_devices: int) -> int:
    n_devices, n_there = check_count("n_devices", n_devices, error=ModelError), torch.cuda.device_count()
    if n_devices > max(1, n_there):
        raise ModelError(f"n_devices={n_devices}, but this machine has {n_there} GPUs that torch can use")
    return n_devices
