"""Where one can patch: a short site name, its hook in each layer and the shape of what lives there.

Example:
    >>> print(*patchlib.SITES)
    resid_pre resid_mid resid_post attn_out mlp_out post z q k v head_v pattern embed final
    >>> patchlib.SITES["z"].hook_name(5), patchlib.SITES["z"].layout
    ('blocks.5.attn.hook_z', 'example pos head d_head')
    >>> print(patchlib.SITES["z"].about)
    what a head read, mixed by its attention (its output before W_O)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from patchlib._util import check_choice, first_line
from patchlib.errors import SweepError
from patchlib.patching import probes


@dataclass(frozen=True)
class Site:
    """One kind of activation, present once in every layer, or once in the model.

    Attributes:
        name: TransformerLens' short name, e.g. ``"z"``.
        layout: The axes of the activation: ``"example pos d_model"`` for the residual stream and the
            outputs of sublayers, ``"example pos head d_head"`` for per-head vectors,
            ``"example head dest src"`` for attention patterns, ``"example pos d_mlp"`` for neurons.
        about: What patching here moves, in one phrase.
        per_kv_head: True for keys and values, which grouped-query models have fewer of.
        of: The site whose activations these are, where it is not this one.
        hook: The hook's full name where the activation is there once in the model.
    """

    name: str
    layout: str
    about: str
    per_kv_head: bool = False
    of: str = ""
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
        return self.hook or str(get_act_name(self.of or self.name, layer))

    def n_heads(self, model: TransformerBridge) -> int:
        """How many heads this site has in one layer (k/v heads for keys and values)."""
        n_kv_heads = getattr(model.cfg, "n_key_value_heads", None)
        return int(n_kv_heads) if self.per_kv_head and n_kv_heads else int(model.cfg.n_heads)

    def head_axis(self, model: TransformerBridge) -> str:
        """``"kv_head"`` where the model has fewer k/v heads than q heads, else ``"head"``."""
        return "kv_head" if self.per_kv_head and self.n_heads(model) != model.cfg.n_heads else "head"

    def shape(self, model: TransformerBridge, n_pos: int) -> tuple[int | None, ...]:
        """What the layout says of two prompts' activation; None where it says nothing."""
        sizes = {"example": 2, "d_model": int(model.cfg.d_model), "d_head": None, "d_mlp": None}
        if self.has_heads:
            sizes["head"] = SITES[self.of or self.name].n_heads(model)
        return tuple(sizes.get(axis, n_pos) for axis in self.layout.split())

    def layers(self, model: TransformerBridge) -> list[int]:
        """The layers that have the site, in the shape that its layout says: not all of them in hybrid models.

        For a site that is there once, it is the layer at which a forward has to begin.
        """
        n_pos, seen = _shapes(model)
        wanted = self.shape(model, n_pos)

        def fits(shape: probes.Shape) -> bool:
            return len(shape) == len(wanted) and all(a in (None, b) for a, b in zip(wanted, shape, strict=True))

        n_layers = int(model.cfg.n_layers)
        possible = range(n_layers) if not self.hook else [0 if self.name == "embed" else n_layers - 1]
        return [layer for layer in possible if fits(seen.get(self.hook_name(layer), ()))]


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
        Site("head_v", _HEAD, "the values, for one head and not for those that share them with it", of="v"),
        Site("pattern", _PATTERN, "where a head looks (attention after softmax)"),
        Site("embed", _RESID, "the tokens' embeddings, before any layer", hook="hook_embed"),
        Site("final", _RESID, "the residual stream entering the final norm", hook="ln_final.hook_in"),
    )
}


def _shapes(model: TransformerBridge) -> tuple[int, dict[str, probes.Shape]]:
    """Of the activations of every site in every layer."""
    layers = range(int(model.cfg.n_layers))
    try:
        return probes.shapes(model, tuple(site.hook_name(layer) for site in SITES.values() for layer in layers))
    except Exception as error:  # whatever a model says that TransformerLens loads but cannot run
        what = f"{type(error).__name__}: {first_line(error)}"
        raise SweepError(f"{model.cfg.model_name} fails on a short prompt, unpatched ({what}).") from error


