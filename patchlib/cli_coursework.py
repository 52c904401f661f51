"""The commands `patchlib coursework release` and `grade`: the students' version of the exercises, and their grades."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_FOLDER = "The course's: it gets the solutions too, so students must not see it."
_ONLY = "A number, such as 01; may be given again; by default all."
_SOURCE = "Of the notebooks with solutions, where patchlib was not installed from a checkout."
_TASK = '"ioi", or the name of a class of patchlib.tasks whose answers are one token each.'

app = typer.Typer(no_args_is_help=True, help="Release and grade the coursework (nbgrader, the extra `coursework`).")
_Only = Annotated[list[str] | None, typer.Option("--only", metavar="NN", help=_ONLY)]
_Folder = Annotated[str, typer.Argument(metavar="DIR", help=_FOLDER)]


@app.command()
def release(
    folder: _Folder,
    only: _Only = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the prompts: another one changes every number.")] = 0,
    task: Annotated[str, typer.Option(metavar="NAME", help=_TASK)] = "ioi",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name or folder (default: patchlib's own).")
    ] = None,
    n_prompts: Annotated[int, typer.Option(metavar="N", help="Prompts, 4 or more.")] = 8,
    source: Annotated[str | None, typer.Option(metavar="FOLDER", help=_SOURCE)] = None,
) -> None:
    """Make the students' version, in DIR/release: no solutions, no hidden tests, a variant.json beside each."""
    from patchlib.coursework.release import release as release_notebooks
    from patchlib.coursework.variant import Variant

    named = {} if model is None else {"model": model}
    variant = Variant(task=task, seed=seed, n_prompts=n_prompts, **named)
    for path in release_notebooks(folder, variant, only or (), source):
        print(path)
    print(f"{variant}; what students hand in goes to {folder}/submitted/STUDENT/NN/")


@app.command()
def grade(
    folder: _Folder,
    only: _Only = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Submissions at a time, each with a model of its own.")] = 1,
    seconds: Annotated[float, typer.Option(metavar="S", help="That a submission may take.")] = 900,
    cell_seconds: Annotated[float, typer.Option(metavar="S", help="That a cell may, before it is interrupted.")] = 180,
    gigabytes: Annotated[float, typer.Option(metavar="GB", help="Of memory that a submission may take.")] = 3,
    again: Annotated[bool, typer.Option("--again", help="Grade what is graded already.")] = False,
) -> None:
    """Autograde DIR/submitted/STUDENT/NN/, and write DIR/grades.csv after each submission.

    What is graded is not graded again. Exit code 1 if a submission could not be executed: it hung, died, took too much
    memory, or is missing.
    """
    from patchlib.coursework.grade import failures
    from patchlib.coursework.grade import grade as grade_submissions

    limits: dict[str, Any] = {
        "workers": workers,
        "seconds": seconds,
        "cell_seconds": cell_seconds,
        "gigabytes": gigabytes,
    }
    table = grade_submissions(folder, only or (), again=again, told=lambda line: print(line, flush=True), **limits)
    by_student = table.groupby("student")[["points", "of"]].sum()
    print(by_student.to_string())
    print(f"{folder}/grades.csv has {len(table)} rows")
    raise typer.Exit(bool(failures(folder)))
