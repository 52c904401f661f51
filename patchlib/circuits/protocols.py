"""One circuit's faithfulness by several protocols, beside its complement and random circuits."""

import random
from collections.abc import Mapping

import numpy as np
import pandas as pd

from patchlib._util import Head, check_count, check_kind, check_seed, check_text
from patchlib.circuits.ablation import Ablation, check_ablation
from patchlib.circuits.circuit import Circuit, HeadPositions, HeadSet, check_circuit, everywhere
from patchlib.circuits.criteria import MOST_SETS
from patchlib.errors import SweepError
from patchlib.stats.intervals import ratio_intervals

WHERE = ("the circuit's", "all")


def faithfulness_by_protocol(
    ablations: Mapping[str, Ablation], circuit: Circuit, *, n_random: int = 5, seed: int = 0
) -> pd.DataFrame:
    """How faithful one circuit is by each of several protocols (Miller, Chughtai and Saunders 2024, arXiv:2407.08734).

    With m the metric's mean over prompts, C the circuit alone, M the whole model and F the floor, no head at all:
    ``faithfulness`` is ``m(C) / m(M)``, the floor not subtracted (Wang et al. 2022, section 4), and ``above_floor``
    is ``(m(C) - m(F)) / (m(M) - m(F))``, the floor subtracted. A circuit says something if its complement (all heads
    but it) and random circuits of its size keep less than it does, by either.

    Args:
        ablations: A name, such as "mean" -> what stands in for the heads that are knocked out, of the same prompts.
        circuit: What is kept.
        n_random: So many random circuits: as many heads of the whole model, at the positions that the circuit has.
        seed: Of their draw.

    Returns:
        A row for each ablation, ``replaced_by``, and ``positions``: each head kept at ``the circuit's`` or at ``all``.
        ``circuit``, ``complement``, ``random_mean``, ``random_max``, ``floor`` and ``whole_model`` are means of the
        metric over prompts; ``faithfulness`` with its 95% interval over prompts ``ci_low`` and ``ci_high``
        (``stats.ratio_interval``), ``above_floor``; the same two numbers of the complement and of the random circuits'
        mean as ``complement_faithfulness``, ``complement_above_floor``, ``random_faithfulness`` and
        ``random_above_floor``; ``n``, ``protocol``.

    Raises:
        SweepError: As ``Ablation.measure``; no ablation, or ablations of different prompts.

    Example:
        >>> ablations = {source: patchlib.Ablation(model, task, source=source) for source in ("mean", "zero")}
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]}, {"writers": "END"})
        >>> table = patchlib.faithfulness_by_protocol(ablations, circuit, n_random=1)
        >>> print(table[["replaced_by", "positions", "faithfulness", "above_floor"]].round(1).to_string(index=False))
        replaced_by     positions  faithfulness  above_floor
               mean the circuit's           0.8          0.7
               mean           all           0.8          0.8
               zero the circuit's           0.1          0.0
               zero           all           0.1          0.0
    """
    check_kind("ablations", ablations, Mapping, "give {name: patchlib.Ablation(model, task)}")
    check_circuit(circuit)
    check_count("n_random", n_random, least=1, most=MOST_SETS)
    draw = random.Random(check_seed(seed))
    for name, ablation in ablations.items():
        check_text("An ablation's name", name)
        check_ablation(ablation)
    if not ablations or len({ablation.protocol.split(";")[0] for ablation in ablations.values()}) > 1:
        raise SweepError("Protocols are compared on the same prompts and metric: give one or more such ablations.")
    first = next(iter(ablations.values()))
    every = [(layer, head) for layer in range(first.n_layers) for head in range(first.n_heads)]
    kept: dict[str, HeadPositions] = dict(
        zip(WHERE, (circuit.head_positions(), everywhere(circuit.heads)), strict=True)
    )
    drawn: list[list[Head]] = [draw.sample(every, len(circuit.heads)) for _ in range(n_random)]
    sets = [HeadSet({}, keep=False), HeadSet({}, keep=True)]
    for positions in kept.values():
        others = [dict(zip(heads, positions.values(), strict=True)) for heads in drawn]
        sets += [HeadSet(positions, keep=True), HeadSet(positions, keep=False)]
        sets += [HeadSet(other, keep=True) for other in others]
    rows = []
    for name, ablation in ablations.items():
        whole, floor, *of_sets = ablation.measure(sets).astype(np.float64)  # [example]
        for i, where in enumerate(WHERE):
            alone, complement, *at_random = of_sets[i * (2 + n_random) : (i + 1) * (2 + n_random)]
            randoms = np.mean(at_random, axis=1)  # [set]
            named = {"circuit": alone.mean(), "complement": complement.mean(), "random_mean": randoms.mean()}
            row = {"replaced_by": name, "positions": where, **named, "random_max": randoms.max()}
            row |= {"floor": floor.mean(), "whole_model": whole.mean()}
            (low,), (high,) = ratio_intervals(alone[None], whole[None], clusters=ablation.pairs.clusters)
            prefixes = zip(("", "complement_", "random_"), named.values(), strict=True)
            for prefix, mean in prefixes:
                row[f"{prefix}faithfulness"] = mean / whole.mean()
                row[f"{prefix}above_floor"] = (mean - floor.mean()) / (whole.mean() - floor.mean())
            rows.append(row | {"ci_low": low, "ci_high": high, "n": len(whole), "protocol": ablation.protocol})
    return pd.DataFrame(rows)
