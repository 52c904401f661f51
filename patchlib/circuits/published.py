"""What was published of GPT-2 small's IOI circuit, beside what a search found."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, head_names
from patchlib.circuits.circuit import Circuit
from patchlib.tasks.ioi import IOI_HEADS

GPT2_LAYERS = 12


def beside_published(model: TransformerBridge, circuit: Circuit) -> pd.DataFrame:
    """A circuit's head types beside those of GPT-2 small (Wang et al. 2022, figure 2), by mean depth.

    Depth is the mean over a type's heads of layer / (layers - 1): 0 is the first layer, 1 the last.

    Args:
        model: Of the circuit.
        circuit: Such as ``Discovery.circuit``.

    Returns:
        A row for each head type that either has, from the first layers up: ``heads`` and ``depth`` of the circuit,
        ``gpt2_heads`` and ``gpt2_depth`` of the published one; for GPT-2 small itself also ``n_shared``, how many of
        the published heads were found in that type.

    Example:
        >>> circuit = patchlib.Circuit({"S-inhibition": [(20, 0)], "negative name mover": [(24, 4)]})
        >>> table = patchlib.beside_published(model, circuit)
        >>> table.loc[["s-inhibition", "negative name mover"], ["heads", "depth", "gpt2_depth"]].round(2)
                             heads  depth  gpt2_depth
        head_type
        s-inhibition         L20H0   0.69        0.68
        negative name mover  L24H4   0.83        0.95
    """
    published = {name.lower(): heads for name, heads in IOI_HEADS.items()}
    ours = {name.lower(): heads for name, heads in circuit.head_types.items() if not name.startswith("unnamed")}
    n_layers = int(model.cfg.n_layers)

    def depth(heads: Sequence[Head], n: int) -> float:
        return sum(layer for layer, _ in heads) / len(heads) / (n - 1) if heads else float("nan")

    rows = []
    for name in {**published, **ours}:
        heads, gpt2_heads = ours.get(name, ()), published.get(name, ())
        n_shared = len(set(heads) & set(gpt2_heads))
        depths = depth(heads, n_layers), depth(gpt2_heads, GPT2_LAYERS)
        rows.append((name, head_names(heads), depths[0], head_names(gpt2_heads), depths[1], n_shared))
    columns = ["head_type", "heads", "depth", "gpt2_heads", "gpt2_depth", "n_shared"]
    table = pd.DataFrame(rows, columns=columns).set_index("head_type")
    table = table.loc[table[["gpt2_depth", "depth"]].mean(axis=1).sort_values().index]
    is_gpt2 = model.cfg.model_name in ("gpt2", "gpt2-small", "openai-community/gpt2")
    return table if is_gpt2 else table.drop(columns="n_shared")
