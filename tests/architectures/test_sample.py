"""An architecture for each kind of fault that the whole table has; `python -m tests.architectures` asks of all."""

from __future__ import annotations

import pytest

from tests.architectures.findings import findings

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning", "ignore::patchlib.EngineWarning")
EDGES, CUT = "attribute_edges", "EdgeAblation"
ATTRIBUTION, COPYING, COMPOSITION = "direct_logit_attribution", "copying_scores", "k_composition"
SAMPLE = {
    "gpt2": {},  # biases of values and norms
    "phi": {},  # attention and MLP in parallel, behind one norm
    "gemma2": {EDGES: "is not the sum of", CUT: "is not the sum of"},  # a norm behind attention, and a softcap
    "granite": {EDGES: "is not the sum of", CUT: "is not the sum of"},  # multipliers of the stream and of the logits
    "olmo2": {"q denoise": "a norm over all heads follows q", "k denoise": "a norm over all heads follows k"},
    "deepseek-v3": {
        "z denoise": "in another layout",
        "k denoise": "in another layout",
        "path_patch": "in another layout",
        ATTRIBUTION: "in another layout",
    },
    "jamba": {"Ablation": "of its 4 layers only 1, 3 have", "path_patch": "of its 4 layers only 1, 3 have"},
    "gemma3-bidirectional": {
        EDGES: "is not the sum of",
        CUT: "is not the sum of",
    },  # a later token changes earlier positions
    "opt-post-norm": {ATTRIBUTION: "changed before the end", COPYING: "not the norm's output times W_V"},
    "t5": {"load": "is not supported"},
}
"""Name -> what is refused, and in which words; what is not named here must be right."""


@pytest.mark.parametrize("name", SAMPLE)
def test_every_number_is_right_or_refused_in_one_line(name):
    _, found = findings(name, sites=("resid_pre", "z", "k", "head_v"), directions=("denoise",))
    assert not [f"{finding.what}: {finding}" for finding in found if finding.wrong]
    refusals = {finding.what: finding.refusal for finding in found if finding.refusal}
    for what, words in SAMPLE[name].items():
        if what in {finding.what for finding in found}:
            assert words in refusals.pop(what)
    more = {
        "olmo2": {"k of one head", EDGES, CUT},
        "deepseek-v3": {"head_v denoise", "k of one head", COPYING, COMPOSITION, "Ablation", "attribute", EDGES, CUT},
        "jamba": {"head_v denoise", EDGES, CUT},
        "opt-post-norm": {"head_v denoise", COMPOSITION, EDGES, CUT},
    }
    assert set(refusals) == more.get(name, set())
