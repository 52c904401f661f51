"""Every public function of tasks, patching, circuits, stats, plots, compat and widgets, with arguments that are right.

What has no business to be called with junk is not here: `runs` and `models` have cases of their own.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import patchlib
from patchlib import stats
from tests.helpers import alike_pairs, contrast_pairs
from tests.tiny import load_tiny

HEADS = [(0, 1), (1, 2)]


@dataclass(frozen=True)
class Public:
    """A function, arguments with which it runs, by name."""

    function: Callable[..., Any]
    right: Mapping[str, Any]


@functools.cache
def model() -> Any:
    """The tiny model of all calls."""
    return load_tiny("llama")


@functools.cache
def pairs() -> patchlib.PromptPairs:
    """Four prompts, in which END is the last position."""
    made = contrast_pairs(model(), n=4)
    roles = {"END": torch.full((4,), 8), "S2": torch.full((4,), 5)}
    settings = {"clean_tokens": made.clean_tokens, "corrupted_tokens": made.corrupted_tokens, "answers": made.answers}
    return patchlib.PromptPairs(**settings, roles=roles, name="made up", groups=tuple("abab"), clusters=tuple("abcd"))


@functools.cache
def result() -> Any:
    """A sweep over heads, of made-up numbers with a contrast."""
    swept = patchlib.sweep(model(), pairs(), "z", ("layer", "head"), progress=False)
    noise = np.random.default_rng(0).normal(size=(1, 4))
    return swept.assign(clean=swept.clean * 0 + 3 + noise / 10, corrupted=swept.corrupted * 0 - 1 + noise / 7)


@functools.cache
def noised() -> Any:
    """The other direction of it."""
    return result().assign_attrs(direction="noise")


@functools.cache
def edges() -> Any:
    """Edges of the tiny model."""
    return patchlib.attribute_edges(model(), pairs(), progress=False)


@functools.cache
def edge_ablation() -> patchlib.EdgeAblation:
    """The corrupted prompts' outputs for what is cut."""
    return patchlib.EdgeAblation(model(), pairs())


@functools.cache
def toy() -> patchlib.toys.Toy:
    """One whose circuit is known."""
    return patchlib.toys.or_gate(n_prompts=2)


@functools.cache
def toy_edges() -> Any:
    """Edges of the toy."""
    return patchlib.attribute_edges(toy().model, toy().task, progress=False)


@functools.cache
def estimate() -> Any:
    """Of all heads, with made-up numbers beside them as exact ones."""
    estimated = patchlib.attribute(model(), pairs(), "z", ("layer", "head"), progress=False)
    return estimated.assign(exact_effect=estimated.effect * 0.9)


@functools.cache
def integrated() -> Any:
    """Of all heads, along the way of the inputs."""
    return patchlib.attribute(model(), pairs(), "z", ("layer", "head"), method="integrated", steps=2, progress=False)


@functools.cache
def curve() -> patchlib.FaithfulnessCurve:
    """Of circuits of edges of two sizes."""
    return patchlib.faithfulness_curve(edge_ablation(), edges(), shares=[0.5, 1])


@functools.cache
def ablation() -> patchlib.Ablation:
    """Zeros for what is knocked out."""
    return patchlib.Ablation(model(), pairs(), source="zero")


@functools.cache
def alike() -> patchlib.PromptPairs:
    """Prompts that have a contrast together."""
    return alike_pairs(model(), 4)


@functools.cache
def traced(severed: str | None = None) -> Any:
    """A causal trace, with the made-up numbers of a sweep, which has a contrast."""
    over = {"over": ("layer", "pos"), "progress": False}
    noised = patchlib.causal_trace(model(), pairs(), "S2", draws=1, severed=severed, **over)
    return noised.assign({name: result()[name] for name in ("clean", "corrupted")})


@functools.cache
def together() -> Any:
    """Two heads and what they do together."""
    return patchlib.interactions(model(), pairs(), HEADS, progress=False)


