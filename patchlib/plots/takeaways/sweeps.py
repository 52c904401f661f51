"""What sweeps, patterns of attention and scores of heads say in words."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from patchlib import stats
from patchlib._util import check_count, check_number, head_name
from patchlib.plots import wording
from patchlib.plots.wording import cell_names, check_array, check_results, no_effect, with_interval


def of_contrast(results: Mapping[str, xr.Dataset]) -> str:
    """Which contrasts can be used.

    Args:
        results: From ``baseline`` or ``sweep``, by name; of each its first metric.

    Returns:
        A sentence for each result.

    Example:
        >>> print(patchlib.plots.takeaways.of_contrast({"IOI": patchlib.baseline(model, task)}))
        IOI: 4.37 clean, -3.11 corrupted, a contrast that we can divide by.
    """
    results = check_results(results)
    sentences = []
    for name, result in results.items():
        row = stats.contrast(result).iloc[0]
        verdict = "a contrast that we can divide by" if row.usable else f"no usable contrast ({row.reason})"
        sentences.append(f"{name}: {row.clean:.2f} clean, {row.corrupted:.2f} corrupted, {verdict}.")
    return " ".join(sentences)


def of_positions(result: xr.Dataset, metric: str | None = None) -> str:
    """Where the information is, and at which layer the last layer's position first holds more than half of it.

    It is where the effect is largest in size.

    Args:
        result: From ``sweep`` of a residual stream over ``layer`` and ``role`` or ``pos``.
        metric: Which metric; the result's first when None.

    Returns:
        One sentence, or that there is no contrast.

    Raises:
        SweepError: The result does not have that metric.

    Example:
        >>> result = patchlib.sweep(model, task, "resid_pre", ("layer", "role"), layers=[0, 15, 29], progress=False)
        >>> print(patchlib.plots.takeaways.of_positions(result))
        At layer 0 it all sits at S2 (1.00); END first holds more than half of it at layer 29, and ...
    """
    result = stats.one_metric(result, metric)
    effect = stats.effect(result).isel(metric=0)
    axis = "role" if "role" in effect.dims else "pos"
    effect = effect.dropna("layer", how="all").dropna(axis, how="all").transpose("layer", axis)
    if not effect.size:
        return no_effect(result)
    layers = [int(layer) for layer in effect.layer]
    low, high = layers[0], layers[-1]
    origin, goal = (effect[axis].values[abs(effect).isel(layer=i).argmax(axis).item()].item() for i in (0, -1))
    at_origin, at_goal = effect.sel({axis: origin}), effect.sel({axis: goal})
    elsewhere = effect.isel(layer=0).drop_sel({axis: origin})
    whole = at_origin[0] > 0.9 and not (abs(elsewhere) > 0.1).any()
    verb = "it all sits" if whole else "the largest effect is"
    start = f"At layer {low} {verb} at {_position(result, axis, origin)} ({float(at_origin[0]):.2f})"
    if origin == goal:
        return f"{start}, as it is at layer {high} ({float(at_goal[-1]):.2f})."
    name = _position(result, axis, goal)
    arrived = (at_goal > 0.5).values
    if not arrived.any():
        return f"{start}; {name}, where it is at layer {high}, never holds more than half ({float(at_goal[-1]):.2f})."
    sentence = f"{start}; {name} first holds more than half of it at layer {layers[arrived.argmax()]}"
    holding = np.flatnonzero(abs(at_origin) >= 0.1)
    if holding.size and holding[-1] < len(layers) - 1:
        left = layers[holding[-1] + 1]
        sentence += f", and from layer {left} on {_position(result, axis, origin)} holds less than a tenth"
    return sentence + "."


def _position(result: xr.Dataset, axis: str, value: int | str) -> str:
    if axis == "role":
        return str(value)
    label = str(result.pos_label.sel(pos=value).item())
    return f"position {value} ({label})" if label else f"position {value}"


def of_cells(result: xr.Dataset, metric: str | None = None) -> str:
    """The effect that is largest in size with its interval, how concentrated positive ones are, and the other sign's.

    Largest in size, whatever its sign, is what ``summary_table`` has first and an explorer frames; the largest effect
    of the other sign is named where its interval leaves out 0.

    Args:
        result: From ``sweep`` or ``path_patch``, over any axes.
        metric: Which metric; the result's first when None.

    Returns:
        One sentence, which also counts cells that ``prefilter`` left out; or that there is no contrast.

    Raises:
        SweepError: The result does not have that metric.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[23], progress=False)
        >>> print(patchlib.plots.takeaways.of_cells(result))
        Largest effect: L23H3 with 0.3... [...], n = 4; 1 of 9 cells holds half of all positive effect...
    """
    result = stats.one_metric(result, metric)
    table = stats.summary_table(result, None).dropna(subset="effect")
    if table.empty:
        return no_effect(result)
    n_left_out = wording.n_left_out(result)
    further = f"; {n_left_out} more were left out by the estimate" if n_left_out else ""
    names = cell_names(table)
    top, others = table.iloc[0], np.sign(table.effect) == -np.sign(table.effect.iloc[0])
    largest = f"{names[0]} with {with_interval(top)}, n = {int(top.n)}"
    positive = table.effect.clip(lower=0).sort_values(ascending=False).cumsum()
    if positive.iloc[-1] == 0:
        return f"No cell has a positive effect; the lowest is that of {largest}{further}."
    n_half = int((positive < positive.iloc[-1] / 2).sum()) + 1
    sentence = (
        f"Largest effect{' in size' * bool(top.effect < 0)}: {largest}; "
        f"{n_half} of {len(table)} cells {'holds' if n_half == 1 else 'hold'} half of all positive effect"
    )
    if others.any():
        i_other = int(others.argmax())
        other = table.iloc[i_other]
        if min(other.ci_low * np.sign(other.effect), other.ci_high * np.sign(other.effect)) > 0:
            sentence += f"; {names[i_other]} pushes the other way, {with_interval(other)}"
    return f"{sentence}{further}."


def of_layers(results: Mapping[str, xr.Dataset], metric: str | None = None) -> str:
    """For each line of a layer comparison, the layer where it peaks: its maximum, which need not be largest in size.

    Args:
        results: From ``sweep(over=("layer",))``, by the names of their lines.
        metric: Which metric; each result's first when None.

    Returns:
        One sentence.

    Raises:
        SweepError: A result does not have that metric.

    Example:
        >>> result = patchlib.sweep(model, task, "attn_out", ("layer",), layers=[10, 20], progress=False)
        >>> print(patchlib.plots.takeaways.of_layers({"attention": result}))
        attention peaks at layer 20 (0.38 [...]).
    """
    results = check_results(results)
    sentences = []
    for name, result in results.items():
        result = stats.one_metric(result, metric)
        table = stats.summary_table(result, None).dropna(subset="effect")
        if table.empty:
            sentences.append(f"{name}: {no_effect(result)[:-1]}")
            continue
        top = table.iloc[int(table.effect.argmax())]
        sentences.append(f"{name} peaks at layer {int(top.layer)} ({with_interval(top)})")
    return "; ".join(sentences) + "."


def of_attention(patterns: xr.DataArray) -> str:
    """For each head, the textbook position that it looks at most.

    These are the first token, the one before, the token itself, the last earlier token of the same text, and
    the one that followed it; each head's mean is over those tokens that have such a position. From the
    last token, where a task's answer is read, the token that it looks at most is named.

    Args:
        patterns: From ``attention_patterns``, dims [cell dest src].

    Returns:
        One sentence.

    Example:
        >>> patterns = patchlib.attention_patterns(model, " blue cat, red dog, blue cat, red", [(17, 4)])
        >>> print(patchlib.plots.takeaways.of_attention(patterns))
        L17H4 looks most at ...
    """
    check_array(patterns, "attention_patterns", "cell", "dest", "src")
    tokens = [str(token) for token in patterns.token.values]
    earlier = [max((j for j in range(i) if tokens[j] == token), default=None) for i, token in enumerate(tokens)]
    # For each textbook position: query's index -> key's index, of those queries that have one.
    textbook = {
        "the first token": {i: 0 for i in range(1, len(tokens))},
        "the one before": {i: i - 1 for i in range(2, len(tokens))},
        "itself": {i: i for i in range(1, len(tokens))},
        "the same token earlier": {i: j for i, j in enumerate(earlier) if j is not None},
        "what followed the same token": {i: j + 1 for i, j in enumerate(earlier) if j is not None and j + 1 < i},
    }
    textbook = {name: pairs for name, pairs in textbook.items() if pairs}
    if not textbook:
        return "A prompt of one token leaves nowhere else to look."
    sentences = []
    for cell in patterns.cell.values:
        pattern = patterns.sel(cell=cell).values  # [dest src]
        means = {name: pattern[[*pairs.keys()], [*pairs.values()]].mean() for name, pairs in textbook.items()}
        most = max(means, key=lambda name: means[name])
        n, src = len(textbook[most]), int(pattern[-1].argmax())
        sentences.append(
            f"{cell} looks most at {most} ({means[most]:.2f} on average over {n} position{'s' if n > 1 else ''}), from "
            f"the last token at {tokens[src].strip() or repr(tokens[src])}, position {src} ({pattern[-1, src]:.2f})"
        )
    return "; ".join(sentences) + "."


def of_scores(score: xr.DataArray, what: str, top_k: int = 5, least: float = 0.2) -> str:
    """The heads with the largest score, and how many stand above ``least``.

    Args:
        score: Dims [layer head], such as ``detector_scores(model).induction``.
        what: The scores' name in the sentence.
        top_k: How many heads are named.
        least: What a score has to exceed to be counted.

    Returns:
        One sentence.

    Raises:
        SweepError: top_k below 1.

    Example:
        >>> score = xr.DataArray([[0.1, 0.7], [0.3, 0.0]], {"layer": [0, 1], "head": [0, 1]})
        >>> print(patchlib.plots.takeaways.of_scores(score, "induction scores", top_k=2))
        Highest induction scores: L0H1 0.70, L1H0 0.30; 2 of 4 heads above 0.2.
    """
    check_array(score, "detector_scores", "layer", "head")
    check_number("least", least)
    top = score.transpose("layer", "head").to_series().nlargest(check_count("top_k", top_k))
    names = [f"{head_name(*head)} {value:.2f}" for head, value in zip(top.index.to_list(), top, strict=True)]
    return f"Highest {what}: {', '.join(names)}; {int((score > least).sum())} of {score.size} heads above {least}."
