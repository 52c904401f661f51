"""Tiny random models with a real tokenizer, for every test that asks about exactness and not about meaning.

`load_tiny("llama")` gives a TransformerBridge in a second: 3 layers, width 32, a byte-level BPE in which each
word of TEXT and of IOIDataset's lists is one token with its leading space; other words break into pieces. Gains and
biases are random too.
"""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from patchlib.models.load import load_model, without_loading_bars
from patchlib.tasks import words as ioi_words

TEXT = """
When Mary and John went to the store, John gave a drink to Mary.
When Sarah and Michael went to the park, Michael gave a book to Sarah.
When Emily and David went to the office, David gave a letter to Emily.
When Anna and James went to the school, James gave a pencil to Anna.
When Lisa and Robert went to the restaurant, Robert gave a gift to Lisa.
Then Tom and Alice had a long argument. Afterwards Bob, Dan, Sid, Martin and Amy said that it was not true.
The capital of France is Paris. The capital of Germany is Berlin, of Italy Rome, of Spain Madrid.
The keys to the cabinet are here. The key is on the table. The cat sat on the mat and the dog ran to Tokyo.
She likes her car; he likes his bike. They were happy, but we are sad. Yes or no? One two three four five.
Red blue green black white big small old new good bad hot cold day night man woman boy girl water apple tree.
0 1 2 3 4 5 6 7 8 9 . , : ; ? ! ' " ( ) -
"""

DEVICE = os.environ.get("PATCHLIB_TEST_DEVICE", "cpu")
"""Where the tiny models run: PATCHLIB_TEST_DEVICE=cuda asks a GPU whether it is as exact as the CPU."""

KINDS = ("gpt2", "llama", "neox", "mistral", "qwen3", "gemma2", "opt", "phi", "falcon", "mixtral", "bloom")


def tiny_tokenizer(text: str = TEXT) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each word of `text` and of IOIDataset's lists is a single token."""
    ioi = (
        *ioi_words.NAMES,
        *ioi_words.PLACES,
        *ioi_words.OBJECTS,
        *ioi_words.IOI_WORDINGS,
        ioi_words.SEED_WORDING,
    )
    words = " ".join((text, *ioi))
    lines = [f"{word} {word}" for word in words.replace("{", " ").replace("}", " ").split()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,  # more than can be merged, so that every word ends as one token
        min_frequency=1,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")


def tiny_config(kind: str, vocab_size: int) -> Any:
    """The Hugging Face config of one of KINDS; weights are large, so that attention is far from flat."""
    ids = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.25}
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, **ids}
    rope = {"intermediate_size": 64, "max_position_embeddings": 128, **size}
    grouped = {"num_key_value_heads": 2, **rope}  # 2 query heads share each key and value head
    match kind:
        case "gpt2":
            return GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=128, **ids)
        case "gpt2-small":  # its shape, for benchmarks: 12 layers, 124 million weights
            return GPT2Config(bos_token_id=0, eos_token_id=1)
        case "llama":
            return LlamaConfig(**grouped)
        case "neox":  # attention and MLP read the same input
            return GPTNeoXConfig(use_parallel_residual=True, **rope)
        case "mistral":  # a sliding window shorter than a prompt
            return MistralConfig(sliding_window=6, **grouped)
        case "qwen3":  # norms on queries and keys
            return Qwen3Config(head_dim=8, **grouped)
        case "gemma":  # norms whose gain is 1 more than their weight
            return GemmaConfig(head_dim=8, **grouped)
        case "gemma2":  # norms behind the sublayers, every other layer with a sliding window
            return Gemma2Config(head_dim=8, sliding_window=6, **grouped)
        case "opt":  # learned positions, ReLU
            return OPTConfig(ffn_dim=64, max_position_embeddings=128, word_embed_proj_dim=32, pad_token_id=1,
                             init_std=0.25, **size)  # fmt: skip
        case "phi":  # parallel, with biases
            return PhiConfig(**rope)
        case "falcon":  # parallel, one key and value head for all
            return FalconConfig(**size)
        case "mixtral":  # a mixture of experts
            return MixtralConfig(num_local_experts=4, num_experts_per_tok=2, sliding_window=None, **grouped)
        case "bloom":  # no positions but a slope in attention
            return BloomConfig(n_layer=3, n_head=4, **{"hidden_size": 32, **ids})
        case _:
            raise ValueError(f"no tiny model of kind {kind!r}; there are {', '.join(KINDS)}")


def randomise_gains_and_biases(model: torch.nn.Module) -> None:
    """Move every norm's gain and every bias off its initial 1 or 0.

    Fresh models have none, and code that forgets a gain or a bias is right for them.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # gains and biases are the only vectors, in every architecture of KINDS
                parameter += 0.3 * torch.randn_like(parameter)


def tiny_model(folder: str | Path, kind: str = "gpt2", seed: int = 0, text: str = TEXT) -> str:
    """Write a tiny random model and its tokenizer into `folder`, as Hugging Face does; returns its path."""
    tokenizer = tiny_tokenizer(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, len(tokenizer)))
        randomise_gains_and_biases(model)
    with without_loading_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@functools.cache
def tiny_path(kind: str = "gpt2", seed: int = 0) -> str:
    """A folder with such a model, made once per process and removed at its end; only to be read."""
    folder = tempfile.TemporaryDirectory(prefix=f"tiny-{kind}-")
    atexit.register(folder.cleanup)
    return tiny_model(folder.name, kind, seed)


@functools.cache
def load_tiny(kind: str = "gpt2", seed: int = 0) -> TransformerBridge:
    """One of KINDS as `patchlib.load_model` gives it. Shared by all tests: leave it as it is."""
    return load_model(tiny_path(kind, seed), device=DEVICE)
