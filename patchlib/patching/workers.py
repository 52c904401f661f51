"""A sweep's parts on the workers of an executor: a pool of processes, or a Dask cluster.

A worker loads the model by its name, once, and proves by the hash of the weights that it is the same one. What comes
back goes into the result, and into the checkpoint, part by part: a worker that is lost costs what it had in hand.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import first_line, shown
from patchlib.errors import ModelError, PatchlibError, SweepError
from patchlib.models.load import last_weights_hash, load_model, weights_hash
from patchlib.patching.parts import Part, Patched, Unpatched, measure

if TYPE_CHECKING:  # which runs its parts here
    from patchlib.patching.experiment import Experiment

ALONE = threading.Lock()
"""Forwards replace modules' own for a while: two at once in one process would see each other's."""


def check_executor(executor: object, model: TransformerBridge) -> None:
    """SweepError unless workers of this executor can take parts of a sweep of this model."""
    if not isinstance(executor, Executor):
        mend = "give a concurrent.futures.ProcessPoolExecutor, or Dask's client.get_executor()"
        raise SweepError(f"executor must be a concurrent.futures.Executor, not {shown(executor)}: {mend}.")
    method = getattr(getattr(executor, "_mp_context", None), "get_start_method", lambda: None)()
    if isinstance(executor, ProcessPoolExecutor) and method == "fork":
        raise SweepError(
            "The executor's processes are forks of this one, in which PyTorch's threads can hang: give "
            "ProcessPoolExecutor(n, mp_context=multiprocessing.get_context('spawn'))."
        )


def measured_by(executor: Executor, experiment: Experiment, parts: list[Part]) -> Iterator[Unpatched | Patched]:
    """What workers measure, in the order in which their parts come back.

    Raises:
        SweepError: The experiment cannot be sent to a worker, or one was lost or failed; what came before is kept.
        ExactnessError: Fast and plain disagree.
    """
    model = experiment.model
    name = str(model.cfg.model_name)
    name = str(Path(name).absolute()) if Path(name).is_dir() else name  # a worker runs in a folder of its own
    how = replace(experiment.how, executor=None, checkpoint=None, progress=False)
    try:
        payload = cloudpickle.dumps(replace(experiment, model=None, how=how))
    except Exception as error:  # of as many kinds as there are objects
        raise SweepError(
            f"The sweep cannot be sent to workers ({first_line(error)}): its metric or task holds what cannot be "
            "pickled."
        ) from error
    pool: Any = executor if isinstance(executor, ProcessPoolExecutor) else None
    n_threads = pool and max(1, (os.cpu_count() or 1) // pool._max_workers)  # a cluster's workers have theirs already
    origin = (name, str(model.cfg.device), model.cfg.dtype, last_weights_hash(model), n_threads)
    futures: list[Future[list[Unpatched | Patched]]] = []
    n_done = 0
    try:
        futures += [executor.submit(run_part, payload, part, *origin) for part in parts]
        for future in as_completed(futures):
            yield from future.result()
            n_done += 1
    except PatchlibError:
        raise
    except Exception as error:  # of the pool, of the cluster, or of the worker
        kept = (
            "" if experiment.how.checkpoint is None else ", which the checkpoint has: the same call goes on from there"
        )
        raise SweepError(
            f"A worker of the {type(executor).__name__} failed ({type(error).__name__}: {first_line(error)}) after "
            f"{n_done} of {len(parts)} parts{kept or ''}."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def run_part(
    payload: bytes, part: Part, name: str, device: str, dtype: torch.dtype, expected: str, n_threads: int | None
) -> list[Unpatched | Patched]:
    """In a worker: measure one part of a sweep.

    Args:
        payload: The experiment, pickled without its model.
        part: Which part.
        name: The model's, or its folder.
        device: The model's.
        dtype: The model's.
        expected: The hash of its weights.
        n_threads: Of PyTorch; None leaves it to the worker.

    Raises:
        SweepError: The worker's model of that name has other weights.
    """
    with ALONE:
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        experiment = replace(cloudpickle.loads(payload), model=_model(name, device, dtype, expected))
        return list(measure(experiment, part))


@lru_cache(maxsize=1)
def _model(name: str, device: str, dtype: torch.dtype, expected: str) -> TransformerBridge:
    mend = "save the model with save_pretrained into a folder that all workers see, and load it from there"
    try:
        model = load_model(name, device, dtype)
    except ModelError as error:
        raise SweepError(f"A worker cannot load {name!r} ({first_line(error)}): {mend}.") from error
    if weights_hash(model) != expected:
        raise SweepError(f"A worker's {name!r} has other weights than the model here: {mend}.")
    return model
