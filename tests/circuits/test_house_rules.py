"""What holds of every public function here: clear names of columns, one answer to a bad head, position or count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import patchlib
from patchlib import Ablation, Circuit, HeadSet, SweepError
from tests.helpers import alike_pairs, make_pairs
from tests.tiny import load_tiny

CIRCUIT = Circuit({"early": [(0, 1), (1, 0)], "late": [(2, 3)]}, {"late": "END"})


@pytest.fixture(scope="module")
def model():
    return load_tiny("llama")


@pytest.fixture(scope="module")
def ablation(model):
    return Ablation(model, make_pairs(model))


def test_no_column_hides_behind_an_attribute_of_tables_and_none_has_a_blank(model, ablation):
    rows = patchlib.repeated_tokens(model, 3, 5)
    discovery = patchlib.discover(model, alike_pairs(model), depth=2, progress=False)
    tables = {
        "steps": discovery.steps,
        "inputs": discovery.inputs,
        "head_types": discovery.head_types,
        "circuit": CIRCUIT.table(),
        "faithfulness": pd.DataFrame([patchlib.faithfulness(ablation, CIRCUIT)]),
        "completeness": patchlib.completeness(ablation, CIRCUIT, n_random=1, n_greedy=1),
        "minimality": patchlib.minimality(ablation, CIRCUIT),
        "knock_out": patchlib.knock_out(ablation, {"early": [(0, 1)]}),
        "backup_heads": patchlib.backup_heads(ablation, [(0, 1)]),
        "self_repair": patchlib.self_repair(ablation, [(0, 1)]),
        "faithfulness_by_protocol": patchlib.faithfulness_by_protocol({"mean": ablation}, CIRCUIT, n_random=1),
        "ablated_losses": patchlib.ablated_losses(Ablation(model, rows), {"early": [(0, 1)]}, copy=6),
        "k_composition": patchlib.k_composition(model, [(2, 0)]),
        "beside_published": patchlib.beside_published(model, CIRCUIT),
    }
    searches = patchlib.stability(
        model, alike_pairs(model, n=24), n_searches=2, hold_out="prompts", depth=1, progress=False
    )
    tables |= {name: getattr(searches, name) for name in ("searches", "heads", "head_types")}
    for name, table in tables.items():
        labels = [*table.columns, *filter(None, table.index.names)]
        assert not [label for label in labels if hasattr(pd.DataFrame, label) or not label.isidentifier()], name
    of_ablations = ("faithfulness", "completeness", "minimality", "knock_out", "backup_heads", "ablated_losses")
    of_ablations += ("self_repair", "faithfulness_by_protocol")
    for name in of_ablations:
        assert tables[name].protocol.str.contains("prompts of").all() and not tables[name].attrs, name


BAD_HEADS = {
    "negative": [(-1, 0)],
    "negative head": [(1, -1)],
    "too large": [(9, 0)],
    "too large head": [(1, 9)],
    "float": [(1.0, 0)],
    "bool": [(True, 1)],
    "string": ["L1H0"],
    "no pair": [1],
    "three": [(1, 0, 0)],
    "no list": 7,
    "the second": [(1, 0), (1, 9)],
}
TAKE_HEADS = {
    "HeadSet": lambda m, a, heads: a.measure([HeadSet(patchlib.everywhere(heads), keep=False)]),
    "Circuit": lambda m, a, heads: patchlib.faithfulness(a, Circuit({"type": heads})),
    "Circuit.without": lambda m, a, heads: Circuit(CIRCUIT.head_types).without(heads),
    "Circuit.head_positions": lambda m, a, heads: CIRCUIT.head_positions(heads),
    "knock_out": lambda m, a, heads: patchlib.knock_out(a, {"set": heads}),
    "backup_heads": lambda m, a, heads: patchlib.backup_heads(a, heads),
    "self_repair": lambda m, a, heads: patchlib.self_repair(a, heads),
    "senders": lambda m, a, heads: patchlib.attention_effects(m, a.pairs, heads, [(2, 0)], role="END"),
    "receivers": lambda m, a, heads: patchlib.attention_effects(m, a.pairs, [(0, 1)], heads, role="END"),
    "random_like": lambda m, a, heads: patchlib.random_like(m, heads, 1),
    "exclude": lambda m, a, heads: patchlib.random_like(m, [(1, 0)], 1, exclude=heads),
    "ablated_losses": lambda m, a, heads: patchlib.ablated_losses(a, {"set": heads}, copy=4),
    "k_composition": lambda m, a, heads: patchlib.k_composition(m, heads),
    "copying_scores": lambda m, a, heads: patchlib.copying_scores(m, [5, 6], heads),
    "attention_patterns": lambda m, a, heads: patchlib.attention_patterns(m, " and the store", heads),
}
KNOW_NO_MODEL = ("Circuit.without", "Circuit.head_positions")
TAKE_NO_HEAD = (
    "backup_heads",
    "self_repair",
    "senders",
    "receivers",
    "random_like",
    "k_composition",
    "attention_patterns",
)


NO_SUCH = r"^There is no head .*(the model has 3 layers of 4 heads|whole numbers from 0)"


@pytest.mark.parametrize("name", TAKE_HEADS)
def test_a_bad_head_has_one_clear_answer(model, ablation, name):
    for bad, heads in BAD_HEADS.items():
        if name in KNOW_NO_MODEL and bad in ("too large", "too large head", "the second"):
            continue
        with pytest.raises(SweepError, match=NO_SUCH):
            TAKE_HEADS[name](model, ablation, heads)


@pytest.mark.parametrize("name", TAKE_NO_HEAD)
def test_where_a_head_is_needed_none_is_an_error(model, ablation, name):
    with pytest.raises(SweepError, match="No head was named"):
        TAKE_HEADS[name](model, ablation, [])


def test_heads_may_come_in_an_array(model, ablation):
    array = np.argwhere(np.arange(12).reshape(3, 4) > 9)
    table = patchlib.knock_out(ablation, {"array": array, "list": [(2, 2), (2, 3)]})
    assert table["heads"]["array"] == "L2H2, L2H3" and table.change["array"] == table.change["list"]


@pytest.mark.parametrize("position", ["S9", 9, -10, 1.5, True, ()])
def test_a_bad_position_has_one_clear_answer(ablation, position):
    for keep in (True, False):
        with pytest.raises(SweepError, match=r"[Pp]osition"):
            ablation.measure([HeadSet({(0, 0): position}, keep=keep)])
    with pytest.raises(SweepError, match=r"[Pp]osition"):
        patchlib.faithfulness(ablation, Circuit({"a": [(0, 0)]}, {"a": position}))


def test_the_position_before_the_end_is_counted_from_it(ablation):
    sets = [HeadSet({(0, 0): position}, keep=False) for position in (-1, "END", -4, 5)]
    values = np.asarray(ablation.measure(sets)).reshape(4, -1)
    assert (values[0] == values[1]).all() and (values[2] == values[3]).all() and (values[0] != values[2]).any()


def test_a_bad_count_has_one_clear_answer(model, ablation):
    attempts = {
        "batch_tokens": lambda count: Ablation(model, make_pairs(model), batch_tokens=count),
        "n_random": lambda count: patchlib.completeness(ablation, CIRCUIT, n_random=count),
        "n_greedy": lambda count: patchlib.completeness(ablation, CIRCUIT, n_greedy=count),
        "n_sets": lambda count: patchlib.random_like(model, [(1, 0)], count),
        "top_k": lambda count: patchlib.copying_scores(model, [5, 6], top_k=count),
        "depth": lambda count: patchlib.discover(model, make_pairs(model), depth=count),
        "max_heads": lambda count: patchlib.discover(model, make_pairs(model), max_heads=count),
        "max_inputs": lambda count: patchlib.discover(model, make_pairs(model), max_inputs=count),
    }
    for name, attempt in attempts.items():
        for count in (-1, 1.5, True, "3"):
            with pytest.raises(SweepError, match=f"{name} must be a whole number"):
                attempt(count)
    with pytest.raises(SweepError, match="n_random must be a whole number of 1 or more"):
        patchlib.k_composition(model, [(2, 0)], n_random=0)
    with pytest.raises(SweepError, match="at least one HeadSet"):
        ablation.measure([])
    for copy in (0, 1, 8, 2.0):
        with pytest.raises(SweepError, match="must be a position from 2 to 7"):
            patchlib.copy_losses(patchlib.token_losses(model, make_pairs(model)), copy)
