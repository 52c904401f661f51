"""Where one can patch: a short site name, its hook in each layer and the shape of what lives there.

Example:
    >>> print(*patchlib.SITES)
    resid_pre resid_mid resid_post attn_out mlp_out post z q k v pattern embed final
    >>> patchlib.SITES["z"].hook_name(5), patchlib.SITES["z"].layout
    ('blocks.5.attn.hook_z', 'example pos head d_head')
    >>> print(patchlib.SITES["z"].about)
    what a head read, mixed by its attention (its output before W_O)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from patchlib._util import check_choice
from patchlib.errors import SweepError


@dataclass(frozen=True)
class Site:
    """One kind of activation, present once in every layer, or once in the model.

    Attributes:
        name: TransformerLens' short name, e.g. ``"z"``.
        layout: The axes of the activation: ``"example pos d_model"`` for the residual stream and the
            outputs of sublayers, ``"example pos head d_head"`` for per-head vectors,
            ``"example head dest src"`` for attention patterns, ``"example pos d_mlp"`` for neurons.
        per_kv_head: True for keys and values, which grouped-query models have fewer of.
        about: What patching here moves, in one phrase.
        hook: The hook's full name where the activation is there once in the model.
    """

    name: str
    layout: str
    about: str
    per_kv_head: bool = False
    hook: str = ""

    @property
    def has_neurons(self) -> bool:
        """Whether the activation is one of neurons, of which each can be patched alone."""
        return self.layout.endswith("d_mlp")

    @property
    def has_heads(self) -> bool:
        """Whether the activation is there once per head."""
        return "head" in self.layout.split()

    @property
    def pos_axis(self) -> int:
        """Which axis of the activation the position is (``dest``, for patterns)."""
        return 2 if self.layout.split()[1] == "head" else 1

    def hook_name(self, layer: int) -> str:
        """TransformerLens' full name of the site in one layer, e.g. ``"blocks.5.attn.hook_z"``."""
        return self.hook or str(get_act_name(self.name, layer))

    def layers(self, model: TransformerBridge) -> list[int]:
        """The layers that have the site; for one that is there once, the layer at which a forward has to begin."""
        n_layers = int(model.cfg.n_layers)
        return list(range(n_layers)) if not self.hook else [0 if self.name == "embed" else n_layers - 1]

    def n_heads(self, model: TransformerBridge) -> int:
        """How many heads this site has in one layer (k/v heads for keys and values)."""
        n_kv_heads = getattr(model.cfg, "n_key_value_heads", None)
        return int(n_kv_heads) if self.per_kv_head and n_kv_heads else int(model.cfg.n_heads)

    def head_axis(self, model: TransformerBridge) -> str:
        """``"kv_head"`` where the model has fewer k/v heads than q heads, else ``"head"``."""
        return "kv_head" if self.per_kv_head and self.n_heads(model) != model.cfg.n_heads else "head"


_RESID, _HEAD, _PATTERN = "example pos d_model", "example pos head d_head", "example head dest src"
SITES = {
    site.name: site
    for site in (
        Site("resid_pre", _RESID, "the residual stream entering a layer"),
        Site("resid_mid", _RESID, "the residual stream between attention and MLP"),
        Site("resid_post", _RESID, "the residual stream leaving a layer"),
        Site("attn_out", _RESID, "what the attention sublayer writes"),
        Site("mlp_out", _RESID, "what the MLP writes"),
        Site("post", "example pos d_mlp", "the MLP's neurons, after the nonlinearity and the gate, if any"),
        Site("z", _HEAD, "what a head read, mixed by its attention (its output before W_O)"),
        Site("q", _HEAD, "a head's queries: what it looks for"),
        Site("k", _HEAD, "a head's keys: what it is found by", per_kv_head=True),
        Site("v", _HEAD, "a head's values: what it would move", per_kv_head=True),
        Site("pattern", _PATTERN, "where a head looks (attention after softmax)"),
        Site("embed", _RESID, "the tokens' embeddings, before any layer", hook="hook_embed"),
        Site("final", _RESID, "the residual stream entering the final norm", hook="ln_final.hook_in"),
    )
}


