"""The command `patchlib`: run notebooks headless, check and report on runs, open JupyterLab, list and clear models.

Nothing here imports more than argparse before a command is called: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from patchlib import __version__
from patchlib.errors import ModelError, PatchlibError

if TYPE_CHECKING:
    from patchlib.models.cache import CachedModel

_PRECEDENCE = (
    "A parameter's value is the first that there is of: {}, the environment's PATCHLIB_PARAM_NAME (such as "
    "PATCHLIB_PARAM_N_PROMPTS=4, for the notebooks that have it), the notebook's own. `patchlib parameters` lists them."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: all went well; 1: a notebook failed; 2: what was asked for cannot be done; 130: interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    further: list[str] = []
    if words[:1] == ["lab"] and "--" in words:  # which argparse would take for the folder
        words, further = words[: (end := words.index("--"))], words[end + 1 :]
    arguments = _parser().parse_args(words, argparse.Namespace(further=further))
    try:
        return arguments.command(arguments)
    except PatchlibError as error:
        print(f"patchlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("patchlib: interrupted; what had finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="patchlib", description="Activation patching on language models.")
    parser.add_argument("--version", action="version", version=f"patchlib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    about = "execute notebooks headless; write each as .ipynb and .html, its results, a manifest, and an index of all"
    more = _PRECEDENCE.format("-p, the file of -f")
    run = commands.add_parser("run", help=about, description=f"{about}. Exit code 1 if a notebook failed.", epilog=more)
    which = "a path, a name (02_head_patching) or a number (02); by default all of patchlib's"
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=which)
    pair, what = ("NAME", "VALUE"), "set a parameter of the notebooks; may be given again"
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=pair, help=what)
    run.add_argument(
        "-f", dest="file", metavar="FILE", help="YAML with `name: value` lines: parameters of the notebooks"
    )
    run.add_argument("-o", dest="out_dir", default="out", metavar="DIR", help="output folder (default: out)")
    run.set_defaults(command=_in_runs("run"))

    about = "list the parameters of notebooks with type, default and comment"
    parameters = commands.add_parser("parameters", help=about, description=f"{about}.", epilog=more)
    parameters.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=which)
    parameters.set_defaults(command=_in_runs("parameters"))

    about = "run notebooks over a grid of parameters, many at a time; what is finished is not run again"
    more = _PRECEDENCE.format("the grid's or the single run's, the file's `parameters`")
    grid = commands.add_parser("grid", help=about, description=f"{about}. Exit code 1 if a run failed.", epilog=more)
    what = "YAML with notebooks, parameters (of all runs), grid (name: [values]), runs (single ones)"
    grid.add_argument("grid", metavar="GRID", help=what)
    grid.add_argument("-o", dest="out_dir", default="out", metavar="DIR", help="output folder (default: out)")
    grid.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    grid.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, instead of workers here")
    grid.add_argument("--threads", type=int, metavar="N", help="of each run (default: the cores shared by the workers)")
    grid.add_argument("--retries", type=int, default=1, metavar="N", help="for a run whose process died (default: 1)")
    grid.add_argument("--timeout", type=float, metavar="SECONDS", help="that a run may take")
    grid.add_argument("--force", action="store_true", help="repeat runs that other code or parameters made")
    grid.add_argument("--dry-run", action="store_true", help="print the runs and what is known of their time")
    grid.set_defaults(command=_in_runs("grid"))

    about = "run a sample of finished runs again, elsewhere, and compare their numbers"
    description = f"{about}. Exit code 1 if one differs."
    verify = commands.add_parser("verify", help=about, description=description)
    verify.add_argument("folder", nargs="?", default="out", metavar="FOLDER", help="the runs' (default: out)")
    verify.add_argument("--sample", type=int, default=3, metavar="N", help="how many runs (default: 3)")
    verify.add_argument("--seed", type=int, default=0, metavar="S", help="draws the sample (default: 0)")
    what = "difference that two numbers may have (default: what float32 noise can make)"
    verify.add_argument("--atol", type=float, metavar="X", help=f"absolute {what}")
    verify.add_argument("--rtol", type=float, metavar="X", help=f"relative {what}")
    verify.set_defaults(command=_in_runs("verify"))

    about = "list the models that can be loaded by name; fetch one; show and clear what is on this disk"
    models = commands.add_parser("models", help=about, description=f"{about}.")
    models.add_argument("filter", nargs="?", default="", metavar="FILTER", help="part of a name")
    one_of = models.add_mutually_exclusive_group()
    one_of.add_argument("--fetch", metavar="NAME", help="fetch a model now, so that it loads without a network later")
    one_of.add_argument("--cached", action="store_true", help="list the models on this disk with their sizes")
    clear = "delete a model from this disk; without a name, all in patchlib's own cache"
    one_of.add_argument("--clear", nargs="?", const="", metavar="NAME", help=clear)
    models.set_defaults(command=_models)

    about = "write report.html over the runs of a folder: a table, comparisons and figures, in one file"
    report = commands.add_parser("report", help=about, description=f"{about}.")
    report.add_argument("folder", nargs="?", default="out", metavar="FOLDER", help="the runs' (default: out)")
    report.set_defaults(command=_report)

    about = "open JupyterLab on a copy of the notebooks"
    more = "Files that you changed are kept. Further arguments of `jupyter lab` go after `--`."
    lab = commands.add_parser("lab", help=about, description=f"{about}. {more}")
    default = "patchlib-notebooks"
    lab.add_argument(
        "folder", nargs="?", default=default, metavar="FOLDER", help=f"for the copies (default: {default})"
    )
    lab.add_argument("--no-browser", action="store_true", help="print the address and open no browser")
    lab.add_argument("--copy-only", action="store_true", help="copy the notebooks and start nothing")
    lab.set_defaults(command=_lab)
    return parser


def _in_runs(name: str) -> Callable[[argparse.Namespace], int]:
    """A command of `patchlib.runs.commands`, imported when it is called: --help does not wait for it."""

    def command(arguments: argparse.Namespace) -> int:
        from patchlib.runs import commands

        return getattr(commands, name)(arguments)

    return command


def _models(arguments: argparse.Namespace) -> int:
    from patchlib.models.cache import cached_models, clear_models

    wanted = arguments.filter.lower()
    if arguments.cached:
        _print_models(model for model in cached_models() if wanted in model.name.lower())
    elif arguments.clear is not None:
        deleted = clear_models(arguments.clear or None)
        print("Deleted:" if deleted else "Nothing to delete.")
        _print_models(deleted)
    elif arguments.fetch:
        from patchlib.models.load import load_model

        load_model(arguments.fetch, device="cpu")
        print(f"{arguments.fetch} is on this disk.")
    else:
        from patchlib.models.names import list_models

        names = list_models(arguments.filter)
        if not names:
            raise ModelError(f"no model's name contains {arguments.filter!r}; `patchlib models` lists them all")
        print("\n".join(names))
    return 0


def _print_models(models: Iterable[CachedModel]) -> None:
    models = list(models)
    for model in models:
        print(f"{model.size / 1e6:>9,.0f} MB  {model.name}  ({model.where}: {model.folder})")
    print(f"{sum(model.size for model in models) / 1e6:>9,.0f} MB  in all")


def _report(arguments: argparse.Namespace) -> int:
    from patchlib.runs.report import write_report

    print(f"Open the page: {write_report(arguments.folder).as_uri()}")
    return 0


def _lab(arguments: argparse.Namespace) -> int:
    from patchlib.lab import copy_notebooks, open_lab

    copies = copy_notebooks(arguments.folder)
    print(f"Notebooks in {copies.folder}: {len(copies.new)} copied, {len(copies.same)} there already.")
    if copies.kept:
        print(f"Kept, because they differ from patchlib's: {', '.join(copies.kept)}. Rename one to get ours.")
    if not arguments.copy_only:
        open_lab(copies.folder, ["--no-browser"] * arguments.no_browser + arguments.further)
    return 0


if __name__ == "__main__":
    sys.exit(main())
