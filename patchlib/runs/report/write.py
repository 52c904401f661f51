"""A page over all runs of a folder: table, comparisons, figures; one file that opens from disk with no network."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from patchlib import __version__
from patchlib.errors import RunError
from patchlib.runs.collect import OK, Collection, Run, collect
from patchlib.runs.compare import compare, swept
from patchlib.runs.effects import Effects, first_effects, read_effects
from patchlib.runs.pages import write_template
from patchlib.runs.pictures import pictures
from patchlib.runs.status import duration

FIGURE_BYTES = 20_000_000
"""Most that the runs' figures may take together in the page, which a browser still opens at once."""
CHOICES = 40
"""Values of a parameter up to which it is chosen from a list."""


@dataclass(frozen=True)
class Row:
    """One run as the table shows it; addresses are relative to the page."""

    run: Run
    label: str
    error: str | None
    effects: Effects | None
    page: str | None
    notebook: str | None


@dataclass
class Gallery:
    """The same figure of all runs of a notebook: `thumbs` are (row, number of the figure, title)."""

    notebook: str
    title: str
    thumbs: list[tuple[int, int, str]] = field(default_factory=list)


def write_report(folder: str | Path) -> Path:
    """Write `report.html` over the runs of a folder that `patchlib grid` or `patchlib run` wrote.

    The page holds all that it shows and asks nothing of the network, so that it can be sent to somebody; its links
    to the runs' own pages work where the folder is. Runs that failed are in it with their errors.

    Args:
        folder: As given with ``-o``.

    Returns:
        The path of the page.

    Raises:
        RunError: There are no runs in the folder, or the page cannot be written.
    """
    found = collect(folder)
    names = swept(found.found)
    effects, errors = read_effects(found.found)
    comparisons = compare(found.found, effects)
    figures: list[dict[str, Any]] = [{"title": one.title, "plotly": one.figure} for one in comparisons]
    galleries, left_out = _galleries(found.found, figures, errors)
    first = first_effects(effects)
    rows = [_row(found, run, names, first.get(run.name), errors.get(run.name)) for run in found.found]
    own = Path(__file__).with_name("report.js").read_text("utf-8")
    scripts = (get_plotlyjs(), own)
    page = found.folder / "report.html"
    write_template(
        page,
        folder=found.folder,
        rows=rows,
        swept=names,
        headlines=list(dict.fromkeys(name for run in found.found for name in run.headline)),
        fixed=_fixed(rows, names),
        choices=_choices(rows, names),
        facts=_facts(found),
        comparisons=comparisons,
        galleries=galleries,
        left_out=left_out,
        figures=json.dumps(figures, cls=PlotlyJSONEncoder).replace("<", "\\u003c"),  # no tag ends or begins in it
        scripts=scripts,
        # Only these scripts run, whatever a result may hold, and nothing is fetched.
        allowed=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )
    return page


def _digest(script: str) -> str:
    return b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _row(found: Collection, run: Run, names: Sequence[str], effects: Effects | None, error: str | None) -> Row:
    here = run.folder.relative_to(found.folder)
    files = [f"{run.notebook}.{ending}" for ending in ("html", "ipynb")]
    addresses = [(here / name).as_posix() if (run.folder / name).is_file() else None for name in files]
    values = ", ".join(f"{name}={run.parameters[name]}" for name in names if name in run.parameters)
    return Row(run, values or run.name, run.error or error, effects, *addresses)


def _galleries(runs: Sequence[Run], figures: list[dict[str, Any]], errors: dict[str, str]) -> tuple[list[Gallery], int]:
    """One gallery for each figure of each notebook, its figures added to `figures`; and how many runs have no room."""
    galleries: dict[tuple[str, tuple[int, int]], Gallery] = {}
    room, left_out = FIGURE_BYTES, 0
    for number, run in enumerate(runs):
        executed = run.folder / f"{run.notebook}.ipynb"
        if not executed.is_file():
            continue
        try:
            found = pictures(executed)
        except RunError as error:  # shown with the run
            errors[run.name] = str(error)
            continue
        if (size := sum(picture.size for picture in found)) > room:
            left_out += 1
            continue
        room -= size
        for picture in found:
            here = f"Figure in cell {picture.place[0] + 1}"
            title = picture.title or here
            gallery = galleries.setdefault((run.notebook, picture.place), Gallery(run.notebook, title))
            gallery.title = title if title == gallery.title else here  # a title that names one run is not all runs'
            gallery.thumbs.append((number, len(figures), title))
            figures.append({"title": title, "plotly": picture.plotly, "address": picture.address})
    return [galleries[key] for key in sorted(galleries)], left_out


def _fixed(rows: Sequence[Row], names: Sequence[str]) -> dict[str, str]:
    """Parameters that all runs of a notebook share, with its name where another has another value."""
    values: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for name, value in row.run.parameters.items():
            if name not in names:
                notebooks = values.setdefault(name, {}).setdefault("(empty)" if value == "" else str(value), [])
                notebooks += [row.run.notebook] if row.run.notebook not in notebooks else []
    return {
        name: " or ".join(f"{value} ({', '.join(where)})" if len(by) > 1 else value for value, where in by.items())
        for name, by in values.items()
    }


def _choices(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[str]]:
    """What the table can be filtered by: name of a column -> its values."""
    columns = {"status": [row.run.status for row in rows], "notebook": [row.run.notebook for row in rows]}
    names = [name for name in names if name not in columns]
    columns |= {name: [str(r.run.parameters[name]) for r in rows if name in r.run.parameters] for name in names}
    different = {name: list(dict.fromkeys(values)) for name, values in columns.items()}
    return {name: values for name, values in different.items() if 1 < len(values) <= CHOICES}


def _facts(found: Collection) -> Mapping[str, str]:
    """The summary line."""
    runs = found.found
    counts = Counter(run.status for run in runs)
    seconds = sum(run.wall_time_s or 0 for run in runs)
    peaks = [run.peak_memory_mb for run in runs if run.peak_memory_mb]
    order = sorted(counts, key=lambda status: (status != OK, -counts[status]))
    facts = {"Runs": ", ".join(f"{counts[status]} {status}" for status in order)}
    facts["Notebooks"] = ", ".join(dict.fromkeys(run.notebook for run in runs))
    if models := dict.fromkeys(model for run in runs for model in run.models):
        facts["Models"] = ", ".join(models)
    facts["Time, all runs"] = duration(seconds)
    return facts | ({"Most memory": f"{max(peaks):,.0f} MB"} if peaks else {})
