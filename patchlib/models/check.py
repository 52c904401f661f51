"""Is this a model that can be patched?"""

from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError


def check_model(model: TransformerBridge) -> None:
    """SweepError unless this is a model that patching makes sense for."""
    if not isinstance(model, TransformerBridge):
        raise SweepError(f"The model is a {type(model).__name__}; patchlib.load_model(name) gives one to patch.")
    if any(module.training for module in model.modules()):
        raise SweepError("The model is in train mode, where dropout makes logits random. Call model.eval() first.")
