"""Runs of one notebook: what they are given, what they leave, and what a page of them may hold."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import xarray as xr
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import patchlib
from patchlib.cli import main
from patchlib.runs.execute.manifest import RUNNING
from patchlib.runs.execute.pages import write_index, write_page
from patchlib.runs.execute.parameters import (
    CommandText,
    RawText,
    from_environment,
    read_notebook,
    read_parameters,
)
from patchlib.runs.files import alone, prepare_folder, replacing
from tests.attacks.case import Wrong, case, clear_line, refused

PYTHON = [sys.executable, "-m", "patchlib.cli"]
WAIT = 120.0
"""Seconds for a kernel to come up on a busy machine."""


def notebook(path: Path, *cells: str | nbformat.NotebookNode, parameters: str = "out_dir: str = ''") -> Path:
    """Write a notebook with a cell of parameters before others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
    rest = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(new_notebook(cells=[*head, *rest]), path)
    return path


def tagged(tag: str, source: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": [tag]})


def checked(folder: Path, parameters: str, value: object) -> object:
    """What a notebook with one parameter x gets."""
    return read_parameters(notebook(folder / "x.ipynb", parameters=parameters), {"x": value})[1]["x"]


def manifest(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


# ---- several kinds in one run, since a kernel takes its time to start


@cache
def everything() -> tuple[Path, list[patchlib.runs.RunRecord], dict[str, object]]:
    """Three notebooks in one call, two of one name, and what the first one saw."""
    folder = Path(tempfile.mkdtemp(prefix="attack-everything-"))
    seen = """
import json, os, pandas as pd
from pathlib import Path
import patchlib
table = pd.DataFrame({"value": [1]})
first = patchlib.save_run(out_dir, "ps1", {"first": table}, {"seed": 0}, {"a": 1})
status = json.loads(first.read_text())["status"]
patchlib.save_run(out_dir, "another name", {"second": table}, {"seed": 0}, {"b": 2})
"""
    dump = "Path(out_dir, 'seen.json').write_text(json.dumps({'status': status, 'pairs': repr(pairs), 'x': x}))"
    values = "out_dir: str = ''\nx: float = 1.0\npairs: list[tuple[int, int]] = []\nnone: str | None = 'a'"
    stale = tagged("injected-parameters", "x = 99.0")
    expected = tagged("raises-exception", "1 / 0")
    alice = notebook(
        folder / "alice" / "ps1.ipynb", stale, seen, expected, dump, "assert none is None", parameters=values
    )
    bob = notebook(folder / "bob" / "ps1.ipynb", "1 / 0", parameters="")
    attachment = new_markdown_cell("![a](attachment:missing.png)\n\nafter")
    third = notebook(folder / "third.ipynb", attachment, "print('here')", parameters="")
    given = {"pairs": [(1, 2)], "none": None}
    records = patchlib.run([alice], given, folder / "one", progress=False)
    records += patchlib.run([bob, alice, third], None, folder / "out", progress=False)
    return folder, records, json.loads((folder / "one" / "seen.json").read_text())


@case("A6", "save_run in a run that has not ended: the manifest is not ok yet, and ok after it", seconds=200)
def _():
    folder, records, seen = everything()
    assert seen["status"] == "running" and records[0].status == "ok", (seen, records[0])
    assert manifest(folder / "one" / "ps1.manifest.json")["status"] == "ok"
    return "running, then ok"


@case("A6", "two save_run calls in one notebook: the results of both are kept", seconds=200)
def _():
    folder, _, _ = everything()
    kept = manifest(folder / "one" / "ps1.manifest.json")
    assert [file["name"] for file in kept["files"]] == ["ps1.first.csv", "ps1.second.csv"], kept["files"]
    assert kept["headline"] == {"a": 1, "b": 2}
    return "both results, both headlines"


@case("A6", "a run that was killed after save_run is not served as good")
def _(folder):
    os.environ[RUNNING] = "nb"  # as in a kernel that patchlib started, and that dies here
    try:
        patchlib.save_run(folder, "nb", {"t": pd.DataFrame({"a": [1]})}, {})
    finally:
        del os.environ[RUNNING]
    (run,) = patchlib.collect(folder).records
    assert run.status == "running" and not patchlib.collect(folder).results
    return "running, and without results"


@case("A6", "a kernel of plain papermill that is killed after save_run is not served as good", seconds=200)
def _(folder):
    save = "import pandas, patchlib\npatchlib.save_run('.', 'nb', {'t': pandas.DataFrame({'a': [1]})}, {})"
    nb = notebook(folder / "in.ipynb", save, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RuntimeError, match="Kernel died"):
        papermill.execute_notebook(
            str(nb), None, cwd=str(folder), kernel_name="python3", progress_bar=False, log_output=False
        )
    (run,) = patchlib.collect(folder).records
    assert run.status == "running" and not patchlib.collect(folder).results
    return "running, and without results"


@case("A6", "two runs of one notebook into one folder at once")
def _(folder):
    nb = notebook(folder / "nb.ipynb", "print(1)")
    with alone(prepare_folder(folder / "out"), "nb"):
        return refused(lambda: patchlib.run([nb], out_dir=folder / "out", progress=False), "nb", "at work", "out")


@case("A6", "save_run elsewhere while a run of that notebook is at work in the folder")
def _(folder):
    def save(wait: float) -> None:
        before, patchlib.runs.execute.manifest.WAIT = patchlib.runs.execute.manifest.WAIT, wait
        try:
            patchlib.save_run(folder, "nb", {}, {})
        finally:
            patchlib.runs.execute.manifest.WAIT = before

    with alone(folder, "nb"):
        said = refused(lambda: save(0.1), "at work")
    save(0.1)
    assert (folder / "nb.manifest.json").is_file() and not list(folder.glob(".*"))
    return said


@case("A6", "save_run with other parameters in the same process is another run")
def _(folder):
    table = pd.DataFrame({"a": [1]})
    for seed, name in ((0, "first"), (1, "second"), (1, "third")):
        path = patchlib.save_run(folder, "nb", {name: table}, {"seed": seed})
    assert [file["name"] for file in manifest(path)["files"]] == ["nb.second.csv", "nb.third.csv"]
    return "what goes together stands together"


@case("B10", "save_run(out, '../name') and other names that are none")
def _(folder):
    for name in ("../name", "a/b", "", ".", "..", "a\nb", "a\0b", "/abs", None, 3):
        said = refused(lambda name=name: patchlib.save_run(folder / "out", name, {}, {}), "name")
        assert not list(folder.rglob("*.json")), name
    return said


# ---- A7: parameters


@case("A7", "two cells tagged parameters")
def _(folder):
    nb = notebook(folder / "x.ipynb", tagged("parameters", "x = 7"), parameters="x = 5")
    return refused(lambda: patchlib.run([nb], out_dir=folder / "out"), "2 cells", "parameters")


@case("A7", "an executed notebook, run again without parameters, does what its manifest says", seconds=200)
def _():
    folder, _, seen = everything()
    assert seen["x"] == 1.0 and manifest(folder / "one" / "ps1.manifest.json")["parameters"]["x"] == 1.0
    return "x = 1.0 in both, and not the injected 99.0"


@case("A7", "a notebook whose only parameters are those that were injected")
def _(folder):
    nb = notebook(folder / "x.ipynb", tagged("injected-parameters", "x = 3"), parameters="")
    defaults, given = read_parameters(nb, {"x": 4})
    assert (defaults, given) == ({"x": 3}, {"x": 4})
    return "x = 3 by default, 4 where asked for"


@case(
    "A7", "pairs, as lists of JSON or tuples of Python, reach the notebook as the tuples that it declares", seconds=200
)
def _():
    _, _, seen = everything()
    assert seen["pairs"] == "[(1, 2)]", seen
    return seen["pairs"]


@case("A7", "a tag of parameters on prose as well")
def _(folder):
    prose = new_markdown_cell("about them", metadata={"tags": ["parameters"]})
    nb = notebook(folder / "x.ipynb", prose, tagged("parameters", "x = 1"), parameters="")
    read, cells = read_notebook(nb)
    assert read_parameters(nb, {"x": 2})[1] == {"x": 2} and len(cells) == 1 and read.cells[0].metadata.tags == []
    return "the cell of code counts"


@case("A7", "a default that is set again in an if is not claimed")
def _(folder):
    nb = notebook(folder / "x.ipynb", parameters="x = 5\nif True:\n    x = 7\ny = 1\ny += 1\nz = 2")
    assert read_parameters(nb, {})[0] == {"z": 2}
    return "only z, whose value is known"


@case("A7", "-p x None, null, True, [1], 1e-3 and what looks alike")
def _(folder):
    optional = "x: str | None = 'a'"
    assert checked(folder, optional, CommandText("None")) is None
    assert checked(folder, optional, CommandText("null")) is None
    assert checked(folder, optional, RawText("None")) == "None"
    assert checked(folder, "x: str = 'a'", CommandText("None")) == "None"
    assert checked(folder, "x: str = 'a'", CommandText("1")) == "1"
    assert checked(folder, "x = 1", CommandText("1e-3")) == 1e-3
    assert checked(folder, "x = None", CommandText('{"a": [1, null]}')) == {"a": [1, None]}
    assert checked(folder, "x = None", RawText("1")) == "1"
    assert checked(folder, "x: float = 1.0", CommandText("-1e-05")) == -1e-05
    return "as Python and JSON have them, and text with -r"


@case("A7", "PATCHLIB_PARAM_N for a parameter N, and for n and N in one notebook")
def _(folder):
    before = dict(os.environ)
    os.environ |= {"PATCHLIB_PARAM_N": "7", "PATCHLIB_PARAM_MAXITER": "9"}
    try:
        environment = from_environment()
    finally:
        os.environ.clear()
        os.environ.update(before)
    nb = notebook(folder / "a.ipynb", parameters="N: int = 1\nmaxIter: int = 2")
    assert read_parameters(nb, {}, environment)[1] == {"N": 7, "maxIter": 9}
    both = notebook(folder / "b.ipynb", parameters="N: int = 1\nn: int = 2")
    assert read_parameters(both, {}, environment)[1] == {"n": 7}
    return "N = 7, maxIter = 9; n = 7 where there are both"


@case("A7", "NumPy's numbers are numbers")
def _(folder):
    assert checked(folder, "x: int = 1", np.int64(3)) == 3 and checked(folder, "x: float = 1.0", np.float32(0.5)) == 0.5
    assert checked(folder, "x: list[int] = []", np.arange(2)) == [0, 1]
    return "3, 0.5, [0, 1]"


@case("C12", "parameters that JSON has not: tuple keys, sets, bytes, objects, text that is no UTF-8, endless numbers")
def _(folder):
    nb = notebook(folder / "x.ipynb", parameters="x = None")
    endless: list = []
    endless.append(endless)
    for value, said in (
        ({(1, 2): 3}, "by text"),
        ({1: 2}, "by text"),
        ({1, 2}, "numbers, text"),
        (b"a", "numbers, text"),
        (1j, "numbers, text"),
        (object(), "numbers, text"),
        ("a\udcff", "surrogates"),
        ([{"a": "a\udcff"}], "surrogates"),
        (10**5000, "digits"),
        (endless, "recursion"),
    ):
        refusal = refused(lambda value=value: patchlib.run([nb], {"x": value}, folder / "out"), "parameter x", said)
    refused(lambda: patchlib.run([nb], {3: 4}, folder / "out"), "no parameter 3")
    assert not (folder / "out").exists()
    return refusal


@case("C12", "save_run with parameters that JSON has not")
def _(folder):
    path = patchlib.save_run(folder, "nb", {}, {"a": {(1, 2): 3}, "b": "\udcff", 3: np.int64(4)})
    assert manifest(path)["parameters"] == {"a": "{(1, 2): 3}", "b": "'\\udcff'", "3": 4}
    return "kept as the text that Python shows"


# ---- C12, C13: notebooks that cannot be shown or run


@case("C12", "a missing attachment: the run is ok, its page has the rest, the next notebook runs", seconds=200)
def _():
    _, records, _ = everything()
    bob, alice, third = records[1:]
    assert [record.status for record in (bob, alice, third)] == ["failed", "failed", "ok"], records
    assert not third.notes and "after" in third.html.read_text("utf-8")
    assert "here" in BeautifulSoup(third.html.read_text("utf-8"), "html.parser").text
    return "ok, with a page that says which cell cannot be shown"


@case("C12", "pages of an attachment with a blank, of plotly with null, of outputs that are none")
def _(folder):
    plotly = "application/vnd.plotly.v1+json"
    outputs = [
        new_output("display_data", {plotly: {"data": [], "layout": None, "config": None}}),
        new_output("display_data", {plotly: {"data": None, "layout": {"height": "tall"}}}),
        new_output("display_data", {"text/html": "<b>kept</b>"}),
        new_output("display_data", {plotly: "no figure"}),
        new_output("display_data", {plotly: {"data": [{"x": [float("nan")]}], "layout": {"meta": [1]}}}),
    ]
    cells = [new_markdown_cell(f"![x](attachment:a b.png) {i}") for i in range(2)]
    cells += [new_code_cell("draw()", outputs=[output]) for output in outputs]
    nb = new_notebook(cells=[*cells, new_markdown_cell("the end")])
    nb.metadata |= {"language_info": "none", "title": 3, "widgets": 4}
    (folder / "x.ipynb").write_text(json.dumps(nb))
    write_page(folder / "x.ipynb", folder / "x.html")
    text = (folder / "x.html").read_text("utf-8")
    assert "kept" in text and "the end" in text
    return "a page with all that can be shown"


@case("C12", "a page, manifest and index that cannot be written: what was executed keeps its status", seconds=120)
def _(folder):
    nb = notebook(
        folder / "nb.ipynb", "import pathlib\nfor n in ('nb.html', 'index.html'): pathlib.Path(out_dir, n).mkdir()"
    )
    (record,) = patchlib.run([nb], out_dir=folder / "out", progress=False)
    assert record.status == "ok" and len(record.notes) == 2, record
    assert manifest(record.manifest)["status"] == "ok"
    return "; ".join(record.notes).replace(str(folder), "")


@case("C12", "a notebook of nbformat 3", seconds=120)
def _(folder):
    code = {"cell_type": "code", "language": "python", "input": ["print(6 * 7)"], "outputs": [], "metadata": {}}
    sheet = {"cells": [{**code, "collapsed": False, "prompt_number": 1}], "metadata": {}}
    nb = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [sheet]}
    (folder / "old.ipynb").write_text(json.dumps(nb))
    (record,) = patchlib.run([folder / "old.ipynb"], out_dir=folder / "out", progress=False)
    assert record.status == "ok" and "42" in record.html.read_text("utf-8"), record
    return "ok, 42"


@case("C12", "notebooks that are none")
def _(folder):
    for text in ("", "[]", "{}", "null", '{"cells": [], "nbformat": 9}', '{"cells": [3], "nbformat": 4}', "[" * 3000):
        (folder / "x.ipynb").write_text(text)
        said = refused(lambda: patchlib.run([folder / "x.ipynb"], out_dir=folder / "out"), "x.ipynb")
    (folder / "x.ipynb").write_bytes(b"\xff\xfe")
    refused(lambda: patchlib.run([folder / "x.ipynb"], out_dir=folder / "out"), "x.ipynb")
    assert not (folder / "out").exists()
    return said


@case("C13", "notebooks of other kernels, before anything starts")
def _(folder):
    for kernel, language in (
        ({"name": "bash"}, {}),
        ({"name": "ir", "language": "R"}, {}),
        ({"name": "python3", "language": "python"}, {"name": "julia"}),
        ({}, {"name": "javascript"}),
    ):
        nb = new_notebook(cells=[new_code_cell("ls -l")])
        nb.metadata |= {"kernelspec": kernel, "language_info": language}
        (folder / "x.ipynb").write_text(json.dumps(nb))
        said = refused(lambda: patchlib.run([folder / "x.ipynb"], out_dir=folder / "out"), "x.ipynb", "Python")
        (folder / "grid.yaml").write_text("notebooks: [x.ipynb]")
        refused(lambda: patchlib.read_grid(folder / "grid.yaml"), "Python")
    assert not (folder / "out").exists()
    return said


@case("B10", "a manifest nested 1,000 deep, or with text for a time, in the folder of the index")
def _(folder):
    patchlib.save_run(folder, "good", {}, {"seed": 1})
    (folder / "deep.manifest.json").write_text("[" * 100_000)
    wrong = manifest(folder / "good.manifest.json") | {"wall_time_s": "<b>long</b>", "title": {"a": 1}, "models": 3}
    (folder / "wrong.manifest.json").write_text(json.dumps(wrong))
    write_index(folder)
    page = BeautifulSoup((folder / "index.html").read_text("utf-8"), "html.parser")
    assert len(page.select("main h2")) == 3 and "seed" in page.text
    return "an entry for each"


# ---- B10: what a page may hold

EVIL = """# Title <script>alert('title')</script>

<script>alert(1)</script><SCRIPT SRC=//evil.org/x.js></SCRIPT><img src=x onerror=alert(1)><svg onload=alert(1)>
<a href="javascript:alert(1)">a</a> [b](javascript:alert(1)) [c](JaVaScRiPt:alert(1))
[d](data:text/html,<script>1</script>) <a href="java&#10;script:alert(1)">e</a>
<a href=" &#x6A;avascript:alert(1)">f</a> [g](vbscript:x)
<iframe src="https://evil.org"></iframe><object data="x"></object><embed src="x">
<form action="//evil.org"><input></form>
<meta http-equiv="refresh" content="0;url=//evil.org"><base href="//evil.org"><link rel=stylesheet href="//evil.org">
<b onclick="alert(1)" style="color: red; background: url(//evil.org)">bold</b><math><mtext><script>alert(1)</script>
<div id="figures">{}</div><details open ontoggle=alert(1)>text</details><video src=x onerror=alert(1)></video>

| a | b |
|---|---|
| 1 | 2 |
"""


def harmless(page: BeautifulSoup) -> None:
    """Wrong where something in the body of a page could run or load."""
    body = page.select_one("main")
    found = [tag.name for tag in body.select("script, iframe, object, embed, form, meta, base, link, svg, math, video")]
    found += [name for tag in body.find_all(True) for name in tag.attrs if name.startswith("on")]
    addresses = [tag.get("href", "") + tag.get("src", "") for tag in body.find_all(True)]
    schemes = [re.sub(r"\s", "", one).partition(":") for one in addresses]
    good = ("", "http", "https", "mailto")  # or a file beside the page
    found += [scheme for scheme, sign, rest in schemes if sign and scheme not in good and rest[:6] != "image/"]
    if found:
        raise Wrong(f"the page has {found}")


@case("B10", "scripts, handlers, frames and javascript: links in a notebook's markdown and HTML; figures stay")
def _(folder):
    plotly = {"application/vnd.plotly.v1+json": {"data": [{"y": [1, 2]}], "layout": {"title": {"text": EVIL}}}}
    picture = new_output("display_data", {"image/png": "aGk="}, metadata={"image/png": {"width": "1 onload=alert(1)"}})
    outputs = [
        new_output("display_data", {"text/html": EVIL}),
        new_output("display_data", {"text/markdown": EVIL}),
        new_output("display_data", {"application/javascript": "alert(1)"}),
        new_output("display_data", {"text/vnd.mermaid": "</pre><script>alert(1)</script>"}),
        new_output("display_data", {"image/svg+xml": "<svg onload='alert(1)'><script>alert(1)</script></svg>"}),
        new_output("display_data", plotly),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}),
        picture,
        new_output("stream", text=EVIL),
        new_output("error", ename="<script>", evalue="<script>", traceback=["<script>alert(1)</script>"]),
    ]
    cells = [new_markdown_cell(EVIL), new_code_cell(EVIL, outputs=outputs, metadata={"tags": ['"><script>alert(1)']})]
    nb = new_notebook(cells=[*cells, nbformat.v4.new_raw_cell(EVIL)])
    (folder / "x.ipynb").write_text(json.dumps(nb))
    write_page(folder / "x.ipynb", folder / "x.html")
    page = BeautifulSoup((folder / "x.html").read_text("utf-8"), "html.parser")
    harmless(page)
    assert len(page.select(".figure")) == 1 and page.select_one("script#figures") and page.select("main table td")
    assert "A live control" in page.text and page.select("main b") and "alert" not in page.title.get_text("<")[:0]
    policy = page.select_one("meta[http-equiv=Content-Security-Policy]")["content"]
    assert "'unsafe-inline'" not in policy.partition("script-src")[2] and "sha256-" in policy
    return "tables, figures and controls stay; nothing of the rest, and the page's policy forbids it"