@functools.cache
def transplanted() -> Any:
    """States of two layers in one."""
    return patchlib.transplant(model(), [2, 3, 4], [5, 6], [0, 1], [1])


@functools.cache
def projected() -> Any:
    """A subspace of two directions."""
    return patchlib.patch_subspace(model(), pairs(), torch.eye(32)[:, :2], 1, "END")


@functools.cache
def circuit() -> patchlib.Circuit:
    """Two types of heads."""
    return patchlib.Circuit({"first": [(0, 1)], "second": [(1, 2), (1, 3)]}, {"second": "END"})


@functools.cache
def cache() -> patchlib.ActivationCache:
    """Of one prompt."""
    return patchlib.ActivationPatcher(model()).cache_activations("Mary gave a drink to")


@functools.cache
def losses() -> Any:
    """Of rows that come twice."""
    return patchlib.token_losses(model(), patchlib.repeated_tokens(model(), n_rows=2, seq_len=6))


@functools.cache
def discovery() -> patchlib.Discovery:
    """Of one head, made up."""
    path = {"depth": 1, "receivers": "logits", "site": "logits", "layer": 1, "head_index": 2, "position": "END"}
    step = path | {"effect": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 4}
    head = {"layer": 1, "head_index": 2, "position": "END", "head_type": "first", "direct": 0.5, "effect": 0.5}
    types = head | {"looks_at": "S2", "attention": 0.4, "copying": 0.6, "suppressing": 0.0}
    inputs = {"heads": "L1H2", "site": "q", "position": "END", "effect": 0.4, "through_heads": 0.3, "followed": True}
    tables = (pd.DataFrame([row]) for row in (step, inputs, types))
    steps, looked_at, named = tables
    return patchlib.Discovery(circuit(), steps, looked_at, {}, named, ("S2", "END"))


