"""Where one can patch: a short site name, its hook in each layer and the shape of what lives there."""

from __future__ import annotations

from dataclasses import dataclass

from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from patchlib.errors import SweepError


@dataclass(frozen=True)
class Site:
    """One kind of activation, present once in every layer.

    Attributes:
        name: TransformerLens' short name, e.g. ``"z"``.
        layout: The axes of the activation: ``"example pos d_model"`` for the residual stream and the
            outputs of sublayers, ``"example pos head d_head"`` for per-head vectors,
            ``"example head dest src"`` for attention patterns.
        per_kv_head: True for keys and values, which grouped-query models have fewer of.
        about: What patching here moves, in one phrase.
    """

    name: str
    layout: str
    about: str
    per_kv_head: bool = False

    @property
    def has_heads(self) -> bool:
        """Whether the activation is there once per head."""
        return "head" in self.layout.split()

    @property
    def pos_axis(self) -> int:
        """Which axis of the activation the position is (the query's, for patterns)."""
        return 2 if self.layout.split()[1] == "head" else 1

    def hook_name(self, layer: int) -> str:
        """TransformerLens' full name of the site in one layer, e.g. ``"blocks.5.attn.hook_z"``."""
        return get_act_name(self.name, layer)

    def n_heads(self, model: TransformerBridge) -> int:
        """How many heads this site has in one layer (k/v heads for keys and values)."""
        kv = getattr(model.cfg, "n_key_value_heads", None)
        return int(kv) if self.per_kv_head and kv else int(model.cfg.n_heads)

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
        Site("z", _HEAD, "what a head read, mixed by its attention (its output before W_O)"),
        Site("q", _HEAD, "a head's queries: what it looks for"),
        Site("k", _HEAD, "a head's keys: what it is found by", per_kv_head=True),
        Site("v", _HEAD, "a head's values: what it would move", per_kv_head=True),
        Site("pattern", _PATTERN, "where a head looks (attention after softmax)"),
    )
}


def get_site(model: TransformerBridge, name: str) -> Site:
    """The site called ``name``, checked to exist in ``model``.

    Raises:
        SweepError: Unknown name, or a site that this architecture does not have (models with parallel
            attention and MLP have no ``resid_mid``).
    """
    if not isinstance(name, str) or name not in SITES:
        raise SweepError(f"Unknown site {name!r}. Choose one of: {', '.join(SITES)}.")
    site = SITES[name]
    if site.hook_name(0) not in model.hook_dict:
        have = [s.name for s in SITES.values() if s.hook_name(0) in model.hook_dict]
        raise SweepError(
            f"{model.cfg.model_name} has no site {name!r} (no hook {site.hook_name(0)!r}; "
            f"models with parallel attention and MLP have no resid_mid). It has: {', '.join(have)}."
        )
    return site


def site_of(hook_name: str) -> tuple[Site, int] | None:
    """The site and layer of a hook name such as ``"blocks.5.hook_attn_out"``; None where it is of no site."""
    layer = hook_name.split(".")[1] if hook_name.startswith("blocks.") else ""
    return next(
        ((site, int(layer)) for site in SITES.values() if layer and site.hook_name(int(layer)) == hook_name), None
    )
