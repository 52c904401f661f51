"""Estimates from gradients against derivatives by hand, exact sweeps where these must agree, and TransformerLens."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

import patchlib
from tests.helpers import contrast_pairs, make_pairs, mixed_pairs, sweep
from tests.tiny import load_tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning"),
    pytest.mark.filterwarnings("ignore::patchlib.EngineWarning"),
]
KINDS = ("gpt2", "llama", "gemma2", "neox", "bloom")


def attribute(*args, **how):
    return patchlib.attribute(*args, progress=False, **how)


def last_metric(pairs):
    """The logit difference at the last position, by hand."""
    right, wrong = pairs.answers.unbind(1)
    rows = torch.arange(len(pairs))
    return lambda logits: logits[rows, -1, right] - logits[rows, -1, wrong]


def derivative_by_hand(model, pairs, name, index, direction) -> np.ndarray:
    """How the metric moves per unit of the way of some entries of one activation, by differences in float64."""
    model = model.to(torch.float64)
    base, other = pairs.corrupted_batch(), pairs.clean_batch()
    if direction == "noise":
        base, other = other, base
    seen = {}
    with torch.no_grad():
        model.run_with_hooks(other, fwd_hooks=[(name, lambda activation, hook: seen.update(there=activation.clone()))])
        model.run_with_hooks(base, fwd_hooks=[(name, lambda activation, hook: seen.update(here=activation.clone()))])

    def moved(share):
        def move(activation, hook):
            activation[index] = seen["here"][index] + share * (seen["there"] - seen["here"])[index]
            return activation

        with torch.no_grad():
            return last_metric(pairs)(model.run_with_hooks(base, fwd_hooks=[(name, move)]))

    try:
        # Norms of Hugging Face's models compute in float32 all the same, so the step is no smaller.
        return ((moved(STEP) - moved(-STEP)) / (2 * STEP)).numpy()
    finally:
        model.to(torch.float32)


STEP = 3e-3
EVERYWHERE = slice(None)
CELLS = {  # site: axes, a cell, and where it is in the activation
    "resid_pre": (("layer", "pos"), {"layer": 1, "pos": 6}, (EVERYWHERE, 6)),
    "resid_post": (("pos",), {"pos": 7}, (EVERYWHERE, 7)),
    "attn_out": (("layer", "pos"), {"layer": 0, "pos": 5}, (EVERYWHERE, 5)),
    "mlp_out": (("layer",), {"layer": 1}, EVERYWHERE),
    "z": (("layer", "head"), {"layer": 1, "head": 2}, (EVERYWHERE, EVERYWHERE, 2)),
    "q": (("head", "layer"), {"layer": 2, "head": 3}, (EVERYWHERE, EVERYWHERE, 3)),
    "k": (("layer", "pos"), {"layer": 1, "pos": 5}, (EVERYWHERE, 5)),
    "v": (("layer", "pos"), {"layer": 1, "pos": 5}, (EVERYWHERE, 5)),
    "pattern": (("layer", "head", "pos"), {"layer": 2, "head": 1, "pos": 8}, (EVERYWHERE, 1, 8)),
    "embed": (("pos",), {"pos": 5}, (EVERYWHERE, 5)),
    "final": (("pos",), {"pos": 8}, (EVERYWHERE, 8)),
    "post": (("layer", "neuron"), {"layer": 1, "neuron": 3}, (EVERYWHERE, EVERYWHERE, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_score_is_the_derivative_of_the_patch(kind, direction):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    for site, (over, cell, index) in CELLS.items():
        layers = None if patchlib.SITES[site].hook or "layer" in over else [1]
        result = attribute(model, pairs, site, over, direction, layers=layers)
        base = result.corrupted if direction == "denoise" else result.clean
        score = (result.patched - base).sel(metric="logit_diff", **cell).values
        name = patchlib.SITES[site].hook_name(cell.get("layer", 2 if site == "final" else 1))
        by_hand = derivative_by_hand(load_tiny(kind), pairs, name, index, direction)
        np.testing.assert_allclose(score, by_hand, rtol=2e-3, atol=1e-3 * max(1, abs(by_hand).max()), err_msg=site)


@pytest.mark.parametrize(
    "how", [{}, {"method": "integrated"}, {"method": "integrated", "along": "activations"}, {"drop_layers": True}]
)
def test_where_gradients_are_turned_off_estimates_are_the_same(how):
    """Notebooks of the field begin with torch.set_grad_enabled(False)."""
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    expected = attribute(model, pairs, "z", ("layer", "head"), metric=["logit_diff", "prob"], **how)
    with torch.no_grad():
        result = attribute(model, pairs, "z", ("layer", "head"), metric=["logit_diff", "prob"], **how)
    assert abs(expected.effect).max() > 0.01
    np.testing.assert_allclose(result.patched, expected.patched, atol=1e-5)


def test_what_prompts_of_other_lengths_do_not_have_is_missing():
    model = load_tiny("llama")
    pairs = mixed_pairs(model)
    for over in (("layer", "pos"), ("role", "layer")):
        estimate, exact = (do(model, pairs, "resid_pre", over).patched for do in (attribute, sweep))
        assert estimate.dims == exact.dims
        np.testing.assert_array_equal(estimate.isnull(), exact.isnull())
        one = pairs.select([1])
        alone = attribute(model, one, "resid_pre", over).patched
        both = estimate.isel(example=[1]).sel({over[over[0] == "layer"]: alone[over[over[0] == "layer"]]})
        np.testing.assert_allclose(alone.values, both.values, atol=1e-4)


def linear_model(**settings) -> TransformerBridge:
    """Attention alone, without norms: behind the last layer's heads all is linear."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_head": 4, "n_heads": 4, "n_layers": 2, "n_ctx": 16, "d_vocab": 60}
    model = TransformerBridge.boot_native({**sizes, "attn_only": True, "normalization_type": None, **settings})
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


