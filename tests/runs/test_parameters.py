"""Parameters before anything runs: what a cell declares, what is refused, and which of several values counts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from patchlib import RunError, read_grid
from patchlib.cli import main
from patchlib.runs import run
from patchlib.runs.execute.notebooks import find_notebooks
from patchlib.runs.execute.parameters import CommandText, RawText, declared_parameters, read_parameters

CELL = """\
%matplotlib inline
model_name: str = "tiny#1"  # a name
n_prompts: int = 4  # how many
seed: int = 0
device: str = ""
templates: str = "mixed"
layers: list[int] = [
    1,
    2,
]  # several lines
limit: int | None = None  # é, and a | that papermill's reader stumbles over
scale = 1.5
out_dir: str = "out"
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A notebook that writes its parameters to a file, in an environment without defaults."""
    for name in [name for name in os.environ if name.startswith("PATCHLIB_PARAM_")]:
        monkeypatch.delenv(name)
    return notebook_with(tmp_path, CELL)


def notebook_with(folder: Path, source: str, *cells: str) -> Path:
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell, *map(new_code_cell, cells)]), folder / "one.ipynb")
    return folder / "one.ipynb"


def test_the_cell_is_read_with_types_defaults_and_comments(notebook):
    found = declared_parameters(notebook)
    assert {name: (one.kind, one.default) for name, one in found.items()} == {
        "model_name": ("str", "tiny#1"), "n_prompts": ("int", 4), "seed": ("int", 0), "device": ("str", ""),
        "templates": ("str", "mixed"), "layers": ("list[int]", [1, 2]), "limit": ("int | None", None),
        "scale": ("", 1.5), "out_dir": ("str", "out"),
    }  # fmt: skip
    assert [found[name].comment for name in ("model_name", "n_prompts", "layers", "scale")] == [
        "a name", "how many", "several lines", "",
    ]  # fmt: skip
    assert found["limit"].comment.startswith("é, and a |")


def test_every_notebook_of_ours_declares_types_and_comments_and_passes_its_own_check():
    for path in find_notebooks():
        declared = declared_parameters(path)
        assert {"model_name", "n_prompts", "seed", "device", "out_dir"} <= set(declared)
        assert all(one.kind and one.comment for one in declared.values())
        defaults, _ = read_parameters(path, {})
        assert read_parameters(path, defaults)[1] == defaults


@pytest.mark.parametrize(
    ("source", "value", "expected"),
    [
        ("x: int = 1", "4", 4),
        ("x: int = 1", -2, -2),
        ("x: float = 1.0", "1e-3", 1e-3),
        ("x: float = 1.0", 2, 2),
        ("x: bool = False", "true", True),
        ("x: str = 'gpt2'", "2024", "2024"),
        ("x: str = 'gpt2'", "True", "True"),
        ("x: str | None = None", "None", None),
        ("x: str | None = None", "null", None),
        ("x: str = None", "None", None),
        ("x: str = 'a'", "None", "None"),
        ("x: list[int] = []", "[1, 2]", [1, 2]),
        ("x: int | None = None", "None", None),
        ("x: Optional[int] = 3", "4", 4),
        ("x: 'int' = 3", "4", 4),
        ("x: Literal['a', 'b'] = 'a'", "b", "b"),
        ("x = None", "4", 4),
        ("x: Any = None", "[1, true, null]", [1, True, None]),
        ("x: tuple[int, ...] = ()", "(1, 2)", [1, 2]),
        ("x: int = 1", np.int64(4), 4),
        ("x: str | None = None", RawText("None"), "None"),
        ("x = 1.5", RawText("1"), "1"),
        ("x: Site = make()", "anything", "anything"),
        ("x: np.float64 = 3", "4.5", 4.5),
    ],
)
def test_values_are_read_as_the_declared_type(tmp_path, source, value, expected):
    said = CommandText(value) if type(value) is str else value
    _, checked = read_parameters(notebook_with(tmp_path, source), {"x": said})
    assert checked == {"x": expected} and type(checked["x"]) is type(expected)


@pytest.mark.parametrize(
    ("source", "value", "expected"),
    [
        ("x = None", "4", "4"),
        ("x = 'a'", "4", "4"),
        ("x = 1.5", "4", 4),
        ("x: int = 1", "4", 4),
        ("x: str | None = None", "None", "None"),
    ],
)
def test_text_that_python_or_a_file_gives_stays_text_where_it_can_be_text(tmp_path, source, value, expected):
    assert read_parameters(notebook_with(tmp_path, source), {"x": value})[1] == {"x": expected}


@pytest.mark.parametrize(
    ("source", "value", "takes"),
    [
        ("x: int = 1", "four", "int"),
        ("x: int = 1", "2.5", "int"),
        ("x: int = 1", True, "int"),
        ("x: str = 'a'", 3, "str"),
        ("x: bool = True", 1, "bool"),
        ("x: list[int] = []", "[1, 'a']", r"list\[int\]"),
        ("x: int | None = 1", "a", r"int \| None"),
        ("x: Literal['a', 'b'] = 'a'", "c", r"Literal\['a', 'b'\]"),
    ],
)
def test_a_wrong_type_is_refused(tmp_path, source, value, takes):
    with pytest.raises(RunError, match=rf"parameter x of notebook one takes {takes}.*but was given"):
        read_parameters(notebook_with(tmp_path, source), {"x": value})


def test_a_value_that_is_no_literal_of_a_known_type_is_never_evaluated(tmp_path):
    marker = tmp_path / "evaluated"
    kind = f"list[__import__('pathlib').Path({str(marker)!r}).touch()]"
    _, checked = read_parameters(notebook_with(tmp_path, f"x: {kind} = None"), {"x": f"open({str(marker)!r}, 'w')"})
    assert checked["x"].startswith("open(") and not marker.exists()


def test_an_unknown_parameter_is_named_with_the_nearest_right_one(notebook):
    with pytest.raises(RunError, match=r"one has no parameter 'n_promts'; did you mean 'n_prompts'\? It takes: model_"):
        read_parameters(notebook, {"n_promts": 3})
    with pytest.raises(RunError, match=r"no parameter 'zzz'\. It takes"):
        read_parameters(notebook, {"zzz": 3})


def test_a_cell_that_is_no_python_is_named(tmp_path):
    with pytest.raises(RunError, match=r"the parameters of .*one\.ipynb cannot be read: .* was never closed"):
        declared_parameters(notebook_with(tmp_path, "x: int = ("))


def test_p_comes_before_f_before_the_environment_before_the_notebook(notebook, tmp_path, monkeypatch, capsys):
    dump = "import json, pathlib\nnames = ['model_name', 'n_prompts', 'seed', 'scale', 'templates']\n"
    dump += "pathlib.Path(out_dir, 'got.json').write_text(json.dumps({n: globals()[n] for n in names}))"
    notebook_with(tmp_path, CELL.replace("%matplotlib inline\n", ""), dump)
    (tmp_path / "p.yaml").write_text("model_name: file\nn_prompts: 6\nscale: 1e-3\n")
    for name, value in {"MODEL_NAME": "env", "SEED": "9", "N_PROMPTS": "8", "OF_ANOTHER": "1"}.items():
        monkeypatch.setenv(f"PATCHLIB_PARAM_{name}", value)
    out = tmp_path / "out"
    command = ["run", str(notebook), "-f", str(tmp_path / "p.yaml"), "-p", "model_name", "line", "-o", str(out)]
    assert main(command) == 0
    got = json.loads((out / "got.json").read_text())
    assert got == {"model_name": "line", "n_prompts": 6, "seed": 9, "scale": 1e-3, "templates": "mixed"}
    assert json.loads((out / "one.manifest.json").read_text())["parameters"]["seed"] == 9

    # The environment is the command line's: who calls the function has no need of hidden defaults.
    assert run([notebook], out_dir=out, progress=False)[0].status == "ok"
    assert json.loads((out / "got.json").read_text())["seed"] == 0

    monkeypatch.setenv("PATCHLIB_PARAM_SEED", "nine")
    assert main(command) == 2
    assert "takes int, but was given 'nine' (str) by the environment's PATCHLIB_PARAM_SEED" in capsys.readouterr().err


def test_a_grid_takes_the_environment_after_its_own_values(notebook, tmp_path):
    grid = tmp_path / "grid.yaml"
    plan = {"notebooks": [str(notebook)], "parameters": {"n_prompts": 2}, "grid": {"seed": [1]}}
    grid.write_text(yaml.safe_dump(plan))
    environment = {"n_prompts": "8", "seed": "9", "scale": "2.5", "out_dir": "elsewhere", "of_another": "1"}
    (planned,) = read_grid(grid, environment)
    assert planned.name == "one,seed=1"
    assert planned.parameters == {"scale": 2.5, "n_prompts": 2, "seed": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "the file of parameters .* cannot be read"), ("- 1", "holds no keys"), ("n_promts: 1", "did you mean")],
)
def test_a_file_that_holds_no_parameters_is_one_line_and_exit_code_2(notebook, tmp_path, capsys, text, said):
    (tmp_path / "p.yaml").write_text(text)
    assert main(["run", str(notebook), "-f", str(tmp_path / "p.yaml"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_parameters_are_listed_with_type_default_and_comment(notebook, monkeypatch, capsys):
    monkeypatch.setenv("PATCHLIB_PARAM_SEED", "3")
    assert main(["parameters", str(notebook)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one"
    assert [" ".join(line.split()) for line in lines[2:4]] == [
        "n_prompts: int = 4 how many",
        "seed: int = 0 [now '3', from PATCHLIB_PARAM_SEED]",
    ]
    assert main(["parameters", "no_such"]) == 2


COMMANDS = [[], ["run"], ["parameters"], ["grid"], ["verify"], ["models"], ["report"], ["lab"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "patchlib")
def test_help_answers_without_the_heavy_imports(command):
    source = f"""
import sys
from patchlib.cli import main
assert main({[*command, "--help"]}) == 0
heavy = {{"torch", "rich", "papermill", "nbformat", "pandas", "xarray", "transformers", "IPython"}} & set(sys.modules)
assert not heavy, heavy
"""
    finished = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("Usage: patchlib")


def test_help_of_the_module_answers_in_a_second_and_says_which_value_counts():
    before = os.times()
    finished = subprocess.run([sys.executable, "-m", "patchlib", "run", "--help"], capture_output=True, text=True)
    after = os.times()
    assert "-p, the file of -f, the environment's PATCHLIB_PARAM_NAME" in " ".join(finished.stdout.split())
    # The processor's time and not the clock's, which others on the machine stretch.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1
