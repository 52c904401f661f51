"""Finding a circuit backward from the logits, by path patching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import head_names
from patchlib.circuits.ablation import Head
from patchlib.circuits.circuit import Circuit
from patchlib.circuits.head_types import roles
from patchlib.errors import SweepError
from patchlib.patching.path_engine import Receiver
from patchlib.patching.paths import inputs_of, path_patch
from patchlib.patching.sweeps import sweep
from patchlib.stats import cell_dims, summary_table
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs

NO_INPUTS = pd.DataFrame(columns=["heads", "site", "at", "effect", "through_heads", "followed"])
Found = tuple[int, int, str]
"""(layer, head, the position at which its output matters)."""


@dataclass(frozen=True)
class Discovery:
    """What a search found, with the evidence of each step.

    Attributes:
        circuit: The heads by role, each at its position.
        steps: A row for each head and path by which it was found: ``depth``, ``to`` (the heads that receive, or
            "logits"), ``site`` (their input; "logits" for these), ``layer``, ``head``, ``at`` (of the sender's output),
            ``effect`` with its interval, ``n``.
        inputs: A row for each input of found heads that was looked at: ``site``, ``at``, ``effect`` (sum over the
            heads' own effects of noising that input), ``through_heads`` (the part of it that other heads write: path
            patching from all of them at once; NaN where the effect is too small to ask) and whether it was
            ``followed``.
        results: Each step's path patching of all senders: ``"logits"``, and such as ``"q of L9H6, L9H9 at END"``.
        roles: ``roles``' table: a row for each head and position.
        positions: The task's named positions, in the order of the sentence.
    """

    circuit: Circuit
    steps: pd.DataFrame
    inputs: pd.DataFrame
    results: dict[str, xr.Dataset]
    roles: pd.DataFrame
    positions: tuple[str, ...]


def discover(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    *,
    depth: int = 3,
    min_share: float = 0.1,
    min_effect: float = 0.01,
    min_input: float = 0.05,
    max_inputs: int = 2,
    max_heads: int = 8,
    **how: Any,
) -> Discovery:
    """Build a circuit backward from the logits, by the procedure of Wang et al. 2022, section 3.

    Which heads write the answer (path patching to the logits)? Which of their inputs, at which position, matter
    (noising q, k and v there), and because of other heads? Which heads are these (path patching to the inputs)? And
    so on, ``depth`` times. Heads that work against the answer are kept, and not followed further.

    Args:
        model: In eval mode.
        task: With roles; with ``corruption="abc"`` as in the paper, or any other that changes the answer.
        depth: How many steps back: 1 finds only the heads that write to the logits.
        min_share: A head is taken if its effect is at least this share of the step's largest (effects shrink with
            every step back, so that no absolute bound suits them all) and its interval leaves out 0.
        min_effect: And at least this large.
        min_input: An input is followed if what other heads write there carries at least this much of the contrast.
        max_inputs: And at most so many inputs of the heads at one position, the largest first.
        max_heads: And at most so many heads a step, the largest first.
        **how: ``engine``, ``batch_tokens``, ``progress``, as for ``sweep``.

    Returns:
        The circuit with all evidence.

    Raises:
        SweepError: A task without the role END, or a setting out of range; else as ``sweep``.
        TaskError, ExactnessError: As ``sweep``.
    """
    pairs = as_pairs(model, task)
    if "END" not in pairs.roles:
        raise SweepError(
            f"{pairs.name!r} does not name END, the last position, among its roles: discovery starts there."
        )
    if depth < 1 or max_heads < 1 or not 0 < min_share <= 1:
        raise SweepError(f"depth={depth}, max_heads={max_heads}, min_share={min_share}: 1, 1 and 0 to 1 are the least.")

    steps: list[dict[str, Any]] = []
    inputs: list[pd.DataFrame] = []
    results: dict[str, xr.Dataset] = {}

    def take(result: xr.Dataset, at: str, level: int, to: str = "logits", site: str = "logits") -> list[Found]:
        """The senders of one step that count; those that push towards the answer are followed further."""
        table = summary_table(result, top_k=max_heads)
        least = max(min_effect, min_share * table.effect.abs().max())
        table = table[(table.effect.abs() >= least) & ~((table.ci_low <= 0) & (table.ci_high >= 0))]
        for row in table.itertuples():
            about = {"depth": level, "to": to, "site": site, "layer": row.layer, "head": row.head, "at": at}
            steps.append({**about, "effect": row.effect, "ci_low": row.ci_low, "ci_high": row.ci_high, "n": row.n})
        return [(int(row.layer), int(row.head), at) for row in table.itertuples() if row.effect > 0]

    results["logits"] = path_patch(model, pairs, positions="END", **how)
    frontier = take(results["logits"], "END", 1)
    known = set(frontier)
    for level in range(2, depth + 1):
        found: list[Found] = []
        for position in sorted({at for *_, at in frontier}):
            heads = [(layer, head) for layer, head, at in frontier if at == position]
            looked_at = _inputs(model, pairs, heads, position, min_input, how)
            followed = looked_at[looked_at.through_heads >= min_input].nlargest(max_inputs, "through_heads")
            inputs.append(looked_at.assign(followed=looked_at.index.isin(followed.index)))
            for row in followed.itertuples():
                receivers = inputs_of(model, heads, row.site, row.at)
                result = path_patch(model, pairs, receivers, positions=row.at, layers=_below(receivers), **how)
                results[f"{row.site} of {head_names(heads)} at {row.at}"] = result
                found += take(result, row.at, level, head_names(heads), row.site)
        frontier = sorted(set(found) - known)
        known |= set(frontier)
    table = pd.DataFrame(
        steps, columns=["depth", "to", "site", "layer", "head", "at", "effect", "ci_low", "ci_high", "n"]
    )
    named = roles(model, pairs, table)
    in_order = sorted(pairs.roles, key=lambda role: float(pairs.roles[role].float().mean()))
    looked_at = pd.concat(inputs, ignore_index=True) if inputs else NO_INPUTS
    return Discovery(_circuit(named), table, looked_at, results, named, tuple(in_order))


def _inputs(
    model: TransformerBridge,
    pairs: PromptPairs,
    heads: Sequence[Head],
    position: str,
    min_input: float,
    how: dict[str, Any],
) -> pd.DataFrame:
    """The heads' queries at their own position, their keys and values at all roles: a row each, as ``Discovery``."""
    rows = []
    for site in ("q", "k", "v"):
        receivers = inputs_of(model, heads, site)
        layers, columns = ({getattr(one, axis) for one in receivers} for axis in ("layer", "head"))
        at = [position] if site == "q" else list(pairs.roles)
        result = sweep(
            model, pairs, site, ("layer", "head", "role"), "noise",
            layers=sorted(layers), heads=sorted(columns), positions=at, **how,
        )  # fmt: skip
        head_axis = cell_dims(result)[1]
        for role in at:
            own = [
                result.effect.isel(metric=0).sel({"layer": one.layer, head_axis: one.head, "role": role})
                for one in receivers
            ]
            effect, through = float(np.nansum(own)), np.nan
            here = inputs_of(model, heads, site, role)
            if effect >= min_input and _below(here):
                paths = path_patch(model, pairs, here, ("role",), positions=role, layers=_below(here), **how)
                through = paths.effect.item()
            rows.append((head_names(heads), site, role, effect, through))
    return pd.DataFrame(rows, columns=NO_INPUTS.columns[:-1])


def _below(receivers: Sequence[Receiver]) -> list[int]:
    """The layers from which something can reach these."""
    return list(range(max(one.layer for one in receivers)))


def _circuit(named: pd.DataFrame) -> Circuit:
    """Roles in the order of the stream, each at its position; unnamed heads by position."""
    names = named.role.where(named.role != "unnamed", "unnamed at " + named["at"])
    order = named.groupby(names).layer.mean().sort_values().index
    heads = {name: [(int(r.layer), int(r.head)) for r in named[names == name].itertuples()] for name in order}
    return Circuit(heads, {name: sorted(set(named["at"][names == name])) for name in order})
