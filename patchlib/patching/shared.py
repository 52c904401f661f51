"""What several experiments on the same prompts share: a search patches many sites and paths of them, one after another.

The unpatched forwards are most of the work of an experiment of few cells. Here they run once, and leave the outputs
and the inputs of all heads.
"""

from collections.abc import Sequence

import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib.patching.budget import default_shared_bytes
from patchlib.patching.donors import PromptBatch
from patchlib.patching.grid import Grid
from patchlib.patching.path_engine import PathForwards
from patchlib.patching.receivers import INPUTS, Receiver
from patchlib.patching.sites import SITES, Site
from patchlib.patching.unpatched import Recorded, Work

SHARED = (SITES["z"], *(SITES[name] for name in INPUTS))
"""The sites of which the experiments may be."""


class _HeadForwards(PathForwards):
    """Unpatched forwards that leave what heads give and what they are given."""

    @property
    def written_names(self) -> list[str]:
        names = [site.hook_name(layer) for site in SHARED for layer in self.layers]
        return [name for name in names if name in self.model.hook_dict]


class Shared:
    """The unpatched forwards of some prompts by the first experiment that needs them, for all that follow.

    All experiments are of one model, task, direction, source and metric, and of heads' outputs or inputs.
    """

    def __init__(self) -> None:
        self._recorded: dict[tuple[tuple[int, ...], bool], Recorded] = {}
        self._checked: set[tuple[str, str | None]] = set()
        self._n_bytes = 0

    def recorded(self, model: TransformerBridge, examples: Sequence[int], prompts: PromptBatch, work: Work) -> Recorded:
        """What the unpatched forwards of these examples leave."""
        key = (tuple(examples), work.fast)
        if key not in self._recorded:
            layers = list(range(int(model.cfg.n_layers)))
            recorded = _HeadForwards(model, Grid(SITES["z"], {}, layers), prompts, work, {}).recorded
            n_bytes = sum(map(_n_bytes, [*recorded.base.values(), *recorded.source.values()]))
            if self._n_bytes + n_bytes > default_shared_bytes(model):  # more prompts than memory is for
                return recorded
            self._recorded[key] = recorded
            self._n_bytes += n_bytes
        return self._recorded[key]

    def is_check_due(self, site: Site, receivers: Sequence[Receiver] | None) -> bool:
        """Whether no experiment of this kind has had its cells compared with plain forwards yet; now one will."""
        kind = site.name, None if receivers is None else "".join(sorted({receiver.site for receiver in receivers}))
        is_due = kind not in self._checked
        self._checked.add(kind)
        return is_due


def _n_bytes(activation: torch.Tensor) -> int:
    return activation.numel() * activation.element_size()
