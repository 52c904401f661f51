"""What heads do, in words: where they look, and which score highest."""

from __future__ import annotations

import numpy as np
import xarray as xr


def of_attention(patterns: xr.DataArray) -> str:
    """For each head of ``attention_patterns``, the textbook place that it looks at most.

    The places are the first token, the one before, the token itself, the last earlier token of the same text, and
    the one that followed it; each head's mean is over those positions that have such a place. From the
    last token, where a task's answer is read, the token that it looks at most is named.
    """
    tokens = [str(token) for token in patterns.token.values]
    earlier = [max((j for j in range(i) if tokens[j] == token), default=None) for i, token in enumerate(tokens)]
    places = {
        "the first token": {i: 0 for i in range(1, len(tokens))},
        "the one before": {i: i - 1 for i in range(2, len(tokens))},
        "itself": {i: i for i in range(1, len(tokens))},
        "the same token earlier": {i: j for i, j in enumerate(earlier) if j is not None},
        "what followed the same token": {i: j + 1 for i, j in enumerate(earlier) if j is not None and j + 1 < i},
    }
    said = []
    for cell in patterns.cell.values:
        values = patterns.sel(cell=cell).values
        means = {
            name: float(np.mean([values[i, j] for i, j in at.items()])) for name, at in places.items() if at
        }  # fmt: skip
        if not means:
            return "A prompt of one token leaves nowhere else to look."
        most = max(means, key=lambda name: means[name])
        n, last = len(places[most]), values[-1]
        at = int(last.argmax())
        said.append(
            f"{cell} looks most at {most} ({means[most]:.2f} on average over {n} position{'s' * (n > 1)}), from the "
            f"last token at {tokens[at].strip() or repr(tokens[at])}, position {at} ({last[at]:.2f})"
        )
    return "; ".join(said) + "."


def of_scores(score: xr.DataArray, what: str, top_k: int = 5, least: float = 0.2) -> str:
    """The heads with the largest score, and how many stand above ``least``."""
    top = score.to_series().nlargest(top_k)
    names = [f"L{layer}H{head} {value:.2f}" for (layer, head), value in top.items()]
    return f"Highest {what}: {', '.join(names)}; {int((score > least).sum())} of {score.size} heads above {least}."
