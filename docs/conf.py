"""The site: ``sphinx-build -W docs out/site``. It asks nothing of the network, when it is built or when it is read."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import sources  # noqa: E402
from plotly.offline import get_plotlyjs  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import patchlib  # noqa: E402
from patchlib.plots import theme  # noqa: E402

project = "patchlib"
author = copyright = "the patchlib authors"
version = release = patchlib.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_*"]

# Pages of Markdown: every heading can be linked to, as on GitHub.
myst_heading_anchors = 3
nb_execution_mode = "off"  # they are shown as they were committed
nb_ipywidgets_js: dict[str, Any] = {}  # controls need a kernel, and their scripts a network

# The reference: a parameter a line, types by their short names.
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 60
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Corruptions", "params_style"), ("Formats", "params_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False
nitpicky = True
suppress_warnings = ["ref.python"]  # attributes of one name, such as `source`, in several classes
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other libraries, whose pages are not here

html_theme = "pydata_sphinx_theme"
html_title = "patchlib"
html_static_path = ["_static", "_generated"]
html_css_files = ["site.css", "dark.css"]
html_context = {"default_mode": "auto"}  # light or dark as the reader's screen is
html_sidebars: dict[str, list[str]] = {page: [] for page in ("index", "limits", "glossary", "reading", "teaching")}
html_show_search_summary = False  # it would fetch each page, which a browser does not from disk
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "patchlib"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "github_url": f"https://github.com/{sources.address()}",
}


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links that lead out of docs/ on GitHub lead to the notebooks' pages here, and else to GitHub."""
    if docname == "teaching":
        source[0] += sources.coursework()
    if not docname.startswith(("notebooks/", "reference/")):
        source[0] = sources.with_links(source[0], "")


def escape_stars(app: Sphinx, what: str, name: str, object_: Any, options: Any, lines: list[str]) -> None:
    """A star that begins no emphasis is a star (AtP*)."""
    kept = r"(``.*?``|(?<![\w*])\*\w[^*]*\*(?!\w))|\*"
    lines[:] = [line if ">>>" in line else re.sub(kept, lambda found: found[1] or r"\*", line) for line in lines]


def finish_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Pages with figures have plotly, which is there once; a signature's lines are no list of definitions."""
    context["body"] = re.sub(r'<dt class="sig .*?</dt>', plain_lines, context.get("body", ""), flags=re.DOTALL)
    if page.startswith("notebooks/"):
        app.add_js_file("plotly.min.js")
        app.add_js_file("figures.js", loading_method="defer")


def plain_lines(signature: re.Match[str]) -> str:
    """Sphinx makes each parameter a <dd> without a <dt>, which a screen reader announces as a broken list."""
    return re.sub(r"<(/?)d[ld]>", r"<\1span>", signature[0]).replace("<span><em", '<span class="sig-line"><em')


def setup(app: Sphinx) -> None:
    """Write what is made of other files, before Sphinx looks for pages."""
    (HERE / "_generated").mkdir(exist_ok=True)
    (HERE / "_generated" / "plotly.min.js").write_text(get_plotlyjs(), "utf-8")
    dark = "\n".join(f"html[data-theme=dark] .drawn {part} {{ {rule}; }}" for part, rule in theme.RULES.items())
    (HERE / "_generated" / "dark.css").write_text(dark, "utf-8")
    sources.write_notebooks()
    sources.write_reference()
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", escape_stars, priority=400)  # before napoleon, which writes stars
    app.connect("html-page-context", finish_page)
