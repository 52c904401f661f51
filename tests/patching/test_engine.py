"""What holds for any prompts and any order of work, and what happens when memory runs out."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

import patchlib
from patchlib.patching import shortcuts
from patchlib.patching.batching import cell_batches, patch_batches
from patchlib.patching.donors import PromptBatch
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell, Grid
from patchlib.patching.head_values import HeadValueForwards
from patchlib.patching.lean import lean_modules
from patchlib.patching.metrics import Reads
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import Work
from tests.helpers import ATOL, make_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
KINDS = st.sampled_from(["gpt2", "llama", "phi"])
NAMES = st.sampled_from([name for name in SITES if name != "resid_mid" and not SITES[name].hook])  # phi lacks the one
READS = st.sampled_from([Reads(), Reads(last_only=False), Reads(vocab=torch.tensor([3, 7, 40]))])
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine


@st.composite
def two_prompts(draw, differ: bool = True):
    """Tokens of two prompts sets of one length, alike up to some position."""
    n, length = draw(st.integers(1, 3)), draw(st.integers(2, 9))
    ids = st.lists(st.integers(0, 60), min_size=length, max_size=length)
    base = torch.tensor(draw(st.lists(ids, min_size=n, max_size=n)))
    start = draw(st.integers(0, length - 1))
    other = base.clone()
    if differ:
        other[:, start] = (other[:, start] + draw(st.integers(1, 50))) % 61
    return base, other


def start(kind, name, base, other, reads, fast=True) -> PatchedForwards:
    grid = Grid(SITES[name], {}, [0, 1, 2])
    forwards = HeadValueForwards if name == "head_v" else PatchedForwards
    return forwards(load_tiny(kind), grid, PromptBatch(base, other), Work(fast, reads))


@pytest.mark.parametrize(
    ("kind", "n_norms"), [("gpt2", 7), ("neox", 7), ("opt", 7), ("llama", 0), ("gemma2", 0)]
)  # LayerNorms only: two a layer and the last
@torch.no_grad()
def test_lean_modules_give_what_the_model_gives(kind, n_norms):
    model = load_tiny(kind)
    lean = lean_modules(model)
    assert sum(isinstance(module, NormalizationBridge) for module in lean) == n_norms
    assert len(lean) > n_norms or kind == "opt"  # whose activation function, ReLU, is left alone
    tokens = torch.arange(12).view(2, 6)
    with shortcuts.forwards(lean):
        logits = model(tokens)
    torch.testing.assert_close(logits, model(tokens), atol=ATOL, rtol=0)


def test_a_layer_norm_whose_epsilon_transformer_lens_reads_otherwise_is_left_to_it(monkeypatch):
    model = load_tiny("gpt2")
    norm = model.blocks[1].ln2
    assert norm in lean_modules(model)
    monkeypatch.setattr(norm.original_component, "eps", 1e-2)
    assert norm not in lean_modules(model)


@few
@given(KINDS, NAMES, two_prompts(differ=False), st.integers(0, 2), READS)
def test_a_prompt_patched_into_itself_is_itself(kind, name, tokens, layer, reads):
    forwards = start(kind, name, *tokens, reads)
    cell = Cell((0,), (layer,), None, torch.ones_like(tokens[0], dtype=torch.bool))
    assert not forwards.changes(cell)
    torch.testing.assert_close(forwards.patched_logits([cell])[0], forwards.base_logits, atol=ATOL, rtol=0)


@few
@given(KINDS, two_prompts(), st.booleans(), READS)
def test_patching_all_of_the_first_stream_gives_the_other_prompt(kind, tokens, fast, reads):
    forwards = start(kind, "resid_pre", *tokens, reads, fast)
    cell = Cell((0,), (0,), None, torch.ones_like(tokens[0], dtype=torch.bool))
    torch.testing.assert_close(forwards.patched_logits([cell])[0], forwards.other_logits, atol=ATOL, rtol=0)


@few
@given(KINDS, NAMES, two_prompts(), READS, st.data())
def test_fast_is_plain_for_any_set_of_positions_and_cells_in_any_company(kind, name, tokens, reads, data):
    fast, plain = (start(kind, name, *tokens, reads, way) for way in (True, False))
    shape = tokens[0].shape
    cells = [
        Cell((i,), (data.draw(st.integers(0, 2)),), data.draw(heads), torch.tensor(data.draw(masks)).reshape(shape))
        for i, (heads, masks) in enumerate(
            [(st.just(None) if not SITES[name].has_heads else st.sampled_from([None, 0, 1]),
              st.lists(st.booleans(), min_size=shape.numel(), max_size=shape.numel()).filter(any))] * 3)
    ]  # fmt: skip
    together = {cell.index: fast.base_logits for cell in cells}
    batches = cell_batches(fast, data.draw(st.permutations(cells)), data.draw(st.integers(1, 500)))
    for batch, logits in patch_batches(fast, batches):
        together |= {cell.index: values for cell, values in zip(batch, logits, strict=True)}
    for cell, whole in zip(cells, plain.patched_logits(cells), strict=True):
        torch.testing.assert_close(together[cell.index], whole, atol=ATOL, rtol=0)


@pytest.mark.parametrize("site", ["z", "resid_post"])
def test_the_union_of_positions_is_all_positions(site):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    whole = sweep(model, pairs, site, ("layer",))
    union = sweep(model, pairs, site, ("layer",), positions=list(range(9)))
    np.testing.assert_allclose(union.patched, whole.patched, atol=ATOL)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("repeats", [1, 10])
def test_however_many_cells_no_forward_is_larger_than_the_budget(monkeypatch, engine, repeats):
    """What is alive at once is one batch and the two unpatched forwards: memory does not grow with the cells."""
    model = load_tiny("llama")
    pairs = make_pairs(model, n=3 * repeats)
    honest, tokens, alive = PatchedForwards.patched_logits, [], []

    def watched(self, cells):
        tokens.append(len(cells) * self.n_examples * (self.n_pos - min(map(self.first_position, cells))))
        logits = honest(self, cells)
        alive.append(weakref.ref(logits))
        assert sum(logits() is not None for logits in alive) <= 2, "the batch before, at most, and this one"
        return logits

    monkeypatch.setattr(PatchedForwards, "patched_logits", watched)
    sweep(model, pairs, "z", ("layer", "head"), engine=engine, batch_tokens=60, metric="prob")
    assert len(tokens) > 3 and max(tokens) <= 60


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 99 bytes"),
    ],
)
def test_batches_are_halved_when_memory_runs_out(monkeypatch, error):
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    expected = sweep(model, pairs, "z", ("layer", "head"))
    honest, sizes = PatchedForwards.patched_logits, []

    def scarce(self, cells):
        if self.fast:
            sizes.append(len(cells))
            if len(cells) > 2:
                raise error
        return honest(self, cells)

    monkeypatch.setattr(PatchedForwards, "patched_logits", scarce)
    result = sweep(model, pairs, "z", ("layer", "head"))
    assert result.patched.equals(expected.patched) or abs(result.patched - expected.patched).max() < ATOL
    assert sizes[0] > 2 and max(sizes[-4:]) <= 2, "it is not tried again and again"


def test_memory_that_does_not_do_for_one_forward_is_an_error_with_a_mend(monkeypatch):
    model = load_tiny("gpt2")
    assert patchlib.sweep(model, make_pairs(model), progress=False).attrs["engine"] == "fast"

    def none_left(self, cells):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PatchedForwards, "patched_logits", none_left)
    with pytest.raises(
        patchlib.SweepError, match=r"single patched forward pass of 4 prompts of 9 tokens.*batch_tokens"
    ):
        sweep(model, make_pairs(model))


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    model = load_tiny("gpt2")
    sweep(model, make_pairs(model))

    def broken(self, cells):
        raise RuntimeError("a bug")

    monkeypatch.setattr(PatchedForwards, "patched_logits", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        sweep(model, make_pairs(model))
