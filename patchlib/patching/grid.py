"""The grid of a sweep: what ``over`` names, checked, and the cells it makes, each with the numbers that it replaces."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_indices, check_positions, listed, shown
from patchlib.errors import SweepError
from patchlib.patching.sites import Site, check_patchable, get_site, n_neurons
from patchlib.tasks.pairs import PromptPairs

CellIndex = tuple[int, ...]
"""Of a cell on each axis of its grid."""


@dataclass(frozen=True)
class Cell:
    """One patch: the activation in ``layers``, of ``head`` or of all heads, wherever ``mask`` is True.

    Attributes:
        index: Of the cell on each axis of its grid.
        layers: They are patched together.
        head: A k/v head for the keys and values of a grouped-query model, a neuron where neurons are patched; all
            when None.
        mask: The positions of each prompt.
    """

    index: CellIndex
    layers: tuple[int, ...]
    head: int | None
    mask: Bool[Tensor, "example pos"]

    def of_rows(self, rows: Sequence[int]) -> Self:
        """The same patch in some of the prompts."""
        return replace(self, mask=self.mask[rows])


@dataclass(frozen=True)
class Grid:
    """What is patched: a site, the axes that are swept, in order, and what every cell shares.

    Attributes:
        site: What is patched.
        values: Axis name -> its coordinate values, in the order of the result's dims.
        layers: The layers that are patched.
        fixed: Positions that every cell patches (token indices or roles) where no position axis is swept;
            None for all positions.
        only: The cells that are patched; all when None.
    """

    site: Site
    values: dict[str, list[Any]]
    layers: list[int]
    fixed: list[int | str] | None = None
    only: frozenset[CellIndex] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis has."""
        return tuple(len(values) for values in self.values.values())

    @property
    def n_cells(self) -> int:
        """How many cells are patched."""
        return math.prod(self.shape) if self.only is None else len(self.only)

    @property
    def about(self) -> str:
        """What is patched, in a word."""
        return self.site.name

    @property
    def unit_axis(self) -> str | None:
        """The axis of the parts of a layer's activation that are patched alone, if they are."""
        return next((axis for axis in ("head", "kv_head", "neuron") if axis in self.values), None)

    @property
    def position_axis(self) -> str | None:
        """The axis of positions, if they are swept."""
        return next((axis for axis in ("pos", "role") if axis in self.values), None)

    def masks(self, pairs: PromptPairs) -> dict[int | str | None, Bool[Tensor, "example pos"]]:
        """By swept position, or for None where none are: where a cell patches these prompts of one length."""
        if self.position_axis is None:
            return {None: torch.stack([position_mask(p, pairs) for p in self.fixed or (None,)]).any(0)}
        return {value: position_mask(value, pairs) for value in self.values[self.position_axis]}

    def cells(self, pairs: PromptPairs) -> list[Cell]:
        """The cells that these prompts (of one length) have: positions past their end are left out."""
        masks = self.masks(pairs)
        cells = []
        for index in itertools.product(*(range(n) for n in self.shape)):
            coords: dict[str | None, Any] = {
                axis: values[i] for (axis, values), i in zip(self.values.items(), index, strict=True)
            }
            mask = masks[coords.get(self.position_axis)]
            if mask.any() and (self.only is None or index in self.only):
                layers = (coords["layer"],) if "layer" in coords else tuple(sorted(self.layers))
                unit = coords.get(self.unit_axis)
                cells.append(Cell(index, layers, unit, mask))
        return cells

    def attributes(self) -> dict[str, str]:
        """What a result records."""
        attributes = {"positions": "all" if self.fixed is None else ", ".join(map(str, self.fixed))}
        is_named = "layer" in self.values or self.site.hook
        return attributes | ({} if is_named else {"layers": ", ".join(map(str, self.layers))})


def position_mask(position: int | str | None, pairs: PromptPairs) -> Bool[Tensor, "example pos"]:
    """True at a token index, role or span of each of these prompts, which are of one length; everywhere for None."""
    n_pos = len(pairs.clean_tokens[0])
    if position is None:
        return torch.ones(len(pairs), n_pos, dtype=torch.bool)
    if isinstance(position, str) and position in pairs.spans:
        mask = torch.zeros(len(pairs), n_pos, dtype=torch.bool)
        for i, indices in enumerate(pairs.spans[position]):
            mask[i, list(indices)] = True
        return mask
    index: Int[Tensor, "example 1"] | int
    if isinstance(position, str):
        index = pairs.roles[position][:, None]
    else:  # below 0 it is counted from END, the last token of the prompt
        index = position if position >= 0 else pairs.roles["END"][:, None] + 1 + position
    return (torch.arange(n_pos) == index).expand(len(pairs), n_pos)


