"""What a model does with a short prompt: what a site's layout promises is asked of each model once, and not assumed."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Shape = tuple[int, ...]


def asked_once(probe: Callable[[TransformerBridge, *Ts], T]) -> Callable[[TransformerBridge, *Ts], T]:
    """Keep what a probe says of a model, for as long as there is the model."""
    answers: WeakKeyDictionary[TransformerBridge, dict[Any, T]] = WeakKeyDictionary()

    @wraps(probe)
    def ask(model: TransformerBridge, *what: *Ts) -> T:
        known = answers.setdefault(model, {})
        if what not in known:
            with torch.no_grad():
                known[what] = probe(model, *what)
        return known[what]

    return ask


def probe_tokens(model: TransformerBridge, n_pos: int = 4) -> Int[Tensor, "2 pos"]:
    """Two prompts of as many tokens, no two of them alike."""
    return torch.arange(2 * n_pos, device=model.cfg.device).view(2, n_pos) % int(model.cfg.d_vocab)


def recorded(
    model: TransformerBridge, tokens: Int[Tensor, "example pos"], names: list[str], hooks: list[Any] | None = None
) -> dict[str, Tensor]:
    """What some hooks see in a forward pass (under other hooks), by the names that they were asked for by."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, Any], None]:
        def look(activation: Tensor, hook: Any) -> None:
            if isinstance(activation, Tensor):
                seen[name] = activation.detach().clone()

        return look

    asked = [(name, keep(name)) for name in names if name in model.hook_dict]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*(hooks or []), *asked], return_type=None)
    return seen


def room(dtype: torch.dtype) -> float:
    """How far two ways to the same number may be apart, relative to the largest: far more than float noise."""
    return float(max(1e-3, 8 * torch.finfo(dtype).eps))


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two activations are the same but for float noise."""
    if a.shape != b.shape:
        return False
    return bool((a.float() - b.float()).abs().max() <= room(a.dtype) * b.float().abs().max())


@asked_once
def shapes(model: TransformerBridge, names: tuple[str, ...]) -> tuple[int, dict[str, Shape]]:
    """How many tokens a prompt had, which no other axis has, and the shape of what each hook saw of it."""
    sizes = {getattr(model.cfg, name, None) for name in ("n_heads", "n_key_value_heads", "d_head", "d_model")}
    n_pos = next(n for n in range(5, 10) if n not in sizes)
    seen = recorded(model, probe_tokens(model, n_pos), list(names))
    return n_pos, {name: tuple(activation.shape) for name, activation in seen.items()}


@asked_once
def unpatchable(model: TransformerBridge, hook_name: str) -> str | None:
    """Why the logits do not follow a change of an activation that the model shows; None where they do."""
    tokens = probe_tokens(model)
    try:
        moved = model.run_with_hooks(tokens, fwd_hooks=[(hook_name, lambda activation, hook: activation.mul_(-2))])
    except Exception as error:  # whatever comes of an activation that the model cannot go on from
        return f"the model fails with what is written there ({type(error).__name__})"
    same = torch.equal(moved, model(tokens))
    return "the model computes past it, so that every effect would be 0" if same else None


@asked_once
def is_separate(model: TransformerBridge, hook_name: str, z_name: str, head_axis: int, n_in_group: int) -> bool:
    """Whether a change of the first head of a site leaves alone what the heads of other groups give.

    It does not where a norm over the whole row follows, as in OLMo 2.
    """

    def change(activation: Tensor, hook: Any) -> None:
        activation.select(head_axis, 0).mul_(-2)

    tokens = probe_tokens(model)
    before, after = (recorded(model, tokens, [z_name], hooks)[z_name] for hooks in ([], [(hook_name, change)]))
    return alike(after[:, :, n_in_group:], before[:, :, n_in_group:]) if n_in_group < before.shape[2] else True


@asked_once
def is_causal(model: TransformerBridge) -> bool:
    """Whether a later token leaves earlier positions alone."""
    tokens = probe_tokens(model)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 7) % int(model.cfg.d_vocab)
    logits, others = (model(rows)[:, :-1] for rows in (tokens, other))
    # Of numbers that are none a sweep says in which prompts they are.
    return not bool(logits.isfinite().all()) or alike(others, logits)


@asked_once
def is_mixed(model: TransformerBridge, pattern_name: str, v_name: str, z_name: str) -> bool:
    """Whether what a head gives is its pattern times its values: gates and norms may stand between."""
    seen = recorded(model, probe_tokens(model), [pattern_name, v_name, z_name])
    pattern, values, z = (seen[name] for name in (pattern_name, v_name, z_name))
    return alike(mixed(pattern, values), z)


def mixed(
    pattern: Float[Tensor, "example head dest src"], values: Float[Tensor, "example src kv_head d_head"]
) -> Float[Tensor, "example dest head d_head"]:
    """Each head's pattern times its values, or those that it shares with its group."""
    values = values.repeat_interleave(pattern.shape[1] // values.shape[2], dim=2)  # [example src head d_head]
    return torch.einsum("ehds,eshv->edhv", pattern.to(values.dtype), values)
