"""Effects, intervals and p-values, on results that are written down by hand."""

from __future__ import annotations

import inspect
import itertools
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr
from transformer_lens.utilities.statistics import derive_generator, sign_flip_permutation_pvalue

import patchlib
from patchlib import stats
from patchlib.patching.experiment import warn_of_contrast

NAN = float("nan")


def made(patched, clean, corrupted, direction="denoise", metric=("logit_diff",), dims=("layer",)) -> xr.Dataset:
    """A result as `sweep` gives it; the metric axis of one may be left out of the numbers."""
    patched, clean, corrupted = (np.asarray(values, dtype="float32") for values in (patched, clean, corrupted))
    if clean.ndim == 1:
        patched, clean, corrupted = patched[None], clean[None], corrupted[None]
    result = xr.Dataset(
        {
            "patched": (("metric", *dims, "example"), patched),
            "clean": (("metric", "example"), clean),
            "corrupted": (("metric", "example"), corrupted),
        },
        coords={
            "metric": list(metric),
            **{dim: np.arange(n) for dim, n in zip(dims, patched.shape[1:-1], strict=True)},
            "example": np.arange(clean.shape[1]),
        },
        attrs={"direction": direction},
    )
    return result.assign(effect=stats.effect(result))


def random_result(n_layers=3, n_heads=4, n=10, seed=0, direction="denoise") -> xr.Dataset:
    rng = np.random.default_rng(seed)
    clean, corrupted = 3 + rng.normal(size=n), -2 + rng.normal(size=n)
    patched = corrupted + rng.normal(size=(n_layers, n_heads, n)) + np.linspace(-1, 3, n_heads)[:, None]
    return made(patched, clean, corrupted, direction, dims=("layer", "head"))


# ---- Effect


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        # base is corrupted (mean -1), other is clean (mean 3)
        ("denoise", [0, 1, (2 - -1) / 4, (-3 - -1) / 4, (7 - -1) / 4]),
        # base is clean, other is corrupted
        ("noise", [1, 0, (2 - 3) / -4, (-3 - 3) / -4, (7 - 3) / -4]),
    ],
)
def test_effect_is_the_ratio_of_means_and_is_never_clipped(direction, expected):
    clean, corrupted = [3, 3, 3], [-1, -2, 0]
    patched = [corrupted, clean, [0, 5, 1], [-2, -4, -3], [6, 8, 7]]
    result = made(patched, clean, corrupted, direction)
    np.testing.assert_allclose(result.effect, [expected], rtol=1e-6)
    assert result.effect.dtype == np.float32


def test_one_prompt_without_a_contrast_does_not_make_the_effect_explode():
    result = made([[0.5, 2, 2, 2, 2, 2]], [1e-6, 4, 4, 4, 4, 4], [0] * 6)
    np.testing.assert_allclose(result.effect, [[10.5 / 20]], rtol=1e-5)


def test_prompts_without_the_position_count_neither_above_nor_below():
    clean, corrupted = [4, 2, 3, 4, 0.05], [0, -2, -1, 0, 0]
    patched = [[1, 0, 0, 0, 0.05], [1, 0, NAN, NAN, NAN], [NAN] * 5, [*[NAN] * 4, 0.5]]
    effect = made(patched, clean, corrupted).effect[0]
    np.testing.assert_allclose(effect[:2], [4.05 / 16.05, 3 / 8], rtol=1e-5)
    assert np.isnan(effect[2]), "no prompt has the position"
    assert np.isnan(effect[3]), "the one prompt that has it has next to no contrast"


