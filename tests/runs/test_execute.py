"""Runs with real papermill on small notebooks: outputs, manifests, pages, and what is refused."""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from patchlib.errors import RunError
from patchlib.runs import run, save_run
from patchlib.runs.execute import notebooks
from patchlib.runs.execute.manifest import peak_memory
from patchlib.runs.execute.pages import write_page

PARAMETERS = """\
model_name: str = "tiny"  # a name
n_prompts: int = 4
scale = 1.5
out_dir: str = "out"
"""
RESULTS = """\
import os, sys
import numpy as np, pandas as pd, xarray as xr
from patchlib.runs import save_run
effects = xr.Dataset(
    {"effect": ("layer", np.arange(n_prompts, dtype="float32"))},
    coords={"label": ("layer", [f"L{i}" for i in range(n_prompts)])},
    attrs={"model": model_name, "weights_hash": "abc123", "seed": 3},
)
values = {"model_name": model_name, "n_prompts": n_prompts, "out_dir": out_dir}
print("kernel", sys.executable)
print("bars", os.environ["TQDM_DISABLE"])
"""
FIGURE = """\
import plotly.graph_objects as go
go.Figure(go.Scatter(y=[1, 2, 3]), layout={"title": "A line"}).show(renderer="plotly_mimetype")
"""

SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
BESIDE_IT = """\
![A square](diagrams/square.svg) and a [word](../docs/glossary.md#word), as on
[Colab](https://colab.research.google.com/github/SOME-ONE/course.1/blob/main/notebooks/01_good.ipynb).

<details>
<summary>Answer</summary>

It has **four** sides.

</details>
"""


def write_notebook(path: Path, title: str, *cells: str) -> Path:
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    head = new_markdown_cell(f"# {title}\n\nWhat **this** one\nshows.\n\nMore prose.")
    nb = new_notebook(cells=[head, parameters, *map(new_code_cell, cells)])
    nb.metadata.kernelspec = {"name": "nobody-has-this", "display_name": "x", "language": "python"}
    nbformat.write(nb, path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A good and a failing notebook, run where somebody's broken kernel is called python3."""
    home = tmp_path_factory.mktemp("home")
    spec = home / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "broken", "language": "python"}))
    good = write_notebook(
        home / "01_good.ipynb",
        "Good & tidy",
        RESULTS,
        FIGURE,
        FIGURE,
        "table = pd.DataFrame({'head': ['9.9'], 'effect': [0.5]})\n"
        "save_run(out_dir, '01_good', {'effects': effects, 'top': table}, values)",
    )
    nb = nbformat.read(good, as_version=4)
    nb.cells.append(new_markdown_cell(BESIDE_IT))
    nbformat.write(nb, good)
    (home / "diagrams").mkdir()
    (home / "diagrams" / "square.svg").write_text(SQUARE)
    bad = write_notebook(
        home / "02_bad.ipynb",
        "Bad",
        RESULTS,
        "save_run(out_dir, '02_bad', {'effects': effects}, values)",
        "raise ValueError('layer 99 <of 30>\\nsecond line')",
        "print('never reached')",
    )
    out = home / "out {braces}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(home / "jupyter"))
        patch.delenv("TQDM_DISABLE", raising=False)
        patch.setattr(notebooks, "notebook_folder", lambda: home)
        records = run([bad, good], {"n_prompts": "6"}, out, progress=False)
    return out, records


def test_a_failure_is_recorded_and_the_next_notebook_still_runs(finished):
    out, (bad, good) = finished
    assert (good.notebook, good.status, good.error) == ("01_good", "ok", None)
    assert (bad.notebook, bad.status, bad.error) == ("02_bad", "failed", "ValueError: layer 99 <of 30>")
    assert all(path.is_file() for r in (bad, good) for path in (r.executed, r.html, r.manifest, *r.results))
    partial = nbformat.read(bad.executed, as_version=4)
    text = json.dumps(partial)
    assert "kernel " in text and "second line" in text
    assert partial.cells[-1].execution_count is None
    manifest = json.loads(bad.manifest.read_text())
    assert manifest["status"] == "failed" and manifest["error"] == bad.error
    assert not list(out.glob(".*"))


