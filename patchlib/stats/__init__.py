"""From patched metrics to effects: is there a contrast, the ratio of means, its interval, p-values, a table of cells.

It imports no torch, except where p-values need it, so that a saved result is read at once.
"""

from patchlib.stats.contrasts import HIGHER_IS_BETTER, contrast, why_unusable
from patchlib.stats.differences import check_same_cells, effect_difference
from patchlib.stats.effects import effect
from patchlib.stats.groups import effects_by_group
from patchlib.stats.intervals import mean_interval, ratio_interval
from patchlib.stats.results import DIRECTIONS, check_result, moved_and_possible, one_metric
from patchlib.stats.survival import beside_null, replicated
from patchlib.stats.tables import effect_interval, p_values, summary_table

__all__ = [
    "DIRECTIONS",
    "HIGHER_IS_BETTER",
    "beside_null",
    "check_result",
    "check_same_cells",
    "contrast",
    "effect",
    "effect_difference",
    "effect_interval",
    "effects_by_group",
    "mean_interval",
    "moved_and_possible",
    "one_metric",
    "p_values",
    "ratio_interval",
    "replicated",
    "summary_table",
    "why_unusable",
]
