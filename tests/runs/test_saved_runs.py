"""The longer runs that come with patchlib: found by the model's weights, whole, and true to their manifest."""

from __future__ import annotations

import hashlib
import json

import pandas as pd
import pytest

import patchlib
from patchlib.runs.execute import saved
from tests.tiny import load_tiny

NOTEBOOKS = sorted(path.name for path in saved.FOLDER.iterdir() if path.is_dir())


def test_a_run_is_found_by_the_weights_it_was_made_with(tmp_path, monkeypatch):
    model = load_tiny("gpt2")
    monkeypatch.setattr(saved, "FOLDER", tmp_path)
    assert patchlib.saved_run("05_new", model) is None
    table = pd.DataFrame({"role": ["name mover"], "effect": [0.5]})
    results = {"roles": table, "map": patchlib.baseline(model, patchlib.repeated_tokens(model, 2, 4))}
    patchlib.save_run(tmp_path / "05_new", "05_new", results, {"n_prompts": 32, "out_dir": "out"})
    found = patchlib.saved_run("05_new", model)
    assert found.command == "patchlib run 05_new -p n_prompts 32" and found.manifest["parameters"]["n_prompts"] == 32
    assert list(found.tables) == ["roles"] and found.tables["roles"].equals(table)
    assert patchlib.saved_run("05_new", load_tiny("llama")) is None


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_what_comes_with_patchlib_is_what_its_manifest_says(notebook):
    (path,) = (saved.FOLDER / notebook).glob("*.manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["status"] == "ok" and manifest["models"][0]["name"] == patchlib.DEFAULT_MODEL
    tables = [one for one in manifest["files"] if one["name"].endswith(".csv")]
    assert len(tables) > 5
    for one in tables:
        assert hashlib.sha256((path.parent / one["name"]).read_bytes()).hexdigest() == one["sha256"], one["name"]


@pytest.mark.real_model
@pytest.mark.slow
def test_the_saved_circuit_is_the_default_model_s():
    """The tested faithfulness comes out again from the saved heads, on fewer of the same prompts."""
    model = patchlib.load_model()
    run = patchlib.saved_run("03_ioi_circuit", model)
    types = run.tables["head_types"]
    heads = {at: list(zip(rows.layer, rows.head_index, strict=True)) for at, rows in types.groupby("position")}
    circuit = patchlib.Circuit(heads, {at: at for at in heads})
    settings = run.manifest["parameters"]
    how = {"templates": settings["templates"], "corruption": "abc"}
    unseen = patchlib.IOIDataset(model, n_prompts=24, seed=settings["seed"] + 1, **how)
    found = patchlib.faithfulness(patchlib.Ablation(model, unseen), circuit)
    assert found.n_heads == len(circuit.heads)
    kept = run.tables["faithful"].iloc[0]
    assert abs(found.faithfulness - kept.faithfulness) < 3 * (kept.ci_high - kept.ci_low)
    searches, again = run.tables["searches"], run.tables["found_heads"]
    assert len(searches) == 20 and (again.n_found == (again.frequency * 20).round()).all()
    assert again.frequency.max() > 0.9
