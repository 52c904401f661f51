"""Path patching against the algorithm spelled out with bare hooks, one prompt, one sender, whole forwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchlib
from patchlib import Receiver, path_patch, sweep
from patchlib.errors import SweepError
from patchlib.patching.receivers import inputs_of
from tests.helpers import contrast_pairs, make_pairs
from tests.tiny import load_tiny

ATOL = 1e-4
pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
KINDS = ["gpt2", "llama", "neox", "qwen3", "phi", "gemma2"]
INPUTS = [
    [],
    [Receiver("q", 2, 1, "END")],
    [Receiver("q", 1, 0), Receiver("q", 2, 1), Receiver("k", 2, 0, "varied"), Receiver("v", 1, 1, 7)],
]


def z_name(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z"


def by_hand(model, pairs, receivers, layer, head, role=None) -> list[float]:
    """Noising one sender's paths, or those of all heads: Wang et al. 2022, appendix B, nothing shared or left out."""
    values = []
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        with torch.no_grad():
            _, base = model.run_with_cache(clean[None])
            _, other = model.run_with_cache(corrupted[None])
        index = {None: slice(None), **{name: int(positions[i]) for name, positions in pairs.roles.items()}}

        def freeze(z, hook, base=base, other=other, sent=index[role]):
            frozen = base[hook.name].clone()
            if layer is None:
                frozen[:, sent] = other[hook.name][:, sent]
            elif hook.name == z_name(layer):
                frozen[:, sent, head] = other[hook.name][:, sent, head]
            return frozen

        names = {(r.site, r.layer): f"blocks.{r.layer}.attn.hook_{r.site}" for r in receivers}
        arrived = {}

        def listen(activation, hook, arrived=arrived):
            arrived[hook.name] = activation.detach().clone()

        frozen = [(z_name(i), freeze) for i in range(model.cfg.n_layers)]
        with torch.no_grad():
            logits = model.run_with_hooks(clean[None], fwd_hooks=[*frozen, *((n, listen) for n in names.values())])
        if receivers:

            def hear(activation, hook, arrived=arrived, index=index, names=names):
                heard = activation.clone()
                for r in receivers:
                    if names[r.site, r.layer] == hook.name:
                        position = index.get(r.position, r.position)
                        heard[:, position, r.head] = arrived[hook.name][:, position, r.head]
                return heard

            with torch.no_grad():
                logits = model.run_with_hooks(clean[None], fwd_hooks=[(n, hear) for n in names.values()])
        right, wrong = pairs.answers[i].tolist()
        values.append(float(logits[0, -1, right] - logits[0, -1, wrong]))
    return values


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("receivers", INPUTS, ids=["logits", "one", "several"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_paper_s_algorithm(kind, receivers, engine):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    result = path_patch(model, pairs, receivers or "logits", engine=engine, progress=False)
    assert result.attrs["receivers"].startswith("q of L" if receivers else "logits")
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            values = result.patched.sel(metric="logit_diff", layer=layer, head=head)
            np.testing.assert_allclose(values, by_hand(model, pairs, receivers, layer, head), atol=ATOL)


@pytest.mark.parametrize("receivers", INPUTS, ids=["logits", "one", "several"])
def test_senders_at_one_position(receivers):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    result = path_patch(model, pairs, receivers or "logits", ("layer", "head", "role"), progress=False)
    for role in pairs.roles:
        values = result.patched.sel(metric="logit_diff", layer=0, head=2, role=role)
        np.testing.assert_allclose(values, by_hand(model, pairs, receivers, 0, 2, role), atol=ATOL)


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("receivers", INPUTS, ids=["logits", "one", "several"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_all_senders_at_once(kind, receivers, engine):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    result = path_patch(model, pairs, receivers or "logits", ("role",), engine=engine, progress=False)
    assert result.attrs["layers"] == "0, 1, 2"
    for role in pairs.roles:
        values = result.patched.sel(metric="logit_diff", role=role)
        np.testing.assert_allclose(values, by_hand(model, pairs, receivers, None, None, role), atol=ATOL)


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_last_layer_the_direct_path_is_the_only_one(kind):
    model = load_tiny(kind)
    pairs, last = make_pairs(model), model.cfg.n_layers - 1
    direct = path_patch(model, pairs, layers=last, direction="denoise", progress=False)
    whole = sweep(model, pairs, "z", ("layer", "head"), layers=last, progress=False)
    np.testing.assert_allclose(direct.patched, whole.patched, atol=ATOL)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi"])
def test_what_arrives_in_the_last_layer_is_what_the_whole_patch_sends(kind):
    """From the layer below there are no paths but the direct ones: opening them all together is the whole patch."""
    model = load_tiny(kind)
    pairs, last = make_pairs(model), model.cfg.n_layers - 1
    heads = [(last, head) for head in range(model.cfg.n_heads)]
    receivers = [receiver for site in "qkv" for receiver in inputs_of(model, heads, site)]
    for i in range(len(pairs)):
        clean, corrupted = pairs.clean_tokens[i][None], pairs.corrupted_tokens[i][None]
        with torch.no_grad():
            _, other = model.run_with_cache(corrupted)

            def send(z, hook, other=other):
                z[:, :, 1] = other[hook.name][:, :, 1]
                return z

            with model.hooks(fwd_hooks=[(z_name(last - 1), send)]):
                _, whole = model.run_with_cache(clean)

            def hear(activation, hook, whole=whole):
                return whole[hook.name]

            names = [f"blocks.{last}.attn.hook_{site}" for site in "qkv"]
            logits = model.run_with_hooks(clean, fwd_hooks=[(name, hear) for name in names])
        result = path_patch(model, pairs.select([i]), receivers, layers=last - 1, heads=[1], progress=False)
        right, wrong = pairs.answers[i].tolist()
        assert float(result.patched.squeeze()) == pytest.approx(
            float(logits[0, -1, right] - logits[0, -1, wrong]), abs=ATOL
        )


def test_heads_of_a_group_share_their_keys_and_values():
    model = load_tiny("llama")
    assert len(inputs_of(model, [(1, 0), (1, 1), (2, 0)], "q")) == 3
    group = model.cfg.n_heads // model.cfg.n_key_value_heads
    assert inputs_of(model, [(1, head) for head in range(group)], "v", "varied") == [Receiver("v", 1, 0, "varied")]


def test_a_head_above_the_receivers_has_no_path_to_them():
    model = load_tiny("gpt2")
    result = path_patch(model, contrast_pairs(model), inputs_of(model, [(1, 0)], "q"), progress=False)
    assert (result.effect.sel(layer=[1, 2]) == 0).all() and (result.effect.sel(layer=0) != 0).any()


@pytest.mark.parametrize(
    ("receivers", "said"),
    [
        ("logit", "Unknown receivers 'logit'"),
        ([], "No receivers"),
        ([(1, 0)], "no receiver"),
        ([Receiver("z", 1, 0)], "no receiver"),
        ([Receiver("q", 9, 0)], "There is no head L9H0: the model has 3 layers of 4 heads"),
        ([Receiver("k", 1, 4)], "There is no head L1KV4: the model has 3 layers of 4 KV heads"),
        ([Receiver("q", 1, 0, "S9")], "Unknown position 'S9': this task's named positions are: first, varied, END"),
        ([Receiver("q", 1, 0, 9)], "Position 9 is outside the prompts"),
    ],
)
def test_receivers_that_are_not_there(receivers, said):
    model = load_tiny("gpt2")
    with pytest.raises(SweepError, match=said):
        path_patch(model, make_pairs(model), receivers, progress=False)


@pytest.mark.parametrize(
    ("heads", "site", "said"),
    [
        ([(0, 0)], "z", "Unknown input of a head 'z': choose 'q', 'k' or 'v'"),
        ([(0, 4)], "q", "There is no head L0H4"),
        ([], "q", "No head was named"),
    ],
)
def test_inputs_that_are_not_there(heads, site, said):
    with pytest.raises(SweepError, match=said):
        patchlib.inputs_of(load_tiny("gpt2"), heads, site)
