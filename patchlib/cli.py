"""The command `patchlib`: run notebooks headless, check and report on runs, open JupyterLab, list and clear models.

Nothing here imports more than typer before a command is called: `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer

from patchlib import __version__, cli_coursework, cli_tasks
from patchlib._dask import dask_executor
from patchlib._terminal import Steady, ended_by_signals
from patchlib._util import without_grammar_of_addresses
from patchlib.errors import ModelError, PatchlibError

_PRECEDENCE = (
    "A parameter's value is the first that there is of: {}, the environment's PATCHLIB_PARAM_NAME (such as "
    "PATCHLIB_PARAM_N_PROMPTS=4, for the notebooks that have it), the notebook's own. `patchlib parameters` lists them."
)
_WHICH = "A path, a name (02_head_patching) or a number (02); by default all of patchlib's."
_PAIR = "Set a parameter of the notebooks, to Python's or JSON's value; -p NAME=VALUE too; may be given again."
_RAW = "The same, to text as it stands."
_FILE = "YAML with `name: value` lines: parameters of the notebooks."
_GRID = (
    "YAML with notebooks, parameters (of all runs), grid (name: [values], or name: {files: PATTERN}, as in data: "
    '{files: "prompts/*.csv"}), runs (single ones).'
)
_SCHEDULER = "Of a Dask scheduler, instead of workers here."
_TRUSTED = "One that is not patchlib's and may be run, for the runs of its name; may be given again."
_WAIT = "That a scheduler may be without a worker."
_THREADS = "Of each run (default: the cores shared by the workers)."
_FETCH = "Fetch a model now, so that it loads without a network later."
_CLEAR = "Delete the model of that name from this disk; without a name, all in patchlib's own cache."


class _Commands(typer.core.TyperGroup):
    """Commands whose errors, where they are ours, are one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; 2 where what was asked for cannot be done, 130 where it was interrupted."""
        try:
            with ended_by_signals():
                return super().invoke(ctx)
        except PatchlibError as error:
            typer.echo(f"patchlib: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("patchlib: interrupted; what had finished is kept", err=True)
            raise typer.Exit(130) from interrupt


app = typer.Typer(cls=_Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: all went well; 1: a notebook failed; 2: what was asked for cannot be done; 130: interrupted.
    """
    without_grammar_of_addresses()
    out, err = Steady(sys.stdout), Steady(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            app(None if arguments is None else list(arguments), prog_name="patchlib")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


class _Run(typer.core.TyperCommand):
    """A command with options as typer has none: of two words, and given as often as one likes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Make one word of NAME and VALUE behind each -p and -r."""
        words: list[str] = []
        left = iter(args)
        for word in left:
            if word == "--":
                words += [word, *left]
            elif word in ("-p", "-r") and (name := next(left, None)) is not None:
                if not name.partition("=")[0].isidentifier() or "=" not in name:
                    value = next(left, None)
                    name += "" if value is None else f"={value}"
                words.append(word + name)
            else:
                words.append(word)
        return super().parse_args(ctx, words)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"patchlib {__version__}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")]


@app.callback()
def _patchlib(version: _Version = False) -> None:
    """Activation patching on language models."""


_Notebooks = Annotated[list[str] | None, typer.Argument(metavar="[NOTEBOOK]...", help=_WHICH)]
_OutDir = Annotated[str, typer.Option("-o", metavar="DIR", help="Output folder.")]
_Folder = Annotated[str, typer.Argument(metavar="[FOLDER]", help="The runs'.")]


