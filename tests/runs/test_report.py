"""The page over all runs: what it says, that it holds all it shows, and that nothing in a result can run in it."""

import base64
import hashlib
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import xarray as xr
from bs4 import BeautifulSoup
from patchlib.runs.effects import read_effects

import patchlib
from patchlib.cli import main
from patchlib.errors import RunError
from patchlib.runs import report
from tests.runs.runs_folder import PNG, STEM, add_run, sweep_result

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


def page_of(folder: Path) -> BeautifulSoup:
    return BeautifulSoup(patchlib.write_report(folder).read_text("utf-8"), "html.parser")


def figures_of(page: BeautifulSoup) -> list[dict]:
    return json.loads(page.select_one("#figures").text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    for seed in range(3):
        add_run(out, f"seed={seed}", parameters={"seed": seed}, png=PNG if seed else None)
    big = sweep_result(0, "big", layers=4, heads=5)
    add_run(out, "model_name=big,seed=0", parameters={"model_name": "big"}, results={"output": big})
    add_run(out, "seed=3", "failed", parameters={"seed": 3, "model_name": EVIL}, error=f"ValueError: {EVIL}")
    add_run(out, "seed=4", "waiting", parameters={"seed": 4})
    return out


@pytest.fixture(scope="module")
def page(folder):
    return page_of(folder)


def test_the_table_has_every_run_with_its_numbers(page):
    heads = [cell.text for cell in page.select("#runs thead th")]
    assert heads == ["notebook", "status", "model_name", "seed", "score", "largest effect", "clean", "corrupted",
                     "time (s)", "memory (MB)"]  # fmt: skip
    rows = [[cell.get_text(" ", strip=True) for cell in row.select("th, td")] for row in page.select("#runs tbody tr")]
    assert [row[1].split()[0] for row in rows] == ["ok", "ok", "ok", "ok", "failed", "waiting"]
    assert rows[2][2:] == [
        "tiny", "1", "0.1", "L1H0: 0.81 of output", "3.50 logit_diff, n = 4", "-2.50 logit_diff, n = 4",
        "11.0", "1,201",
    ]  # fmt: skip
    assert EVIL in rows[4][1] and rows[4][2] == EVIL
    facts = dict(zip((t.text for t in page.select("dt")), (d.text for d in page.select("dd")), strict=True))
    assert facts["Runs"] == "4 ok, 1 failed, 1 waiting" and facts["Models"] == "big, tiny"
    assert "n_prompts = 4" in page.select_one(".note").text


def test_the_table_can_be_filtered_by_what_differs(page):
    lists = {one["data-column"]: [o["value"] for o in one.select("option")] for one in page.select("select")}
    assert list(lists) == ["status", "model_name", "seed"]
    assert lists["seed"] == ["", "=0", "=1", "=2", "=3", "=4"]
    assert lists["model_name"] == ["", "=big", "=tiny", f"={EVIL}"]


def test_links_go_to_files_that_are_there(page, folder):
    from urllib.parse import unquote

    links = [a["href"] for a in page.select("a[href]")]
    assert len(links) == 2 * 5
    assert all((folder / unquote(link)).is_file() for link in links)


def test_nothing_that_a_result_holds_becomes_markup(page, folder):
    html = (folder / "report.html").read_text("utf-8")
    assert html.count("alert(") and not page.select("[onerror]")
    assert len(page.select("script")) == 3  # the figures, plotly, our own
    data, *programs = page.select("script")
    assert data["type"] == "application/json" and "<" not in data.text
    policy = page.select_one("meta[http-equiv=Content-Security-Policy]")["content"]
    hashes = {base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode() for one in programs}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert policy.startswith("default-src 'none';") and "http" not in policy


def test_the_page_asks_nothing_of_the_network(page):
    addresses = [tag.get(key) for tag in page.select("*:not(a)") for key in ("src", "href", "srcset", "action")]
    assert not [address for address in addresses if address]
    styles = " ".join(style.text for style in page.select("style"))
    assert "@import" not in styles and "url(" not in styles


def test_figures_of_all_runs_stand_beside_one_another(page):
    galleries = page.select(".gallery")
    assert [len(one.select("li")) for one in galleries] == [5, 5, 2]
    captions = [one.text.replace("\u200b", "") for one in galleries[1].select("span")]
    assert captions[:2] == ["model_name=big, seed=0", "model_name=tiny, seed=0"]
    figures = figures_of(page)
    shown = [figures[int(button["data-figure"])] for button in page.select(".thumbs button")]
    titles = [one.select_one(".note").text for one in galleries]
    assert titles == ["Figure in cell 2", "Figure in cell 3", "Figure in cell 4"]  # each run's title is its own
    assert captions[-1] == f"model_name={EVIL}, seed=3, failed"
    assert [bool(one["plotly"]) for one in shown] == [True] * 10 + [False] * 2
    assert shown[0]["title"] == "Heads of big, model_name=big,seed=0: figure 0"
    assert shown[-1]["address"] == f"data:image/png;base64,{PNG}"


def comparisons(page) -> dict[str, str]:
    return {one.h3.text: one.p.text for one in page.select("article")}


def test_comparisons_follow_a_models_cells_over_seeds_and_the_depth_over_models(page):
    said = comparisons(page)
    assert list(said) == [
        "score", "output: models along their depth", "output: models, agreement along the depth",
        "output, tiny: the largest effects", "output, tiny: agreement of ranks",
    ]  # fmt: skip
    assert said["score"] == "Over 4 runs of 2 models: from 0.00 to 0.20."
    top = "The layer with the largest effect comes after 50% to 67% of a model's layers: L1H0 of big (0.80), "
    assert said["output: models along their depth"] == f"{top}L1H0 of tiny (0.81)."
    assert said["output, tiny: the largest effects"].startswith("Over 3 runs, L1H0 has the largest mean effect: 0.81,")
    ranks = said["output, tiny: agreement of ranks"]
    assert re.fullmatch(
        r"How alike two runs order the 6 cells: a Spearman .* the 2 largest, 2.0 are the same .*", ranks
    )
    assert said["output: models, agreement along the depth"].startswith("How alike two models order the 3 layers at")
    score, models, depth, top, ranks = (one["plotly"]["data"] for one in figures_of(page)[:5])
    assert [(line["name"], line["y"]) for line in score] == [("big", [0]), ("tiny", [0, 0.1, 0.2])]
    assert [line["name"] for line in models] == ["big", "tiny (3 runs)"]
    assert [len(line["x"]) for line in models] == [4, 3] and models[1]["y"][1] == pytest.approx(0.81)
    assert all(value >= 0 for line in models for value in line["y"])
    assert depth[0]["x"] == ["big", "tiny"] and depth[0]["z"][0][0] == 1
    assert [line["name"] for line in top][:2] == ["L1H0", "L2H1"]
    assert top[0]["x"] == ["0", "1", "2"] and top[0]["y"] == pytest.approx([0.8, 0.81, 0.82])
    assert [ranks[0]["z"][i][i] for i in range(3)] == [1, 1, 1]


def test_what_does_not_compare_is_never_put_together(tmp_path):
    """Opposite effects of two directions, two metrics, heads and their keys: each would cancel the other out."""
    for seed in (0, 1):
        sweep = sweep_result(seed)
        kinds = {"a": sweep, "b": sweep.assign(effect=-sweep.effect).assign_attrs(direction="noise"),
                 "c": sweep.assign_coords(metric=["kl"]), "d": sweep.rename(head="kv_head"),
                 "e": sweep.isel(head=0, drop=True)}  # fmt: skip
        for name, one in kinds.items():
            values = {"seed": seed, "kind": name}
            add_run(tmp_path, f"{name},seed={seed}", parameters=values, results={"output": one})
    said = comparisons(page_of(tmp_path))
    tops = [said[title] for title in said if title.endswith("the largest effects")]
    assert len(tops) == 4 and all(text.startswith("Over 2 runs, L1") for text in tops)
    assert "output, logit_diff, z, noise, layer, head, tiny: the largest effects" in said
    assert "output, kl, z, layer, head, tiny: the largest effects" in said


def test_only_cells_that_all_runs_have_are_compared(tmp_path):
    for seed in range(3):
        sweep = sweep_result(seed, layers=8)
        sweep = sweep.isel(layer=[1, 2, 7] if seed else [1, 2, 5])  # as by_role of notebook 02, by what it finds
        sweep.effect[0, 2, 1] = 5.0
        add_run(tmp_path, f"seed={seed}", parameters={"seed": seed}, results={"by_role": sweep})
    add_run(
        tmp_path, "model_name=m", parameters={"model_name": "m"}, results={"by_role": sweep.assign_attrs(model="m")}
    )
    said = comparisons(page_of(tmp_path))
    assert said["by_role, tiny: the largest effects"].startswith("Over 3 runs, L1H0")
    assert "the 4 cells of 8 that all of them have" in said["by_role, tiny: agreement of ranks"]
    assert not [title for title in said if "models" in title]  # of some layers the depth is not known


def test_layers_are_read_as_layers(tmp_path):
    """The residual stream, by role: where it passes one half, between seeds and between models of other depth."""
    for model, layers in (("tiny", 6), ("deep", 12)):
        for seed in range(2):
            stream = np.linspace(0, 1, layers) + 0.01 * seed
            effect = xr.DataArray(np.stack([1 - stream, stream], -1)[None], dims=("metric", "layer", "role"))
            coords = {"metric": ["logit_diff"], "layer": np.arange(layers), "role": ["S2", "END"]}
            sweep = xr.Dataset({"effect": effect}, coords, {"model": model, "weights_hash": model, "site": "resid_pre"})
            values = {"seed": seed, "model_name": model}
            add_run(tmp_path, f"{model},seed={seed}", parameters=values, results={"stream": sweep})
    page = page_of(tmp_path)
    said = comparisons(page)
    assert said["stream, tiny: effect by layer"] == "The effect passes 0.5 for S2 at L3, for END at L3; 2 runs."
    text = said["stream: models along their depth, at S2"]
    assert text == ("The effect passes 0.5 after 58% to 67% of a model's layers: L6 at S2 of deep, L3 at S2 of tiny.")
    agreed = said["stream: models, agreement along the depth"]
    assert "order the 6 layers at the same share of the depth, at each role: a Spearman correlation of 1.00." in agreed
    bands = next(one for one in figures_of(page) if len(one["plotly"]["data"]) == 6)
    assert bands["plotly"]["data"][2]["y"][0] == pytest.approx(0.995)


def test_figures_beyond_the_limit_are_left_out_and_told(folder, monkeypatch):
    monkeypatch.setattr(report, "FIGURE_BYTES", 1000)
    page = page_of(folder)
    assert not page.select(".thumbs") and "The figures of 5 runs are left out" in page.text
    monkeypatch.setattr(report, "FIGURE_BYTES", 20_000)
    page = page_of(folder)
    assert re.search(r"The figures of [1-4] runs are left out", page.text) and page.select(".thumbs")


def test_a_plain_run_has_a_report(tmp_path):
    add_run(tmp_path, parameters={"model_name": "a/b"})
    page = page_of(tmp_path)
    assert [a["href"] for a in page.select("a[href]")] == [f"{STEM}.html", f"{STEM}.ipynb"]
    assert not page.select("article") and not page.select("select")
    assert len(page.select(".gallery")) == 1  # one run: its figures beside one another, by their titles
    assert [one.text for one in page.select(".thumbs span")] == [f"Heads of a/b, None: figure {i}" for i in range(2)]


def test_results_without_layers_positions_or_effects(tmp_path):
    sweep = sweep_result(0)
    no_layer = sweep.isel(layer=1, drop=True)
    nothing = sweep.assign(effect=sweep.effect.where(False))
    for seed in range(2):
        results = {"heads": no_layer, "at": sweep.rename(head="pos"), "nothing": nothing, "other": xr.Dataset()}
        add_run(tmp_path, f"seed={seed}", parameters={"seed": seed}, results=results)
    effects, _ = read_effects(patchlib.collect(tmp_path).found)
    assert [one.largest() and one.largest()[0] for one in effects][:3] == ["head 0", "L1 at position 0", None]
    titles = [one.text for one in page_of(tmp_path).select("article h3")]
    assert titles == ["score", "heads, tiny: the largest effects"]  # of two heads no order, of positions none
    assert comparisons(page_of(tmp_path))["score"] == "Over 2 runs: mean 0.05, from 0.00 to 0.10."


def test_damaged_files_are_shown_with_their_run_and_hide_no_other(tmp_path):
    add_run(tmp_path, "seed=0")
    (add_run(tmp_path, "seed=1", parameters={"seed": 1}) / f"{STEM}.output.nc").write_bytes(b"none")
    (add_run(tmp_path, "seed=2", parameters={"seed": 2}) / f"{STEM}.ipynb").write_text("none")
    errors = [row.select_one(".error") for row in page_of(tmp_path).select("#runs tbody tr")]
    assert errors[0] is None
    assert "output.nc cannot be read" in errors[1].text and "cannot be read as a notebook" in errors[2].text


def test_numbers_that_json_lacks_do_not_break_the_page(tmp_path):
    place = add_run(tmp_path, "seed=0")
    notebook = nbformat.read(place / f"{STEM}.ipynb", as_version=4)
    figure = notebook.cells[1].outputs[0].data["application/vnd.plotly.v1+json"]
    figure["data"][0]["z"][0][0] = float("nan")
    (place / f"{STEM}.ipynb").write_text(json.dumps(notebook))
    first = figures_of(page_of(tmp_path))[0]
    assert first["plotly"]["data"][0]["z"][0][0] is None


def test_no_runs_no_report(tmp_path):
    with pytest.raises(RunError, match="there are no runs"):
        patchlib.write_report(tmp_path)


def test_the_command_names_the_page_or_what_is_wrong(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("patchlib: there are no runs in")
    add_run(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Open the page: {(tmp_path / 'report.html').as_uri()}\n"


def test_text_can_be_read_on_every_ground_in_light_and_dark():
    css = Path(report.__file__).with_name("look.css").read_text()

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in css.split("@media"):
        colours = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        for text in ("ink", "soft", "link", "ok", "bad"):
            for ground in ("page", "card", "chip"):
                low, high = sorted(luminance(colours[name]) for name in (text, ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground, colours)  # WCAG AA
