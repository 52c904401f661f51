"""What a folder says of its runs, weighed before it is believed: it may be somebody else's, or damaged.

A record that is not of the kind that patchlib writes is read as none at all: whoever reads it then says so of that run.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LONGEST = 2**24
"""Bytes of a record; those of a notebook with hundreds of parameters take a few thousand."""
LONGEST_PATH = 4096
"""Characters of a result's path, as most systems have it."""


def _as_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _as_file_name(text: str) -> str:
    if not text or Path(text).name != text or not text.isprintable():
        raise ValueError("no name of a file")
    return text


def _as_result(text: str) -> str:
    if Path(text).suffix not in (".nc", ".csv") or not text.isprintable() or len(text) > LONGEST_PATH:
        raise ValueError("no name of a result")
    return text


_Amount = Annotated[float, Field(ge=0)] | None
_Time = Annotated[str, AfterValidator(_as_time)]
_Name = Annotated[str, AfterValidator(_as_file_name)]
_State = Literal["ok", "failed", "timeout", "interrupted", "running", "waiting"]
_Result = Annotated[str, AfterValidator(_as_result)]


class _Record(BaseModel):
    """As strict as JSON: text is no number; what is not named here is kept as it is."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Model(_Record):
    name: str
    weights_hash: str | None


class _File(_Record):
    name: _Result
    sha256: str


class Manifest(_Record):
    """The part of a manifest that is read again; all else in it is only shown."""

    notebook: _Name
    status: _State
    error: str | None
    parameters: dict[str, Any]
    models: list[_Model]
    headline: dict[str, float | None] = {}
    wall_time_s: _Amount
    peak_memory_mb: _Amount
    files: list[_File]
    finished_utc: _Time
    code_hash: str | None = None
    repeat: str | None = None


class Status(_Record):
    """What a grid knows of a run."""

    status: _State
    notebook: _Name | None = None
    error: str | None = None
    parameters: dict[str, Any] = {}
    attempts: int | None = None
    token: str | None = None
    wall_time_s: _Amount = None
    peak_memory_mb: _Amount = None
    finished_utc: _Time | None = None


def read_record(path: Path, kind: type[_Record]) -> dict[str, Any]:
    """A record of a kind; empty where it is missing, damaged or of another kind."""
    if not os.path.isfile(path):  # a pipe of that name would be waited for
        return {}
    try:
        with path.open("rb") as file:
            return kind.model_validate_json(file.read(LONGEST)).model_dump(exclude_unset=True)
    except (OSError, ValueError):  # pydantic's ValidationError is one, for nesting without end too
        return {}
