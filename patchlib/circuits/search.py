"""The sweeps and the path patching of one search, on the same unpatched forwards."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching.attribution.prefilter import prefiltered
from patchlib.patching.donors import Donors
from patchlib.patching.experiment import Experiment, HowToRun
from patchlib.patching.grid import Grid, resolve_grid
from patchlib.patching.metrics import resolve_metrics
from patchlib.patching.receivers import Receiver
from patchlib.patching.shared import Shared
from patchlib.patching.sites import SITES
from patchlib.patching.sweeps import unpatched_alone
from patchlib.stats import contrast
from patchlib.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class Search:
    """What every step of a search patches with.

    Attributes:
        model: In eval mode.
        pairs: The prompts, whose clean forward pass is noised.
        how: How to run each step.
        sieve: Whether an estimate may rule senders out.
    """

    model: TransformerBridge
    pairs: PromptPairs
    how: HowToRun
    sieve: bool
    _shared: Shared = field(default_factory=Shared)

    def check_contrast(self) -> None:
        """SweepError where clean and corrupted prompts hardly differ, or the clean ones are not the better ones."""
        result = unpatched_alone(self._experiment(Grid(SITES["z"], {}, [])))
        row = contrast(result).iloc[0]
        if not row.usable:
            raise SweepError(
                f"{self.pairs.name!r} gives no usable contrast, so that a search would find nothing or noise: "
                f"{result.metric.item()} is {row.clean:.3g} on clean and {row.corrupted:.3g} on corrupted prompts "
                f"(n = {row.n:.0f}). Choose a corruption that changes the answer, a model that can do the task, or "
                "more prompts; patchlib.contrast(patchlib.baseline(model, task)) has the numbers."
            )

    def effects_of_inputs(self, receivers: Sequence[Receiver], roles: Iterable[str]) -> dict[str, float]:
        """By role, the sum of the effects of noising each of these inputs there, one at a time."""
        site, roles = receivers[0].site, list(roles)
        layers, heads = (sorted({getattr(receiver, axis) for receiver in receivers}) for axis in ("layer", "head"))
        grid = resolve_grid(self.model, self.pairs, site, ("layer", "head", "role"), layers, heads, None, roles)
        cells = {(layers.index(receiver.layer), heads.index(receiver.head)) for receiver in receivers}
        only = frozenset((*cell, role) for cell in cells for role in range(len(roles)))
        effect = self._experiment(replace(grid, only=only)).run().effect.isel(metric=0)
        return {role: float(effect.sel(role=role).sum()) for role in roles}  # NaN of what was not patched is no part

    def paths(
        self,
        receivers: Sequence[Receiver],
        over: Sequence[str],
        position: str,
        least: Callable[[np.ndarray], float] | None = None,
    ) -> xr.Dataset:
        """The paths of all heads below these receivers, as ``path_patch`` has them; none stands for the logits.

        Args:
            receivers: Where the paths lead.
            over: Of the senders.
            position: Of their outputs.
            least: As of ``prefiltered``: which effects may be ruled out by an estimate; none when None.
        """
        layers = below(receivers) if receivers else None
        grid = resolve_grid(self.model, self.pairs, "z", over, layers, None, None, position)
        experiment = self._experiment(grid, tuple(receivers))
        return experiment.run() if least is None or not self.sieve else prefiltered(experiment, least)

    def _experiment(self, grid: Grid, receivers: tuple[Receiver, ...] | None = None) -> Experiment:
        metrics = resolve_metrics(None, self.pairs)
        return Experiment(self.model, self.pairs, grid, Donors("noise"), metrics, self.how, receivers, self._shared)


def below(receivers: Sequence[Receiver]) -> list[int]:
    """The layers from which something can reach these."""
    return list(range(max(receiver.layer for receiver in receivers)))
