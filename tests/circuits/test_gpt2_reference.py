"""GPT-2 small against published numbers: TransformerLens' demo notebooks and Wang et al. 2022.

They run where the weights are: ``PATCHLIB_GPT2=folder`` (a Hugging Face folder), or ``gpt2`` in the hub's cache.
The arrays are in ``data/gpt2_small_ioi.json``, which names its sources.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import try_to_load_from_cache

import patchlib
from patchlib.tasks.ioi import IOI_HEADS
from tests.helpers import sweep

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "gpt2_small_ioi.json").read_text())
PAPER = REFERENCE["paper"]
MAPS = {name.split("[")[0]: np.array(values) for name, values in REFERENCE["denoising_normalised"].items()}


@pytest.fixture(scope="module")
def gpt2():
    folder = os.environ.get("PATCHLIB_GPT2")
    known = (try_to_load_from_cache(repo, "config.json") for repo in ("openai-community/gpt2", "gpt2"))
    if not folder and not any(isinstance(path, str) for path in known):
        pytest.skip("GPT-2's weights are not here: set PATCHLIB_GPT2 to a folder, or fetch gpt2 into the hub's cache")
    return patchlib.load_model(folder or "gpt2", device="cpu")


@pytest.fixture(scope="module")
def pairs(gpt2):
    rows = [gpt2.to_tokens(text)[0] for text in REFERENCE["prompts"]]
    answers = [[gpt2.to_single_token(answer) for answer in both] for both in REFERENCE["answers"]]
    neighbours = [rows[i ^ 1] for i in range(len(rows))]
    return patchlib.PromptPairs(tuple(rows), tuple(neighbours), torch.tensor(answers), name="the demo's prompts")


@pytest.fixture(scope="module")
def abc(gpt2):
    return patchlib.IOIDataset(gpt2, n_prompts=100, seed=0, corruption="abc")


def test_the_published_roles_are_the_paper_s():
    theirs = {name.replace("_", " "): {tuple(head) for head in heads} for name, heads in PAPER["heads"].items()}
    ours = {name.lower().replace("-", " "): set(heads) for name, heads in IOI_HEADS.items()}
    assert ours == theirs


def test_logit_differences(gpt2, pairs):
    runs = patchlib.baseline(gpt2, pairs)
    np.testing.assert_allclose(runs.clean.squeeze(), REFERENCE["logit_diff"]["per_prompt"], atol=0.01)
    assert float(runs.corrupted.mean()) == pytest.approx(REFERENCE["logit_diff"]["corrupted"], abs=0.01)


@pytest.mark.parametrize("site", list(MAPS))
def test_maps(gpt2, pairs, site):
    other_axis = "pos" if site in ("resid_pre", "attn_out", "mlp_out") else "head"
    result = sweep(gpt2, pairs, site, ("layer", other_axis))
    np.testing.assert_allclose(result.effect.squeeze("metric"), MAPS[site], atol=0.01)


def test_detector_scores(gpt2):
    """The demo's own random tokens are not published, so that the agreement is one of maps, not of numbers."""
    scores = patchlib.detector_scores(gpt2, n_rows=4, seq_len=100)
    for name in scores:
        theirs = np.array(REFERENCE["repeated_random_tokens"][f"{name}_score[layer][head]"])
        assert np.corrcoef(theirs.flatten(), scores[name].values.flatten())[0, 1] > 0.95


def test_who_writes_the_answer(gpt2, abc):
    direct = patchlib.path_patch(gpt2, abc, progress=False).effect.squeeze("metric")
    order = direct.values.flatten().argsort()
    found = [divmod(int(i), gpt2.cfg.n_heads) for i in order]
    assert set(found[-3:]) == {tuple(head) for head in PAPER["heads"]["name_mover"]}
    assert set(found[:2]) == {tuple(head) for head in PAPER["heads"]["negative_name_mover"]}


def test_where_heads_look_and_what_they_copy(gpt2, abc):
    attention = patchlib.attention_between(gpt2, abc, "END").mean("example")

    def looks(role_of_head: str, role: str) -> float:
        heads = PAPER["heads"][role_of_head]
        return float(np.mean([attention.sel(layer=layer, head=head, role=role) for layer, head in heads]))

    assert looks("name_mover", "IO") == pytest.approx(PAPER["name_mover_attention_to_io"], abs=0.15)
    assert looks("s_inhibition", "S2") == pytest.approx(PAPER["s_inhibition_attention_end_to_s2"], abs=0.15)
    names = abc.to_pairs(gpt2).answers.unique()
    copying = patchlib.copying_scores(gpt2, names).copying
    movers = [float(copying.sel(layer=layer, head=head)) for layer, head in PAPER["heads"]["name_mover"]]
    assert min(movers) > PAPER["copy_score_name_mover_min"] - 0.05
    assert float(copying.mean()) < PAPER["copy_score_average_max"] + 0.05


def test_the_published_circuit_is_faithful(gpt2, abc):
    """A band: the number depends on the prompts and on how means are taken."""
    circuit = patchlib.Circuit(PAPER["heads"], PAPER["kept_position"])
    found = patchlib.faithfulness(patchlib.Ablation(gpt2, abc), circuit)
    assert found.faithfulness == pytest.approx(PAPER["faithfulness"], abs=0.2), found.protocol
    assert found.floor < 0.5 * found.model
