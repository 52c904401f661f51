"""The notebooks' sentences, each held against what was saved: a rule says where it is true, by its own arithmetic.

A rule is a pattern and a function of its match and of what was saved: True where some saved result makes the sentence
true, False where there is one that it could be of and none does, None where nothing of the kind was saved.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from tests.seeds.saved import Saved

NUMBER = r"([-+]?\d+\.\d+)"
CELL = r"(L\d+(?:H\d+|KV\d+)?(?: at \S+?)?)"
Rule = Callable[[re.Match[str], Saved], bool | None]
RULES: dict[str, Rule] = {}


def rule(pattern: str) -> Callable[[Rule], Rule]:
    """Register what decides of the sentences that match."""

    def register(decide: Rule) -> Rule:
        RULES[pattern] = decide
        return decide

    return register


def close(value: float, written: str) -> bool:
    """Is it what was written, rounded to as many decimals?"""
    decimals = len(written.partition(".")[2])
    return bool(abs(value - float(written)) <= 0.501 * 10.0**-decimals + 1e-6)


@rule(rf"Largest effect( in size)?: {CELL} with {NUMBER} \[{NUMBER}, {NUMBER}\], n = (\d+); (\d+) of (\d+) cells")
def largest(match: re.Match[str], saved: Saved) -> bool | None:
    """The cell has this effect, none of that result has one larger in size, and so few hold half of the positive."""
    in_size, name, value, low, high, _, n_half, n_cells = match.groups()
    if not float(low) <= float(value) <= float(high) or (in_size is not None) != value.startswith("-"):
        return False
    verdicts = []
    for _, effects in saved.effects.values():
        if len(effects) != int(n_cells) or not close(effects.get(name, np.nan), value):
            continue  # another result, or a result of which this sentence would be false
        positive = effects.clip(lower=0).sort_values(ascending=False).cumsum()
        half = int((positive < positive.iloc[-1] / 2 - 1e-9).sum()) + 1
        verdicts.append(abs(effects).max() <= abs(effects[name]) + 1e-6 and half == int(n_half))
    return any(verdicts) if saved.effects else None


@rule(rf"; {CELL} pushes the other way, {NUMBER}")
def other_way(match: re.Match[str], saved: Saved) -> bool | None:
    """No cell of that result has a larger effect of that sign."""
    name, value = match.groups()
    sign = np.sign(float(value))
    of_it = [effects for _, effects in saved.effects.values() if close(effects.get(name, np.nan), value)]
    return any((sign * effects).max() <= abs(effects[name]) + 1e-6 for effects in of_it) if saved.effects else None


@rule(rf"At layer (\d+) it all sits at (S\d|IO|END|position \d+)[^;]*?\({NUMBER}\); (\w+|position \d+)(?: \([^)]*\))? "
      r"first holds more than half of it at layer (\d+)(?:, and from layer (\d+) on)?")  # fmt: skip
def positions(match: re.Match[str], saved: Saved) -> bool | None:
    """The first layer's and the last layer's place, where the second first holds half, and where the first is empty."""
    low, origin, at_low, goal, arrives, leaves = match.groups()
    origin, goal = (place.removeprefix("position ") for place in (origin, goal))
    verdicts = []
    for _, effects in saved.effects.values():
        layers = sorted({int(name[1:].split(" ")[0]) for name in effects.index if re.match(r"L\d+ at", name)})
        if not layers or f"L{layers[0]} at {origin}" not in effects or f"L{layers[0]} at {goal}" not in effects:
            continue
        at_origin, at_goal = (np.array([effects[f"L{i} at {place}"] for i in layers]) for place in (origin, goal))
        holding = np.flatnonzero(abs(at_origin) >= 0.1)
        left = layers[holding[-1] + 1] if holding.size and holding[-1] + 1 < len(layers) else None
        right = layers[0] == int(low) and close(at_origin[0], at_low) and bool((at_goal > 0.5).any())
        right = right and layers[int((at_goal > 0.5).argmax())] == int(arrives)
        verdicts.append(right and (leaves is None or left == int(leaves)))
    return any(verdicts) if saved.effects else None


@rule(
    rf"The two differ by {NUMBER} at most \({CELL}: denoising {NUMBER}, noising {NUMBER}\) and by {NUMBER} on average"
)
def directions(match: re.Match[str], saved: Saved) -> bool | None:
    """The two maps, cell by cell."""
    most, name, denoising, noising, mean = match.groups()
    by_way = {way: [e for found, e in saved.effects.values() if found == way] for way in ("denoise", "noise")}
    pairs = [(a, b) for a in by_way["denoise"] for b in by_way["noise"] if set(a.index) == set(b.index)]
    return bool(pairs) and any(
        close(abs(a - b).max(), most) and close(a[name], denoising) and close(b[name], noising)
        and close(abs(a - b).mean(), mean)
        for a, b in pairs
    )  # fmt: skip


@rule(rf"gradient: Pearson {NUMBER}, Spearman {NUMBER}, (\d+) of the ten largest of (\d+) cells; it misses {CELL} most")
def estimates(match: re.Match[str], saved: Saved) -> bool | None:
    """Both correlations, the shared ten, and the largest miss, of the saved estimate against the saved sweep."""
    pearson, spearman, n_shared, n_cells, missed = match.groups()
    data, exact = saved.array("gradient"), saved.effects.get("exact", ("", pd.Series(dtype=float)))[1]
    if data is None or len(exact) != int(n_cells):
        return None
    estimate = data.effect.isel(metric=0).to_series()
    estimate.index = [f"L{layer}H{head}" for layer, head in estimate.index]
    shared = set(abs(estimate).nlargest(10).index) & set(abs(exact).nlargest(10).index)
    return (
        close(estimate.corr(exact), pearson) and close(estimate.corr(exact, "spearman"), spearman)
        and len(shared) == int(n_shared) and abs(estimate - exact).idxmax() == missed
    )  # fmt: skip


@rule(rf"(\d+) heads? alone gives? {NUMBER} of the model's {NUMBER}: faithfulness {NUMBER} \[{NUMBER}, {NUMBER}\]; "
      rf"with no head at all {NUMBER}\. (.*?)\. Protocol")  # fmt: skip
def faithfulness(match: re.Match[str], saved: Saved) -> bool | None:
    """The numbers, that the ratio is of the two, and that the verdict is what the interval says."""
    table = saved.table("faithful")
    if table is None:
        return None
    n, circuit, model, ratio, low, high, floor, verdict = match.groups()
    row = table.iloc[0]
    right = int(row.n_heads) == int(n) and close(row.circuit, circuit) and close(row.model, model)
    right = right and close(row.floor, floor) and close(row.circuit / row.model, ratio)
    right = right and close(row.ci_low, low) and close(row.ci_high, high)
    if "no better" in verdict or row.circuit <= row.floor:
        return right and "no better" in verdict and row.circuit <= row.floor
    if "more than half" in verdict:
        return right and row.ci_low > 0.5
    return right and ("open" not in verdict or row.ci_low <= 0.5 <= row.ci_high)


@rule(rf"From {NUMBER}: without (the writers|the induction heads) \([^)]*\) the (?:logit difference|loss of the "
      rf"second copy) changes by {NUMBER} \[{NUMBER}, {NUMBER}\]; (\d+) random sets of as many heads in the same "
      rf"layers change it by {NUMBER} to {NUMBER}, mean [-+.\d]+\. n = \d+\. (No|\d+)")  # fmt: skip
def knocked_out(match: re.Match[str], saved: Saved) -> bool | None:
    """The change and its interval, and the range of the random sets."""
    start, name, change, low, high, n_random, least, most, n_alike = match.groups()
    tables = [table for table in map(saved.table, ("knocked", "in_text")) if table is not None]
    if not tables:
        return None
    verdicts = []
    for table in (table.set_index(table.columns[0]) for table in tables):
        random = table.change[[str(label).startswith("random") for label in table.index]]
        verdicts.append(
            name in table.index and len(random) == int(n_random) and close(table.metric_mean.iloc[0], start)
            and close(table.change[name], change) and close(table.ci_low[name], low)
            and close(table.ci_high[name], high) and close(random.min(), least) and close(random.max(), most)
            and (abs(random) >= abs(table.change[name])).sum() == int(n_alike.replace("No", "0"))
        )  # fmt: skip
    return any(verdicts)


@rule(r"(\w+): (-?\d+\.\d\d) clean, (-?\d+\.\d\d) corrupted, (a contrast|no usable contrast)")
def contrast(match: re.Match[str], saved: Saved) -> bool | None:
    """The means, and that what is divided by is not below 0."""
    data = saved.array(match.group(1))
    if data is None:
        return None
    clean, corrupted = (float(data[name].isel(metric=0).mean()) for name in ("clean", "corrupted"))
    right = close(clean, match.group(2)) and close(corrupted, match.group(3))
    return right and (match.group(4) != "a contrast" or 0 < clean > corrupted)


@rule(rf"Largest effect in size in (\w+): {NUMBER} where the word is broken, {NUMBER} where the place is")
def two_breaks(match: re.Match[str], saved: Saved) -> bool | None:
    """Of each sweep the effect that is largest in size."""
    site, *written = match.groups()
    if f"{site}_word" not in saved.effects:
        return None
    both = [saved.effects[f"{site}_{name}"][1] for name in ("word", "place")]
    return all(close(effects[abs(effects).idxmax()], value) for effects, value in zip(both, written, strict=True))


@rule(r"(?<!of the )(\d+) heads: ((?:[A-Za-z -]+ (?:L\d+H\d+(?:, )?)+ at \S+; )+)(\d+) without a name")
def head_types(match: re.Match[str], saved: Saved) -> bool | None:
    """As many heads, of these types, at these positions, and as many without a name."""
    table = saved.table("head_types")
    if table is None:
        return None
    n, named, n_unnamed = match.groups()
    unnamed = table.head_type.str.startswith("unnamed")
    found = {(row.head_type, f"L{row.layer}H{row.head_index}", row.position) for row in table[~unnamed].itertuples()}
    said = set()
    for part in named.removesuffix("; ").split("; "):
        kind, heads, position = re.fullmatch(r"([A-Za-z -]+?) ((?:L\d+H\d+(?:, )?)+) at (\S+)", part).groups()  # type: ignore[union-attr]
        said |= {(kind, head, position) for head in heads.split(", ")}
    return len(table) == int(n) and said == found and int(unnamed.sum()) == int(n_unnamed)


@rule(rf"Highest induction scores: (L\d+H\d+) {NUMBER}.*?; (\d+) of (\d+) heads above 0\.2")
def scores(match: re.Match[str], saved: Saved) -> bool | None:
    """The highest score, and how many exceed the bound."""
    data = saved.array("scores")
    if data is None:
        return None
    name, value, n_above, n = match.groups()
    flat = data.induction.to_series()
    highest = "L{}H{}".format(*flat.idxmax())
    return highest == name and close(flat.max(), value) and (flat > 0.2).sum() == int(n_above) and flat.size == int(n)


def judged(saved: Saved) -> dict[str, bool | None]:
    """Every sentence of a known kind, and whether it holds."""
    return {
        found.group(0): decide(found, saved)
        for pattern, decide in RULES.items()
        for found in re.finditer(pattern, saved.printed)
    }
