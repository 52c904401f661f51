"""YAML of grids and of `run -f`: values as people mean them, and files that would never end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patchlib import read_grid
from patchlib.runs.execute.parameters import read_parameters
from patchlib.runs.plain_yaml import LONGEST, read_yaml
from tests.attacks.case import Refusal, case, refused
from tests.runs.small_grid import grid_writer, write_notebook


def _read(folder: Path, text: str | bytes) -> dict[str, Any]:
    path = folder / "values.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path, "the file of parameters")


def _grid(folder: Path, text: str) -> list[Any]:
    path = write_notebook(folder).with_name("grid.yaml")
    path.write_text(f"notebooks: [tiny.ipynb]\n{text}")
    return read_grid(path)


for _text, _value in {
    "1:30": "1:30",
    "12:30:45": "12:30:45",
    "2020-01-01": "2020-01-01",
    "2020-01-01 10:00:00": "2020-01-01 10:00:00",
    "2024-13-45": "2024-13-45",
    "1e5": 1e5,
    "-1e-3": -0.001,
    "0x1F": 31,
    "+7": 7,
    "y": "y",
    "TRUE": True,
    "~": None,
    "": None,
    '"010"': "010",
    "'yes'": "yes",
    "!!str 1_0": "1_0",
    "=": "=",
    "1,000": "1,000",
    "1.2.3": "1.2.3",
    r'"\ud83d\ude00"': "\U0001f600",
}.items():

    @case("B11", f"YAML: `x: {_text}`", 20)
    def _means(folder: Path, text: str = _text, value: Any = _value) -> str:
        read = _read(folder, f"x: {text}")["x"]
        assert (type(read), read) == (type(value), value), repr(read)
        return repr(read)


for _text in ("010", "-007", "007.5", "1_0", "1_000.5", "0b11", "0o17", "0X1F", "on", "Off", "yes", "NO"):

    @case("B11", f"YAML: `x: {_text}`, which readers of YAML take for several things", 20)
    def _ambiguous(folder: Path, text: str = _text) -> Refusal:
        return refused(lambda: _read(folder, f"x: {text}"), text, "in quotes")


for _text, _word in {
    "1e400": "larger than a number can be",
    "!!int 010": "no int",
    "!!timestamp 2020-01-01": "timestamp",
    "!!binary aGk=": "binary",
    "!!set {a}": "set",
    "!!python/object/apply:os.system [ls]": "python/object",
    "{1: a}": "put it in quotes",
    "{? [a] : b}": "put it in quotes",
    r'"\ud800"': "half a character",
    "9" * 5000: "4300",
    "[" * 3000: "too deep",
    "{a: " * 3000: "too deep",
    "&a [*a]": "aliases",
    "&a {b: *a}": "aliases",
    "1\nx: 2": "twice",
    "1\n---\nx: 2": "single document",
    "\x07": "character",
    "'a\x85b'": "line",
    "'a\u2028b'": "line",
}.items():

    @case("B11", f"YAML: `x: {_text[:40]!r}`", 60)
    def _is_refused(folder: Path, text: str = _text, word: str = _word) -> Refusal:
        return refused(lambda: _read(folder, f"x: {text}"), word)


@case("B11", "YAML: a name `on`, `no` or `010` is text", 20)
def names_are_text(folder: Path) -> str:
    assert _read(folder, "on: 1\nno: 2\n010: 3") == {"on": 1, "no": 2, "010": 3}
    return "text"


@case("B11", "YAML: notebook 04 or 08 by its number", 20)
def numbers_of_notebooks(folder: Path) -> str:
    path = folder / "grid.yaml"
    path.write_text("notebooks: [04, 02]\nruns: [{notebook: 01, seed: 1}]")
    names = [run.name for run in read_grid(path)]
    assert names == ["04_induction_heads", "02_head_patching", "01_layer_patching,seed=1"], names
    return ", ".join(names)


@case("B11", "YAML: an anchor bomb, of lists", 20)
def bomb_of_lists(folder: Path) -> Refusal:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return refused(lambda: _grid(folder, "\n".join(["parameters:", *(f"  {line}" for line in lines)])), "aliases")


@case("B11", "YAML: an anchor bomb, of merged mappings", 20)
def bomb_of_merges(folder: Path) -> Refusal:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    return refused(lambda: _read(folder, "\n".join(lines)), "aliases")


@case("B11", "YAML: one long text under ten thousand aliases", 60)
def bomb_of_text(folder: Path) -> Refusal:
    return refused(lambda: _read(folder, f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 9000)}]"), "aliases")


@case("B11", "YAML: a few aliases, as people use them", 20)
def aliases_are_taken(folder: Path) -> str:
    runs = _grid(folder, "parameters: &all {mode: slow}\nruns: [{<<: *all, notebook: tiny.ipynb, seed: 3}]")
    assert [dict(run.parameters) for run in runs] == [{"mode": "slow"}, {"mode": "slow", "seed": 3}]
    return "taken"


@case("B11", "YAML: a file of a million bytes, or one that never ends", 20)
def endless_file(folder: Path) -> Refusal:
    refused(lambda: _read(folder, "x: 1\n" * 200_000), f"{LONGEST:,} bytes")
    return refused(lambda: read_yaml("/dev/zero", "the grid"), f"{LONGEST:,} bytes")


@case("B11", "YAML: a folder, a file that is not there, bytes that are no text", 20)
def no_text(folder: Path) -> Refusal:
    refused(lambda: read_yaml(folder, "the grid"), "cannot be read")
    refused(lambda: read_yaml(folder / "none.yaml", "the grid"), "none.yaml", "cannot be read")
    refused(lambda: read_yaml("a\0b", "the grid"), "cannot be read")
    return refused(lambda: _read(folder, b"\xff\xfe\x00"), "cannot be read")


@case("B11", "a grid of 10^8 runs", 20)
def too_many_runs(folder: Path) -> Refusal:
    axes = ", ".join(f"{name}: {list(range(100))}" for name in "abcd")
    return refused(lambda: _grid(folder, f"grid: {{{axes}}}"), "100,000,000 runs")


@case("B11", "a grid of 2^5000 runs", 20)
def far_too_many_runs(folder: Path) -> Refusal:
    axes = ", ".join(f"a{i}: [0, 1]" for i in range(5000))
    return refused(lambda: _grid(folder, f"grid: {{{axes}}}"), "10^15 runs")


@case("B11", "a grid whose parameters would take a terabyte", 20)
def too_long_parameters(folder: Path) -> Refusal:
    return refused(lambda: _grid(folder, f"grid: {{seed: {list(range(3000))}, mode: [{'x' * 50_000}]}}"), "characters")


@case("B11", "a grid whose keys are other things than they should be", 20)
def other_things(folder: Path) -> Refusal:
    for text in ("grid: 5", "grid: [1]", "grid: {seed: {a: 1}}", "grid: {seed: 010}", "grid: {seed: [2020-01-01]}"):
        refused(lambda text=text: _grid(folder, text))
    for text in (
        "runs: 5",
        "runs: [1]",
        "runs: text",
        "runs: [{notebook: [1]}]",
        "parameters: 3",
        "parameters: [seed]",
    ):
        refused(lambda text=text: _grid(folder, text))
    return refused(lambda: _grid(folder, "runs: [{notebook: nowhere}]"), "nowhere")


@case("B11", "a date for a text and for a number, in `run -f`", 20)
def date_as_parameter(folder: Path) -> Refusal:
    given = _read(folder, "mode: 2020-01-01")
    assert read_parameters(write_notebook(folder), given)[1] == {"mode": "2020-01-01"}
    return refused(lambda: read_parameters(folder / "tiny.ipynb", _read(folder, "seed: 2020-01-01")), "seed", "int")


@case("B11", "values that come through a grid are those of the file", 20)
def grid_values(folder: Path) -> str:
    grid = grid_writer(folder)
    (run,) = read_grid(grid(runs=None, grid={"mode": ["1:30"]}))
    assert dict(run.parameters) == {"mode": "1:30"}
    return "as written"
