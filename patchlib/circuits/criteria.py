"""Is a circuit faithful, complete and minimal? (Wang et al. 2022, section 4)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from patchlib._util import Head, check_count, check_flag, check_seed, head_name, head_names
from patchlib.circuits.ablation import FOLDS, Ablation, check_ablation
from patchlib.circuits.circuit import Circuit, HeadSet, check_circuit
from patchlib.stats import ratio_interval
from patchlib.stats.intervals import widened

MOST_SETS = 100_000
"""More random sets are a slip of the keyboard: each takes a forward pass."""


@dataclass(frozen=True)
class Faithfulness:
    """How much of the behaviour a circuit alone has; ``pandas.DataFrame([faithfulness])`` is a table of it.

    Attributes:
        circuit, model: The metric, mean over prompts, of the circuit alone and of the whole model.
        floor: The same with no head at all.
        faithfulness: circuit / model, a ratio of means.
        ci_low, ci_high: Its 95% interval over prompts (``stats.ratio_interval``) and over reference prompts
            (``Ablation.reference_error``); NaN for a single prompt.
        above_floor: (circuit - floor) / (model - floor).
        n: Prompts.
        n_heads: Heads in the circuit.
        protocol: In words what these numbers depend on.

    Example:
        >>> two_heads = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> result = patchlib.faithfulness(patchlib.Ablation(model, task), two_heads)
        >>> print(f"{result.n_heads} heads, n = {result.n}: {result.circuit:.1f} of {result.model:.1f}")
        2 heads, n = 4: 3.5 of 4.4
    """

    circuit: float
    model: float
    floor: float
    faithfulness: float
    ci_low: float
    ci_high: float
    above_floor: float
    n: int
    n_heads: int
    protocol: str


def faithfulness(ablation: Ablation, circuit: Circuit) -> Faithfulness:
    """How much of the behaviour the circuit alone has: every head outside it is knocked out.

    Wang et al. 2022, section 4, report ``F(circuit) / F(model)`` in prose (87%) and their difference in figures.
    What comes out depends on the protocol as much as on the circuit (Miller et al. 2024, "Transformer circuit
    faithfulness metrics are not robust"): read ``protocol`` with it, and ``floor``, the floor with no head at all.

    Args:
        ablation: The prompts, and what stands in for the heads that are knocked out.
        circuit: What is kept.

    Returns:
        The ratio with its interval, what it is made of, and the protocol.

    Raises:
        SweepError: As ``Ablation.measure``.

    Example:
        >>> every_head = patchlib.Circuit({"all": [(layer, head) for layer in range(30) for head in range(9)]})
        >>> ablation = patchlib.Ablation(model, task)
        >>> result = patchlib.faithfulness(ablation, every_head)
        >>> print(f"{result.n_heads} heads: {result.faithfulness:.2f} of the model's {result.model:.1f}")
        270 heads: 1.00 of the model's 4.4
    """
    check_ablation(ablation)
    check_circuit(circuit)
    sets = [HeadSet(circuit.head_positions(), keep=True), HeadSet({}, keep=False), HeadSet({}, keep=True)]
    values = ablation.measure(sets).astype(np.float64)  # [set example]
    kept, whole, floor = (float(mean) for mean in values.mean(axis=1))
    interval = ratio_interval(values[0], values[1], clusters=ablation.pairs.clusters)
    error = float(ablation.reference_error(sets[:1])[0]) / abs(whole)
    interval = widened(kept / whole, interval, error, FOLDS - 1)
    above_floor = (kept - floor) / (whole - floor)
    n, n_heads = values.shape[1], len(circuit.heads)
    return Faithfulness(kept, whole, floor, kept / whole, *interval, above_floor, n, n_heads, ablation.protocol)


def completeness(
    ablation: Ablation, circuit: Circuit, *, n_random: int = 10, n_greedy: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Does the circuit lack anything? Without some of its heads K, circuit and model should fall alike.

    Wang et al. 2022, section 4.1: the incompleteness score of K is ``|F(circuit without K) - F(model without K)|``, for
    each head type as K, for random K (each head with probability 1/2), and for K grown greedily, one head at a time, to
    make the score large: the curve ``greedy 1``, ``greedy 2``, ...

    Args:
        ablation, circuit: As for ``faithfulness``.
        n_random: How many random sets; 0 for none.
        n_greedy: How many heads the greedy search adds; 0 for no search.
        seed: Of the random sets.

    Returns:
        A row for each set (first the empty one): ``kind``, ``heads``, ``circuit`` (F of the circuit without K),
        ``model`` (F of the model without K), ``incompleteness``, all three in the metric's unit, and ``protocol``.

    Raises:
        SweepError: As ``Ablation.measure``, or a count below 0.

    Example:
        >>> ablation = patchlib.Ablation(model, task).select([0, 1])
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> table = patchlib.completeness(ablation, circuit, n_random=0, n_greedy=1)
        >>> table[["kind", "heads", "circuit", "model", "incompleteness"]].round(1)
               kind         heads  circuit  model  incompleteness
        0      none                    3.3    4.5             1.2
        1   writers  L23H3, L29H1      0.8    1.9             1.2
        2  greedy 1         L23H3      0.8    2.5             1.7
    """
    check_ablation(ablation)
    check_circuit(circuit)
    check_count("n_random", n_random, least=0, most=MOST_SETS)
    check_count("n_greedy", n_greedy, least=0)

    def without(sets: Sequence[Sequence[Head]]) -> Float[np.ndarray, "set circuit_and_model"]:
        """F of the circuit and F of the model, each without these heads."""
        pairs = [
            (HeadSet(circuit.without(heads).head_positions(), True), HeadSet(circuit.head_positions(heads), False))
            for heads in sets
        ]
        values = ablation.measure([head_set for pair in pairs for head_set in pair]).astype(np.float64)
        means: np.ndarray = values.mean(axis=1)
        return means.reshape(-1, 2)

    draw = random.Random(check_seed(seed))
    sets: dict[str, list[Head]] = {"none": []}
    sets |= {name: list(heads) for name, heads in circuit.head_types.items() if heads}
    sets |= {f"random {i}": [head for head in circuit.heads if draw.random() < 0.5] for i in range(n_random)}
    scores = list(without(list(sets.values())))
    worst: list[Head] = []
    for step in range(min(n_greedy, len(circuit.heads))):
        grown = [[*worst, head] for head in circuit.heads if head not in worst]
        scores_of_grown = without(grown)
        best = int(np.abs(scores_of_grown[:, 0] - scores_of_grown[:, 1]).argmax())
        worst = sets[f"greedy {step + 1}"] = grown[best]
        scores.append(scores_of_grown[best])
    table = pd.DataFrame(scores, columns=["circuit", "model"])
    table.insert(0, "kind", list(sets))
    table.insert(1, "heads", [head_names(heads) for heads in sets.values()])
    return table.assign(incompleteness=(table.circuit - table.model).abs(), protocol=ablation.protocol)


def minimality(ablation: Ablation, circuit: Circuit, *, other_types: bool = True) -> pd.DataFrame:
    """Is every head needed? For each, a set K of other heads after whose loss its own loss shows.

    Wang et al. 2022, section 4.2: the score of head v is ``|F(circuit without K and v) - F(circuit without K)|`` for
    the K that shows it best. Tried as K are: nothing, the rest of v's type, and every other type.

    Args:
        ablation, circuit: As for ``faithfulness``.
        other_types: Try the other head types too. Without them it is several times faster.

    Returns:
        A row for each head of each type: ``head_type``, ``head_name``, ``K``, ``with_head`` (F without K),
        ``without_head`` (F without K and v), ``change`` (signed), ``share`` (of the model's own F), ``protocol``;
        largest share first.

    Raises:
        SweepError: As ``Ablation.measure``.

    Example:
        >>> ablation = patchlib.Ablation(model, task)
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> patchlib.minimality(ablation, circuit)[["head_name", "K", "change"]].round(1)
          head_name        K  change
        0     L23H3  nothing    -2.8
        1     L29H1  nothing    -0.7
    """
    check_ablation(ablation)
    check_circuit(circuit)
    check_flag("other_types", other_types)
    trials: list[tuple[str, Head, str, frozenset[Head]]] = []
    for head_type, heads in circuit.head_types.items():
        others = {name: heads for name, heads in circuit.head_types.items() if other_types and name != head_type}
        for head in heads:
            candidates = {"nothing": (), f"rest of {head_type}": heads, **others}
            sets_k = {name: frozenset(of_k) - {head} for name, of_k in candidates.items()}
            trials += [(head_type, head, name, k) for name, k in sets_k.items() if k or name == "nothing"]
    # Many trials ask for the same set, which is measured once.
    sets = sorted({k for *_, k in trials} | {k | {head} for _, head, _, k in trials}, key=sorted)
    circuits = [HeadSet(circuit.without(gone).head_positions(), keep=True) for gone in sets]
    *means, whole = ablation.measure([*circuits, HeadSet({}, keep=False)]).astype(np.float64).mean(axis=1)
    mean_without = dict(zip(sets, means, strict=True))
    rows = [
        (head_type, head_name(*head), name, mean_without[k], mean_without[k | {head}])
        for head_type, head, name, k in trials
    ]
    table = pd.DataFrame(rows, columns=["head_type", "head_name", "K", "with_head", "without_head"])
    table["change"] = table.without_head - table.with_head
    table["share"] = (table.change / whole).abs()
    table = table.assign(protocol=ablation.protocol).sort_values("share", ascending=False)
    return table.drop_duplicates(["head_type", "head_name"]).reset_index(drop=True)
