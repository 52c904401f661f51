"""The commands `patchlib check` and `patchlib tasks`: is there a contrast, in a file or in the field's tasks?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlib._dask import dask_executor
from patchlib._util import check_count
from patchlib.errors import TaskError

if TYPE_CHECKING:
    from concurrent.futures import Executor

_MODEL = "Its name or folder (default: patchlib's own)."
_COLUMN = "Our name of a column and the file's, as in clean=prompt; may be given again."
_SCHEDULER = "Of a Dask scheduler, instead of processes here."
_HEAD = f"{'task':<18}{'clean':>8}{'corrupted':>11}{'difference':>12}{'95% interval':>18}{'accuracy':>10}  usable"
_TOKENIZER = "Whose token ids the file has, where it has some."

_Model = Annotated[str | None, typer.Option(metavar="NAME", help=_MODEL)]
_Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="Such as cpu or cuda.")]


def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV, TSV, JSON, JSONL or Parquet.")],
    model: _Model = None,
    format: Annotated[str | None, typer.Option(metavar="FORMAT", help="Found from the columns by default.")] = None,
    column: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help=_COLUMN)] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Rows that are drawn, if there are more.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the draws.")] = 0,
    tokenizer: Annotated[str | None, typer.Option(metavar="NAME", help=_TOKENIZER)] = None,
    dropped: Annotated[str | None, typer.Option(metavar="CSV", help="Write the rows that do not fit there.")] = None,
    device: _Device = None,
) -> None:
    """Say which rows of a file of prompts do not fit a model, what would help, and whether there is a contrast.

    Exit code 1 if a row does not fit, or the contrast is none to divide by.
    """
    from patchlib.patching.check_file import check_file

    columns = {}
    for pair in column or []:
        ours, sign, theirs = pair.partition("=")
        if not sign:
            raise typer.BadParameter(f"{pair!r} lacks a name", param_hint="--column OURS=THEIRS")
        columns[ours] = theirs
    report = check_file(
        file, load(model, device), format=format, columns=columns, limit=limit, seed=seed, tokenizer=tokenizer
    )
    print(report)
    print(f"{report.seconds:.1f} s")
    if dropped is not None:
        try:
            report.dropped.to_csv(dropped, index=False)
        except OSError as error:
            raise TaskError(f"{dropped} cannot be written ({error.strerror or type(error).__name__}).") from error
    raise typer.Exit(not report.usable)


def tasks(
    name: Annotated[list[str] | None, typer.Argument(metavar="[TASK]...", help="By default all.")] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help=f"{_MODEL} May be given again.")] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Prompts of each task.")] = 32,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the draw.")] = 0,
    top_heads: Annotated[bool, typer.Option("--top-heads", help="The three largest heads too; takes minutes.")] = False,
    out: Annotated[str | None, typer.Option("--out", metavar="CSV", help="Write the table there.")] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes here, each with a model of its own.")] = 1,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_SCHEDULER)] = None,
    device: _Device = None,
) -> None:
    """Ask models the field's tasks: contrast, accuracy, and whether patching has something to divide by.

    Each model and task is a part of its own. Exit code 1 if a part was lost with its worker.
    """
    import pandas as pd

    from patchlib.models.default import DEFAULT_MODEL
    from patchlib.patching.task_parts import LOST, task_rows
    from patchlib.patching.task_table import COLUMNS

    check_count("--workers", workers, error=TaskError)
    rows: list[dict[str, Any]] = []
    with _processes(workers) if scheduler is None else dask_executor(scheduler) as executor:
        how = {"n_prompts": n, "seed": seed, "top_heads": top_heads}
        for row in task_rows(model or [DEFAULT_MODEL], name, device, executor, **how):
            if not rows or rows[-1]["model"] != row["model"]:
                print(f"{row['model']}, {n} prompts a task, seed {seed}; logit difference in nats")
                print(_HEAD)
            rows.append(row)
            _say(row)
    if out is not None:
        try:
            pd.DataFrame(rows, columns=[*COLUMNS, *["top_heads"] * top_heads]).to_csv(out, index=False)
        except OSError as error:
            raise TaskError(f"{out} cannot be written ({error.strerror or type(error).__name__}).") from error
    raise typer.Exit(any(row["why"].startswith(LOST) for row in rows))


@contextmanager
def _processes(workers: int) -> Iterator[Executor | None]:
    """So many processes, among which the cores are shared; None for this one alone."""
    if workers == 1:
        yield None
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    import torch

    threads = (max(1, torch.get_num_threads() // workers),)
    spawn = multiprocessing.get_context("spawn")  # in forks of this process PyTorch's threads can hang
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, threads) as executor:
        yield executor


def _say(row: dict[str, Any]) -> None:
    """A line about a task."""
    usable = "yes" if row["usable"] else f"no: {row['why']}"
    if not row["n"]:
        print(f"{row['task']:<18}{usable}", flush=True)
        return
    interval = f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    numbers = f"{row['clean']:>8.2f}{row['corrupted']:>11.2f}{row['difference']:>12.2f}{interval:>18}"
    print(f"{row['task']:<18}{numbers}{row['accuracy']:>10.2f}  {usable}", flush=True)
    if row["top_heads"]:
        print(f"{'':<18}{row['top_heads']}", flush=True)


def load(name: str | None, device: str | None) -> Any:
    """A model by its name, or patchlib's own."""
    from patchlib.models.default import DEFAULT_MODEL
    from patchlib.models.load import load_model

    return load_model(DEFAULT_MODEL if name is None else name, device=device)
