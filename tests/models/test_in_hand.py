"""Models that are in memory already: a Hugging Face model, TransformerLens' own, a bridge that somebody booted."""

from __future__ import annotations

import copy
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel, initialize_native_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import patchlib
from patchlib.errors import ModelError, SweepError, TaskError
from tests.helpers import ATOL, make_pairs, sweep
from tests.tiny import KINDS, load_tiny, tiny_config, tiny_path, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
TOKENS = torch.arange(2, 9)[None]
NATIVE = {"d_model": 32, "n_layers": 3, "n_heads": 4, "d_head": 8, "d_mlp": 64, "n_ctx": 32, "d_vocab": 50,
          "act_fn": "gelu", "normalization_type": "LN", "initializer_range": 0.3, "init_weights": True,
          "seed": 0}  # fmt: skip
GATED = {"n_key_value_heads": 2, "normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 8,
         "gated_mlp": True}  # fmt: skip


def in_hand(kind: str = "llama") -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny_path(kind))


def message(call, error: type[Exception] = ModelError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_left_as_it_is_and_shares_its_weights(kind):
    hf = in_hand(kind).train()
    next(hf.parameters()).requires_grad_(False)
    before = [(name, id(module), module.training) for name, module in hf.named_modules()]
    weights = {name: (weight.data_ptr(), weight.requires_grad) for name, weight in hf.named_parameters()}
    settings, state, random_state = hf.config.to_dict(), list(hf.state_dict()), torch.random.get_rng_state()
    model = patchlib.load_model(hf)
    assert [(name, id(module), module.training) for name, module in hf.named_modules()] == before
    assert {name: (weight.data_ptr(), weight.requires_grad) for name, weight in hf.named_parameters()} == weights
    assert hf.config.to_dict() == settings and list(hf.state_dict()) == state
    assert hf.config._attn_implementation != "eager" or kind in ("gemma2", "bloom")
    assert torch.equal(torch.random.get_rng_state(), random_state)
    shared = {weight.untyped_storage().data_ptr() for weight in hf.parameters()}
    assert shared <= {weight.untyped_storage().data_ptr() for weight in model.original_model.parameters()}
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    assert patchlib.weights_hash(model) == patchlib.weights_hash(load_tiny(kind))
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), hf.eval()(TOKENS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "falcon"])
def test_a_sweep_of_it_is_one_of_the_same_model_from_a_folder(kind):
    model, pairs = patchlib.load_model(in_hand(kind)), make_pairs(load_tiny(kind))
    given, expected = (sweep(which, pairs, "z", ("layer", "head")) for which in (model, load_tiny(kind)))
    np.testing.assert_array_equal(given.patched, expected.patched)
    assert given.attrs["model"] == f"{type(in_hand(kind)).__name__} in hand"
    assert given.attrs["weights_hash"] == expected.attrs["weights_hash"]
    assert given.attrs["engine"] == expected.attrs["engine"] == "fast"
    assert given.clean_prompt.values[0] == " ".join(map(str, pairs.clean_tokens[0].tolist()))  # it has no tokenizer