@case("B10", "tags that one cell leaves open do not take the next cell away")
def _(folder):
    cells = [
        new_markdown_cell(f"{tag}hidden")
        for tag in ("<script>", "<style>", "<plaintext>", "<!--", "<div><table>", "<a")
    ]
    nbformat.write(new_notebook(cells=[*cells, new_markdown_cell("# the end")]), folder / "x.ipynb")
    write_page(folder / "x.ipynb", folder / "x.html")
    page = BeautifulSoup((folder / "x.html").read_text("utf-8"), "html.parser")
    assert len(page.select("main > .jp-Cell")) == 7 and page.select_one("main h1").text.startswith("the end")
    return "seven cells"


@case("B10", "tables of pandas, pictures and colours of a notebook are kept")
def _(folder):
    table = pd.DataFrame({"a": [1]}).to_html()
    html = f"<style scoped>.dataframe td {{ color: red }}</style>{table}<img src='data:image/png;base64,aGk='>"
    html += "<p style='color: red; position: fixed'>red</p>"
    nb = new_notebook(cells=[new_code_cell("x", outputs=[new_output("display_data", {"text/html": html})])])
    nbformat.write(nb, folder / "x.ipynb")
    write_page(folder / "x.ipynb", folder / "x.html")
    page = BeautifulSoup((folder / "x.html").read_text("utf-8"), "html.parser")
    assert page.select("main style") and page.select("main table.dataframe td") and page.select("main img")
    assert page.select_one("main p")["style"] == "color: red;"
    return "table, style, picture, colour; no fixed position"


