"""What was published of GPT-2 small's IOI circuit, beside what a search found."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import head_names
from patchlib.circuits.circuit import Circuit
from patchlib.tasks.ioi import IOI_HEADS

GPT2_LAYERS = 12


def beside_published(model: TransformerBridge, circuit: Circuit) -> pd.DataFrame:
    """A circuit's roles beside those of GPT-2 small (Wang et al. 2022, figure 2), by mean depth.

    Depth is the mean over a role's heads of layer / (layers - 1): 0 is the first layer, 1 the last.

    Returns:
        A row for each role that either has, from the first layers up: ``here``, ``depth here``, ``GPT-2 small``,
        ``depth in GPT-2 small``; for GPT-2 small itself also ``shared``, how many of the published heads were found
        in that role.
    """
    published = {role.lower(): heads for role, heads in IOI_HEADS.items()}
    here = {role.lower(): heads for role, heads in circuit.roles.items() if not role.startswith("unnamed")}
    n_layers = int(model.cfg.n_layers)
    is_gpt2 = model.cfg.model_name in ("gpt2", "gpt2-small", "openai-community/gpt2")

    def depth(heads: Sequence[tuple[int, int]], n: int) -> float:
        return sum(layer for layer, _ in heads) / len(heads) / (n - 1) if heads else float("nan")

    rows = []
    for role in {**published, **here}:
        found, known = here.get(role, ()), published.get(role, ())
        row = (head_names(found), depth(found, n_layers), head_names(known), depth(known, GPT2_LAYERS))
        rows.append((role, *row, len(set(found) & set(known))))
    columns = ["role", "here", "depth here", "GPT-2 small", "depth in GPT-2 small", "shared"]
    table = pd.DataFrame(rows, columns=columns).set_index("role")
    order = table[["depth in GPT-2 small", "depth here"]].mean(axis=1).sort_values().index
    return table.loc[order] if is_gpt2 else table.loc[order].drop(columns="shared")
