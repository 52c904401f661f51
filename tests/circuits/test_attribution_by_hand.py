"""What heads write and what of it enters other heads, against the sums written out; every gain and bias counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchlib
from patchlib import direct_logit_attribution, k_composition
from tests.helpers import ATOL, make_pairs
from tests.tiny import load_tiny, tiny_path


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi", "neox", "opt", "gemma", "gemma2"])
def test_heads_and_everything_else_add_up_to_the_logit_difference(kind):
    """The last stream less the heads' outputs goes through the same norm and unembedding, with all biases.

    Gemma 2 has a norm behind attention, which multiplies as it did, and caps its logits, as it did each of the two.
    """
    model = load_tiny(kind)
    pairs = make_pairs(model)
    attribution = direct_logit_attribution(model, pairs)
    norm = model.ln_final.original_component
    layer_norm = isinstance(norm, torch.nn.LayerNorm)
    gain = norm.weight + kind.startswith("gemma")
    for i, row in enumerate(pairs.clean_tokens):
        with torch.no_grad():
            logits, cache = model.run_with_cache(row[None])
            right, wrong = pairs.answers[i].tolist()
            stream = cache["blocks.2.hook_resid_post"][0, -1]
            centred = stream - stream.mean() if layer_norm else stream
            scale = (centred.pow(2).mean() + getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))).sqrt()

            caps = [float(logits[0, -1, t] / cache["unembed.hook_out"][0, -1, t]) for t in (right, wrong)]
            direction = caps[0] * model.W_U[:, right] - caps[1] * model.W_U[:, wrong]

            def towards_answer(written, layer_norm=layer_norm, scale=scale, direction=direction) -> float:
                written = written - written.mean() if layer_norm else written
                return float((written / scale * gain) @ direction)

            rest = stream.clone()
            for layer in range(3):
                for head in range(4):
                    written = cache["z", layer][0, -1, head] @ model.blocks[layer].attn.W_O[head]
                    if kind == "gemma2":
                        sublayer = cache[f"blocks.{layer}.attn.hook_out"][0, -1]
                        behind = model.blocks[layer].ln1_post.original_component
                        written = written * (behind.weight + 1) / (sublayer.pow(2).mean() + behind.eps).sqrt()
                    ours = float(attribution.sel(layer=layer, head=head, example=i))
                    assert ours == pytest.approx(towards_answer(written), abs=ATOL)
                    rest -= written
            biases = 0.0
            if layer_norm:
                biases += float(norm.bias @ (model.W_U[:, right] - model.W_U[:, wrong]))
            unembed_bias = getattr(model.unembed.original_component, "bias", None)
            if unembed_bias is not None:
                biases += float(unembed_bias[right] - unembed_bias[wrong])
        whole = float(logits[0, -1, right] - logits[0, -1, wrong])
        assert float(attribution.sel(example=i).sum()) + towards_answer(rest) + biases == pytest.approx(whole, abs=ATOL)


def test_k_composition_is_that_of_transformer_lens_folded_weights():
    """TransformerLens folds the norms' gains into the weights that read; without LayerNorms nothing is centred."""
    table = k_composition(load_tiny("llama"), [(1, 0), (2, 3)])
    folded = patchlib.load_model(tiny_path("llama"), device="cpu")
    folded.enable_compatibility_mode()
    n_groups = folded.blocks[0].attn.W_K.shape[0]
    for row in table.to_dict("records"):
        (reader_layer, reader), writer = map(int, row["reader"][1:].split("H")), int(row["head_index"])
        writing, reading = folded.blocks[row["layer"]].attn, folded.blocks[reader_layer].attn
        with torch.no_grad():
            ov = writing.W_V[writer * n_groups // 4] @ writing.W_O[writer]
            qk = reading.W_Q[reader] @ reading.W_K[reader * n_groups // 4].T
            score = torch.linalg.norm(ov @ qk.T) / torch.linalg.norm(ov) / torch.linalg.norm(qk)
        assert row["score"] == pytest.approx(float(score), rel=1e-3)


def test_copying_is_counted_among_the_first_k_and_by_sign():
    """Of a group's two heads each has values in common and an output of its own; k is exact at every rank."""
    model = load_tiny("llama")
    ids = torch.arange(5, 45)
    with torch.no_grad():
        rows = torch.cat(
            [torch.full((40, model.cfg.default_prepend_bos), model.tokenizer.bos_token_id), ids[:, None]], 1
        )
        stream = model.run_with_cache(rows)[1]["blocks.0.hook_resid_post"][:, -1]
        block = model.blocks[2]
        for head in (1, 2):
            written = block.ln1(stream[:, None])[:, 0] @ block.attn.W_V[head // 2] @ block.attn.W_O[head]
            for name, sign in (("copying", 1), ("suppressing", -1)):
                logits = model.unembed(model.ln_final(sign * written[:, None]))[:, 0].numpy()
                ranks = np.array([(row > row[token]).sum() for row, token in zip(logits, ids.tolist(), strict=True)])
                for k in (int(ranks.min()) + 1, int(np.median(ranks)), int(ranks.max()), int(ranks.max()) + 1):
                    scores = patchlib.copying_scores(model, ids, [(2, head)], top_k=k)
                    assert float(scores[name].sel(layer=2, head=head)) == pytest.approx((ranks < k).mean())
