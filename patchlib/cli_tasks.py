"""The commands `patchlib check` and `patchlib tasks`: is there a contrast, in a file or in the field's tasks?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from patchlib.errors import TaskError

_MODEL = "Its name or folder (default: patchlib's own)."
_COLUMN = "Our name of a column and the file's, as in clean=prompt; may be given again."
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


def load(name: str | None, device: str | None) -> Any:
    """A model by its name, or patchlib's own."""
    from patchlib.models.default import DEFAULT_MODEL
    from patchlib.models.load import load_model

    return load_model(DEFAULT_MODEL if name is None else name, device=device)
