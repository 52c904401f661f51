"""What the model is asked: pairs of prompts that differ in one thing, and answers that tell them apart."""

from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs
from patchlib.tasks.induction import InductionDataset, repeated_tokens
from patchlib.tasks.ioi import IOIDataset, classify_ioi_head

__all__ = [
    "IOIDataset",
    "InductionDataset",
    "PatchingDataset",
    "PromptPairs",
    "as_pairs",
    "classify_ioi_head",
    "repeated_tokens",
]