def patch_mask(
    cells: Sequence[Cell], layer: int, site: Site, model: TransformerBridge, positions: slice, device: torch.device
) -> Bool[Tensor, "cell example *site 1"]:
    """True where each cell's patch goes in a layer, in the layout of the site's activations at these positions.

    It lies on the ``device`` of those activations, which need not be that of other layers.
    """
    mask = torch.stack([cell.mask[:, positions] & (layer in cell.layers) for cell in cells])
    mask = mask.to(device)  # [cell example pos], before it is spread over heads: there is less of it to move
    if site.has_neurons and cells[0].head is not None:  # all cells of a grid are alike in this
        neurons = torch.tensor([cell.head for cell in cells], device=mask.device)
        chosen = neurons[:, None] == torch.arange(n_neurons(model, [layer]), device=mask.device)  # [cell d_mlp]
        return chosen[:, None, None] & mask[..., None]  # [cell example pos d_mlp]
    if not site.has_heads:
        return mask[..., None]  # [cell example pos 1]
    heads = range(site.n_heads(model))
    chosen = torch.tensor([[cell.head in (None, head) for head in heads] for cell in cells], device=mask.device)
    if site.layout.startswith("example head"):
        return (chosen[:, None, :, None] & mask[:, :, None, :])[..., None]  # [cell example head dest 1]
    return (chosen[:, None, None, :] & mask[..., None])[..., None]  # [cell example pos head 1]


def resolve_grid(
    model: TransformerBridge,
    pairs: PromptPairs,
    site_name: str,
    over: Sequence[str],
    layers: Sequence[int] | int | None,
    heads: Sequence[int] | int | None,
    neurons: Sequence[int] | int | None,
    positions: Sequence[int | str] | int | str | None,
) -> Grid:
    """What ``sweep`` was asked for, as a checked grid; SweepError names the first thing that does not exist."""
    site = get_site(model, site_name)
    over = listed(over)
    head_axis = site.head_axis(model)
    # "head" is understood where heads share keys and values, and labelled as what it is: "kv_head".
    over = [head_axis if axis == "head" else axis for axis in over]
    units = [head_axis] if site.has_heads else ["neuron"] if site.has_neurons else []
    possible = [*([] if site.hook else ["layer"]), *units, "pos", "role"]
    for axis in over:
        if not isinstance(axis, str) or axis not in possible:
            raise SweepError(
                f"Cannot sweep over {shown(axis)}: site {site.name!r} has no such axis. "
                f"Possible here: {', '.join(possible)}."
            )
    if not over or len(set(over)) < len(over) or {"pos", "role"} <= set(over):
        raise SweepError(
            f"over={tuple(over)} must name at least one axis, each once, and only one of 'pos' and 'role'."
        )

    if site.hook and layers is not None:
        raise SweepError(f"Site {site.name!r} is there once, in no layer: leave layers={shown(layers)} out.")
    check_patchable(model, site, by_head=head_axis in over)

    n_pos = max(len(row) for row in pairs.clean_tokens)
    values: dict[str, list[Any]] = {
        "layer": site.layers(model) if layers is None else check_indices("layer", layers, int(model.cfg.n_layers)),
        "pos": list(range(n_pos)),
        "role": list(pairs.roles),
    }
    get_site(model, site_name, values["layer"])
    if heads is not None and head_axis not in over:
        mend = f"add {head_axis!r} to over" if site.has_heads else f"site {site.name!r} has no heads"
        raise SweepError(f"heads={shown(heads)} was given, but over={tuple(over)} has no {head_axis!r} axis: {mend}.")
    if site.has_heads:
        values[head_axis] = check_indices(head_axis, heads, site.n_heads(model))
    if neurons is not None and "neuron" not in over:
        mend = "add 'neuron' to over" if site.has_neurons else f"site {site.name!r} has none"
        raise SweepError(f"neurons={shown(neurons)} was given, but over={tuple(over)} has no 'neuron' axis: {mend}.")
    if site.has_neurons:
        values["neuron"] = check_indices("neuron", neurons, n_neurons(model, values["layer"]))
    fixed = None
    if positions is not None:
        checked = check_positions(positions, pairs.positions, n_pos)
        axis, kind, wanted = ("pos", int, "token indices") if "pos" in over else ("role", str, "role names")
        if axis not in over:
            fixed = checked
        elif all(isinstance(position, kind) for position in checked):
            values[axis] = checked
        else:
            raise SweepError(f"positions={shown(checked)}: a sweep over {axis!r} takes {wanted}.")
    return Grid(site, {axis: values[axis] for axis in over}, values["layer"], fixed)
