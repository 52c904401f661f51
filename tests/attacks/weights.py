"""A8: a model that is not the one that its files say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import patchlib
from patchlib.models.load import without_loading_bars
from tests.attacks.case import Refusal, case, refused
from tests.tiny import load_tiny, tiny_path

Weights = dict[str, torch.Tensor]


def variant(
    folder: Path, kind: str, config: dict | None = None, change: Callable[[Weights], object] | None = None
) -> Path:
    """A copy of a tiny model with another config or other tensors."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_path(kind), folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | (config or {})))
    if change is not None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def sharded(folder: Path, kind: str = "llama") -> Path:
    with without_loading_bars():
        model = AutoModelForCausalLM.from_pretrained(tiny_path(kind))
        shutil.copytree(tiny_path(kind), folder, ignore=shutil.ignore_patterns("*.safetensors"))
        model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def loaded(folder: Path):
    return patchlib.load_model(folder, device="cpu")


@case("A8", "a config with fewer layers than the weights file, in five architectures")
def _(folder: Path) -> Refusal:
    for kind, name in {"gpt2": "n_layer", "llama": "num_hidden_layers", "neox": "num_hidden_layers",
                       "opt": "num_hidden_layers", "bloom": "n_layer"}.items():  # fmt: skip
        line = refused(lambda kind=kind, name=name: loaded(variant(folder / "m", kind, {name: 2})), "no place for")
    return line


@case("A8", "a config with more layers, other widths, another vocabulary, another context, fewer heads than the file")
def _(folder: Path) -> Refusal:
    for config in (
        {"num_hidden_layers": 4},
        {"hidden_size": 16},
        {"intermediate_size": 32},
        {"vocab_size": 100},
        {"num_key_value_heads": 4},
        {"num_attention_heads": 2},
        {"head_dim": 4},
    ):
        line = refused(lambda config=config: loaded(variant(folder / "m", "llama", config)), "do not fit")
    refused(lambda: loaded(variant(folder / "m", "gpt2", {"n_positions": 64})), "do not fit")
    return line


@case("A8", "weights that the config leaves out: biases, norms, a gain; a tensor missing, doubled or of another shape")
def _(folder: Path) -> Refusal:
    for key in (
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.norm.bias",
        "lm_head.bias",
    ):
        line = refused(
            lambda key=key: loaded(variant(folder / "m", "llama", None, lambda w: w.update({key: torch.ones(32)}))),
            "no place for", key,
        )  # fmt: skip
    refused(lambda: loaded(variant(folder / "m", "llama", None, lambda w: w.pop("model.norm.weight"))), "missing")
    flat = lambda w: w.update({"model.norm.weight": torch.ones(31)})  # noqa: E731
    refused(lambda: loaded(variant(folder / "m", "llama", None, flat)), "another shape")
    whole = lambda w: w.update({"model.norm.weight": torch.ones(32, dtype=torch.int32)})  # noqa: E731
    refused(lambda: loaded(variant(folder / "m", "llama", None, whole)), "I32")
    return line


@case("A8", "what does not belong to the model is left alone: masks, a value head, a second tower")
def _(folder: Path) -> str:
    more = {
        "transformer.h.0.attn.bias": torch.zeros(1, 1, 128, 128),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "v_head.summary.weight": torch.zeros(1, 32),
        "vision_tower.layers.0.weight": torch.zeros(3),
    }
    model = loaded(variant(folder / "m", "gpt2", None, lambda w: w.update(more)))
    assert patchlib.weights_hash(model) == patchlib.weights_hash(load_tiny("gpt2"))
    return "the same model"


