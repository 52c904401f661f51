"""Runs of one notebook, tried with what nobody listed: parameters, names, pages."""

import json
import shlex
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from patchlib.cli import main
from patchlib.errors import PatchlibError, RunError
from patchlib.runs.execute import kernel, manifest, notebooks, runner
from patchlib.runs.execute.clean import clean
from patchlib.runs.execute.manifest import repeat_command
from patchlib.runs.execute.pages import write_index, write_page
from patchlib.runs.execute.parameters import CommandText, declared_parameters, read_parameters
from patchlib.runs.files import prepare_folder, read_json
from tests.attacks.executions import harmless

BOUNDED = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(
        [
            "1",
            "-1",
            "1e-05",
            "None",
            "null",
            "true",
            "True",
            "[1]",
            "{}",
            "-p",
            "-r",
            "--",
            "-",
            "a=b",
            "=",
            "",
            " ",
            "'a'",
        ]
    ),
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.floats(-1e-3, 1e-3), st.integers(-(2**70), 2**70))
ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
KINDS = {
    "i: int = 1": st.integers(),
    "f: float = 1.0": NUMBERS,
    "s: str = 'a'": TEXT,
    "b: bool = False": st.booleans(),
    "o: str | None = None": st.one_of(st.none(), TEXT),
    "n: int | None = 3": st.one_of(st.none(), st.integers()),
    "li: list[int] = []": st.lists(st.integers(), max_size=3),
    "pairs: list[tuple[int, int]] = []": st.lists(st.tuples(st.integers(), st.integers()), max_size=3),
    "dict_: dict[str, float] = {}": st.dictionaries(TEXT, NUMBERS, max_size=3),
    "any_: Any = 0": ANY,
    "u = None": ANY,
    "v = 'a'": ANY,
    "tuple_ = (1, 2)": ANY,
    "x = 1.5": ANY,
    "many: int | str | list[str] = 1": st.one_of(st.integers(), TEXT, st.lists(TEXT, max_size=2)),
}
GIVEN = st.fixed_dictionaries({}, optional={line.split()[0].strip(":"): values for line, values in KINDS.items()})


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    cell = new_code_cell("\n".join(KINDS), metadata={"tags": ["parameters"]})
    path = tmp_path_factory.mktemp("notebook") / "nb.ipynb"
    nbformat.write(new_notebook(cells=[cell]), path)
    return path


def same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)  # in which nan is nan


def from_command_line(words: list[str]) -> dict:
    """What `patchlib run` gives to the notebooks."""
    got: dict = {}
    before = runner.run
    runner.run = lambda notebooks, parameters, *_, **__: got.update(notebooks=notebooks, parameters=parameters) or []
    try:
        assert main(words) == 0, words
    finally:
        runner.run = before
    return got


@settings(BOUNDED, max_examples=150)
@given(parameters=GIVEN)
def test_the_command_in_a_manifest_repeats_the_run_whatever_its_parameters(notebook, parameters):
    defaults, checked = read_parameters(notebook, parameters)
    told = defaults | checked  # as the manifest has it
    words = shlex.split(repeat_command(str(notebook), told, declared_parameters(notebook)))
    got = from_command_line(words[1:])
    assert got["notebooks"] == [str(notebook)]
    again = read_parameters(notebook, got["parameters"])
    assert same(again[0] | again[1], told), words


@settings(BOUNDED, max_examples=150)
@given(parameters=GIVEN)
def test_the_cell_that_is_injected_gives_what_was_asked_for(notebook, parameters):
    declared = declared_parameters(notebook)
    checked = read_parameters(notebook, parameters)[1]
    typed = {name: declared[name].typed(value) for name, value in checked.items()}
    names: dict = {}
    exec(kernel._Exact.codify(typed), names)
    assert all(repr(names[name]) == repr(value) for name, value in typed.items())
    assert all(same(value, names[name]) or value == names[name] for name, value in checked.items() if len(name) == 1)
    if "pairs" in typed:
        assert typed["pairs"] == parameters["pairs"]


@settings(BOUNDED, max_examples=150)
@given(value=st.one_of(ANY, st.binary(), st.complex_numbers(), st.sets(st.integers()), st.text(), st.tuples(ANY)))
def test_any_value_is_kept_as_it_is_or_refused_in_a_line(notebook, value):
    for name in ("i", "s", "u", "pairs"):
        for given_ in (value, *([CommandText(value)] if isinstance(value, str) else [])):
            try:
                kept = read_parameters(notebook, {name: given_})[1][name]
            except RunError as error:
                assert "\n" not in str(error) and len(str(error)) < 400
            else:
                assert same(json.loads(json.dumps(kept)), kept)
                if type(given_) is not CommandText and not isinstance(value, str):
                    assert same(kept, json.loads(json.dumps(value)))


