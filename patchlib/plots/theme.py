"""Figures that follow the dark theme of the page that they stand in, which the kernel cannot know."""

import sys

DARK = 'body:is([data-jp-theme-light="false"], .vscode-dark) .js-plotly-plot'
"""JupyterLab and Notebook, and VS Code, say on the page's body which theme it has."""
WHITE = '[style*="rgb(255, 255, 255)"]'
TEXTS = (
    ".gtitle", ".gtitle-subtitle", ".legendtext", ".cbtitle text", ".cbaxis text",
    '.infolayer :is([class^="g-x"], [class^="g-y"]) text', ':is([class^="x"], [class^="y"])[class$="tick"] text',
    ':is(.textpoint text, .annotation-text)[style*="rgb(34, 34, 34)"]',
)  # fmt: skip
"""What is written outside of maps, bars and boxes, whose own colours fit their own backgrounds."""
RULES = {
    ".main-svg": "background: transparent !important",
    f":is(.bglayer, .legend, .annotation) .bg{WHITE}": "fill: transparent !important",
    f":is({', '.join(TEXTS)})": "fill: #dddddd !important",
    ".gridlayer path": "stroke: #4a4a4a !important",
}
STYLE = "<style>\n" + "\n".join(f"{DARK} {part} {{ {rule}; }}" for part, rule in RULES.items()) + "\n</style>"


def follow_theme() -> None:
    """Give the page of a running notebook the rules by which figures follow its dark theme; nothing elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and hasattr(shell, "kernel"):
        shell.display_pub.publish({"text/html": STYLE, "text/plain": ""})