@case("A8", "tied embeddings: tied without a head, untied without one, and a head in the file that differs")
def _(folder: Path) -> str:
    tokens = torch.arange(5)[None]

    def logits(model, table: torch.Tensor) -> None:
        """As by hand: the last norm's output times the file's own table."""
        given, cache = model.run_with_cache(tokens)
        torch.testing.assert_close(given, cache["unembed.hook_in"] @ table.T)

    embedding = load_file(Path(tiny_path("gpt2")) / "model.safetensors")["transformer.wte.weight"]
    logits(load_tiny("gpt2"), embedding)
    refused(lambda: loaded(variant(folder / "m", "gpt2", {"tie_word_embeddings": False})), "missing", "lm_head")
    refused(lambda: loaded(variant(folder / "m", "llama", None, lambda w: w.pop("lm_head.weight"))), "missing")
    own = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0))
    for kind in ("gpt2", "llama"):
        change = lambda w: w.update({"lm_head.weight": own.clone()})  # noqa: E731
        logits(loaded(variant(folder / "m", kind, {"tie_word_embeddings": True}, change)), own)
    same = lambda w: w.update({"lm_head.weight": embedding.clone()})  # noqa: E731
    logits(loaded(variant(folder / "m", "gpt2", None, same)), embedding)
    return "each with the table that its file has"


@case("A8", "sharded files: whole, one missing, one cut, an index that names another, fewer layers in the config")
def _(folder: Path) -> Refusal:
    whole = loaded(sharded(folder / "whole"))
    assert patchlib.weights_hash(whole) == patchlib.weights_hash(load_tiny("llama"))
    shards = sorted((folder / "whole").glob("model-*.safetensors"))

    def spoilt(spoil: Callable[[Path], object]):
        shutil.rmtree(folder / "m", ignore_errors=True)
        shutil.copytree(folder / "whole", folder / "m")
        spoil(folder / "m")
        return loaded(folder / "m")

    def rename(copy: Path) -> None:
        index = copy / "model.safetensors.index.json"
        entries = json.loads(index.read_text())
        entries["weight_map"] = dict.fromkeys(entries["weight_map"], shards[0].name)
        index.write_text(json.dumps(entries))

    def fewer(copy: Path) -> None:
        settings = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 1}))

    refused(lambda: spoilt(lambda copy: (copy / shards[1].name).unlink()), "could not be loaded")
    refused(lambda: spoilt(lambda copy: os.truncate(copy / shards[1].name, 3000)), "could not be loaded")
    refused(lambda: spoilt(rename), "missing")
    refused(lambda: spoilt(lambda copy: (copy / "model.safetensors.index.json").write_text("{")))
    refused(lambda: spoilt(lambda copy: (copy / "model.safetensors.index.json").write_text("[]")))
    return refused(lambda: spoilt(fewer), "no place for")


@case(
    "A8", "one file that is cut, empty, a pointer of Git LFS, a folder, a broken link, or has a flipped bit in its head"
)
def _(folder: Path) -> Refusal:
    def spoilt(spoil: Callable[[Path], object]):
        file = variant(folder / "m", "gpt2") / "model.safetensors"
        spoil(file)
        return loaded(folder / "m")

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[content.index(b"wte.weight")] ^= 1
        file.write_bytes(content)

    def link(file: Path) -> None:
        file.unlink()
        file.symlink_to(folder / "nowhere")

    def directory(file: Path) -> None:
        file.unlink()
        file.mkdir()

    for length in (0, 4, 100, 5000, 100_000):
        refused(lambda length=length: spoilt(lambda file: os.truncate(file, length)), "could not be loaded")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n"
    refused(lambda: spoilt(lambda file: file.write_bytes(pointer)), "could not be loaded")
    refused(lambda: spoilt(link))
    refused(lambda: spoilt(directory))
    return refused(lambda: spoilt(flip))


@case("A8", "weights that are not finite: the sweep says so, in one line")
def _(folder: Path) -> Refusal:
    model = loaded(variant(folder / "m", "gpt2", None, lambda w: w["transformer.h.1.mlp.c_fc.bias"].fill_(torch.nan)))
    pairs = patchlib.PromptPairs([[8, 2, 3]], [[8, 5, 3]], [[2, 3]])
    return refused(lambda: patchlib.sweep(model, pairs, progress=False), "NaN")
