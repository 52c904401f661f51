"""Is this a model that can be patched?"""

from collections.abc import Iterator

from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError

LIBRARIES = ("transformer_lens", "transformers", "torch", "accelerate")
"""They hook modules too, to move tensors or to change their layout."""


def check_model(model: TransformerBridge) -> None:
    """SweepError unless this is a model that patching makes sense for, as it is."""
    if not isinstance(model, TransformerBridge):
        raise SweepError(f"The model is a {type(model).__name__}; patchlib.load_model(name) gives one to patch.")
    if any(module.training for module in model.modules()):
        raise SweepError("The model is in train mode, where dropout makes logits random. Call model.eval() first.")
    hooked = list(dict.fromkeys(_hooked(model)))
    if hooked:
        more = f" and {len(hooked) - 3} more" if len(hooked) > 3 else ""
        raise SweepError(
            f"The model has hooks left on it, at {', '.join(hooked[:3])}{more}: every number would be that of another "
            "model. Take them off with model.reset_hooks(including_permanent=True), or with remove() of what "
            "register_forward_hook() gave."
        )


def _hooked(model: TransformerBridge) -> Iterator[str]:
    """Where a user's hooks are, TransformerLens' and PyTorch's."""
    for name, module in model.named_modules():
        handles = getattr(module, "fwd_hooks", ())  # TransformerLens wraps these before it gives them to PyTorch
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        for hook in (*(handle.user_hook for handle in handles), *hooks):
            if getattr(hook, "__module__", "").split(".")[0] not in LIBRARIES:
                yield str(module.name) if handles else name