@functools.cache
def graph_file() -> Path:
    """Of a graph of the tiny model, in which no edge has a score."""
    file = Path(tempfile.mkdtemp(prefix="graph-")) / "graph.json"
    atexit.register(shutil.rmtree, file.parent)
    cfg = {"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32, "n_key_value_heads": 2}
    file.write_text(json.dumps({"cfg": cfg, "nodes": {}, "edges": {}}))
    return file


def write_graph(scores: Any, in_graph: Any) -> None:
    """To a file that may be whatever it is: a path that is junk would be one beside the tests."""
    patchlib.write_graph(scores, graph_file().with_name("written.json"), in_graph)


def drawn() -> dict[str, Public]:
    """Figures and the sentences under them."""
    plots, takeaways = patchlib.plots, patchlib.plots.takeaways
    swept = {"result": result(), "metric": "logit_diff", "title": "Title"}
    by_layer = patchlib.sweep(model(), pairs(), over=("layer",), progress=False)
    by_pos = patchlib.sweep(model(), pairs(), over=("layer", "pos"), progress=False)
    knocked = patchlib.knock_out(ablation(), {"two heads": HEADS})
    backup = patchlib.backup_heads(ablation(), HEADS)
    complete = patchlib.completeness(ablation(), circuit(), n_random=1, n_greedy=1)
    minimal = patchlib.minimality(ablation(), circuit())
    score = patchlib.detector_scores(model(), n_rows=1, seq_len=5).induction
    attributed = {
        "attribution": patchlib.direct_logit_attribution(model(), pairs()),
        "attention": patchlib.attention_between(model(), pairs(), "END"),
    }
    patterns = patchlib.attention_patterns(model(), "Mary and John", HEADS)
    two = {"x": score, "y": score, "x_title": "x", "y_title": "y", "top_k": 2}
    lines = {"results": {"attention": by_layer}, "metric": "logit_diff"}
    titled = {"title": "Title"}
    by_token = patchlib.sweep(model(), pairs(), over=("layer", "pos"), progress=False)
    by_token = by_token.assign({name: result()[name] for name in ("clean", "corrupted")})
    grown = patchlib.grow_set(model(), alike(), HEADS, n_steps=1, progress=False)
    both = {"traced": traced(), "swept": by_token, "metric": "logit_diff"}
    figures = {
        "corruptions": (plots.corruptions, {**both, **titled}),
        "plots.interactions": (plots.interactions, {"pairs": together(), **titled}),
        "transplant_map": (plots.transplant_map, {"result": transplanted(), **titled}),
        "of_corruptions": (takeaways.of_corruptions, both),
        "of_severed": (takeaways.of_severed, {"traced": traced(), "severed": traced("mlp"), "metric": "logit_diff"}),
        "of_interactions": (takeaways.of_interactions, {"pairs": together()}),
        "of_growth": (takeaways.of_growth, {"table": grown}),
        "of_transplant": (takeaways.of_transplant, {"result": transplanted()}),
        "of_subspaces": (takeaways.of_subspaces, {"result": projected(), "metric": "logit_diff"}),
        "knock_out_strip": (plots.knock_out_strip, {"table": knocked, **titled}),
        "backup_scatter": (plots.backup_scatter, {"table": backup, "top_k": 2, **titled}),
        "completeness_scatter": (plots.completeness_scatter, {"table": complete, **titled}),
        "minimality_bar": (plots.minimality_bar, {"table": minimal, **titled}),
        "writers": (plots.writers, {**attributed, "roles": ("END", "S2"), "top_k": 2, **titled}),
        "circuit_graph": (plots.circuit_graph, {"discovery": discovery(), **titled}),
        "plots.attention": (plots.attention, {"patterns": patterns, "columns": 2, **titled}),
        "loss_by_position": (plots.loss_by_position, {"losses": losses(), "copy": 7, **titled}),
        "measures_against": (plots.measures_against, {**two, **titled}),
        "score_map": (plots.score_map, {"score": score, "what": "score", **titled}),
        "contrast_plot": (plots.contrast_plot, {"results": result(), "metric": "logit_diff", **titled}),
        "head_heatmap": (plots.head_heatmap, swept),
        "heatmap_panels": (plots.heatmap_panels, {"results": {"z": result()}, "metric": "logit_diff", **titled}),
        "position_heatmap": (plots.position_heatmap, swept | {"result": by_pos}),
        "layer_lines": (plots.layer_lines, {**lines, **titled}),
        "top_bar": (plots.top_bar, swept | {"top_k": 2}),
        "estimate_against_exact": (
            plots.estimate_against_exact,
            {"estimates": {"gradient": estimate()}, "exact": None, "top_k": 2, **titled},
        ),
        "edge_graph": (
            plots.edge_graph,
            {"scores": edges(), "circuit": patchlib.edge_circuit(edges(), 30), "most": 20, **titled},
        ),
        "plots.faithfulness_curve": (plots.faithfulness_curve, {"curve": curve(), "most": 3.0, **titled}),
        "of_estimates": (takeaways.of_estimates, {"estimates": estimate(), "exact": None, "top_k": 3}),
        "of_gap": (takeaways.of_gap, {"estimate": integrated()}),
        "of_model": (takeaways.of_model, {"model": model()}),
        "of_edges": (takeaways.of_edges, {"scores": edges(), "top_k": 2}),
        "of_curve": (takeaways.of_curve, {"curve": curve(), "least": 0.8}),
        "of_writers": (takeaways.of_writers, attributed),
        "of_inputs": (takeaways.of_inputs, {"discovery": discovery()}),
        "of_head_types": (takeaways.of_head_types, {"discovery": discovery()}),
        "of_backup": (takeaways.of_backup, {"table": backup}),
        "of_knock_out": (takeaways.of_knock_out, {"table": knocked}),
        "of_causes": (
            takeaways.of_causes,
            {"head_types": patchlib.head_types(model(), pairs(), discovery().steps, evidence=True)},
        ),
        "of_self_repair": (takeaways.of_self_repair, {"table": patchlib.self_repair(ablation(), HEADS)}),
        "of_protocols": (
            takeaways.of_protocols,
            {"table": patchlib.faithfulness_by_protocol({"mean": ablation()}, circuit(), n_random=1)},
        ),
        "of_faithfulness": (takeaways.of_faithfulness, {"result": patchlib.faithfulness(ablation(), circuit())}),
        "of_completeness": (takeaways.of_completeness, {"table": complete}),
        "of_minimality": (takeaways.of_minimality, {"table": minimal, "least": 0.01}),
        "of_attention": (takeaways.of_attention, {"patterns": patterns}),
        "of_scores": (takeaways.of_scores, {"score": score, "what": "scores", "top_k": 2, "least": 0.2}),
        "of_cells": (takeaways.of_cells, {"result": result(), "metric": "logit_diff"}),
        "of_directions": (
            takeaways.of_directions,
            {"denoised": result(), "noised": noised(), "metric": "logit_diff", "least": 0.8},
        ),
        "of_groups": (takeaways.of_groups, {"table": stats.effects_by_group(result(), list("abab")), "what": "letter"}),
        "of_null": (takeaways.of_null, {"table": stats.beside_null(result(), result()), "most": 2}),
        "of_replication": (takeaways.of_replication, {"table": stats.replicated(result(), result(), top_k=2)}),
        "of_contrast": (takeaways.of_contrast, {"results": {"made up": result()}}),
        "of_layers": (takeaways.of_layers, lines),
        "of_positions": (takeaways.of_positions, {"result": by_pos, "metric": "logit_diff"}),
    }
    return {name: Public(*entry) for name, entry in figures.items()}


@functools.cache
def public() -> dict[str, Public]:
    """By name; a method is called on an object that is right."""
    per_pair = [patchlib.PatchingResult("blocks.0.hook_mlp_out", 3.0, -1.0, 1.0, 0.5)]
    by_head = [patchlib.HeadPatchingResult(0, head, 0.5, 3.0, -1.0, 1.0) for head in range(4)]
    by_point = {"blocks.0.hook_mlp_out": per_pair}
    steps = [{"receivers": "logits", "layer": 1, "head_index": 2, "position": "END", "effect": 0.5}]
    draw = {"n_rows": 2, "seq_len": 5, "seed": 0}
    sweep = {"direction": "noise", "metric": "logit_diff", "layers": [0], "heads": [1], "positions": None,
             "source": "resample", "reference": None, "source_seed": 0, "engine": "auto", "batch_tokens": 2048,
             "checkpoint": None, "progress": False}  # fmt: skip
    task = {"model": model(), "task": pairs()}
    activation, heads = patchlib.ActivationPatcher(model()), patchlib.HeadPatcher(model())
    prompt = {"corrupted_prompt": "John gave a drink to", "clean_cache": cache()}
    tokens = {"clean_tokens": [[5, 6, 7]], "corrupted_tokens": [[5, 8, 7]], "answers": [[9, 10]], "roles": {"END": [2]},
              "name": "made up", "seed": 0, "compute_metric": None, "metadata": {"n": 3}, "groups": ("a",),
              "clusters": ("a",)}  # fmt: skip
    size = {"n_layers": 3, "n_heads": 4}
    interval = {"confidence": 0.9}
    sets = {"two heads": HEADS}
    knocked = patchlib.HeadSet(patchlib.everywhere(HEADS), keep=False)
    return drawn() | {
        "PromptPairs": Public(patchlib.PromptPairs, tokens),
        "halves": Public(patchlib.halves, task | {"seed": 0}),
        "null_pairs": Public(patchlib.null_pairs, task | {"seed": 0}),
        "stats.beside_null": Public(stats.beside_null, {"result": result(), "null": result(), "metric": "logit_diff"}),
        "stats.replicated": Public(
            stats.replicated,
            {"first": result(), "second": result(), "top_k": 2, "metric": "logit_diff", "confidence": 0.9},
        ),
        "PromptPairs.select": Public(pairs().select, {"indices": [0, 2]}),
        "PromptPairs.example_prompts": Public(pairs().example_prompts, {"model": model()}),
        "IOIDataset": Public(
            patchlib.IOIDataset,
            {"model": model(), "n_prompts": 2, "seed": 0, "templates": "mixed", "corruption": "abc"},
        ),
        "IOIDataset.to_pairs": Public(patchlib.IOIDataset(model(), n_prompts=2).to_pairs, {"model": model()}),
        "InductionDataset": Public(
            patchlib.InductionDataset,
            {
                "model": model(),
                "n_prompts": 2,
                "seed": 0,
                "seq_len": 6,
                "kind": "tokens",
                "gap": 0,
                "corruption": "token",
            },
        ),
        "repeated_tokens": Public(patchlib.repeated_tokens, {"model": model(), **draw}),
        "classify_ioi_head": Public(patchlib.classify_ioi_head, {"layer": 9, "head": 9}),
        "sweep": Public(patchlib.sweep, {**task, "site": "z", "over": ("layer", "head"), "neurons": None, **sweep}),
        "path_patch": Public(patchlib.path_patch, {**task, "receivers": "logits", "over": ("layer", "head"), **sweep}),
        "causal_trace": Public(
            patchlib.causal_trace,
            {
                **task,
                "span": "S2",
                "site": "resid_pre",
                "over": ("layer",),
                "noise": 3.0,
                "draws": 2,
                "seed": 0,
                "window": 2,
                "severed": "mlp",
                "layers": [0],
                "positions": None,
                **{name: sweep[name] for name in ("metric", "engine", "batch_tokens", "checkpoint", "progress")},
            },
        ),
        "patch_set": Public(
            patchlib.patch_set,
            {
                **task,
                "cells": HEADS,
                "site": "z",
                **{
                    name: value
                    for name, value in sweep.items()
                    if name not in ("layers", "heads", "positions", "checkpoint")
                },
            },
        ),
        "grow_set": Public(
            patchlib.grow_set,
            {
                "model": model(),
                "task": alike(),
                "candidates": HEADS,
                "site": "z",
                "direction": "noise",
                "metric": "logit_diff",
                "n_steps": 1,
                "held_out": None,
                "progress": False,
            },
        ),
        "interactions": Public(
            patchlib.interactions,
            {
                **task,
                "cells": HEADS,
                "site": "z",
                "direction": "noise",
                "metric": "prob",
                **interval,
                "progress": False,
            },
        ),
        "transplant": Public(
            patchlib.transplant,
            {
                "model": model(),
                "source": "Mary and John",
                "target": [5, 6, 7],
                "source_layer": [0, 1],
                "target_layer": 1,
                "source_position": "Mary",
                "target_position": -1,
                "site": "resid_pre",
                "answer": 9,
                "top_k": 2,
                "source_model": None,
                "batch_tokens": 512,
            },
        ),
        "patch_subspace": Public(
            patchlib.patch_subspace,
            {
                **task,
                "bases": {"two": torch.eye(32)[:, :2]},
                "layer": 1,
                "position": "END",
                "site": "resid_post",
                "direction": "noise",
                "metric": "prob",
                "controls": True,
                "seed": 0,
                "batch_tokens": 512,
            },
        ),
        "fit_basis": Public(
            patchlib.fit_basis,
            {
                **task,
                "layer": 1,
                "position": "END",
                "kind": "das",
                "rank": 2,
                "site": "attn_out",
                "direction": "noise",
                "epochs": 1,
                "lr": 0.01,
                "seed": 0,
                "batch_tokens": 512,
            },
        ),
        "stats.effect_difference": Public(
            stats.effect_difference, {"first": result(), "second": noised(), "metric": "logit_diff", **interval}
        ),
        "attribute": Public(
            patchlib.attribute,
            {
                **task,
                "site": "q",
                "over": ("layer", "head"),
                "method": "gradient",
                "steps": 2,
                "along": "inputs",
                "rule": "left",
                "fix_attention": True,
                "drop_layers": True,
                "check_top": 2,
                **{name: value for name, value in sweep.items() if name not in ("engine", "checkpoint", "executor")},
            },
        ),
        "EdgeAblation": Public(
            patchlib.EdgeAblation,
            {**task, "source": "resample", "reference": pairs(), "seed": 0, "metric": "prob", "batch_tokens": 512},
        ),
        "EdgeAblation.measure": Public(edge_ablation().measure, {"kept": [edge_ablation().graph.exists]}),
        "edge_circuit": Public(
            patchlib.edge_circuit,
            {"scores": edges(), "n_edges": 9, "choose": "greedy", "ranking": "signed", "of": "edges"},
        ),
        "faithfulness_curve": Public(
            patchlib.faithfulness_curve,
            {
                "ablation": edge_ablation(),
                "scores": edges(),
                "shares": [0.5],
                "nodes": True,
                "n_random": 1,
                "complement": True,
                "seed": 0,
            },
        ),
        "attribute_edges": Public(
            patchlib.attribute_edges,
            {
                **task,
                "method": "eap-ig-inputs",
                "over": ("pos",),
                "steps": 2,
                "rule": "left",
                "edges": [("embed", "MLP0"), ("L0H1", "logits")],
                **{
                    name: sweep[name]
                    for name in (
                        "direction",
                        "metric",
                        "source",
                        "reference",
                        "source_seed",
                        "batch_tokens",
                        "progress",
                    )
                },
            },
        ),
        "edge_table": Public(patchlib.edge_table, {"result": edges(), "top_k": 3, "metric": "logit_diff"}),
        "baseline": Public(patchlib.baseline, {**task, "metric": "prob", "batch_tokens": 512}),
        "inputs_of": Public(patchlib.inputs_of, {"model": model(), "heads": HEADS, "site": "k", "position": "END"}),
        "contrast": Public(patchlib.contrast, {"result": result()}),
        "stats.why_unusable": Public(stats.why_unusable, {"table": patchlib.contrast(result())}),
        "stats.effect": Public(stats.effect, {"result": result()}),
        "stats.effects_by_group": Public(
            stats.effects_by_group,
            {"result": result(), "labels": ["a", "b", "a", "b"], "metric": "logit_diff", "confidence": 0.9},
        ),
        "stats.one_metric": Public(stats.one_metric, {"result": result(), "metric": "logit_diff"}),
        "effect_interval": Public(patchlib.effect_interval, {"result": result(), "metric": "logit_diff", **interval}),
        "stats.mean_interval": Public(
            stats.mean_interval, {"values": np.ones((2, 3)), **interval, "clusters": ["a", "b", "b"]}
        ),
        "stats.ratio_interval": Public(
            stats.ratio_interval, {"above": np.ones(3), "below": np.ones(3), **interval, "clusters": ["a", "b", "b"]}
        ),
        "stats.p_values": Public(stats.p_values, {"result": result(), "metric": "logit_diff", "seed": 0}),
        "summary_table": Public(
            patchlib.summary_table,
            {"result": result(), "top_k": 3, "metric": "logit_diff", "confidence": 0.9, "seed": 0},
        ),
        "Ablation": Public(
            patchlib.Ablation,
            {**task, "source": "resample", "reference": pairs(), "seed": 0, "metric": "prob", "batch_tokens": 512},
        ),
        "Ablation.measure": Public(ablation().measure, {"sets": [knocked]}),
        "Ablation.losses": Public(ablation().losses, {"sets": [knocked]}),
        "Ablation.hooks": Public(ablation().hooks, {"sets": [knocked], "examples": [0, 1]}),
        "HeadSet": Public(patchlib.HeadSet, {"head_positions": {(0, 1): ["END"]}, "keep": True}),
        "Circuit": Public(patchlib.Circuit, {"head_types": {"first": HEADS}, "positions": {"first": "END"}}),
        "Circuit.head_positions": Public(circuit().head_positions, {"layer_heads": [(0, 1)]}),
        "Circuit.without": Public(circuit().without, {"layer_heads": [(0, 1)]}),
        "everywhere": Public(patchlib.everywhere, {"layer_heads": HEADS}),
        "beside_published": Public(patchlib.beside_published, {"model": model(), "circuit": circuit()}),
        "faithfulness": Public(patchlib.faithfulness, {"ablation": ablation(), "circuit": circuit()}),
        "completeness": Public(
            patchlib.completeness,
            {"ablation": ablation(), "circuit": circuit(), "n_random": 1, "n_greedy": 1, "seed": 0},
        ),
        "minimality": Public(patchlib.minimality, {"ablation": ablation(), "circuit": circuit(), "other_types": False}),
        "discover": Public(
            patchlib.discover,
            {
                **task,
                "depth": 1,
                "min_share": 0.5,
                "min_effect": 0.1,
                "min_input": 0.1,
                "max_inputs": 1,
                "max_heads": 1,
                "prefilter": "attribution",
                "progress": False,
                "engine": "auto",
                "batch_tokens": 512,
            },
        ),
        "stability": Public(
            patchlib.stability,
            {
                **task,
                "n_searches": 1,
                "n_prompts": 2,
                "hold_out": "wordings",
                "reference": None,
                "seed": 0,
                "depth": 1,
                "progress": False,
            },
        ),
        "head_types": Public(
            patchlib.head_types,
            {
                **task,
                "steps": pd.DataFrame(steps),
                "min_attention": 0.2,
                "min_copying": 0.5,
                "evidence": True,
                "min_change": 0.05,
            },
        ),
        "attention_effects": Public(
            patchlib.attention_effects,
            {
                **task,
                "senders": [(0, 1)],
                "receivers": HEADS,
                "dest": "END",
                "role": "END",
                "position": "END",
                "n_controls": 1,
                "seed": 0,
            },
        ),
        "self_repair": Public(patchlib.self_repair, {"ablation": ablation(), "layer_heads": HEADS}),
        "faithfulness_by_protocol": Public(
            patchlib.faithfulness_by_protocol,
            {"ablations": {"mean": ablation()}, "circuit": circuit(), "n_random": 1, "seed": 0},
        ),
        "detector_scores": Public(patchlib.detector_scores, {"model": model(), **draw}),
        "attention_patterns": Public(
            patchlib.attention_patterns, {"model": model(), "prompt": "Mary and John", "layer_heads": HEADS}
        ),
        "attention_between": Public(patchlib.attention_between, {**task, "dest": "END"}),
        "direct_logit_attribution": Public(patchlib.direct_logit_attribution, {**task, "hooks": None}),
        "copying_scores": Public(
            patchlib.copying_scores, {"model": model(), "tokens": [9, 10], "layer_heads": HEADS, "top_k": 5}
        ),
        "k_composition": Public(
            patchlib.k_composition, {"model": model(), "readers": [(1, 2)], "n_random": 2, "seed": 0}
        ),
        "read_graph": Public(patchlib.read_graph, {"path": graph_file(), "model": model()}),
        "write_graph": Public(
            write_graph, {"scores": patchlib.read_graph(graph_file()), "in_graph": [("embed", "k of L1KV0")]}
        ),
        "toys.induction": Public(patchlib.toys.induction, {"n_prompts": 2, "seed": 0}),
        "toys.or_gate": Public(patchlib.toys.or_gate, {"n_prompts": 2, "seed": 0}),
        "knock_out": Public(patchlib.knock_out, {"ablation": ablation(), "sets": sets}),
        "ablated_losses": Public(patchlib.ablated_losses, {"ablation": ablation(), "sets": sets, "copy": 4}),
        "random_like": Public(
            patchlib.random_like,
            {"model": model(), "layer_heads": HEADS, "n_sets": 2, "seed": 0, "exclude": [(0, 0)]},
        ),
        "backup_heads": Public(patchlib.backup_heads, {"ablation": ablation(), "layer_heads": HEADS}),
        "token_losses": Public(patchlib.token_losses, task),
        "copy_losses": Public(patchlib.copy_losses, {"losses": losses(), "copy": 7}),
        "loss_change": Public(patchlib.loss_change, {"losses": losses(), "early": 2, "late": 9}),
        "ActivationPatcher": Public(patchlib.ActivationPatcher, {"model": model()}),
        "cache_activations": Public(activation.cache_activations, {"prompt": "Mary gave a drink to"}),
        "patch_activation": Public(
            activation.patch_activation, {**prompt, "hook_point": "blocks.0.hook_attn_out", "position": 2}
        ),
        "run_patching_experiment": Public(
            activation.run_patching_experiment,
            {"dataset": pairs(), "hook_points": ["blocks.0.hook_attn_out"], "pair_indices": [0, 1], "position": 5},
        ),
        "get_all_hook_points": Public(activation.get_all_hook_points, {"pattern": "hook_z"}),
        "patch_head_output": Public(heads.patch_head_output, {**prompt, "layer": 1, "head": 2, "position": 2}),
        "patch_attention_pattern": Public(heads.patch_attention_pattern, {**prompt, "layer": 1, "head": 2}),
        "run_all_heads_experiment": Public(
            heads.run_all_heads_experiment,
            {"dataset": pairs(), "pair_indices": [0, 1], "position": 5, "patch_type": "output"},
        ),
        "results_to_heatmap": Public(heads.results_to_heatmap, {"results": by_head}),
        "find_important_heads": Public(heads.find_important_heads, {"results": by_head, "threshold": 0.1}),
        "create_head_heatmap": Public(
            patchlib.create_head_heatmap, {"results": by_head, **size, "title": "Heads", "save_path": None}
        ),
        "create_layer_comparison": Public(
            patchlib.create_layer_comparison, {"results": by_point, "title": "Layers", "save_path": None}
        ),
        "create_top_heads_bar": Public(
            patchlib.create_top_heads_bar, {"results": by_head, "top_k": 2, "title": "Top", "save_path": None}
        ),
        "create_metric_scatter": Public(
            patchlib.create_metric_scatter, {"results": by_head, "title": "Metric", "save_path": None}
        ),
        "summarize_results": Public(patchlib.summarize_results, {"results": by_point, "top_k": 2}),
        "create_patching_heatmap": Public(patchlib.create_patching_heatmap, {"results": by_point, "model": model()}),
        "print_head_results": Public(patchlib.print_head_results, {"results": by_head, "top_k": 2}),
        "print_heatmap_ascii": Public(patchlib.print_heatmap_ascii, {"heatmap": torch.zeros(3, 4), **size}),
        "result_explorer": Public(patchlib.widgets.result_explorer, {"results": {"noising": result()}}),
        "head_explorer": Public(patchlib.widgets.head_explorer, {**task, "result": result(), "head_types": None}),
        "attention_view": Public(
            patchlib.widgets.attention_view, {"model": model(), "prompts": ["Mary and John"], "layer_heads": HEADS}
        ),
        "toys.auroc": Public(patchlib.toys.auroc, {"scores": toy_edges(), "toy": toy()}),
        "agreement": Public(patchlib.agreement, {"estimates": estimate(), "exact": None, "top_k": 3}),
        "estimate_explorer": Public(
            patchlib.widgets.estimate_explorer, {"estimates": {"gradient": {1: estimate()}}, "exact": result()}
        ),
        "edge_explorer": Public(
            patchlib.widgets.edge_explorer, {"scores": {"eap": edges()}, "curves": {"eap": curve()}}
        ),
        "circuit_builder": Public(patchlib.widgets.circuit_builder, {"ablation": ablation(), "circuit": circuit()}),
        "prompt_playground": Public(
            patchlib.widgets.prompt_playground, {"model": model(), "example": {"right": "Mary", "wrong": "John"}}
        ),
    }
