"""The seed's API: its Quick Start as written, and its numbers against patching by hand and against `sweep`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import patchlib
from patchlib import (
    ActivationPatcher,
    HeadPatcher,
    HeadPatchingResult,
    IOIDataset,
    PatchingDataset,
    PatchingResult,
    create_full_report,
    create_head_heatmap,
    create_patching_heatmap,
    print_head_results,
    print_heatmap_ascii,
    summarize_results,
)
from tests.helpers import ATOL, contrast_pairs, make_pairs, mixed_pairs, sweep, taught
from tests.tiny import load_tiny

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
S2 = 10  # <bos> is 0


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return load_tiny(request.param)


@pytest.fixture(scope="module")
def head_results():
    """Four prompts' worth of heads, by hand."""
    effects = {(0, 0): 0.2, (0, 1): -0.6, (1, 0): float("nan"), (1, 1): 0.1}
    return [HeadPatchingResult(layer, head, x, 3.0, -1.0, -1 + 4 * x) for (layer, head), x in effects.items()]


# ---- The seed's README


def test_quick_start(capsys, tmp_path):
    """Its three blocks, but for the imports, the way to load a model, and its number of layers and heads."""
    model = taught("gpt2")
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads

    # Create dataset and patcher
    dataset = IOIDataset(model)
    patcher = ActivationPatcher(model)

    # Define what to patch
    hook_points = [f"blocks.{l}.hook_attn_out" for l in range(n_layers)]  # noqa: E741

    # Run experiment
    results = patcher.run_patching_experiment(dataset=dataset, hook_points=hook_points)

    # Analyze
    summarize_results(results, top_k=10)
    layer_results = results
    heading, header, *ranking = capsys.readouterr().out.splitlines()
    assert heading.startswith("TOP 10 of ") and heading.endswith("means over 5 pairs") and "effect" in header
    assert {line.split()[0] for line in ranking} == set(hook_points)
    ranked = [abs(float(line.split()[1])) for line in ranking]
    assert ranked == sorted(ranked, reverse=True) and ranked[0] > 0.1

    patcher = HeadPatcher(model)

    # Patch every attention head
    results = patcher.run_all_heads_experiment(
        dataset=dataset,
        patch_type="output",  # Patch the z vectors
    )

    # Find important heads
    important = patcher.find_important_heads(results, threshold=0.1)
    print_head_results(results, top_k=15)
    header, *ranking = capsys.readouterr().out.splitlines()
    assert len(results) == len(ranking) == n_layers * n_heads
    assert important and [line.split()[0] for line in ranking[: len(important)]] == [r.hook_name for r in important]

    # Interactive heatmap
    fig = create_head_heatmap(results, n_layers=n_layers, n_heads=n_heads)
    assert np.shape(fig.data[0].z) == (n_layers, n_heads)

    # Generate all visualizations
    create_full_report(
        head_results=results,
        layer_results=layer_results,
        n_layers=n_layers,
        n_heads=n_heads,
        save_dir=tmp_path / "figures",
    )
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["head_heatmap.html", "layer_comparison.html", "metric_scatter.html", "top_heads.html"]


class MyTask(PatchingDataset):
    def __init__(self, model):
        self.model = model
        # Your setup here

    @property
    def name(self) -> str:
        return "My Custom Task"

    def get_clean_corrupt_pairs(self):
        # Return [(clean_prompt, corrupted_prompt), ...]
        return [
            ("The cat sat on the mat", "The dog sat on the mat"),
            # ...
        ]

    def get_target_tokens(self, pair_idx):
        # Return (correct_token_id, incorrect_token_id)
        return (self.model.to_single_token(" cat"), self.model.to_single_token(" dog"))

    def compute_metric(self, logits, pair_idx):
        # Compute your task-specific metric
        correct, incorrect = self.get_target_tokens(pair_idx)
        return (logits[0, -1, correct] - logits[0, -1, incorrect]).item()


@pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
def test_the_readmes_own_task(model):
    task = MyTask(model)
    found = ActivationPatcher(model).run_patching_experiment(task, ["blocks.1.hook_resid_pre"])
    (result,) = found["blocks.1.hook_resid_pre"]
    with torch.no_grad():
        clean, corrupted = (task.compute_metric(model(text), 0) for text in task.get_clean_corrupt_pairs()[0])
    assert result.clean_logit_diff == pytest.approx(clean, abs=ATOL)
    assert result.patched_logit_diff == pytest.approx(clean, abs=ATOL)
    assert result.corrupted_logit_diff == pytest.approx(corrupted, abs=ATOL)
    assert len(HeadPatcher(model).run_all_heads_experiment(task)) == 12
    assert sweep(model, task).attrs["task"] == "My Custom Task"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            PatchingResult,
            ["hook_point", "clean_logit_diff", "corrupted_logit_diff", "patched_logit_diff", "patching_effect"],
        ),
        (
            HeadPatchingResult,
            ["layer", "head", "patching_effect", "clean_metric", "corrupted_metric", "patched_metric"],
        ),
        (patchlib.ActivationCache, ["cache", "input_tokens", "logits"]),
    ],
)
def test_fields_are_the_seeds(kind, names):
    assert [field.name for field in dataclasses.fields(kind)] == names


# ---- One prompt


def test_cache_holds_a_run(model):
    cache = HeadPatcher(model).cache_activations(CLEAN)
    with torch.no_grad():
        logits, expected = model.run_with_cache(model.to_tokens(CLEAN))
    assert torch.equal(cache.logits, logits) and torch.equal(cache.input_tokens, model.to_tokens(CLEAN))
    assert isinstance(cache.keys(), list) and set(cache.keys()) == set(expected.keys())
    assert torch.equal(cache["blocks.1.attn.hook_z"], expected["blocks.1.attn.hook_z"])


def by_hand(model, hook_point, index):
    """Logits of CORRUPTED with part of an activation, in a tensor of its own, from CLEAN."""
    with torch.no_grad():
        _, cache = model.run_with_cache(model.to_tokens(CLEAN))

        def put(activation, hook):
            activation = activation.clone()
            activation[index] = cache[hook_point][index]
            return activation

        return model.run_with_hooks(model.to_tokens(CORRUPTED), fwd_hooks=[(hook_point, put)])


ALL = slice(None)


@pytest.mark.parametrize("position", [None, S2, 12, -1])
@pytest.mark.parametrize(
    "hook_point",
    [
        "hook_embed",
        "blocks.1.hook_resid_pre",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_attn_out",
        "blocks.2.hook_mlp_out",
        "blocks.1.attn.hook_q",
        "blocks.1.attn.hook_v",
        "blocks.2.attn.hook_z",
        "blocks.1.attn.hook_pattern",
        "blocks.1.attn.hook_attn_scores",
        "blocks.1.mlp.hook_post",
    ],
)
def test_a_patched_activation_is_what_it_is_by_hand(model, hook_point, position):
    patcher = ActivationPatcher(model)
    found = patcher.patch_activation(CORRUPTED, patcher.cache_activations(CLEAN), hook_point, position)
    where = ALL if position is None else position
    index = (ALL, ALL, where) if hook_point.endswith(("pattern", "scores")) else (ALL, where)
    torch.testing.assert_close(found, by_hand(model, hook_point, index), atol=ATOL, rtol=0)
    assert found.shape == (1, 15, model.cfg.d_vocab)


@pytest.mark.parametrize("position", [None, S2])
def test_resid_mid_reaches_the_skip_connection_too(model, position):
    """All that is left to a position after resid_mid is its own MLP, so that resid_post must follow."""
    patcher = ActivationPatcher(model)
    cache = patcher.cache_activations(CLEAN)
    mid = patcher.patch_activation(CORRUPTED, cache, "blocks.1.hook_resid_mid", position)
    post = by_hand(model, "blocks.1.hook_resid_post", (ALL, ALL if position is None else position))
    torch.testing.assert_close(mid, post, atol=ATOL, rtol=0)


