"""The map and the sentence of transplanted states, on numbers that are made up."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from patchlib import plots
from patchlib.errors import SweepError
from patchlib.plots import takeaways


def made(*, answer: bool = True, own: bool = False) -> xr.Dataset:
    dims = ("source_layer",) if own else ("source_layer", "target_layer")
    shape = (3,) if own else (3, 2)
    probs = np.linspace(0.1, 0.6, int(np.prod(shape))).reshape(shape)
    tokens = np.full((*shape, 2), " <s>", dtype=object)
    data = {
        "token": ((*dims, "rank"), tokens),
        "prob": ((*dims, "rank"), np.stack([probs + 0.2, probs / 9], -1)),
        "kl": (dims, probs),
        "unpatched_token": ("rank", np.array([" is", " was"], dtype=object)),
        "unpatched_prob": ("rank", [0.5, 0.2]),
    }
    attrs = {"model": "m", "site": "resid_pre", "source": "in Japan", "target": "in it", "source_token": " Japan",
             "target_token": " it"}  # fmt: skip
    if answer:
        data |= {"answer_prob": (dims, probs), "unpatched_answer_prob": ((), 0.01)}
        attrs["answer"] = " Tokyo"
    coords = {"source_layer": [0, 5, 9], "rank": [1, 2]} | ({} if own else {"target_layer": [2, 4]})
    return xr.Dataset(data, coords, attrs)


def test_the_map_has_the_answer_s_probability_and_what_would_be_said():
    figure = plots.transplant_map(made())
    heat = figure.data[0]
    np.testing.assert_allclose(heat.z, made().answer_prob.values.T, atol=1e-4)
    assert heat.x == ("0", "5", "9") and heat.y == ("2", "4") and heat.text[0, 0] == "&lt;s&gt;"
    assert "probability of ' Tokyo' (without: 0.01)" in figure.layout.title.subtitle.text.replace("<br>", " ")
    np.testing.assert_allclose(plots.transplant_map(made(answer=False)).data[0].z[1, 2], 0.8)


def test_the_sentence_names_the_layers_of_which_most_comes_out():
    assert takeaways.of_transplant(made()) == (
        "With ' Japan' of layer 9 in place of ' it' in layer 4 the probability of ' Tokyo' is 0.60, without 0.01. What "
        "would follow is ' <s>' (0.80), without ' is' (0.50)."
    )
    said = takeaways.of_transplant(made(answer=False, own=True))
    assert said.startswith("With ' Japan' of layer 9 in place of ' it' in layer 9 what would follow is ' <s>' (0.80)")


def test_what_is_no_transplant_is_refused():
    for function in (plots.transplant_map, takeaways.of_transplant):
        for wrong in (made().drop_vars("kl"), None):
            with pytest.raises(SweepError, match=r"give what patchlib.transplant returned"):
                function(wrong)
    with pytest.raises(SweepError, match="A map needs layers to write into"):
        plots.transplant_map(made(own=True))