def get_site(model: TransformerBridge, name: str) -> Site:
    """The site called ``name``, checked to exist in ``model``.

    Raises:
        SweepError: Unknown name, or a site that this architecture does not have (models with parallel
            attention and MLP have no ``resid_mid``).
    """
    site = SITES[check_choice("site", name, SITES)]
    if site.hook_name(0) not in model.hook_dict:
        names = [other.name for other in SITES.values() if other.hook_name(0) in model.hook_dict]
        raise SweepError(
            f"{model.cfg.model_name} has no site {name!r} (no hook {site.hook_name(0)!r}; "
            f"models with parallel attention and MLP have no resid_mid). It has: {', '.join(names)}."
        )
    return site


_WIDTHS: WeakKeyDictionary[TransformerBridge, dict[int, int]] = WeakKeyDictionary()


def n_neurons(model: TransformerBridge, layers: Iterable[int]) -> int:
    """How many neurons the MLPs of these layers have; SweepError where they have none, or not all as many.

    Counted in a forward pass: not every config knows. A mixture of experts has no one row of neurons: TransformerLens
    shows what its MLP writes in their place.
    """
    site = SITES["post"]
    if model not in _WIDTHS:
        widths: dict[int, int] = {}

        def count(activation: torch.Tensor, hook: object, layer: int) -> None:
            widths[layer] = activation.shape[-1] if activation.ndim == 3 else 0

        names = {layer: site.hook_name(layer) for layer in site.layers(model)}
        dense = {
            layer: name
            for layer, name in names.items()
            if model.hook_dict.get(name) is not model.hook_dict.get(f"blocks.{layer}.hook_mlp_out")
        }
        hooks = [(name, partial(count, layer=layer)) for layer, name in dense.items()]
        with torch.no_grad():
            model.run_with_hooks(torch.zeros(1, 2, dtype=torch.long, device=model.cfg.device), fwd_hooks=hooks)
        _WIDTHS[model] = widths
    counted = {layer: _WIDTHS[model].get(layer, 0) for layer in layers}
    if lacking := [layer for layer, width in counted.items() if not width]:
        raise SweepError(
            f"Layer {lacking[0]} of {model.cfg.model_name} has no one row of neurons (a mixture of experts, or no "
            "MLP): choose other layers, or the site mlp_out."
        )
    if len(set(counted.values())) > 1:
        raise SweepError(f"These layers have {sorted(set(counted.values()))} neurons: sweep those that are alike.")
    return next(iter(counted.values()))


def site_of(hook_name: str) -> tuple[Site, int] | None:
    """The site and layer of a hook name such as ``"blocks.5.hook_attn_out"``; None where it is of no site."""
    layer = hook_name.split(".")[1] if hook_name.startswith("blocks.") else ""
    return next(
        ((site, int(layer)) for site in SITES.values() if layer and site.hook_name(int(layer)) == hook_name), None
    )


_PATCHABLE: WeakKeyDictionary[TransformerBridge, dict[str, bool]] = WeakKeyDictionary()


def check_patchable(model: TransformerBridge, site: Site) -> None:
    """SweepError where a model shows an activation but computes past it: every effect would be a false 0."""
    patchable = _PATCHABLE.setdefault(model, {})
    if site.name not in patchable:
        tokens = torch.arange(4)[None].to(model.cfg.device) % int(model.cfg.d_vocab)
        hook_name = site.hook_name(int(model.cfg.n_layers) - 1)
        with torch.no_grad():
            moved = model.run_with_hooks(tokens, fwd_hooks=[(hook_name, lambda activation, hook: activation.mul_(-2))])
            patchable[site.name] = not torch.equal(moved, model(tokens))
    if not patchable[site.name]:
        raise SweepError(
            f"In {model.cfg.model_name}, {site.name} can be read but not patched: the model computes past it, so that "
            "every effect would be 0. Take another site."
        )
