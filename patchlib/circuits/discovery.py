"""Finding a circuit backward from the logits, by path patching."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_choice, check_count, check_number, head_names, user_level
from patchlib.circuits.circuit import Circuit
from patchlib.circuits.head_types import head_types
from patchlib.circuits.search import Search, below
from patchlib.circuits.tested import LEAST_PROMPTS, RATE, corrected_p_values
from patchlib.errors import FewPromptsWarning, SweepError
from patchlib.patching.attribution.prefilter import Effects
from patchlib.patching.experiment import resolve_how
from patchlib.patching.receivers import inputs_of
from patchlib.stats import summary_table
from patchlib.tasks.base import Task, as_pairs

STEPS = [
    "depth",
    "receivers",
    "site",
    "layer",
    "head_index",
    "position",
    "effect",
    "ci_low",
    "ci_high",
    "n",
    "p_adjusted",
]
INPUTS = ["heads", "site", "position", "effect", "through_heads"]
HEADS = ("layer", "head")
PlacedHead = tuple[int, int, str]
"""(layer, head, the position at which its output matters)."""


@dataclass(frozen=True)
class Discovery:
    """What a search found, with the evidence of each step.

    Attributes:
        circuit: The heads by type, each at its position.
        steps: A row for each head and path by which it was found: ``depth``, ``receivers`` (the heads that receive, or
            "logits"), ``site`` (their input; "logits" for these), ``layer``, ``head_index``, ``position`` (of the
            sender's output), ``effect`` with its interval, ``n``, ``p_adjusted`` (of a t-test over prompts, corrected
            for all heads that the step tested).
        inputs: A row for each input of found heads that was looked at: ``heads``, ``site``, ``position``, ``effect``
            (sum over the heads' own effects of noising that input), ``through_heads`` (the part of it that other heads
            write: path patching from all of them at once; NaN where the effect is too small to ask) and whether it was
            ``followed``.
        results: Each step's path patching: ``"logits"``, and such as ``"q of L9H6, L9H9 at END"``. Senders that the
            estimate ruled out are NaN there; their ``estimate`` and the attribute ``prefilter`` say why.
        head_types: The table of ``patchlib.head_types``: a row for each head and position.
        positions: The task's roles, in the order of the sentence.

    Example:
        >>> toy = patchlib.toys.induction()
        >>> search = patchlib.discover(toy.model, toy.task, depth=2, progress=False)
        >>> search.positions
        ('A', 'B', 'C', 'D', 'END')
        >>> list(search.results)[:2]
        ['logits', 'k of L1H2 at D']
    """

    circuit: Circuit
    steps: pd.DataFrame
    inputs: pd.DataFrame
    results: dict[str, xr.Dataset]
    head_types: pd.DataFrame
    positions: tuple[str, ...]


def discover(
    model: TransformerBridge,
    task: Task,
    *,
    depth: int = 3,
    min_share: float = 0.1,
    min_effect: float = 0.01,
    min_input: float = 0.05,
    max_inputs: int = 2,
    max_heads: int = 8,
    prefilter: Literal["attribution"] | None = "attribution",
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
            every step back, so that no absolute bound suits them all) and more than chance among as many heads as the
            step tests: below .05 after the correction of Benjamini and Hochberg 1995. A single prompt asks for no test.
        min_effect: And at least this large.
        min_input: An input is followed if what other heads write there carries at least this much of the contrast.
        max_inputs: And at most so many inputs of the heads at one position, the largest first.
        max_heads: And at most so many heads a step, the largest first.
        prefilter: ``"attribution"``: in each step, patch only senders that an estimate cannot rule out, as
            ``path_patch`` does; none is left out that may be large enough and among the ``max_heads`` largest. None:
            patch all.
        **how: ``engine``, ``batch_tokens``, ``progress``, as for ``sweep``.

    Returns:
        The circuit with all evidence.

    Raises:
        SweepError: A task that gives no usable contrast, or a setting out of range; else as ``sweep``.
        TaskError, ExactnessError: As ``sweep``.

    Warns:
        FewPromptsWarning: Fewer than 16 prompts.

    Example:
        An induction head, and the head behind it that writes to its keys which token came before:

        >>> toy = patchlib.toys.induction()
        >>> search = patchlib.discover(toy.model, toy.task, depth=2, progress=False)
        >>> search.steps[["receivers", "site", "layer", "head_index", "position"]]
          receivers    site  layer  head_index position
        0    logits  logits      1           2      END
        1      L1H2       k      0           1        D
        2      L1H2       k      0           1        B
    """
    pairs = as_pairs(model, task)
    for setting, count in (("depth", depth), ("max_inputs", max_inputs), ("max_heads", max_heads)):
        check_count(setting, count)
    if check_number("min_share", min_share, 0, 1) == 0:
        raise SweepError(f"min_share must be above 0 and at most 1, not {min_share}.")
    for setting, least_effect in (("min_effect", min_effect), ("min_input", min_input)):
        check_number(setting, least_effect, 0)
    if prefilter is not None:
        check_choice("prefilter", prefilter, ("attribution",))
    if unknown := set(how) - {"engine", "batch_tokens", "progress"}:
        raise SweepError(f"Unknown setting {', '.join(unknown)}: discover passes on engine, batch_tokens and progress.")

    running = resolve_how(
        model, pairs, how.get("engine", "auto"), how.get("batch_tokens"), None, how.get("progress", True), None
    )
    search = Search(model, pairs, running, sieve=prefilter is not None)

    search.check_contrast()
    if len(pairs) < LEAST_PROMPTS:
        warnings.warn(
            f"A search with n = {len(pairs)} tells few heads from chance, and finds others with other prompts: give "
            f"{LEAST_PROMPTS} prompts or more, as in IOIDataset(model, n_prompts={LEAST_PROMPTS}).",
            FewPromptsWarning,
            stacklevel=user_level(),
        )

    def least(effects: Effects) -> float:
        """What a sender of a step needs, if no effect is larger than these: it is among the largest, and not small."""
        sizes = np.sort(abs(effects[np.isfinite(effects)]))[::-1]
        if not len(sizes):
            return 0
        return float(max(min_effect, min_share * sizes[0], sizes[max_heads - 1] if len(sizes) >= max_heads else 0))

    def senders(result: xr.Dataset, **step: int | str) -> pd.DataFrame:
        """Those of one step that count."""
        table = summary_table(result, top_k=max_heads)
        table = table[table.effect.abs() >= max(min_effect, min_share * table.effect.abs().max())]
        p_adjusted = corrected_p_values(result, table)
        is_sure = (p_adjusted < RATE) | np.isnan(p_adjusted)  # a single prompt has none
        counting: pd.DataFrame = table.assign(p_adjusted=p_adjusted, **step)[is_sure][STEPS]
        return counting

    # (1) Who writes to the logits, from the last position?
    results = {"logits": search.paths((), HEADS, "END", least)}
    steps = [senders(results["logits"], depth=1, receivers="logits", site="logits", position="END")]
    inputs: list[pd.DataFrame] = []
    frontier = seen = _helpers(steps)
    for level in range(2, min(depth, int(model.cfg.n_layers) + 1) + 1):  # each step leads to earlier layers
        new_steps: list[pd.DataFrame] = []
        for position in sorted({head[-1] for head in frontier}):
            heads = sorted((layer, index) for layer, index, of_head in frontier if of_head == position)
            # (2) Which of their inputs matter because of what other heads wrote there?
            table = _inputs(search, heads, position, min_input)
            followed = table[table.through_heads >= min_input].nlargest(max_inputs, "through_heads")
            inputs.append(table.assign(followed=table.index.isin(followed.index)))
            for row in followed.to_dict("records"):
                # (3) Who wrote it?
                site, role = row["site"], row["position"]
                receivers = inputs_of(model, heads, site, role)
                result = search.paths(receivers, HEADS, role, least)
                results[f"{site} of {head_names(heads)} at {role}"] = result
                new_steps.append(senders(result, depth=level, receivers=head_names(heads), site=site, position=role))
        # (4) And so on from the new ones among those that help the answer.
        steps += new_steps
        frontier = _helpers(new_steps) - seen
        seen |= frontier

    table = pd.concat(steps, ignore_index=True)
    types = head_types(model, pairs, table)
    in_order = sorted(pairs.roles, key=lambda role: float(pairs.roles[role].float().mean()))
    looked_at = pd.concat(inputs, ignore_index=True) if inputs else pd.DataFrame(columns=[*INPUTS, "followed"])
    return Discovery(_circuit(types), table, looked_at, results, types, tuple(in_order))


