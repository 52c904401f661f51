"""The command `patchlib`: run notebooks headless, list models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from patchlib import __version__
from patchlib.errors import ModelError, PatchlibError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: all went well; 1: a notebook failed; 2: what was asked for cannot be done; 130: interrupted.
    """
    arguments = _parser().parse_args(argv)
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
    run = commands.add_parser("run", help=about, description=f"{about}. Exit code 1 if a notebook failed.")
    which = "a path, a name (02_head_patching) or a number (02); by default all of patchlib's"
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=which)
    pair, what = ("NAME", "VALUE"), "set a parameter of the notebooks; may be given again"
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=pair, help=what)
    run.add_argument("-o", dest="out_dir", default="out", metavar="DIR", help="output folder (default: out)")
    run.set_defaults(command=_run)

    models = commands.add_parser("models", help="list the models that can be loaded by name")
    models.add_argument("filter", nargs="?", default="", metavar="FILTER", help="part of a name")
    models.set_defaults(command=_models)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from patchlib.runs import run

    page = (Path(arguments.out_dir) / "index.html").resolve()
    try:
        records = run(arguments.notebooks, dict(arguments.parameters), arguments.out_dir)
    except KeyboardInterrupt:
        if page.is_file():
            print(f"The page so far: {page.as_uri()}")
        raise
    for record in records:
        memory = f"{record.peak_memory_mb:,.0f} MB" if record.peak_memory_mb else ""
        head = f"{record.status:<8}{record.notebook:<28}{record.wall_time_s:>8.1f} s"
        print(f"{head}  {record.error or memory}")
    print(f"Open the page: {page.as_uri()}")
    return int(any(record.status != "ok" for record in records))


def _models(arguments: argparse.Namespace) -> int:
    from patchlib.models import list_models

    names = [name for name in list_models() if arguments.filter.lower() in name.lower()]
    if not names:
        raise ModelError(f"no model's name contains {arguments.filter!r}; `patchlib models` lists them all")
    print("\n".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
