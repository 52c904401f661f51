"""Where a model's weights go and in which form, as far as one CPU can say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

import patchlib
from patchlib.errors import ModelError, SweepError
from patchlib.patching.selfcheck import tolerance
from tests.helpers import ATOL, contrast_pairs, make_pairs, sweep
from tests.second_device import DEVICE, TwoDevices, divided
from tests.test_gpu import COMPUTATIONS, _numbers
from tests.tiny import load_tiny, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
LLAMA = tiny_path("llama")
ONE_LAYER = {"model.embed_tokens": 0, "model.layers.0": "cpu", "model.norm": 0, "lm_head": 0}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device and device_map say in two ways"),
        ({"device": "cpu", "n_devices": 1}, "device and n_devices say in two ways"),
        ({"device_map": "auto", "n_devices": 1}, "device_map and n_devices say in two ways"),
        ({"max_memory": {"cpu": "1GB"}}, "give device_map='auto' or n_devices with it"),
        ({"device_map": "auto", "max_memory": "1GB"}, "such as {0: '20GiB'}"),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "check device_map, max_memory"),
        ({"device_map": {"": "disk"}}, "puts weights on 'disk', where they cannot be patched"),
        ({"device_map": {"model": "cpu", "lm_head": "meta"}}, "puts weights on 'meta'"),
        ({"device_map": ONE_LAYER}, "divides a model between the CPU and others"),
        ({"device_map": {}}, "places nothing"),
        ({"device_map": 3}, "device_map cannot be a int"),
        ({"device_map": "everywhere"}, "check device_map"),
        ({"n_devices": 0}, "n_devices must be a whole number of 1 or more"),
        ({"n_devices": 99}, "n_devices=99, but this machine has"),
        ({"attn_implementation": "quick"}, "check attn_implementation"),
        ({"attn_implementation": 3}, "attn_implementation must be a text"),
        ({"quantization_config": {"bits": 4}}, "such as a BitsAndBytesConfig"),
        ({"tokenizer": "gpt2"}, "tokenizer cannot be a str"),
    ],
    ids=str,
)
def test_settings_that_say_nothing_or_two_things(how, said):
    with pytest.raises(ModelError) as caught:
        patchlib.load_model(LLAMA, **how)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes GPUs where there are some")
@pytest.mark.parametrize(
    "how",
    [
        {"device_map": {"": "cpu"}},
        {"device_map": "auto"},
        {"device_map": "auto", "max_memory": {"cpu": "1GB"}},
        {"n_devices": 1},
        {"attn_implementation": "sdpa"},
        {"attn_implementation": "eager"},
    ],
    ids=str,
)
def test_other_ways_to_the_same_model(how):
    model, expected = patchlib.load_model(LLAMA, **how), load_tiny("llama")
    assert torch.device(model.cfg.device).type == "cpu" and model.cfg.n_devices == 1
    assert patchlib.weights_hash(model) == patchlib.weights_hash(expected)
    pairs = make_pairs(expected)
    for site, over in (("z", ("layer", "head")), ("pattern", ("layer", "head"))):
        given, wanted = (sweep(which, pairs, site, over) for which in (model, expected))
        np.testing.assert_array_equal(given.patched, wanted.patched)
        assert given.attrs["engine"] == "fast"


def test_weights_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # accelerate asks for no folder, and takes one of its own
    with pytest.raises(ModelError, match=r"30 weights that are not in memory.*cannot be patched"):
        patchlib.load_model(LLAMA, device_map="auto", max_memory={"cpu": "20KB"})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_dtype_is_as_exact_as_its_bits(dtype):
    model, pairs = patchlib.load_model(LLAMA, dtype=dtype), make_pairs(load_tiny("llama"))
    fast, plain = (sweep(model, pairs, "z", ("layer", "head"), engine=engine) for engine in ("fast", "plain"))
    bound = tolerance(getattr(torch, dtype)) * float(abs(plain.patched).max())
    np.testing.assert_allclose(fast.patched, plain.patched, atol=bound)
    assert fast.attrs["dtype"] == dtype


def test_accelerates_hooks_move_what_the_shortcuts_pass_on_and_stay():
    hf = AutoModelForCausalLM.from_pretrained(LLAMA)
    accelerate.dispatch_model(hf, {"": "cpu"}, force_hooks=True)
    model, pairs = patchlib.load_model(hf), make_pairs(load_tiny("llama"))

    def moved():
        return [name for name, module in model.named_modules() if "forward" in vars(module)]

    before = moved()
    assert any("lm_head" in name or "unembed" in name for name in before)
    for compute in (
        lambda which: sweep(which, pairs, "z", ("layer", "head")),
        lambda which: sweep(which, pairs, "resid_pre"),
        lambda which: patchlib.path_patch(which, pairs, progress=False),
    ):
        given, expected = compute(model), compute(load_tiny("llama"))
        np.testing.assert_array_equal(given.patched, expected.patched)
        assert given.attrs["engine"] == "fast"
    assert moved() == before


def test_a_checkpoint_of_a_dispatched_model(tmp_path: Path):
    hf = AutoModelForCausalLM.from_pretrained(LLAMA)
    accelerate.dispatch_model(hf, {"": "cpu"}, force_hooks=True)
    pairs = make_pairs(load_tiny("llama"))
    for _ in range(2):
        sweep(patchlib.load_model(hf), pairs, "z", ("layer", "head"), checkpoint=tmp_path / "z.ckpt")


TWO_DEVICES = ("all metrics", "own metric", "plain", "pattern", "zero", "mean", "resample", "paths to the logits",
               "paths to queries", "baseline", "knock-out", "losses", "attention between")  # fmt: skip
MORE = {
    "stream": lambda m, p: sweep(m, p, "resid_pre", ("layer", "pos")),
    "neurons": lambda m, p: sweep(m, p, "post", ("layer", "neuron"), neurons=[3, 5]),
    "embeddings": lambda m, p: sweep(m, p, "embed", ("pos",)),
    "final stream": lambda m, p: sweep(m, p, "final", ("pos",)),
}


@pytest.fixture(scope="module")
def on_two_devices():
    """The tiny Llama with its first layer on the CPU, and the others on a second device."""
    with TwoDevices():
        return patchlib.load_model(
            divided(AutoModelForCausalLM.from_pretrained(LLAMA)), tokenizer=load_tiny("llama").tokenizer
        )


@pytest.mark.parametrize("name", [*TWO_DEVICES, *MORE])
def test_layers_on_two_devices_give_the_numbers_of_one(name, on_two_devices):
    assert {weight.device for weight in on_two_devices.parameters()} == {torch.device("cpu"), DEVICE}
    compute = (COMPUTATIONS | MORE)[name]
    pairs = contrast_pairs(load_tiny("llama"))
    expected = _numbers(compute(load_tiny("llama"), pairs))
    with TwoDevices():
        given = _numbers(compute(on_two_devices, pairs))
    assert expected
    for a, b in zip(given, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL)


def test_a_divided_model_runs_fast_and_what_reads_its_weights_says_so(on_two_devices):
    pairs = contrast_pairs(load_tiny("llama"))
    with TwoDevices():
        assert sweep(on_two_devices, pairs, over=("layer",)).attrs["engine"] == "fast"
        for call in (
            lambda: patchlib.direct_logit_attribution(on_two_devices, pairs),
            lambda: patchlib.copying_scores(on_two_devices, [5, 6]),
            lambda: patchlib.k_composition(on_two_devices, [(2, 0)]),
        ):
            with pytest.raises(SweepError, match=r"divided among cpu, .*load it on one device"):
                call()


def test_a_tensor_on_the_second_device_is_not_mixed_with_others():
    with TwoDevices(), pytest.raises(RuntimeError, match="on the same device"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is there")
def test_quantisation_says_which_package_it_lacks():
    config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ModelError, match=r"bitsandbytes.*check quantization_config"):
        patchlib.load_model(LLAMA, quantization_config=config)


def test_quantised_weights_are_patched_but_not_read_as_matrices():
    quantization = pytest.importorskip("torchao.quantization")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    model, pairs = patchlib.load_model(LLAMA, device="cpu", quantization_config=config), make_pairs(load_tiny("llama"))
    fast, plain = (sweep(model, pairs, "z", ("layer", "head"), engine=engine) for engine in ("fast", "plain"))
    np.testing.assert_allclose(fast.patched, plain.patched, atol=1e-4)
    assert fast.attrs["weights_hash"] != patchlib.weights_hash(load_tiny("llama"))
    with pytest.raises(SweepError, match="quantised weights"):
        patchlib.k_composition(model, [(2, 0)])
