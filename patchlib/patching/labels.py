"""What a result says about itself: labels on its axes, and where its numbers came from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import versions
from patchlib.models.load import weights_hash
from patchlib.tasks.pairs import PromptPairs


def labels(model: TransformerBridge, pairs: PromptPairs, axes: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Coordinates beside the axes: prompts and answers per example, and what stands at each position.

    ``pos_label`` is the token where all prompts have the same one there, the role in angle brackets where that
    is what they share, and empty where they share nothing.
    """
    texts = pairs.example_prompts(model)
    coords: dict[str, Any] = {name: ("example", list(map(_savable, column))) for name, column in texts.items()}
    coords["example"] = np.arange(len(pairs))
    if "pos" in axes:
        coords["pos_label"] = ("pos", [_savable(_shared(model, pairs, position)) for position in axes["pos"]])
    return coords


def _savable(text: str) -> str:
    return text.replace("\0", "\\0")  # some tokens are that byte, which netCDF refuses


def _shared(model: TransformerBridge, pairs: PromptPairs, position: int) -> str:
    rows = [(i, row) for i, row in enumerate(pairs.clean_tokens) if position < len(row)]
    both = [*rows, *((i, row) for i, row in enumerate(pairs.corrupted_tokens) if position < len(row))]
    if len(tokens := {int(row[position]) for _, row in both}) == 1:
        return model.to_string([tokens.pop()]).strip() or repr(model.to_string([int(rows[0][1][position])]))
    shared = [role for role, index in pairs.roles.items() if all(int(index[i]) == position for i, _ in rows)]
    return f"<{shared[0]}>" if shared else ""


def result_attributes(model: TransformerBridge, pairs: PromptPairs) -> dict[str, str | int | float]:
    """Model, weights, task and library versions, as attributes that netCDF can hold."""
    return {
        "model": str(model.cfg.model_name),
        "weights_hash": weights_hash(model),
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "device": str(model.cfg.device),
        "prepend_bos": str(bool(model.cfg.default_prepend_bos)),
        "task": pairs.name,
        "seed": "none" if pairs.seed is None else int(pairs.seed),
        "n_examples": len(pairs),
        **{f"task_{key}": str(value) if isinstance(value, bool) else value for key, value in pairs.metadata.items()},
        **{f"version_{name.replace('-', '_')}": version for name, version in versions().items()},
    }
