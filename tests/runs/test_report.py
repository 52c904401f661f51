"""The page over all runs: what it says, that it holds all it shows, and that nothing in a result becomes markup."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import xarray as xr
from bs4 import BeautifulSoup

import patchlib
from patchlib.cli import main
from patchlib.errors import RunError
from patchlib.plots.style import PLOTLY_MIME as PLOTLY
from patchlib.runs.execute import pages
from patchlib.runs.execute.pages import write_page
from patchlib.runs.report import write
from patchlib.runs.report.effects import compared, headlines, overview, read_effects
from patchlib.runs.report.pictures import galleries
from tests.runs.runs_folder import PNG, STEM, add_run, sweep_result

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


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
    return BeautifulSoup(patchlib.write_report(folder).read_text("utf-8"), "html.parser")


def printed(page) -> str:
    return "\n".join(one.text for one in page.select(".jp-RenderedText pre"))


def table_of(folder: Path):
    records = patchlib.collect(folder).records
    return overview(records, *read_effects(records)).set_index("run")


@pytest.mark.slow
def test_the_page_says_what_became_of_the_runs_and_what_they_say_together(page, folder):
    said = printed(page)
    assert f"6 runs of {STEM} on big, tiny: 4 ok, 1 failed, 1 waiting." in said
    assert "n_prompts = 4 in all runs that take it" in said
    assert f"{STEM}, score. Over 4 runs of 2 models: from 0.00 to 0.20." in said
    assert "after 50% to 67% of a model's layers: L1H0 of big (0.80), L1H0 of tiny (0.81)." in said
    assert "Over 3 runs, L1H0 has the largest mean effect: 0.81, from 0.80 to 0.82." in said
    assert page.title.text.startswith("Many runs") and not page.select(".jp-InputArea-editor")  # no code, no folder
    assert str(folder) not in page.text


@pytest.mark.slow
def test_links_go_to_files_that_are_there(page, folder):
    links = re.findall(r'href=\\?"(runs/[^"\\]+)', (folder / "report.html").read_text("utf-8"))
    assert len(links) == 5 and all((folder / unquote(link)).is_file() for link in links)


@pytest.mark.slow
def test_nothing_that_a_result_holds_becomes_markup(page, folder):
    assert not page.select("[onerror]") and not [one for one in page.select("script") if one.text.startswith("alert")]
    assert (folder / "report.html").read_text("utf-8").count("onerror=")  # it is there, as text
    assert "<" not in page.select_one("script#figures").text
    policy = page.select_one("meta[http-equiv=Content-Security-Policy]")["content"]
    assert policy.startswith("default-src 'none';") and "http" not in policy


@pytest.mark.slow
def test_the_page_asks_nothing_of_the_network(page):
    addresses = [tag.get(key, "") for tag in page.select("*:not(a)") for key in ("src", "href", "srcset", "action")]
    assert not [address for address in addresses if address and not address.startswith("data:")]
    styles = " ".join(style.text for style in page.select("style"))
    assert "@import" not in styles and not re.search(r"url\(['\"]?http", styles)


@pytest.mark.slow
def test_figures_of_all_runs_are_in_it(page):
    figures = json.loads(page.select_one("script#figures").text)
    places = page.select(".celltag_gallery [data-run]")
    assert len(places) == 5 + 5 + 2 and len(page.select(".celltag_gallery img")) == 2
    titles = [figures[int(one["data-figure"])]["layout"]["title"]["text"] for one in places if one.get("data-figure")]
    assert titles.count("model_name=big<br>seed=0") == 2 and titles.count("model_name=tiny<br>seed=0") == 2
    assert "&lt;script&gt;" in "".join(titles)


def test_the_table_has_every_run_with_its_numbers(folder):
    table = table_of(folder)
    assert list(table) == ["status", "error", "model_name", "seed", "score", "largest_effect", "of", "clean",
                           "corrupted", "n", "seconds", "MB"]  # fmt: skip
    assert list(table.status) == ["ok", "ok", "ok", "ok", "failed", "waiting"]
    assert list(table.loc[f"{STEM},seed=1", "score":]) == [
        0.1, "L1H0: 0.81", "output, logit_diff", 3.5, -2.5, 4, 11, 1201,
    ]  # fmt: skip
    assert EVIL in table.error.iloc[4] and table.model_name.iloc[4] == EVIL


def comparison(folder: Path, title: str):
    (found,) = [one for one in compared(read_effects(patchlib.collect(folder).records)[0]) if one.title == title]
    return found


def test_runs_of_a_model_are_followed_cell_by_cell_in_the_order_of_what_they_differ_in(folder):
    found = comparison(folder, "output")
    assert list(found.tables) == ["big", "tiny"] and not found.is_stream
    tiny = found.tables["tiny"]
    assert list(tiny) == ["seed=0", "seed=1", "seed=2"] and tiny.index.names == ["layer", "head"]
    assert list(tiny.loc[1, 0]) == pytest.approx([0.8, 0.81, 0.82])
    numbers = headlines(patchlib.collect(folder).records)[STEM, "score"]
    assert {model: dict(series) for model, series in numbers.items()} == {
        "big": {f"{STEM},model_name=big,seed=0": 0.0}, "tiny": {"seed=0": 0.0, "seed=1": 0.1, "seed=2": 0.2},
    }  # fmt: skip


def test_what_does_not_compare_is_never_put_together(tmp_path):
    """Opposite effects of two directions, two metrics, heads and their keys: each would cancel the other out."""
    for seed in (0, 1):
        sweep = sweep_result(seed)
        kinds = {"a": sweep, "b": sweep.assign(effect=-sweep.effect).assign_attrs(direction="noise"),
                 "c": sweep.assign_coords(metric=["kl"]), "d": sweep.rename(head="kv_head"),
                 "e": sweep.isel(head=0, drop=True), "f": sweep.rename(head="pos")}  # fmt: skip
        for name, one in kinds.items():
            values = {"seed": seed, "kind": name}
            add_run(tmp_path, f"{name},seed={seed}", parameters=values, results={"output": one})
    found = compared(read_effects(patchlib.collect(tmp_path).records)[0])
    assert {one.title: [table.shape[1] for table in one.tables.values()] for one in found} == {
        "output, logit_diff, z, layer, head": [2], "output, logit_diff, z, noise, layer, head": [2],
        "output, kl, z, layer, head": [2], "output, logit_diff, z, layer, kv_head": [2],
        "output, logit_diff, z, layer": [2],
    }  # fmt: skip


def test_only_cells_that_all_runs_have_are_compared(tmp_path):
    for seed in range(3):
        sweep = sweep_result(seed, layers=8)
        sweep = sweep.isel(layer=[1, 2, 7] if seed else [1, 2, 5])  # as by_role of notebook 02, by what it finds
        add_run(tmp_path, f"seed={seed}", parameters={"seed": seed}, results={"by_role": sweep})
    found = comparison(tmp_path, "by_role")
    assert len(found.tables["tiny"]) == 4 and found.left_out == {"tiny": 4}


def test_the_result_of_most_prompts_speaks_for_a_run_and_a_component_before_the_stream(tmp_path):
    sweep = sweep_result(0)
    stream = sweep.assign(effect=sweep.effect + 9).assign_attrs(site="resid_pre")
    few = sweep.assign(effect=sweep.effect + 5).isel(example=[0])
    add_run(tmp_path, "a", results={"few": few, "stream": stream, "heads": sweep})
    assert list(table_of(tmp_path)["of"]) == ["heads, logit_diff"]


def test_results_without_layers_positions_or_effects(tmp_path):
    sweep = sweep_result(0)
    no_layer = sweep.isel(layer=1, drop=True)
    nothing = sweep.assign(effect=sweep.effect.where(False))
    for seed in range(2):
        results = {"heads": no_layer, "at": sweep.rename(head="pos"), "nothing": nothing, "other": xr.Dataset()}
        add_run(tmp_path, f"seed={seed}", parameters={"seed": seed}, results=results)
    effects, _ = read_effects(patchlib.collect(tmp_path).records)
    assert [one.largest for one in effects][:3] == ["head 0: 0.80", "L1 at position 0: 0.80", ""]
    assert [one.title for one in compared(effects)] == ["heads"]


def test_damaged_files_are_told_with_their_run_and_hide_no_other(tmp_path):
    add_run(tmp_path, "seed=0")
    (add_run(tmp_path, "seed=1", parameters={"seed": 1}) / f"{STEM}.output.nc").write_bytes(b"none")
    broken = add_run(tmp_path, "seed=2", parameters={"seed": 2})
    (broken / f"{STEM}.ipynb").write_text("none")
    errors = table_of(tmp_path).error
    assert "output.nc was changed after its run" in errors[f"{STEM},seed=1"] and errors.isna().sum() == 2
    shown, left_out = galleries(patchlib.collect(tmp_path).records)
    assert [len(one.pictures) for one in shown] == [2, 2]
    assert list(left_out) == [broken.name] and "cannot be read as a notebook" in left_out[broken.name]


def test_figures_beyond_the_limit_are_left_out_and_told(folder):
    records = patchlib.collect(folder).records
    shown, left_out = galleries(records, room=1000)
    assert not shown and len(left_out) == 5
    shown, left_out = galleries(records, room=20_000)
    assert shown and 1 <= len(left_out) <= 4


def test_figures_stand_under_what_sets_their_run_apart_or_their_own_title(folder, tmp_path):
    shown, _ = galleries(patchlib.collect(folder).records)
    assert [one.title for one in shown] == ["Figure in cell 2", "Figure in cell 3", "Figure in cell 4"]
    add_run(tmp_path, parameters={"model_name": "a/b"})
    (one, two), _ = galleries(patchlib.collect(tmp_path).records)
    assert one.title == "Heads of a/b, None: figure 0" and two.pictures[0][PLOTLY]["layout"]["meta"] == {"run": STEM}


def test_numbers_that_json_lacks_do_not_break_a_page(tmp_path):
    place = add_run(tmp_path, "seed=0")
    notebook = nbformat.read(place / f"{STEM}.ipynb", as_version=4)
    notebook.cells[1].outputs[0].data[PLOTLY]["data"][0]["z"][0][0] = float("nan")
    notebook.cells[1].outputs[0].data[PLOTLY]["data"][0]["name"] = EVIL
    (place / f"{STEM}.ipynb").write_text(json.dumps(notebook))
    write_page(place / f"{STEM}.ipynb", tmp_path / "page.html")
    stored = BeautifulSoup((tmp_path / "page.html").read_text("utf-8"), "html.parser").select_one("script#figures")
    assert json.loads(stored.text)[0]["data"][0]["z"][0][0] is None and EVIL not in str(stored)


def test_no_runs_no_report(tmp_path):
    with pytest.raises(RunError, match="there are no runs"):
        patchlib.write_report(tmp_path)


@pytest.mark.slow
def test_a_notebook_over_many_runs_that_fails_is_one_line(tmp_path, monkeypatch):
    cell = nbformat.v4.new_code_cell("folder: str = ''\nraise ValueError('no')", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / write.NOTEBOOK)
    monkeypatch.setattr(write, "notebook_folder", lambda: tmp_path)
    add_run(tmp_path)
    with pytest.raises(RunError, match=r"^the report could not be made: ValueError: no; .*report\.ipynb has what"):
        patchlib.write_report(tmp_path)


@pytest.mark.slow
def test_the_command_names_the_page_or_what_is_wrong(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("patchlib: there are no runs in")
    add_run(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Open the page: {(tmp_path / 'report.html').as_uri()}\n"
    names = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("report"))
    assert names == ["report.html", "report.ipynb"]
    assert len(patchlib.collect(tmp_path).records) == 1  # the report is no run


def test_text_can_be_read_on_every_ground_in_light_and_dark():
    css = Path(pages.__file__).with_name("page.html.j2").read_text()

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = css.partition("@media")[::2]
    for scheme, ground in ((light, "#ffffff"), (dark, "#111111")):  # JupyterLab's
        colours = dict(re.findall(r"--(ok|bad): (#\w+)", scheme))
        for text in ("ok", "bad"):
            low, high = sorted(luminance(colour) for colour in (colours[text], ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, colours)  # WCAG AA