# ---- C14: signals, streams, places


def children_of(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@case("C14", "SIGTERM on patchlib run: a manifest, a page and an index are left, and no kernel", seconds=240)
def _(folder):
    import psutil

    nb = notebook(folder / "slow.ipynb", "import time\nopen(out_dir + '/began', 'w').close()\ntime.sleep(600)")
    process = subprocess.Popen([*PYTHON, "run", str(nb), "-o", str(folder / "out")], stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + WAIT
        while not (folder / "out" / "began").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.1)
        kernels = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in said, (process.returncode, said)
    assert manifest(folder / "out" / "slow.manifest.json")["status"] == "interrupted"
    assert (folder / "out" / "index.html").is_file() and (folder / "out" / "slow.html").is_file()
    assert kernels and not any(psutil.pid_exists(pid) for pid in kernels)
    return "interrupted, with page and index; code 130"


@case("C14", "| head, /dev/full, a closed stdout and an ASCII locale", seconds=120)
def _(folder):
    nb = notebook(folder / "é.ipynb", parameters="\n".join(f"x{i} = 'é'  # ü" for i in range(300)))
    words = [*PYTHON, "parameters", str(nb)]
    command = " ".join(map("'{}'".format, words))
    for shell in (f"{command} | head -1", f"{command} > /dev/full", f"{command} >&-", f"{command} 2>&- >&-"):
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, (shell, done.returncode, done.stderr[-300:])
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, text=True, env=plain)
    assert done.returncode == 0 and "\\xfc" in done.stdout, done.stderr[-300:]
    return "code 0, nothing on stderr"


