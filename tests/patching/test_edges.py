"""Edges against Hugging Face's own modules: gradients by autograd and patches by PyTorch's hooks, whole forwards."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
from transformers import AutoModelForCausalLM, GPT2Config

import patchlib
from patchlib import edge_table
from patchlib.errors import SweepError
from patchlib.models.load import load_model
from tests.architectures.models import architecture
from tests.helpers import contrast_pairs, make_pairs, mixed_pairs
from tests.tiny import load_tiny, tiny_path, tiny_tokenizer

ATOL = 1e-4
KINDS = ["gpt2", "llama", "neox"]
attribute_edges = functools.partial(patchlib.attribute_edges, progress=False)
pytestmark = pytest.mark.filterwarnings("ignore::patchlib.EngineWarning")


@dataclass
class Hand:
    """A model of Hugging Face with its parts by name; the same functions for three architectures."""

    kind: str

    def __post_init__(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(tiny_path(self.kind), attn_implementation="eager").eval()
        match self.kind:
            case "gpt2":
                self.layers, self.norm = self.model.transformer.h, self.model.transformer.ln_f
                names = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2")
            case "llama":
                self.layers, self.norm = self.model.model.layers, self.model.model.norm
                names = ("input_layernorm", None, "self_attn.o_proj", "post_attention_layernorm")
            case "neox":
                self.layers, self.norm = self.model.gpt_neox.layers, self.model.gpt_neox.final_layer_norm
                names = ("input_layernorm", "attention.query_key_value", "attention.dense", "post_attention_layernorm")
        self.norm1, self.qkv, self.out, self.norm2 = names
        self.n_heads = self.model.config.num_attention_heads
        self.n_kv_heads = getattr(self.model.config, "num_key_value_heads", None) or self.n_heads
        self.d_head = self.model.config.hidden_size // self.n_heads

    def part(self, layer: int, name: str) -> torch.nn.Module:
        return self.layers[layer].get_submodule(name)

    def writer(self, sender: str) -> tuple[torch.nn.Module, str]:
        """Where a sender is seen: a module, and its input or its output."""
        if sender == "embed":
            return self.layers[0], "in"
        layer = int(sender.removeprefix("MLP").removeprefix("L").split("H")[0])
        return (self.layers[layer].mlp, "out") if sender.startswith("MLP") else (self.part(layer, self.out), "in")

    def own(self, sender: str, value: torch.Tensor) -> torch.Tensor:
        """What of a value at ``writer`` is the sender's."""
        return value[..., self.slice(int(sender.split("H")[1]))] if "H" in sender else value

    def slice(self, head: int) -> slice:
        return slice(head * self.d_head, (head + 1) * self.d_head)

    def written(self, sender: str, value: torch.Tensor) -> torch.Tensor:
        if "H" not in sender:
            return value
        weight = self.writer(sender)[0].weight
        weight = weight if self.kind == "gpt2" else weight.T  # GPT-2 keeps its matrices the other way around
        return self.own(sender, value) @ weight[self.slice(int(sender.split("H")[1]))]

    def projection(self, layer: int, site: str, head: int) -> tuple[torch.nn.Module, slice]:
        """What makes q, k or v, and where in its output a head's are."""
        match self.kind:
            case "gpt2":
                first = "qkv".index(site) * self.n_heads * self.d_head
                return self.part(layer, self.qkv), slice(first + head * self.d_head, first + (head + 1) * self.d_head)
            case "llama":
                return self.part(layer, f"self_attn.{site}_proj"), self.slice(head)
            case _:
                first = (3 * head + "qkv".index(site)) * self.d_head
                return self.part(layer, self.qkv), slice(first, first + self.d_head)

    def run(self, tokens: torch.Tensor, change=None, keep=()) -> tuple[torch.Tensor, dict]:
        """Logits and what modules were given or gave; ``change`` is (module, side, function)."""
        kept = {}

        def look(key, value, function=None):
            value = value if function is None else function(value)
            kept[key] = value
            return value

        with ExitStack() as stack:
            for (module, side), function in [
                *((key, None) for key in keep),
                *([(change[:2], change[2])] if change else []),
            ]:
                key = (module, side)
                if side == "in":

                    def before(_, args, key=key, function=function):
                        return (look(key, args[0], function), *args[1:])

                    stack.enter_context(module.register_forward_pre_hook(before))
                else:

                    def after(_, args, output, key=key, function=function):
                        return look(key, output, function)

                    stack.enter_context(module.register_forward_hook(after))
            return self.model(tokens, use_cache=False).logits, kept

    def senders(self) -> list[str]:
        layers = range(len(self.layers))
        return ["embed", *(s for i in layers for s in (*(f"L{i}H{h}" for h in range(self.n_heads)), f"MLP{i}"))]

    def receivers(self) -> list[str]:
        of_heads = [("q", "H", self.n_heads), ("k", "KV", self.n_kv_heads), ("v", "KV", self.n_kv_heads)]
        layers = range(len(self.layers))
        names = [[*(f"{s} of L{i}{mark}{h}" for s, mark, n in of_heads for h in range(n)), f"MLP{i}"] for i in layers]
        return [*(name for of_layer in names for name in of_layer), "logits"]

    def n_read(self, receiver: str) -> int:
        """How many of the senders have written already."""
        if receiver == "logits":
            return len(self.senders())
        layer = int(receiver.split("L")[-1].split("H")[0].split("K")[0].removeprefix("P"))
        return 1 + layer * (self.n_heads + 1) + self.n_heads * (receiver[0] == "M" and self.kind != "neox")


