"""Results of parts, merged, against the sweep of the whole."""

import numpy as np
import pytest
import torch

import patchlib
from patchlib.models.load import load_model
from tests.helpers import ATOL, contrast_pairs, mixed_pairs
from tests.tiny import DEVICE, load_tiny, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


def swept(pairs, site="z", over=("layer", "head"), model=None, **how):
    return patchlib.sweep(model or load_tiny("gpt2", 0), pairs, site, over, progress=False, **how)


@pytest.fixture(scope="module")
def pairs():
    return contrast_pairs(load_tiny("gpt2"), n=5)


def test_layers_and_heads_that_were_swept_apart(pairs):
    whole = swept(pairs)
    parts = [swept(pairs, layers=layers, heads=heads) for layers in ([2], [0, 1]) for heads in ([1, 3], [0, 2])]
    merged = patchlib.merge(parts)
    assert merged.attrs == whole.attrs
    assert set(merged.coords) == set(whole.coords)
    for name in ("patched", "clean", "corrupted", "effect"):
        assert merged[name].dims == whole[name].dims
        np.testing.assert_allclose(merged[name], whole[name], atol=ATOL)
    table = patchlib.summary_table(merged)
    assert table[["layer", "head_index"]].equals(patchlib.summary_table(whole)[["layer", "head_index"]])


def test_positions_and_roles_keep_their_labels_and_order(pairs):
    by_pos = (("layer", "pos"), ([5, 6], [3, 4, 7]), [3, 4, 5, 6, 7])
    by_role = (("layer", "role"), (["varied"], ["END", "first"]), ["varied", "END", "first"])
    for over, values, order in (by_pos, by_role):
        parts = [swept(pairs, "resid_pre", over, positions=positions) for positions in values]
        merged = patchlib.merge(parts)
        whole = swept(pairs, "resid_pre", over, positions=order)
        assert list(merged[over[1]].values) == order
        np.testing.assert_allclose(merged.patched, whole.patched, atol=ATOL)
        if over[1] == "pos":
            assert list(merged.pos_label.values) == list(whole.pos_label.values)


def test_prompts_of_two_lengths_that_were_swept_apart():
    model = load_tiny("gpt2")
    pairs = mixed_pairs(model).select([0, 2, 4, 1, 3])  # the long ones first
    parts = [pairs.select([0, 1, 2]), pairs.select([3, 4])]
    whole = swept(pairs, "resid_pre", ("layer", "pos"))
    merged = patchlib.merge([swept(part, "resid_pre", ("layer", "pos")) for part in parts])
    assert merged.attrs["n_examples"] == len(pairs) == merged.sizes["example"]
    assert list(merged.clean_prompt.values) == list(whole.clean_prompt.values)
    assert list(merged.pos_label.values) == list(whole.pos_label.values)
    for name in ("patched", "clean", "corrupted", "effect"):
        np.testing.assert_allclose(merged[name].transpose(*whole[name].dims), whole[name], atol=ATOL)


def test_layers_and_prompts_in_any_order(pairs):
    halves = [pairs.select([0, 1, 2]), pairs.select([3, 4])]
    parts = [swept(half, layers=layers) for layers in ([1, 2], [0]) for half in halves]
    np.testing.assert_allclose(patchlib.merge(parts).patched, swept(pairs).patched, atol=ATOL)


def test_sites_stand_beside_each_other(pairs):
    parts = [swept(pairs, site) for site in ("z", "q", "pattern")]
    merged = patchlib.merge(parts)
    assert merged.patched.dims == ("metric", "site", "layer", "head", "example")
    assert merged.attrs["site"] == "z, q, pattern"
    for part in parts:
        of_site = merged.sel(site=part.attrs["site"])
        np.testing.assert_array_equal(of_site.patched, part.patched)
        np.testing.assert_array_equal(of_site.effect, part.effect)
    assert set(patchlib.summary_table(merged, None).site) == {"z", "q", "pattern"}


def test_what_is_no_part_is_refused_in_a_line(pairs):
    part = swept(pairs, layers=[0])
    changed = load_model(tiny_path("gpt2", 0), device=DEVICE)
    with torch.no_grad():
        changed.original_model.get_parameter("lm_head.weight").mul_(1.01)
    wrong = part.copy(deep=True)
    wrong.patched.values += 1
    for others, said in (
        ([swept(pairs, layers=[1], direction="noise")], "their direction differ, 'denoise' and 'noise'"),
        ([swept(pairs, layers=[1], model=changed)], "their weights_hash differ"),
        ([swept(pairs, over=("layer",))], "their axes differ"),
        ([swept(pairs, layers=[1], metric="kl")], "their metrics differ"),
        ([wrong], "disagree about the same prompts"),
        ([swept(pairs, layers=[1], heads=[0])], "3 cells of the grid over layer, head are in none"),
        ([swept(pairs.select([0]), layers=[1])], "over other values of layer"),
        ([swept(pairs, "q", layers=[1])], "other prompts, layers, heads or positions"),
        (["result"], "A result"),
    ):
        with pytest.raises(patchlib.SweepError, match=said):
            patchlib.merge([part, *others])
    for nothing in ([], 3, None):
        with pytest.raises(patchlib.SweepError, match="results"):
            patchlib.merge(nothing)