@case("C14", "-o s3://bucket/x and other addresses make no folder of that name")
def _(folder):
    nb = notebook(folder / "nb.ipynb")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for place in ("s3://bucket/x", "gs://b", "file:///tmp/x", "https://a.org/b"):
            said = refused(lambda place=place: patchlib.run([nb], out_dir=place, progress=False), "address")
            refused(lambda place=place: patchlib.save_run(place, "nb", {}, {}), "address")
            refused(lambda place=place: patchlib.copy_notebooks(place), "address")
            refused(lambda place=place: patchlib.run([nb], {"out_dir": place}, folder / "out"), "address")
        assert {path.name for path in folder.iterdir()} <= {"nb.ipynb", "out"}
    finally:
        os.chdir(before)
    return said


@case("C14", "names of 245 characters: a notebook's, a result's, a file's")
def _(folder):
    nb = notebook(folder / f"{'n' * 245}.ipynb")
    said = refused(lambda: patchlib.run([nb], out_dir=folder / "out", progress=False), "cannot write", "name")
    refused(lambda: patchlib.run(["n" * 5000], out_dir=folder / "out"), "no notebook")
    refused(lambda: patchlib.save_run(folder / "out", "nb", {"r" * 250: pd.DataFrame()}, {}), "cannot write")
    refused(lambda: patchlib.save_run(folder / ("d" * 300), "nb", {}, {}), "cannot write")
    with replacing(folder / ("f" * 250)) as temporary:
        temporary.write_text("whole")
    assert (folder / ("f" * 250)).read_text() == "whole"
    return said


