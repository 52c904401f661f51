"""Sets of cells against loops with plain hooks, and their interactions in toys whose circuit is known."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch

import patchlib
from tests.helpers import ATOL, alike_pairs, contrast_pairs, make_pairs, mixed_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning", "ignore::patchlib.EngineWarning")
patch_set = functools.partial(patchlib.patch_set, progress=False)


def by_hand(model, pairs, cells, direction) -> np.ndarray:
    """The logit difference with cells (site, layer, head, position by prompt) from the other prompt."""
    found = []
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
        _, cache = model.run_with_cache(other[None])

        def put(activation, hook, index, cache=cache):
            activation[index] = cache[hook.name][index]
            return activation

        hooks = []
        for site, layer, head, position in cells:
            at = slice(None) if position is None else int(position[i])
            index = (slice(None), at) if head is None else (slice(None), at, head)
            hooks.append((patchlib.SITES[site].hook_name(layer), functools.partial(put, index=index)))
        logits = model.run_with_hooks(base[None], fwd_hooks=hooks)[0, -1]
        found.append(float(logits[pairs.answers[i, 0]] - logits[pairs.answers[i, 1]]))
    return np.array(found)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_heads_at_positions_and_other_sites_are_patched_together(kind, direction):
    model = load_tiny(kind)
    pairs = mixed_pairs(model)
    ends, varied = pairs.roles["END"], pairs.roles["varied"]
    cells = [(0, 1), (0, 2, "varied"), (2, 3, "END"), ("mlp_out", 1, "varied"), ("resid_mid", 2, "END"), (1, None, 2)]
    spelt = [("z", 0, 1, None), ("z", 0, 2, varied), ("z", 2, 3, ends), ("mlp_out", 1, None, varied),
             ("resid_mid", 2, None, ends), ("z", 1, None, [2] * 5)]  # fmt: skip
    sets = {"all": cells, "two": cells[1:3], "late": cells[3:5], "turned": cells[2::-2]}
    fast, plain = (patch_set(model, pairs, sets, "z", direction, engine=engine) for engine in ("fast", "plain"))
    np.testing.assert_allclose(fast.patched, plain.patched, atol=ATOL)
    for name, hooked in {"all": spelt, "two": spelt[1:3], "late": spelt[3:5], "turned": spelt[2::-2]}.items():
        np.testing.assert_allclose(fast.patched[0].sel(set=name), by_hand(model, pairs, hooked, direction), atol=ATOL)
    assert fast.cells.values[0] == (
        "L0H1, L0H2 at varied, L2H3 at END, L1 mlp_out at varied, L2 resid_mid at END, L1 at position 2"
    )
    assert fast.attrs["site"] == "z and mlp_out and resid_mid"


@pytest.mark.parametrize("site", ["z", "k", "pattern", "mlp_out"])
def test_a_set_of_one_is_the_sweep_s_cell_and_of_all_heads_the_layer_s(site):
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    has_heads = site != "mlp_out"
    n = {"k": 2}.get(site, 4)
    whole = sweep(model, pairs, site, ("layer",), layers=[1])
    sets = {"all": [(1, head) for head in range(n)] if has_heads else [(1,)]}
    sets |= {f"{head}": [(1, head)] for head in range(n)} if has_heads else {}
    result = patch_set(model, pairs, sets, site)
    np.testing.assert_allclose(result.patched[0].sel(set="all"), whole.patched[0, 0], atol=ATOL)
    if has_heads:
        single = sweep(model, pairs, site, ("layer", "head"), layers=[1])
        np.testing.assert_allclose(result.patched[0, 1:], single.patched[0, 0], atol=ATOL)


def test_a_table_of_a_sweep_is_a_set():
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    table = patchlib.summary_table(sweep(model, pairs, "z", ("layer", "head", "role"), layers=[1, 2]), 3)
    cells = [(row["layer"], row.head_index, row.role) for _, row in table.iterrows()]
    first, second = patch_set(model, pairs, table), patch_set(model, pairs, cells)
    np.testing.assert_array_equal(first.patched, second.patched)
    assert first.set.item() == " + ".join(f"L{layer}H{head} at {role}" for layer, head, role in cells)
    streams = patchlib.summary_table(sweep(model, pairs, "resid_pre", ("layer", "pos")), 2)
    assert patch_set(model, pairs, streams, "resid_pre").patched.notnull().all()
    table = patchlib.summary_table(first, 1)
    assert table["set"].tolist() == first.set.values.tolist()


@pytest.mark.parametrize(
    ("toy", "direction", "alone", "interaction"),
    [
        ("or_gate", "denoise", 1, -1),
        ("or_gate", "noise", 0, 1),
        ("and_gate", "denoise", 0, 1),
        ("and_gate", "noise", 1, -1),
    ],
)
def test_gates_have_the_interactions_that_they_must_have(toy, direction, alone, interaction):
    toy = getattr(patchlib.toys, toy)(n_prompts=8)
    heads = [(0, 1), (1, 2), (1, 3)]
    result = patchlib.interactions(toy.model, toy.task, heads, direction=direction, progress=False)
    np.testing.assert_allclose(result.alone, [alone, alone, 0], atol=0.1)
    np.testing.assert_allclose(result.together.values[0, 1], 1, atol=0.1)
    np.testing.assert_allclose(result.interaction.values[0, 1], interaction, atol=0.15)
    assert (np.sign([result.low[0, 1], result.high[0, 1]]) == interaction).all()
    np.testing.assert_allclose(result.interaction.values[[0, 1], 2], 0, atol=0.1)
    np.testing.assert_array_equal(result.interaction, result.interaction.T)
    assert np.isnan(np.diagonal(result.interaction)).all()


def test_an_interaction_is_together_minus_the_sum_with_an_interval_over_prompts():
    model = load_tiny("llama")
    pairs = contrast_pairs(model, n=6)
    cells = [("z", 0, 1, None), ("z", 1, 2, None), ("z", 2, 0, None)]
    result = patchlib.interactions(model, pairs, [(0, 1), (1, 2), (2, 0)], progress=False)
    base = by_hand(model, pairs, [], "denoise")
    possible = by_hand(model, pairs, [], "noise") - base
    one, other, both = (by_hand(model, pairs, part, "denoise") - base for part in (cells[:1], cells[2:], cells[::2]))
    assert result.interaction.values[0, 2] == pytest.approx((both - one - other).mean() / possible.mean(), abs=1e-3)
    ends = patchlib.stats.ratio_interval(both - one - other, possible, 1 - 0.05 / 3)
    assert (result.low.values[0, 2], result.high.values[0, 2]) == pytest.approx(ends, abs=1e-2)


def test_growth_adds_the_cell_that_raises_the_effect_most():
    model = load_tiny("llama")
    pairs, others = (alike_pairs(model, 12).select(list(half)) for half in (range(6), range(6, 12)))
    candidates = [(0, 0), (0, 1), (1, 2), (2, 3), (2, 0)]
    table = patchlib.grow_set(model, pairs, candidates, n_steps=3, held_out=others, progress=False)
    chosen = []
    for i in range(3):
        sets = {
            f"L{layer}H{head}": [*chosen, (layer, head)] for layer, head in candidates if (layer, head) not in chosen
        }
        effects = patch_set(model, pairs, sets).effect[0]
        best = str(effects.set.values[effects.values.argmax()])
        assert table.cell[i] == best and table.n_tested[i] == len(sets) == 5 - i
        assert table.effect[i] == pytest.approx(float(effects.max()), abs=1e-5)
        chosen = sets[best]
        elsewhere = patch_set(model, others, chosen).effect.item()
        assert table.held_out_effect[i] == pytest.approx(elsewhere, abs=1e-5)
    assert table.attrs["cells"] == chosen
    assert table.gain.cumsum().tolist() == pytest.approx(table.effect.tolist(), abs=1e-4)
    every = patchlib.grow_set(model, pairs, n_steps=1, progress=False)
    assert every.n_tested[0] == 12
    assert patchlib.grow_set(model, pairs, site="mlp_out", n_steps=1, progress=False).n_tested[0] == 3


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "No cell was given"),
        ({}, "There is no set to patch"),
        ({"a": []}, "The set 'a' has no cell"),
        ([(0, 9)], "There is no head L0H9"),
        ([(9, 0)], "There is no head L9H0"),
        ([(0, 1), (0, 1)], "L0H1 was given twice"),
        (
            [(0, 1, "END"), (0, 1, -1)],
            "L0H1 at END was given twice .as L0H1 at END and as L0H1 at position -1, which are the same",
        ),
        ([(0,)], r"is no cell of 'z': give \(layer, head\)"),
        ([(0, 1, 2, 3)], "is no cell of 'z'"),
        ([(0, 1, "subject")], "Unknown position 'subject'"),
        ([(0, 1, 9)], "Position 9 is outside"),
        ([("mlp_out", 0, 1, 2)], "is no cell of 'mlp_out'"),
        ([("mlp_out", 7)], "layer 7 cannot be used|layer .7. cannot be used"),
        ([("nowhere", 0)], "Unknown site 'nowhere'"),
        ([("embed", 0)], "Sets have no cells of 'embed'"),
        ([(None, 1)], "There is no head|cannot be used"),
        ([(0, 1.5)], "There is no head"),
        ([(True, 1)], "There is no head"),
        ("L0H1", "Cells cannot be 'L0H1'"),
        (3, "is no cell of 'z'"),
        (pd.DataFrame({"head": [1]}), "A row without a layer, or of a neuron, is no cell"),
        (pd.DataFrame({"layer": [1], "neuron": [1]}), "A row without a layer, or of a neuron, is no cell"),
    ],
)
def test_cells_that_are_not_there_are_refused_in_one_line(cells, message):
    model = load_tiny("gpt2")
    with pytest.raises(patchlib.SweepError, match=message) as error:
        patch_set(model, make_pairs(model), cells)
    assert "\n" not in str(error.value)


def test_cells_may_come_one_by_one_and_heads_under_either_name():
    model = load_tiny("gpt2")
    pairs = alike_pairs(model, 4)
    listed = patch_set(model, pairs, [(0, 1), (1, 1)])
    for cells in (((layer, 1) for layer in (0, 1)), pd.DataFrame({"layer": [0, 1], "head": [1, 1]})):
        assert patch_set(model, pairs, cells).patched.equals(listed.patched)
    one_by_one = ((layer, 1) for layer in (0, 1))
    assert patchlib.interactions(model, pairs, one_by_one, progress=False).cell.values.tolist() == ["L0H1", "L1H1"]
    one_by_one = ((layer, 1) for layer in (0, 1))
    assert patchlib.grow_set(model, pairs, one_by_one, n_steps=1, progress=False).n_tested[0] == 2


def test_what_cannot_be_grown_or_paired():
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    with pytest.raises(patchlib.SweepError, match="n_steps=3 cells cannot be added of 2 candidates"):
        patchlib.grow_set(model, pairs, [(0, 1), (0, 2)], n_steps=3, progress=False)
    with pytest.raises(patchlib.SweepError, match="give two or more"):
        patchlib.interactions(model, pairs, [(0, 1)], progress=False)
    with pytest.raises(patchlib.SweepError, match="confidence"):
        patchlib.interactions(model, pairs, [(0, 1), (0, 2)], confidence=2, progress=False)
    swapped = patchlib.PromptPairs(pairs.clean_tokens, pairs.corrupted_tokens, pairs.answers.flip(1))
    with pytest.raises(patchlib.SweepError, match="no usable contrast"):
        patchlib.grow_set(model, swapped, [(0, 1), (0, 2)], n_steps=1, progress=False)
    unusable = patchlib.interactions(model, swapped, [(0, 1), (0, 2)], progress=False)
    assert unusable.interaction.isnull().all()


def test_sets_take_sources_and_spans_as_sweeps_do():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    zeroed = patch_set(model, pairs, [(1, 2), (2, 2)], direction="noise", source="zero")
    row, names = pairs.clean_tokens[0][None], [f"blocks.{layer}.attn.hook_z" for layer in (1, 2)]

    def zero(z, hook):
        z[:, :, 2] = 0
        return z

    with torch.no_grad():
        logits = model.run_with_hooks(row, fwd_hooks=[(name, zero) for name in names])[0, -1]
    expected = float(logits[pairs.answers[0, 0]] - logits[pairs.answers[0, 1]])
    assert zeroed.patched.values[0, 0, 0] == pytest.approx(expected, abs=ATOL)