@app.command(cls=_Run, epilog=_PRECEDENCE.format("-p, the file of -f"))
def run(
    notebooks: _Notebooks = None,
    parameters: Annotated[list[str] | None, typer.Option("-p", metavar="NAME VALUE", help=_PAIR)] = None,
    raw: Annotated[list[str] | None, typer.Option("-r", metavar="NAME TEXT", help=_RAW)] = None,
    file: Annotated[str | None, typer.Option("-f", metavar="FILE", help=_FILE)] = None,
    out_dir: _OutDir = "out",
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="That a notebook may take.")] = None,
    cell_timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="That each of its cells may.")] = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Pages with text and results only.")] = False,
) -> None:
    """Execute notebooks headless; write each as .ipynb and .html, its results, a manifest, and an index of all.

    Exit code 1 if a notebook failed.
    """
    from patchlib.runs.execute.parameters import CommandText, RawText, from_environment
    from patchlib.runs.execute.runner import run as run_notebooks
    from patchlib.runs.plain_yaml import read_yaml

    page = (Path(out_dir) / "index.html").resolve()
    given = read_yaml(file, "the file of parameters") if file else {}
    for option, kind, pairs in (("-p", CommandText, parameters), ("-r", RawText, raw)):
        for name, sign, value in (pair.partition("=") for pair in pairs or []):
            if not sign:
                raise typer.BadParameter(f"{name!r} lacks a value", param_hint=f"{option} NAME VALUE")
            given[name] = kind(value)
    how: dict[str, Any] = {"timeout": timeout, "cell_timeout": cell_timeout, "code": not no_code}
    try:
        records = run_notebooks(notebooks, given, out_dir, defaults=from_environment(), **how)
    except KeyboardInterrupt:
        if page.is_file():
            print(f"The page so far: {page.as_uri()}")
        raise
    for record in records:
        say(vars(record) | {"name": record.notebook})
        for note in record.notes:
            print(f"{'':<12}{record.notebook}: {note}")
    print(f"Open the page: {page.as_uri()}")
    raise typer.Exit(any(record.status != "ok" for record in records))


@app.command(epilog=_PRECEDENCE.format("-p, the file of -f"))
def parameters(notebooks: _Notebooks = None) -> None:
    """List the parameters of notebooks with type, default and comment."""
    from patchlib.runs.execute.notebooks import named_notebooks
    from patchlib.runs.execute.parameters import declared_parameters, defaults_of, from_environment, variable

    for name, path in named_notebooks(notebooks).items():
        print(name)
        declared = declared_parameters(path)
        environment = defaults_of(declared, from_environment())
        for name, parameter in declared.items():
            head = f"{name}{': ' * bool(parameter.kind)}{parameter.kind} = {parameter.default!r}"
            now = f" [now {environment[name]!r}, from {variable(name)}]" if name in environment else ""
            print(f"  {head:<40}  {parameter.comment}{now}".rstrip())
        if not declared:
            print("  takes no parameters")


@app.command(epilog=_PRECEDENCE.format("the grid's or the single run's, the file's `parameters`"))
def grid(
    plan: Annotated[str, typer.Argument(metavar="GRID", help=_GRID)],
    out_dir: _OutDir = "out",
    workers: Annotated[int, typer.Option(metavar="N", help="Runs at a time.")] = 1,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_SCHEDULER)] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help=_THREADS)] = None,
    retries: Annotated[int, typer.Option(metavar="N", help="For a run whose process died.")] = 1,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="That a run may take.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat runs that other code or parameters made.")] = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help=_WAIT)] = 300,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and what is known of their time.")] = False,
) -> None:
    """Run notebooks over a grid of parameters, many at a time; what is finished is not run again.

    Exit code 1 if a run failed.
    """
    from patchlib.runs.execute.parameters import from_environment
    from patchlib.runs.grid.finished import dry_run as what_it_would_do
    from patchlib.runs.grid.plan import read_grid
    from patchlib.runs.grid.schedule import check_settings, run_grid

    runs = read_grid(plan, from_environment())
    settings: dict[str, Any] = {"workers": workers, "threads": threads, "retries": retries, "timeout": timeout}
    check_settings(**settings, wait=wait)
    if dry_run:
        print(what_it_would_do(runs, Path(out_dir).resolve(), workers, force))
        return
    with dask_executor(scheduler) as executor:
        statuses = run_grid(runs, out_dir, executor, told=say, force=force, wait=wait, **settings)
    counts = Counter(status["status"] for status in statuses)
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    from patchlib.runs.report.write import write_report  # not before: the driver of a night does without papermill

    print(f"Open the page: {write_report(out_dir).as_uri()}")
    raise typer.Exit(counts["ok"] < len(statuses))


def say(status: dict[str, Any]) -> None:
    """A line about a run that ended."""
    seconds = f"{status['wall_time_s']:.1f} s" if status.get("wall_time_s") is not None else ""  # lost with its worker
    memory = f"{status['peak_memory_mb']:,.0f} MB" if status.get("peak_memory_mb") else ""
    print(f"{status['status']:<12}{seconds:>10}  {status['name']}  {status['error'] or memory}".rstrip())


