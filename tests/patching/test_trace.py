"""Causal traces against loops with plain hooks: noise, restored windows, severed sublayers."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

import patchlib
from patchlib.patching.noise import Noise, embedding_sd, resolve_span
from tests.helpers import ATOL, contrast_pairs, make_pairs, mixed_pairs
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
HELD = {"mlp": "mlp_out", "attn": "attn_out"}


def trace(*given, **how):
    return patchlib.causal_trace(*given, **{"progress": False, "draws": 2} | how)


def noise_of(model, pairs, span, *, noise=3.0, seed=0, draws=2) -> list[list[torch.Tensor]]:
    """By prompt and draw, what is added to all positions' embeddings."""
    spans, _ = resolve_span(span, pairs)
    donors = Noise("denoise", seed=seed, spans=spans, scale=noise * embedding_sd(model, spans, pairs), draws=draws,
                   d_model=model.cfg.d_model)  # fmt: skip
    repeated = pairs.select([i for i in range(len(pairs)) for _ in range(draws)])
    flat = [donors.batch(repeated, [e]).noise for e in range(len(repeated))]
    return [flat[i * draws : (i + 1) * draws] for i in range(len(pairs))]


def runs_of(model, pairs, noises) -> list[list[tuple]]:
    """By prompt and draw: the hook that noises it, and the caches of the clean and of the noised run."""
    runs = []
    for row, of_prompt in zip(pairs.clean_tokens, noises, strict=True):
        clean = model.run_with_cache(row[None])[1]
        runs.append([])
        for noise in of_prompt:
            noisy = ("hook_embed", lambda embedded, hook, noise=noise: embedded + noise)
            with model.hooks(fwd_hooks=[noisy]):
                runs[-1].append((noisy, clean, model.run_with_cache(row[None])[1]))
    return runs


def by_hand(model, pairs, runs, site, layers, where, severed=None) -> np.ndarray:
    """The mean over draws of each prompt's logit difference, with `layers` restored at the positions where[example]."""

    def put(activation, hook, cache, at):
        activation[:, at] = cache[hook.name][:, at]
        return activation

    restored = [patchlib.SITES[site].hook_name(layer) for layer in layers]
    held = [patchlib.SITES[HELD[severed]].hook_name(layer) for layer in range(model.cfg.n_layers)] if severed else []
    found = []
    for i, row in enumerate(pairs.clean_tokens):
        of_draws = []
        for noisy, clean, corrupted in runs[i]:
            hooks = [noisy]
            for names, cache in ((restored, clean), (held, corrupted)):
                hooks += [(name, functools.partial(put, cache=cache, at=where[i])) for name in names]
            logits = model.run_with_hooks(row[None], fwd_hooks=hooks)[0, -1]
            of_draws.append(float(logits[pairs.answers[i, 0]] - logits[pairs.answers[i, 1]]))
        found.append(np.mean(of_draws))
    return np.array(found)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "bloom"])
def test_every_cell_is_the_noised_run_with_clean_states_put_back(kind):
    model = load_tiny(kind)
    pairs = contrast_pairs(model, n=2)
    runs = runs_of(model, pairs, noise_of(model, pairs, "varied"))
    result = trace(model, pairs, "varied", "mlp_out", ("layer", "pos"), positions=[4, 6])
    nothing = [[]] * 2
    np.testing.assert_allclose(result.corrupted[0], by_hand(model, pairs, runs, "mlp_out", [], nothing), atol=ATOL)
    for layer in range(3):
        for pos in (4, 6):
            expected = by_hand(model, pairs, runs, "mlp_out", [layer], [[pos]] * 2)
            np.testing.assert_allclose(result.patched[0].sel(layer=layer, pos=pos), expected, atol=ATOL)


