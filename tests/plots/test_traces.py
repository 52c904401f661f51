"""Noise beside other tokens, and severed sublayers, on results that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from patchlib import plots, stats
from patchlib.errors import SweepError
from patchlib.plots import takeaways
from patchlib.stats.intervals import mean_interval
from tests.plots.test_sweeps import made

NOISED = {"noise": 3.0, "noise_sd": 0.3, "draws": 10, "noise_seed": 0, "span": "subject", "window": 10,
          "severed": "none", "source": "clean"}  # fmt: skip


def results(effects=None, other=None, **how):
    axes = {"layer": 4, "role": 5}
    traced = made(axes, effects=effects, site="mlp_out", **how).assign_attrs(NOISED)
    return traced, made(axes, effects=other, site="mlp_out", seed=1, **how).assign_attrs(source="clean")


def test_the_difference_of_two_effects_is_linearised_prompt_by_prompt():
    first, second = results(np.linspace(0, 1, 20).reshape(4, 5), np.linspace(0.5, 0, 20).reshape(4, 5), spread=0.5)
    gap = stats.effect_difference(first, second)
    both = []
    for result in (first, second):
        patched, clean, corrupted = (result[name].values[0].astype(float) for name in ("patched", "clean", "corrupted"))
        possible = clean - corrupted
        ratio = (patched[2, 3] - corrupted).mean() / possible.mean()
        both.append(ratio + (patched[2, 3] - corrupted - ratio * possible) / possible.mean())
    low, high = mean_interval((both[0] - both[1])[None], 1 - 0.05 / 20)
    cell = gap.isel(layer=2, role=3)
    expected = stats.effect(first)[0, 2, 3] - stats.effect(second)[0, 2, 3]
    assert cell.difference.item() == pytest.approx(expected.item(), abs=1e-6)
    assert (cell.low.item(), cell.high.item()) == pytest.approx((low[0], high[0]), abs=1e-6)
    assert (gap.low < gap.difference).all() and (gap.difference < gap.high).all()


def test_noise_and_tokens_stand_beside_each_other_and_the_sentence_names_where_they_differ():
    effects = np.zeros((4, 5))
    effects[1, 2], effects[3, 4] = 0.9, 0.5
    other = effects.copy()
    other[1, 2] = 0.1
    traced, swept = results(effects, other)
    figure = plots.corruptions(traced, swept)
    maps = [panel.z for panel in figure.data]
    assert [panel.text for panel in figure.layout.annotations] == ["noise", "other tokens", "noise minus other tokens"]
    np.testing.assert_allclose(maps[2], maps[0] - maps[1], atol=2e-4)
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == pytest.approx(0.95)
    said = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert said.startswith("causal trace (clean into noised) / denoising (clean into corrupted), noise of 3 sd at ")
    assert "mlp_out in windows of 10 layers / mlp_out" in said
    sentence = takeaways.of_corruptions(traced, swept)
    assert "The largest is L1 at S1+1 with noise, L3 at END with tokens" in sentence
    assert "They differ most at L1 at S1+1: 0.9" in sentence and "; 1 of 20 cells differ." in sentence


def test_severed_sublayers_take_away_what_goes_through_them():
    effects = np.zeros((4, 5))
    effects[1, 2] = 0.8
    traced, severed = results(effects, effects / 4)
    severed = severed.assign_attrs({**NOISED, "severed": "mlp"})
    sentence = takeaways.of_severed(traced, severed)
    assert sentence.startswith("The largest effect, that of L1 at S1+1 with 0.") and "is 0.2" in sentence
    assert "with its MLPs severed: 0.6" in sentence
    with pytest.raises(SweepError, match="Give a causal trace first"):
        takeaways.of_severed(traced, traced)


def test_without_a_contrast_it_is_said():
    traced, swept = results(contrast=False)
    assert takeaways.of_corruptions(traced, swept).startswith("There is no effect to speak of")
    assert "no effect" in plots.corruptions(traced, swept).layout.annotations[-1].text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda traced, swept: (swept, traced), "traced must be what patchlib.causal_trace returned"),
        (lambda traced, swept: (traced, traced), "swept must be a sweep of direction 'denoise'"),
        (lambda traced, swept: (traced, made({"layer": 4, "role": 5}, direction="noise")), "swept must be a sweep"),
        (lambda traced, swept: (traced, swept.assign_attrs(site="z")), "traced restores mlp_out and swept z"),
        (lambda traced, swept: (traced, swept.isel(layer=[0])), "have other cells"),
        (lambda traced, swept: (traced, swept.isel(example=[0, 1])), "are of 8 and 2 prompts"),
        (lambda traced, swept: (traced, 1), "A result cannot be a int"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(change, message):
    for function in (plots.corruptions, takeaways.of_corruptions):
        with pytest.raises(SweepError, match=message):
            function(*change(*results()))
