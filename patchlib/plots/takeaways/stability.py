"""What other searches say of one, in words."""

import pandas as pd

from patchlib._util import check_kind, head_name
from patchlib.circuits.discovery import Discovery
from patchlib.plots.wording import check_table

USUAL, RARE = 0.5, 0.1
"""Shares of searches: a head found in fewer than the one is unsure, in fewer than the other a chance finding."""


def of_stability(discovery: Discovery, heads: pd.DataFrame, head_types: pd.DataFrame) -> str:
    """Which heads of a search other searches find again, which they do not, and which names they give as well.

    Args:
        discovery: From ``discover``.
        heads, head_types: Of other searches, from ``stability``.

    Returns:
        Two sentences.

    Example:
        >>> import pandas as pd
        >>> toy, how = patchlib.toys.and_gate(), {"hold_out": "prompts", "depth": 1, "progress": False}
        >>> circuit, nothing = patchlib.Circuit({"name mover": [(1, 2)]}, {}), pd.DataFrame()
        >>> found = pd.DataFrame({"layer": [1], "head_index": [2], "position": ["END"], "head_type": ["name mover"]})
        >>> search = patchlib.Discovery(circuit, nothing, nothing, {}, found, ("END",))
        >>> searches = patchlib.stability(toy.model, toy.task, n_searches=2, **how)
        >>> print(patchlib.plots.takeaways.of_stability(search, searches.heads, searches.head_types))
        Of the 1 heads found here, 1 are found in at least half of 2 other searches (L1H2); 0 in less than a tenth.
        Names given here, and in how many of those searches: name mover 0.
    """
    check_kind("discovery", discovery, Discovery, "give what patchlib.discover returned")
    check_table(heads, "stability", "layer", "head_index", "position", "n_found", "frequency")
    check_table(head_types, "stability", "head_type", "n_found")
    keys = ["layer", "head_index", "position"]
    found = (
        discovery.head_types[[*keys, "head_type"]]
        .merge(heads[[*keys, "frequency"]], "left", keys)
        .fillna({"frequency": 0})
    )
    n_searches = round(float((heads.n_found / heads.frequency).iloc[0]))

    def said(chosen: pd.DataFrame) -> str:
        names = [head_name(layer, head) for layer, head in zip(chosen.layer, chosen.head_index, strict=True)]
        return f" ({', '.join(names)})" if names else ""

    usual, rare = found[found.frequency >= USUAL], found[found.frequency < RARE]
    again = head_types.set_index("head_type").n_found
    names = [name for name in dict.fromkeys(found.head_type) if name != "unnamed"]
    types = ", ".join(f"{name} {again.get(name, 0)}" for name in names)
    return (
        f"Of the {len(found)} heads found here, {len(usual)} are found in at least half of {n_searches} other searches"
        f"{said(usual)}; {len(rare)} in less than a tenth{said(rare)}. Names given here, and in how many of those "
        f"searches: {types or 'none'}."
    )