@pytest.mark.parametrize(
    ("site", "window", "severed"),
    [("mlp_out", 2, None), ("resid_pre", 1, "mlp"), ("resid_post", 1, "attn"), ("attn_out", 3, "mlp")],
)  # fmt: skip
def test_windows_and_severed_sublayers_are_as_by_hand(site, window, severed):
    model = load_tiny("llama")
    pairs = contrast_pairs(model, n=2)
    runs = runs_of(model, pairs, noise_of(model, pairs, ["varied", 2]))
    how = {"over": ("layer", "role"), "positions": ["varied", "END"], "window": window, "severed": severed}
    result, plain = (trace(model, pairs, ["varied", 2], site, engine=engine, **how) for engine in ("fast", "plain"))
    np.testing.assert_allclose(result.patched, plain.patched, atol=ATOL)
    for layer in range(3):
        layers = [i for i in range(3) if layer - window // 2 <= i < layer - window // 2 + window]
        for role in ("varied", "END"):
            where = [[int(position)] for position in pairs.roles[role]]
            expected = by_hand(model, pairs, runs, site, layers, where, severed)
            np.testing.assert_allclose(result.patched[0].sel(layer=layer, role=role), expected, atol=ATOL)


def test_without_noise_the_noised_run_is_the_clean_one_and_there_is_nothing_to_restore():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    with pytest.warns(patchlib.ContrastWarning, match="no difference"):
        result = trace(model, pairs, "first", noise=0)
    np.testing.assert_array_equal(result.corrupted, result.clean)
    np.testing.assert_array_equal(result.patched, result.clean.values[:, None, None] + 0 * result.patched)
    assert result.effect.isnull().all()


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_with_everything_restored_at_layer_0_the_run_is_clean(kind):
    model = load_tiny(kind)
    pairs = mixed_pairs(model)
    result = trace(model, pairs, "varied", over="layer", layers=[0, 2])
    np.testing.assert_allclose(result.patched[0].sel(layer=0), result.clean[0], atol=ATOL)
    np.testing.assert_allclose(result.clean[0], patchlib.baseline(model, pairs).clean[0], atol=ATOL)
    assert abs(result.corrupted - result.clean).min() > 10 * ATOL


def test_a_window_of_one_is_a_sweep_whose_corrupted_run_is_the_noised_one():
    """With noise that turns one token's embedding into another's, the noised prompt is the corrupted one."""
    model = load_tiny("llama")
    pairs = contrast_pairs(model, n=2)
    pairs = patchlib.PromptPairs(
        pairs.clean_tokens, [torch.where(torch.arange(9) == 5, b, a) for a, b in
                             zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)],
        pairs.answers, roles=pairs.roles,
    )  # fmt: skip
    embedding = model.embed.original_component.weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Noise, "_drawn",
            lambda self, i, draw: (embedding[pairs.corrupted_tokens[i][5]] - embedding[pairs.clean_tokens[i][5]])[None]
            / self.scale,
        )  # fmt: skip
        traced = trace(model, pairs, 5, "resid_mid", draws=1)
    swept = patchlib.sweep(model, pairs, "resid_mid", progress=False)
    for name in ("clean", "corrupted", "patched", "effect"):
        np.testing.assert_allclose(traced[name], swept[name], atol=ATOL)


def test_noise_is_of_the_spans_own_spread_the_seed_and_the_draw_alone():
    model = load_tiny("llama")
    pairs = make_pairs(model)
    ids = torch.cat([row[5:7] for row in pairs.clean_tokens])
    sd = float(model.embed.original_component.weight[ids].std())
    whole = trace(model, pairs, [5, 6], over="layer", layers=[1], batch_tokens=9)
    assert whole.attrs["noise_sd"] == pytest.approx(3 * sd, rel=1e-5) and whole.attrs["span"] == "5, 6"
    big = trace(model, pairs, [[5, 6]] * 4, over="layer", layers=[1])
    np.testing.assert_allclose(big.corrupted, whole.corrupted, atol=ATOL)
    assert not np.allclose(trace(model, pairs, [5, 6], over="layer", layers=[1], seed=1).corrupted, big.corrupted)
    twice = patchlib.PromptPairs([[4, 7, 9], [4, 8, 9]], [[4, 7, 6], [4, 8, 6]], [[1, 2]] * 2)
    weight = model.embed.original_component.weight
    assert embedding_sd(model, [[0, 1], [0]], twice) == pytest.approx(float(weight[[4, 7, 4]].std()), rel=1e-5)
    first, second = noise_of(model, pairs, [5, 6])[0]
    assert (first[0, 5:7] != second[0, 5:7]).all() and not first[0, :5].any() and not first[0, 7:].any()
    spread = torch.cat([draw[0, 5:7] for draws in noise_of(model, pairs, [5, 6], draws=50) for draw in draws]).std()
    assert float(spread) == pytest.approx(3 * sd, rel=0.02)


def test_spans_of_several_tokens_and_places_from_the_end():
    model = load_tiny("llama")
    pairs = mixed_pairs(model)
    rows = [[2, 3], [1, 2, 3], [4], [5], [6, 7]]
    named = replace(pairs, spans={"subject": tuple(map(tuple, rows))})
    first, second = (trace(model, task, span, over="layer") for task, span in ((named, "subject"), (pairs, rows)))
    np.testing.assert_array_equal(first.patched, second.patched)
    first, second = (
        trace(model, pairs, span, over="layer", draws=1)
        for span in (-2, [[len(row) - 2] for row in pairs.clean_tokens])
    )
    np.testing.assert_array_equal(first.patched, second.patched)


