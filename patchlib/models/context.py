"""How many tokens a model reads, and up to how many of them a position means the same whatever follows."""

from collections.abc import Mapping
from typing import Any

from transformer_lens.model_bridge import TransformerBridge


def longest_prompt(model: TransformerBridge) -> int:
    """The model's context in tokens; where its rotary positions are stretched as prompts grow, what they reach."""
    factors = [float(scaling["factor"]) for scaling in _scalings(model) if scaling.get("rope_type") == "dynamic"]
    return int(int(model.cfg.n_ctx) * max(factors, default=1.0))


def longest_of_one_rotation(model: TransformerBridge) -> int | None:
    """Tokens up to which a position's rotation does not depend on what follows; None where it never does.

    Beyond its first context, dynamic and LongRoPE scaling rotates every position by the prompt's length: keys that are
    kept of a prompt's first tokens are then not those of the whole prompt.
    """
    config: Any = getattr(model.original_model, "config", None)
    lengths = [
        scaling.get("original_max_position_embeddings") or config.max_position_embeddings
        for scaling in _scalings(model)
        if scaling.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(lengths, default=None)


def _scalings(model: TransformerBridge) -> list[Mapping[str, Any]]:
    """What a config says of rotations: once for all layers, or once for each kind of layer."""
    given = getattr(getattr(model.original_model, "config", None), "rope_parameters", None) or {}
    return [scaling for scaling in (given, *given.values()) if isinstance(scaling, Mapping)]
