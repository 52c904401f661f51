"""Circuits of edges, the model with edges cut, and curves: against loops by hand, ends that are exact, and toys."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import patchlib
from patchlib.circuits.cut_forwards import CutForwards
from patchlib.circuits.edge_circuits import graph_of, pruned
from tests.helpers import contrast_pairs, make_pairs, mixed_pairs, with_contrast
from tests.tiny import load_tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning"),
    pytest.mark.filterwarnings("ignore::patchlib.EngineWarning"),
]
KINDS = ("gpt2", "llama", "neox", "qwen3", "phi", "falcon", "mixtral")
"""Of which neox, phi and falcon are parallel, the latter two with one norm for attention and MLP."""


def scores_of(model, pairs, **how):
    return patchlib.attribute_edges(model, pairs, progress=False, **how)


def cut_by_hand(model, pairs, cuts) -> np.ndarray:
    """The logit difference with some edges of GPT-2's cut, by calling its own modules one after the other."""
    hf = model.original_model.transformer
    clean, corrupted = pairs.clean_batch(), pairs.corrupted_batch()
    config = hf.config
    n_heads, d_head = config.n_head, config.n_embd // config.n_head

    def run(tokens, instead):
        """Every sender's output, and the last stream; each receiver reads the senders', cut where it says."""
        written = {}
        positions = torch.arange(tokens.shape[1])
        plain = {"embed": hf.wte.original_component(tokens) + hf.wpe.original_component(positions)}

        def stream(reader):
            total = 0
            for sender, given in plain.items():
                total = total + (instead[sender] if (sender, reader) in cuts and instead else given)
            return total

        for layer in range(config.n_layer):
            block = hf.h[layer]
            c_attn, c_proj, ln = (unwrapped(part) for part in (block.attn.c_attn, block.attn.c_proj, block.ln_1))
            made = {}
            for number, (letter, head) in enumerate(itertools.product("qkv", range(n_heads))):
                read = ln(stream(reader_name(letter, layer, head)))
                at = (number // n_heads) * config.n_embd + head * d_head
                made[letter, head] = read @ c_attn.weight[:, at : at + d_head] + c_attn.bias[at : at + d_head]
            for head in range(n_heads):
                scores = made["q", head] @ made["k", head].transpose(-1, -2) / d_head**0.5
                mask = torch.full(scores.shape[-2:], -torch.inf).triu(1)
                z = (scores + mask).softmax(-1) @ made["v", head]
                written[f"L{layer}H{head}"] = z @ c_proj.weight[head * d_head : (head + 1) * d_head]
            plain.update({name: out for name, out in written.items() if name.startswith(f"L{layer}H")})
            plain[f"bias{layer}"] = c_proj.bias
            read = unwrapped(block.ln_2)(stream(f"MLP{layer}"))
            plain[f"MLP{layer}"] = unwrapped(block.mlp)(read)
        last = unwrapped(hf.ln_f)(stream("logits"))
        return plain, last @ hf.wte.original_component.weight.T

    with torch.no_grad():
        instead, _ = run(corrupted, None)
        _, logits = run(clean, instead)
    rows = torch.arange(len(pairs))
    return (logits[rows, -1, pairs.answers[:, 0]] - logits[rows, -1, pairs.answers[:, 1]]).numpy()


def unwrapped(part):
    return getattr(part, "original_component", part)


def reader_name(letter, layer, head) -> str:
    return f"q of L{layer}H{head}" if letter == "q" else f"{letter} of L{layer}KV{head}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["other", "mean", "zero", "resample"])
def test_no_edge_cut_is_the_model_and_all_cut_is_what_stands_in(kind, source):
    model = load_tiny(kind)
    pairs = mixed_pairs(model) if source == "other" else contrast_pairs(model)
    ablation = patchlib.EdgeAblation(model, pairs, source=source)
    whole, floor = ablation.unpatched()
    unpatched = patchlib.baseline(model, pairs)
    np.testing.assert_allclose(whole, unpatched.clean[0], atol=1e-4)
    if source == "other":
        np.testing.assert_allclose(floor, unpatched.corrupted[0], atol=1e-4)
    elif source in ("mean", "resample"):
        said = {"mean": "mean over 3 of 4 prompts", "resample": "resampled from 4 prompts"}[source]
        assert said in ablation.protocol and np.isfinite(floor).all()


@pytest.mark.parametrize("source", ["mean", "resample"])
def test_what_stands_in_is_of_the_same_template(source):
    """With one reference prompt of each template, every edge cut is the model on that prompt."""
    model = load_tiny("llama")
    pairs = replace(contrast_pairs(model), groups=("a", "b", "a", "b"))
    reference = replace(make_pairs(model, n=2, seed=5), groups=("b", "a"))
    _, floor = patchlib.EdgeAblation(model, pairs, source=source, reference=reference).unpatched()
    with torch.no_grad():
        logits = model(reference.clean_batch())[[1, 0, 1, 0], -1]
    expected = logits.gather(1, pairs.answers) @ torch.tensor([1.0, -1.0])
    np.testing.assert_allclose(floor, expected, atol=1e-4)
    with pytest.raises(patchlib.SweepError, match=r"no prompt like prompt 1 .* template 'b'"):
        patchlib.EdgeAblation(model, pairs, source=source, reference=reference.select([1]))


def test_without_a_reference_a_mean_is_over_the_other_corrupted_prompts():
    model = load_tiny("gpt2")
    pairs = make_pairs(model, n=3)
    # With all edges cut the logits read a mean of streams.
    ablation = patchlib.EdgeAblation(model, pairs, source="mean")
    hf = model.original_model.transformer
    streams = model.run_with_cache(pairs.corrupted_batch())[1]["ln_final.hook_in"][:, -1]
    with torch.no_grad():
        logits = unwrapped(hf.ln_f)((streams.sum(0) - streams) / 2) @ hf.wte.original_component.weight.T
    expected = logits.gather(1, pairs.answers) @ torch.tensor([1.0, -1.0])
    nothing = np.zeros_like(ablation.graph.exists)
    np.testing.assert_allclose(ablation.measure([nothing])[0], expected, atol=1e-4)


def test_cut_edges_are_those_of_a_loop_by_hand():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    ablation = patchlib.EdgeAblation(model, pairs)
    graph = ablation.graph
    senders, readers = list(map(str, graph.senders)), list(map(str, graph.readers))
    rng = np.random.default_rng(0)
    sets = [graph.exists & (rng.random(graph.exists.shape) < share) for share in (0.9, 0.5, 0.2)]
    measured = ablation.measure(sets)
    for kept, values in zip(sets, measured, strict=True):
        cuts = {(senders[i], readers[j]) for i, j in np.argwhere(graph.exists & ~kept)}
        np.testing.assert_allclose(values, cut_by_hand(model, pairs, cuts), atol=2e-4)


@pytest.mark.parametrize("kind", ["llama", "phi", "neox"])
def test_one_edge_cut_is_the_exact_score_of_that_edge(kind):
    model = load_tiny(kind)
    pairs = contrast_pairs(model)
    edges = [
        ("embed", "q of L1H2"),
        ("L0H1", "k of L2KV1"),
        ("MLP0", "v of L1KV0"),
        ("L0H3", "MLP1"),
        ("MLP1", "logits"),
    ]
    exact = scores_of(model, pairs, method="exact", direction="noise", edges=edges)
    ablation = patchlib.EdgeAblation(model, pairs)
    senders, readers = list(exact.sender.values), list(exact.receiver.values)
    for sender, reader in edges:
        kept = ablation.graph.exists.copy()
        kept[senders.index(sender), readers.index(reader)] = False
        moved = ablation.measure([kept])[0] - ablation.unpatched()[0]
        np.testing.assert_allclose(moved, exact.score.sel(sender=sender, receiver=reader)[0], atol=1e-4)


def test_pruning_takes_what_leads_from_or_to_nothing_and_no_number_changes():
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    ablation = patchlib.EdgeAblation(model, pairs)
    graph = ablation.graph
    rng = np.random.default_rng(1)
    for share in (0.1, 0.3):
        kept = graph.exists & (rng.random(graph.exists.shape) < share)
        less = pruned(graph, kept)
        assert (less <= kept).all() and less.sum() < kept.sum()
        np.testing.assert_allclose(*ablation.measure([kept, less]), atol=1e-4)
        # By hand: a way forth from the embedding, and one back from the logits, through each edge that is left.
        ways = {(str(graph.senders[i]), str(graph.readers[j])) for i, j in np.argwhere(kept)}
        node = {str(reader): "logits" if str(reader) == "logits" else str(reader).split(" of ")[-1].replace("KV", "H")
                for reader in graph.readers}  # fmt: skip
        forth, back = {"embed"}, {"logits"}
        for _ in range(20):
            forth |= {node[reader] for sender, reader in ways if sender in forth}
            back |= {sender for sender, reader in ways if node[reader] in back}
        by_hand = {(sender, reader) for sender, reader in ways if sender in forth and node[reader] in back}
        assert {(str(graph.senders[i]), str(graph.readers[j])) for i, j in np.argwhere(less)} == by_hand


def test_circuits_by_number_threshold_and_greed():
    model = load_tiny("llama")
    scores = scores_of(model, contrast_pairs(model))
    graph, score = graph_of(scores), scores.score[0].mean("example")
    sizes = np.sort(abs(score.values)[graph.exists])[::-1]
    top = patchlib.edge_circuit(scores, 20)
    assert (top <= (abs(score) >= sizes[19])).all() and 0 < int(top.sum()) <= 20
    same = patchlib.edge_circuit(scores, threshold=float((sizes[19] + sizes[20]) / 2))
    assert same.equals(top)
    signed = patchlib.edge_circuit(scores, 20, ranking="signed")
    assert float(score.where(signed).min()) > 0
    assert patchlib.edge_circuit(scores, int(graph.exists.sum())).equals(patchlib.edge_circuit(scores, threshold=0))
    greedy = patchlib.edge_circuit(scores, 20, choose="greedy")
    # By hand: edges to the nodes reached, one at a time.
    reached, chosen = {"logits"}, []
    edges = {(str(graph.senders[i]), str(graph.readers[j])): abs(float(score.values[i, j]))
             for i, j in np.argwhere(graph.exists)}  # fmt: skip
    group = graph.n_heads // graph.n_kv_heads

    def readers_of(sender):
        if sender.startswith("MLP"):
            return {sender}
        if sender == "embed":
            return set()
        layer, head = sender[1:].split("H")
        kv = int(head) // group
        return {f"q of {sender}", f"k of L{layer}KV{kv}", f"v of L{layer}KV{kv}"}

    for _ in range(20):
        open_edges = {edge: size for edge, size in edges.items() if edge[1] in reached and edge not in chosen}
        chosen.append(max(open_edges, key=open_edges.get))
        reached |= readers_of(chosen[-1][0])
    by_hand = np.zeros(graph.exists.shape, dtype=bool)
    for sender, reader in chosen:
        by_hand[list(map(str, graph.senders)).index(sender), list(map(str, graph.readers)).index(reader)] = True
    np.testing.assert_array_equal(greedy, pruned(graph, by_hand))
    nodes = patchlib.edge_circuit(scores, 6, of="nodes")
    kept = set(scores.sender.values[nodes.any("receiver").values])
    of_node = abs(score.sum("receiver")).values
    assert kept <= set(scores.sender.values[np.argsort(-of_node)[:6]])


def test_noising_and_denoising_rank_alike():
    """What supports the behaviour comes first in either direction, with every edge there is in a linear rest."""
    toy = patchlib.toys.induction()
    for direction in ("denoise", "noise"):
        scores = scores_of(toy.model, toy.task, method="exact", direction=direction)
        circuit = patchlib.edge_circuit(scores, len(toy.edges), ranking="signed")
        found = {(str(e.sender.item()), str(e.receiver.item())) for e in circuit.stack(e=("sender", "receiver")) if e}
        assert found == set(toy.edges)


def test_the_ends_of_a_curve_are_exact_and_its_areas_are_mib_s():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    curve = patchlib.faithfulness_curve(patchlib.EdgeAblation(model, pairs), scores_of(model, pairs), n_random=2)
    table = curve.table
    assert set(table.ranking) >= {"signed", "magnitude", "random 1", "random 2", "magnitude complement"}
    np.testing.assert_allclose(table[table.share == 1].faithfulness, 1, atol=1e-5)
    assert (table.n == len(pairs)).all() and (table.ci_low <= table.ci_high + 1e-9).all()
    for _, area in curve.areas.iterrows():
        one = table[(table.of == area["of"]) & (table.ranking == area.ranking)]
        under = above = 0.0  # as MIB's evaluation adds them up
        points = list(zip(one.share, one.faithfulness, strict=True))
        for (x_1, f_1), (x_2, f_2) in itertools.pairwise(points):
            under += (x_2 - x_1) * (f_1 + f_2) / 2
            above += (x_2 - x_1) * (abs(1 - f_1) + abs(1 - f_2)) / 2
        assert area.cpr == pytest.approx(under) and area.cmd == pytest.approx(above)


def test_a_curve_of_one_everywhere_has_areas_999_and_0():
    from patchlib.circuits.curves import SHARES, _areas

    cpr, cmd = _areas(pd.DataFrame({"share": SHARES, "faithfulness": np.ones(len(SHARES))}))
    assert cpr == pytest.approx(0.999) and cmd == 0


def test_one_curve_call_puts_several_references_beside_each_other():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    scores, how = scores_of(model, pairs), {"shares": [0.1, 1], "n_random": 1}
    ablations = {source: patchlib.EdgeAblation(model, pairs, source=source) for source in ("mean", "resample")}
    curve = patchlib.faithfulness_curve(ablations, scores, **how)
    assert list(curve.table.source.unique()) == list(curve.areas.source.unique()) == ["mean", "resample"]
    assert "mean: mean over 3 of 4 prompts" in curve.protocol and "resample: resampled from 4" in curve.protocol
    for source, ablation in ablations.items():
        alone = patchlib.faithfulness_curve(ablation, scores, **how)
        for name in ("table", "areas"):
            together = getattr(curve, name)
            pd.testing.assert_frame_equal(
                together[together.source == source].reset_index(drop=True), getattr(alone, name)
            )


def test_no_set_of_edges_is_run_twice(monkeypatch):
    model = load_tiny("gpt2")
    ablation = patchlib.EdgeAblation(model, make_pairs(model))
    every = ablation.graph.exists
    dangling = every & False
    dangling[5, -1] = True  # a head that nothing leads to
    run, honest = [], CutForwards.logits
    monkeypatch.setattr(CutForwards, "logits", lambda self, kept: run.append(len(kept)) or honest(self, kept))
    values = ablation.measure([every, every & False, dangling, every])
    assert sum(run) == 2 and (values[0] == values[3]).all() and (values[1] == values[2]).all()


def test_a_circuit_and_its_complement_on_a_toy():
    toy = patchlib.toys.induction()
    ablation = patchlib.EdgeAblation(toy.model, toy.task)
    scores = scores_of(toy.model, toy.task, method="exact")
    senders, readers = list(scores.sender.values), list(scores.receiver.values)
    truth = np.array([[(sender, reader) in toy.edges for reader in readers] for sender in senders])
    whole, floor = (values.mean() for values in ablation.unpatched())
    kept, rest = ablation.measure([truth, ablation.graph.exists & ~truth]).mean(axis=1)
    assert (kept - floor) / (whole - floor) > 0.9 and (rest - floor) / (whole - floor) < 0.1


def test_a_circuit_goes_through_a_file(tmp_path):
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    scores = scores_of(model, pairs, direction="noise")
    circuit = patchlib.edge_circuit(scores, 30)
    patchlib.write_graph(scores, tmp_path / "graph.json", circuit)
    back = patchlib.read_graph(tmp_path / "graph.json", model)
    np.testing.assert_array_equal(back.in_graph, circuit)
    assert patchlib.edge_circuit(back, 30).equals(patchlib.edge_circuit(scores, 30).assign_coords(circuit.coords))
    ablation = patchlib.EdgeAblation(model, pairs)
    curves = [patchlib.faithfulness_curve(ablation, of).table for of in (scores, back)]
    np.testing.assert_allclose(curves[0].faithfulness, curves[1].faithfulness, atol=1e-4)


def test_one_line_for_what_cannot_be_cut_or_chosen():
    model = load_tiny("llama")
    pairs = with_contrast(model, make_pairs(model))
    scores, ablation = scores_of(model, pairs), patchlib.EdgeAblation(model, pairs)
    cases = [
        (lambda: patchlib.edge_circuit(scores), "one of n_edges and threshold"),
        (lambda: patchlib.edge_circuit(scores, 3, threshold=0.1), "one of n_edges and threshold"),
        (lambda: patchlib.edge_circuit(scores, -1), "n_edges must be a whole number"),
        (lambda: patchlib.edge_circuit(scores, 3, choose="best"), "Unknown choose"),
        (lambda: patchlib.edge_circuit(scores, 3, ranking="size"), "Unknown ranking"),
        (lambda: patchlib.edge_circuit(scores, 3, of="heads"), "Unknown of"),
        (lambda: patchlib.edge_circuit(scores, 3, of="nodes", choose="greedy"), "follows edges"),
        (lambda: patchlib.edge_circuit(scores.drop_vars("score"), 3), "These are no scores of edges"),
        (lambda: patchlib.edge_circuit(scores.isel(sender=slice(3)), 3), "some senders"),
        (lambda: patchlib.edge_circuit(3, 3), "scores cannot be a int"),
        (lambda: patchlib.faithfulness_curve(ablation, scores, shares=[0.5, 0.2]), "growing order"),
        (lambda: patchlib.faithfulness_curve(ablation, scores, shares=[0]), "must lie between 0 and 1"),
        (lambda: patchlib.faithfulness_curve(ablation, scores, n_random=-1), "n_random"),
        (lambda: patchlib.faithfulness_curve(model, scores), "make one with patchlib.EdgeAblation"),
        (lambda: patchlib.faithfulness_curve(ablation, scores_of(load_tiny("gpt2"), make_pairs(load_tiny("gpt2")))),
         "another model's edges"),
        (lambda: ablation.measure([np.ones((2, 2), dtype=bool)]), r"A set of edges is bool of shape \[2, 2\]: give"),
        (lambda: ablation.measure([1.0 * ablation.graph.exists]), "A set of edges is float64 of shape"),
        (lambda: ablation.measure(5), r"A set of edges is int64 of shape \[\]"),
        (lambda: ablation.measure([[[1], [1, 2]]]), "The sets of edges are no arrays"),
        (lambda: ablation.measure([]), "nothing to measure"),
        (lambda: patchlib.EdgeAblation(model, pairs, source="magic"), "Unknown source"),
        (lambda: patchlib.EdgeAblation(model, pairs, metric="magic"), "Unknown metric"),
        (lambda: patchlib.EdgeAblation(load_tiny("gemma2"), make_pairs(load_tiny("gemma2"))), "not the sum"),
        (lambda: patchlib.EdgeAblation(model, pairs, seed=-1, source="resample"), "seed"),
        (lambda: patchlib.EdgeAblation(model, pairs, reference=pairs), "takes nothing from a reference"),
        (lambda: patchlib.faithfulness_curve({}, scores), "There is no ablation"),
        (lambda: patchlib.faithfulness_curve({"mean": model}, scores), "make one with patchlib.EdgeAblation"),
    ]  # fmt: skip
    for call, said in cases:
        with pytest.raises(patchlib.SweepError, match=said):
            call()