@pytest.mark.parametrize(("layer", "head", "position"), [(0, 0, None), (1, 3, S2), (2, 2, -1)])
def test_one_head_is_what_it_is_by_hand(model, layer, head, position):
    patcher = HeadPatcher(model)
    cache = patcher.cache_activations(CLEAN)
    where = ALL if position is None else position
    output = by_hand(model, f"blocks.{layer}.attn.hook_z", (ALL, where, head))
    pattern = by_hand(model, f"blocks.{layer}.attn.hook_pattern", (ALL, head))
    found = patcher.patch_head_output(CORRUPTED, cache, layer, head, position)
    torch.testing.assert_close(found, output, atol=ATOL, rtol=0)
    found = patcher.patch_attention_pattern(CORRUPTED, cache, layer, head)
    torch.testing.assert_close(found, pattern, atol=ATOL, rtol=0)


def test_patching_leaves_the_cache_and_the_model_alone(model):
    patcher = ActivationPatcher(model)
    cache = patcher.cache_activations(CLEAN)
    before = {name: cache[name].clone() for name in cache.keys() if isinstance(cache[name], torch.Tensor)}  # noqa: SIM118
    for hook_point in ("blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern"):
        patcher.patch_activation(CORRUPTED, cache, hook_point, S2)
    assert all(torch.equal(cache[name], value) for name, value in before.items())
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_hook_points_are_listed_by_name(model):
    patcher = ActivationPatcher(model)
    every = patcher.get_all_hook_points()
    assert every == sorted(model.hook_dict)
    assert patcher.get_all_hook_points("attn.hook_z") == [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
    assert patcher.get_all_hook_points("nothing like it") == []


# ---- All pairs


@pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
@pytest.mark.parametrize("position", [None, S2])
def test_an_experiment_is_every_pair_patched(model, position):
    dataset, patcher = IOIDataset(model), ActivationPatcher(model)
    hook_points = ["blocks.2.attn.hook_z", "blocks.0.hook_resid_mid", "blocks.0.attn.hook_z"]
    found = patcher.run_patching_experiment(dataset, hook_points, pair_indices=[3, 1], position=position)
    assert list(found) == hook_points
    for hook_point, results in found.items():
        for result, i in zip(results, [3, 1], strict=True):
            clean, corrupted = dataset.get_clean_corrupt_pairs()[i]
            logits = patcher.patch_activation(corrupted, patcher.cache_activations(clean), hook_point, position)
            assert result.hook_point == hook_point
            assert result.patched_logit_diff == pytest.approx(dataset.compute_metric(logits, i), abs=ATOL)
            with torch.no_grad():
                assert result.clean_logit_diff == pytest.approx(dataset.compute_metric(model(clean), i), abs=ATOL)


def test_effects_are_each_pairs_own_ratio_and_pooled_ones_the_ratio_of_means():
    model = taught("llama")
    hook_points = [f"blocks.{layer}.hook_{kind}_out" for layer in (0, 2) for kind in ("attn", "mlp")]
    results = ActivationPatcher(model).run_patching_experiment(IOIDataset(model), hook_points)
    for pair in (pair for pairs in results.values() for pair in pairs):
        gap = pair.clean_logit_diff - pair.corrupted_logit_diff
        assert pair.patching_effect == pytest.approx((pair.patched_logit_diff - pair.corrupted_logit_diff) / gap)
    heatmap = create_patching_heatmap(results, model)
    assert heatmap.shape == (3, 2) and heatmap[1].isnan().all()
    for column, site in enumerate(("attn_out", "mlp_out")):
        effect = sweep(model, IOIDataset(model), site, "layer", layers=[0, 2]).effect[0]
        np.testing.assert_allclose(heatmap[[0, 2], column], effect, atol=1e-4)


def test_no_contrast_gives_a_warning_and_no_ranking(capsys):
    model = taught("gpt2")
    dataset = IOIDataset(model, corruption="swap_order")
    with pytest.warns(patchlib.ContrastWarning):
        results = ActivationPatcher(model).run_patching_experiment(dataset, ["blocks.0.hook_attn_out"])
    assert all(np.isnan(pair.patching_effect) for pair in results["blocks.0.hook_attn_out"])
    summarize_results(results)
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["blocks.0.hook_attn_out", "nan"]
    assert create_patching_heatmap(results, model).isnan().all()
    patcher = HeadPatcher(model)
    with pytest.warns(patchlib.ContrastWarning):
        heads = patcher.run_all_heads_experiment(dataset)
    assert patcher.find_important_heads(heads, threshold=0) == []
    assert patcher.results_to_heatmap(heads).isnan().all()


@pytest.mark.parametrize(("patch_type", "site"), [("output", "z"), ("pattern", "pattern")])
@pytest.mark.parametrize("position", [None, 6])
def test_all_heads_are_a_sweep(model, patch_type, site, position):
    pairs, chosen = contrast_pairs(model, n=8), [0, 2, 3, 5, 6, 7]
    patcher = HeadPatcher(model)
    results = patcher.run_all_heads_experiment(pairs, chosen, position, patch_type)
    expected = sweep(model, pairs.select(chosen), site, ("layer", "head"), positions=position)
    assert [(r.layer, r.head) for r in results] == [(layer, head) for layer in range(3) for head in range(4)]
    for result in results:
        cell = expected.sel(layer=result.layer, head=result.head).isel(metric=0)
        assert result.patching_effect == pytest.approx(float(cell.effect), abs=1e-5)
        assert result.patched_metric == pytest.approx(float(cell.patched.mean()), abs=1e-5)
        assert result.clean_metric == pytest.approx(float(cell.clean.mean()), abs=1e-5)
        assert result.corrupted_metric == pytest.approx(float(cell.corrupted.mean()), abs=1e-5)
    np.testing.assert_allclose(patcher.results_to_heatmap(results), expected.effect[0], atol=1e-5)


def test_prompts_of_several_lengths_are_pairs_as_well(model):
    pairs = mixed_pairs(model)
    (results,) = ActivationPatcher(model).run_patching_experiment(pairs, ["blocks.0.hook_resid_pre"]).values()
    assert [pair.patching_effect for pair in results] == pytest.approx([1] * 5, abs=1e-4)


# ---- Rankings and prints, from results that are written down


def test_important_heads_are_sorted_and_above_the_threshold(model, head_results):
    patcher = HeadPatcher(model)
    assert [r.hook_name for r in patcher.find_important_heads(head_results, threshold=0.15)] == ["L0H1", "L0H0"]
    assert [r.hook_name for r in patcher.find_important_heads(head_results)] == ["L0H1", "L0H0", "L1H1"]
    assert patcher.find_important_heads(head_results, threshold=2) == []


def test_heatmap_has_a_cell_for_each_head(model, head_results):
    patcher = HeadPatcher(model)
    assert (patcher.n_layers, patcher.n_heads) == (3, 4)
    heatmap = patcher.results_to_heatmap(head_results)
    assert heatmap.shape == (3, 4)
    torch.testing.assert_close(heatmap[0, :2], torch.tensor([0.2, -0.6]))
    assert int(heatmap.isnan().sum()) == 9
    assert patcher.results_to_heatmap([]).isnan().all()
    with pytest.raises(patchlib.SweepError, match="There is no head L5H0"):
        patcher.results_to_heatmap([HeadPatchingResult(5, 0, 0.1, 3.0, -1.0, 0.0)])


def test_what_is_printed(head_results, capsys):
    print_head_results(head_results, top_k=2)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["L0H1", "-0.600", "3.000", "-1.000", "-3.400", "Duplicate", "Token"],
        ["L0H0", "0.200", "3.000", "-1.000", "-0.200", "Other"],
    ]
    print_heatmap_ascii(torch.tensor([[0.2, -0.6], [float("nan"), 0.1]]), n_layers=2, n_heads=2)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["H0", "H1"], ["L0", "0.20", "-0.60"], ["L1", "nan", "0.10"],
    ]  # fmt: skip
    pairs = {
        "weak": [PatchingResult("weak", 2.0, 0.0, 0.2, 0.1), PatchingResult("weak", 4.0, 0.0, 0.4, 0.1)],
        # ratio of means (-2 + 3) / 6; the mean of the pairs' own ratios would be -0.125
        "mixed": [PatchingResult("mixed", 2.0, 0.0, -2.0, -1.0), PatchingResult("mixed", 4.0, 0.0, 3.0, 0.75)],
        "worse": [PatchingResult("worse", 2.0, 0.0, -2.0, -1.0), PatchingResult("worse", 4.0, 0.0, -4.0, -1.0)],
    }
    summarize_results(pairs, top_k=2)
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert heading == "TOP 2 of 3 hook points by absolute effect, means over 2 pairs"
    assert [line.split()[:2] for line in lines] == [["worse", "-1.000"], ["mixed", "0.167"]]
    summarize_results({})
    assert "means over 0 pairs" in capsys.readouterr().out
    for show in (summarize_results, print_head_results):
        with pytest.raises(patchlib.SweepError, match="top_k must be a whole number of 1 or more, not 0"):
            show([] if show is print_head_results else {}, top_k=0)
    with pytest.raises(patchlib.SweepError, match=r"A heatmap of \[2, 2\] lacks some of 3 layers of 2 heads"):
        print_heatmap_ascii(torch.zeros(2, 2), n_layers=3, n_heads=2)


