"""Sets of answers, and answers of several tokens, beside plain Hugging Face forwards."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import patchlib
from patchlib.errors import SweepError, TaskError
from tests.helpers import contrast_pairs, make_pairs, mixed_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning", "ignore::patchlib.ReferenceWarning")
READING = ["logit_diff", "prob", "prob_diff", "accuracy"]
SETS = [({5, 9, 11}, {7}), ({4}, {8, 30}), ({3}, {6}), ({2, 50}, {60, 61, 62})]
LONG = [([5, 9, 11], [7]), ([4], [8, 30]), ([3, 3], [6, 2]), ([2, 50], [60, 61, 62])]


def log_probs(model, row):
    """Of every next token, by the model as Hugging Face made it."""
    with torch.no_grad():
        return model.original_model(row[None]).logits[0].log_softmax(-1)


def sequence_by_hand(model, row, ids):
    """The sum over steps, a forward for each."""
    total = 0.0
    for token in ids:
        total += float(log_probs(model, row)[-1, token])
        row = torch.cat([row, torch.tensor([token])])
    return total


def test_a_set_of_one_is_the_plain_answer():
    pairs = contrast_pairs(load_tiny("gpt2"))
    alone = replace(pairs, answers=[({int(a)}, {int(b)}) for a, b in pairs.answers])
    assert alone.answer_sets == () and torch.equal(alone.answers, pairs.answers)
    # Beside a larger one, it is read as a set, and gives what the plain answer gives.
    sets = [((int(a),), (int(b),)) for a, b in pairs.answers]
    larger = replace(pairs, answer_sets=[*sets[:3], (sets[3][0], (*sets[3][1], 99))])
    one, other = (patchlib.baseline(load_tiny("gpt2"), task, READING) for task in (pairs, larger))
    np.testing.assert_allclose(one.clean[:, :3], other.clean[:, :3], atol=1e-6)
    assert (one.clean.sel(metric="prob")[3] == other.clean.sel(metric="prob")[3]).item()
    assert (one.clean.sel(metric="logit_diff")[3] > other.clean.sel(metric="logit_diff")[3]).item()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_metrics_of_sets_are_sums_of_probabilities(kind):
    model = load_tiny(kind)
    pairs = replace(make_pairs(model), answers=SETS)
    result = patchlib.baseline(model, pairs, READING)
    for i, (right, wrong) in enumerate(SETS):
        p_right, p_wrong = (
            log_probs(model, pairs.clean_tokens[i])[-1].exp()[sorted(ids)].sum() for ids in (right, wrong)
        )
        by_hand = [(p_right / p_wrong).log(), p_right, p_right - p_wrong, p_right > p_wrong]
        np.testing.assert_allclose(result.clean[:, i], by_hand, atol=1e-4, rtol=1e-4)


def test_sets_are_fast_and_exact_and_keep_to_their_prompts():
    model = load_tiny("llama")
    pairs = replace(mixed_pairs(model), answers=[*SETS, ({12, 13}, {14})])  # prompts of two lengths
    for metric in (READING, "logit_diff"):  # the second reads the answers' logits alone
        fast, plain = (sweep(model, pairs, "z", ("layer", "head"), metric=metric, engine=e) for e in ("fast", "plain"))
        np.testing.assert_allclose(fast.patched, plain.patched, atol=1e-4)
    assert "fast" in fast.engine
    attributed = patchlib.attribute(model, pairs, "z", ("layer", "head"), metric="logit_diff", progress=False)
    assert np.isfinite(attributed.patched).all()
    assert pairs.reversed().answer_sets[0] == ((7,), (5, 9, 11)) and pairs.select([4]).answer_sets == (
        ((12, 13), (14,)),
    )
    assert fast.answer.values[0].count("|") == 2


def test_several_tokens_are_the_sum_of_their_steps():
    model = load_tiny("llama")
    pairs = replace(make_pairs(model), answers=LONG)
    result = patchlib.baseline(model, pairs, READING)
    for prompts, rows in (("clean", pairs.clean_tokens), ("corrupted", pairs.corrupted_tokens)):
        for i, two in enumerate(LONG):
            right, wrong = (sequence_by_hand(model, rows[i], ids) for ids in two)
            by_hand = [right - wrong, np.exp(right), np.exp(right) - np.exp(wrong), right > wrong]
            np.testing.assert_allclose(result[prompts][:, i], by_hand, atol=1e-4, rtol=1e-4)
    assert result.sizes["example"] == 4 and result.answer.values[0] == model.to_string([5, 9, 11])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_sweeps_of_several_tokens_patch_the_prompt_alone(kind):
    """Beside a loop over cells on plain hooks: the clean stream is written into one position of one layer."""
    model = load_tiny(kind)
    pairs = replace(make_pairs(model, n=2), answers=LONG[:2])
    result = sweep(model, pairs, "resid_pre", ("layer", "pos"), metric=["logit_diff", "prob"], layers=[0, 2])
    assert result.sizes["pos"] == 9 and result.effect.dims == ("metric", "layer", "pos")
    fast = sweep(model, pairs, "resid_pre", ("layer", "pos"), layers=[0, 2])
    plain = sweep(model, pairs, "resid_pre", ("layer", "pos"), layers=[0, 2], engine="plain")
    np.testing.assert_allclose(fast.patched, plain.patched, atol=1e-4)
    name = "blocks.2.hook_resid_pre"
    for i, two in enumerate(LONG[:2]):
        for pos in (5, 8):
            totals = []
            for ids in two:
                clean, corrupted = (
                    torch.cat([rows[i], torch.tensor(ids[:-1], dtype=torch.long)])[None]
                    for rows in (pairs.clean_tokens, pairs.corrupted_tokens)
                )
                with torch.no_grad():
                    _, cache = model.run_with_cache(clean, names_filter=name)

                    def write(stream, hook, cache=cache, pos=pos):
                        stream = stream.clone()
                        stream[:, pos] = cache[name][:, pos]
                        return stream

                    logits = model.run_with_hooks(corrupted, fwd_hooks=[(name, write)])[0].log_softmax(-1)
                totals.append(sum(float(logits[8 + step, token]) for step, token in enumerate(ids)))
            by_hand = [totals[0] - totals[1], np.exp(totals[0])]
            np.testing.assert_allclose(result.patched.sel(layer=2, pos=pos)[:, i], by_hand, atol=1e-4, rtol=1e-3)
    last = sweep(model, pairs, "resid_pre", ("layer", "pos"), positions=-1, layers=[2])  # of the prompt
    np.testing.assert_allclose(last.patched[0, 0, 0], result.patched.sel(layer=2, pos=8)[0], atol=1e-5)
    direct = patchlib.path_patch(model, pairs, layers=[1], progress=False)
    assert direct.sizes["example"] == 2 and np.isfinite(direct.patched).all()


def test_what_cannot_read_such_answers_says_so_in_one_line():
    model = load_tiny("gpt2")
    some = patchlib.Circuit({"a": [(0, 0)]})
    sets, long = (replace(make_pairs(model), answers=answers) for answers in (SETS, LONG))
    for call, says in [
        (lambda: patchlib.direct_logit_attribution(model, sets), "has sets of answers, but direct_logit_attribution"),
        (lambda: patchlib.direct_logit_attribution(model, long), "has answers of several tokens, but"),
        (lambda: patchlib.attribute(model, long, progress=False), "sweep, path_patch and baseline read, and nothing"),
        (lambda: patchlib.discover(model, long, progress=False), "sweep, path_patch and baseline read, and nothing"),
        (lambda: sweep(model, long, source="mean", direction="noise"), "with which source='mean' does not go"),
        (lambda: sweep(model, long, prefilter="attribution"), "with which prefilter='attribution' does not go"),
        (lambda: sweep(model, long, metric=["prob", "kl"]), "in one call, each once, and for other metrics"),
        (lambda: patchlib.faithfulness(patchlib.Ablation(model, long), some), "and nothing else"),
    ]:
        with pytest.raises((SweepError, TaskError), match=says) as error:
            call()
        assert "\n" not in str(error.value)
    assert sweep(model, long, metric="kl").sizes["example"] == 4  # reads the end of the prompt


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([({1, 2}, {2, 3})] * 4, "Pair 0 has the token 2 among its right and among its wrong answers"),
        ([({1}, {3}), (set(), {3})] * 2, r"Pair 1 has the answer set set\(\), which is no row"),
        ([([1, 2], [1, 3])] * 4, "Pair 0 has a right and a wrong answer that begin with the same token"),
        ([({1, 2}, [1, 3])] * 4, "give one kind"),
        ([({1, 2}, {3}, {4})] * 4, "Pair 0 needs two answers"),
        ([({1, -2}, {3})] * 4, "which is no row of token ids"),
        ([({1, 2}, {3})] * 3, "4 pairs and 3 answer_sets|answers of shape"),
        ([(["a"], {3})] * 4, "which is no row of token ids"),
    ],
)
def test_bad_answers_are_refused_with_the_pairs_number(answers, says):
    with pytest.raises(TaskError, match=says):
        replace(make_pairs(load_tiny("gpt2")), answers=answers)


def test_new_answers_do_not_leave_old_sets_behind():
    pairs = replace(make_pairs(load_tiny("gpt2")), answers=SETS)
    with pytest.raises(TaskError, match="answers are not the first tokens of answer_sets"):
        replace(pairs, answers=torch.tensor([[1, 2]] * 4))
    assert replace(pairs, answer_sets=()).answer_sets == ()
    beyond = replace(pairs, answers=[({5, 999_999}, {7})] * 4)
    with pytest.raises(TaskError, match="token id 999999"):
        patchlib.baseline(load_tiny("gpt2"), beyond)


def test_own_tasks_give_sets_and_lists():
    model = load_tiny("gpt2")

    class Own(patchlib.PatchingDataset):
        name = "own"

        def __init__(self, answers):
            self.answers = answers

        def get_clean_corrupt_pairs(self):
            return [("Mary and John went to the store", "Mary and Mary went to the store")]

        def get_target_tokens(self, pair_idx):
            return self.answers

    logits = torch.arange(100.0).view(1, 1, 100) / 50
    assert Own(({5, 6}, {7})).to_pairs(model).answer_sets == (((5, 6), (7,)),)
    assert Own(({5, 6}, 7)).to_pairs(model).answers.tolist() == [[5, 7]]
    assert Own(([5, 6], 7)).to_pairs(model).continuations == (((5, 6), (7,)),)
    by_hand = (logits[0, 0, [5, 6]].exp().sum() / logits[0, 0, 7].exp()).log()
    assert Own(({5, 6}, {7})).compute_metric(logits, 0) == pytest.approx(float(by_hand), abs=1e-5)
    assert Own((5, 7)).compute_metric(logits, 0) == pytest.approx(-0.04, abs=1e-6)
