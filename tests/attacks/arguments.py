"""Positions, heads, directions, seeds and counts that there are not, in every function that takes some (A5, C15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

import patchlib
from patchlib import stats
from patchlib.errors import PatchlibError, SweepError, TaskError
from tests.architectures.models import architecture
from tests.attacks.callables import ablation, cache, circuit, losses, model, pairs, public, result
from tests.attacks.case import Refusal, Wrong, case, refused
from tests.helpers import contrast_pairs, mixed_pairs, sweep


def all_refused(*calls: Callable[[], object], words: tuple[str, ...] = ()) -> Refusal:
    """The last of the refusals, each of them one line with all words in it."""
    said = [refused(call, *words) for call in calls]
    return Refusal(f"{said[-1].line} ({len(said)} of {len(said)})")


@case("A5", "position 99 in Ablation, inputs_of, path_patch, Circuit, sweep, the seed's patchers")
def position_99() -> Refusal:
    far = patchlib.Circuit({"first": [(0, 1)]}, {"first": 99})
    reading = patchlib.inputs_of(model(), [(2, 1)], "q", 99)
    activation, heads = patchlib.ActivationPatcher(model()), patchlib.HeadPatcher(model())
    prompt = "John gave a drink to"
    return all_refused(
        lambda: ablation().measure([patchlib.HeadSet({(0, 1): [99]}, keep=False)]),
        lambda: ablation().losses([patchlib.HeadSet({(0, 1): 99}, keep=True)]),
        lambda: ablation().hooks([patchlib.HeadSet({(0, 1): 99}, keep=True)], [0]),
        lambda: patchlib.path_patch(model(), pairs(), reading, progress=False),
        lambda: patchlib.path_patch(model(), pairs(), positions=99, progress=False),
        lambda: patchlib.faithfulness(ablation(), far),
        lambda: patchlib.completeness(ablation(), far),
        lambda: patchlib.minimality(ablation(), far),
        lambda: sweep(model(), pairs(), positions=[99]),
        lambda: activation.patch_activation(prompt, cache(), "blocks.0.hook_mlp_out", position=99),
        lambda: activation.run_patching_experiment(pairs(), ["blocks.0.hook_mlp_out"], position=99),
        lambda: heads.patch_head_output(prompt, cache(), 0, 1, position=99),
        lambda: heads.run_all_heads_experiment(pairs(), position=99),
        words=("99",),
    )


@case("A5", "a layer without heads in a hybrid model, heads behind a norm over all of them, heads of latent attention")
def heads_that_there_are_not() -> Refusal:
    def call(name: str, ask: Callable[[Any, Any], object]) -> Callable[[], object]:
        hybrid = architecture(name)
        asked = contrast_pairs(hybrid, n=2)
        return lambda: ask(hybrid, asked)

    over = ("layer", "head")
    all_refused(
        call("jamba", lambda model, pairs: sweep(model, pairs, "z", over, layers=[0, 1])),
        call("jamba", lambda model, pairs: patchlib.attention_patterns(model, pairs.clean_tokens[0], [(0, 1)])),
        call("jamba", lambda model, pairs: patchlib.copying_scores(model, [5, 6], [(0, 1)])),
        call("jamba", lambda model, pairs: patchlib.k_composition(model, [(1, 1)])),
        call("jamba", lambda model, pairs: patchlib.Ablation(model, pairs)),
        call("jamba", lambda model, pairs: patchlib.path_patch(model, pairs, progress=False)),
        words=("layer",),
    )
    all_refused(
        call("olmo2", lambda model, pairs: sweep(model, pairs, "q", over)),
        call("olmo2", lambda model, pairs: patchlib.inputs_of(model, [(2, 1)], "k")),
        words=("norm over all heads",),
    )
    return all_refused(
        call("deepseek-v3", lambda model, pairs: sweep(model, pairs, "v", ("layer", "head", "pos"))),
        call("deepseek-v3", lambda model, pairs: patchlib.direct_logit_attribution(model, pairs)),
        words=("in another layout",),
    )


@case("A5", "positions before the first, halves, True, an unknown role, none at all, one twice")
def odd_positions() -> Refusal:
    said = []
    for wrong in (-99, 1.5, True, "nowhere", [], ["END", "END"], [None, 1.5], float("nan"), [[1]], np.array([0.5])):
        said += [
            refused(lambda wrong=wrong: sweep(model(), pairs(), positions=wrong)),
            refused(lambda wrong=wrong: ablation().measure([patchlib.HeadSet({(0, 1): wrong}, keep=False)])),
            refused(
                lambda wrong=wrong: patchlib.faithfulness(ablation(), patchlib.Circuit({"a": [(0, 1)]}, {"a": wrong}))
            ),
            refused(
                lambda wrong=wrong: patchlib.path_patch(
                    model(), pairs(), patchlib.inputs_of(model(), [(2, 1)], "q", wrong), progress=False
                )
            ),
            refused(
                lambda wrong=wrong: patchlib.path_patch(
                    model(), pairs(), [patchlib.Receiver("q", 2, 1, wrong)], progress=False
                )
            ),
        ]
    return said[0]


@case("A5", "a position that only the longer ones of the prompts have, in ablations and receivers")
def position_of_some() -> Refusal:
    mixed = mixed_pairs(model())  # of 7 and 9 tokens
    replaced = patchlib.Ablation(model(), mixed, source="zero")
    swept = sweep(model(), mixed, over=("layer", "pos"), positions=[8])  # such prompts are left out there
    assert swept.patched.notnull().sum("example").values.ravel().tolist() == [3] * 3
    return all_refused(
        lambda: replaced.measure([patchlib.HeadSet({(0, 1): 8}, keep=False)]),
        lambda: patchlib.faithfulness(replaced, patchlib.Circuit({"a": [(0, 1)]}, {"a": 7})),
        lambda: patchlib.path_patch(model(), mixed, patchlib.inputs_of(model(), [(2, 1)], "q", 8), progress=False),
        words=("0 to 6",),
    )


@case("A5", "any word but denoise and noise, as an argument and in a result")
def directions() -> Refusal:
    calls = []
    for wrong in ("Denoise", "noising", "", None, 1, True, ["noise"]):
        turned = result().assign_attrs(direction=wrong)
        calls += [
            lambda wrong=wrong: sweep(model(), pairs(), direction=wrong),
            lambda wrong=wrong: patchlib.path_patch(model(), pairs(), direction=wrong, progress=False),
            lambda turned=turned: stats.effect(turned),
            lambda turned=turned: stats.effect_interval(turned),
            lambda turned=turned: stats.p_values(turned),
            lambda turned=turned: stats.summary_table(turned),
            lambda turned=turned: patchlib.widgets.result_explorer(turned),
        ]
    without = result().copy()
    del without.attrs["direction"]
    return all_refused(*calls, lambda: stats.effect(without), words=("direction", "denoise"))


@case("A5", "a head set that is named none, or that has no name")
def named_none() -> Refusal:
    calls = [
        lambda name=name, function=function: function(name)
        for name in ("none", "", None, 3, "\ud800")
        for function in (
            lambda name: patchlib.knock_out(ablation(), {name: [(0, 1)]}),
            lambda name: patchlib.ablated_losses(ablation(), {"other": [(0, 1)], name: [(0, 1)]}, copy=4),
        )
    ]
    table = patchlib.knock_out(ablation(), {"None": [(0, 1)]})  # another name
    assert table.index.tolist() == ["none", "None"] and table.change.tolist()[0] == 0
    return all_refused(*calls, words=("name",))


@case("A5", "heads and layers that there are not, in everything that takes (layer, head)")
def heads_and_layers() -> Refusal:
    calls = []
    for wrong in (
        (99, 0),
        (0, 99),
        (-1, 0),
        (1.9, 1.9),
        (True, 1),
        (1, float("nan")),
        (0,),
        (0, 1, 2),
        1,
        "L0H1",
        None,
    ):
        calls += [
            lambda wrong=wrong: patchlib.random_like(model(), [wrong], 1),
            lambda wrong=wrong: patchlib.random_like(model(), [(0, 1)], 1, exclude=[wrong]),
            lambda wrong=wrong: patchlib.knock_out(ablation(), {"a": [wrong]}),
            lambda wrong=wrong: patchlib.ablated_losses(ablation(), {"a": [wrong]}, copy=4),
            lambda wrong=wrong: patchlib.backup_heads(ablation(), [wrong]),
            lambda wrong=wrong: patchlib.faithfulness(ablation(), patchlib.Circuit({"a": [wrong]})),
            lambda wrong=wrong: ablation().measure([patchlib.HeadSet({wrong: [None]}, keep=True)]),
            lambda wrong=wrong: patchlib.attention_patterns(model(), "Mary and John", [wrong]),
            lambda wrong=wrong: patchlib.copying_scores(model(), [5, 6], [wrong]),
            lambda wrong=wrong: patchlib.k_composition(model(), [wrong]),
            lambda wrong=wrong: patchlib.inputs_of(model(), [wrong], "k"),
            lambda wrong=wrong: patchlib.widgets.attention_view(model(), ["Mary and John"], [wrong]),
        ]
    calls += [
        lambda: patchlib.random_like(model(), [(0, 1)], 1, exclude=(1, 1)),
        lambda: sweep(model(), pairs(), layers=range(2, 99)),
        lambda: sweep(model(), pairs(), "z", ("layer", "head"), heads=[1.9]),
        lambda: patchlib.HeadPatcher(model()).patch_head_output("John gave a drink to", cache(), 1.9, 1),
        lambda: patchlib.HeadPatcher(model()).patch_attention_pattern("John gave a drink to", cache(), 99, 1),
        lambda: patchlib.HeadPatcher(model()).results_to_heatmap(
            [patchlib.HeadPatchingResult(1.9, 1, 0.5, 3.0, -1.0, 1.0)]
        ),
        lambda: patchlib.path_patch(model(), pairs(), [patchlib.Receiver("q", 2, 1.9)], progress=False),
        lambda: patchlib.classify_ioi_head(9.0, 9),
        lambda: circuit().without([(2, 3)]),
        lambda: circuit().head_positions([(2, 3)]),
    ]
    return all_refused(*calls)


@case("A5", "one head twice: it would be counted twice, or one of two numbers lost")
def heads_twice() -> Refusal:
    twice = [(0, 1), (np.int64(0), 1)]
    numbers = [patchlib.HeadPatchingResult(0, 1, effect, 3.0, -1.0, 1.0) for effect in (0.5, 0.1)]
    return all_refused(
        lambda: patchlib.random_like(model(), twice, 1),
        lambda: patchlib.knock_out(ablation(), {"a": twice}),
        lambda: patchlib.Circuit({"a": twice}),
        lambda: patchlib.attention_patterns(model(), "Mary and John", twice),
        lambda: patchlib.create_head_heatmap(numbers, 3, 4),
        words=("L0H1", "twice"),
    )


@case("A5", "numpy's and torch's integers, arrays and tensors instead of lists: the same numbers")
def other_integers() -> str:
    heads = np.array([[0, 1], [1, 2]])
    plain = patchlib.knock_out(ablation(), {"a": [(0, 1), (1, 2)]})
    for same in (
        heads,
        torch.tensor(heads),
        heads.astype(np.int8),
        pd.DataFrame(heads),
        heads.tolist(),
        map(tuple, heads),
    ):
        pd.testing.assert_frame_equal(patchlib.knock_out(ablation(), {"a": same}), plain)
    four, five = np.int64(4), np.int16(5)
    at = {"positions": five, "layers": np.arange(2), "heads": np.uint8(1)}
    a, b = (
        sweep(model(), pairs(), "z", ("layer", "head"), **how)
        for how in (at, {"positions": 5, "layers": [0, 1], "heads": [1]})
    )
    xr.testing.assert_equal(a, b)
    for position in (five, np.array(5), torch.tensor(5)):
        sets = [patchlib.HeadSet({(np.int64(0), 1): position}, keep=False), patchlib.HeadSet({(0, 1): [5]}, keep=False)]
        np.testing.assert_array_equal(*ablation().measure(sets))
        a, b = (
            patchlib.path_patch(model(), pairs(), patchlib.inputs_of(model(), [(2, 1)], "q", where), progress=False)
            for where in (5, np.int64(5))
        )
        xr.testing.assert_equal(a.patched, b.patched)
    assert patchlib.classify_ioi_head(np.int64(9), np.int32(9)) == "Name Mover"
    assert patchlib.random_like(model(), heads, np.int64(2), seed=np.int64(3)) == patchlib.random_like(
        model(), [(0, 1), (1, 2)], 2, seed=3
    )
    xr.testing.assert_equal(
        patchlib.copy_losses(losses(), np.int64(7)).gain, losses()[:, 1:7].mean("pos") - losses()[:, 8:].mean("pos")
    )
    made = patchlib.PromptPairs(
        np.array([[5, 6, 7]]), np.array([[5, 8, 7]]), np.array([[9, 10]]), {"END": np.array([2])}
    )
    assert made.select(np.array([0])).answers.tolist() == [[9, 10]]
    batched = patchlib.baseline(model(), pairs(), batch_tokens=four * five)
    xr.testing.assert_allclose(batched, patchlib.baseline(model(), pairs()))
    by_hand = model()(pairs().clean_batch())[:, -1]
    right, wrong = pairs().answers.unbind(1)
    rows = torch.arange(4)
    np.testing.assert_allclose(batched.clean[0], by_hand[rows, right] - by_hand[rows, wrong], atol=1e-4)
    return "as lists of ints"


@case("A5", "batch_tokens of 0, -5, nan, True, 1.5, text")
def batch_tokens() -> Refusal:
    calls = [
        lambda wrong=wrong, function=function: function(model(), pairs(), batch_tokens=wrong)
        for wrong in (0, -5, float("nan"), True, 1.5, "64", [64], float("inf"))
        for function in (sweep, patchlib.path_patch, patchlib.baseline, patchlib.Ablation, patchlib.discover)
    ]
    return all_refused(*calls, words=("batch_tokens",))


@case("A5", "layer ranges, axes, sites, sources, engines and metrics that there are not")
def choices() -> Refusal:
    wrong = {
        "layers": (-1, [0, 0], "all", range(0, 99), [], 1.0, [True], slice(0, 2)),
        "over": ("head", (), ("layer", "layer"), ("layer", "token"), None, 5, np.array(["layer", "x"])),
        "site": ("Z", None, 1, "", ["z"]),
        "source": ("Zero", None, 0, "clean"),
        "engine": ("quick", None, True),
        "metric": ("Logit_diff", [], ["prob", "prob"], 5, [None], b"prob"),
        "source_seed": (-1, 1.5, "0", None, 2**70),
        "progress": ("yes", None, 1, []),
    }
    calls = []
    for setting, values in wrong.items():
        for value in values:
            how = {"site": "resid_pre", "over": ("layer",), "source": "mean", "direction": "noise", setting: value}
            calls.append(lambda how=how: patchlib.sweep(model(), pairs(), **({"progress": False} | how)))
    calls += [
        lambda value=value: patchlib.Ablation(model(), pairs(), metric=value) for value in ("loss", None, ["prob"])
    ]
    calls += [lambda value=value: patchlib.Ablation(model(), pairs(), source=value) for value in ("other", None, 0)]
    calls += [
        lambda value=value: patchlib.attention_between(model(), pairs(), value) for value in ("S1", None, 5, ["END"])
    ]
    calls += [lambda value=value: patchlib.inputs_of(model(), [(0, 1)], value) for value in ("z", None, "", ["q"])]
    return all_refused(*calls)


@case("C15", "seeds that are none, and that a generator or a file cannot hold")
def seeds() -> Refusal:
    seeded = {name: entry for name, entry in public().items() if {"seed", "source_seed"} & set(entry.right)}
    calls = [
        lambda entry=entry, wrong=wrong: entry.function(
            **entry.right | {name: wrong for name in entry.right if "seed" in name}
        )
        for entry in seeded.values()
        for wrong in (-1, 1.5, "0", 2**70, True, [0], float("nan"))
    ]
    return all_refused(*calls, words=("seed",))


@case("C15", "counts of 0, -3, nan, text, and so many that nothing would ever end")
def counts() -> Refusal:
    names = {"n_prompts", "seq_len", "n_rows", "n_sets", "n_random", "top_k", "max_heads", "depth"}
    calls = [
        lambda entry=entry, name=name, wrong=wrong: entry.function(**entry.right | {name: wrong})
        for entry in public().values()
        for name in names & set(entry.right)
        for wrong in (-3, float("nan"), "3", 1.5, True, [], 10**5000)
    ]
    huge = {"n_prompts", "seq_len", "n_rows", "n_sets", "n_random"}
    calls += [
        lambda entry=entry, name=name: entry.function(**entry.right | {name: 10**12})
        for entry in public().values()
        for name in huge & set(entry.right)
    ]
    return all_refused(*calls)


@case("C15", "shares and thresholds that are no numbers")
def numbers() -> Refusal:
    names = {"confidence", "min_share", "min_effect", "min_input", "min_attention", "min_copying", "threshold"}
    calls = [
        lambda entry=entry, name=name, wrong=wrong: entry.function(**entry.right | {name: wrong})
        for entry in public().values()
        for name in names & set(entry.right)
        for wrong in (float("nan"), float("inf"), "0.5", None, 1j, True, [0.5], 10**400)
    ]
    return all_refused(*calls)


@case("C15", "PromptPairs of None, text, nothing, surrogates, halves, and parts that do not fit together")
def pairs_of_junk() -> Refusal:
    right: dict[str, Any] = dict(public()["PromptPairs"].right)
    wrong = {
        "clean_tokens": (
            None,
            "text",
            5,
            [],
            [[]],
            {},
            [None],
            [[5, 6], [7]],
            float("nan"),
            np.array(3),
            [["a"]],
            [[2**70]],
        ),
        "corrupted_tokens": (None, "text", [[5, 6, 7]], [[5, 6, 7], [5, 6, 8]], [[5.0, 8.0, 7.0]]),
        "answers": (None, "ab", [], [[9]], [[9, 9]], [[-1, 9]], [[9.5, 1]], [9, 10], [[True, False]], {}),
        "roles": (
            None,
            ["END"],
            {"END": 5},
            {"END": [9]},
            {"END": None},
            {5: [1]},
            {"": [1]},
            {"\ud800": [1]},
            {"END": [1.5]},
        ),
        "name": (None, "", "  ", 5, "\ud800", "a\0b", b"x"),
        "seed": ("x", -1, 1.5, 2**64, True),
        "compute_metric": ("prob", 5, []),
        "metadata": (None, [1], {"a": None}, {"a": [1]}, {5: 1}, {"a": 2**70}, {"a": "\udfff"}, {"a": 1j}),
        "groups": (None, 5, ("a", "b"), "a", (None,), ("\ud800",)),
        "clusters": (None, 5, ("a", "b"), "a", (None,), ("\ud800",)),
        "keep_pads": (None, 1, "yes"),
    }
    calls = [
        lambda name=name, value=value: patchlib.PromptPairs(**right | {name: value})
        for name, values in wrong.items()
        for value in values
    ]
    calls += [
        lambda value=value: pairs().select(value) for value in (None, [], [4], [-1], "0", [1.5], [[0, 1]], [True] * 4)
    ]
    refusals = [refused(call, by=TaskError) for call in calls]
    return Refusal(f"{refusals[-1].line} ({len(refusals)} of {len(refusals)})")


@case("C15", "a user's task that gives None, texts, triples, halves, surrogates, an empty list, no name")
def tasks_of_junk() -> Refusal:
    def task(name: Any = "mine", prompts: Any = (("Mary gave it", "John gave it"),), answers: Any = (5, 6)) -> Any:
        methods = {
            "name": name,
            "get_clean_corrupt_pairs": lambda self: prompts,
            "get_target_tokens": lambda self, pair_idx: answers,
        }
        return type("Task", (patchlib.PatchingDataset,), methods)()

    ok = "Mary gave it"
    bad_prompts = (None, [], "text", 5, [None], ["ab"], [(ok,)], [(ok, ok, ok)], [(ok, None)], [(ok, "")],
                   [(ok, "\ud800")], [(ok, ok)], [(ok, 5)], [(200 * ok, 200 * "Mary gave to")])  # fmt: skip
    calls = [lambda value=value: patchlib.baseline(model(), task(prompts=value)) for value in bad_prompts]
    bad_answers = (
        None,
        5,
        (5,),
        (5, 5),
        (5, 6, 7),
        ("a", "b"),
        (5.5, 6),
        (5, -1),
        (5, 10**6),
        (5, 2**70),
        (True, False),
    )
    calls += [lambda value=value: patchlib.baseline(model(), task(answers=value)) for value in bad_answers]
    calls += [lambda value=value: patchlib.baseline(model(), task(name=value)) for value in (None, "", 5, "\ud800")]
    calls += [
        lambda value=value: patchlib.baseline(model(), value) for value in (None, "ioi", 5, [], type(task()), pairs)
    ]
    given = patchlib.baseline(model(), task()).clean.item()
    logits = model()(model().to_tokens(ok))[0, -1]
    np.testing.assert_allclose(given, float(logits[5] - logits[6]), atol=1e-4)
    return all_refused(*calls)


@case("C15", "results, tables, losses and numbers that are none, given to statistics")
def statistics_of_junk() -> Refusal:
    swept = result()
    lacking = [swept.drop_vars(name) for name in ("clean", "corrupted", "patched")]
    wrong = (None, "x", 5, [], {}, xr.Dataset(), xr.DataArray([1.0]), pd.DataFrame({"a": [1]}), np.zeros(3), *lacking)
    wrong = (*wrong, swept.isel(example=[]), swept.astype(str), swept.mean("example"), swept.isel(metric=0))
    functions = (
        stats.effect,
        stats.effect_interval,
        stats.p_values,
        stats.summary_table,
        patchlib.widgets.result_explorer,
    )
    calls = [lambda value=value, f=f: f(value) for value in wrong for f in functions]
    unpatched = [
        value
        for value in wrong
        if not isinstance(value, xr.Dataset) or "clean" not in value or "corrupted" not in value
    ]
    calls += [lambda value=value: stats.contrast(value) for value in unpatched]
    calls += [lambda value=value: stats.one_metric(swept, value) for value in ("loss", 5, ["prob"], "")]
    calls += [
        lambda v=v: stats.mean_interval(v) for v in (None, "x", [], [1.0, 2.0], [[]], [["a"]], [[1, 2], [3]], 5, {})
    ]
    calls += [
        lambda v=v: stats.ratio_interval(v, np.ones(3)) for v in (None, "x", [], [1.0, 2.0], np.ones((3, 1)), [1j] * 3)
    ]
    calls += [lambda v=v: patchlib.copy_losses(v, 3) for v in (None, "x", np.zeros((2, 9)), xr.DataArray([1.0]), swept)]
    calls += [lambda v=v: patchlib.copy_losses(losses(), v) for v in (None, "x", 0, 99, 1.5, True, float("nan"))]
    calls += [lambda v=v: patchlib.loss_change(losses(), v, 9) for v in (None, "x", 0, 9, 99, 1.5, True)]
    steps = (None, [], {}, pd.DataFrame(), pd.DataFrame({"layer": [1]}))
    calls += [lambda v=v: patchlib.head_types(model(), pairs(), v) for v in steps]
    return all_refused(*calls)


@case("C15", "None, text, classes and train mode instead of a model, a circuit or an ablation; flags that are none")
def objects() -> Refusal:
    kinds = {"model", "circuit", "ablation", "task", "clean_cache", "head_types", "results", "heatmap"}
    calls = [
        lambda entry=entry, name=name, wrong=wrong: entry.function(**entry.right | {name: wrong})
        for entry in public().values()
        for name in kinds & set(entry.right)
        for wrong in ("gpt2", 5, patchlib.PromptPairs, [None], np.zeros(3), object())
    ]
    flags = {"keep", "other_types", "progress"}
    calls += [
        lambda entry=entry, name=name, wrong=wrong: entry.function(**entry.right | {name: wrong})
        for entry in public().values()
        for name in flags & set(entry.right)
        for wrong in (None, "no", 1, [])
    ]
    return all_refused(*calls)


@case("C15", "texts for prompts, titles, paths and hook points that are none")
def texts() -> Refusal:
    calls = []
    names = {"prompt", "corrupted_prompt", "title", "save_path", "hook_point", "hook_points", "prompts", "pattern"}
    for entry in public().values():
        for name in names & set(entry.right):
            for wrong in (5, b"x", "\ud800", object(), ["\ud800"], 1.5):
                if (name, wrong) not in (("pattern", "\ud800"), ("prompts", "\ud800")):
                    calls.append(
                        lambda entry=entry, name=name, wrong=wrong: entry.function(**entry.right | {name: wrong})
                    )
    return all_refused(*calls)


@case("C15", "every public function is here, with arguments that are right and work")
def right_arguments() -> str:
    listed = public()
    for name, entry in listed.items():
        try:
            entry.function(**entry.right)
        except PatchlibError as error:
            raise Wrong(f"{name} refuses what is right: {error}") from error
    assert issubclass(SweepError, PatchlibError)
    return f"{len(listed)} functions, {sum(len(entry.right) for entry in listed.values())} parameters"
