"""A circuit, heads by role at their positions, and whether it is faithful, complete and minimal (Wang et al. 2022)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from patchlib._util import head_names
from patchlib.circuits.ablation import Ablation, Head, HeadSet
from patchlib.errors import SweepError
from patchlib.stats import ratio_interval


@dataclass(frozen=True)
class Circuit:
    """Heads by role, and the position at which each role works.

    Attributes:
        roles: Role name -> (layer, head) of each of its heads.
        positions: Role name -> the positions at which its heads are kept; a role that is not named here is kept
            at all positions.

    Raises:
        SweepError: A position for a role that is not there.
    """

    roles: Mapping[str, Sequence[Head]]
    positions: Mapping[str, Sequence[str | int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        roles = {name: tuple((int(layer), int(head)) for layer, head in heads) for name, heads in self.roles.items()}
        positions = {
            name: (at,) if isinstance(at, str | int) else tuple(at) for name, at in self.positions.items()
        }  # fmt: skip
        if unknown := set(positions) - set(roles):
            raise SweepError(f"Positions are given for {', '.join(sorted(unknown))}, which is no role of this circuit.")
        object.__setattr__(self, "roles", roles)
        object.__setattr__(self, "positions", positions)

    @property
    def heads(self) -> list[Head]:
        """Every head once, by layer."""
        return sorted({head for heads in self.roles.values() for head in heads})

    def places(self, heads: Iterable[Head] | None = None) -> dict[Head, set[str | int | None]]:
        """Some of its heads (all when None), each with the positions at which it is part of the circuit."""
        wanted = set(self.heads if heads is None else heads)
        found: dict[Head, set[str | int | None]] = {}
        for role, of_role in self.roles.items():
            for head in of_role:
                if head in wanted:
                    found.setdefault(head, set()).update(self.positions.get(role, (None,)))
        return found

    def without(self, heads: Iterable[Head]) -> Circuit:
        """The circuit less some heads."""
        gone = set(heads)
        return Circuit(
            {role: [one for one in of_role if one not in gone] for role, of_role in self.roles.items()}, self.positions
        )

    def table(self) -> pd.DataFrame:
        """A row for each role: its heads and where they are kept."""
        rows = {
            role: (head_names(heads), ", ".join(map(str, self.positions.get(role, ("all",)))))
            for role, heads in self.roles.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["heads", "at"]).rename_axis("role")


def faithfulness(ablation: Ablation, circuit: Circuit) -> pd.Series:
    """How much of the behaviour the circuit alone has: every head outside it is knocked out.

    Wang et al. 2022, section 4.1, report ``F(circuit) / F(model)`` in prose (87%) and their difference in figures.
    What comes out depends on the protocol as much as on the circuit (Miller et al. 2024, "Transformer circuit
    faithfulness metrics are not robust"): read ``protocol`` with it, and ``floor``, the floor with no head at all.

    Args:
        ablation: The prompts, and what stands in for the heads that are knocked out.
        circuit: What is kept.

    Returns:
        ``circuit``, ``model`` and ``floor``: the metric, mean over prompts; ``faithfulness``: circuit / model, a ratio
        of means, with its 95% bootstrap interval over prompts ``ci_low`` and ``ci_high``; ``above_floor``:
        (circuit - floor) / (model - floor); ``n``; ``n_heads``; ``protocol``.

    Raises:
        SweepError: As ``Ablation.run``.
    """
    circuit_values, model_values, empty = ablation.run(
        [HeadSet(circuit.places(), True), HeadSet({}, False), HeadSet({}, True)]
    ).astype(np.float64)
    whole, kept, floor = model_values.mean(), circuit_values.mean(), empty.mean()
    low, high = ratio_interval(circuit_values, model_values)
    return pd.Series(
        {
            "circuit": kept, "model": whole, "floor": floor, "faithfulness": kept / whole, "ci_low": low,
            "ci_high": high, "above_floor": (kept - floor) / (whole - floor), "n": len(empty),
            "n_heads": len(circuit.heads), "protocol": ablation.protocol,
        },
        name="faithfulness",
    )  # fmt: skip


def completeness(
    ablation: Ablation, circuit: Circuit, *, n_random: int = 10, n_greedy: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Does the circuit lack anything? Without some of its heads K, circuit and model should fall alike.

    Wang et al. 2022, section 4.2: the incompleteness score of K is ``|F(circuit without K) - F(model without K)|``, for
    each role as K, for random K (each head with probability 1/2), and for K grown greedily, one head at a time, to
    make the score large: the curve ``greedy 1``, ``greedy 2``, ...

    Args:
        ablation, circuit: As for ``faithfulness``.
        n_random: How many random sets.
        n_greedy: How many heads the greedy search adds.
        seed: Of the random sets.

    Returns:
        A row for each set (first the empty one): ``kind``, ``heads``, ``circuit`` (F of the circuit without K),
        ``model`` (F of the model without K), ``incompleteness``. ``attrs["protocol"]`` says how.

    Raises:
        SweepError: As ``Ablation.run``.
    """
    draw = random.Random(seed)

    def scores(sets: Sequence[Sequence[Head]]) -> Float[np.ndarray, "set 2"]:
        both = [
            one
            for heads in sets
            for one in (
                HeadSet(circuit.without(heads).places(), True),
                HeadSet(circuit.places(heads), False),
            )
        ]
        return ablation.run(both).astype(np.float64).mean(1).reshape(-1, 2)

    named: list[tuple[str, list[Head]]] = [
        ("none", []),
        *((role, list(of)) for role, of in circuit.roles.items() if of),
    ]
    named += [(f"random {i}", [one for one in circuit.heads if draw.random() < 0.5]) for i in range(n_random)]
    values = list(scores([heads for _, heads in named]))
    chosen: list[Head] = []
    for step in range(min(n_greedy, len(circuit.heads))):
        further = [[*chosen, head] for head in circuit.heads if head not in chosen]
        found = scores(further)
        best = int(np.abs(found[:, 0] - found[:, 1]).argmax())
        chosen = further[best]
        named.append((f"greedy {step + 1}", chosen))
        values.append(found[best])
    table = pd.DataFrame(
        [
            (name, head_names(heads), of_circuit, of_model, abs(of_circuit - of_model))
            for (name, heads), (of_circuit, of_model) in zip(named, values, strict=True)
        ],
        columns=["kind", "heads", "circuit", "model", "incompleteness"],
    )
    table.attrs["protocol"] = ablation.protocol
    return table


def minimality(ablation: Ablation, circuit: Circuit, *, other_roles: bool = True) -> pd.DataFrame:
    """Is every head needed? For each, a set K of other heads after whose loss its own loss shows.

    Wang et al. 2022, section 4.3: the score of head v is ``|F(circuit without K and v) - F(circuit without K)|`` for
    the K that shows it best. Tried as K are: nothing, the rest of v's role, and every other role.

    Args:
        ablation, circuit: As for ``faithfulness``.
        other_roles: Try the other roles too. Without them it is several times faster.

    Returns:
        A row for each head of each role: ``role``, ``head``, ``K``, ``with_head`` (F without K), ``without_head`` (F
        without K and v), ``change`` (signed), ``share`` (of the model's own F), largest share first.
        ``attrs["protocol"]`` says how.

    Raises:
        SweepError: As ``Ablation.run``.
    """
    tried: list[tuple[str, Head, str, frozenset[Head]]] = []
    for role, heads in circuit.roles.items():
        for head in heads:
            others = {name: of for name, of in circuit.roles.items() if other_roles and name != role}
            options = {"nothing": (), f"rest of {role}": heads, **others}
            sets_k = {name: frozenset(of) - {head} for name, of in options.items()}
            tried += [(role, head, name, gone) for name, gone in sets_k.items() if gone or name == "nothing"]
    sets = sorted({gone for *_, gone in tried} | {gone | {head} for _, head, _, gone in tried}, key=sorted)
    keep = [HeadSet(circuit.without(gone).places(), True) for gone in sets]
    *values, whole = ablation.run([*keep, HeadSet({}, False)]).astype(np.float64).mean(1)
    known = dict(zip(sets, values, strict=True))
    rows = []
    for role, head, name, gone in tried:
        with_head, without_head = known[gone], known[gone | {head}]
        change = without_head - with_head
        rows.append((role, head_names([head]), name, with_head, without_head, change, abs(change / whole)))
    columns = ["role", "head", "K", "with_head", "without_head", "change", "share"]
    table = pd.DataFrame(rows, columns=columns).sort_values("share", ascending=False)
    table = table.drop_duplicates(["role", "head"]).reset_index(drop=True)
    table.attrs["protocol"] = ablation.protocol
    return table
