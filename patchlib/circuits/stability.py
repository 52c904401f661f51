"""Which heads does a search find again? Searches over other prompts and other wordings, and what they agree on."""

import random
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_count, check_seed
from patchlib.circuits.ablation import Ablation
from patchlib.circuits.criteria import faithfulness
from patchlib.circuits.discovery import Discovery, discover
from patchlib.errors import FewPromptsWarning, SweepError
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs

HOLD_OUT = ("prompts", "wordings")
SEARCHES = ["search", "n", "n_wordings", "n_heads", "faithfulness", "ci_low", "ci_high", "above_floor", "n_test"]
HEADS = ["layer", "head_index", "position", "n_found", "frequency", "head_type", "type_frequency", "effect"]
TYPES = ["head_type", "n_found", "frequency", "heads_per_search"]


@dataclass(frozen=True)
class Stability:
    """What several searches found, each with prompts of its own.

    Attributes:
        searches: A row for each: its number, ``n`` prompts of ``n_wordings``, ``n_heads`` found, and the circuit's
            ``faithfulness`` (with interval) and ``above_floor`` on the ``n_test`` prompts that were held out.
        heads: A row for each head and position that was found at all: in how many searches (``n_found``, and as a share
            of all, ``frequency``), its most frequent type and the share of its findings that have it
            (``type_frequency``), and the mean ``effect`` where it was found. The most frequent first.
        head_types: A row for each type: how many searches have a head of it, and how many heads of it a search has.
        protocol: In words what these numbers depend on.

    Example:
        >>> toy, how = patchlib.toys.and_gate(), {"hold_out": "prompts", "depth": 1, "progress": False}
        >>> searches = patchlib.stability(toy.model, toy.task, n_searches=2, **how)
        >>> searches.searches[["search", "n", "n_heads", "n_test"]].iloc[0].tolist()
        [0, 16, 2, 8]
    """

    searches: pd.DataFrame
    heads: pd.DataFrame
    head_types: pd.DataFrame
    protocol: str


def stability(
    model: TransformerBridge,
    task: Task,
    *,
    n_searches: int = 10,
    n_prompts: int = 16,
    hold_out: Literal["prompts", "wordings"] = "wordings",
    reference: Task | None = None,
    seed: int = 0,
    **how: Any,
) -> Stability:
    """Search for a circuit again and again, and count what is found again.

    A circuit from one set of prompts is one draw. Each search takes prompts from ``task`` by chance, and is tested on
    those that it has not seen: other prompts, or other wordings too. A circuit that holds for a task, and not for its
    sentences, survives both (Miller et al. 2024, "Transformer circuit faithfulness metrics are not robust", on how far
    single numbers depend on choices such as these).

    Args:
        model: In eval mode.
        task: The prompts to draw from, such as an ``IOIDataset`` of 64 or more with ``corruption="abc"``.
        n_searches: How many searches.
        n_prompts: Prompts of each search.
        hold_out: What the test has that the search has not: other ``"prompts"``, or ``"wordings"`` of which the search
            has seen none (half of all, drawn anew for each search; ``PromptPairs.groups``).
        reference: As for ``Ablation``, of the test.
        seed: Of the draws.
        **how: As for ``discover``.

    Returns:
        Tables of searches, heads and head types.

    Raises:
        SweepError: Too few prompts to hold some out, a task without wordings, or a setting out of range; else as
            ``discover`` and ``Ablation``.
        TaskError, ExactnessError: As ``discover``.

    Warns:
        FewPromptsWarning: As ``discover``, once.

    Example:
        Both heads of a circuit that is known, in each search:

        >>> toy, how = patchlib.toys.and_gate(), {"hold_out": "prompts", "depth": 1, "progress": False}
        >>> searches = patchlib.stability(toy.model, toy.task, n_searches=2, **how)
        >>> searches.heads[["layer", "head_index", "position", "n_found"]]
           layer  head_index position  n_found
        0      1           2      END        2
        1      0           1      END        2
    """
    pairs = as_pairs(model, task)
    check_count("n_searches", n_searches)
    check_count("n_prompts", n_prompts)
    check_choice("hold_out", hold_out, HOLD_OUT)
    draws = random.Random(check_seed(seed))
    rows, found, of_pair = [], [], _wordings(pairs)
    ablation = Ablation(model, task, reference=reference)  # of all prompts: its reference is run once
    with warnings.catch_warnings():
        for number in range(n_searches):
            seen, unseen = _drawn(pairs, n_prompts, hold_out, draws)
            search = discover(model, pairs.select(seen), **how)
            warnings.simplefilter("ignore", FewPromptsWarning)  # said once
            kept = faithfulness(ablation.select(unseen), search.circuit)
            rows.append((number, len(seen), len({of_pair[i] for i in seen}), len(search.head_types), kept.faithfulness,
                         kept.ci_low, kept.ci_high, kept.above_floor, kept.n))  # fmt: skip
            found.append(search)
    protocol = (
        f"{n_searches} searches of n = {n_prompts} prompts each, drawn from {len(pairs)} of {pairs.name!r}; tested on "
        f"other {hold_out}; faithfulness: {kept.protocol}"
    )
    return Stability(pd.DataFrame(rows, columns=SEARCHES), _heads(found), _head_types(found), protocol)


