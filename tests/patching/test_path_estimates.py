"""Estimates of direct paths: against derivatives by hand, exact paths where the rest is linear, and as a sieve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchlib
from patchlib import Receiver, SweepError
from patchlib.patching.attribution import prefilter
from patchlib.patching.unpatched import UnpatchedForwards
from tests.helpers import alike_pairs, contrast_pairs, make_pairs
from tests.patching.test_attribution import linear_model, random_rows
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
STEP = 3e-3
RECEIVERS = {
    "logits": [],
    "one": [Receiver("q", 2, 1, "END")],
    "several": [Receiver("q", 1, 0), Receiver("q", 2, 1), Receiver("k", 2, 0, "varied"), Receiver("v", 1, 1, 7)],
}


def path_patch(*args, **how):
    return patchlib.path_patch(*args, progress=False, **how)


def estimated(model, pairs, receivers, over, monkeypatch, **how):
    """The estimate of all senders."""
    monkeypatch.setattr(prefilter, "N_JUDGED", 1)
    return path_patch(model, pairs, receivers or "logits", over, prefilter="attribution", **how)


def z_name(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z"


def along_paths(model, pairs, receivers, layer, head, share) -> torch.Tensor:
    """The metric with a share of one sender's change sent along its paths: Wang et al. 2022, appendix B, by hand."""
    clean, corrupted = pairs.clean_batch(), pairs.corrupted_batch()
    names = {(r.site, r.layer): f"blocks.{r.layer}.attn.hook_{r.site}" for r in receivers}
    rows, arrived = torch.arange(len(pairs)), {}
    with torch.no_grad():
        _, base = model.run_with_cache(clean)
        _, other = model.run_with_cache(corrupted)

        def freeze(z, hook):
            frozen = base[hook.name].clone()
            if hook.name == z_name(layer):
                frozen[:, :, head] += share * (other[hook.name] - frozen)[:, :, head]
            return frozen

        def listen(activation, hook):
            arrived[hook.name] = activation.clone()

        frozen = [(z_name(i), freeze) for i in range(model.cfg.n_layers)]
        logits = model.run_with_hooks(clean, fwd_hooks=[*frozen, *((name, listen) for name in names.values())])
        if receivers:

            def hear(activation, hook):
                heard = activation.clone()
                for r in receivers:
                    if names[r.site, r.layer] == hook.name:
                        position = pairs.roles.get(r.position, r.position)
                        at = (slice(None), slice(None), r.head) if position is None else (rows, position, r.head)
                        heard[at] = arrived[hook.name][at]
                return heard

            logits = model.run_with_hooks(clean, fwd_hooks=[(name, hear) for name in names.values()])
    right, wrong = pairs.answers.unbind(1)
    return (logits[rows, -1, right] - logits[rows, -1, wrong]).double()


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("receivers", RECEIVERS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_estimate_is_the_derivative_along_the_paths(kind, receivers, engine, monkeypatch):
    model = load_tiny(kind)
    pairs = contrast_pairs(model)
    result = estimated(model, pairs, RECEIVERS[receivers], ("layer", "head"), monkeypatch, engine=engine)
    possible = float((result.corrupted - result.clean).mean())
    for layer in range(3):
        for head in range(4):
            ends = [along_paths(model, pairs, RECEIVERS[receivers], layer, head, share) for share in (STEP, -STEP)]
            by_hand = float((ends[0] - ends[1]).mean()) / (2 * STEP) / possible
            estimate = float(result.estimate.sel(layer=layer, head=head).squeeze())
            assert estimate == pytest.approx(by_hand, rel=5e-3, abs=1e-3), (layer, head)


@pytest.mark.parametrize("receivers", [[], [Receiver("v", 1, 1)], [Receiver("v", 1, 0, 4), Receiver("v", 1, 2, 4)]])
def test_where_the_rest_is_linear_it_is_exact(receivers, monkeypatch):
    model, pairs = linear_model(), random_rows()
    exact = path_patch(model, pairs, receivers or "logits", ("layer", "head", "pos"), direction="denoise")
    how = {"direction": "denoise", "least_effect": 0.0}
    result = estimated(model, pairs, receivers, ("layer", "head", "pos"), monkeypatch, **how)
    np.testing.assert_allclose(result.estimate, exact.effect, atol=1e-4)
    assert abs(exact.effect).max() > 0.05 or np.isnan(exact.effect).all()


def test_what_the_sieve_lets_through_is_exact_and_the_rest_says_that_it_was_left_out(monkeypatch):
    monkeypatch.setattr(prefilter, "N_JUDGED", 4)
    model = load_tiny("llama")
    pairs = contrast_pairs(model, n=6)
    for receivers in ("logits", RECEIVERS["several"]):
        how = (model, pairs, receivers, ("layer", "head", "pos"))
        exact, sieved = path_patch(*how), path_patch(*how, prefilter="attribution", least_effect=0.05)
        assert sieved.patched.dims == exact.patched.dims and sieved.attrs["receivers"] == exact.attrs["receivers"]
        left_out = sieved.effect.isnull()
        assert sieved.attrs["prefilter"].startswith(f"attribution: {int(left_out.sum())} of 108 cells left out")
        np.testing.assert_allclose(sieved.effect.where(~left_out), exact.effect.where(~left_out), atol=1e-5)
        assert left_out.any() and abs(exact.effect.where(left_out)).max() < 0.05


def test_a_search_runs_its_unpatched_forwards_once_and_checks_each_kind_of_step_once(monkeypatch):
    model, runs = load_tiny("llama"), []
    pairs = alike_pairs(model)
    honest = UnpatchedForwards._run_both
    monkeypatch.setattr(
        UnpatchedForwards, "_run_both", lambda self, *args: runs.append(self.fast) or honest(self, *args)
    )
    search = patchlib.discover(model, pairs, depth=3, progress=False)
    assert len(search.results) >= 2
    assert runs.count(True) == len({len(row) for row in pairs.clean_tokens})
    assert runs.count(False) <= 1  # of the one prompt of which cells are compared


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_sieved_search_finds_the_same(kind, monkeypatch):
    monkeypatch.setattr(prefilter, "N_JUDGED", 4)
    model = load_tiny(kind)
    pairs = alike_pairs(model)
    sieved, full = (
        patchlib.discover(model, pairs, depth=3, max_heads=2, prefilter=how, progress=False)
        for how in ("attribution", None)
    )
    columns = ["depth", "receivers", "site", "layer", "head_index", "position"]
    assert sieved.steps[columns].equals(full.steps[columns]) and len(full.steps)
    assert sieved.circuit == full.circuit
    assert "prefilter" not in full.results["logits"].attrs and "prefilter" in sieved.results["logits"].attrs


def test_a_metric_without_a_gradient_cannot_sieve():
    model = load_tiny("gpt2")
    with pytest.raises(SweepError, match="has no gradient"):
        path_patch(model, make_pairs(model), over=("layer", "head", "pos"), metric="accuracy", prefilter="attribution")
    with pytest.raises(SweepError, match="Unknown prefilter 'gradient'"):
        path_patch(model, make_pairs(model), prefilter="gradient")
    with pytest.raises(SweepError, match="Unknown prefilter 'gradient'"):
        patchlib.discover(model, make_pairs(model), prefilter="gradient")