@pytest.mark.parametrize(
    ("metric", "clean", "corrupted", "usable"),
    [
        ("logit_diff", [3, 2, 4], [-3, -2, -2], True),
        ("logit_diff", [-3, -2, -2], [3, 2, 4], False),  # clean has to be the better one ...
        ("kl", [0, 0, 0], [3, 2, 4], True),  # ... where we know which is better
        ("mine", [-3, -2, -2], [3, 2, 4], True),
        ("logit_diff", [3, -2, 4], [-3, 2, 2], False),  # as much spread as difference
        ("logit_diff", [1, 2, 3], [1, 2, 3], False),
        ("logit_diff", [0, 0], [0, 0], False),
        ("logit_diff", [1e4, 1e4], [1e4 - 0.5, 1e4 - 0.5], False),  # float noise, the same in each prompt
        ("logit_diff", [3], [-1], True),
        ("logit_diff", [3], [2.9], False),  # a single prompt: less than a tenth
        ("logit_diff", [3], [2.6], True),
    ],
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_contrast_is_usable_or_effects_are_nan(metric, clean, corrupted, usable, direction):
    result = made([corrupted, clean], clean, corrupted, direction, metric=[metric])
    table = stats.contrast(result)
    assert table.index.tolist() == [metric] and table.usable.tolist() == [usable]
    if usable:
        np.testing.assert_allclose(result.effect, [[0, 1]] if direction == "denoise" else [[1, 0]])
    else:
        assert result.effect.isnull().all()


def test_contrast_describes_every_metric():
    clean, corrupted = [[3, 5, 4], [1, 1, 1]], [[-1, -3, -2], [0, 1, 0]]
    result = made([[[1, 2, 1]], [[0, 1, 1]]], clean, corrupted, metric=["logit_diff", "accuracy"])
    table = stats.contrast(result)
    columns = ["clean", "corrupted", "difference", "ci_low", "ci_high", "spread", "against", "n", "usable", "reason"]
    assert table.columns.tolist() == columns
    arm = scipy.stats.t.ppf(0.975, 2) * 2 / np.sqrt(3)
    ends = pytest.approx(6 - arm), pytest.approx(6 + arm)
    assert table.loc["logit_diff"].tolist() == [4, -2, 6, *ends, 2, 0, 3, True, ""]
    accuracy = table.loc["accuracy"]
    assert accuracy[["clean", "corrupted", "difference"]].tolist() == pytest.approx([1, 1 / 3, 2 / 3])
    assert accuracy.reason == "too few prompts" and not accuracy.usable
    alone = stats.contrast(result.isel(example=[0]))
    assert alone[["spread", "ci_low", "ci_high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("metric", "clean", "corrupted", "reason", "said"),
    [
        ("logit_diff", [-1, -2, -1], [2, 3, 2], "answers swapped", "-1.33 on clean and 2.33 on corrupted"),
        ("logit_diff", [-1, 0.5, -1], [-2, -3, -2.5], "the model cannot do the task", "no better than by guessing (0)"),
        ("accuracy", [0, 1, 0, 1], [0, 0, 0, 0], "the model cannot do the task", "no better than by guessing (0.5)"),
        ("logit_diff", [2, 3, 4], [2, 3, 4], "no difference", "Clean and corrupted prompts give the same"),
        ("logit_diff", [4, 4, 4, 4], [3, 5, 1, 5], "prompts disagree", "50% of the prompts differ the other way"),
        ("kl", [0, 0, 0, 0], [3, -4, 1, -5], "prompts disagree", "50% of the prompts differ the other way"),
        ("logit_diff", [4, 4, 4, 4], [3, 0, 1, 4.5], "too few prompts", "takes about 7 prompts to be told from 0"),
        ("mine", [4, 4, 4, 4], [3, 0, 1, 4.5], "too few prompts", "(n = 4)"),
        ("accuracy", [1] * 8, [1] * 7 + [0], "too few prompts", "takes about 34 prompts"),
    ],
)
def test_a_contrast_that_is_not_usable_says_why_with_numbers(metric, clean, corrupted, reason, said):
    result = made([clean], clean, corrupted, metric=[metric])
    table = stats.contrast(result)
    assert table.reason.tolist() == [reason] and not table.usable.item()
    sentence = stats.why_unusable(table)
    assert sentence.startswith(f"{metric} gives no usable contrast ({reason}): ") and said in sentence
    with pytest.warns(patchlib.ContrastWarning, match=re.escape(sentence)):
        warn_of_contrast(result)


def test_a_contrast_of_many_prompts_may_be_small_but_not_of_either_sign():
    """Half a standard deviation is noise with 4 prompts and a contrast with 64, of which two thirds have to agree."""
    spread = np.tile([-1.2, -0.2, 0.4, 1.0], 16)
    for n, shift, reason in ((4, 0.5, "too few prompts"), (64, 0.5, ""), (64, 0.15, "prompts disagree")):
        difference = spread[:n] + shift
        table = stats.contrast(made([np.zeros(n)], 5 + difference, np.full(n, 5.0)))
        assert table.reason.item() == reason and table.usable.item() == (reason == "")
    assert stats.why_unusable(table.assign(usable=True)) == ""


def test_the_prompts_that_a_contrast_lacks_are_as_many_as_a_t_test_takes():
    difference = np.array([1.0, 4, 3, -0.5])
    sentence = stats.why_unusable(stats.contrast(made([np.zeros(4)], 4 + difference, np.full(4, 4.0))))
    effect_size = difference.mean() / difference.std(ddof=1)
    n = next(n for n in range(5, 99) if effect_size * np.sqrt(n) > scipy.stats.t.ppf(0.975, n - 1))
    assert f"takes about {n} prompts" in sentence


@pytest.mark.parametrize("table", [None, "x", pd.DataFrame({"usable": [False]})])
def test_only_a_contrast_s_table_has_reasons(table):
    with pytest.raises(patchlib.SweepError, match=r"give what patchlib.contrast returned"):
        stats.why_unusable(table)


# ---- Interval


def fieller_by_hand(above, below, confidence=0.95):
    """Those ratios that a t-test does not refuse, found by bisection; then the arm of the longer tail is lengthened."""
    n, ratio = len(above), np.mean(above) / np.mean(below)

    def is_refused(x):
        return scipy.stats.ttest_1samp(above - x * below, 0).pvalue < 1 - confidence

    ends = []
    for sign in (-1, 1):
        near, far = 0.0, 1e-3
        while not is_refused(ratio + sign * far):
            far *= 2
            if far > 1e9:  # it refuses no ratio
                return NAN, NAN
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if is_refused(ratio + sign * middle) else (middle, far)
        ends.append(near)
    skewness = scipy.stats.skew((above - ratio * below) * np.sign(np.mean(below)), bias=False)
    t = scipy.stats.t.ppf((1 + confidence) / 2, n - 1)
    johnson = 2 * skewness / np.sqrt(n) * (2 * t**2 + 1) / 6 / t
    return ratio - ends[0] * (1 + max(-johnson, 0)), ratio + ends[1] * (1 + max(johnson, 0))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_interval_is_that_of_fieller_lengthened_toward_the_longer_tail(direction):
    result = random_result(direction=direction)
    result.patched.values[...] += np.random.default_rng(3).exponential(size=result.patched.shape)
    base, other = ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")
    for confidence in (0.95, 0.8):
        interval = stats.effect_interval(result, confidence=confidence)
        assert interval.low.dims == interval.high.dims == ("layer", "head")
        assert interval.attrs == {"confidence": confidence}
        for cell in itertools.product(range(3), range(4)):
            moved = (result.patched - result[base]).values[(0, *cell)].astype("float64")
            possible = (result[other] - result[base]).values[0].astype("float64")
            by_hand = fieller_by_hand(moved, possible, confidence)
            assert (interval.low.values[cell], interval.high.values[cell]) == pytest.approx(by_hand, rel=1e-5, abs=1e-5)
    effect = stats.effect(result)[0]
    assert ((interval.low < effect) & (effect < interval.high)).all()


def test_interval_of_a_mean_is_student_s_where_values_are_symmetric():
    values = np.array([[-3.0, -1, 0, 1, 3], [2, 4, 5, 6, 8]])
    by_hand = scipy.stats.t.interval(0.9, 4, values.mean(1), scipy.stats.sem(values, axis=1))
    np.testing.assert_allclose(stats.mean_interval(values, 0.9), by_hand)


def test_interval_is_nan_where_the_mean_below_the_line_may_be_0():
    """As then the t-test refuses no ratio, however large."""
    above, below = np.array([1.0, 2, 4, 3]), np.array([2.0, -1, 1, 0.5])
    assert scipy.stats.ttest_1samp(below, 0).pvalue > 0.05
    assert np.isnan(stats.ratio_interval(above, below)).all()
    assert scipy.stats.ttest_1samp(below, 0).pvalue < 0.7
    assert np.isfinite(stats.ratio_interval(above, below, confidence=0.3)).all()


def cluster_robust_by_hand(values, clusters):
    """Standard error and degrees of freedom of a mean, by the matrices of Bell and McCaffrey (2002)."""
    n = len(values)
    labels = np.array(list(clusters))
    x = np.ones((n, 1))
    hat = x @ np.linalg.inv(x.T @ x) @ x.T
    residuals, rest = values - values.mean(), np.eye(n) - hat
    variance, columns = 0.0, []
    for label in sorted(set(clusters)):
        inside = labels == label
        eigenvalues, vectors = np.linalg.eigh(rest[np.ix_(inside, inside)])
        root = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
        weights = root @ x[inside] / n  # [example 1]
        variance += float(weights[:, 0] @ residuals[inside]) ** 2
        columns.append(rest[:, inside] @ weights[:, 0])
    products = np.array(columns) @ np.array(columns).T
    return np.sqrt(variance), np.trace(products) ** 2 / np.trace(products @ products)


@pytest.mark.parametrize("clusters", ["aabbccdd", "aaabbcde", "aaaaabcd", "abcdefgh"])
def test_interval_by_wording_is_that_of_bell_and_mccaffrey(clusters):
    values = np.random.default_rng(1).normal(size=8) + np.array([ord(label) for label in clusters])
    error, freedom = cluster_robust_by_hand(values, clusters)
    t = scipy.stats.t.ppf(0.975, freedom)
    low, high = stats.mean_interval(values[None], clusters=list(clusters))
    # Only the arm of the longer tail may be longer.
    shorter, longer = sorted((values.mean() - low[0], high[0] - values.mean()))
    assert shorter == pytest.approx(t * error, rel=1e-6) and longer >= shorter * (1 - 1e-9)
    if len(set(clusters)) == 8:
        assert stats.mean_interval(values[None]) == (low, high)


@pytest.mark.parametrize("clusters", ["aaaa", "aabc"])
def test_fewer_than_four_wordings_have_intervals_by_prompt(clusters):
    """They are of those wordings alone: hardly anything is known of others."""
    values = np.array([[1.0, 2, 4, 3]])
    assert stats.mean_interval(values, clusters=list(clusters)) == stats.mean_interval(values)
    with pytest.raises(patchlib.SweepError, match="3 labels of clusters for 4 prompts: give a label for each"):
        stats.mean_interval(values, clusters=["a", "b", "c"])


def test_a_result_s_intervals_and_p_values_go_by_its_wordings():
    result = random_result(n=8)
    labels = np.array(list("aabbccdd"))
    by_wording = result.assign_coords(cluster=("example", labels))
    moved = (result.patched - result.corrupted)[0].values.astype("float64")
    possible = (result.clean - result.corrupted)[0].values.astype("float64")
    interval = stats.effect_interval(by_wording)
    assert interval.low.values[1, 2], interval.high.values[1, 2] == pytest.approx(
        stats.ratio_interval(moved[1, 2], possible, clusters=labels), rel=1e-5
    )
    assert (interval.low != stats.effect_interval(result).low).all()
    signs = np.array(list(itertools.product([1, -1], repeat=4)))
    sums = moved.reshape(3, 4, 4, 2).sum(-1)
    flipped = abs((sums[..., None, :] * signs).sum(-1))
    np.testing.assert_allclose(stats.p_values(by_wording), (flipped >= flipped[..., :1] - 1e-9).mean(-1))
    gappy = by_wording.copy(deep=True)
    gappy.patched[0, 1, :, 5:] = NAN  # five prompts of three wordings
    five = by_wording.isel(example=slice(5))
    xr.testing.assert_equal(stats.effect_interval(gappy).sel(layer=1), stats.effect_interval(five).sel(layer=1))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    result = made(0.3 + rng.normal(scale=0.5, size=(400, 25)), np.ones(25), np.zeros(25))
    for confidence in (0.5, 0.9):
        interval = stats.effect_interval(result, confidence=confidence)
        covered = float(((interval.low <= 0.3) & (interval.high >= 0.3)).mean())
        assert confidence - 0.08 < covered < confidence + 0.06


def test_the_same_prompts_are_above_and_below_the_line():
    clean, corrupted = np.array([4.0, 5, 3, 8]), np.zeros(4)
    interval = stats.effect_interval(made([clean * 0.5, clean * -2], clean, corrupted))
    np.testing.assert_allclose(interval.low, [0.5, -2], rtol=1e-5)
    np.testing.assert_allclose(interval.high, [0.5, -2], rtol=1e-5)


def test_interval_is_the_point_where_prompts_do_not_differ():
    interval = stats.effect_interval(made([[1.0] * 5, [-4] * 5], [3] * 5, [-1] * 5))
    np.testing.assert_allclose([interval.low, interval.high], [[0.5, -0.75]] * 2)


def test_interval_of_a_position_is_that_of_the_prompts_which_have_it():
    whole = random_result(n=8)
    gappy = whole.copy(deep=True)
    gappy.patched[0, 1, :, 5:] = NAN  # layer 1: five prompts
    gappy.patched[0, 2, 0] = NAN  # L2H0: none
    gappy.patched[0, 2, 1, 1:] = NAN  # L2H1: one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval, full, five = map(stats.effect_interval, (gappy, whole, whole.isel(example=slice(5))))
    xr.testing.assert_equal(interval.sel(layer=0), full.sel(layer=0))
    xr.testing.assert_equal(interval.sel(layer=1), five.sel(layer=1))
    assert interval.sel(layer=2).low.isnull().values.tolist() == [True, True, False, False]


def test_interval_of_one_cell_alone():
    whole = random_result()
    cell = whole.isel(layer=1, head=2)
    xr.testing.assert_equal(stats.effect_interval(cell), stats.effect_interval(whole).isel(layer=1, head=2))
    assert float(stats.p_values(cell)) == float(stats.p_values(whole)[1, 2])


def test_a_single_prompt_or_no_contrast_has_no_interval():
    for result in (made([[1.0]], [3], [-1]), made([[1.0, 2]], [2, 2], [2, 2])):
        interval = stats.effect_interval(result)
        assert interval.low.isnull().all() and interval.high.isnull().all()


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, "0.95", None])
def test_confidence_is_a_fraction(confidence):
    for function in (stats.effect_interval, stats.summary_table):
        with pytest.raises(patchlib.SweepError, match=r"confidence must lie between 0 and 1, such as 0.95, not"):
            function(random_result(), confidence=confidence)
    for interval in (stats.mean_interval, lambda values, **how: stats.ratio_interval(*values, **how)):
        with pytest.raises(patchlib.SweepError, match="confidence must lie between 0 and 1"):
            interval(np.ones((2, 3)), confidence=confidence)


