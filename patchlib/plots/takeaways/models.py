"""What model the numbers are of, in words."""

from transformer_lens.model_bridge import TransformerBridge

from patchlib.models.check import check_model
from patchlib.models.default import NATURES


def of_model(model: TransformerBridge) -> str:
    """A model's name and size, what its weights are, and how prompts are given to it: all numbers depend on these.

    Args:
        model: Any that can be patched.

    Returns:
        One sentence.

    Raises:
        SweepError: This is no model.

    Example:
        >>> print(patchlib.plots.takeaways.of_model(model))
        smollm2-135m (Instruct, 4-bit weights): 30 layers of 9 heads, which share 3 key/value heads; in float32; prompts
        as plain text, with BOS.
    """
    check_model(model)
    cfg, name = model.cfg, str(model.cfg.model_name)
    nature = f" ({NATURES[name]})" if name in NATURES else ""
    n_shared = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    shared = f", which share {n_shared} key/value heads" if n_shared != cfg.n_heads else ""
    dtype = str(cfg.dtype).removeprefix("torch.")
    text = (
        "token ids" if model.tokenizer is None else "plain text, with BOS" if cfg.default_prepend_bos else "plain text"
    )
    return f"{name}{nature}: {cfg.n_layers} layers of {cfg.n_heads} heads{shared}; in {dtype}; prompts as {text}."