def _helpers(steps: Sequence[pd.DataFrame]) -> frozenset[PlacedHead]:
    """The senders that push towards the answer."""
    helping = [step.loc[step.effect > 0, ["layer", "head_index", "position"]] for step in steps]
    return frozenset(head for table in helping for head in table.itertuples(index=False, name=None))


def _inputs(search: Search, heads: Sequence[Head], position: str, min_input: float) -> pd.DataFrame:
    """The heads' queries at their own position, their keys and values at all roles: a row each, as ``Discovery``."""
    rows = []
    for site in ("q", "k", "v"):
        roles = [position] if site == "q" else list(search.pairs.roles)
        effects = search.effects_of_inputs(inputs_of(search.model, heads, site), roles)
        for role, effect in effects.items():
            through_heads = np.nan
            at_role = inputs_of(search.model, heads, site, role)
            if effect >= min_input and below(at_role):
                # All heads below as one sender: what is left of the effect is the word itself and the MLPs.
                through_heads = search.paths(at_role, ("role",), role).effect.item()
            rows.append((head_names(heads), site, role, effect, through_heads))
    return pd.DataFrame(rows, columns=INPUTS)


def _circuit(types: pd.DataFrame) -> Circuit:
    """Head types in the order of the stream, each at its positions; unnamed heads by position."""
    names = types.head_type.where(types.head_type != "unnamed", "unnamed at " + types.position)
    heads: dict[str, list[Head]] = {}
    positions: dict[str, list[str]] = {}
    for name in types.groupby(names).layer.mean().sort_values().index:
        of_type = types[names == name]
        heads[str(name)] = list(zip(of_type.layer.astype(int), of_type.head_index.astype(int), strict=True))
        positions[str(name)] = sorted(set(of_type.position))
    return Circuit(heads, positions)