@case("C12", "results that cannot be saved, for whatever reason")
def _(folder):
    pairs = pd.MultiIndex.from_product([[0, 1], [2, 3]], names=["a", "b"])
    for result in (
        xr.Dataset({"x": ("p", [1, 2, 3, 4])}, xr.Coordinates.from_pandas_multiindex(pairs, "p")),
        xr.Dataset({"x": ("p", [object()])}),
        xr.Dataset({"x": 1}, attrs={"a": {1: 2}}),
        xr.Dataset({"a/b": 1, "a": 2}),
        pd.DataFrame({"a": ["\udcff"]}, dtype=object),
    ):
        said = refused(
            lambda result=result: patchlib.save_run(folder, "nb", {"r": result}, {}), "'r'", "cannot be saved"
        )
    assert not list(folder.iterdir())
    return said


@case("C12", "a notebook that prints what is no UTF-8, one that takes its folder away, one with such text", seconds=200)
def _(folder):
    odd = notebook(folder / "odd.ipynb", "print('a\\udcffb')", "'a\\udcffb'")
    gone = notebook(folder / "gone.ipynb", "import shutil\nshutil.rmtree(out_dir)")
    good = notebook(folder / "good.ipynb", "print(1)")
    records = patchlib.run([odd, gone, good], out_dir=folder / "out", progress=False)
    said = [(record.status, record.error, record.notes) for record in records]
    assert records[2].status == "ok" and all(record.status in ("ok", "failed") for record in records), said
    (folder / "text.ipynb").write_text(json.dumps(new_notebook(cells=[new_code_cell("x")])).replace('"x"', '"\\udcff"'))
    refused(lambda: patchlib.run([folder / "text.ipynb"], out_dir=folder / "out"), "text.ipynb", "surrogates")
    return str(said).replace(str(folder), "")[:400]