@pytest.mark.parametrize("top_k", [0, -1, 2.0, True])
def test_a_number_of_rows_is_a_count(top_k):
    with pytest.raises(patchlib.SweepError, match="top_k must be a whole number of 1 or more, not"):
        stats.summary_table(random_result(), top_k)


# ---- p-values


def test_p_value_is_the_share_of_sign_flips_that_move_as_much():
    result = random_result(n=6)
    moved = (result.patched - result.corrupted)[0].values.astype("float64")
    signs = np.array(list(itertools.product([1, -1], repeat=6)))
    flipped = abs((moved[..., None, :] * signs).mean(-1))
    by_hand = (flipped >= abs(moved.mean(-1))[..., None] - 1e-12).mean(-1)
    p = stats.p_values(result)
    assert p.dims == ("layer", "head")
    np.testing.assert_allclose(p, by_hand)


def test_p_values_of_many_prompts_are_transformer_lens_own():
    result = random_result(n_layers=65, n=15)  # 260 cells: more than one portion
    moved = (result.patched - result.corrupted)[0].values.astype("float64").reshape(260, 15)
    for part in (slice(0, 256), slice(256, 260)):
        generator = derive_generator(2, "sign-flip")
        expected = sign_flip_permutation_pvalue(torch.from_numpy(moved[part]), generator=generator)
        np.testing.assert_allclose(stats.p_values(result, seed=2).values.reshape(260)[part], expected)


