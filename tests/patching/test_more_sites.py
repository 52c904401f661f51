"""Neurons, embeddings and the final stream: fast and plain against hooks on Hugging Face's own modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import patchlib
from tests.helpers import ATOL, make_pairs, sweep
from tests.tiny import DEVICE, load_tiny, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
DOWN = {"gpt2": "transformer.h.{}.mlp.c_proj", "llama": "model.layers.{}.mlp.down_proj",
        "neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h", "gemma2": "model.layers.{}.mlp.down_proj",
        "opt": "model.decoder.layers.{}.fc2"}  # fmt: skip
FINAL = {"gpt2": "transformer.ln_f", "llama": "model.norm", "gemma2": "model.norm",
         "opt": "model.decoder.final_layer_norm"}  # fmt: skip


def by_hand(kind, pairs, direction, module, index=(), at_output=False) -> np.ndarray:
    """The logit difference of each prompt, with a part of what enters (or leaves) a module taken from the other one."""
    model = AutoModelForCausalLM.from_pretrained(tiny_path(kind), attn_implementation="eager").to(DEVICE).eval()
    base, other = pairs.corrupted_batch().to(DEVICE), pairs.clean_batch().to(DEVICE)
    if direction == "noise":
        base, other = other, base
    seen: list[torch.Tensor] = []

    def changed(value):
        if len(seen) == 0:
            seen.append(value.clone())
            return value
        value = value.clone()
        rows, others = (v.view(len(pairs), -1, v.shape[-1]) for v in (value, seen[0]))  # OPT's MLP has no prompts' axis
        rows[(slice(None), *index)] = others[(slice(None), *index)]
        return value

    hooked = model.get_submodule(module)
    if at_output:
        hooked.register_forward_hook(lambda module, args, output: changed(output))
    else:
        hooked.register_forward_pre_hook(lambda module, args: (changed(args[0]), *args[1:]))
    with torch.no_grad():
        model(other)
        logits = model(base).logits[:, -1]
    right, wrong = (logits.gather(1, ids[:, None].to(DEVICE))[:, 0] for ids in pairs.answers.unbind(1))
    return (right - wrong).numpy(force=True)


@pytest.mark.parametrize("kind", DOWN)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_neurons_are_what_enters_the_last_product_of_an_mlp(kind, direction):
    model = load_tiny(kind)
    pairs = make_pairs(model, n=3)
    for engine in ("auto", "plain"):
        whole = sweep(model, pairs, "post", ("layer", "pos"), direction, layers=[0, 2], engine=engine)
        few = {"layers": [1, 2], "neurons": [3, 40], "positions": [5, 8]}
        single = sweep(model, pairs, "post", ("layer", "neuron", "pos"), direction, **few, engine=engine)
        assert single.patched.dims == ("metric", "layer", "neuron", "pos", "example")
        for layer in (0, 2):
            expected = by_hand(kind, pairs, direction, DOWN[kind].format(layer), (6,))
            np.testing.assert_allclose(whole.patched[0].sel(layer=layer, pos=6), expected, atol=ATOL)
        for layer, neuron, pos in ((1, 3, 5), (2, 40, 8)):
            expected = by_hand(kind, pairs, direction, DOWN[kind].format(layer), (pos, neuron))
            got = single.patched[0].sel(layer=layer, neuron=neuron, pos=pos)
            np.testing.assert_allclose(got, expected, atol=ATOL)
    unpatched = single.corrupted if direction == "denoise" else single.clean
    assert float(abs(single.patched - unpatched).max()) > 0.001, "nothing was patched, so nothing was compared"


@pytest.mark.parametrize("kind", FINAL)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_embeddings_and_the_final_stream_are_there_once(kind, direction):
    model = load_tiny(kind)
    pairs = make_pairs(model, n=3)
    hf = AutoModelForCausalLM.from_pretrained(tiny_path(kind))
    names = {id(module): name for name, module in hf.named_modules()}
    embedding = names[id(hf.get_input_embeddings())]
    for engine in ("auto", "plain"):
        embedded = sweep(model, pairs, "embed", ("pos",), direction, engine=engine)
        final = sweep(model, pairs, "final", ("role",), direction, engine=engine)
        both = sweep(model, pairs, "embed", ("role",), direction, engine=engine, positions=["END", "first"])
        assert embedded.patched.dims == ("metric", "pos", "example") and "layers" not in embedded.attrs
        for pos in (5, 7):
            expected = by_hand(kind, pairs, direction, embedding, (pos,), at_output=True)
            np.testing.assert_allclose(embedded.patched[0].sel(pos=pos), expected, atol=ATOL)
        np.testing.assert_allclose(both.patched[0].sel(role="first"), embedded.patched[0].sel(pos=5), atol=ATOL)
        expected = by_hand(kind, pairs, direction, FINAL[kind], (8,))
        np.testing.assert_allclose(final.patched[0].sel(role="END"), expected, atol=ATOL)
        base = final.corrupted if direction == "denoise" else final.clean
        np.testing.assert_allclose(final.patched[0].sel(role="first"), base[0], atol=ATOL)


def test_a_metric_of_all_positions_sees_a_patch_of_the_embeddings():
    model = load_tiny("llama")
    pairs = make_pairs(model, n=3)

    def everywhere(logits, pairs):
        return logits[:, :, 7].sum(1)

    for site, over in (("embed", ("pos",)), ("final", ("pos",)), ("post", ("layer", "pos"))):
        fast, plain = (
            sweep(model, pairs, site, over, metric=everywhere, engine=engine) for engine in ("fast", "plain")
        )
        np.testing.assert_allclose(fast.patched, plain.patched, rtol=1e-5, atol=ATOL)
        assert float(abs(fast.patched - fast.corrupted).max()) > 0.1


def test_ablated_neurons_are_zero_or_the_mean():
    model = load_tiny("gpt2")
    pairs = make_pairs(model, n=3)
    how = {"layers": [1], "neurons": [3], "direction": "noise"}
    for source in ("zero", "mean"):
        got = sweep(model, pairs, "post", ("layer", "neuron"), source=source, **how).patched[0, 0, 0]
        hf = AutoModelForCausalLM.from_pretrained(tiny_path("gpt2")).to(DEVICE).eval()
        seen: list[torch.Tensor] = []

        def ablate(module, args, seen=seen, source=source):
            value = args[0].clone()
            seen.append(value.clone())
            if len(seen) == 2:
                value[:, :, 3] = 0 if source == "zero" else seen[0][:, :, 3].mean(0)
            return (value,)

        hf.get_submodule(DOWN["gpt2"].format(1)).register_forward_pre_hook(ablate)
        with torch.no_grad():
            logits = [hf(pairs.clean_batch().to(DEVICE)).logits[:, -1] for _ in range(2)][1]
        expected = logits.gather(1, pairs.answers.to(DEVICE)).numpy(force=True)
        np.testing.assert_allclose(got, expected[:, 0] - expected[:, 1], atol=ATOL)


def test_a_mixture_of_experts_has_no_row_of_neurons():
    with pytest.raises(patchlib.SweepError, match="mixture of experts"):
        sweep(load_tiny("mixtral"), make_pairs(load_tiny("mixtral")), "post")


@pytest.mark.parametrize(
    ("site", "how", "said"),
    [
        ("post", {"over": ("layer", "neuron"), "neurons": [128]}, "neuron \\[128\\] cannot be used"),
        ("post", {"over": ("layer", "neuron"), "neurons": []}, "neuron .* cannot be used"),
        ("post", {"over": ("layer", "neuron"), "neurons": [1.5]}, "neuron .* cannot be used"),
        ("post", {"neurons": [3]}, "add 'neuron' to over"),
        ("z", {"over": ("layer", "head"), "neurons": [3]}, "site 'z' has none"),
        ("z", {"over": ("layer", "neuron")}, "no such axis"),
        ("post", {"over": ("layer", "head")}, "no such axis"),
        ("embed", {}, "Cannot sweep over 'layer'"),
        ("final", {"over": ("pos",), "layers": [0]}, "leave layers=\\[0\\] out"),
    ],
)
def test_what_there_is_not(site, how, said):
    with pytest.raises(patchlib.SweepError, match=said) as caught:
        sweep(load_tiny("gpt2"), make_pairs(load_tiny("gpt2")), site, **how)
    assert "\n" not in str(caught.value)
