"""Whatever a public function is given for one of its parameters: it works, or says in one line why not."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patchlib
from patchlib import stats
from patchlib._util import check_count, check_heads, check_indices, check_number, check_positions, shown
from patchlib.errors import AlignmentError, PatchlibError
from tests.attacks.callables import model, pairs, public
from tests.attacks.case import clear_line, time_limit

EXAMPLES = int(os.environ.get("PATCHLIB_EXAMPLES", "1"))
"""How many times as many examples as usual."""
USERS_OWN = ("hooks", "progress", "compute_metric", "metric")
"""What is called where it can be called, so that it raises what it likes."""

numbers = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([10**12, 2**63, 10**400, -(2**63)]),
    st.floats(),
    st.booleans(),
    st.complex_numbers(),
    st.integers(-3, 12).map(np.int64),
    st.floats(width=32).map(np.float32),
)
texts = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=6),  # half surrogate pairs and zero bytes too
    st.sampled_from(["END", "S2", "none", "layer", "head", "logit_diff", "mean", "auto", "L0H1", " ", "{", "%s"]),
)
plain = st.one_of(st.none(), numbers, texts, st.binary(max_size=3), st.builds(object), st.just(dict), st.just(...))
nested = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.none(), numbers, texts, st.tuples(numbers, numbers)), inner, max_size=2),
    ),
    max_leaves=4,
)
arrays = st.builds(
    lambda shape, kind, fill: np.full(shape, fill).astype(kind),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["int64", "int8", "float32", "bool", "object", "U3"]),
    st.integers(-2, 3),
)
tables = st.sampled_from(
    [pd.DataFrame(), pd.DataFrame({"layer": [1]}), pd.Series([0]), xr.Dataset(), xr.DataArray([1])]
)
junk = st.one_of(nested, arrays, arrays.filter(lambda a: a.dtype.kind in "ifb").map(torch.tensor), tables)


def one_line(error: PatchlibError) -> None:
    """An alignment error has a table under its line."""
    said = str(error)
    clear_line(said.splitlines()[0] if isinstance(error, AlignmentError) else said)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, Any]:
    """A function, one of its parameters, and what it is given."""
    name = draw(st.sampled_from(sorted(public())))
    parameter = draw(st.sampled_from(sorted(public()[name].right)))
    return name, parameter, draw(junk)


@settings(max_examples=80 * EXAMPLES, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_junk_for_one_parameter_works_or_is_refused_in_one_line(call: tuple[str, str, Any]) -> None:
    name, parameter, value = call
    if parameter == "checkpoint" or (parameter in USERS_OWN and callable(value)):
        return
    entry = public()[name]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), time_limit(30):
        warnings.simplefilter("ignore")
        try:
            entry.function(**{**entry.right, parameter: value})
        except PatchlibError as error:
            one_line(error)


@settings(max_examples=150 * EXAMPLES, deadline=None, print_blob=True)
@given(junk, st.integers(1, 5), st.integers(1, 5))
def test_the_checkers_give_what_they_promise_or_refuse_in_one_line(value: Any, n_layers: int, n_heads: int) -> None:
    def heads() -> None:
        checked = check_heads(value, n_layers, n_heads)
        assert all(type(i) is int for head in checked for i in head) and len(set(checked)) == len(checked) > 0
        assert all(0 <= layer < n_layers and 0 <= head < n_heads for layer, head in checked)

    def indices() -> None:
        checked = check_indices("layer", value, n_layers)
        assert all(type(i) is int and 0 <= i < n_layers for i in checked) and len(set(checked)) == len(checked) > 0

    def positions() -> None:
        checked = check_positions(value, ("END", "S2"), n_layers)
        assert all(
            p in ("END", "S2") if isinstance(p, str) else type(p) is int and -n_layers <= p < n_layers for p in checked
        )

    def count() -> None:
        assert type(check_count("n", value, most=n_layers)) is int and 1 <= value <= n_layers

    def number() -> None:
        assert np.isfinite(check_number("x", value, -1, 1)) and -1 <= value <= 1

    assert "\n" not in shown(value) and len(shown(value)) < 100
    for check in (heads, indices, positions, count, number):
        try:
            check()
        except PatchlibError as error:
            one_line(error)


@settings(max_examples=40 * EXAMPLES, deadline=None, print_blob=True)
@given(st.data())
def test_rows_that_a_tokenizer_padded_are_refused_and_others_run(data: st.DataObject) -> None:
    """Of any lengths, on either side, however long the padding: refused if any was padded, right if none was."""
    llama = model()
    bos, pad = llama.tokenizer.bos_token_id, llama.tokenizer.pad_token_id
    word = st.integers(2, 200)
    lengths = data.draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    with_bos = [bos] * data.draw(st.integers(0, 1))
    rows = [with_bos + data.draw(st.lists(word, min_size=n, max_size=n)) for n in lengths]
    changed = [[*row[:-1], row[-1] + 1] for row in rows]
    longest, left = max(map(len, rows)) + data.draw(st.integers(0, 2)), data.draw(st.booleans())

    def fill(row: list[int]) -> list[int]:
        return [pad] * (longest - len(row)) + row if left else row + [pad] * (longest - len(row))

    padded = patchlib.PromptPairs([*map(fill, rows)], [*map(fill, changed)], [(5, 6)] * len(rows))
    if any(len(row) < longest for row in rows):
        with pytest.raises(patchlib.TaskError, match="padding"):
            patchlib.baseline(llama, padded)
    whole = patchlib.PromptPairs(rows, changed, [(5, 6)] * len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", patchlib.AnswerWarning)
        clean = patchlib.baseline(llama, whole).clean.values[0]
    by_hand = [float((logits := llama(torch.tensor([row]))[0, -1])[5] - logits[6]) for row in rows]
    np.testing.assert_allclose(clean, by_hand, atol=1e-4)


@settings(max_examples=60 * EXAMPLES, deadline=None, print_blob=True)
@given(st.data())
def test_any_contrast_is_usable_one_way_round_at_most_and_never_divided_by_otherwise(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 5))
    values = st.lists(st.floats(-1e3, 1e3, width=32), min_size=n, max_size=n)
    clean, corrupted, patched = (np.array([data.draw(values)]) for _ in range(3))
    variables = {"clean": clean, "corrupted": corrupted, "patched": patched}
    result = xr.Dataset(
        {name: (("metric", "example"), numbers) for name, numbers in variables.items()},
        {"metric": ["logit_diff"]},
        {"direction": data.draw(st.sampled_from(["denoise", "noise"]))},
    )
    turned = result.rename(clean="corrupted", corrupted="clean")
    usable = bool(stats.contrast(result).usable.item())
    assert not (usable and stats.contrast(turned).usable.item())
    assert np.isfinite(stats.effect(result).item()) == usable


def test_the_made_up_task_has_a_contrast() -> None:
    assert stats.contrast(patchlib.baseline(model(), pairs())).usable.all()
