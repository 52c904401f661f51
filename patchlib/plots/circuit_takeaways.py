"""What the figures and tables of a circuit say in words, made from the data: true for any model and task."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from patchlib.circuits.discovery import Discovery
from patchlib.plots.takeaways import METRIC_NAMES


def of_writers(attribution: xr.DataArray, attention: xr.DataArray) -> str:
    """Who writes most towards the answer and most against it, and where each of them looks."""
    mean, looks = attribution.mean("example"), attention.mean("example")
    said = []
    cells = mean.stack(cell=("layer", "head"))
    for words, i in (("towards the answer", cells.values.argmax()), ("against it", cells.values.argmin())):
        cell = cells[i]
        at = {axis: int(cell[axis].item()) for axis in ("layer", "head")}
        value, seen = float(cell), looks.sel(at)
        role = str(seen.role.values[seen.values.argmax()])
        said.append(
            f"L{at['layer']}H{at['head']} writes most {words} ({value:+.2f} logits) and attends most to {role} "
            f"({float(seen.max()):.2f})"
        )
    return "; ".join(said) + "."


def of_inputs(discovery: Discovery) -> str:
    """For each group of heads, which of their inputs matter, and which of these other heads write."""
    said = []
    for heads, rows in discovery.inputs.groupby("heads", sort=False):
        matter = rows.dropna(subset="through_heads").sort_values("effect", ascending=False)
        told = [
            f"{row.site} at {row.at} ({row.effect:.2f}, of which {row.through_heads:.2f} through other heads)"
            for row in matter.itertuples()
        ]
        said.append(f"{heads}: {', '.join(told) or 'no input stands out'}.")
    return " ".join(said)


def of_roles(discovery: Discovery) -> str:
    """How many heads were found, and those of each role, in the order of the stream."""
    named = [
        f"{role} {heads} at {at}"
        for role, heads, at in discovery.circuit.table().itertuples()
        if not role.startswith("unnamed")
    ]
    unnamed = int((discovery.roles.role == "unnamed").sum())
    found = f"{len(discovery.circuit.heads)} heads: {'; '.join(named) or 'none with a name'}"
    return found + (f"; {unnamed} without a name." if unnamed else ".")


def of_backup(table: pd.DataFrame) -> str:
    """Which head writes more than before, and what all the others together make up for."""
    top = table.iloc[0]
    names = f"L{top['layer']:.0f}H{top['head']:.0f}"
    made_up = f"all other heads together {table.change.sum():+.2f}"
    if not top.ci_low > 0:
        return f"Without {table.attrs['knocked_out']} no head's increase stands out; {made_up} logits."
    return (
        f"Without {table.attrs['knocked_out']}, {names} writes {top.change:+.2f} [{top.ci_low:.2f}, {top.ci_high:.2f}] "
        f"logits more of the answer than before; {made_up}."
    )


def of_knock_out(table: pd.DataFrame) -> str:
    """What each named set's loss does, and the range of the random sets."""
    change, metric = table.drop(index="none"), METRIC_NAMES.get(table.attrs["metric"], table.attrs["metric"])
    chance = change.index.str.startswith("random ")
    said = [
        f"without {name} ({row['heads']}) the {metric} changes by {row.change:+.2f} "
        f"[{row.ci_low:.2f}, {row.ci_high:.2f}]"
        for name, row in change[~chance].iterrows()
    ]
    sentence = "; ".join(said)
    if chance.any():
        others = change.change[chance]
        sentence += (
            f"; {len(others)} random sets of as many heads in the same layers change it by {others.min():+.2f} to "
            f"{others.max():+.2f}, mean {others.mean():+.2f}"
        )
    return f"From {table['mean']['none']:.2f}: {sentence}. n = {table.n.iloc[0]}."


def of_faithfulness(found: pd.Series) -> str:
    """The ratio with its interval, the floor, and the protocol that they depend on."""
    interval = "" if pd.isna(found.ci_low) else f" [{found.ci_low:.2f}, {found.ci_high:.2f}]"
    return (
        f"{found.n_heads} heads alone give {found.circuit:.2f} of the model's {found.model:.2f}: faithfulness "
        f"{found.faithfulness:.2f}{interval}; with no head at all {found.floor:.2f}. Protocol: {found.protocol}."
    )


def of_completeness(table: pd.DataFrame) -> str:
    """The set of heads without which circuit and model differ most."""
    worst = table.loc[table.incompleteness.idxmax()]
    return (
        f"Circuit and model differ most without {worst['heads'] or 'nothing'} ({worst.kind}): {worst.circuit:.2f} "
        f"against {worst.model:.2f}, an incompleteness of {worst.incompleteness:.2f}; with nothing removed "
        f"{table.incompleteness.iloc[0]:.2f}."
    )


def of_minimality(table: pd.DataFrame, least: float = 0.01) -> str:
    """The head that adds most, and those that hardly add anything."""
    top, idle = table.iloc[0], table[table.share < least]
    sentence = f"{top['head']} adds most ({top.share:.0%} of the model's metric)"
    if idle.empty:
        return f"{sentence}; every head adds at least {table.share.min():.1%}."
    return f"{sentence}; {', '.join(idle['head'])} {'adds' if len(idle) == 1 else 'add'} less than {least:.0%}."