def trained(hf: torch.nn.Module) -> None:
    optimizer = torch.optim.SGD(hf.parameters(), lr=0.1)
    hf(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()


def test_it_follows_an_optimizer():
    hf = in_hand("llama")
    model, pairs = patchlib.load_model(hf), make_pairs(load_tiny("llama"))
    before = sweep(model, pairs, "resid_pre", ("layer", "pos"))
    trained(hf)
    after = sweep(model, pairs, "resid_pre", ("layer", "pos"))
    assert float(abs(after.patched - before.patched).max()) > 0.01
    assert after.attrs["weights_hash"] != before.attrs["weights_hash"]
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), hf(TOKENS).logits)
    assert not any(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("kind", ["neox", "falcon", "bloom"])
def test_copies_of_split_weights_are_not_used_once_they_are_old(kind):
    hf = in_hand(kind)
    model, pairs = patchlib.load_model(hf), make_pairs(load_tiny(kind))
    sweep(model, pairs, "resid_pre", ("layer",))
    trained(hf)
    for call in (lambda: sweep(model, pairs), lambda: patchlib.copying_scores(model, [5, 6])):
        assert "call load_model with it again" in message(call, SweepError)
    model = patchlib.load_model(hf)
    sweep(model, pairs, "resid_pre", ("layer",))
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), hf(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_a_custom_config_and_a_class_of_ones_own():
    class MyLlama(LlamaForCausalLM):
        pass

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    hf = MyLlama(tiny_config("llama", len(tokenizer))).to(torch.float64)
    model = patchlib.load_model(hf, tokenizer=tokenizer)
    assert (model.cfg.model_name, model.cfg.dtype) == ("MyLlama in hand", torch.float64)
    model.cfg.model_name = "step 3000"
    result = sweep(model, patchlib.IOIDataset(model, n_prompts=2), "z", ("layer", "head"))
    assert result.attrs["model"] == "step 3000" and result.attrs["engine"] == "fast"
    assert "When" in patchlib.IOIDataset(model).get_clean_corrupt_pairs()[0][0]


def test_its_tokenizer_is_a_copy_with_what_was_added():
    tokenizer = AutoTokenizer.from_pretrained(tiny_path())
    tokenizer.add_tokens(["zyx"])
    tokenizer.pad_token, tokenizer.padding_side = None, "left"
    hf = in_hand("gpt2")
    hf.resize_token_embeddings(len(tokenizer))
    model = patchlib.load_model(hf, tokenizer=tokenizer)
    assert tokenizer.pad_token is None and tokenizer.padding_side == "left"
    assert model.tokenizer is not tokenizer
    assert model.to_tokens("zyx")[0].tolist() == [tokenizer.bos_token_id, len(tokenizer) - 1]


def test_text_wants_a_tokenizer_and_token_ids_do_not():
    model = patchlib.load_model(in_hand("llama"))
    for call in (
        lambda: patchlib.IOIDataset(model),
        lambda: patchlib.InductionDataset(model),
        lambda: patchlib.attention_patterns(model, "Mary and John", [(0, 1)]),
        lambda: patchlib.ActivationPatcher(model).cache_activations("Mary and John"),
    ):
        assert "has no tokenizer" in message(call, TaskError)
    repeated = patchlib.InductionDataset(model, n_prompts=2, seq_len=6, kind="tokens")
    roles = sweep(model, repeated, over=("layer", "role")).role.values.tolist()
    assert roles == ["source", "source+1", "current", "END"]
    assert patchlib.detector_scores(model, n_rows=2, seq_len=5).induction.shape == (3, 4)
    assert patchlib.attention_patterns(model, [2, 3, 4], [(0, 1)]).token.values.tolist() == ["2", "3", "4"]
    assert patchlib.copying_scores(model, [5, 6]).copying.shape == (3, 4)


def test_what_is_no_model_in_hand(tmp_path: Path):
    hf, load = in_hand("llama"), patchlib.load_model
    assert "is ready to patch" in message(lambda: load(load_tiny()))
    assert "the class LlamaForCausalLM" in message(lambda: load(LlamaForCausalLM))
    assert "cannot be a Linear" in message(lambda: load(torch.nn.Linear(2, 2)))
    assert "not supported (LlamaModel)" in message(lambda: load(hf.model))
    assert "device and dtype cannot be given" in message(lambda: load(hf, "cpu", torch.float16))
    assert "cannot be a str" in message(lambda: load(hf, tokenizer=tiny_path()))
    accelerate.disk_offload(hf, tmp_path)
    assert "30 weights that are not in memory" in message(lambda: load(hf))


def nothing(*args):
    return None


def test_hooks_and_forwards_of_the_users_are_named():
    hf = in_hand("llama")
    handle = hf.model.layers[1].register_forward_pre_hook(nothing)
    assert "hooks left on it, at model.layers.1" in message(lambda: patchlib.load_model(hf))
    handle.remove()
    hf.model.layers[2].mlp.forward = nothing
    assert "a forward that was put in place of its class's, at model.layers.2.mlp" in message(
        lambda: patchlib.load_model(hf)
    )
    del hf.model.layers[2].mlp.forward
    model, pairs = patchlib.load_model(hf), make_pairs(load_tiny("llama"))
    hf.register_forward_hook(nothing)  # of the caller's, which the model here does not share
    sweep(model, pairs, over=("layer",))
    handles = {
        "the model itself": model.register_forward_hook(nothing),
        "every module": torch.nn.modules.module.register_module_forward_hook(nothing),
    }
    for name, handle in reversed(handles.items()):
        assert name in message(lambda: sweep(model, pairs), SweepError)
        handle.remove()
    model.blocks[0].register_full_backward_hook(nothing)  # a sweep has no backward pass
    model.add_hook("blocks.0.attn.hook_z", nothing, dir="bwd")
    assert sweep(model, pairs, "z", ("layer",)).attrs["engine"] == "fast"


def test_adapters_beside_the_weights_are_named():
    model = copy.deepcopy(load_tiny("llama"))
    linear = model.blocks[1].mlp.out.original_component
    linear.__class__ = type("Linear", (torch.nn.Linear,), {"__module__": "peft.tuners.lora.layer"})
    assert "merge_and_unload()" in message(lambda: sweep(model, make_pairs(model)), SweepError)


def test_parametrized_weights_are_weights():
    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    hf = in_hand("llama")
    expected = copy.deepcopy(hf)
    with torch.no_grad():
        expected.model.layers[1].mlp.down_proj.weight *= 2
    torch.nn.utils.parametrize.register_parametrization(hf.model.layers[1].mlp.down_proj, "weight", Doubled())
    pairs = make_pairs(load_tiny("llama"))
    for site in ("z", "post"):
        given, wanted = (sweep(patchlib.load_model(model), pairs, site, ("layer",)) for model in (hf, expected))
        np.testing.assert_allclose(given.patched, wanted.patched, atol=ATOL)
        assert given.attrs["engine"] == "fast"


@pytest.mark.parametrize("processing", [None, False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_bridge_that_somebody_booted(kind, processing):
    tokenizer = AutoTokenizer.from_pretrained(tiny_path(kind))
    bridge = TransformerBridge.boot_transformers("mine", hf_model=in_hand(kind), tokenizer=tokenizer)
    if processing is not None:
        bridge.enable_compatibility_mode(no_processing=not processing, disable_warnings=True)
    pairs = make_pairs(load_tiny(kind))
    assert "model.eval()" in message(lambda: sweep(bridge.train(), pairs), SweepError)
    bridge.eval()
    for site, over in (("z", ("layer", "head")), ("resid_pre", ("layer", "pos"))):
        given, expected = (sweep(which, pairs, site, over) for which in (bridge, load_tiny(kind)))
        np.testing.assert_allclose(given.patched, expected.patched, atol=1e-3)  # folding moves no effect
        assert given.attrs["engine"] == "fast" and given.attrs["model"] == "mine"
    given, expected = (patchlib.path_patch(which, pairs, progress=False) for which in (bridge, load_tiny(kind)))
    np.testing.assert_allclose(given.patched, expected.patched, atol=1e-3)


def native_by_hand(settings, pairs, hooked, index) -> np.ndarray:
    """Denoised at what enters a module of TransformerLens' own model, which no bridge has touched."""
    config = TransformerBridgeConfig.from_dict(settings)
    model = NativeModel(config).eval()
    initialize_native_model(model, config)
    seen: list[torch.Tensor] = []

    def change(module, args):
        value = args[0].clone()
        if seen:
            value[index] = seen[0][index]
        seen.append(value)
        return (value, *args[1:])

    model.get_submodule(hooked).register_forward_pre_hook(change)
    with torch.no_grad():
        logits = [model(tokens) for tokens in (pairs.clean_batch(), pairs.corrupted_batch())][1][:, -1]
    right, wrong = (logits.gather(1, ids[:, None])[:, 0] for ids in pairs.answers.unbind(1))
    return (right - wrong).numpy()


@pytest.mark.parametrize("more", [{}, GATED, {"attn_only": True}], ids=["plain", "gated", "attention only"])
def test_transformer_lens_own_models(more):
    settings = NATIVE | more
    model = TransformerBridge.boot_native(settings).eval()
    pairs = make_pairs(model, n=3)
    z = sweep(model, pairs, "z", ("layer", "head"))
    stream = sweep(model, pairs, "resid_pre", ("layer", "pos"))
    assert z.attrs["model"] == "native" and z.attrs["engine"].startswith("plain (its forward does not take")
    for layer in (0, 2):
        expected = native_by_hand(settings, pairs, f"layers.{layer}.attn.o", (..., slice(8, 16)))
        np.testing.assert_allclose(z.patched[0].sel(layer=layer, head=1), expected, atol=ATOL)
        expected = native_by_hand(settings, pairs, f"layers.{layer}", (slice(None), 6))
        np.testing.assert_allclose(stream.patched[0].sel(layer=layer, pos=6), expected, atol=ATOL)
    assert float(abs(z.patched - z.corrupted).max()) > 0.01
    if "attn_only" not in more:
        neurons = sweep(model, pairs, "post", ("layer", "neuron"), layers=[1], neurons=[3])
        name = "layers.1.mlp.out" if "gated_mlp" in more else "layers.1.mlp.fc_out"
        expected = native_by_hand(settings, pairs, name, (..., 3))
        np.testing.assert_allclose(neurons.patched[0, 0, 0], expected, atol=ATOL)
    assert patchlib.path_patch(model, pairs, progress=False).effect.shape == (1, 3, 4)
    assert len(patchlib.knock_out(patchlib.Ablation(model, pairs), {"a": [(0, 1)]})) == 2
    assert patchlib.direct_logit_attribution(model, pairs).shape == (3, 4, 3)
    assert patchlib.copying_scores(model, [5, 6]).copying.shape == (3, 4)
    assert len(patchlib.k_composition(model, [(2, 0)])) == 8
    assert patchlib.token_losses(model, patchlib.repeated_tokens(model, n_rows=2, seq_len=5)).shape == (2, 10)