@functools.cache
def hand(kind: str) -> Hand:
    return Hand(kind)


def base_and_other(pairs, direction):
    both = pairs.corrupted_batch(), pairs.clean_batch()
    return both if direction == "denoise" else both[::-1]


def logit_diff(logits, pairs):
    rows = torch.arange(len(pairs))
    return logits[rows, -1, pairs.answers[:, 0]] - logits[rows, -1, pairs.answers[:, 1]]


def node_scores(kind, pairs, direction, shares=(0.0,), held=None):
    """Each sender's difference times the mean of dL/d(what it gives), with something held between the two runs."""
    model = hand(kind)
    base, other = base_and_other(pairs, direction)
    names = model.senders()
    seen = [model.run(tokens, keep=[model.writer(name) for name in names])[1] for tokens in (base, other)]
    scores = {name: 0.0 for name in names}
    for share in shares:
        change = None
        if held is not None:
            key = model.writer(held)
            start, end = (side[key].detach() for side in seen)
            between = (start + share * (end - start)).requires_grad_()
            change = (*key, lambda value, between=between: between)
        keep = [model.writer(name) for name in names if change is None or model.writer(name) != change[:2]]
        logits, kept = model.run(base, change, keep)
        keys = list(kept)
        gradients = torch.autograd.grad(logit_diff(logits, pairs).sum(), [kept[k] for k in keys], allow_unused=True)
        for name in names:
            gradient = dict(zip(keys, gradients, strict=True))[model.writer(name)]
            if gradient is not None:
                difference = model.own(name, seen[1][model.writer(name)] - seen[0][model.writer(name)])
                product = (difference * model.own(name, gradient)).sum((1, 2)).detach()
                scores[name] = scores[name] + product / len(shares)
    return scores


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("kind", KINDS)
def test_outgoing_edges_sum_to_the_gradient_score_of_their_node(kind, direction):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    result = attribute_edges(model, pairs, direction=direction)
    assert result.sender.values.tolist() == hand(kind).senders()
    assert result.receiver.values.tolist() == hand(kind).receivers()
    sums = result.score.sel(metric="logit_diff").sum("receiver")
    for name, score in node_scores(kind, pairs, direction).items():
        np.testing.assert_allclose(sums.sel(sender=name), score, atol=ATOL)