def _drawn(pairs: PromptPairs, n_prompts: int, hold_out: str, draws: random.Random) -> tuple[list[int], list[int]]:
    """Prompts to search with, and those to test on."""
    numbers = list(range(len(pairs)))
    seen, of_pair = numbers, _wordings(pairs)
    if hold_out == "wordings":
        wordings = sorted(set(of_pair))
        if len(wordings) < 2:
            raise SweepError(f"{pairs.name!r} has no two wordings (groups) to hold one out: give hold_out='prompts'.")
        known = set(draws.sample(wordings, len(wordings) // 2))
        seen = [i for i in numbers if of_pair[i] in known]
    if len(seen) < n_prompts or len(numbers) == n_prompts:
        raise SweepError(
            f"{n_prompts} prompts to search with are more than {pairs.name!r} has beside those held out: of its "
            f"{len(numbers)} there are {len(seen)} to draw from. Give fewer n_prompts, or a task of more prompts."
        )
    chosen = sorted(_spread(seen, of_pair, draws)[:n_prompts])
    unseen = sorted(set(numbers) - set(seen if hold_out == "wordings" else chosen))
    return chosen, unseen


def _spread(numbers: Sequence[int], wordings: Sequence[str], draws: random.Random) -> list[int]:
    """Numbers in an order of chance in which every wording comes once before any comes twice, and so on."""
    turns: Counter[str] = Counter()
    in_turn = []
    for number in draws.sample(numbers, len(numbers)):
        in_turn.append((turns[wordings[number]], number))
        turns[wordings[number]] += 1
    return [number for _, number in sorted(in_turn, key=lambda turn: turn[0])]


def _wordings(pairs: PromptPairs) -> list[str]:
    """Each prompt's wording; where none is named, all are one."""
    return list(pairs.clusters or pairs.groups) or [""] * len(pairs)


def _heads(found: Sequence[Discovery]) -> pd.DataFrame:
    """How often each head is found at a position, and as what."""
    findings = pd.concat([search.head_types.assign(search=i) for i, search in enumerate(found)], ignore_index=True)
    rows = []
    for (layer, head, position), of_head in findings.groupby(["layer", "head_index", "position"]):
        (head_type, n_type), *_ = Counter(of_head.head_type).most_common(1)
        rows.append((layer, head, position, len(of_head), len(of_head) / len(found), head_type, n_type / len(of_head),
                     of_head.effect.mean()))  # fmt: skip
    table = pd.DataFrame(rows, columns=HEADS)
    return table.sort_values(["n_found", "effect"], key=abs, ascending=False, ignore_index=True)


def _head_types(found: Sequence[Discovery]) -> pd.DataFrame:
    """How many searches have a head of each type."""
    counts = [Counter(search.head_types.head_type) for search in found]
    rows = []
    for head_type in sorted({name for of_search in counts for name in of_search}):
        n_found = sum(head_type in of_search for of_search in counts)
        n_heads = sum(of_search[head_type] for of_search in counts)
        rows.append((head_type, n_found, n_found / len(found), n_heads / len(found)))
    return pd.DataFrame(rows, columns=TYPES).sort_values("n_found", ascending=False, kind="stable", ignore_index=True)