def test_kernel_is_this_interpreter_without_progress_bars(finished):
    _, (_, good) = finished
    cells = nbformat.read(good.executed, as_version=4).cells
    printed = [o.text for cell in cells for o in cell.get("outputs", []) if o.output_type == "stream"]
    assert "".join(printed) == f"kernel {sys.executable}\nbars 1\n"


def test_results_come_back_and_the_manifest_describes_them(finished):
    out, (_, good) = finished
    effects = xr.load_dataset(out / "01_good.effects.nc", engine="h5netcdf")
    np.testing.assert_array_equal(effects.effect, np.arange(6, dtype="float32"))
    assert effects.effect.dtype == "float32" and effects.label.values[5] == "L5"
    assert effects.attrs == {"model": "tiny", "weights_hash": "abc123", "seed": 3}
    assert pd.read_csv(out / "01_good.top.csv").columns.tolist() == ["head", "effect"]

    manifest = json.loads(good.manifest.read_text())
    assert manifest["parameters"] == {"model_name": "tiny", "n_prompts": 6, "scale": 1.5, "out_dir": str(out)}
    assert manifest["models"] == [{"name": "tiny", "weights_hash": "abc123"}]
    assert {"torch", "transformer-lens", "transformers", "python", "platform"} < set(manifest["versions"])
    assert 0 < manifest["wall_time_s"] == good.wall_time_s
    assert 50 < manifest["peak_memory_mb"] < 4000
    for file in manifest["files"]:
        assert hashlib.sha256((out / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    assert re.fullmatch(
        r"patchlib run \S+/01_good.ipynb -p model_name tiny -p n_prompts 6 -p scale 1\.5", manifest["repeat"]
    )
    assert (manifest["title"], manifest["description"]) == ("Good & tidy", "What this one shows.")


def test_page_is_interactive_and_needs_no_network(finished):
    _, (_, good) = finished
    html = good.html.read_text("utf-8")
    page = BeautifulSoup(html, "html.parser")
    assert page.title.text == "Good & tidy"
    linked = [tag.get("src") or tag.get("href") for tag in page.select("script[src], link[href], img[src]")]
    assert not [address for address in linked if not address.startswith("data:")]
    assert html.count("plotly.js v") == 1 and len(page.select(".figure")) == 2
    assert [one["layout"]["title"]["text"] for one in json.loads(page.select_one("#figures").text)] == ["A line"] * 2
    assert "showSendToCloud: false" in html and 'media="(prefers-color-scheme: dark)"' in html


def test_diagrams_links_and_folded_answers_of_our_notebooks_are_there_where_they_were_run(finished):
    _, (_, good) = finished
    page = BeautifulSoup(good.html.read_text("utf-8"), "html.parser")
    assert base64.b64decode(page.select_one("img[alt='A square']")["src"].partition(";base64,")[2]).decode() == SQUARE
    assert (
        page.find("a", string="word")["href"] == "https://github.com/SOME-ONE/course.1/blob/main/docs/glossary.md#word"
    )
    answer = page.select_one("details")
    assert "open" not in answer.attrs and answer.select_one("summary").text == "Answer"
    assert answer.select_one("p strong").text == "four"
    assert "](data:image/svg+xml;base64," in nbformat.read(good.executed, as_version=4).cells[-1].source


def test_index_lists_every_run_with_working_links(finished):
    out, _ = finished
    page = BeautifulSoup((out / "index.html").read_text("utf-8"), "html.parser")
    assert [status.text for status in page.select(".status")] == ["ok", "failed"]
    assert page.select_one(".error").text == "ValueError: layer 99 <of 30>"
    links = {a["href"] for a in page.select("a[href]")}
    endings = ("html", "ipynb", "manifest.json", "effects.nc")
    assert {f"{stem}.{ending}" for stem in ("01_good", "02_bad") for ending in endings} <= links
    assert all((out / link).is_file() for link in links)
    assert not page.select("script[src], main script")


def test_page_replaces_live_controls_and_drops_progress_bars(tmp_path):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    cell = new_code_cell(
        "explore()",
        outputs=[
            new_output("display_data", view | {"text/plain": "VBox()"}),
            new_output("display_data", view | {"text/plain": "  0%|   | 0/3 [00:00<?, ?it/s]"}),
        ],
    )
    nbformat.write(new_notebook(cells=[cell], metadata={"widgets": {"x": {}}}), tmp_path / "live.ipynb")
    write_page(tmp_path / "live.ipynb", tmp_path / "live.html")
    html = (tmp_path / "live.html").read_text("utf-8")
    assert html.count("A live control") == 1
    assert not [text for text in ("VBox()", "%|", "unpkg.com") if text in html]


@pytest.fixture
def ours(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for stem in ("02_head_patching", "01_layer_patching"):
        write_notebook(folder / f"{stem}.ipynb", stem)
    monkeypatch.setattr(notebooks, "notebook_folder", lambda: folder)
    return folder


@pytest.mark.parametrize("name", ["02_head_patching", "02_head_patching.ipynb", "02", "2"])
def test_notebooks_are_found_by_name_and_number(ours, name):
    assert notebooks.find_notebooks([name, "02"]) == [ours / "02_head_patching.ipynb"]


def test_all_notebooks_in_order_by_default_and_any_by_path(ours, tmp_path):
    assert [p.name[:2] for p in notebooks.find_notebooks()] == ["01", "02"]
    mine = write_notebook(tmp_path / "mine.ipynb", "Mine")
    assert notebooks.find_notebooks([mine]) == [mine]


@pytest.mark.parametrize("name", ["03", "head", "missing/02_head_patching.ipynb", ""])
def test_unknown_notebook_lists_those_that_exist(ours, name):
    with pytest.raises(RunError, match="01_layer_patching, 02_head_patching"):
        notebooks.find_notebooks([name])


def test_two_notebooks_of_one_name_are_refused(ours, tmp_path):
    twin = write_notebook(tmp_path / "02_head_patching.ipynb", "Twin")
    with pytest.raises(RunError, match="two notebooks are called 02_head_patching"):
        notebooks.find_notebooks(["02", twin])


@pytest.mark.parametrize("text", ["not a notebook", "{}", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    path = tmp_path / "broken.ipynb"
    path.write_text(text)
    with pytest.raises(RunError, match=r"broken\.ipynb"):
        run([path], out_dir=tmp_path / "out")


def test_an_unknown_parameter_stops_everything_before_it_starts(ours, tmp_path):
    with pytest.raises(RunError, match=r"no parameter 'n_promts'; did you mean 'n_prompts'.*model_name") as caught:
        run(["01", "02"], {"n_promts": 3}, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_refused(ours, tmp_path):
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="cannot write to the output folder"):
            run(["01"], out_dir=place)
        with pytest.raises(RunError, match="cannot write to the output folder"):
            save_run(place, "01", {}, {})
    assert (tmp_path / "file").read_text() == "kept"


def test_a_notebook_is_never_overwritten_by_its_own_run(ours):
    before = (ours / "01_layer_patching.ipynb").read_bytes()
    with pytest.raises(RunError, match="choose another"):
        run(["01"], out_dir=ours)
    assert (ours / "01_layer_patching.ipynb").read_bytes() == before


def test_a_headline_is_kept_as_plain_numbers_and_what_is_none_is_refused(tmp_path):
    path = save_run(tmp_path, "01", {}, {}, headline={"heads": np.int64(3), "share": np.float32(0.5), "none": np.nan})
    assert json.loads(path.read_text())["headline"] == {"heads": 3.0, "share": 0.5, "none": None}
    for wrong in ("0.5", True, None):
        with pytest.raises(RunError, match="headline 'share' must be a number"):
            save_run(tmp_path, "01", {}, {}, headline={"share": wrong})


def test_a_result_that_cannot_be_saved_leaves_the_earlier_one(tmp_path):
    good = xr.Dataset({"effect": ("layer", [1.0, 2.0])})
    save_run(tmp_path, "nb", {"effects": good}, {})
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RunError, match="'effects' cannot be saved as netCDF"):
        save_run(tmp_path, "nb", {"effects": good.assign_attrs(layers={"a": 1})}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "nb.effects.nc", engine="h5netcdf"), good)


@pytest.mark.parametrize(
    ("results", "message"),
    [({"a/b": xr.Dataset()}, "file name"), ({"effects": np.zeros(3)}, "'effects' must be .* not ndarray")],
)
def test_results_of_another_kind_are_refused(tmp_path, results, message):
    with pytest.raises(RunError, match=message):
        save_run(tmp_path, "nb", results, {})


def test_peak_memory_counts_what_was_held():
    block = np.ones(40_000_000)
    assert peak_memory() > block.nbytes
