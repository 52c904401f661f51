"""What every room of the house uses: names of heads and cells, checks of what was asked for, sentences of errors.

It imports neither torch nor a model, so that a headless run, a report or the command line need not wait for them.
"""

from __future__ import annotations

import hashlib
import math
import platform
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from patchlib.errors import PatchlibError, SweepError

if TYPE_CHECKING:  # the command line reads names of models and runs, and need not wait a second for xarray
    import xarray as xr

Head = tuple[int, int]
"""(layer, head), both counted from 0."""
T = TypeVar("T")
LARGEST = 2**63 - 1
"""The largest whole number that files and generators of random numbers take."""
LARGEST_FLOAT = sys.float_info.max
LONGEST = 80
"""Characters of a value that an error repeats."""


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
        row: The cell's coordinates by axis (``layer``, ``head``, ``kv_head``, ``neuron``, ``role``, ``pos``, ``set`` of
            ``patch_set``, ``basis`` of ``patch_subspace``, and ``site`` of merged results), or a row of
            ``summary_table``, which calls the head ``head_index``.
    """
    for axis in ("set", "basis"):
        if axis in row:
            return str(row[axis])
    name = f"L{int(row['layer'])}" if "layer" in row else "all layers"
    for axis, mark in (("head", "H"), ("head_index", "H"), ("kv_head", "KV"), ("neuron", "N")):
        name += f"{mark}{int(row[axis])}" if axis in row else ""
    name += f" {row['site']}" if "site" in row else ""
    if "role" in row:
        return f"{name} at {row['role']}"
    return f"{name} at position {int(row['pos'])}" if "pos" in row else name


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def shown(value: object) -> str:
    """A value as an error repeats it: its repr on one line, without the middle of what is long."""
    if isinstance(value, int) and value.bit_length() > 4 * LONGEST:  # Python refuses to write endless ones out
        return f"a number of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def listed(values: object) -> list[Any]:
    """One value or several as a list, in Python's own numbers; a text is one value, an array without axes too."""
    if not isinstance(values, type):
        for convert in ("to_numpy", "tolist"):  # pandas and xarray; then NumPy and torch
            values = getattr(values, convert)() if hasattr(values, convert) else values
    return [values] if isinstance(values, str | bytes) or not isinstance(values, Iterable) else list(values)


