"""Inputs of heads, to which the paths of other heads lead."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_choice, check_heads, check_positions, head_name, listed, shown
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.patching.grid import position_mask
from patchlib.patching.sites import Site, check_patchable, get_site
from patchlib.tasks.pairs import PromptPairs

INPUTS = ("q", "k", "v")

ReceiverMasks = dict[tuple[Site, int], Bool[Tensor, "example pos head"]]
"""By site and layer, True at each head and position that receives."""


@dataclass(frozen=True)
class Receiver:
    """One input of one head: its queries, keys or values, at all positions or at a named one.

    Attributes:
        site: ``"q"``, ``"k"`` or ``"v"``.
        layer: Of the head.
        head: For k and v of a grouped-query model the number of the k/v head.
        position: A role of the task or a token index; all positions when None.

    Example:
        >>> str(patchlib.Receiver("q", 20, 3, "END")), str(patchlib.Receiver("k", 20, 1))
        ('q of L20H3 at END', 'k of L20KV1')
    """

    site: str
    layer: int
    head: int
    position: int | str | None = None

    def __str__(self) -> str:
        position = "" if self.position is None else f" at {self.position}"
        return f"{self.site} of {head_name(self.layer, self.head, self.mark)}{position}"

    @property
    def mark(self) -> str:
        """Of the head's name: "H", or "KV" where heads of one group share the input."""
        return "H" if self.site == "q" else "KV"


def inputs_of(
    model: TransformerBridge, heads: Iterable[Head], site: str, position: int | str | None = None
) -> list[Receiver]:
    """The queries, keys or values of some heads, each once: heads of one group share their keys and values.

    Args:
        model: Its grouping of q heads into k/v heads.
        heads: (layer, head), counted in q heads.
        site: ``"q"``, ``"k"`` or ``"v"``.
        position: A role of the task or a token index; all positions when None.

    Returns:
        Receivers for ``path_patch``, in the order of layers and heads.

    Raises:
        SweepError: Another site, a head that the model does not have, or what can be no position.

    Example:
        Three query heads of this model share one key and value head:

        >>> print(*patchlib.inputs_of(model, [(20, 3), (20, 4)], "q"), sep=", ")
        q of L20H3, q of L20H4
        >>> print(*patchlib.inputs_of(model, [(20, 3), (20, 4)], "k", "S2"), sep=", ")
        k of L20KV1 at S2
    """
    check_model(model)
    inputs = get_site(model, check_choice("input of a head", site, INPUTS))
    check_patchable(model, inputs, by_head=True)
    n_heads = int(model.cfg.n_heads)
    group = n_heads // inputs.n_heads(model)
    layer_heads = check_heads(heads, int(model.cfg.n_layers), n_heads)
    if position is not None:
        (position,) = check_positions([position])
    return [Receiver(site, layer, head, position) for layer, head in sorted({(i, h // group) for i, h in layer_heads})]


def check_receivers(
    model: TransformerBridge, pairs: PromptPairs, receivers: Literal["logits"] | Sequence[Receiver]
) -> tuple[Receiver, ...]:
    """The receivers that were asked for, none standing for the logits; SweepError for one that there is not."""
    mend = "give 'logits' or patchlib.inputs_of(model, heads, site)"
    if isinstance(receivers, str):
        if receivers != "logits":
            raise SweepError(f"Unknown receivers {shown(receivers)}: {mend}.")
        return ()
    receivers = listed(receivers)
    if not receivers:
        raise SweepError(f"No receivers were given: {mend}.")
    n_pos = min(len(row) for row in pairs.clean_tokens)  # elsewhere nothing would be received
    for receiver in receivers:
        if not isinstance(receiver, Receiver) or receiver.site not in INPUTS:
            raise SweepError(f"{shown(receiver)} is no receiver: patchlib.inputs_of(model, heads, 'q') makes them.")
        site = get_site(model, receiver.site)
        check_patchable(model, site, by_head=True)
        n_heads = site.n_heads(model)
        check_heads([(receiver.layer, receiver.head)], int(model.cfg.n_layers), n_heads, mark=receiver.mark)
        if receiver.position is not None:
            check_positions(receiver.position, pairs.positions, n_pos)
    return tuple(receivers)


def receiver_masks(model: TransformerBridge, receivers: Iterable[Receiver], pairs: PromptPairs) -> ReceiverMasks:
    """Which heads receive at which positions of these prompts, which are of one length."""
    masks: ReceiverMasks = {}
    for receiver in receivers:
        site = get_site(model, receiver.site)
        mask = position_mask(receiver.position, pairs)  # [example pos]
        nowhere = torch.zeros(*mask.shape, site.n_heads(model), dtype=torch.bool)
        masks.setdefault((site, receiver.layer), nowhere)[:, :, receiver.head] |= mask
    return masks