def test_p_value_where_nothing_moves_or_a_prompt_is_missing():
    clean, corrupted = [3] * 5, [-1] * 5
    p = stats.p_values(made([corrupted, clean, [*clean[:4], NAN]], clean, corrupted))
    assert p[0] == 1 and p[1] == 2 / 2**5 and np.isnan(p[2])


# ---- Table


def test_no_column_is_called_like_something_that_a_data_frame_has():
    """Then ``table.head`` would be a method, and ``table.rank`` another."""
    functions = [function for name, function in vars(stats).items() if inspect.isfunction(function) and name[0] != "_"]
    functions = [function for function in functions if function.__annotations__.get("return") is pd.DataFrame]
    others = {stats.effects_by_group: list("ababa")}
    names = {"contrast", "summary_table", "effects_by_group", "beside_null", "replicated"}
    assert {function.__name__ for function in functions} == names
    for dims in (("layer", "head"), ("layer", "kv_head"), ("layer", "pos"), ("role", "head", "layer")):
        shape = (3, 4, 2)[: len(dims)]
        result = made(np.random.default_rng(0).normal(size=(*shape, 5)), np.full(5, 3), np.full(5, -1), dims=dims)
        for function in functions:
            others |= {stats.beside_null: result, stats.replicated: result}
            table = function(result, others[function]) if function in others else function(result)
            if isinstance(table.columns, pd.MultiIndex):  # the names of groups are the reader's
                table = table["difference"]
            assert not [name for name in [*table.columns, table.index.name or "n"] if hasattr(pd.DataFrame, str(name))]
            assert not [name for name in table.columns if " " in name]


