"""The rules find a false sentence, and let a true one be: on results made up here."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tests.seeds.saved import Saved
from tests.seeds.sentences import judged

EFFECT = np.array([[0.1, -0.2], [0.7, 0.05]])  # [layer head]


def sweep(effect: np.ndarray, dims: tuple[str, ...], direction: str = "denoise") -> xr.Dataset:
    """A result of two prompts, whose effects are a mean of theirs."""
    base, other = (-1.0, 3.0) if direction == "denoise" else (3.0, -1.0)
    patched = base + (other - base) * np.stack([effect - 0.1, effect + 0.1], -1)
    unpatched = {"clean": [[3.0, 3.0]], "corrupted": [[-1.0, -1.0]]}
    coords = {"role": ["S2", "END"]} if "role" in dims else {}
    return xr.Dataset(
        {"patched": (("metric", *dims, "example"), patched[None]),
         **{name: (("metric", "example"), values) for name, values in unpatched.items()}},
        {"metric": ["logit_diff"], "layer": np.arange(effect.shape[0]), **coords},
        {"direction": direction},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A notebook's files: a sweep over heads in both directions, one over roles, and two tables."""
    stream = sweep(np.array([[1.0, 0.0], [0.2, 0.6], [0.01, 0.9]]), ("layer", "role"))
    heads = sweep(EFFECT, ("layer", "head")).assign_coords(head=[0, 1])
    noised = sweep(EFFECT + np.array([[0, 0], [0.1, 0]]), ("layer", "head"), "noise").assign_coords(head=[0, 1])
    for name, result in {"heads": heads, "noised": noised, "stream": stream}.items():
        result.to_netcdf(tmp_path / f"nb.{name}.nc")
    knocked = {"metric_mean": [4.0, 1.5, 3.9, 4.3], "change": [0, -2.5, -0.1, 0.3],
               "ci_low": [0, -3.0, 0, 0], "ci_high": [0, -2.0, 0, 0]}  # fmt: skip
    index = pd.Index(["none", "the writers", "random 0", "random 1"], name="knocked_out")
    pd.DataFrame(knocked, index).to_csv(tmp_path / "nb.knocked.csv")
    types = {"layer": [1, 0], "head_index": [0, 1], "position": ["END", "S2"], "head_type": ["name mover", "unnamed"]}
    pd.DataFrame(types).to_csv(tmp_path / "nb.head_types.csv", index=False)
    return tmp_path


def verdicts(folder: Path, said: str) -> list[bool | None]:
    """What is found of a notebook that prints this, broken over two lines as `fill` does it."""
    half = said.index(" ", len(said) // 2)
    output = nbformat.v4.new_output("stream", text=said[:half] + "\n" + said[half + 1 :])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    nbformat.write(notebook, folder / "nb.ipynb")
    return list(judged(Saved(folder)).values())


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("Largest effect: L1H0 with 0.70 [0.50, 0.90], n = 2; 1 of 4 cells holds half of all positive effect.",
         {"L1H0": "L0H0", "0.70": "0.72", "1 of 4": "2 of 4", "0.50": "0.75"}),
        ("At layer 0 it all sits at S2 (1.00); END first holds more than half of it at layer 1, and from layer 2 on S2 "
         "holds less than a tenth.", {"at layer 1": "at layer 2", "1.00": "0.90", "layer 2 on": "layer 1 on"}),
        ("The two differ by 0.10 at most (L1H0: denoising 0.70, noising 0.80) and by 0.03 on average.",
         {"L1H0": "L0H0", "0.10": "0.12", "0.03": "0.05"}),
        ("heads: 3.00 clean, -1.00 corrupted, a contrast that we can divide by.", {"3.00": "3.02", "-1.00": "1.00"}),
        ("From 4.00: without the writers (L9H6) the logit difference changes by -2.50 [-3.00, -2.00]; 2 random sets of "
         "as many heads in the same layers change it by -0.10 to +0.30, mean +0.10. n = 8. No random set changes it as "
         "much as the writers.", {"-2.50": "-2.40", "-3.00": "-2.90", "+0.30": "+0.40", "No random": "1 random"}),
        ("2 heads: name mover L1H0 at END; 1 without a name.",
         {"2 heads": "3 heads", "L1H0": "L0H1", "name mover": "induction", "END": "S2", "1 without": "2 without"}),
    ],
)  # fmt: skip
def test_a_true_sentence_holds_and_each_false_one_is_found(folder, true, false):
    assert verdicts(folder, true) == [True]
    for said, instead in false.items():
        assert verdicts(folder, true.replace(said, instead)) == [False], instead


def test_the_other_sign_is_judged_with_the_largest(folder):
    said = "Largest effect: L1H0 with 0.70 [0.50, 0.90], n = 2; 1 of 4 cells holds half; {} pushes the other way, {}"
    for name, effect, holds in (("L0H1", "-0.20", True), ("L0H0", "-0.20", False), ("L1H1", "0.05", False)):
        assert verdicts(folder, said.format(name, effect)) == [True, holds]


def test_what_nothing_saved_can_tell_of_is_neither(folder):
    for path in folder.glob("nb.*"):
        path.unlink()
    assert verdicts(folder, "heads: 3.00 clean, -1.00 corrupted, a contrast that we can divide by.") == [None]
