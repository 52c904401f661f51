"""What the site shows that stands elsewhere: the notebooks as they ran, and the reference, a page for each folder."""

import ast
import importlib
import inspect
import json
import re
import shutil
import tomllib
from html import escape
from pathlib import Path
from typing import Any

import nbformat

HERE = Path(__file__).parent
ROOT = HERE.parent
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = "<p><em>A live control: open the notebook in Jupyter to use it.</em></p>"
MODULES = ("tasks", "stats", "plots", "widgets", "toys")
"""Which have public names of their own."""
FOLDERS = {
    "models": "Models",
    "tasks": "Tasks",
    "patching": "Patching",
    "attribution": "Attribution",
    "circuits": "Circuits",
    "stats": "Statistics",
    "plots": "Figures",
    "widgets": "Controls",
    "toys": "Toys",
    "runs": "Runs",
    "compat": "The framework's names",
    "errors": "Errors and warnings",
}
"""In the order in which data goes."""


def address() -> str:
    """OWNER/NAME of the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return "/".join(project["urls"]["Repository"].split("/")[-2:])


def with_links(text: str, up: str) -> str:
    """Relative links out of a page's folder: to pages of the site (``up`` leads to their root), or to GitHub."""
    text = re.sub(r"\]\(\.\./(?!notebooks/|docs/)", f"](https://github.com/{address()}/blob/main/", text)
    text = re.sub(r"\]\(\.\./docs/", f"]({up}", text)
    return re.sub(r"\]\(\.\./(?=notebooks/)", f"]({up}", text)


def coursework() -> str:
    """The coursework's own page, one heading lower, where there is one."""
    page = ROOT / "coursework" / "README.md"
    if not page.exists():
        return ""
    text = re.sub(r"^#", "##", page.read_text("utf-8"), flags=re.MULTILINE)
    return "\n\n" + re.sub(r"\]\((?![a-z]+:|#|\.\./)", "](../coursework/", text)


def write(path: Path, text: str) -> None:
    """Leave a file alone that says the same already, so that Sphinx need not read it again."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def write_notebooks() -> None:
    """The notebooks, with figures as places that figures.js draws in, and without what only Colab and Jupyter need."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                # A formula would need a script: it is shown as code.
                cell.source = with_links(re.sub(r"\$([^$\n]+)\$", r"`\1`", cell.source), "../")
            elif "live" in cell.metadata.get("tags", []):
                cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": LIVE})]
            else:
                cell.outputs = [shown for output in cell.outputs if (shown := _shown(output))]
        write(HERE / "notebooks" / path.name, nbformat.writes(notebook))
    shutil.copytree(ROOT / "notebooks" / "diagrams", HERE / "notebooks" / "diagrams", dirs_exist_ok=True)
    for old in {*(HERE / "notebooks").glob("*.ipynb")} - {HERE / "notebooks" / path.name for path in paths}:
        old.unlink()


def _shown(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output as the site has it; None where it is nothing without Jupyter."""
    data = output.get("data", {})
    if WIDGET in data:
        output.data = {"text/html": LIVE}
    elif PLOTLY in data:
        output.data = {"text/html": _figure(data[PLOTLY])}
    elif data.get("text/html", "").startswith("<style>") and not data.get("text/plain"):
        return None  # JupyterLab's dark theme
    return output


def _figure(figure: dict[str, Any]) -> str:
    layout = figure.get("layout", {})
    title = layout.get("title", {}).get("text") or "Figure"
    title = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", title)).strip()
    stored = json.dumps({"data": figure["data"], "layout": layout}).replace("<", "\\u003c")  # no tag may end in it
    place = f'role="group" aria-label="{escape(title)}" style="height: {layout.get("height", 450)}px"'
    return f'<div class="drawn" {place}><script type="application/json">{stored}</script></div>'


def public_names() -> dict[str, list[str]]:
    """Folder -> its public names, with the module from which users take them."""
    names: dict[str, list[str]] = {folder: [] for folder in FOLDERS}
    listed = ast.parse((ROOT / "patchlib" / "__init__.pyi").read_text("utf-8"))
    for node in listed.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            folder = "attribution" if "attribution" in node.module else node.module.split(".")[0]
            names[folder] += [f"patchlib.{alias.name}" for alias in node.names]
    for module in MODULES:
        there = {name.rpartition(".")[2] for name in names[module]}
        members = sorted(set(importlib.import_module(f"patchlib.{module}").__all__) - there)
        names[module] += [f"patchlib.{module}.{name}" for name in members]
    return names


def write_reference() -> None:
    """A page for each folder: a table of its names, then each with its docstring."""
    for folder, names in public_names().items():
        title = FOLDERS[folder]
        module = importlib.import_module(f"patchlib.{'patching.attribution' if folder == 'attribution' else folder}")
        about = inspect.cleandoc(module.__doc__ or "").split("\n")[0]
        documented = {name: _entry(name) for name in names}
        table = [f"   {name}" for name, entry in documented.items() if entry.startswith(".. auto")]
        lines = [title, "=" * len(title), "", about, "", ".. autosummary::", "   :nosignatures:", "", *table, ""]
        write(HERE / "reference" / f"{folder}.rst", "\n".join([*lines, *documented.values()]))


def _entry(name: str) -> str:
    """How Sphinx documents a name; nothing for a module, which has names of its own."""
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    if inspect.ismodule(value):
        return ""
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, Exception) else "class"
        return f".. auto{kind}:: {name}\n   :members:\n"
    if callable(value):
        return f".. autofunction:: {name}\n"
    values = [value] if isinstance(value, str) else value
    return f".. py:data:: {name}\n\n   {', '.join(f'``{value}``' for value in values)}\n"