@app.command()
def verify(
    folder: _Folder = "out",
    sample: Annotated[int, typer.Option(metavar="N", help="How many runs.")] = 3,
    seed: Annotated[int, typer.Option(metavar="S", help="Draws the sample.")] = 0,
    atol: Annotated[float, typer.Option(metavar="X", help="Absolute difference that two numbers may have.")] = 1e-4,
    rtol: Annotated[float, typer.Option(metavar="X", help="Relative difference, added to it.")] = 1e-3,
    notebook: Annotated[list[str] | None, typer.Option(metavar="PATH", help=_TRUSTED)] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="That a run may take.")] = None,
) -> None:
    """Run a sample of finished runs again, elsewhere, and compare their numbers.

    Exit code 1 if one differs by more than float32 noise can make, which is what --atol and --rtol are by default.
    """
    from patchlib.runs.report.verify import verify as verify_runs

    def say(row: dict[str, Any]) -> None:
        head = f"{'same' if row['same'] else 'DIFFERS':<9}{row['n_values']:>9,}{row['largest']:>11.2g}"
        print(f"{head}  {row['run']}  {row['file']}  {row['note']}".rstrip(), flush=True)

    print(f"{'':<9}{'values':>9}{'largest':>11}  run, file")
    table = verify_runs(folder, sample, seed, atol, rtol, say, notebook or (), timeout)
    print(f"{table.run.nunique()} runs again: {table.same.sum()} of {len(table)} files have the same numbers")
    raise typer.Exit(not table.same.all())


@app.command()
def models(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Or part of it.")] = "",
    fetch: Annotated[bool, typer.Option("--fetch", help=_FETCH)] = False,
    cached: Annotated[bool, typer.Option("--cached", help="List the models on this disk with their sizes.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help=_CLEAR)] = False,
) -> None:
    """List the models that can be loaded by name; fetch one; show and clear what is on this disk."""
    if fetch + cached + clear > 1 or (fetch and not name):
        raise typer.BadParameter("--fetch NAME, --cached and --clear do not go together")
    if fetch:
        from patchlib.models.load import load_model

        load_model(name, device="cpu")
        print(f"{name} is on this disk.")
    elif cached or clear:
        from patchlib.models.cache import cached_models, clear_models

        listed = clear_models(name or None) if clear else cached_models()
        listed = [model for model in listed if name.lower() in model.name.lower()]
        for model in listed:
            print(f"{model.size / 1e6:>9,.0f} MB  {model.name}  ({model.where}: {model.folder})")
        print(f"{sum(model.size for model in listed) / 1e6:>9,.0f} MB  {'deleted' if clear else 'in all'}")
    else:
        from patchlib.models.names import list_models

        if not (names := list_models(name)):
            raise ModelError(f"no model's name contains {name!r}; `patchlib models` lists them all")
        print("\n".join(names))


@app.command()
def report(folder: _Folder = "out") -> None:
    """Write report.html over the runs of a folder: a table, comparisons and figures, in one file."""
    from patchlib.runs.report.write import write_report

    print(f"Open the page: {write_report(folder).as_uri()}")


@app.command()
def lab(
    words: Annotated[list[str] | None, typer.Argument(metavar="[FOLDER] [-- ARGUMENTS]")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")] = False,
    copy_only: Annotated[bool, typer.Option("--copy-only", help="Copy the notebooks and start nothing.")] = False,
) -> None:
    """Open JupyterLab on a copy of the notebooks, in FOLDER (default: patchlib-notebooks).

    Files that you changed are kept. Further arguments of `jupyter lab`, such as --port=8899, go after `--`.
    """
    from patchlib.runs.lab import copy_notebooks, open_lab

    further = list(words or [])
    folder = further.pop(0) if further and not further[0].startswith("-") else "patchlib-notebooks"
    copies = copy_notebooks(folder)
    print(f"Notebooks in {copies.folder}: {len(copies.new)} copied, {len(copies.same)} there already.")
    if copies.kept:
        print(f"Kept, because they differ from patchlib's: {', '.join(copies.kept)}. Rename one to get ours.")
    if not copy_only:
        open_lab(copies.folder, ["--no-browser"] * no_browser + further)


app.add_typer(cli_coursework.app, name="coursework")
app.command()(cli_tasks.check)
app.command()(cli_tasks.tasks)

if __name__ == "__main__":
    sys.exit(main())
