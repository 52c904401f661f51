"""How much goes into one forward, by kind of device."""

import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_count

BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 65536}
"""Tokens in one forward by kind of device: beyond this it gains no speed, and memory grows."""
LOGIT_BYTES = {"cpu": 128 * 2**20, "mps": 512 * 2**20, "cuda": 4 * 2**30}
"""Most memory that one batch's logits may take: with a vocabulary of 50,000 they outgrow all else."""
SHARED_BYTES = {"cpu": 384 * 2**20, "mps": 2**30, "cuda": 8 * 2**30}
"""Most memory for activations that several experiments on the same prompts share."""
GRAPH = 4
"""A forward with its graph takes so many times the memory of one without, at least."""


def default_batch_tokens(model: TransformerBridge) -> int:
    """Tokens in one forward that suit the model's device."""
    return BATCH_TOKENS.get(torch.device(model.cfg.device).type, BATCH_TOKENS["cpu"])


def check_batch_tokens(model: TransformerBridge, batch_tokens: int | None) -> int:
    """``batch_tokens`` as an int, what suits the model's device for None; SweepError for what is no count."""
    return default_batch_tokens(model) if batch_tokens is None else check_count("batch_tokens", batch_tokens)


def default_logit_bytes(model: TransformerBridge) -> int:
    """Memory for one batch's logits that suits the model's device."""
    return LOGIT_BYTES.get(torch.device(model.cfg.device).type, LOGIT_BYTES["cpu"])


def default_shared_bytes(model: TransformerBridge) -> int:
    """Memory for activations that experiments share, that suits the model's device."""
    return SHARED_BYTES.get(torch.device(model.cfg.device).type, SHARED_BYTES["cpu"])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that there is no memory left."""
    # torch has a class for CUDA's; the CPU's and MPS's allocators raise bare RuntimeErrors.
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said