@pytest.mark.parametrize("rule", ["left", "midpoint", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_integrated_along_the_inputs_they_do_too(kind, rule):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    sums = attribute_edges(model, pairs, "eap-ig-inputs", steps=3, rule=rule).score.isel(metric=0).sum("receiver")
    shares = {"left": (0, 1 / 3, 2 / 3), "midpoint": (1 / 6, 1 / 2, 5 / 6), "right": (1 / 3, 2 / 3, 1)}[rule]
    for name, score in node_scores(kind, pairs, "denoise", shares, "embed").items():
        np.testing.assert_allclose(sums.sel(sender=name), score, atol=ATOL)


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_along_activations_the_sender_is_held_with_its_layer(kind):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    result = attribute_edges(model, pairs, "eap-ig-activations", direction="noise", steps=2)
    sums = result.score.isel(metric=0).sum("receiver")
    for name in hand(kind).senders():
        score = node_scores(kind, pairs, "noise", (1 / 4, 3 / 4), name)[name]
        np.testing.assert_allclose(sums.sel(sender=name), score, atol=ATOL)


@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs", "eap-ig-activations"])
def test_where_gradients_are_turned_off_scores_are_the_same(method):
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    expected = patchlib.attribute_edges(model, pairs, method, steps=2, progress=False)
    with torch.no_grad():
        result = patchlib.attribute_edges(model, pairs, method, steps=2, progress=False)
    np.testing.assert_allclose(result.score, expected.score, atol=1e-5)


def test_the_progress_of_exact_edges_counts_edges_alone():
    model, seen = load_tiny("gpt2"), []
    edges = [("embed", "MLP0"), ("L0H1", "logits")]
    how = {"edges": edges, "progress": lambda done, total: seen.append((done, total))}
    patchlib.attribute_edges(model, contrast_pairs(model, n=3), "exact", **how)
    assert seen[-1] == (6, 6) and {total for _, total in seen} == {6}


@pytest.mark.parametrize("kind", KINDS)
def test_exact_is_the_patch_of_one_edge(kind):
    model, by_hand = load_tiny(kind), hand(kind)
    pairs = make_pairs(model)
    result = attribute_edges(model, pairs, "exact")
    base, other = base_and_other(pairs, "denoise")
    senders, layers = by_hand.senders(), by_hand.layers
    streams = [(layer, "in") for layer in layers] + [(by_hand.part(i, by_hand.norm2), "in") for i in range(len(layers))]
    keep = [*map(by_hand.writer, senders), *streams, (by_hand.norm, "in")]
    with torch.no_grad():
        (logits, seen), (_, seen_other) = by_hand.run(base, keep=keep), by_hand.run(other, keep=keep)
        unpatched = logit_diff(logits, pairs)
        np.testing.assert_allclose(result.corrupted[0], unpatched, atol=ATOL)
        n_edges = 0
        for receiver in by_hand.receivers():
            scores = result.score.sel(metric="logit_diff", receiver=receiver)
            assert scores[by_hand.n_read(receiver) :].isnull().all()
            for sender in senders[: by_hand.n_read(receiver)]:
                key = by_hand.writer(sender)
                difference = by_hand.written(sender, seen_other[key] - seen[key])
                if receiver == "logits":
                    logits = by_hand.model.get_output_embeddings()(by_hand.norm(seen[by_hand.norm, "in"] + difference))
                elif receiver.startswith("MLP"):
                    layer = int(receiver[3:])
                    norm = by_hand.part(layer, by_hand.norm2)
                    made = layers[layer].mlp(norm(seen[norm, "in"] + difference))
                    logits, _ = by_hand.run(base, (layers[layer].mlp, "out", lambda value, made=made: made))
                else:
                    layer, head = map(int, receiver[6:].replace("KV", "H").split("H"))
                    module, columns = by_hand.projection(layer, receiver[0], head)
                    made = module(by_hand.part(layer, by_hand.norm1)(seen[layers[layer], "in"] + difference))

                    def patch(value, made=made, columns=columns):
                        value = value.clone()
                        value[..., columns] = made[..., columns]
                        return value

                    logits, _ = by_hand.run(base, (module, "out", patch))
                measured = logit_diff(logits, pairs) - unpatched
                np.testing.assert_allclose(scores.sel(sender=sender), measured, atol=ATOL)
                n_edges += 1
    assert n_edges == int(result.score.notnull().sum()) // len(pairs)


@pytest.mark.parametrize("kind", ["mistral", "qwen3", "phi", "falcon", "mixtral", "bloom", "opt"])
@pytest.mark.parametrize("method", ["eap", "exact"])
def test_positions_sum_to_the_whole_and_roles_are_positions(kind, method):
    """Of an exact edge that is so for the logits alone, through the last position."""
    model = load_tiny(kind)
    pairs = make_pairs(model)
    edges = None if method == "eap" else [("L0H1", "k of L1KV0"), ("MLP1", "logits"), ("embed", "MLP0")]
    whole, by_pos, by_role = (
        attribute_edges(model, pairs, method, over, edges=edges).score for over in ((), "pos", "role")
    )
    sums = by_pos.sum("pos", min_count=1)
    if method == "exact":
        whole, sums = (scores.sel(sender="MLP1", receiver="logits") for scores in (whole, sums))
    xr_close(whole, sums)
    for role, positions in pairs.roles.items():
        for i, pos in enumerate(positions.tolist()):
            xr_close(by_role.sel(role=role, example=i, drop=True), by_pos.sel(pos=pos, example=i, drop=True))


def xr_close(a, b, atol=ATOL):
    np.testing.assert_allclose(a.transpose(*b.dims).values, b.values, atol=atol)


@pytest.mark.parametrize("method", ["eap-ig-inputs", "eap-ig-activations"])
def test_one_left_step_is_plain_attribution(method):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    xr_close(attribute_edges(model, pairs, method, steps=1, rule="left").score, attribute_edges(model, pairs).score)


def test_one_right_step_is_the_other_direction_turned_around():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    ours = attribute_edges(model, pairs, "eap-ig-inputs", steps=1, rule="right").score
    xr_close(ours, -attribute_edges(model, pairs, direction="noise").score)


def test_the_embedding_s_integrated_edges_sum_to_the_contrast():
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model)
    result = attribute_edges(model, pairs, "eap-ig-inputs", steps=100)
    whole = result.clean - result.corrupted
    np.testing.assert_allclose(result.score.sel(sender="embed").sum("receiver"), whole, atol=0.01)


def test_transformerlens_gives_the_same_estimates():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    unfrozen = load_model(tiny_path("gpt2"), device="cpu")
    unfrozen.requires_grad_(True)  # theirs wants weights that are not frozen
    theirs = attribution_patch(
        unfrozen, pairs.clean_batch(), pairs.corrupted_batch(),
        lambda logits: logits[0, -1, 3] - logits[0, -1, 40], EdgeAttributionConfig("edge"),
    )  # fmt: skip
    answers = torch.tensor([[3, 40]] * len(pairs))
    ours = attribute_edges(model, replace(pairs, answers=answers), over=["pos"]).score.mean("example")[0]

    def name(node):
        match node.kind:
            case "attn_head_out":
                return f"L{node.layer}H{node.head}"
            case "q_input" | "k_input" | "v_input":
                return f"{node.kind[0]} of L{node.layer}{'H' if node.kind[0] == 'q' else 'KV'}{node.head}"
            case "mlp_in" | "mlp_out":
                return f"MLP{node.layer}"
            case kind:
                return kind

    assert len(theirs.edge_scores) == int(ours.notnull().sum())
    for (writer, reader), score in theirs.edge_scores.items():
        mine = ours.sel(sender=name(writer), receiver=name(reader)).values[writer.position]
        assert mine == pytest.approx(score, abs=1e-5)


@functools.cache
def linear_model(folder):
    """GPT-2 in which next to nothing bends: flat attention, linear MLPs, norms whose epsilon outweighs the stream."""
    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, n_embd=32, n_layer=3, n_head=4, n_positions=128,
        activation_function="linear", layer_norm_epsilon=1e8, initializer_range=0.25,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                parameter.fill_(1e4)
            if "c_attn" in name:
                parameter[..., :64] *= 0.003  # queries and keys
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def test_in_a_linear_model_every_estimate_is_exact(tmp_path):
    model = linear_model(tmp_path)
    pairs = contrast_pairs(model)
    exact = attribute_edges(model, pairs, "exact")
    size = float(abs(exact.score).max())
    for method in ("eap", "eap-ig-inputs", "eap-ig-activations"):
        estimate = attribute_edges(model, pairs, method, steps=2).score
        xr_close(estimate / size, exact.score / size, atol=1e-4)
    assert abs(exact.score.sel(sender="embed", receiver="MLP0")).max() > 0.01 * size


@pytest.mark.parametrize("method", ["eap", "eap-ig-activations", "exact"])
def test_prompts_do_not_mix_and_batches_change_nothing(method):
    model = load_tiny("llama")
    pairs = mixed_pairs(model)
    edges = [("embed", "q of L0H0"), ("L0H1", "MLP1"), ("MLP1", "v of L2KV1"), ("L2H1", "logits")]
    how = {"method": method, "over": ("pos",), "edges": edges, "metric": ["logit_diff", "prob", "kl"]}
    together = attribute_edges(model, pairs, **how)
    xr_close(together.score, attribute_edges(model, pairs, batch_tokens=8, **how).score)
    for i in range(len(pairs)):
        alone = attribute_edges(model, pairs.select([i]), **how)
        n_pos = len(pairs.clean_tokens[i])
        xr_close(together.score.isel(example=[i], pos=slice(n_pos)), alone.score)
        assert together.score.isel(example=i, pos=slice(n_pos, None)).isnull().all()
        assert together.clean.isel(example=i).values == pytest.approx(alone.clean.values[:, 0], abs=1e-5)


def test_own_metrics_and_several_positions_of_logits():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)

    def early(logits, pairs):
        return logits[:, 6, 3] - logits[:, -1, 40]

    @patchlib.at_last_position
    def late(logits, pairs):
        return logits.gather(1, pairs.answers[:, :1])[:, 0] - logits.gather(1, pairs.answers[:, 1:])[:, 0]

    edges = [("MLP2", "logits")]
    together, alone = (
        attribute_edges(model, pairs, metric=[early, "logit_diff"]),
        attribute_edges(model, pairs, metric=late),
    )
    xr_close(together.score.sel(metric="logit_diff"), alone.score.isel(metric=0))
    exact = attribute_edges(model, pairs, "exact", metric=early, edges=edges).score.sel(
        sender="MLP2", receiver="logits"
    )
    estimate = together.score.sel(metric="early", sender="MLP2", receiver="logits")
    assert np.corrcoef(exact.values.ravel(), estimate)[0, 1] > 0.9


@pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
def test_ablations_as_sources(source):
    """An edge to the logits from the last MLP is that MLP's whole effect."""
    model = load_tiny("llama")
    pairs = make_pairs(model, start=0)
    how = {"direction": "noise", "source": source}
    exact = attribute_edges(model, pairs, "exact", edges=[("MLP2", "logits")], **how)
    swept = patchlib.sweep(model, pairs, "mlp_out", ("layer",), layers=[2], progress=False, **how)
    xr_close(exact.score.sel(sender="MLP2", receiver="logits"), (swept.patched - swept.clean).sel(layer=2))
    assert attribute_edges(model, pairs, **how).attrs["source"] == source


def test_what_a_result_says_of_itself(tmp_path):
    model = load_tiny("llama")
    result = attribute_edges(model, make_pairs(model), "eap-ig-inputs", steps=3)
    sizes = {"n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "d_model": 32, "parallel": "False"}
    assert result.attrs | sizes | {"method": "eap-ig-inputs", "steps": 3, "rule": "midpoint"} == result.attrs
    assert result.score.dtype == np.float32 and result.score.dims == ("metric", "sender", "receiver", "example")
    assert result.attrs["direction"] == "denoise" and "site" not in result.attrs
    result.to_netcdf(tmp_path / "edges.nc")


def test_no_graph_stays_with_the_model():
    """TransformerLens keeps the last attention pattern, and with it all that a backward pass would need."""
    model = load_tiny("gpt2")
    attribute_edges(model, make_pairs(model))
    with pytest.raises(SweepError):
        attribute_edges(model, make_pairs(model), metric="accuracy")
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    assert not [value for value in held if value.grad_fn is not None]


def test_a_table_of_the_largest_edges():
    model = load_tiny("llama")
    result = attribute_edges(model, contrast_pairs(model), direction="noise", metric=["prob", "logit_diff"])
    table = edge_table(result, top_k=None, metric="logit_diff")
    n_edges = int(result.score.isel(metric=0, example=0).notnull().sum())
    assert len(table) == n_edges and table.score.abs().is_monotonic_decreasing
    first = table.iloc[0]
    score = float(result.score.sel(metric="logit_diff", sender=first.sender, receiver=first.receiver).mean())
    contrast = float((result.corrupted - result.clean).sel(metric="logit_diff").mean())
    assert (first.score, first.share) == pytest.approx((score, score / contrast))
    assert len(edge_table(result)) == 20
    assert "role" in edge_table(attribute_edges(model, contrast_pairs(model), over=("role",)), 3)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"metric": "accuracy"}, "'accuracy' has no gradient .* method='exact'"),
        ({"metric": lambda logits, pairs: logits[:, -1, 3].detach().numpy()}, "has no gradient"),
        ({"metric": lambda logits, pairs: logits[:, -1, 3].numpy()}, "fails with RuntimeError"),
        ({"steps": 0}, "steps must be a whole number of 1 or more, not 0"),
        ({"method": "EAP"}, "Unknown method 'EAP': choose 'eap', 'eap-ig-inputs', 'eap-ig-activations' or 'exact'"),
        ({"rule": "simpson"}, "Unknown rule 'simpson': choose 'left', 'midpoint' or 'right'"),
        ({"direction": "both"}, "Unknown direction 'both'"),
        ({"over": ("layer",)}, "Cannot attribute edges over 'layer': give none, or one of pos, role"),
        ({"over": ("pos", "role")}, "names more than one axis"),
        ({"edges": [("L0H9", "logits")]}, "There is no edge .*'L0H9'.*such as .'embed', 'q of L0H0'"),
        ({"edges": [("MLP1", "q of L1H0")]}, "q of L1H0 reads the stream before MLP1 writes to it"),
        ({"edges": []}, "must name at least one edge"),
        ({"edges": [("embed", "logits")] * 2}, "each once"),
        ({"edges": "embed"}, "There is no edge 'embed'"),
        ({"source": "none"}, "Unknown source"),
        ({"batch_tokens": 0}, "batch_tokens"),
    ],
)  # fmt: skip
def test_what_there_is_not(how, said):
    model = load_tiny("llama")
    with pytest.raises(SweepError, match=said):
        attribute_edges(model, make_pairs(model), **how)


