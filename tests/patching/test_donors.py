"""Ablations: zeros, a mean over a reference, another prompt, against the same done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchlib
from patchlib.patching.donors import resolve_donors
from tests.helpers import ATOL, make_pairs, mixed_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


def by_hand(model, pairs, site, layer, head, value) -> np.ndarray:
    """The logit difference of each clean prompt with one head's activation replaced by value[example]."""
    name, found = patchlib.SITES[site].hook_name(layer), []
    for i, row in enumerate(pairs.clean_tokens):

        def put(activation, hook, i=i):
            if site == "pattern":
                activation[:, head] = value[i][:, head]
            else:
                activation[:, :, head] = value[i][:, :, head]
            return activation

        logits = model.run_with_hooks(row[None], fwd_hooks=[(name, put)])[0, -1]
        found.append(float(logits[pairs.answers[i, 0]] - logits[pairs.answers[i, 1]]))
    return np.array(found)


def activations(model, rows, name) -> list[torch.Tensor]:
    return [model.run_with_cache(row[None])[1][name] for row in rows]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("site", ["z", "v", "pattern"])
@pytest.mark.parametrize("source", ["zero", "mean"])
def test_zeros_and_means(kind, site, source):
    model = load_tiny(kind)
    pairs, reference = make_pairs(model, n=3), make_pairs(model, n=5, seed=4)
    given = {"reference": reference} if source == "mean" else {}
    result = sweep(model, pairs, site, ("layer", "head"), "noise", source=source, **given)
    assert result.attrs["source"] == source
    for layer in range(3):
        name = patchlib.SITES[site].hook_name(layer)
        given = torch.stack(activations(model, reference.clean_tokens, name)).mean(0)
        value = [given if source == "mean" else torch.zeros_like(given)] * len(pairs)
        for head in (0, 1):
            mine = result.patched.isel(metric=0, layer=layer).isel({result.patched.dims[2]: head})
            np.testing.assert_allclose(mine, by_hand(model, pairs, site, layer, head, value), atol=ATOL)


def test_a_resample_is_another_prompt_and_the_seed_says_which():
    model = load_tiny("llama")
    pairs = make_pairs(model, n=4)
    first, again, other = (
        sweep(model, pairs, "z", ("layer", "head"), "noise", source="resample", source_seed=seed) for seed in (0, 0, 1)
    )
    assert first.patched.equals(again.patched) and not first.patched.equals(other.patched)
    name = patchlib.SITES["z"].hook_name(1)
    values = activations(model, pairs.clean_tokens, name)
    mine = first.patched.isel(metric=0).sel(layer=1, head=2).values
    alone = np.stack([by_hand(model, pairs, "z", 1, 2, [value] * len(pairs)) for value in values])  # [donor example]
    donor = abs(alone - mine).argmin(0)
    np.testing.assert_allclose(alone.min(0, where=abs(alone - mine) < ATOL, initial=np.inf), mine, atol=ATOL)
    assert (donor != np.arange(4)).all()


def test_a_resample_is_never_the_prompt_s_own_partner():
    """That would be the swap that source="other" is."""
    model = load_tiny("gpt2")
    pairs = make_pairs(model, n=3)
    for seed in range(8):
        donors = resolve_donors(model, pairs, "noise", "resample", pairs.reversed(), seed)
        assert all(donor != i for i, donor in enumerate(donors.donor_of))
    with pytest.raises(patchlib.SweepError, match="has no other prompt of 9 tokens, as prompt 0 has"):
        resolve_donors(model, pairs.select([0]), "noise", "resample", pairs.select([0]).reversed(), 0)


@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
def test_prompts_of_several_lengths_and_both_engines(source):
    model = load_tiny("gpt2")
    pairs = mixed_pairs(model)
    fast, plain, small = (
        sweep(model, pairs, "mlp_out", ("layer", "pos"), "noise", source=source, engine=engine, batch_tokens=tokens)
        for engine, tokens in (("fast", None), ("plain", None), ("fast", 20))
    )
    np.testing.assert_allclose(fast.patched, plain.patched, atol=ATOL)
    np.testing.assert_allclose(small.patched, plain.patched, atol=ATOL)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"source": "zeros"}, "Unknown source 'zeros': choose 'other', 'zero', 'mean' or 'resample'"),
        ({"source": "zero", "reference": 1}, "takes nothing from a reference"),
        ({"source": "resample", "n": 1}, "has no other prompt of 9 tokens, as prompt 0 has"),
    ],
)
def test_what_cannot_be_taken(asked, message):
    model = load_tiny("gpt2")
    with pytest.raises(patchlib.SweepError, match=message):
        sweep(model, make_pairs(model, n=asked.pop("n", 4)), **asked)
