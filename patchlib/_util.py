"""What every room of the house uses: names of heads and cells, checks of what was asked for, sentences of errors.

It imports neither torch nor a model, so that a headless run, a report or the command line need not wait for them.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from patchlib.errors import PatchlibError, SweepError

if TYPE_CHECKING:  # the command line reads names of models and runs, and need not wait a second for xarray
    import xarray as xr

Head = tuple[int, int]
"""(layer, head), both counted from 0."""
T = TypeVar("T")


def head_name(layer: int, head: int, mark: str = "H") -> str:
    """A head as people write it: "L9H6"; "L9KV2" with the mark of heads that share their keys and values."""
    return f"L{int(layer)}{mark}{int(head)}"


def head_names(layer_heads: Iterable[Head]) -> str:
    """Heads as people write them, in the order of the layers: "L9H6, L9H9"."""
    return ", ".join(head_name(*head) for head in sorted(layer_heads))


def cell_dims(result: xr.Dataset) -> list[str]:
    """The swept axes of a result, e.g. ``["layer", "head"]``."""
    return [str(dim) for dim in result.patched.dims if dim not in ("metric", "example")]


def cell_name(row: Mapping[str, Any]) -> str:
    """Short name of a cell: "L9H6", "L9KV2", "L9 at S2", "L9H6 at position 10", "all layers at S2".

    Args:
        row: The cell's coordinates by axis (``layer``, ``head``, ``kv_head``, ``role``, ``pos``), or a row of
            ``summary_table``, which calls the head ``head_index``.
    """
    name = f"L{int(row['layer'])}" if "layer" in row else "all layers"
    for axis, mark in (("head", "H"), ("head_index", "H"), ("kv_head", "KV")):
        name += f"{mark}{int(row[axis])}" if axis in row else ""
    if "role" in row:
        return f"{name} at {row['role']}"
    return f"{name} at position {int(row['pos'])}" if "pos" in row else name


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_index(value: object) -> TypeGuard[int]:
    """Whether this is a whole number, Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_count(setting: str, value: object, least: int = 1, error: type[PatchlibError] = SweepError) -> int:
    """`value` as an int; an error unless it is a whole number of at least `least`."""
    if not is_index(value) or value < least:
        raise error(f"{setting} must be a whole number of {least} or more, not {value!r}.")
    return int(value)


def check_choice(setting: str, value: T, choices: Collection[T], error: type[PatchlibError] = SweepError) -> T:
    """`value`, if it is one of the choices; an error that lists them otherwise."""
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        listed = f"{', '.join(others)} or {last}" if others else last
        raise error(f"Unknown {setting} {value!r}: choose {listed}.")
    return value


def check_fraction(setting: str, value: object, error: type[PatchlibError] = SweepError) -> float:
    """`value` as a float; an error unless it is a number between 0 and 1, neither of them included."""
    if not isinstance(value, Real) or not 0 < float(value) < 1:
        raise error(f"{setting} must lie between 0 and 1, such as 0.95, not {value!r}.")
    return float(value)


def check_indices(axis: str, wanted: Iterable[int] | int | None, n: int) -> list[int]:
    """Indices along an axis, all of them for None; SweepError unless they are from 0 to n - 1, each once."""
    if wanted is None:
        return list(range(n))
    indices = list(wanted) if isinstance(wanted, Iterable) else [wanted]
    wrong = [i for i in indices if not is_index(i) or not 0 <= i < n]
    if wrong or not indices or len(set(indices)) < len(indices):
        raise SweepError(f"{axis} {wrong or indices} cannot be used: give whole numbers from 0 to {n - 1}, each once.")
    return [int(i) for i in indices]


def check_heads(
    layer_heads: Iterable[Head],
    n_layers: int | None = None,
    n_heads: int | None = None,
    first_layer: int = 0,
    least: int = 1,
    mark: str = "H",
) -> list[Head]:
    """(layer, head) pairs as ints; SweepError for one that the model does not have, or for too few of them.

    Args:
        layer_heads: Pairs of whole numbers, Python's or NumPy's.
        n_layers: The model's; None where no model is known yet.
        n_heads: The model's, in one layer.
        first_layer: The lowest layer whose heads can be used.
        least: How many pairs must be given: 1, or 0.
        mark: Of the heads' names: "KV" for the heads that share keys and values.
    """
    heads = list(layer_heads) if isinstance(layer_heads, Iterable) else [layer_heads]
    for head in heads:
        match tuple(head) if isinstance(head, Iterable) else head:
            case (layer, index) if is_index(layer) and is_index(index):
                if first_layer <= layer < (n_layers or math.inf) and 0 <= index < (n_heads or math.inf):
                    continue
                name = head_name(layer, index, mark)
            case _:
                name = repr(head)
        if n_layers is None:
            raise SweepError(f"There is no head {name}: give (layer, head), both whole numbers from 0.")
        of_them = "" if first_layer == 0 else f", of which those from layer {first_layer} on can be used"
        kind = "heads" if mark == "H" else f"{mark} heads"
        raise SweepError(f"There is no head {name}: the model has {n_layers} layers of {n_heads} {kind}{of_them}.")
    if len(heads) < least:
        raise SweepError("No head was named: give at least one (layer, head).")
    return [(int(layer), int(index)) for layer, index in heads]


def check_positions(wanted: Iterable[int | str] | int | str, roles: Collection[str], n_pos: int) -> list[int | str]:
    """Token indices and roles; SweepError for one that the prompts do not have.

    Args:
        wanted: One position or several: token indices from 0, or roles.
        roles: The task's.
        n_pos: Tokens of the longest prompt.
    """
    positions = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Iterable) else list(wanted)
    for position in positions:
        if isinstance(position, str):
            if position not in roles:
                raise SweepError(
                    f"Unknown position {position!r}: this task's named positions are: {', '.join(roles) or 'none'}."
                )
        elif not is_index(position):
            raise SweepError(f"Position {position!r} is neither a token index nor the name of a role.")
        elif not 0 <= position < n_pos:
            mend = " (use the role END, or that number, for the last)" if position < 0 else ""
            raise SweepError(
                f"Position {position} is outside the prompts, which have positions 0 to {n_pos - 1}{mend}."
            )
    if not positions or len(set(positions)) < len(positions):
        raise SweepError(f"positions={positions} must name at least one position, each once.")
    return [position if isinstance(position, str) else int(position) for position in positions]


def sha256_of(file: Path) -> str:
    """The sha256 (hex) of a file's content, which is not held in memory at once."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that results depend on, by name."""
    libraries = ("patchlib", "torch", "transformer-lens", "transformers", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}
