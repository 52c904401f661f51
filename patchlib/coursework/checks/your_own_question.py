"""Checks of 06, the project: what a machine can see of it; the rubric in the notebook has the rest.

They ask whether prompts can bear a claim, whether maps are what they say, and whether what was run is on record.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import cell_dims, sha256_of, shown
from patchlib.coursework.checks.library import quietly
from patchlib.coursework.compare import CheckFailed, call, right
from patchlib.models.load import weights_hash
from patchlib.patching.sweeps import baseline, sweep
from patchlib.stats import contrast, moved_and_possible, why_unusable
from patchlib.tasks.pairs import PromptPairs

LEAST_PAIRS, LEAST_OTHERS = 20, 10
"""Pairs of the project, and of its null set."""
MOST_DIFFERING = 3
"""Tokens in which a clean and a corrupted prompt differ, where they differ in one thing."""
MOST_OF_NULL = 0.25
"""A null set's contrast, as a share of the real one."""
PARAMETERS = ("model_name", "n_prompts", "seed")


def own_pairs(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``own_pairs(model, seed)``: enough pairs, aligned, with a contrast, and others from another seed.

    Args:
        answer: The student's function.
        model: That of the project.
        task: Its seed is given to the function.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    seed = task.seed or 0
    pairs, others = (_pairs("own_pairs", call(answer, model, seed + shift)) for shift in (0, 1))
    _check_number(pairs)
    _check_alignment(pairs)
    table = contrast(quietly(baseline, model, pairs)).iloc[[0]]
    if not table.usable.all():
        raise CheckFailed(f"own_pairs: {why_unusable(table)}")
    seen = {tuple(row.tolist()) for row in pairs.clean_tokens}
    if again := sum(tuple(row.tolist()) in seen for row in others.clean_tokens):
        raise CheckFailed(
            f"own_pairs gives {again} prompts of seed {seed} with seed {seed + 1} again: what is picked on a "
            "prompt for its size is large on it a second time"
        )
    row = table.iloc[0]
    right("own_pairs", f"{len(pairs)} pairs, {table.index[0]} {row.clean:.2f} clean and {row.corrupted:.2f} corrupted")


def _check_number(pairs: PromptPairs) -> None:
    """CheckFailed unless there are enough, and not a few over and over again."""
    if len(pairs) < LEAST_PAIRS:
        raise CheckFailed(f"own_pairs gives {len(pairs)} pairs: fewer than {LEAST_PAIRS} bear no claim, so draw more")
    different = len({tuple(row.tolist()) for row in pairs.clean_tokens})
    if different < LEAST_PAIRS:
        raise CheckFailed(f"own_pairs gives {different} different clean prompts: copies add nothing, so vary the words")
    if len(set(pairs.clusters)) == 1:
        raise CheckFailed("own_pairs has one wording, so that nothing tells your question from it: write another one")


def _check_alignment(pairs: PromptPairs) -> None:
    """CheckFailed unless clean and corrupted differ in one thing, whose position has a name."""
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        differing = set((clean != corrupted).nonzero().flatten().tolist())
        if len(differing) > MOST_DIFFERING:
            raise CheckFailed(
                f"own_pairs: pair {i} differs at {len(differing)} positions. Change one thing (at most "
                f"{MOST_DIFFERING} tokens), or no patch can tell which of them it moved"
            )
        named = {int(positions[i]) for positions in pairs.roles.values()}
        named |= {position for positions in pairs.spans.values() for position in positions[i]}
        if not differing & named:
            raise CheckFailed(
                f"own_pairs: pair {i} differs at position {min(differing)}, which has no name. Name it (a column "
                "role:NAME, or roles=), so that a map by role can show it"
            )


def null_set(answer: Callable[..., Any], model: TransformerBridge, own_pairs: Callable[..., Any], seed: int) -> None:
    """Check ``null_set(model, seed)``: pairs that differ, and call for the same answer.

    Args:
        answer: The student's function.
        model: That of the project.
        own_pairs: The student's function of that name.
        seed: Given to both.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    task = _pairs("own_pairs", call(own_pairs, model, seed))
    null = _pairs("null_set", call(answer, model, seed))
    if len(null) < LEAST_OTHERS:
        raise CheckFailed(f"null_set gives {len(null)} pairs: take {LEAST_OTHERS} or more")
    asked = {tuple(ids) for ids in task.answers.tolist()}
    if strange := sum(tuple(ids) not in asked for ids in null.answers.tolist()):
        raise CheckFailed(
            f"null_set has {strange} pairs with answers that none of your own pairs has: keep their right and their "
            "wrong answers, or the two are not on one scale"
        )
    apart, real = (_apart(quietly(baseline, model, pairs)) for pairs in (null, task))
    if abs(apart) > MOST_OF_NULL * abs(real):
        raise CheckFailed(
            f"null_set has a contrast of {apart:.2f} where the real one is {real:.2f}: both prompts of a pair must "
            "call for the SAME answer, so that there is nothing to find"
        )
    right("null_set", f"{len(null)} pairs, a contrast of {apart:.2f} beside {real:.2f}")


def two_maps(answer: Callable[..., Any], model: TransformerBridge, own_pairs: Callable[..., Any], seed: int) -> None:
    """Check ``two_maps(model, pairs)``: sweeps that ask different questions; one layer of each is swept once more.

    Args:
        answer: The student's function.
        model: That of the project.
        own_pairs: The student's function of that name.
        seed: Given to it.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    task = _pairs("own_pairs", call(own_pairs, model, seed))
    maps = call(answer, model, task)
    if not isinstance(maps, Mapping) or len(maps) < 2:
        raise CheckFailed(
            "two_maps must return a dictionary of two results or more, such as {'stream': ..., 'heads': ...}"
        )
    for name, result in maps.items():
        _check_sweep(f"two_maps: {name!r}", result, model)
        if result.attrs.get("task") != task.name or result.sizes["example"] != len(task):
            swept = f"{result.sizes['example']} prompts of {result.attrs.get('task')!r}"
            raise CheckFailed(f"two_maps: {name!r} is of {swept}: sweep all {len(task)} of the pairs that are given")
    questions = _questions("two_maps", maps)
    for name, result in maps.items():
        _check_again(f"two_maps: {name!r}", result, task, model)
    right("two_maps", "; ".join(f"{name}: {', '.join(question)}" for question, name in questions.items()))


def record(answer: Callable[..., Any], model: TransformerBridge, own_pairs: Callable[..., Any], seed: int) -> None:
    """Check ``record(model, seed, out_dir)``: it runs all of it, and what it saves can be held against itself.

    Args:
        answer: The student's function, which returns what ``save_run`` does.
        model: That of the project.
        own_pairs: The student's function of that name.
        seed: Given to both.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    task = _pairs("own_pairs", call(own_pairs, model, seed))
    with tempfile.TemporaryDirectory() as folder:
        path = call(answer, model, seed, folder)
        results = _saved(path, model, len(task), seed)
    unpatched = quietly(baseline, model, task).isel(metric=0)
    own = {name: result for name, result in results.items() if _is_of(result, unpatched)}
    if len(own) < 2:
        raise CheckFailed(f"record has {len(own)} maps of own_pairs(model, {seed}): save both of them")
    _questions("record", own)
    others = {name: result for name, result in results.items() if name not in own}
    real = abs(_apart(unpatched.expand_dims("metric")))
    is_null = {name: abs(_apart(result)) <= MOST_OF_NULL * real for name, result in others.items()}
    for what, wanted in (("null set", True), ("second seed", False)):
        if not [name for name in others if is_null[name] == wanted and _has_cells_of(others[name], own)]:
            raise CheckFailed(f"record has no {what}: save a sweep over it that has the cells of one of your two maps")
    for name, result in own.items():
        _check_again(f"record: {name!r}", result, task, model)
    right("record", f"{', '.join(results)}, with what they were made of")


def _saved(path: Any, model: TransformerBridge, n_pairs: int, seed: int) -> dict[str, xr.Dataset]:
    """The results by name that a manifest is of; CheckFailed for a manifest that does not say how they came about."""
    mend = "return what patchlib.save_run(...) gives"
    if not isinstance(path, str | Path) or not Path(path).is_file():
        raise CheckFailed(f"record gives {shown(path)}, and no such file is there: {mend}")
    try:
        manifest = json.loads(Path(path).read_text("utf-8"))
        parameters, models, files = manifest["parameters"], manifest["models"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"record gives {Path(path).name}, which is no manifest: {mend}") from error
    if lacking := [name for name in PARAMETERS if name not in parameters]:
        raise CheckFailed(
            f"record: the manifest lacks the parameters {', '.join(lacking)}. Nobody can repeat it without"
        )
    for name, ran in (("n_prompts", n_pairs), ("seed", seed)):
        if parameters[name] != ran:
            raise CheckFailed(
                f"record: the manifest says {name}={parameters[name]}, and it was {ran}. Save what you ran"
            )
    if [saved.get("weights_hash") for saved in models] != [weights_hash(model)]:
        raise CheckFailed("record: the manifest is of other weights than this model's alone")
    results = {}
    for file in files:
        saved = Path(path).with_name(file["name"])
        if not saved.is_file() or sha256_of(saved) != file["sha256"]:
            raise CheckFailed(f"record: {file['name']} is not there, or was changed after it was saved")
        if saved.suffix == ".nc":
            results[saved.name.split(".")[-2]] = xr.load_dataset(saved, engine="h5netcdf")
    return {name: result for name, result in results.items() if "patched" in result}


def _pairs(name: str, pairs: Any) -> PromptPairs:
    if not isinstance(pairs, PromptPairs):
        made = "patchlib.read_pairs(file, model), or task.to_pairs(model)"
        raise CheckFailed(f"{name} gives {type(pairs).__name__}: return pairs, which one makes with {made}")
    return pairs


def _apart(result: xr.Dataset) -> float:
    """The contrast: clean minus corrupted, mean over prompts, of the first metric."""
    return float((result.clean - result.corrupted).isel(metric=0).mean())


def _questions(name: str, maps: Mapping[str, xr.Dataset]) -> dict[tuple[str, ...], str]:
    """Site, direction and axes -> a map's name; CheckFailed where two ask the same."""
    questions: dict[tuple[str, ...], str] = {}
    for of, result in maps.items():
        question = (str(result.attrs["site"]), str(result.attrs["direction"]), *cell_dims(result))
        if question in questions:
            raise CheckFailed(
                f"{name}: {of!r} asks what {questions[question]!r} asks ({', '.join(question)}). Take another site, "
                "other axes or the other direction"
            )
        questions[question] = str(of)
    return questions


def _is_of(result: xr.Dataset, unpatched: xr.Dataset) -> bool:
    """Whether a result has the same prompts, by what the model gives on them unpatched."""
    kinds, first = ("clean", "corrupted"), result.isel(metric=0)
    return result.sizes["example"] == unpatched.sizes["example"] and all(
        np.allclose(first[kind], unpatched[kind], rtol=1e-3, atol=1e-3) for kind in kinds
    )


def _has_cells_of(result: xr.Dataset, maps: Mapping[str, xr.Dataset]) -> bool:
    def asked(of: xr.Dataset) -> tuple[Any, ...]:
        return of.attrs.get("site"), of.attrs.get("direction"), cell_dims(of)

    return any(asked(result) == asked(other) for other in maps.values())


def _check_sweep(name: str, result: Any, model: TransformerBridge) -> None:
    """CheckFailed unless it was patched, and in this model."""
    if not isinstance(result, xr.Dataset) or not {"patched", "clean", "corrupted"} <= set(result):
        raise CheckFailed(f"{name} is no result of a sweep: take what patchlib.sweep(model, pairs, ...) returns")
    if "estimate" in result.attrs:
        raise CheckFailed(f"{name} is an estimate from gradients: a map of the project is patched, by patchlib.sweep")
    if result.attrs.get("weights_hash") != weights_hash(model):
        raise CheckFailed(f"{name} is of another model's weights: sweep the model that is given")


def _check_again(name: str, result: xr.Dataset, pairs: PromptPairs, model: TransformerBridge) -> None:
    """CheckFailed unless the layer that moves the metric most gives the same once more."""
    moved = abs(moved_and_possible(result)[0].isel(metric=0)).mean("example")
    if result.attrs.get("source") != "other" or "layer" not in moved.dims:
        return
    layer = int(moved.max([dim for dim in moved.dims if dim != "layer"]).idxmax("layer"))
    how: dict[str, Any] = {"metric": str(result.metric.values[0]), "direction": result.attrs["direction"]}
    again = quietly(sweep, model, pairs, result.attrs["site"], cell_dims(result), layers=[layer], progress=False, **how)
    first, second = (part.patched.isel(metric=0, drop=True).sel(layer=layer) for part in (result, again))
    first, second = xr.align(first, second.transpose(*first.dims), join="inner")
    if not first.size or not np.allclose(first.values, second.values, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise CheckFailed(f"{name} is not what a sweep of these pairs gives in layer {layer}: sweep them again")
