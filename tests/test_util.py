"""The one checker and the one name: what every room of the house says when it is asked for what does not exist."""

from __future__ import annotations

import numpy as np
import pytest

from patchlib._util import (
    cell_name,
    check_choice,
    check_count,
    check_fraction,
    check_heads,
    check_indices,
    check_positions,
    first_line,
    head_name,
    head_names,
)
from patchlib.errors import SweepError, TaskError


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"layer": 9, "head": 6}, "L9H6"),
        ({"layer": 9, "head_index": 6.0, "effect": 0.5}, "L9H6"),
        ({"layer": 9, "kv_head": 2}, "L9KV2"),
        ({"layer": 9.0, "role": "S2"}, "L9 at S2"),
        ({"layer": 9, "head": 6, "pos": 10.0}, "L9H6 at position 10"),
        ({"layer": 0}, "L0"),
        ({"role": "END"}, "all layers at END"),
    ],
)
def test_cells_have_short_names(row, name):
    assert cell_name(row) == name


def test_heads_are_named_in_the_order_of_layers():
    assert head_names([(9, 9), (9, 6), (np.int64(0), 1)]) == "L0H1, L9H6, L9H9"
    assert head_name(3, 1, "KV") == "L3KV1"


@pytest.mark.parametrize("heads", [[(1, 2), (0, 3)], np.array([[1, 2], [0, 3]]), iter([(np.int64(1), 2), (0, 3)])])
def test_heads_that_there_are(heads):
    checked = check_heads(heads, n_layers=2, n_heads=4)
    assert checked == [(1, 2), (0, 3)] and {type(number) for head in checked for number in head} == {int}


@pytest.mark.parametrize(
    ("heads", "how", "says"),
    [
        ([(0, 0), (2, 1)], {}, r"^There is no head L2H1: the model has 2 layers of 4 heads\.$"),
        ([(0, 4)], {}, "There is no head L0H4"),
        ([(-1, 0)], {}, "There is no head L-1H0"),
        ([(0, 0)], {"first_layer": 1}, "L0H0.*of which those from layer 1 on can be used"),
        ([(0, 5)], {"mark": "KV"}, "There is no head L0KV5: the model has 2 layers of 4 KV heads"),
        ([(0, 1.0)], {}, r"There is no head \(0, 1.0\)"),
        ([(True, 1)], {}, r"There is no head \(True, 1\)"),
        ([(0, 1, 2)], {}, "There is no head"),
        ((0, 1), {}, "There is no head 0"),
        (["L0H1"], {}, "There is no head 'L0H1'"),
        (None, {}, "There is no head None"),
        ([], {}, "No head was named"),
    ],
)
def test_heads_that_there_are_not(heads, how, says):
    with pytest.raises(SweepError, match=says):
        check_heads(heads, 2, 4, **how)


def test_indices_along_an_axis():
    assert check_indices("layer", None, 3) == [0, 1, 2]
    assert check_indices("layer", np.int64(1), 3) == check_indices("layer", np.array([1]), 3) == [1]
    for wrong in ([3], -1, [True], [1.0], ["0"], [], [1, 1], "0", [[1]]):
        with pytest.raises(SweepError, match=r"layer .* cannot be used: give whole numbers from 0 to 2, each once"):
            check_indices("layer", wrong, 3)


def test_positions_are_token_indices_or_roles():
    assert check_positions(np.array([3, 0]), ["END"], 4) == [3, 0]
    assert check_positions([-1, 0, -4], [], 4) == [-1, 0, -4]  # below 0 from the end
    assert check_positions(["END", 1], ["END"], 4) == ["END", 1] and check_positions("END", ["END"], 4) == ["END"]
    for wrong, says in [
        ("S2", "Unknown position 'S2': this task's named positions are: END"),
        (4, "Position 4 is outside the prompts, which have positions 0 to 3"),
        (-5, r"Position -5 is outside the prompts, .* \(or -4 to -1, from the end\)"),
        (True, "Position True is neither"),
        ([], "at least one position"),
        ([1, 1], "each once"),
    ]:
        with pytest.raises(SweepError, match=says):
            check_positions(wrong, ["END"], 4)


def test_counts_fractions_and_choices():
    assert check_count("depth", np.int64(2)) == 2 and check_count("seed", 0, least=0) == 0
    assert check_fraction("confidence", np.float32(0.5)) == 0.5
    assert check_choice("engine", "fast", ("auto", "fast")) == "fast"
    for wrong in (0, -1, 1.0, True, "1", None):
        with pytest.raises(TaskError, match=f"depth must be a whole number of 1 or more, not {wrong!r}"):
            check_count("depth", wrong, error=TaskError)
    for wrong in (0, 1, 95, float("nan"), "0.5", None):
        with pytest.raises(SweepError, match=r"share must lie between 0 and 1, such as 0\.95, not"):
            check_fraction("share", wrong)
    for wrong in ("turbo", None, ["fast"]):
        with pytest.raises(SweepError, match=r"Unknown engine .*: choose 'auto', 'fast' or 'plain'\."):
            check_choice("engine", wrong, ("auto", "fast", "plain"))


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a\nb"), "a"), (ValueError("\n  a  \n"), "a"), (ValueError(), "ValueError"), (KeyError("x"), "'x'")],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
