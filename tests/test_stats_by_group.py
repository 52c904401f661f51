"""Effects of two groups of prompts, against loops by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import t as student

import patchlib
from patchlib import SweepError, stats
from patchlib.plots import takeaways

LABELS = ["ABBA", "BABA"] * 4


def result(moved: np.ndarray, possible: np.ndarray | float = 4.0, clusters: list[str] | None = None) -> xr.Dataset:
    """A sweep over heads of one layer: moved [head example] of what was possible [example], from a base of -1."""
    n = moved.shape[1]
    variables = {
        "patched": (("metric", "layer", "head", "example"), moved[None, None] - 1.0),
        "clean": (("metric", "example"), np.broadcast_to(possible, (1, n)) - 1.0),
        "corrupted": (("metric", "example"), -np.ones((1, n))),
    }
    coords = {"metric": ["logit_diff"], "layer": [17], "head": range(len(moved)), "example": range(n)}
    made = xr.Dataset(variables, coords, {"direction": "denoise"})
    return made if clusters is None else made.assign_coords(cluster=("example", clusters))


def test_each_group_has_its_own_effect_and_interval_and_the_difference_that_of_welch_by_hand():
    # Deviations of 1 and -1 leave no skewness, which would lengthen an arm.
    moved = np.array([[1.2, 0.4, 1.6, 0.8, 1.2, 0.4, 1.6, 0.8], [0.0, 2.0, 0.1, 2.1, 0.0, 2.0, 0.1, 2.1]])
    table = stats.effects_by_group(result(moved), LABELS)
    assert table.index.to_list() == ["L17H1", "L17H0"]  # largest in size over all prompts first
    for head, cell in enumerate(["L17H0", "L17H1"]):
        for start, name in enumerate(["ABBA", "BABA"]):
            part = moved[head, start::2]
            alone = stats.ratio_interval(part, np.full(4, 4.0))
            assert table.loc[cell, name].round(5).to_list() == pytest.approx([part.mean() / 4, *alone, 4], abs=1e-5)
        first, second = moved[head, ::2] / 4, moved[head, 1::2] / 4
        error = np.sqrt(first.var(ddof=1) / 4 + second.var(ddof=1) / 4)
        arm, difference = student.ppf(0.975, 7) * error, first.mean() - second.mean()
        found = table.loc[cell, "difference"].to_list()
        assert found == pytest.approx([difference, difference - arm, difference + arm, 8], abs=1e-5)


def test_what_a_wording_adds_to_both_groups_cancels():
    wordings = [w for w in "abcdefgh" for _ in range(2)]
    labels = ["ABBA", "BABA"] * 8
    by_wording = np.repeat(np.random.default_rng(0).normal(2, 1, 8), 2)
    moved = (by_wording + np.where(np.array(labels) == "ABBA", 0.4, 0.0))[None]
    together = stats.effects_by_group(result(moved, clusters=wordings), labels)["difference"].iloc[0]
    apart = stats.effects_by_group(result(moved), labels)["difference"].iloc[0]
    assert together.effect == pytest.approx(0.1, abs=1e-6)
    assert together.ci_high - together.ci_low < 1e-5 and apart.ci_low < 0 < apart.ci_high


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_the_difference_covers_it(paired):
    rng = np.random.default_rng(1)
    n_cells, n = 600, 16
    labels = ["ABBA", "BABA"] * (n // 2)
    wordings = [str(i // 2) for i in range(n)]
    noise = rng.normal(0, 1, (n_cells, n)) + (
        np.repeat(rng.normal(0, 1, (n_cells, n // 2)), 2, axis=1) if paired else 0
    )
    moved = noise + np.where(np.array(labels) == "ABBA", 2.0, 1.0)
    table = stats.effects_by_group(result(moved, 4.0, wordings if paired else None), labels)["difference"]
    covered = ((table.ci_low < 0.25) & (table.ci_high > 0.25)).mean()
    assert 0.93 <= covered <= 0.99


def test_a_group_without_a_contrast_has_no_effect():
    possible = np.array([4.0, 0.1, 4.2, -0.1, 3.9, 0.1, 4.1, -0.1])
    with_nan = stats.effects_by_group(result(np.ones((1, 8)), possible), LABELS)
    assert with_nan["ABBA"].effect.notna().all() and with_nan["BABA"].effect.isna().all()
    assert with_nan["difference"].ci_low.isna().all()
    assert takeaways.of_groups(with_nan) == "By group none of 1 cells can be told to differ."


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 8, "The labels name 1 groups"),
        (list("abcabcab"), "The labels name 3 groups"),
        (list("ab"), "2 labels of groups for 8 prompts"),
        (["a"] * 7 + ["b"], "The group b has a single prompt"),
        (["a", "difference"] * 4, "The labels name 2 groups"),
        (np.zeros((8, 2)), "The labels"),
    ],
)
def test_labels_that_are_not_of_two_groups_are_refused(labels, said):
    with pytest.raises(SweepError, match=said):
        stats.effects_by_group(result(np.ones((1, 8))), labels)


@pytest.mark.filterwarnings("ignore::patchlib.EngineWarning")
@pytest.mark.parametrize(
    ("toy", "sufficient", "necessary"),
    [(patchlib.toys.or_gate, "L0H1, L1H2", "no cell of 8"), (patchlib.toys.and_gate, "no cell of 8", "L0H1, L1H2")],
)
def test_or_is_seen_by_denoising_alone_and_and_by_noising_alone(toy, sufficient, necessary):
    gate = toy(n_prompts=6)
    both = [
        patchlib.sweep(gate.model, gate.task, "z", ("layer", "head"), direction, progress=False)
        for direction in ("denoise", "noise")
    ]
    sentence = takeaways.of_directions(*both)
    assert sentence.startswith("The two differ by 0.9") and "and by 0.25 on average" in sentence
    assert f"in denoising: {sufficient}. Necessary, above 0.9 in noising: {necessary}." in sentence
    with pytest.raises(SweepError, match="first result must be of direction 'denoise'"):
        takeaways.of_directions(*both[::-1])
    with pytest.raises(SweepError, match="other cells"):
        takeaways.of_directions(both[0], both[1].isel(layer=[0]))
