"""What a sweep gives back, what it honours of the task, and what it refuses. (Its numbers: test_exactness.py.)"""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import patchlib
from tests.helpers import ATOL, broken, contrast_pairs, make_pairs, mixed_pairs, sweep, text_pairs
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
ALL_METRICS = ["logit_diff", "prob", "prob_diff", "kl", "accuracy"]
ROLES = ["first", "varied", "END"]


@pytest.fixture(scope="module")
def model():
    return load_tiny("gpt2")


@pytest.fixture(scope="module")
def pairs(model):
    return contrast_pairs(model)


# ---- What a result holds


@pytest.mark.parametrize(
    ("kind", "site", "over"),
    [
        ("gpt2", "resid_pre", ("layer",)),
        ("gpt2", "resid_post", ("layer", "pos")),
        ("gpt2", "mlp_out", ("role", "layer")),
        ("gpt2", "z", ("layer", "head")),
        ("gpt2", "pattern", ("head", "layer", "pos")),
        ("gpt2", "k", ("layer", "role", "head")),
        ("llama", "q", ("layer", "head")),
        ("llama", "k", ("layer", "kv_head")),
        ("llama", "v", ("pos", "head", "layer")),
    ],
)
def test_dims_and_coordinates_are_the_axes_asked_for(kind, site, over):
    model = load_tiny(kind)
    pairs = contrast_pairs(model)
    result = sweep(model, pairs, site, over, metric=["prob", "logit_diff"])
    if kind == "llama" and site in "kv":
        over = tuple("kv_head" if axis == "head" else axis for axis in over)
    assert result.patched.dims == ("metric", *over, "example")
    assert result.effect.dims == ("metric", *over)
    assert result.clean.dims == result.corrupted.dims == ("metric", "example")
    axes = {"layer": [0, 1, 2], "head": [0, 1, 2, 3], "kv_head": [0, 1], "pos": list(range(9)), "role": ROLES}
    for axis in over:
        assert result[axis].values.tolist() == axes[axis]
    assert result.metric.values.tolist() == ["prob", "logit_diff"]
    assert result.example.values.tolist() == [0, 1, 2, 3]
    assert {variable.dtype for variable in result.data_vars.values()} == {np.dtype("float32")}
    assert result.patched.notnull().all() and result.effect.sel(metric="logit_diff").notnull().all()
    assert ("pos_label" in result.coords) == ("pos" in over)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_attributes_say_how_to_repeat_the_sweep(model, pairs, direction):
    task = patchlib.IOIDataset(model, n_prompts=3, seed=5)
    of_task = sweep(model, task, "z", ("layer", "head"), direction, positions=["S2", 1]).attrs
    wanted = {
        "model": model.cfg.model_name,
        "weights_hash": patchlib.weights_hash(model),
        "dtype": "float32",
        "device": "cpu",
        "prepend_bos": "True",
        "task": "IOI (Indirect Object Identification)",
        "seed": 5,
        "n_examples": 3,
        "task_corruption": "swap_subject",
        "task_templates": "mixed",
        "site": "z",
        "direction": direction,
        "source": {"denoise": "clean", "noise": "corrupted"}[direction],
        "positions": "S2, 1",
        "engine": "fast",
        "version_patchlib": patchlib.__version__,
    }
    assert {key: of_task[key] for key in wanted} == wanted
    # PyPI's build for CUDA calls itself 2.13.0+cu130, and its package 2.13.0.
    assert of_task["version_torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"version_python", "version_transformer_lens", "version_transformers"} <= of_task.keys()
    assert {type(value) for value in of_task.values()} <= {str, int, float}
    plain = sweep(model, pairs, direction=direction, engine="plain").attrs
    assert (plain["engine"], plain["seed"], plain["positions"]) == ("plain (as asked)", "none", "all")


def test_prompts_answers_and_tokens_label_the_axes(model):
    prompts = [
        ("When Mary and John went", "When John and John went"),
        ("When Sarah and Tom went", "When Tom and Tom went"),
    ]
    result = sweep(model, text_pairs(model, prompts, roles={"S": [4, 2], "IO": [2, 2]}))
    assert result.pos_label.values.tolist() == ["<bos>", "When", "<IO>", "and", "", "went"]
    assert result.clean_prompt.values.tolist() == ["<bos>" + clean for clean, _ in prompts]
    assert result.corrupted_prompt.values.tolist() == ["<bos>" + corrupted for _, corrupted in prompts]
    assert set(result.answer.values) == {" Mary"} and set(result.wrong_answer.values) == {" John"}


@pytest.mark.parametrize("engine", [None, "h5netcdf"])
def test_netcdf_and_back_loses_nothing(model, tmp_path, engine):
    ioi = sweep(model, patchlib.IOIDataset(model, n_prompts=4), "z", ("layer", "role", "head"), metric=ALL_METRICS)
    tokens = mixed_pairs(model).clean_tokens
    zero_byte = next(i for i in range(model.cfg.d_vocab) if model.to_string([i]) == "\0")
    rows = [[torch.tensor([zero_byte, extra, *row]) for row in tokens] for extra in (3, 4)]
    awkward = patchlib.PromptPairs(*rows, [[zero_byte, 5]] * 5, metadata={"flag": True, "share": 0.5})
    for i, result in enumerate((ioi, sweep(model, awkward))):
        result.to_netcdf(tmp_path / f"{i}.nc", engine=engine)
        back = xr.load_dataset(tmp_path / f"{i}.nc", engine=engine)
        xr.testing.assert_identical(result, back)
        assert all(back[name].dtype == result[name].dtype for name in result.variables)
        np.testing.assert_array_equal(patchlib.stats.effect(back), result.effect)


# ---- Metrics


def test_metrics_are_what_their_names_say(model, pairs):
    result = sweep(model, pairs, metric=ALL_METRICS)
    rows, (right, wrong) = torch.arange(len(pairs)), pairs.answers.T
    with torch.no_grad():
        clean = model(pairs.clean_batch())[:, -1].double()
    for run, tokens in (("clean", pairs.clean_batch()), ("corrupted", pairs.corrupted_batch())):
        with torch.no_grad():
            logits = model(tokens)[:, -1].double()
        diff = logits[rows, right] - logits[rows, wrong]
        by_hand = {
            "logit_diff": diff,
            "prob": logits.softmax(-1)[rows, right],
            "kl": torch.nn.functional.kl_div(logits.log_softmax(-1), clean.softmax(-1), reduction="none").sum(-1),
            "accuracy": (diff > 0).double(),
        }
        for name, values in by_hand.items():
            np.testing.assert_allclose(result[run].sel(metric=name), values, atol=1e-5)


def test_several_metrics_at_once_are_the_same_as_one_by_one(model, pairs):
    def first_logit(logits, pairs):
        return logits[:, 0, 7] + pairs.answers[:, 0]

    metrics = [*ALL_METRICS, first_logit]
    together = sweep(model, pairs, "z", ("layer", "head"), metric=metrics)
    assert together.metric.values.tolist() == [*ALL_METRICS, "first_logit"]
    for i, metric in enumerate(metrics):
        alone = sweep(model, pairs, "z", ("layer", "head"), metric=metric)
        np.testing.assert_allclose(together.patched[[i]], alone.patched, atol=1e-5)
        np.testing.assert_allclose(together.effect[[i]], alone.effect, atol=1e-4)


@pytest.mark.parametrize("kind_of_list", [list, tuple, np.array])
def test_a_function_may_give_a_list_or_an_array(model, pairs, kind_of_list):
    result = sweep(model, pairs, metric=lambda logits, pairs: kind_of_list([float(row[-1, 3]) for row in logits]))
    with torch.no_grad():
        np.testing.assert_allclose(result.clean[0], model(pairs.clean_batch())[:, -1, 3], atol=ATOL)


class ThirdPosition(patchlib.PatchingDataset):
    """Reads the third position, and there a token that is each pair's own; its prompts have two lengths."""

    name = "third position"

    def get_clean_corrupt_pairs(self):
        return [
            ("Mary and John went to the store", "Mary and Bob went to the store"),
            ("The cat sat", "The dog sat"),
            ("John and Mary went to the park", "John and Tom went to the park"),
            ("The key is", "The key are"),
        ]

    def get_target_tokens(self, pair_idx):
        return 10 + pair_idx, 20

    def compute_metric(self, logits, pair_idx):
        assert logits.ndim == 3 and len(logits) == 1
        return (logits[0, 2, 30 + pair_idx] - logits[0, -1, 3]).item()


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("batch_tokens", [1, 2048])
def test_a_tasks_own_metric_sees_all_positions_and_its_pairs_number(model, engine, direction, batch_tokens):
    task = ThirdPosition()
    result = sweep(model, task, "resid_post", direction=direction, engine=engine, batch_tokens=batch_tokens)
    assert result.metric.values.tolist() == ["task_metric"]
    pairs = task.to_pairs(model)
    changed = 0
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
        with torch.no_grad():
            _, cache = model.run_with_cache(source[None])
            for run, tokens in (("clean", clean), ("corrupted", corrupted)):
                assert float(result[run][0, i]) == pytest.approx(task.compute_metric(model(tokens[None]), i), abs=ATOL)
            for layer, pos in np.ndindex(3, len(base)):

                def put(resid, hook, pos=pos, cache=cache):
                    resid[:, pos] = cache[hook.name][:, pos]
                    return resid

                hook = (f"blocks.{layer}.hook_resid_post", put)
                expected = task.compute_metric(model.run_with_hooks(base[None], fwd_hooks=[hook]), i)
                found = float(result.patched.isel(metric=0, example=i, layer=layer, pos=pos))
                assert found == pytest.approx(expected, abs=ATOL)
                changed += pos == 2 and abs(found - float(result.clean[0, i])) > 0.01
    assert changed


def test_the_tasks_own_metric_is_the_default_and_can_be_asked_for_or_left_out(model):
    task = ThirdPosition()
    both = sweep(model, task, over="layer", metric=["logit_diff", "_".join(("task", "metric"))])
    own, other = sweep(model, task, over="layer"), sweep(model, task, over="layer", metric="logit_diff")
    np.testing.assert_allclose(both.patched, np.concatenate([other.patched, own.patched]), atol=1e-5)


# ---- Which cells


def test_layers_heads_and_positions_choose_from_the_whole(model, pairs):
    whole = sweep(model, pairs, "z", ("layer", "head", "pos"))
    part = sweep(model, pairs, "z", ("layer", "head", "pos"), layers=[2, 0], heads=[3, 1], positions=[8, 0, 6])
    chosen = whole.sel(layer=[2, 0], head=[3, 1], pos=[8, 0, 6])
    np.testing.assert_allclose(part.patched, chosen.patched, atol=1e-5)
    assert part.pos_label.values.tolist() == chosen.pos_label.values.tolist()
    assert [part[axis].values.tolist() for axis in ("layer", "head", "pos")] == [[2, 0], [3, 1], [8, 0, 6]]


@pytest.mark.parametrize("number", [np.int64, np.uint8, int])
def test_whole_numbers_may_be_numpys_and_may_stand_alone(model, pairs, number):
    for many in (lambda i: [number(i)], lambda i: np.array([i], dtype=number), number):
        result = sweep(model, pairs, "z", ("layer", "head", "pos"), layers=many(1), heads=many(2), positions=many(6))
        assert [result[axis].values.tolist() for axis in ("layer", "head", "pos")] == [[1], [2], [6]]
        fixed = sweep(model, pairs, layers=range(1, 2), over="layer", positions=many(6))
        assert fixed.attrs["positions"] == "6"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_without_a_position_axis_positions_are_what_every_cell_patches(model, pairs, direction):
    by_role = sweep(model, pairs, "mlp_out", ("layer", "role"), direction)
    at_role = sweep(model, pairs, "mlp_out", ("layer",), direction, positions=["varied"])
    np.testing.assert_allclose(at_role.patched, by_role.patched.sel(role="varied"), atol=1e-5)

    base, source = pairs.corrupted_batch(), pairs.clean_batch()
    if direction == "noise":
        base, source = source, base
    rows = torch.arange(len(pairs))

    def put(activation, hook):
        for positions in (6, pairs.roles["varied"]):
            activation[rows, positions] = cache[hook.name][rows, positions]
        return activation

    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        logits = model.run_with_hooks(base, fwd_hooks=[("blocks.0.hook_mlp_out", put)])[:, -1]
    at_both = sweep(model, pairs, "mlp_out", "layer", direction, layers=0, positions=[6, "varied"])
    expected = logits[rows, pairs.answers[:, 0]] - logits[rows, pairs.answers[:, 1]]
    np.testing.assert_allclose(at_both.patched[0, 0], expected, atol=ATOL)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("layers", [[1], [2, 0], None])
def test_without_a_layer_axis_layers_are_patched_together(model, pairs, layers, engine):
    """Against bare hooks, since no single-layer sweep says what several layers give together."""
    result = patchlib.sweep(model, pairs, "z", ("head",), layers=layers, engine=engine, progress=False)
    chosen = range(model.cfg.n_layers) if layers is None else layers
    assert result.attrs["layers"] == ", ".join(map(str, chosen))
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        with torch.no_grad():
            _, cache = model.run_with_cache(clean[None])

            def put(z, hook, cache=cache):
                z[:, :, 2] = cache[hook.name][:, :, 2]
                return z

            hooks = [(f"blocks.{layer}.attn.hook_z", put) for layer in chosen]
            logits = model.run_with_hooks(corrupted[None], fwd_hooks=hooks)[0, -1]
        right, wrong = pairs.answers[i]
        expected = float(logits[right] - logits[wrong])
        assert float(result.patched.sel(head=2, example=i).squeeze()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_whole_stream_carries_the_whole_effect(model, pairs, direction):
    result = sweep(model, pairs, "resid_pre", ("layer",), direction)
    np.testing.assert_allclose(result.effect, 1, atol=1e-4)
    last = sweep(model, pairs, "resid_post", ("layer", "pos"), direction, layers=[2])
    np.testing.assert_allclose(last.effect.sel(pos=8), 1, atol=1e-4)
    np.testing.assert_allclose(last.effect.sel(pos=slice(0, 7)), 0, atol=1e-4)


def test_prompts_without_a_position_are_nan_there_and_count_for_nothing(model):
    pairs = mixed_pairs(model)
    result = sweep(model, pairs)
    short = [1, 3]
    assert result.patched.isel(example=short, pos=slice(7, 9)).isnull().all()
    assert result.patched.isel(example=[0, 2, 4]).notnull().all()
    alone = sweep(model, pairs.select([0, 2, 4]))
    moved, possible = (
        part.mean("example") for part in (alone.patched - alone.corrupted, alone.clean - alone.corrupted)
    )
    np.testing.assert_allclose(result.effect.sel(pos=[7, 8]), (moved / possible).sel(pos=[7, 8]), atol=1e-4)
    at_eight = sweep(model, pairs, over="layer", positions=8)
    np.testing.assert_allclose(at_eight.patched, result.patched.sel(pos=8), atol=1e-5)


def test_pairs_can_come_straight_from_tensors_or_lists(model):
    clean, corrupted, answers = [[5, 6, 7], [5, 6, 8]], [[5, 9, 7], [5, 9, 8]], [[1, 2], [3, 4]]
    of_lists = sweep(model, patchlib.PromptPairs(clean, corrupted, answers))
    of_tensors = sweep(model, patchlib.PromptPairs(*map(torch.tensor, (clean, corrupted, answers))))
    xr.testing.assert_identical(of_lists, of_tensors)
    assert of_lists.pos_label.values.tolist() == [model.to_string([5]), "", "<END>"]


def test_the_unpatched_prompts_alone(model):
    pairs = mixed_pairs(model)
    base, result = patchlib.baseline(model, pairs, ["kl", "prob"]), sweep(model, pairs, metric=["kl", "prob"])
    for run in ("clean", "corrupted"):
        np.testing.assert_allclose(base[run], result[run], atol=1e-5)
    assert base.attrs.items() <= result.attrs.items()
    assert patchlib.contrast(base).index.tolist() == ["kl", "prob"]


# ---- Progress


def test_the_bar_is_full_at_the_end_and_absent_when_not_wanted(model, capsys):
    pairs = mixed_pairs(model)
    patchlib.sweep(model, pairs, "z", ("layer", "head", "pos"), "noise")
    shown = capsys.readouterr().err
    assert "noise z: 100%" in shown and f"{5 * 3 * 4 * 9}/{5 * 3 * 4 * 9}" in shown
    patchlib.sweep(model, pairs, progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_environment_can_turn_the_bar_off(model, pairs, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    patchlib.sweep(model, pairs)
    assert capsys.readouterr().err == ""


# ---- Bad input: one clear error that names what is wrong and the mend

HEADS = {"site": "z", "over": ("layer", "head")}
BAD = [
    ({"site": "resid"}, "Unknown site 'resid': choose 'resid_pre', "),
    ({"site": ["z", "q"]}, "Unknown site ['z', 'q']"),
    ({"over": ("layer", "token")}, "Cannot sweep over 'token'", "Possible here: layer, pos, role."),
    ({"over": ("layer", "head")}, "Cannot sweep over 'head': site 'resid_pre' has no such axis"),
    ({"over": ()}, "at least one axis"),
    ({"over": ("layer", "pos", "layer")}, "each once"),
    ({"over": ("layer", "pos", "role")}, "only one of 'pos' and 'role'"),
    ({"direction": "restore"}, "Unknown direction 'restore': choose 'denoise'", "'noise'"),
    ({"metric": "logitdiff"}, "Unknown metric 'logitdiff'. Choose from logit_diff, prob, prob_diff, kl, accuracy"),
    ({"metric": 7}, "Unknown metric 7"),
    ({"metric": ["kl", None]}, "Unknown metric None"),
    ({"metric": ["kl", "prob", "kl"]}, "Metric 'kl' was asked for twice"),
    ({"metric": []}, "No metric was asked for. Choose from"),
    ({"metric": "task_metric"}, "Unknown metric 'task_metric'"),
    ({"engine": "turbo"}, "Unknown engine 'turbo': choose 'auto', 'fast' or 'plain'"),
    ({"batch_tokens": 0}, "batch_tokens must be a whole number of 1 or more, not 0"),
    ({"layers": [0, 3]}, "layer [3] cannot be used: give whole numbers from 0 to 2, each once"),
    ({"layers": -1}, "layer [-1]"),
    ({"layers": [True]}, "layer [True]"),
    ({"layers": [1.0]}, "layer [1.0]"),
    ({"layers": ["0"]}, "layer ['0']"),
    ({"layers": []}, "layer []"),
    ({"layers": [1, 1]}, "layer [1, 1]", "each once"),
    ({**HEADS, "heads": [4]}, "head [4] cannot be used: give whole numbers from 0 to 3"),
    ({**HEADS, "heads": [-1]}, "head [-1]"),
    ({"site": "z", "heads": [0]}, "heads=[0] was given, but over=('layer', 'pos') has no 'head' axis: add 'head'"),
    ({"heads": [0]}, "heads=[0]", "site 'resid_pre' has no heads"),
    ({"positions": [9]}, "Position 9 is outside the prompts, which have positions 0 to 8"),
    ({"positions": -10}, "Position -10 is outside the prompts", "or -9 to -1, from the end"),
    ({"positions": [True]}, "Position True is neither a token index nor the name of a role"),
    ({"positions": [2.0]}, "Position 2.0 is neither"),
    ({"positions": ["S7"]}, "Unknown position 'S7': this task's named positions are: first, varied, END"),
    ({"positions": []}, "positions=[] must name at least one position"),
    ({"positions": [3, 3]}, "positions=[3, 3]", "each once"),
    ({"positions": ["END"]}, "positions=['END']: a sweep over 'pos' takes token indices"),
    ({"positions": [3], "over": ("layer", "role")}, "positions=[3]: a sweep over 'role' takes role names"),
]


@pytest.mark.parametrize(("asked", "says"), [(asked, says) for asked, *says in BAD], ids=lambda value: str(value)[:60])
def test_what_does_not_exist_is_refused_by_name(model, pairs, asked, says):
    with pytest.raises(patchlib.SweepError) as error:
        sweep(model, pairs, **asked)
    assert all(words in str(error.value) for words in says), str(error.value)


@pytest.mark.parametrize(
    ("site", "over", "says"),
    [
        ("z", ("layer", "kv_head"), "Cannot sweep over 'kv_head'.*Possible here: layer, head"),
        ("k", ("layer", "head", "kv_head"), "each once"),
        ("resid_mid", ("layer", "head"), "'head': site 'resid_mid' has no such axis. Possible here: layer, pos, role"),
    ],
)
def test_axes_that_only_other_models_sites_or_tasks_have(site, over, says):
    model = load_tiny("llama")
    with pytest.raises(patchlib.SweepError, match=says):
        sweep(model, replace(make_pairs(model), roles={}), site, over)


def test_key_and_value_heads_are_counted_as_such():
    model = load_tiny("llama")
    with pytest.raises(
        patchlib.SweepError, match=re.escape("kv_head [2, 3] cannot be used: give whole numbers from 0 to 1")
    ):
        sweep(model, make_pairs(model), "v", ("layer", "head"), heads=[0, 2, 3])


@pytest.mark.parametrize("task", ["IOI", patchlib.IOIDataset, None])
def test_something_that_is_no_task(model, task):
    with pytest.raises(patchlib.TaskError, match="A task is a PatchingDataset"):
        sweep(model, task)


@pytest.mark.parametrize("run", [sweep, patchlib.baseline])
def test_a_model_that_is_none_or_not_ready(model, pairs, run):
    with pytest.raises(patchlib.SweepError, match=r"The model is a str; patchlib.load_model gives one"):
        run("gpt2", pairs)
    in_part = copy.deepcopy(model)
    in_part.blocks[1].mlp.train()
    with pytest.raises(patchlib.SweepError, match=r"train mode.*Call model.eval\(\)"):
        run(in_part, pairs)


@pytest.mark.parametrize("metric", [*ALL_METRICS, lambda logits, pairs: logits[:, -1].argmax(-1)])
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_nan_logits_are_an_error_whatever_the_metric_makes_of_them(model, pairs, metric, engine):
    with pytest.raises(patchlib.SweepError, match=r"logits are NaN in the clean forward pass.*float32.*weights"):
        sweep(broken(model, float("nan")), pairs, metric=metric, engine=engine)


def test_a_metric_that_is_not_finite_or_not_one_number_per_example(model, pairs):
    def infinite(logits, pairs):
        return logits[:, -1, 0] / 0

    with pytest.raises(patchlib.SweepError, match="infinite is NaN or infinite in the clean forward pass"):
        sweep(model, pairs, metric=infinite)
    for wrong in (
        lambda logits, pairs: logits[:, -1],
        lambda logits, pairs: logits.mean(),
        lambda logits, pairs: [1.0],
    ):
        with pytest.raises(patchlib.SweepError, match=r"must give one real number for each of the 4 prompts"):
            sweep(model, pairs, metric=wrong)


# ---- The contrast


def test_too_small_a_contrast_gives_nan_and_a_warning_and_leaves_other_metrics_alone(model, pairs):
    def constant(logits, pairs):
        return torch.ones(len(logits))

    with pytest.warns(patchlib.ContrastWarning) as caught:
        result = sweep(model, pairs, metric=["logit_diff", constant])
    (warning,) = caught
    assert "constant gives no usable contrast (no difference): 1 on clean and 1 on corrupted" in str(warning.message)
    assert "swap_subject" in str(warning.message) and warning.filename == __file__
    assert result.effect.sel(metric="constant").isnull().all()
    assert result.effect.sel(metric="logit_diff").notnull().all()
    assert result.patched.notnull().all()


def test_a_contrast_of_the_wrong_sign_is_none(model, pairs):
    flipped = replace(pairs, answers=pairs.answers.flip(1))
    with pytest.warns(patchlib.ContrastWarning, match="logit_diff gives no usable contrast"):
        assert sweep(model, flipped).effect.isnull().all()


def test_accuracy_is_refused_where_no_answer_of_the_corrupted_prompts_is_right(model, pairs):
    abc = replace(pairs, metadata={"corrupted_answer": "none"})
    for metric in ("accuracy", ["logit_diff", "accuracy"], patchlib.METRICS["accuracy"]):
        with pytest.raises(patchlib.SweepError, match="neither answer is right, so that accuracy says nothing of them"):
            patchlib.baseline(model, abc, metric=metric)
    assert patchlib.baseline(model, replace(abc, metadata={"corrupted_answer": "wrong"}), metric="accuracy").sizes


def test_a_result_knows_which_prompts_share_a_wording(model, pairs):
    clusters = tuple("abba")
    for result in (sweep(model, replace(pairs, clusters=clusters)), sweep(model, replace(pairs, groups=clusters))):
        assert tuple(result["cluster"].values) == clusters and result["cluster"].dims == ("example",)
    assert "cluster" not in sweep(model, pairs).coords


def test_a_single_prompt_is_enough_for_an_effect(model, pairs):
    one = pairs.select([int(patchlib.baseline(model, pairs).clean[0].argmax())])  # on which it has the right answer
    with warnings.catch_warnings():
        warnings.simplefilter("error", patchlib.ContrastWarning)
        result = sweep(model, one, over=("layer", "role"))
    ratio = (result.patched - result.corrupted) / (result.clean - result.corrupted)
    np.testing.assert_allclose(result.effect, ratio.isel(example=0), rtol=1e-4)
