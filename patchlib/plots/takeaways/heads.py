"""What heads do, in words: where they look, and which score highest."""

import xarray as xr

from patchlib._util import check_count, check_number, head_name
from patchlib.plots.wording import check_array


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