@case("C15", "run and save_run with what is no list, no mapping and no name")
def _(folder):
    nb = notebook(folder / "nb.ipynb")
    for wrong in (1.5, object(), "", b"nb"):
        refused(lambda wrong=wrong: patchlib.run(wrong, out_dir=folder / "out"), "no notebook")
    for wrong in (3, "abc", [1]):
        said = refused(lambda wrong=wrong: patchlib.run([nb], wrong, folder / "out"), "parameters")
        for keyword in ("results", "parameters", "headline"):
            given = {"results": {}, "parameters": {}, keyword: wrong}
            refused(lambda given=given: patchlib.save_run(folder, "nb", **given), keyword)
    refused(lambda: patchlib.save_run(folder, "nb", {3: pd.DataFrame()}, {}, {"a": "b"}), "headline")
    assert patchlib.save_run(folder, "nb", {3: pd.DataFrame()}, {}).is_file()
    return said


@case("C14", "folders that are no text, or no UTF-8")
def _(folder):
    for place in (None, 3, "a\0b", f"{folder}/\udcff"):
        said = refused(lambda place=place: patchlib.save_run(place, "nb", {}, {}), "folder")
    return said


# ---- D


@case("D16", "many notebooks of one name in one call", seconds=200)
def _():
    folder, records, _ = everything()
    assert [record.notebook for record in records[1:]] == ["bob-ps1", "alice-ps1", "third"]
    assert (folder / "out" / "alice-ps1.html").is_file() and manifest(records[1].manifest)["error"].startswith(
        "ZeroDiv"
    )
    return "bob-ps1, alice-ps1"


