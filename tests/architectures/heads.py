"""Every tool for heads on an architecture, against references on Hugging Face's modules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import patchlib
from patchlib.errors import PatchlibError
from tests.architectures import by_hand, edges
from tests.architectures.models import Hand
from tests.architectures.sites import Finding, gap, logit_diff

Tool = Callable[[TransformerBridge, Hand, patchlib.PromptPairs], float]


def head_layers(hand: Hand) -> list[int]:
    """Layers with attention; the last one where there is none, for the tools to refuse."""
    return [i for i, attention in enumerate(hand.attentions) if attention is not None] or [len(hand.layers) - 1]


def attribution(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """Each head's, and that with the rest they add up to the logit difference."""
    ours = patchlib.direct_logit_attribution(model, pairs)
    assert ours.layer.values.tolist() == head_layers(hand)
    parts, rest = by_hand.attributions(hand, pairs.clean_batch(), pairs.answers, int(model.cfg.n_heads))
    of_layers = torch.tensor(ours.values)
    whole = of_layers.sum((0, 1)) + rest
    expected = logit_diff(hand.logits(pairs.clean_batch()), pairs)
    return max(gap(of_layers, parts[head_layers(hand)]), gap(whole, expected))


def copying(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """The share of tokens among the first k, at several k."""
    ids = torch.arange(5, 35)
    rows = ids[:, None]
    if model.cfg.default_prepend_bos:
        rows = torch.cat([torch.full_like(rows, int(model.tokenizer.bos_token_id)), rows], dim=1)
    worst, n_heads = 0.0, int(model.cfg.n_heads)
    heads = [(head_layers(hand)[-1], 0), (head_layers(hand)[0], n_heads - 1)]
    patchlib.copying_scores(model, ids, heads)  # refused before the reference is asked
    for layer, head in heads:
        for name, sign in (("copying", 1), ("suppressing", -1)):
            logits = by_hand.copied(hand, rows, layer, head, n_heads, sign)
            ranks = (logits > logits.gather(1, ids[:, None])).sum(1).numpy()
            for k in np.quantile(ranks, [0.2, 0.5, 0.8]).astype(int) + 1:
                ours = patchlib.copying_scores(model, ids, [(layer, head)], top_k=int(k))[name]
                worst = max(worst, abs(float(ours.sel(layer=layer, head=head)) - float((ranks < k).mean())))
    return worst


def weights(model: TransformerBridge, hand: Hand, layer: int, name: str) -> Tensor:
    """q, k or v as a function of what attention is given, [head d_model d_head]: the hook's values of a basis."""
    site = patchlib.SITES[name]
    basis = torch.eye(int(model.cfg.d_model))[:, None]
    inputs = torch.cat([basis, torch.zeros_like(basis[:1])])
    kept = []

    hooks = [
        (f"blocks.{layer}.attn.hook_in", lambda value, hook: inputs),
        (site.hook_name(layer), lambda value, hook: kept.append(value.clone())),
    ]
    model.run_with_hooks(torch.zeros(len(inputs), 1, dtype=torch.long), fwd_hooks=hooks)
    given = kept[0][:, 0]  # [d_model+1 head d_head]
    return (given[:-1] - given[-1]).movedim(1, 0)


def composition(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """The formula with whole matrices: what enters and leaves attention, seen by giving it a basis."""
    reading, n_heads = head_layers(hand)[-1], int(model.cfg.n_heads)
    reader = n_heads - 1
    table = patchlib.k_composition(model, [(reading, reader)])
    run = by_hand.take_apart(hand, pairs.clean_batch())
    worst = 0.0

    def gain(i: int) -> Tensor:
        norm = norm_before(hand, pairs.clean_batch(), i)
        if norm is None:
            return torch.ones(run.before[i].shape[-1])
        factor = by_hand.frozen(norm, run.before[i][:1, -1]).factor[0]
        return factor

    q, k = (weights(model, hand, reading, name) for name in "qk")
    g = gain(reading)[:, None]
    attn = hand.attentions[reading]
    n_kv = len(k)
    q, k = g * q[reader], g * k[reader * n_kv // n_heads]
    for name, head in (("q", reader), ("k", reader * n_kv // n_heads)):
        spelled = (f"{name}_norm", f"{name}_layernorm", {"q": "query_layernorm", "k": "key_layernorm"}[name])
        norm = next((getattr(attn, word) for word in spelled if hasattr(attn, word)), None)
        gains = [] if norm is None else [weight.flatten() for weight in norm.parameters()]
        if gains:  # the head's own share of them; Gemma's are 1 less than what they multiply with
            rows = torch.cat(gains).view(-1, q.shape[1]) + type(norm).__name__.startswith("Gemma3")
            q, k = (q * rows[head % len(rows)], k) if name == "q" else (q, k * rows[head % len(rows)])
    for row in table.to_dict("records"):
        i, head = int(row["layer"]), int(row["head_index"])
        v = weights(model, hand, i, "v")
        v = gain(i)[:, None] * v[head * len(v) // n_heads]
        width = v.shape[1]
        rows = torch.zeros(width, width * n_heads)
        rows[:, head * width : (head + 1) * width] = torch.eye(width)
        projection = hand.projections[i]
        o = projection(rows[None])[0] - projection(torch.zeros_like(rows)[None])[0]
        norm, _ = run.behind[i]
        if norm is not None:
            o = o * by_hand.frozen(norm, run.attention[i][:1, -1]).factor[0]
        ov, qk = v @ o, q @ k.T
        score = (ov @ qk.T).norm() / ov.norm() / qk.norm()
        worst = max(worst, abs(float(score) - row["score"]) / float(score))
    return worst


def norm_before(hand: Hand, tokens: Tensor, i: int) -> torch.nn.Module | None:
    """The norm that gives attention its input; None where that is the stream itself."""
    norms = {name: part for name, part in hand.layers[i].named_modules() if "norm" in type(part).__name__.lower()}
    modules = {name: (part, "out") for name, part in norms.items()}
    seen = hand.seen_somehow(tokens, {**modules, 0: (hand.attentions[i], "in")})
    return next((norms[name] for name in norms if name in seen and torch.equal(seen[name], seen[0])), None)


def patterns(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """Of every head, as Hugging Face's eager attention gives it."""
    row, layers = pairs.clean_tokens[0], head_layers(hand)
    heads = [(layer, head) for layer in layers for head in range(int(model.cfg.n_heads))]
    ours = patchlib.attention_patterns(model, row, heads)
    theirs = [a for a in hand.model(row[None], output_attentions=True, use_cache=False).attentions if a is not None]
    theirs = [theirs[i] for i in (range(len(theirs)) if len(theirs) == len(layers) else layers)]
    return gap(torch.tensor(ours.values), torch.cat(theirs, dim=1)[0])


def between(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """``attention_between``, in its own layers."""
    ours = patchlib.attention_between(model, pairs, "END")
    heads = [(layer, head) for layer in head_layers(hand) for head in range(int(model.cfg.n_heads))]
    assert ours.layer.values.tolist() == head_layers(hand)
    worst = 0.0
    for example in range(len(pairs)):
        all_of = patchlib.attention_patterns(model, pairs.clean_tokens[example], heads).values
        for role, positions in pairs.roles.items():
            expected = all_of[:, int(pairs.roles["END"][example]), int(positions[example])]
            worst = max(worst, gap(ours.sel(role=role, example=example).values.reshape(-1), expected))
    return worst


def zeroed(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """Ablation with zeros, of a head in each of two layers."""
    n_heads, tokens = int(model.cfg.n_heads), pairs.clean_batch()
    heads = [(head_layers(hand)[0], 1), (head_layers(hand)[-1], n_heads - 1)]
    ablation = patchlib.Ablation(model, pairs, source="zero")
    ours = ablation.measure([patchlib.HeadSet(patchlib.everywhere(heads), keep=False)])[0]

    def without(entering: Tensor, head: int) -> Tensor:
        width = entering.shape[-1] // n_heads
        entering = entering.clone()
        entering[..., head * width : (head + 1) * width] = 0
        return entering

    hooks = [(hand.projections[i], lambda value, head=head: without(value, head), "in") for i, head in heads]
    return gap(torch.from_numpy(ours), logit_diff(hand.patched(tokens, *hooks), pairs))


def paths(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """``path_patch`` of each head to the logits: all other heads' outputs held, everything else anew."""
    n_heads, layers = int(model.cfg.n_heads), head_layers(hand)
    result = patchlib.path_patch(model, pairs, metric="logit_diff", progress=False)
    modules = {i: (hand.projections[i], "in") for i in layers}
    base, other = (hand.seen(tokens, modules) for tokens in (pairs.clean_batch(), pairs.corrupted_batch()))
    worst = 0.0
    for layer in layers:
        for head in range(n_heads):
            held = {i: base[i].clone() for i in layers if i >= layer}
            width = held[layer].shape[-1] // n_heads
            part = slice(head * width, (head + 1) * width)
            held[layer][..., part] = other[layer][..., part]
            hooks = [(hand.projections[i], lambda value, i=i, held=held: held[i], "in") for i in held]
            expected = logit_diff(hand.patched(pairs.clean_batch(), *hooks), pairs)
            ours = result.patched.isel(metric=0).sel(layer=layer, head=head).values
            worst = max(worst, gap(torch.from_numpy(ours), expected))
    return worst


TOOLS: dict[str, Tool] = {
    "direct_logit_attribution": attribution,
    "copying_scores": copying,
    "k_composition": composition,
    "attention_patterns": patterns,
    "attention_between": between,
    "Ablation": zeroed,
    "path_patch": paths,
    "attribute": edges.estimates,
    "attribute_edges": edges.edges,
    "EdgeAblation": edges.cut_edges,
}


def check_tool(name: str, model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> Finding:
    """What came of one tool."""
    try:
        with torch.no_grad():
            return Finding(name, gap=TOOLS[name](model, hand, pairs))
    except PatchlibError as error:
        return Finding(name, refusal=str(error))
    except by_hand.Unreadable as error:
        return Finding(name, failure=f"gave numbers, though {error}")
    except Exception as error:
        return Finding(name, failure=f"{type(error).__name__}: {' '.join(str(error).split())}")
