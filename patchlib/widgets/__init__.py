"""Controls for notebooks: each takes a result or a model, and gives a widget."""

from patchlib.widgets.attribution import edge_explorer, estimate_explorer
from patchlib.widgets.builder import circuit_builder
from patchlib.widgets.drawing import live
from patchlib.widgets.explorers import attention_view, head_explorer, result_explorer
from patchlib.widgets.playground import prompt_playground

__all__ = [
    "attention_view",
    "circuit_builder",
    "edge_explorer",
    "estimate_explorer",
    "head_explorer",
    "live",
    "prompt_playground",
    "result_explorer",
]
