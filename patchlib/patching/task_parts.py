"""The table of models and tasks in parts, one for each model and task: here, in processes, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import first_line
from patchlib.models.load import load_model
from patchlib.patching.task_table import NUMBERS, task_names, task_table
from patchlib.patching.workers import ALONE

LOST = "lost: "
"""How the reason begins of a part that did not come back."""
_loaded = lru_cache(maxsize=1)(load_model)


def task_rows(
    models: Sequence[str],
    tasks: Iterable[str] | str | None,
    device: str | None = None,
    executor: Executor | None = None,
    **how: Any,
) -> Iterator[dict[str, Any]]:
    """Rows of ``task_table`` for several models, each from a part of its own.

    Args:
        models: Names or folders, which a worker loads; those of one model come after each other, so that a process
            holds one at a time.
        tasks: As for ``task_table``.
        device: Of the models, where they are loaded.
        executor: Any ``concurrent.futures.Executor`` whose workers have patchlib, such as Dask's
            ``client.get_executor()``; this process when None.
        how: ``n_prompts``, ``seed`` and ``top_heads`` of ``task_table``.

    Returns:
        The rows as they come, in the order of models and tasks. One whose part failed or was lost with its worker has
        no prompts, and a ``why`` that begins with "lost".

    Raises:
        TaskError: An unknown task. Without an executor what a part raises, too.
    """
    names = task_names(tasks)
    # A worker runs in a folder of its own.
    places = [str(Path(model).absolute()) if Path(model).is_dir() else model for model in models]
    parts = [(place, device, name) for place in places for name in names]
    if executor is None:
        return (_row(*part, how) for part in parts)
    futures = [executor.submit(partial(_row, *part, how)) for part in parts]
    return (_come_back(*part, future) for part, future in zip(parts, futures, strict=True))


def _row(place: str, device: str | None, task: str, how: dict[str, Any]) -> dict[str, Any]:
    with ALONE:
        model: TransformerBridge = _loaded(place, device)
        rows = cast(list[dict[str, Any]], task_table(model, task, **how).to_dict("records"))
    return {"top_heads": "", **rows[0]}


def _come_back(place: str, device: str | None, task: str, future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except Exception as error:  # of the pool, of the cluster, or of the worker
        why = f"{LOST}{type(error).__name__}: {first_line(error)}"
        nothing = {"n": 0, **dict.fromkeys(NUMBERS, np.nan), "usable": False, "top_heads": ""}
        return {"model": place, "task": task, **nothing, "why": why}