def is_index(value: object) -> TypeGuard[int]:
    """Whether this is a whole number, Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_kind(
    setting: str, value: T, kind: type[Any] | UnionType, mend: str, error: type[PatchlibError] = SweepError
) -> T:
    """`value`, if it is of this kind; an error that ends in the `mend` otherwise."""
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise error(f"{setting} cannot be {given}: {mend}.")
    return value


def check_text(setting: str, value: object, error: type[PatchlibError] = SweepError) -> str:
    """`value`, if it is a text that can be written to a file."""
    # Half of a surrogate pair has no bytes; a zero byte ends a text in netCDF.
    if (
        not isinstance(value, str)
        or not value.strip()
        or "\0" in value
        or any("\ud800" <= c <= "\udfff" for c in value)
    ):
        raise error(f"{setting} must be a text with words in it that a file can hold, not {shown(value)}.")
    return value


def check_flag(setting: str, value: bool, error: type[PatchlibError] = SweepError) -> bool:
    """`value`, if it is True or False."""
    return check_kind(setting, value, bool, "give True or False", error)


def check_count(
    setting: str, value: object, least: int = 1, error: type[PatchlibError] = SweepError, most: int = LARGEST
) -> int:
    """`value` as an int; an error unless it is a whole number of at least `least`, and at most `most`."""
    if not is_index(value) or not least <= value <= most:
        is_huge = is_index(value) and value > most
        limits = f"from {least} to {most:,}" if is_huge else f"of {least} or more"
        raise error(f"{setting} must be a whole number {limits}, not {shown(value)}.")
    return int(value)


def check_seed(value: object, setting: str = "seed", error: type[PatchlibError] = SweepError) -> int:
    """`value` as an int; an error unless every generator of random numbers takes it."""
    return check_count(setting, value, 0, error)


def check_number(setting: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a float; SweepError unless it is a finite number from `low` to `high`."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or not abs(value) <= LARGEST_FLOAT:
        limits = (
            "" if low == -math.inf else f" of {low:g} or more" if high == math.inf else f" from {low:g} to {high:g}"
        )
        raise SweepError(f"{setting} must be a number{limits}, not {shown(value)}.")
    return float(value)


def check_choice(setting: str, value: T, choices: Collection[T], error: type[PatchlibError] = SweepError) -> T:
    """`value`, if it is one of the choices; an error that lists them otherwise."""
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        names = f"{', '.join(others)} or {last}" if others else last
        raise error(f"Unknown {setting} {shown(value)}: choose {names}.")
    return value


def check_fraction(setting: str, value: object, error: type[PatchlibError] = SweepError) -> float:
    """`value` as a float; an error unless it is a number between 0 and 1, neither of them included."""
    if not isinstance(value, Real) or not 0 < value < 1:  # type: ignore[operator]  # typeshed's Real compares with none
        raise error(f"{setting} must lie between 0 and 1, such as 0.95, not {shown(value)}.")
    return float(value)


def check_indices(axis: str, wanted: Iterable[int] | int | None, n: int) -> list[int]:
    """Indices along an axis, all of them for None; SweepError unless they are from 0 to n - 1, each once."""
    if wanted is None:
        return list(range(n))
    indices = listed(wanted)
    wrong = [i for i in indices if not is_index(i) or not 0 <= i < n]
    if wrong or not indices or len(set(indices)) < len(indices):
        raise SweepError(
            f"{axis} {shown(wrong or indices)} cannot be used: give whole numbers from 0 to {n - 1}, each once."
        )
    return [int(i) for i in indices]


def check_heads(
    layer_heads: Iterable[Head],
    n_layers: int | None = None,
    n_heads: int | None = None,
    first_layer: int = 0,
    least: int = 1,
    mark: str = "H",
) -> list[Head]:
    """(layer, head) pairs as ints; SweepError for one that the model does not have or that comes twice, or too few.

    Args:
        layer_heads: Pairs of whole numbers, Python's or NumPy's.
        n_layers: The model's; None where no model is known yet.
        n_heads: The model's, in one layer.
        first_layer: The lowest layer whose heads can be used.
        least: How many pairs must be given: 1, or 0.
        mark: Of the heads' names: "KV" for the heads that share keys and values.
    """
    heads: list[tuple[Any, ...]] = [tuple(listed(head)) for head in listed(layer_heads)]
    for head in heads:
        match head:
            case (layer, index) if is_index(layer) and is_index(index):
                if first_layer <= layer < (n_layers or math.inf) and 0 <= index < (n_heads or math.inf):
                    continue
                name = f"L{shown(int(layer))}{mark}{shown(int(index))}"  # numbers may be endless
            case _:
                name = shown(head if len(head) != 1 else head[0])
        if n_layers is None:
            raise SweepError(f"There is no head {name}: give (layer, head), both whole numbers from 0.")
        of_them = "" if first_layer == 0 else f", of which those from layer {first_layer} on can be used"
        kind = "heads" if mark == "H" else f"{mark} heads"
        raise SweepError(f"There is no head {name}: the model has {n_layers} layers of {n_heads} {kind}{of_them}.")
    if len(heads) < least:
        raise SweepError("No head was named: give at least one (layer, head).")
    if twice := [head for i, head in enumerate(heads) if head in heads[:i]]:
        raise SweepError(f"{head_name(twice[0][0], twice[0][1], mark)} was given twice: give each head once.")
    return [(int(layer), int(index)) for layer, index in heads]


def check_positions(
    wanted: Iterable[int | str] | int | str, roles: Collection[str] | None = None, n_pos: int = LARGEST
) -> list[int | str]:
    """Token indices and roles; SweepError for one that the prompts do not have.

    Args:
        wanted: One position or several: token indices from 0, or below 0 from the end, or roles.
        roles: The task's; None where no task is known yet.
        n_pos: Tokens of the longest prompt, or of the shortest where all must have them; where they are known.
    """
    positions = listed(wanted)
    for position in positions:
        if isinstance(position, str):
            if roles is not None and position not in roles:
                raise SweepError(
                    f"Unknown position {shown(position)}: this task's named positions are: "
                    f"{', '.join(roles) or 'none'}."
                )
        elif not is_index(position):
            raise SweepError(f"Position {shown(position)} is neither a token index nor the name of a role.")
        elif not -n_pos <= position < n_pos:
            raise SweepError(
                f"Position {shown(position)} is outside the prompts, which have positions 0 to {n_pos - 1} "
                f"(or -{n_pos} to -1, from the end)."
            )
    if not positions or len(set(positions)) < len(positions):
        raise SweepError(f"positions={shown(positions)} must name at least one position, each once.")
    return [position if isinstance(position, str) else int(position) for position in positions]


def sha256_of(file: Path) -> str:
    """The sha256 (hex) of a file's content, which is not held in memory at once."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def user_level() -> int:
    """The ``stacklevel`` at which a warning names the line of whoever called patchlib, however deep it comes from."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "patchlib":
        level, frame = level + 1, frame.f_back
    return level


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that results depend on, by name."""
    libraries = ("torch", "transformer-lens", "transformers", "numpy", "scipy")
    package = sys.modules["patchlib"]  # an import would close a circle, in which mypy loses types
    own = {"python": platform.python_version(), "patchlib": str(package.__version__)}
    return own | {name: version(name) for name in libraries}


def without_grammar_of_addresses() -> None:
    """Spare this process two seconds: what reads notebooks would compile a grammar of web addresses, and never use it.

    It comes with JupyterLab, and jsonschema does without it. For processes that are patchlib's own.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: it cannot be imported
