"""The look that all figures share: colours that can be told apart, and titles that wrap; light, without torch."""

from __future__ import annotations

import os
import textwrap

import plotly.graph_objects as go
import plotly.io as pio

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
RED, GREY, PALE = "#B2182B", "#8a8a8a", "#e8e8e8"
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def set_renderer() -> None:
    """Let notebooks store figures as data, without plotly's 4.5 MB of JavaScript in every file.

    Colab's page has a renderer of its own, and PLOTLY_RENDERER in the environment goes before: with
    ``plotly_mimetype+png`` (and kaleido with a Chrome) figures are stored as pictures too, for GitHub.
    """
    if "PLOTLY_RENDERER" not in os.environ and not is_colab():
        pio.renderers.default = "plotly_mimetype"


def is_colab() -> bool:
    """Whether this runs behind Colab's own page, which does not know plotly's figures as data."""
    return "COLAB_NOTEBOOK_ID" in os.environ  # google.colab is imported behind other front ends too


def style(figure: go.Figure, title: str, subtitle: str, height: int, width: int = 820, above: int = 0) -> go.Figure:
    """The look that all figures share; long titles wrap, and ``above`` pixels stay free between them and the axes."""
    subtitle = subtitle.replace(" = ", "\u00a0=\u00a0")  # no line ends there
    heading, small = textwrap.wrap(title, width // 10), textwrap.wrap(subtitle, width // 6, break_on_hyphens=False)
    # Set here rather than as a template: plotly's default one adds 6.5 KB to each figure in a notebook.
    figure.update_layout(
        template="none", font={"family": "Helvetica, Arial, sans-serif", "size": 13, "color": "#222"},
        title={
            "text": "<br>".join(heading), "font": {"size": 18},
            "subtitle": {"text": "<br>".join(small), "font": {"size": 12, "color": "#5a5a5a"}},
            "x": 14 / width, "xanchor": "left", "y": 1 - 14 / height, "yanchor": "top",
        },
        margin={"l": 60, "r": 30, "t": 40 + 22 * len(heading) + 16 * len(small) + above, "b": 50},
        width=width, height=height,
    )  # fmt: skip
    axis = {"automargin": True, "title": {"font": {"size": 14}, "standoff": 10}}
    return figure.update_xaxes(axis).update_yaxes(axis)
