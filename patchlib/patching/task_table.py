"""Which of the field's tasks a model can do: contrast, accuracy, and the heads that matter most, a row a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import cell_name, check_choice, check_count, check_flag, check_seed, first_line, listed
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.patching.sweeps import baseline, sweep
from patchlib.tasks.field.base import FieldTask
from patchlib.tasks.field.listing import FIELD_TASKS

COLUMNS = ["model", "task", "n", "clean", "corrupted", "difference", "ci_low", "ci_high", "accuracy", "usable", "why"]
NUMBERS = ("clean", "corrupted", "difference", "ci_low", "ci_high", "accuracy")
TOP = 3
_KNOWN = {task.__name__: task for task in FIELD_TASKS}


def task_table(
    model: TransformerBridge,
    tasks: Iterable[str] | str | None = None,
    n_prompts: int = 32,
    seed: int = 0,
    *,
    top_heads: bool = False,
    told: Callable[[dict[str, Any]], None] | None = None,
) -> pd.DataFrame:
    """Ask a model the field's tasks, and say of each whether its contrast can be divided by.

    Args:
        model: In eval mode.
        tasks: Names of ``patchlib.tasks.list()``, of the field's; all when None.
        n_prompts: Of each task.
        seed: Of the draw.
        top_heads: Also denoise heads' outputs, where there is a contrast, and name the three with the largest effects
            (``sweep(model, task, "z", ("layer", "head"), prefilter="attribution")``); that takes minutes on a CPU.
        told: Is given each row when it is there.

    Returns:
        A row a task: ``model``, ``task``, ``n`` prompts, ``clean``, ``corrupted`` and their ``difference`` in the logit
        difference (of sets, the log odds; nats), ``ci_low`` and ``ci_high`` (95%, wordings as clusters), ``accuracy``
        on clean prompts, ``usable``, and ``why`` not, or why there are no prompts; with ``top_heads`` the three as
        text, each with its effect's 95% interval.

    Raises:
        SweepError, TaskError: An unknown task, or a model in train mode.

    Example:
        >>> table = patchlib.task_table(model, "SimpleAgreement", n_prompts=4)
        >>> print(table[["task", "accuracy", "usable"]].to_string(index=False))
                   task  accuracy  usable
        SimpleAgreement       1.0    True
    """
    check_model(model)
    check_flag("top_heads", top_heads)
    check_count("n_prompts", n_prompts, error=TaskError)
    check_seed(seed, error=TaskError)
    rows = []
    for name in task_names(tasks):
        rows.append(_row(model, _KNOWN[name], n_prompts, seed, top_heads))
        if told is not None:
            told(rows[-1])
    return pd.DataFrame(rows, columns=[*COLUMNS, *(["top_heads"] if top_heads else [])])


def task_names(tasks: Iterable[str] | str | None) -> list[str]:
    """Those of the field's tasks that are asked for, all for None; TaskError for another."""
    if tasks is None:
        return list(_KNOWN)
    names = [check_choice("task", name, _KNOWN, TaskError) for name in listed(tasks)]
    if not names:
        raise TaskError(f"No task was named: give some of {', '.join(_KNOWN)}, or None for all.")
    return names


def _row(model: TransformerBridge, kind: type[FieldTask], n_prompts: int, seed: int, top_heads: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"model": str(model.cfg.model_name), "task": kind.__name__, "top_heads": ""}
    numbers = dict.fromkeys(NUMBERS, np.nan)
    try:
        pairs = kind(model, n_prompts, seed).to_pairs(model)
    except TaskError as error:
        return {**row, "n": 0, **numbers, "usable": False, "why": first_line(error)}
    result = baseline(model, pairs, ["logit_diff", "accuracy"])
    (contrast,) = stats.contrast(result).loc[["logit_diff"]].to_dict("records")
    numbers = {name: float(contrast[name]) for name in numbers if name != "accuracy"}
    numbers["accuracy"] = float(result.clean.sel(metric="accuracy").mean())
    row |= {"n": len(pairs), **numbers, "usable": bool(contrast["usable"]), "why": str(contrast["reason"])}
    if top_heads and row["usable"]:
        # All heads that an estimate cannot rule out are patched: the largest of them are exact.
        result = sweep(model, pairs, "z", ("layer", "head"), progress=False, prefilter="attribution")
        table = stats.summary_table(result, top_k=TOP)
        row["top_heads"] = ", ".join(
            f"{cell_name(dict(head))} {head['effect']:.2f} [{head['ci_low']:.2f}, {head['ci_high']:.2f}]"
            for _, head in table.iterrows()
        )
    return row
