"""Whether a head changes where later heads look: its output is patched, and their attention is read."""

import random
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_choice, check_count, check_heads, check_seed, head_name
from patchlib.circuits.attention import attention_under
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.sites import SITES, get_site
from patchlib.patching.unpatched import Hooks
from patchlib.stats import mean_interval
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs

Outputs = dict[int, Float[Tensor, "example head d_head"]]
"""By layer, what its heads give at one position of each prompt."""
Attention = Float[xr.DataArray, "sender layer head role example"]


def attention_effects(
    model: TransformerBridge,
    task: Task,
    senders: Iterable[Head],
    receivers: Iterable[Head],
    *,
    dest: str = "END",
    role: str = "IO",
    position: str | None = None,
    n_controls: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """How receivers attend from one role to another once a sender's output is that of the corrupted prompt.

    The clean prompt is run with one sender's ``z``, at one position, taken from the corrupted prompt of the pair; all
    else is free to follow, so that it counts too what the sender does through other heads and MLPs (Wang et al. 2022,
    section 3.2 and appendix A, for the attention of name movers without the S-inhibition heads).

    Args:
        model: In eval mode.
        task: With roles.
        senders: (layer, head) pairs; each is patched alone.
        receivers: (layer, head) pairs, whose attention is read.
        dest: The role from which the receivers look.
        role: The role that they look at.
        position: The role at which a sender is patched; ``dest`` when None.
        n_controls: Beside the senders, in each of their layers so many random heads that are neither senders nor
            receivers (as many as there are, if there are fewer).
        seed: Of that draw.

    Returns:
        ``clean`` (over receiver and example), ``patched`` and ``change`` (over sender, receiver and example), attention
        between 0 and 1; the mean change's 95% interval ``ci_low`` and ``ci_high`` (``stats.mean_interval``, over sender
        and receiver). Heads are named, such as ``"L9H6"``; the coordinate ``is_control`` tells controls from senders.

    Raises:
        SweepError: A role or a head that there is not, no head at all, or a model in train mode.
        TaskError: The task is unusable.

    Example:
        >>> effects = patchlib.attention_effects(model, task, [(20, 0)], [(23, 3)], role="S2", n_controls=1)
        >>> effects.mean("example").change.sel(receiver="L23H3").to_series().round(2)
        sender
        L20H0    0.03
        L20H7   -0.00
        Name: change, dtype: float32
    """
    pairs = as_pairs(model, task)
    size = int(model.cfg.n_layers), int(model.cfg.n_heads)
    patched, read = check_heads(senders, *size), check_heads(receivers, *size)
    check_choice("role", role, pairs.roles)
    count, seed = check_count("n_controls", n_controls, least=0), check_seed(seed)
    controls = random_controls(model, patched, {*patched, *read}, count, seed)
    get_site(model, "pattern", [layer for layer, _ in read])
    clean = attention_under(model, pairs, dest)
    of_each = attention_when_patched(model, pairs, [*patched, *controls], dest if position is None else position, dest)
    layers, heads = (xr.DataArray([head[i] for head in read], dims="receiver") for i in (0, 1))
    before, after = (values.sel(role=role, layer=layers, head=heads, drop=True) for values in (clean, of_each))
    change = (after - before).transpose("sender", "receiver", "example")
    rows = change.values.reshape(-1, len(pairs)).astype(np.float64)
    ends = {
        name: (("sender", "receiver"), end.reshape(change.shape[:2]))
        for name, end in zip(("ci_low", "ci_high"), mean_interval(rows, clusters=pairs.clusters), strict=True)
    }
    coords = {
        "receiver": [head_name(*head) for head in read],
        "is_control": ("sender", [False] * len(patched) + [True] * len(controls)),
    }
    about = {"dest": dest, "role": role, "position": dest if position is None else position, "task": pairs.name}
    return xr.Dataset({"clean": before, "patched": after, "change": change, **ends}, coords, about)


def random_controls(
    model: TransformerBridge, heads: Iterable[Head], exclude: set[Head], count: int, seed: int
) -> list[Head]:
    """Random heads of the same layers that are none of these, at most so many of a layer."""
    draw, controls = random.Random(seed), []
    for layer in sorted({layer for layer, _ in heads}):
        free = [(layer, head) for head in range(int(model.cfg.n_heads)) if (layer, head) not in exclude]
        controls += sorted(draw.sample(free, min(count, len(free))))
    return controls


def attention_when_patched(
    model: TransformerBridge, pairs: PromptPairs, senders: list[Head], position: str, dest: str
) -> Attention:
    """The attention of every head from ``dest`` to each role, with each sender's output from the corrupted prompt."""
    check_choice("role", position, pairs.roles)
    layers = sorted({layer for layer, _ in senders})
    get_site(model, "z", layers)
    corrupted = _corrupted_outputs(model, pairs, layers, position)

    def hooks(examples: list[int], sender: Head) -> Hooks:
        layer, head = sender
        index = torch.arange(len(examples)), pairs.roles[position][examples], head

        def patch(z: Float[Tensor, "example pos head d_head"], hook: HookPoint) -> Tensor:
            z = z.clone()
            z[index] = corrupted[layer][examples, head].to(z)
            return z

        return [(SITES["z"].hook_name(layer), patch)]

    of_each = [attention_under(model, pairs, dest, partial(hooks, sender=sender)) for sender in senders]
    return xr.concat(of_each, pd.Index([head_name(*sender) for sender in senders], name="sender"))


def _corrupted_outputs(model: TransformerBridge, pairs: PromptPairs, layers: list[int], position: str) -> Outputs:
    """What the heads of some layers give at one role of the corrupted prompts."""
    size = len(pairs), int(model.cfg.n_heads), int(model.cfg.d_head)
    outputs = {layer: torch.zeros(size, dtype=model.cfg.dtype) for layer in layers}
    names = {SITES["z"].hook_name(layer): layer for layer in layers}
    for examples in length_batches(pairs, default_batch_tokens(model)):
        part = pairs.select(examples)
        with torch.no_grad():
            _, cache = model.run_with_cache(
                part.corrupted_batch().to(model.cfg.device), names_filter=lambda name: name in names, return_type=None
            )
        for name, layer in names.items():
            outputs[layer][examples] = cache[name].cpu()[torch.arange(len(part)), part.roles[position]]
    return outputs


MOVES, MOVES_LITTLE, MOVES_NOT = "moves attention", "moves little attention", "moves no attention"
UNTOLD = "too few prompts"
EVIDENCE = ("receiver", "attention_change", "change_low", "change_high", "control_change", "evidence")
LEAST_CONTROLS = 3
"""Random heads beside the senders of one step: one of each of their layers, and no fewer than this."""


def moved_attention(
    model: TransformerBridge,
    pairs: PromptPairs,
    steps: pd.DataFrame,
    clean: Mapping[str, Float[xr.DataArray, "layer head role example"]],
    min_change: float,
) -> dict[tuple[int, int, str], dict[str, Any]]:
    """For each head that was found to write to queries or keys, what becomes of the attention that these make.

    Of its paths the largest counts. Keys at a role are asked how much is attended to that role; queries, how much to
    the role that their head looks at most in the clean prompts. Of several receivers the one that changes most is told,
    with an interval that is corrected for their number (Bonferroni). ``clean`` is ``attention_between`` from each
    position of the steps.
    """
    if "site" not in steps:
        return {}
    written = steps[steps.site.isin(["q", "k"])]
    written = written.loc[written.effect.abs().groupby([written[key] for key in _PLACE]).idxmax()]
    found = {(int(layer), int(head)) for layer, head in zip(steps.layer, steps.head_index, strict=True)}
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for path, of_path in written.groupby(["receivers", "site", "position"]):
        receivers, site, position = map(str, path)
        readers = [(int(layer), int(head)) for layer, head in re.findall(r"L(\d+)H(\d+)", receivers)]
        senders = list(zip(of_path.layer.astype(int), of_path.head_index.astype(int), strict=True))
        dest = position if site == "q" else _position_of(steps, readers)
        if dest is None or not readers:
            continue
        n_layers = len({layer for layer, _ in senders})
        controls = random_controls(model, senders, found, -(-LEAST_CONTROLS // n_layers), seed=0)
        of_each = attention_when_patched(model, pairs, [*senders, *controls], position, dest)
        changes = []
        for layer, head in check_heads(readers, int(model.cfg.n_layers), int(model.cfg.n_heads)):
            before = clean[dest].sel(layer=layer, head=head)  # [role example]
            role = position if site == "k" else str(before.role.values[before.mean("example").values.argmax()])
            moved = of_each.sel(layer=layer, head=head, role=role) - before.sel(role=role)
            changes.append(moved.transpose("sender", "example").values)
        change = np.stack(changes, axis=1).astype(np.float64)  # [sender receiver example]
        means = change.mean(-1)  # [sender receiver]
        largest = abs(means).argmax(1)  # [sender]
        chosen = np.arange(len(largest)), largest
        low, high = mean_interval(change[chosen], 1 - 0.05 / len(readers), pairs.clusters)
        control = max((float(mean) for mean in means[chosen][len(senders) :]), key=abs, default=np.nan)
        for i, (layer, head) in enumerate(senders):
            of_sender = float(means[chosen][i]), float(low[i]), float(high[i])
            said = _verdict(*of_sender, control, min_change)
            rows[layer, head, position] = dict(
                zip(EVIDENCE, (head_name(*readers[largest[i]]), *of_sender, control, said), strict=True)
            )
    return rows


_PLACE = ["layer", "head_index", "position"]


def _position_of(steps: pd.DataFrame, heads: list[Head]) -> str | None:
    """Where the outputs of these heads were found to matter, the same for all."""
    places = [
        {str(position) for position in steps.position[(steps.layer == layer) & (steps.head_index == head)]}
        for layer, head in heads
    ]
    shared = set.intersection(*places) if places else set()
    return min(shared, default=None)


def _verdict(change: float, low: float, high: float, control: float, min_change: float) -> str:
    if np.isnan(low):
        return UNTOLD
    if not (low > 0 or high < 0) or abs(change) <= abs(control):  # NaN where no head is left as a control
        return MOVES_NOT
    return MOVES if abs(change) >= min_change else MOVES_LITTLE
