"""What patching says about the real default model: it solves IOI, and the answer's name travels from S2 to END."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import patchlib
from tests.helpers import sweep

pytestmark = pytest.mark.real_model
LAST = 29


@pytest.fixture(scope="module")
def model():
    return patchlib.load_model(device="cpu")


def logit_diffs(model, dataset) -> tuple[list[float], list[float]]:
    """Right minus wrong answer on each clean and each corrupted prompt, by plain runs of the texts."""
    with torch.no_grad():
        found = [
            [dataset.compute_metric(model(text), i) for text in pair]
            for i, pair in enumerate(dataset.get_clean_corrupt_pairs())
        ]
    clean, corrupted = zip(*found, strict=True)
    return clean, corrupted


def test_it_solves_ioi_and_changing_the_second_subject_changes_the_answer(model):
    clean, corrupted = map(np.array, logit_diffs(model, patchlib.IOIDataset(model, n_prompts=16)))
    assert (clean > 0).mean() >= 0.9
    assert clean.mean() > 1 and corrupted.mean() < -1
    assert (corrupted < 0).mean() >= 0.9


def test_changing_the_order_of_names_changes_nothing_and_says_so(model):
    task = patchlib.IOIDataset(model, n_prompts=8, corruption="swap_order")
    clean, corrupted = map(np.array, logit_diffs(model, task))
    assert clean.mean() > 1 and corrupted.mean() > 1
    with pytest.warns(patchlib.ContrastWarning, match="logit_diff gives no usable contrast.*swap_subject"):
        result = sweep(model, task, over=("layer", "role"), layers=[0, LAST], positions=["S2", "END"])
    np.testing.assert_allclose(result.clean[0], clean, atol=1e-3)
    np.testing.assert_allclose(result.corrupted[0], corrupted, atol=1e-3)
    assert result.effect.isnull().all() and result.patched.notnull().all()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_answer_travels_from_the_second_subject_to_the_end(model, direction):
    """At the bottom S2 is all that differs; at the top END is all that is read: sufficient and necessary alike."""
    task = patchlib.IOIDataset(model, n_prompts=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", patchlib.ContrastWarning)
        result = sweep(
            model, task, "resid_pre", ("layer", "role"), direction, metric=["logit_diff", "prob"], layers=[0, LAST]
        )
    effect = result.effect.sel(metric="logit_diff")
    np.testing.assert_allclose(effect.sel(layer=0), [0, 0, 0, 1, 0], atol=1e-3)
    assert effect.sel(layer=LAST, role="END") > 0.8
    assert (abs(effect.sel(layer=LAST, role=["IO", "S1", "S1+1", "S2"])) < 0.1).all()
    at_the_end = sweep(model, task, "resid_post", ("layer", "role"), direction, layers=[LAST], positions=["S2", "END"])
    np.testing.assert_allclose(at_the_end.effect[0, 0], [0, 1], atol=1e-3)


def test_the_result_names_the_model_that_it_is_of(model):
    attrs = sweep(model, patchlib.IOIDataset(model, n_prompts=2), over="layer", layers=[LAST]).attrs
    assert attrs["model"] == patchlib.DEFAULT_MODEL == "smollm2-135m"
    assert attrs["weights_hash"] == patchlib.weights_hash(model)
    assert len(attrs["weights_hash"]) == 64 and set(attrs["weights_hash"]) <= set("0123456789abcdef")
    assert (attrs["engine"], attrs["n_examples"], attrs["seed"]) == ("fast", 2, 0)
    assert (model.cfg.n_layers, model.cfg.n_heads) == (LAST + 1, 9)