@case("D16", "a cell tagged raises-exception", seconds=200)
def _():
    _, records, _ = everything()
    assert records[0].status == "ok" and "ZeroDivisionError" in records[0].html.read_text("utf-8")
    return "its error is shown, and the notebook is ok"


@case("D16", "time limits for a run and for a cell; the next notebook runs", seconds=240)
def _(folder):
    slow = notebook(folder / "slow.ipynb", "import time\ntime.sleep(600)")
    next_ = notebook(folder / "next.ipynb", "print('next')")
    late, good = patchlib.run([slow, next_], out_dir=folder / "out", progress=False, cell_timeout=20)
    assert (late.status, late.error) == ("timeout", "took longer than 20 s in one cell"), late
    assert good.status == "ok" and late.html.is_file()
    (late,) = patchlib.run([slow], out_dir=folder / "out", progress=False, timeout=0.5)
    assert (late.status, late.error) == ("timeout", "took longer than 0.5 s"), late
    for wrong in (0, -1, float("nan"), float("inf"), "5"):
        said = refused(lambda wrong=wrong: patchlib.run([slow], out_dir=folder / "out", timeout=wrong), "timeout")
    return f"timeout, then ok; {said.line}"


@case("D16", "-p NAME=VALUE, -p NAME VALUE, -r NAME TEXT, JSON")
def _(folder):
    from patchlib.runs.execute import runner

    given, before = {}, runner.run
    runner.run = lambda notebooks, parameters, *_, **__: given.update(parameters) or []
    try:
        words = [
            "-p",
            "a=1",
            "-p",
            "b",
            "x=y",
            "-p",
            "c",
            "-1e-5",
            "-r",
            "d=1",
            "-r",
            "e",
            "-x",
            "-p",
            "f=",
            "-p",
            "g",
            "",
        ]
        assert main(["run", "nb.ipynb", *words, "-o", str(folder / "out")]) == 0
    finally:
        runner.run = before
    assert given == {"a": "1", "b": "x=y", "c": "-1e-5", "d": "1", "e": "-x", "f": "", "g": ""}, given
    assert isinstance(given["a"], CommandText) and isinstance(given["d"], RawText)
    return "both ways, and text that begins with a dash"