def random_rows(n=4, length=7, start=3):
    rng = torch.Generator().manual_seed(1)
    clean = torch.randint(2, 60, (n, length), generator=rng)
    corrupted = clean.clone()
    corrupted[:, start] = (clean[:, start] + 7) % 60
    answers = torch.stack([torch.arange(n) + 2, torch.arange(n) + 40], dim=1)
    return patchlib.PromptPairs(clean, corrupted, answers, name="random")


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_linear_rest_is_estimated_exactly(direction):
    model, pairs = linear_model(), random_rows()
    cases = [("z", ("layer", "head", "pos")), ("head_v", ("layer", "head")), ("pattern", ("layer", "head", "pos")),
             ("resid_post", ("layer", "pos"))]  # fmt: skip
    for site, over in cases:
        how = {"layers": [1]}
        estimate, exact = (do(model, pairs, site, over, direction, **how) for do in (attribute, sweep))
        np.testing.assert_allclose(estimate.patched, exact.patched, rtol=1e-4, atol=1e-4, err_msg=site)


@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize("over", [("layer", "head"), ("layer", "head", "pos")])
def test_with_the_attention_fix_a_query_or_key_before_a_linear_rest_is_exact(site, over):
    model, pairs = linear_model(), random_rows()
    exact = sweep(model, pairs, site, over, layers=[1]).patched
    fixed = attribute(model, pairs, site, over, layers=[1], fix_attention=True).patched
    np.testing.assert_allclose(fixed, exact, rtol=1e-4, atol=1e-4)
    plain = attribute(model, pairs, site, over, layers=[1]).patched
    assert abs(plain - exact).max() > 100 * abs(fixed - exact).max()


def test_the_attention_fix_helps_where_keys_are_shared():
    model = load_tiny("llama")
    pairs = make_pairs(model)
    exact = sweep(model, pairs, "k", ("layer", "kv_head", "role")).patched
    over = ("layer", "kv_head", "role")
    plain, fixed = (attribute(model, pairs, "k", over, fix_attention=fix).patched for fix in (False, True))
    assert abs(fixed - exact).mean() < 0.7 * abs(plain - exact).mean()
    # Of the last layer, one mean over layers' norms away from linear, all of the softmax's part is computed.
    last = {"layer": 2}
    assert abs(fixed - exact).sel(last).max() < abs(plain - exact).sel(last).max()


