"""Graphs to and from EAP-IG's JSON: against what its own code writes, told again here, and files by others."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patchlib
from patchlib.circuits.exchange import helpfulness
from patchlib.errors import SweepError
from tests.test_toys import by_hand, possible_edges
from tests.tiny import load_tiny

SHAPES = {  # (layers, heads, key/value heads, parallel)
    "one head": (1, 1, 1, False),
    "plain": (2, 4, 4, False),
    "parallel": (3, 2, 2, True),
    "groups of 2": (2, 4, 2, False),
    "groups of 3": (2, 9, 3, False),
    "groups of 7": (2, 14, 2, True),
}
UNGROUPED = ("one head", "plain", "parallel")


def their_graph(n_layers: int, n_heads: int, parallel: bool) -> tuple[list[str], list[str]]:
    """Nodes and edges as ``Graph.from_model`` makes them (hannamw/EAP-IG, src/eap/graph.py), in its order."""
    nodes, edges, stream = ["input"], [], ["input"]
    for layer in range(n_layers):
        heads, mlp = [f"a{layer}.h{head}" for head in range(n_heads)], f"m{layer}"
        nodes += [*heads, mlp]
        for node in stream:
            edges += [f"{node}->{head}<{letter}>" for head in heads for letter in "qkv"]
            edges += [f"{node}->{mlp}"] if parallel else []
        stream += heads
        edges += [] if parallel else [f"{node}->{mlp}" for node in stream]
        stream += [mlp]
    return [*nodes, "logits"], edges + [f"{node}->logits" for node in stream]


def their_json(path: Path, shape: str, score: dict[str, float], circuit: set[str]) -> dict:
    """What ``Graph.to_json`` writes there of a graph of edges; nodes as its ``apply_topn`` leaves them."""
    n_layers, n_heads, _, parallel = SHAPES[shape]
    nodes, edges = their_graph(n_layers, n_heads, parallel)
    starts, ends = {edge.split("->")[0] for edge in circuit}, {edge.split("->")[1].split("<")[0] for edge in circuit}
    content = {"cfg": {"n_layers": n_layers, "n_heads": n_heads, "parallel_attn_mlp": parallel, "d_model": 32}}
    content["nodes"] = {
        node: {"in_graph": node == "logits" or (node in starts and (node in ends or node == "input"))} for node in nodes
    }
    content["edges"] = {edge: {"score": score[edge], "in_graph": edge in circuit} for edge in edges}
    path.write_text(json.dumps(content))
    return content


def our_name(theirs: str) -> tuple[str, str]:
    """Of an edge without groups."""
    sender, receiver = theirs.split("->")

    def node(name: str) -> str:
        layer, _, head = name[1:].partition(".h")
        return {"i": "embed", "l": "logits", "m": f"MLP{layer}", "a": f"L{layer}H{head}"}[name[0]]

    if "<" not in receiver:
        return node(sender), node(receiver)
    head, letter = node(receiver[:-3]), receiver[-2]
    return node(sender), f"{letter} of {head if letter == 'q' else head.replace('H', 'KV')}"


def made_up(shape: str, seed: int = 0, **attrs) -> xr.Dataset:
    """Scores as attribute_edges gives them, of two metrics and three prompts."""
    n_layers, n_heads, n_kv_heads, parallel = SHAPES[shape]
    heads = {"q": (n_heads, "H"), "k": (n_kv_heads, "KV"), "v": (n_kv_heads, "KV")}
    senders, receivers, n_read = ["embed"], [], []
    for layer in range(n_layers):
        of_layer = [f"{site} of L{layer}{mark}{head}" for site, (n, mark) in heads.items() for head in range(n)]
        receivers += [*of_layer, f"MLP{layer}"]
        n_read += [len(senders)] * len(of_layer)
        senders += [f"L{layer}H{head}" for head in range(n_heads)]
        n_read += [n_read[-1] if parallel else len(senders)]
        senders += [f"MLP{layer}"]
    receivers, n_read = [*receivers, "logits"], [*n_read, len(senders)]
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, len(senders), len(receivers), 3)) * 10.0 ** rng.integers(-12, 6)
    values[:, np.arange(len(senders))[:, None] >= n_read] = np.nan
    coordinates = {"metric": ["logit_diff", "prob"], "sender": senders, "receiver": receivers}
    data = xr.DataArray(values, coordinates, ("metric", "sender", "receiver", "example"))
    told = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_model": 32}
    return xr.Dataset({"score": data}, attrs={"direction": "denoise", **told, "parallel": str(parallel), **attrs})


def message(call) -> str:
    with pytest.raises(SweepError) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize("shape", UNGROUPED)
def test_a_file_is_the_one_that_their_code_writes(shape, tmp_path):
    scores = made_up(shape)
    mean = scores.score.sel(metric="logit_diff").mean("example")
    edges = their_graph(SHAPES[shape][0], SHAPES[shape][1], SHAPES[shape][3])[1]
    score = {edge: float(mean.sel(sender=our_name(edge)[0], receiver=our_name(edge)[1])) for edge in edges}
    circuit = {edge for i, edge in enumerate(edges) if i % 3 == 0}
    theirs = their_json(tmp_path / "theirs.json", shape, score, circuit)
    patchlib.write_graph(scores, tmp_path / "ours.json", in_graph={our_name(edge) for edge in circuit})
    assert (tmp_path / "ours.json").read_text() == (tmp_path / "theirs.json").read_text()
    graph = patchlib.read_graph(tmp_path / "theirs.json")
    assert int(graph.score.notnull().sum()) == len(theirs["edges"])
    for edge, (sender, receiver) in zip(edges, map(our_name, edges), strict=True):
        there = graph.sel(sender=sender, receiver=receiver)
        assert float(there.score) == score[edge] and bool(there.in_graph) == (edge in circuit)
    assert graph.attrs == {
        "form": "EAP-IG src/eap/graph.py", "n_layers": SHAPES[shape][0], "n_heads": SHAPES[shape][1],
        "n_kv_heads": SHAPES[shape][1], "parallel": str(SHAPES[shape][3]), "d_model": 32,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_is_read_to_the_bit(shape, seed, tmp_path):
    scores = made_up(shape, seed)
    expected = scores.score[0].mean("example")
    circuit = (expected > expected.median()) & expected.notnull()
    patchlib.write_graph(scores, tmp_path / "graph.json", in_graph=circuit)
    graph = patchlib.read_graph(tmp_path / "graph.json")
    xr.testing.assert_identical(graph.score.rename(None).drop_attrs(), expected.drop_vars("metric").rename(None))
    np.testing.assert_array_equal(graph.in_graph, circuit)
    patchlib.write_graph(graph, tmp_path / "again.json", in_graph=graph.in_graph)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "graph.json").read_bytes()
    graph.to_netcdf(tmp_path / "graph.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "graph.nc"), graph)


def test_heads_of_a_group_get_equal_shares_and_are_read_as_one(tmp_path):
    scores, file = made_up("groups of 3"), tmp_path / "graph.json"
    whole = float(scores.score[0].sel(sender="MLP0", receiver="k of L1KV2").mean())
    patchlib.write_graph(scores, file, in_graph=[("MLP0", "k of L1KV2")])
    content = json.loads(file.read_text())
    names = [f"m0->a1.h{head}<k>" for head in (6, 7, 8)]
    np.testing.assert_allclose([content["edges"][name]["score"] for name in names], whole / 3, rtol=1e-12)
    assert [name for name, edge in content["edges"].items() if edge["in_graph"]] == names
    del content["cfg"]["n_key_value_heads"]  # as in files of EAP-IG's
    file.write_text(json.dumps(content))
    assert patchlib.read_graph(file).sizes["receiver"] == 2 * (27 + 1) + 1


def test_the_models_groups_are_used_where_a_file_tells_of_none(tmp_path):
    model = load_tiny("llama")  # 3 layers of 4 heads, 2 for k and v
    nodes, edges = their_graph(3, 4, False)
    content = {
        "cfg": {"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32},
        "nodes": {node: {"in_graph": True} for node in nodes},
        "edges": {edge: {"score": i / 7, "in_graph": i % 5 == 0} for i, edge in enumerate(edges)},
    }
    content["edges"]["a0.h1->a2.h2<v>"]["in_graph"], content["edges"]["a0.h1->a2.h3<v>"]["in_graph"] = True, False
    (tmp_path / "graph.json").write_text(json.dumps(content))
    graph = patchlib.read_graph(tmp_path / "graph.json", model)
    both = [content["edges"][f"a0.h1->a2.h{head}<v>"] for head in (2, 3)]
    there = graph.sel(sender="L0H1", receiver="v of L2KV1")
    assert float(there.score) == sum(edge["score"] for edge in both)
    assert bool(there.in_graph)  # one of the two is
    assert float(graph.score.sel(sender="L0H1", receiver="q of L2H3")) == content["edges"]["a0.h1->a2.h3<q>"]["score"]
    assert graph.n_kv_heads == 2


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_a_score_says_what_a_loss_gains_when_the_edge_is_noised(direction, tmp_path):
    """EAP-IG: get_scores_exact of src/eap/attribute.py, and the metrics that MIB attributes with, ``loss=True``."""
    hand, scores = by_hand("and_gate"), made_up("plain", direction=direction).isel(metric=[0], example=[0]) * np.nan
    theirs = {}
    for sender, receiver in possible_edges():
        base = hand.metric(hand.clean_logits if direction == "noise" else hand.corrupted_logits)
        other = hand.other[direction][sender]
        patched = hand.metric(hand.run(hand.tokens[direction], (sender, receiver), other)[1])
        scores.score.loc[{"sender": sender, "receiver": receiver}] = patched - base  # as attribute_edges has it
        loss_with, loss_without = (-base, -patched) if direction == "noise" else (-patched, -base)
        theirs[sender, receiver] = loss_without - loss_with
    patchlib.write_graph(scores, tmp_path / "graph.json")
    score = patchlib.read_graph(tmp_path / "graph.json").score
    for (sender, receiver), expected in theirs.items():
        assert float(score.sel(sender=sender, receiver=receiver)) == expected
    assert float(score.sel(sender="MLP1", receiver="logits")) > 1


def test_a_divergence_is_a_loss_already():
    scores = made_up("plain")
    as_loss = scores.assign_coords(metric=["kl", "prob"])
    xr.testing.assert_equal(helpfulness(as_loss), -helpfulness(scores))


def test_positions_are_summed_and_shorter_prompts_lack_some():
    scores = made_up("plain")
    by_pos = xr.concat([scores.score, 2 * scores.score, 4 * scores.score], "pos")
    by_pos[2, ..., 1] = np.nan  # the second prompt has two positions
    expected = (7 * scores.score[0, ..., 0] + 3 * scores.score[0, ..., 1] + 7 * scores.score[0, ..., 2]) / 3
    given = helpfulness(scores.assign(score=by_pos))
    np.testing.assert_allclose(given, expected, rtol=1e-12)
    by_pos[:, :, 0, 0, 1] = np.nan
    assert "NaN" in message(lambda: helpfulness(scores.assign(score=by_pos)))
    assert "NaN" in message(lambda: helpfulness(scores.assign(score=by_pos * np.nan)))


def test_every_version_of_the_form_is_read(tmp_path):
    file, edge = tmp_path / "graph.json", {"input->m0": {"score": 0.5, "in_graph": True}}
    cfg = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False}
    versions = {
        "EAP-IG graph.py": {"nodes": {"input": True, "m0": False}, "n_pos": None},
        "EAP-IG eap/graph.py": {"nodes": {"input": True, "m0": False}},
        "EAP-IG src/eap/graph.py": {"nodes": {"input": {"in_graph": True}}},
    }
    for form, version in versions.items():
        file.write_text(json.dumps({"cfg": cfg, "edges": edge, **version}))
        graph = patchlib.read_graph(file)
        assert graph.form == form and "d_model" not in graph.attrs and "node_score" not in graph
        assert float(graph.score.sel(sender="embed", receiver="MLP0")) == 0.5
        assert float(graph.score.sum()) == 0.5 and int(graph.in_graph.sum()) == 1
    nodes = {"input": {"in_graph": True, "score": float("nan")}, "m0": {"in_graph": True, "score": 2}}
    file.write_text(json.dumps({"cfg": cfg, "edges": {"input->m0": {"score": None, "in_graph": 1}}, "nodes": nodes}))
    graph = patchlib.read_graph(file)
    np.testing.assert_array_equal(graph.node_score, [np.nan, np.nan, 2])
    assert float(graph.score.sum()) == 0 and int(graph.in_graph.sum()) == 1


CONTENT = {
    "cfg": {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 32},
    "nodes": {node: {"in_graph": True} for node in their_graph(1, 2, False)[0]},
    "edges": {edge: {"score": 0.5, "in_graph": False} for edge in their_graph(1, 2, False)[1]},
}


def test_what_is_no_graph_is_named(tmp_path):
    file = tmp_path / "graph.json"

    def said(content) -> str:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return message(lambda: patchlib.read_graph(file))

    def with_edge(name: str, edge) -> dict:
        return CONTENT | {"edges": CONTENT["edges"] | {name: edge}}

    assert "cannot be read as JSON" in said("{") and "cannot be read as JSON" in said("[" * 100_000)
    assert all("lacks cfg, nodes and edges" in said(json.dumps(other)) for other in ([], 3, None, {}, {"cfg": {}}))
    assert "lacks cfg, nodes and edges" in said(CONTENT | {"edges": []})
    assert "by positions" in said(CONTENT | {"n_pos": 9})
    assert "a graph of neurons" in said(CONTENT | {"nodes": {"m0": {"in_graph": True, "neurons": [True]}}})
    for name in ("a0.h2->m0", "m0->a0.h1<q>", "input->a0.h0", "input->a0.h0<z>", "logits->m0", "", "m0->m0"):
        assert "does not have" in said(with_edge(name, {"score": 1, "in_graph": True}))
    assert "has the node 'a1.h0'" in said(CONTENT | {"nodes": {"a1.h0": True}})
    for score in (float("nan"), float("inf"), "1", True, [1], 10**400):
        assert "must be a finite number" in said(with_edge("input->m0", {"score": score, "in_graph": True}))
    for flag in ("yes", 2, 0.5, [], {}):
        assert "must be true or false" in said(with_edge("input->m0", {"score": 1, "in_graph": flag}))
    assert "cannot be a list" in said(with_edge("input->m0", [1, True]))
    for cfg in ({"n_layers": 0}, {"n_heads": 1.5}, {"n_layers": True}, {"n_heads": None}, {"d_model": "32"}):
        assert "must be a whole number" in said(CONTENT | {"cfg": CONTENT["cfg"] | cfg})
    assert "give True or False" in said(CONTENT | {"cfg": {"n_layers": 1, "n_heads": 1}})
    assert "cannot be shared" in said(CONTENT | {"cfg": CONTENT["cfg"] | {"n_heads": 3, "n_key_value_heads": 2}})
    assert "more edges than can be held" in said(CONTENT | {"cfg": CONTENT["cfg"] | {"n_layers": 10**6}})
    assert "cannot be read as JSON" in message(lambda: patchlib.read_graph(tmp_path / "none.json"))
    assert "cannot be read as JSON" in message(lambda: patchlib.read_graph(tmp_path))
    assert "path cannot be a int" in message(lambda: patchlib.read_graph(3))
    file.write_bytes(b"PK\x03\x04\xff\xfe")
    assert "cannot be read as JSON" in message(lambda: patchlib.read_graph(file))


def test_a_graph_of_another_model_is_named(tmp_path):
    file, told = tmp_path / "graph.json", {"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32}
    gpt2, neox, llama = map(load_tiny, ("gpt2", "neox", "llama"))
    wrong = ({"n_layers": 2}, {"n_heads": 2}, {"d_model": 64}, {"parallel_attn_mlp": True}, {"n_key_value_heads": 2})
    for other in wrong:
        file.write_text(json.dumps({"cfg": told | other, "nodes": {}, "edges": {}}))
        assert "is a graph of another model" in message(lambda: patchlib.read_graph(file, gpt2))
    file.write_text(json.dumps({"cfg": told, "nodes": {}, "edges": {}}))
    assert "is a graph of another model" in message(lambda: patchlib.read_graph(file, neox))
    assert "The model is a str" in message(lambda: patchlib.read_graph(file, "gpt2"))
    assert (patchlib.read_graph(file, gpt2).n_kv_heads, patchlib.read_graph(file, llama).n_kv_heads) == (4, 2)
    file.write_text(json.dumps({"cfg": told | {"parallel_attn_mlp": True}, "nodes": {}, "edges": {}}))
    assert patchlib.read_graph(file, neox).parallel == "True"


def test_what_cannot_be_written_is_named(tmp_path):
    scores, file = made_up("plain"), tmp_path / "graph.json"

    def said(scores=scores, path=file, **more) -> str:
        return message(lambda: patchlib.write_graph(scores, path, **more))

    assert "scores cannot be a int" in said(3) and "no scores of edges" in said(xr.Dataset())
    assert "they lack n_layers" in said(scores.drop_attrs())
    assert "lack the sender 'L1H3'" in said(scores.sel(sender=scores.sender != "L1H3"))
    assert "lack the receiver 'logits'" in said(scores.sel(receiver=scores.receiver != "logits"))
    holed = copy.deepcopy(scores)
    holed.score[0, 3, -1, 2] = np.nan
    assert "1 edges are NaN or infinite, such as L0H2 -> logits" in said(holed)
    assert "There is no edge ('logits', 'MLP0')" in said(in_graph=[("logits", "MLP0")])
    assert "There is no edge 'L0H1'" in said(in_graph="L0H1") and "There is no edge" in said(in_graph=[([], {})])
    for no_edges in (
        scores.isel(sender=[0, 0, 1]),
        scores.expand_dims(seed=2),
        scores.astype(str),
        scores.max("sender"),
    ):
        assert "no scores of edges" in said(no_edges)
    assert "True or False by sender and receiver" in said(in_graph=scores.score[0, ..., 0])
    assert "There is no edge" in said(in_graph=scores.score[0, ..., 0].isnull())
    assert "No graph can be written" in said(path=tmp_path) and "No graph can be written" in said(path=3)
    assert not file.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PATHS = [
    (),
    *itertools.product(CONTENT),
    *(("cfg", name) for name in CONTENT["cfg"]),
    ("nodes", "m0"),
    ("nodes", "m0", "in_graph"),
    ("nodes", "m0", "score"),
    ("edges", "input->m0"),
    ("edges", "input->m0", "score"),
    ("edges", "m0->logits", "in_graph"),
    ("edges", "new"),
    ("n_pos",),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.sampled_from(PATHS), value=JSON)
def test_files_by_others_are_read_or_refused_in_one_line(where, value, tmp_path):
    content = copy.deepcopy(CONTENT)
    inner = content
    for name in where[:-1]:
        inner = inner[name]
    if where:
        inner[where[-1]] = value
    (tmp_path / "graph.json").write_text(json.dumps(content if where else value))
    try:
        graph = patchlib.read_graph(tmp_path / "graph.json")
    except SweepError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
    else:
        assert np.isfinite(graph.score.values[graph.score.notnull()]).all() and graph.in_graph.dtype == bool