@case("D16", "pages without code, and the usual tags")
def _(folder):
    cells = [
        tagged("remove-input", "hidden_input()"),
        tagged("remove_input", "hidden_input_too()"),
        tagged("remove-output", "shown_input()"),
        tagged("remove-cell", "hidden_cell()"),
    ]
    for cell in cells:
        cell.outputs = [new_output("stream", text=f"said by {cell.source}")]
    nbformat.write(new_notebook(cells=cells), folder / "x.ipynb")
    texts = []
    for code in (True, False):
        write_page(folder / "x.ipynb", folder / "x.html", code=code)
        texts.append(BeautifulSoup((folder / "x.html").read_text("utf-8"), "html.parser").select_one("main").text)
    shown = {
        source: [text.count(source) for text in texts]
        for source in ("hidden_input()", "shown_input()", "hidden_cell()")
    }
    assert shown == {"hidden_input()": [1, 1], "shown_input()": [1, 0], "hidden_cell()": [0, 0]}, shown
    return "outputs without code"


@case("D16", "jupyter nbconvert --to script of patchlib's notebooks gives .py")
def _():
    from nbconvert.exporters import ScriptExporter

    for path in sorted((Path(patchlib.__file__).parents[1] / "notebooks").glob("*.ipynb")):
        script, resources = ScriptExporter().from_filename(str(path))
        assert resources["output_extension"] == ".py" and script.startswith(("#!", "#")), path.name
    return ".py"


@case("D16", "a command's errors stay one line")
def _(folder):
    done = subprocess.run([*PYTHON, "run", "no\nsuch", "-o", str(folder)], capture_output=True, text=True)
    assert done.returncode == 2
    return f"code 2: {clear_line(done.stderr.removeprefix('patchlib: '), 'no notebook')}"
