"""The page over all runs of a folder: the notebook "many runs", executed over it."""

from pathlib import Path

from patchlib.errors import RunError
from patchlib.runs.execute.kernel import execute
from patchlib.runs.execute.notebooks import notebook_folder
from patchlib.runs.execute.pages import write_page
from patchlib.runs.files import prepare_folder
from patchlib.runs.report.collect import collect

NOTEBOOK = "many_runs.ipynb"


def write_report(folder: str | Path) -> Path:
    """Write `report.html` over the runs of a folder that `patchlib grid` or `patchlib run` wrote.

    It is the page of patchlib's notebook "many runs", executed over the folder; ``report.ipynb`` beside it is that
    notebook, to go on from. The page holds all that it shows and asks nothing of the network, so that it can be sent to
    somebody; its links to the runs' own pages work where the folder is. Runs that failed are in it with their errors.

    Args:
        folder: As given with ``-o``.

    Returns:
        The path of the page.

    Raises:
        RunError: There are no runs in the folder, or the page cannot be written.

    Example:
        >>> patchlib.write_report(tmp_path)
        Traceback (most recent call last):
            ...
        patchlib.errors.RunError: there are no runs in ...
    """
    place = prepare_folder(collect(folder).folder)
    executed, page = place / "report.ipynb", place / "report.html"
    executed.unlink(missing_ok=True)  # a link, in a folder from elsewhere, would lead to the file that is written
    error = execute(notebook_folder() / NOTEBOOK, executed, {"folder": str(place)})
    if error:
        raise RunError(f"the report could not be made: {error}; {executed} has what there is of it")
    write_page(executed, page, closed=True)
    return page