@settings(BOUNDED, max_examples=100)
@given(
    tree=st.lists(st.lists(st.sampled_from(["a", "b", "A", "a-b", "ps1", "x-2"]), min_size=1, max_size=3), max_size=6)
)
def test_files_of_notebooks_never_share_a_name(tmp_path, tree):
    paths = [tmp_path.joinpath(*parts[:-1], f"{parts[-1]}.ipynb") for parts in tree]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    named = notebooks.named_notebooks([str(path) for path in paths]) if paths else {}
    assert set(named.values()) == set(paths)
    assert len({name.casefold() for name in named}) == len(named)
    assert not [name for name in named if "/" in name]


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "<", ">", '"', "'", "/", "=", " ", "\n", "&#", "x6a", ";", "\0", "<!--", "-->", "<![CDATA[", "]]>", "`",
                "script", "<script>", "</script", "<svg", "<math>", "<mtext>", "<table>", "<style>", "</style>",
                "<iframe", "<object", "<embed", "<form", "<input", "<base", "<link", "<meta", "<template>",
                "onload=", "onerror=", "ONCLICK=", "src=", "href=", "style=", "srcdoc=", "formaction=", "xlink:href=",
                "javascript:", "JaVa\tScRiPt:", "data:text/html,", "data:image/svg+xml,", "vbscript:", "alert(1)",
                "<img ", "<a ", "<p>", "<b>", "[x](", ")", "![y](", "expression(", "url(", "@import", "$$", "|---|",
            ]
        ),
        st.text(max_size=4),
    ),
    max_size=14,
).map("".join)  # fmt: skip


def of_body(html: str) -> BeautifulSoup:
    return BeautifulSoup(f"<main>{html}</main>", "html5lib")


@settings(BOUNDED, max_examples=150)
@given(html=PIECES)
def test_nothing_that_is_kept_of_html_can_run(html):
    once = clean(html)
    harmless(of_body(once))
    harmless(of_body(clean(once)))


@settings(BOUNDED, max_examples=6)
@given(source=PIECES, html=PIECES, mime=st.sampled_from(["text/html", "text/markdown", "image/svg+xml", "text/latex"]))
def test_a_page_can_be_made_of_any_notebook_and_runs_nothing_of_it(tmp_path, source, html, mime):
    outputs = [
        new_output("display_data", {mime: html}),
        new_output("stream", text=html),
        new_output("display_data", {"application/vnd.plotly.v1+json": {"data": [], "layout": {"title": html}}}),
    ]
    nb = new_notebook(cells=[new_markdown_cell(source), new_code_cell(source, outputs=outputs)])
    nb.cells[1].metadata |= {"tags": [html], html: html}
    nb.metadata |= {"language_info": {"name": html}, "kernelspec": {"name": html}}
    (tmp_path / "nb.ipynb").write_text(json.dumps(nb))
    write_page(tmp_path / "nb.ipynb", tmp_path / "nb.html")
    page = BeautifulSoup((tmp_path / "nb.html").read_text("utf-8"), "html.parser")
    harmless(page)
    assert len(page.select("script:not([type])")) == 2 and page.select_one("script#figures")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5), PIECES),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)
KEYS = (
    "notebook",
    "title",
    "description",
    "status",
    "error",
    "parameters",
    "models",
    "versions",
    "files",
    "wall_time_s",
)


@settings(BOUNDED, max_examples=6)
@given(changed=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3), removed=st.none() | st.sampled_from(KEYS))
def test_an_index_can_be_made_of_any_manifests(tmp_path, changed, removed):
    path = manifest.save_run(tmp_path, "good", {}, {})
    other = {key: value for key, value in (read_json(path) | changed).items() if key != removed}
    (tmp_path / "other.manifest.json").write_text(json.dumps(other))
    write_index(tmp_path)
    page = BeautifulSoup((tmp_path / "index.html").read_text("utf-8"), "html.parser")
    harmless(page)
    assert len(page.select("main h2")) >= 2


@settings(BOUNDED, max_examples=30)
@given(
    name=st.one_of(st.text(max_size=8), st.sampled_from(["../x", "a/../../b", "..", "s3://b/x", "http:/x", "x" * 300]))
)
def test_what_is_saved_lies_in_the_folder_that_was_given(tmp_path_factory, name):
    outside = tmp_path_factory.getbasetemp() / "outside"
    folder = outside / "deep" / "folder"
    try:
        path = manifest.save_run(folder, name, {}, {})
    except PatchlibError as error:
        assert "\n" not in str(error)
    else:
        assert path.parent == folder
        path.unlink()
    written = [path for path in outside.rglob("*") if path.is_file()]
    assert not written


@settings(BOUNDED, max_examples=30)
@given(scheme=st.from_regex(r"[A-Za-z][A-Za-z0-9+.-]{1,6}", fullmatch=True), rest=st.text("ab/", max_size=5))
def test_an_address_never_becomes_a_folder(tmp_path, monkeypatch, scheme, rest):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="is an address"):
        prepare_folder(f"{scheme}://{rest}")
    assert not list(Path(tmp_path).iterdir())