def test_statistics_of_a_saved_result_need_no_torch():
    code = "import sys, patchlib.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_table_has_the_largest_effects_first():
    result = random_result()
    table = stats.summary_table(result, top_k=None)
    assert table.columns.tolist() == [
        *("layer", "head_index", "effect", "ci_low", "ci_high"),
        *("n", "p_value", "p_adjusted"),
    ]
    assert len(table) == 12 and table.index.tolist() == list(range(12))
    assert (table.effect.abs().diff().dropna() <= 0).all()
    interval, p = stats.effect_interval(result), stats.p_values(result)
    for _, row in table.iterrows():
        cell = {"layer": row.layer, "head": row.head_index}
        assert row.effect == result.effect[0].sel(cell)
        assert (row.ci_low, row.ci_high, row.p_value) == (interval.low.sel(cell), interval.high.sel(cell), p.sel(cell))
    assert set(table.n) == {10}
    xr.testing.assert_equal(table.head(3).to_xarray(), stats.summary_table(result, top_k=3).to_xarray())
    assert len(stats.summary_table(result)) == 10 and len(stats.summary_table(result, top_k=99)) == 12


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg_over_all_cells():
    table = stats.summary_table(random_result(), top_k=None).sort_values("p_value")
    scaled = table.p_value * len(table) / np.arange(1, len(table) + 1)
    np.testing.assert_allclose(table.p_adjusted, np.minimum.accumulate(scaled[::-1])[::-1].clip(upper=1))
    assert (table.p_adjusted >= table.p_value).all()
    top = stats.summary_table(random_result(), top_k=2)
    assert (top.p_adjusted.values == table.sort_index().p_adjusted.values[:2]).all(), "corrected for 2 cells only"