def test_one_midpoint_is_exact_for_a_quadratic_metric():
    model, pairs = linear_model(), random_rows()

    def squared(logits, pairs):
        return (logits[:, -1].gather(-1, pairs.answers[:, :1]).squeeze(-1)) ** 2

    how = {"layers": [1], "metric": squared}
    exact = sweep(model, pairs, "resid_post", ("layer",), **how).patched
    half = attribute(model, pairs, "resid_post", ("layer",), method="integrated", along="activations", steps=1, **how)
    np.testing.assert_allclose(half.patched, exact, rtol=1e-4, atol=1e-3)
    assert abs(half.gap).max() < 1e-3 * abs(exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_sum_to_clean_minus_corrupted_as_steps_grow(kind):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    gaps = []
    for steps in (4, 16, 64):
        result = attribute(model, pairs, "embed", ("pos",), method="integrated", steps=steps)
        scores = (result.patched - result.corrupted).sum("pos")
        np.testing.assert_allclose(scores - (result.clean - result.corrupted), result.gap, atol=1e-4)
        gaps.append(float(abs(result.gap).max()))
    assert gaps[2] < 0.2 * gaps[0] + 1e-4
    assert gaps[2] < 0.01 * float(abs(result.clean - result.corrupted).max()) + 1e-3


def test_steps_are_chosen_by_the_gap():
    model = load_tiny("llama")
    result = attribute(model, make_pairs(model), "z", ("layer", "head"), method="integrated", steps="auto")
    share = abs(result.gap).mean() / abs(result.clean - result.corrupted).mean()
    n_steps = int(result.attrs["estimate"].split(" steps")[0].split()[-1])
    assert share <= 0.05 and n_steps in (5, 10, 20, 40, 80)
    fewer = attribute(model, make_pairs(model), "z", ("layer", "head"), method="integrated", steps=n_steps // 2)
    assert n_steps == 5 or abs(fewer.gap).mean() / abs(result.clean - result.corrupted).mean() > 0.05


@pytest.mark.parametrize("along", ["inputs", "activations"])
def test_one_left_step_is_the_gradient(along):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    one = attribute(model, pairs, "z", method="integrated", steps=1, rule="left", along=along, over=("layer", "head"))
    np.testing.assert_allclose(one.patched, attribute(model, pairs, "z", ("layer", "head")).patched, atol=1e-5)


def test_dropped_layers_are_those_of_a_loop_by_hand():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    base, other = pairs.corrupted_batch(), pairs.clean_batch()
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
    _, there = model.run_with_cache(other)
    sizes, whole = [], None
    for closed in (None, 0, 1, 2):
        kept = {}

        def keep(activation, hook, kept=kept):
            kept[hook.name] = activation
            return activation

        cut = [(f"blocks.{closed}.{out}", lambda a, hook: a.detach()) for out in ("hook_attn_out", "hook_mlp_out")]
        leaf = [("hook_embed", lambda activation, hook: activation.detach().requires_grad_())]
        hooks = [*leaf, *((name, keep) for name in names), *(cut if closed is not None else [])]
        with torch.enable_grad():
            logits = model.run_with_hooks(base, fwd_hooks=hooks)
            metric = last_metric(pairs)(logits).sum()
            gradients = torch.autograd.grad(metric, [kept[name] for name in names], materialize_grads=True)
        scores = torch.stack(
            [(g * (there[name] - kept[name].detach())).sum((1, 3)) for g, name in zip(gradients, names, strict=True)]
        )  # [layer example head]
        if closed is None:
            whole = scores
        else:
            sizes.append(scores.abs())
    by_hand = (whole.sign() * sum(sizes) / 2).transpose(1, 2).numpy()
    result = attribute(model, pairs, "z", ("layer", "head"), drop_layers=True)
    np.testing.assert_allclose((result.patched - result.corrupted)[0], by_hand, atol=2e-5)


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_nodes_are_those_of_transformer_lens(kind):
    model = load_tiny(kind)
    pairs = make_pairs(model, n=1)
    mine = {site: attribute(model, pairs, site, over) for site, over in
            {"z": ("layer", "head", "pos"), "mlp_out": ("layer", "pos"), "embed": ("pos",)}.items()}  # fmt: skip
    for weight in model.parameters():
        weight.requires_grad_(True)
    try:
        metric = last_metric(pairs)
        theirs = attribution_patch(model, pairs.clean_batch(), pairs.corrupted_batch(), lambda x: metric(x).sum())
    finally:
        for weight in model.parameters():
            weight.requires_grad_(False)
    sites = {"attn_head_out": "z", "mlp_out": "mlp_out", "embed": "embed"}
    assert len(theirs.node_scores) == 9 * (3 * 4 + 3 + 1)
    for node, score in theirs.node_scores.items():
        result = mine[sites[node.kind]]
        cell = {"layer": node.layer, "head": node.head, "pos": node.position}
        cell = {axis: value for axis, value in cell.items() if axis in result.dims}
        assert abs(float((result.patched - result.corrupted).sel(cell).squeeze()) - score) < 1e-4


def test_metrics_of_ones_own_and_several_at_once():
    model = load_tiny("llama")
    pairs = make_pairs(model)

    def at_all_positions(logits, pairs):
        return logits.softmax(-1)[:, :, 5].sum(-1)

    several = attribute(model, pairs, "z", ("layer", "head"), metric=["kl", "prob", at_all_positions])
    for name in ("kl", "prob", at_all_positions):
        alone = attribute(model, pairs, "z", ("layer", "head"), metric=name)
        np.testing.assert_allclose(alone.patched[0], several.patched.sel(metric=alone.metric.item()), atol=1e-5)
    half = attribute(model, pairs, "embed", (("pos",)), metric=at_all_positions, method="integrated", steps=64)
    assert abs(half.gap).max() < 0.02 * abs(half.clean - half.corrupted).max() + 1e-4


@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
def test_other_sources_are_where_the_way_ends(source):
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    how = {"direction": "noise", "source": source, "layers": [2]}
    exact = sweep(model, pairs, "mlp_out", ("layer",), **how)
    way = {"method": "integrated", "along": "activations", "steps": 64}
    result = attribute(model, pairs, "mlp_out", ("layer",), **way, **how)
    np.testing.assert_allclose(result.patched, exact.patched, atol=0.02)
    assert result.attrs["source"] == source


def test_several_sites_are_read_off_one_backward():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    sites = ["resid_pre", "attn_out", "mlp_out"]
    several = attribute(model, pairs, sites, ("layer", "pos"), check_top=2)
    assert list(several.site.values) == sites
    for site in sites:
        alone = attribute(model, pairs, site, ("layer", "pos"), check_top=2)
        for name in ("patched", "effect", "exact"):
            np.testing.assert_allclose(several[name].sel(site=site), alone[name], atol=1e-5)


def test_the_largest_and_some_others_are_patched():
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    result = attribute(model, pairs, "z", ("layer", "head"), check_top=3)
    exact = sweep(model, pairs, "z", ("layer", "head"))
    checked = result.exact.notnull().all(["metric", "example"])
    assert int(checked.sum()) == 6 and result.attrs["n_checked"] == 6
    np.testing.assert_allclose(result.exact.where(checked, 0), exact.patched.where(checked, 0), atol=1e-5)
    np.testing.assert_allclose(result.exact_effect.where(checked, 0), exact.effect.where(checked, 0), atol=1e-5)
    size = abs((result.patched - result.corrupted).mean("example").isel(metric=0)).values.ravel()
    assert set(np.argsort(-size)[:3]) <= set(np.flatnonzero(checked.values.ravel()))
    pair = np.stack([result.effect.values.ravel(), exact.effect.values.ravel()])[:, checked.values.ravel()]
    assert result.correlation.item() == pytest.approx(np.corrcoef(pair)[0, 1], abs=1e-4)
    misses = abs(pair[0] - pair[1])
    assert result.largest_miss.item() == pytest.approx(misses.max(), abs=1e-4)
    layer, head = np.argwhere(checked.values)[misses.argmax()]
    assert result.largest_miss_at.item() == f"L{layer}H{head}"


def test_a_sieved_sweep_leaves_out_only_what_is_small():
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    how = {"site": "post", "over": ("layer", "neuron")}
    whole = sweep(model, pairs, **how)
    sieved = sweep(model, pairs, prefilter="attribution", least_effect=0.1, **how)
    there = sieved.effect.notnull()
    assert 48 <= int(there.sum()) < there.size
    np.testing.assert_allclose(sieved.effect.where(there, 0), whole.effect.where(there, 0), atol=1e-5)
    left_out = abs(whole.effect.where(~there))
    # The margin is of a sample: a cell in 25 or so may be missed by more, and none is likely to be missed by much more.
    assert float((left_out > 0.1).sum() / (~there).sum()) < 0.1 and float(left_out.max()) < 0.2
    assert f"{int((~there).sum())} of {there.size} cells left out" in sieved.attrs["prefilter"]
    assert sieved.estimate.notnull().all()
    few = sweep(model, pairs, "z", ("layer", "head"), prefilter="attribution")
    assert few.patched.notnull().all() and "being few" in few.attrs["prefilter"]


def test_a_sieved_sweep_goes_on_from_its_checkpoint(tmp_path):
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    how = {"site": "post", "over": ("layer", "neuron"), "least_effect": 0.1}
    kept = [
        sweep(model, pairs, prefilter="attribution", checkpoint=tmp_path / "c", **how).patched.values for _ in range(2)
    ]
    np.testing.assert_array_equal(*kept)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"metric": "accuracy"}, "'accuracy' has no gradient"),
        ({"metric": lambda logits, pairs: logits[:, -1].argmax(-1).float()}, "has no gradient"),
        ({"metric": lambda logits, pairs: [1.0] * len(pairs)}, "has no gradient"),
        ({"metric": lambda logits, pairs: logits.sum()}, "one real number for each"),
        ({"method": "magic"}, "Unknown method 'magic'"),
        ({"method": "integrated", "steps": 0}, "steps must be a whole number of 1 or more"),
        ({"method": "integrated", "steps": "many"}, "steps must be a whole number"),
        ({"method": "integrated", "along": "layers"}, "Unknown along"),
        ({"method": "integrated", "rule": "right"}, "Unknown rule"),
        ({"method": "integrated", "fix_attention": True}, "belong to method='gradient'"),
        ({"method": "integrated", "source": "mean", "direction": "noise"}, "give along='activations'"),
        ({"site": "head_v", "over": ("layer", "head"), "method": "integrated", "along": "activations"}, "head_v"),
        ({"fix_attention": True}, "fix_attention is for the sites q and k"),
        ({"fix_attention": 1}, "fix_attention"),
        ({"metric": "kl", "direction": "noise"}, "kl has its minimum"),
        ({"check_top": -1}, "check_top must be a whole number of 0 or more"),
        ({"site": []}, "at least one site"),
        ({"site": ["z", "z"]}, "each once"),
        ({"site": "nowhere"}, "Unknown site"),
        ({"site": ["resid_pre", "z"], "over": ("layer", "head")}, "Cannot sweep over 'head'"),
    ],
)
def test_one_line_for_what_cannot_be_estimated(how, said):
    model = load_tiny("gpt2")
    with pytest.raises(patchlib.SweepError, match=said):
        attribute(model, make_pairs(model), **how)


def test_a_model_that_gives_no_gradient_says_so():
    with torch.inference_mode():
        model = linear_model()
        for weight in model.parameters():
            weight.data = weight.data.clone()
    with pytest.raises(patchlib.SweepError, match=r"gives no gradients .* use patchlib.sweep"):
        attribute(model, random_rows(), "z", ("layer", "head"))


@pytest.mark.parametrize("kind", ["gpt2", "neox", "bloom"])
def test_no_graph_stays_with_the_model(kind):
    model = load_tiny(kind)
    attribute(model, make_pairs(model), "z", ("layer", "head"))
    copy.deepcopy(model)  # which fails on a tensor that has a graph


def test_unknown_sieves_are_refused():
    model = load_tiny("gpt2")
    with pytest.raises(patchlib.SweepError, match="Unknown prefilter"):
        sweep(model, make_pairs(model), prefilter="magic")
    with pytest.raises(patchlib.SweepError, match="least_effect must be a number of 0 or more"):
        sweep(model, make_pairs(model), prefilter="attribution", least_effect=-1)