def test_accuracy_can_be_patched():
    model = load_tiny("gpt2")
    result = attribute_edges(model, make_pairs(model), "exact", metric="accuracy", edges=[("embed", "MLP0")])
    assert set(result.score.sel(sender="embed", receiver="MLP0").values.ravel()) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("method", ["eap", "exact"])
@pytest.mark.parametrize("name", ["gemma2", "olmo2", "granite", "opt-post-norm", "jamba", "deepseek-v3"])
def test_a_stream_that_is_no_sum_is_refused(name, method):
    model = architecture(name)
    with pytest.raises(SweepError) as refused:
        attribute_edges(model, make_pairs(model), method)
    assert "\n" not in str(refused.value)


def test_quantised_weights_are_refused():
    quantization = pytest.importorskip("torchao.quantization")
    model = load_model(tiny_path("llama"), device="cpu")
    quantization.quantize_(model.original_model, quantization.Int8WeightOnlyConfig())
    with pytest.raises(SweepError, match="quantised weights"):
        attribute_edges(model, make_pairs(model))


def test_a_reader_that_is_none_of_the_receivers_is_refused():
    """A head that is left out, or MLPs of which it is believed that they read what attention does."""
    from patchlib.patching.attribution import edge_gradients, edge_graph

    model = load_tiny("gpt2")
    graph = edge_graph.edge_graph(model, patched=False)
    edge_gradients.check_readers(model, graph)
    for wrong in ({"n_heads": graph.n_heads - 1}, {"parallel": True}):
        with pytest.raises(SweepError, match="read by more than"):
            edge_gradients.check_readers(model, replace(graph, **wrong))