def test_cells_without_an_effect_come_last():
    result = random_result(n=4)
    result.patched[0, 0, 2] = NAN
    result.patched[0, 1, 3, 0] = NAN
    table = stats.summary_table(result, top_k=None)
    last = table.iloc[-1]
    assert (last.layer, last.head_index, last.n) == (0, 2, 0) and last[["effect", "p_value", "p_adjusted"]].isna().all()
    partly = table[(table.layer == 1) & (table.head_index == 3)].iloc[0]
    assert partly.n == 3 and np.isfinite(partly.ci_low) and np.isnan(partly.p_adjusted)


def test_the_metric_is_the_first_unless_named():
    result = made([[[1, 2]], [[5, 6]]], [[3, 3], [9, 9]], [[0, 0], [1, 1]], metric=["logit_diff", "mine"])
    assert stats.summary_table(result).effect.tolist() == pytest.approx([0.5])
    assert stats.summary_table(result, metric="mine").effect.tolist() == pytest.approx([4.5 / 8])
    assert float(stats.p_values(result, "mine")[0]) == 0.5
    arm = scipy.stats.t.ppf(0.975, 1) * 0.5
    assert float(stats.effect_interval(result, "mine").high[0]) == pytest.approx((4.5 + arm) / 8)


@pytest.mark.parametrize("function", [stats.summary_table, stats.effect_interval, stats.p_values])
def test_a_metric_that_the_result_lacks(function):
    with pytest.raises(patchlib.SweepError, match="Unknown metric 'prob': choose 'logit_diff'"):
        function(random_result(), metric="prob")


@pytest.mark.parametrize("clusters", [0, "aabb", [[1]] * 4, [{}] * 4, {"a": 1}, torch.zeros(4, requires_grad=True)])
def test_labels_of_clusters_that_are_none_are_refused(clusters):
    with pytest.raises(patchlib.SweepError, match=r"are no labels .*: give a label for each prompt"):
        stats.mean_interval(np.array([[1.0, 2, 4, 3]]), clusters=clusters)


@pytest.mark.parametrize("clusters", [["d", None, 1, 2.5], torch.arange(4), pd.Series(list("dabc"))])
def test_labels_of_clusters_can_be_of_any_kind(clusters):
    values = np.array([[1.0, 2, 4, 3]])
    assert stats.mean_interval(values, clusters=clusters) == stats.mean_interval(values)


def test_interval_of_a_difference_of_shares_stays_between_minus_1_and_1():
    shares = np.array([[1.0, 1, 1, 1, 0, 1]])
    result = xr.Dataset(
        {"clean": (("metric", "example"), shares), "corrupted": (("metric", "example"), shares * 0)},
        {"metric": ["accuracy"]},
    )
    row = stats.contrast(result).loc["accuracy"]
    assert stats.mean_interval(shares)[1] > 1 == row.ci_high and row.ci_low == stats.mean_interval(shares)[0]
