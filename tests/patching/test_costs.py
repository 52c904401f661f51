"""What a forward pass costs, seen from outside: by torch's own hooks on the unembedding and on the last block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForCausalLM

import patchlib
from patchlib.models import check
from patchlib.patching import budget
from patchlib.patching.batching import IDLE_TOKENS, cell_batches, patch_batches
from patchlib.patching.grid import Cell
from tests.helpers import ATOL, make_pairs, sweep
from tests.tiny import load_tiny, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


@contextmanager
def shapes_of(module: torch.nn.Module) -> Iterator[list[torch.Size]]:
    """The shape of what a module gives in each forward pass."""
    shapes: list[torch.Size] = []

    def look(module, args, output) -> None:
        shapes.append((output[0] if isinstance(output, tuple) else output).shape)

    with watching(module.register_forward_hook(look)):
        yield shapes


@contextmanager
def watching(hook: RemovableHandle) -> Iterator[None]:
    """Leave a hook that only looks on a model, which patchlib refuses as it refuses all hooks."""
    with pytest.MonkeyPatch.context() as patch, hook:
        patch.setattr(check, "_hooked", lambda model: [])
        yield


def first_and_last(logits, pairs):
    """A metric that reads logits at two positions."""
    return logits[:, -1, 0] - logits[:, 0, 1]


def test_logits_are_those_of_the_model_itself_with_the_unembedding_s_bias():
    model, plain = load_tiny("phi"), AutoModelForCausalLM.from_pretrained(tiny_path("phi")).eval()
    pairs = make_pairs(model)
    right, wrong = pairs.answers.unbind(1)
    bias = plain.lm_head.bias.detach()
    assert (bias[right] - bias[wrong]).abs().min() > 100 * ATOL, "or else this would not see a bias that is dropped"
    result = sweep(model, pairs, "resid_pre", ("layer",), engine="fast")
    with torch.no_grad():
        for name, rows in (("clean", pairs.clean_batch()), ("corrupted", pairs.corrupted_batch())):
            logits = plain(rows).logits[:, -1]
            expected = logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None])
            np.testing.assert_allclose(result[name].squeeze(), expected.squeeze(), atol=ATOL)


@pytest.mark.parametrize("metric", ["logit_diff", "prob", first_and_last], ids=["answers", "last", "all"])
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_no_forward_gives_more_logits_than_memory_is_meant_for(monkeypatch, engine, metric):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    n_vocab = len(pairs.answers.unique()) if metric == "logit_diff" and engine == "fast" else model.cfg.d_vocab
    n_pos = 9 if metric is first_and_last or engine == "plain" else 1
    if metric is first_and_last and engine == "fast":
        n_pos = 9 - 5  # what the two prompts share is unembedded once
    cell = 4 * len(pairs) * n_pos * n_vocab
    with monkeypatch.context() as patch, shapes_of(model.unembed.original_component) as shapes:
        patch.setitem(budget.LOGIT_BYTES, "cpu", 3 * 4 * len(pairs) * (9 if n_pos > 1 else 1) * n_vocab)
        limited = sweep(model, pairs, "z", ("layer", "head"), engine=engine, metric=metric, batch_tokens=10**6)
    # The others are of the shared prefix and of the self-check.
    most = max(4 * shape.numel() for shape in shapes if shape[1:] == (n_pos, n_vocab))
    assert most == 3 * cell, "three cells' logits are what the budget holds"
    free = sweep(model, pairs, "z", ("layer", "head"), engine=engine, metric=metric, batch_tokens=10**6)
    np.testing.assert_allclose(limited.patched, free.patched, atol=ATOL)


def test_a_metric_of_the_last_position_is_given_no_other_to_unembed():
    model = load_tiny("llama")
    pairs = make_pairs(model)

    def gap(logits, pairs):
        return logits[:, 5] - logits[:, 7]

    whole = sweep(
        model, pairs, "z", ("layer", "head"), metric=lambda logits, pairs: logits[:, -1, 5] - logits[:, -1, 7]
    )
    with shapes_of(model.unembed.original_component) as shapes:
        last = sweep(model, pairs, "z", ("layer", "head"), metric=patchlib.at_last_position(gap), engine="fast")
    np.testing.assert_allclose(last.patched, whole.patched, atol=ATOL)
    assert list(last.metric.values) == ["gap"]
    assert {shape[1] for shape in shapes if shape[0] > 2} == {1}, "of more rows than the plain forwards of the check"
    for wrong in (3, "gap", lambda logits: logits):
        with pytest.raises(patchlib.SweepError, match="logits"):
            patchlib.at_last_position(wrong)


@pytest.mark.parametrize("source", ["other", "mean", "resample"])
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_no_forward_of_any_kind_has_more_tokens_than_asked_for(engine, source):
    model = load_tiny("gpt2")
    how = {} if source == "other" else {"source": source, "reference": make_pairs(model, n=20, seed=3)}
    sweep(model, make_pairs(model), "z", ("layer",), engine=engine)  # the model's own trials are over
    with shapes_of(model.blocks[-1]) as shapes:
        sweep(model, make_pairs(model, n=12), "z", ("layer", "head"), engine=engine, batch_tokens=60, **how)
    tokens = [shape[0] * shape[1] for shape in shapes]
    assert 50 < max(tokens) <= 60


def test_positions_that_the_prompts_share_and_heads_that_cannot_be_heard_are_not_run():
    model = load_tiny("llama")
    pairs = make_pairs(model)  # alike before position 5
    sweep(model, pairs, "resid_pre", engine="fast")  # the model's own trials are over
    with shapes_of(model.blocks[-1]) as shapes:
        sweep(model, pairs, "resid_pre", ("layer", "pos"), engine="fast", layers=[1, 2])
    prefix, unpatched, *patched = [shape for shape in shapes if shape[1] < 9]  # the self-check runs prompts whole
    assert (prefix[:2], unpatched[:2]) == ((4, 5), (8, 4))
    # In layer 2 and 1, positions 5 to 8 alone can change anything; each is computed from that position on.
    assert sorted({shape[1] for shape in patched}) == [1, 2, 3, 4]
    assert sum(shape[0] for shape in patched) == 4 * len(pairs) * 2


@pytest.mark.parametrize("layers", [[1, 2], [0, 1, 2]])
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_senders_that_cannot_be_heard_are_not_run(engine, layers):
    """Heads of layers 1 and 2 have no path to the queries of layer 1."""
    model = load_tiny("llama")
    pairs, receivers = make_pairs(model), patchlib.inputs_of(model, [(1, 0)], "q")
    sweep(model, pairs, "z", ("layer",))  # the model's own trials are over
    with shapes_of(model.blocks[-1]) as shapes:
        result = patchlib.path_patch(model, pairs, receivers, layers=layers, engine=engine, progress=False)
    assert (result.patched.sel(layer=[1, 2]) == result.clean).all()
    # The shared prefix, the rest of both prompts, and the four heads of layer 0.
    expected = [(4, 5), (8, 4), *([(16, 4)] if 0 in layers else [])]
    assert [tuple(shape[:2]) for shape in shapes if shape[1] < 9] == (expected if engine == "fast" else [])


def test_memory_that_ran_out_once_is_asked_for_in_halves():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    expected = sweep(model, pairs, "z", ("layer", "head"), layers=[0], heads=[0, 1, 2, 3], engine="fast")
    refused: list[int] = []

    def scarce(module, args, kwargs) -> None:
        n_rows = (args[0] if args else kwargs["hidden_states"]).shape[0]
        if n_rows > 2 * len(pairs):  # the two unpatched runs are one forward of that size
            refused.append(n_rows)
            raise torch.OutOfMemoryError("CUDA out of memory")

    with watching(model.blocks[-1].register_forward_pre_hook(scarce, with_kwargs=True)):
        result = sweep(model, pairs, "z", ("layer", "head"), layers=[0], heads=[0, 1, 2, 3], engine="fast")
    assert refused == [4 * len(pairs)]
    np.testing.assert_allclose(result.patched, expected.patched, atol=ATOL)


def test_cells_of_far_layers_do_not_wait_in_one_batch_for_long():
    """By the rule alone: twenty layers of four heads, of which each batch runs all layers from its lowest on."""
    n_layers, n_examples, n_pos = 20, 2, 6
    where = torch.zeros(n_examples, n_pos, dtype=torch.bool)
    where[:, 2] = True
    cells = [Cell((layer, head), (layer,), head, where) for layer in range(n_layers) for head in range(4)]
    batches: list[list[Cell]] = []
    forwards = SimpleNamespace(
        model=SimpleNamespace(cfg=SimpleNamespace(n_layers=n_layers, device="cpu", d_vocab=10)),
        n_examples=n_examples, n_pos=n_pos, n_logits=20, fast=True, waits=False,
        first_position=lambda cell: 2, changes=lambda cell: cell.head != 3,
        patched_logits=lambda batch: batches.append(list(batch)) or torch.zeros(len(batch), n_examples, 1, 10),
    )  # fmt: skip
    list(patch_batches(forwards, cell_batches(forwards, cells, 10 * n_examples * 4)))
    assert sorted(cell.index for batch in batches for cell in batch) == [c.index for c in cells if c.head != 3]
    assert max(map(len, batches)) == 10, "only positions 2 to 5 are counted"
    assert len(batches) > 60 / 10, "and not every batch is full"
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        low = batch[0].layers[0]
        idle = [n_examples * 4 * (cell.layers[0] - low) for cell in batch]
        most = IDLE_TOKENS * (n_layers - low)  # what a forward of their own would cost
        assert sum(idle) <= most
        if following and len(batch) < 10:
            assert sum(idle) + n_examples * 4 * (following[0].layers[0] - low) > most, "it is closed without need"