def get_site(model: TransformerBridge, name: str, layers: Iterable[int] | None = None) -> Site:
    """The site called ``name``, checked to exist in ``model`` as its layout says.

    Args:
        model: Any.
        name: A name in ``SITES``.
        layers: These must have it; one layer must when None.

    Raises:
        SweepError: Unknown name, a site that this architecture or one of these layers does not have (models with
            parallel attention and MLP have no ``resid_mid``, recurrent layers no heads), or one of another shape.
    """
    site = SITES[check_choice("site", name, SITES)]
    there, n_layers = site.layers(model), int(model.cfg.n_layers)
    lacking = [layer for layer in (there[:1] or range(n_layers) if layers is None else layers) if layer not in there]
    if not lacking:
        return site
    n_pos, seen = _shapes(model)
    if shape := next((seen[site.hook_name(layer)] for layer in lacking if site.hook_name(layer) in seen), ()):
        raise SweepError(
            f"{model.cfg.model_name} shows {name!r} in another layout than ({site.layout}): of 2 prompts of {n_pos} "
            f"tokens it is {shape}, where {site.shape(model, n_pos)} is expected. Take another site."
        )
    if there:
        raise SweepError(
            f"Layer {lacking[0]} of {model.cfg.model_name} has no {name!r}: of its {n_layers} layers "
            f"only {', '.join(map(str, there))} have. Leave the others out."
        )
    names = [other.name for other in SITES.values() if other.layers(model)]
    raise SweepError(
        f"{model.cfg.model_name} has no site {name!r} (no hook {site.hook_name(0)!r}; "
        f"models with parallel attention and MLP have no resid_mid). It has: {', '.join(names)}."
    )


def n_neurons(model: TransformerBridge, layers: Iterable[int]) -> int:
    """How many neurons the MLPs of these layers have; SweepError where they have none, or not all as many."""
    _, seen = _shapes(model)
    counted = {layer: seen.get(SITES["post"].hook_name(layer), (0,))[-1] for layer in layers}
    for layer in counted:
        # A mixture of experts has no one row of neurons: TransformerLens shows what its MLP writes in their place.
        names = (SITES[site].hook_name(layer) for site in ("post", "mlp_out"))
        post, mlp_out = map(model.hook_dict.get, names)
        if post is mlp_out or not counted[layer]:
            raise SweepError(
                f"Layer {layer} of {model.cfg.model_name} has no one row of neurons (a mixture of experts, or no MLP): "
                "choose other layers, or the site mlp_out."
            )
    if len(set(counted.values())) > 1:
        raise SweepError(f"These layers have {sorted(set(counted.values()))} neurons: sweep those that are alike.")
    return next(iter(counted.values()))


def site_of(hook_name: str) -> tuple[Site, int] | None:
    """The site and layer of a hook name such as ``"blocks.5.hook_attn_out"``; None where it is of no site."""
    layer = hook_name.split(".")[1] if hook_name.startswith("blocks.") else ""
    sites = [site for site in SITES.values() if layer and not site.of]
    return next(((site, int(layer)) for site in sites if site.hook_name(int(layer)) == hook_name), None)


def check_patchable(model: TransformerBridge, site: Site, *, by_head: bool = False) -> None:
    """SweepError where a patch would say nothing, or not of what it is of.

    A model may show an activation but compute past it: every effect would be a false 0. And where a norm over the whole
    row follows, the patch of one head (``by_head``) would change the others.
    """
    name, layer = model.cfg.model_name, site.layers(model)[-1]
    if why := probes.unpatchable(model, site.hook_name(layer)):
        raise SweepError(f"In {name}, {site.name} can be read but not patched: {why}. Take another site.")
    pattern, v, z = SITES["pattern"], SITES["v"], SITES["z"]
    if by_head and site.has_heads and site.name != "z" and layer in z.layers(model):
        hook_names = (site.hook_name(layer), z.hook_name(layer))
        n_in_group = int(model.cfg.n_heads) // SITES[site.of or site.name].n_heads(model)
        if not probes.is_separate(model, *hook_names, site.layout.split().index("head"), n_in_group):
            raise SweepError(
                f"In {name}, a norm over all heads follows {site.name}: with one head's patched, the others' would be "
                "others too. Patch all heads together (no 'head' in over), or take the site 'pattern'."
            )
    if site.of:  # a head's own values are patched through its pattern
        for other in (pattern, z):
            check_patchable(model, get_site(model, other.name, [layer]))
        if not probes.is_mixed(model, *(other.hook_name(layer) for other in (pattern, v, z))):
            raise SweepError(
                f"In {name}, what a head gives is not its pattern times its values: {site.name} cannot be "
                "patched. Take the site 'z' or 'v'."
            )
