"""Figures and sentences of cells that are patched together, on numbers that are made up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from patchlib import plots
from patchlib.errors import SweepError
from patchlib.plots import takeaways
from patchlib.plots.wording import NO_CONTRAST


def made(values=((0.0, -0.3, 0.02), (0.0, 0.0, 0.4), (0.0, 0.0, 0.0)), width=0.1) -> xr.Dataset:
    upper = np.triu(np.array(values), 1)
    matrix = upper + upper.T
    np.fill_diagonal(matrix, np.nan)
    alone = np.array([0.5, 0.2, -0.1])
    dims, cells = ("cell", "other"), ["L1H0", "L2H1 at END", "L3H2"]
    variables = {"interaction": matrix, "low": matrix - width, "high": matrix + width,
                 "together": matrix + alone + alone[:, None]}  # fmt: skip
    attrs = {"direction": "denoise", "site": "z", "metric": "logit_diff", "n_examples": 8, "model": "m",
             "confidence": 0.95}  # fmt: skip
    data = {name: (dims, value) for name, value in variables.items()} | {"alone": ("cell", alone)}
    return xr.Dataset(data, {"cell": cells, "other": cells}, attrs)


def test_the_matrix_shows_both_signs_and_marks_what_is_not_chance():
    figure = plots.interactions(made())
    heat = figure.data[0]
    assert heat.y == ("L1H0 (0.50)", "L2H1 at END (0.20)", "L3H2 (-0.10)")
    assert heat.text.tolist() == [
        ["", "<b>-0.30</b>", "0.02"],
        ["<b>-0.30</b>", "", "<b>0.40</b>"],
        ["0.02", "<b>0.40</b>", ""],
    ]
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == pytest.approx(0.4)
    assert "below 0 = less" in figure.layout.coloraxis.colorbar.title.text
    assert "denoising" in figure.layout.title.subtitle.text and "8 prompt pairs" in figure.layout.title.subtitle.text


def test_the_sentence_has_the_strongest_of_each_sign():
    assert takeaways.of_interactions(made()) == (
        "Of 3 pairs 1 does more together than the sum of the two alone, most L2H1 at END with L3H2 by +0.40 [0.30, "
        "0.50]: 0.20 and -0.10 alone, 0.50 together; 1 does less together than the sum of the two alone, most L1H0 "
        "with L2H1 at END by -0.30 [-0.40, -0.20]: 0.50 and 0.20 alone, 0.40 together."
    )
    said = takeaways.of_interactions(made(width=1))
    assert said.startswith(
        "Of 3 pairs none can be told from the sum of the two alone; furthest is L2H1 at END with L3H2"
    )


def test_without_a_contrast_it_is_said():
    pairs = made() * np.nan
    pairs.attrs = made().attrs
    assert takeaways.of_interactions(pairs) == NO_CONTRAST
    assert plots.interactions(pairs).layout.annotations[-1].text == NO_CONTRAST


def test_growth_says_what_is_left_elsewhere():
    rows = [{"cell": "L1H0", "effect": 0.5, "gain": 0.5}, {"cell": "L2H1", "effect": 0.9, "gain": 0.4}]
    table = pd.DataFrame([{"ci_low": 0.3, "ci_high": 1.0, "n_tested": 5, "n": 8, **row} for row in rows])
    assert takeaways.of_growth(table) == (
        "L1H0 +0.50, L2H1 +0.40: 2 cells reach 0.90 [0.30, 1.00], the best of 10 sets tested, n = 8. They were chosen "
        "on these prompts; how much is left on others was not measured."
    )
    held_out = {"held_out_effect": 0.7, "held_out_low": 0.5, "held_out_high": 0.8}
    assert takeaways.of_growth(table.assign(**held_out)).endswith("on others they reach 0.70 [0.50, 0.80].")


def test_what_is_no_interaction_is_refused():
    for function in (plots.interactions, takeaways.of_interactions):
        for wrong in (made().drop_vars("low"), made().drop_vars("alone"), made().isel(other=0), 3):
            with pytest.raises(SweepError, match=r"give what patchlib.interactions returned"):
                function(wrong)
    with pytest.raises(SweepError, match=r"give what patchlib.grow_set returned"):
        takeaways.of_growth(pd.DataFrame({"cell": []}))