# ---- Bad input


def test_prompts_that_do_not_line_up(model):
    patcher = ActivationPatcher(model)
    cache = patcher.cache_activations(CLEAN)
    with pytest.raises(patchlib.AlignmentError, match=r"has 15 tokens and its corrupted prompt 16[^$]*they part here"):
        patcher.patch_activation(CORRUPTED + " her", cache, "blocks.0.hook_resid_pre")


@pytest.mark.parametrize(
    ("hook_point", "position", "says"),
    [
        ("blocks.3.hook_resid_pre", None, "There is no hook point 'blocks.3.hook_resid_pre'; get_all_hook_points"),
        ("blocks.0.attn.hook_result", None, r"'blocks.0.attn.hook_result' is not in the cache.*set_use_attn_result"),
        ("blocks.0.hook_resid_pre", 15, "Position 15 is outside the prompts, which have positions 0 to 14"),
        ("blocks.0.hook_resid_pre", -16, "Position -16 is outside"),
    ],
)
def test_a_patch_that_cannot_be_made(model, hook_point, position, says):
    patcher = ActivationPatcher(model)
    with pytest.raises(patchlib.SweepError, match=says):
        patcher.patch_activation(CORRUPTED, patcher.cache_activations(CLEAN), hook_point, position)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"hook_points": ["blocks.0.hook_nothing"]}, patchlib.SweepError, "There is no hook point 'blocks.0.hook_no"),
        (
            {"hook_points": ["hook_embed"]},
            patchlib.SweepError,
            "'hook_embed' is not one of the sites.*patch_activation",
        ),
        ({"position": 9}, patchlib.SweepError, "Position 9 is outside the prompts"),
        ({"pair_indices": [4]}, patchlib.TaskError, r"Cannot select pairs \[4\]: give some of 0 to 3"),
        ({"pair_indices": []}, patchlib.TaskError, r"Cannot select pairs \[\]"),
        ({"dataset": "ioi"}, patchlib.TaskError, "A task is a PatchingDataset"),
    ],
)
def test_an_experiment_that_cannot_be_run(model, asked, error, says):
    with pytest.raises(error, match=says):
        ActivationPatcher(model).run_patching_experiment(
            **{"dataset": make_pairs(model), "hook_points": ["blocks.0.hook_resid_pre"], **asked}
        )


@pytest.mark.parametrize(("layer", "head"), [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_a_head_that_does_not_exist(model, layer, head):
    patcher = HeadPatcher(model)
    cache = patcher.cache_activations(CLEAN)
    for patch in (patcher.patch_head_output, patcher.patch_attention_pattern):
        with pytest.raises(patchlib.SweepError, match=f"There is no head L{layer}H{head}: the model has 3 layers"):
            patch(CORRUPTED, cache, layer, head)
    for position, says in ((15, "Position 15 is outside the prompt"), ("S2", "Unknown position 'S2'")):
        with pytest.raises(patchlib.SweepError, match=says):
            patcher.patch_head_output(CORRUPTED, cache, 0, 0, position=position)


def test_an_unknown_patch_type(model):
    with pytest.raises(patchlib.SweepError, match="Unknown patch_type 'value': choose 'output' or 'pattern'"):
        HeadPatcher(model).run_all_heads_experiment(make_pairs(model), patch_type="value")