def test_answers_of_several_tokens_are_summed_over_their_steps_in_each_draw():
    model = load_tiny("llama")
    pairs = make_pairs(model, n=2)
    two = replace(pairs, continuations=(((7, 9), (11, 3)), ((8, 4), (5, 6))), answers=torch.tensor([[7, 11], [8, 5]]))
    result = trace(model, two, "first", over="layer", layers=[1], positions=6, metric=["logit_diff", "prob"])
    noises = noise_of(model, two, "first")
    for i, row in enumerate(two.clean_tokens):
        of_draws = []
        for noise in noises[i]:
            log_probs = []
            for answer in two.continuations[i]:
                tokens = torch.cat([row, torch.tensor(answer[:1])])[None]
                longer = torch.nn.functional.pad(noise, (0, 0, 0, 1))
                clean = model.run_with_cache(tokens)[1]["blocks.1.hook_resid_pre"]

                def put(stream, hook, clean=clean):
                    stream[:, 6] = clean[:, 6]

                hooks = [("hook_embed", lambda e, hook, n=longer: e + n), ("blocks.1.hook_resid_pre", put)]
                steps = model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -2:].log_softmax(-1)
                log_probs.append(float(steps[0, answer[0]] + steps[1, answer[1]]))
            of_draws.append((log_probs[0] - log_probs[1], np.exp(log_probs[0])))
        np.testing.assert_allclose(result.patched[:, 0, i], np.mean(of_draws, axis=0), atol=ATOL)


def test_a_trace_goes_on_from_its_checkpoint_and_refuses_another_s(tmp_path):
    model = load_tiny("gpt2")
    pairs, file = contrast_pairs(model), tmp_path / "trace.ckpt"
    first = trace(model, pairs, "varied", "mlp_out", window=2, checkpoint=file)
    again = trace(model, pairs, "varied", "mlp_out", window=2, checkpoint=file)
    assert first.equals(again)
    for other in ({"window": 3}, {"noise": 2}, {"seed": 1}, {"span": "first"}, {"severed": "attn"}, {"draws": 3}):
        how = {"span": "varied", "window": 2} | other
        with pytest.raises(patchlib.SweepError, match="is of another sweep"):
            trace(model, pairs, how.pop("span"), "mlp_out", checkpoint=file, **how)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"noise": -0.1}, "noise must be a number of 0 or more, not -0.1"),
        ({"noise": float("nan")}, "noise must be a number of 0 or more, not nan"),
        ({"draws": 0}, "draws must be a whole number of 1 or more, not 0"),
        ({"draws": 10**9}, "draws must be a whole number from 1 to 1,000, not 1000000000"),
        ({"window": 4}, "window=4 is wider than the model, which has 3 layers"),
        ({"window": 0}, "window must be a whole number of 1 or more"),
        ({"window": 2, "over": "pos"}, "window=2 is of layers around each layer: add 'layer' to over"),
        ({"severed": "mlps"}, "Unknown severed 'mlps': choose 'mlp' or 'attn'"),
        ({"severed": "mlp", "site": "mlp_out"}, "With severed='mlp', 'mlp_out' cannot be restored"),
        ({"severed": "mlp", "site": "z"}, "With severed='mlp', 'z' cannot be restored"),
        ({"span": "subject"}, "Unknown position 'subject': this task's named positions are: first, varied, END"),
        ({"span": []}, "must name at least one position"),
        ({"span": 9}, "outside the prompts"),
        ({"span": [[1], [2]]}, "token indices for 2 prompts, and the task has 4"),
        ({"span": [[1], [2], [3], [9]]}, "The span of prompt 3 cannot be used: Position 9 is outside"),
        ({"span": [[1], [2], [], [4]]}, "The span of prompt 2 cannot be used"),
        ({"span": [[1], [2], ["first"], [4]]}, "The span of prompt 2 cannot be used"),
        ({"span": None}, "neither a token index nor the name of a role"),
    ],
)
def test_what_cannot_be_traced_is_said_in_one_line(asked, message):
    model = load_tiny("gpt2")
    with pytest.raises(patchlib.SweepError, match=message) as error:
        trace(model, make_pairs(model), **{"span": "first"} | asked)
    assert "\n" not in str(error.value)
