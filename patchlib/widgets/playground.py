"""Type two prompts and two answers, and see where the difference between them is."""

from __future__ import annotations

import html
import threading

import ipywidgets
import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib import plots, takeaways
from patchlib.errors import PatchlibError, TaskError
from patchlib.sites import SITES
from patchlib.sweeps import sweep
from patchlib.tasks.base import PromptPairs
from patchlib.tasks.tokens import tokenize
from patchlib.widgets.drawing import bundle, wide

EXAMPLE = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupted": "When Mary and John went to the store, Mary gave a drink to",
    "right": "Mary",
    "wrong": "John",
}
SHOWN_SITES = ("resid_pre", "attn_out", "mlp_out", "z")


class Cancelled(Exception):
    """The user pressed Cancel."""


def prompt_playground(model: TransformerBridge, example: dict[str, str] | None = None) -> ipywidgets.VBox:
    """Two prompts, two answers and a site: the tokens side by side as you type, and on Run the map of effects.

    Runs go on in the background, one at a time; Cancel stops the one that is under way after the batch that it is in.

    Args:
        model: In eval mode.
        example: What the fields ``clean``, ``corrupted``, ``right`` and ``wrong`` start with; an IOI pair when None.
    """
    start = {**EXAMPLE, **(example or {})}
    labels = {
        "clean": "Clean prompt",
        "corrupted": "Corrupted prompt",
        "right": "Right answer",
        "wrong": "Wrong answer",
    }
    long = ipywidgets.Layout(width="720px")
    fields = {
        name: wide(ipywidgets.Text, label, value=start[name], **({"layout": long} if "prompt" in label else {}))
        for name, label in labels.items()
    }
    site = wide(ipywidgets.Dropdown, "Site", options=[name for name in SHOWN_SITES if name in SITES])
    run, cancel = ipywidgets.Button(description="Run"), ipywidgets.Button(description="Cancel", disabled=True)
    progress = ipywidgets.FloatProgress(min=0, max=1, layout=ipywidgets.Layout(width="240px"))
    tokens, message, output = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.Output()
    stop = threading.Event()

    def typed(change: object = None) -> None:
        tokens.value = _side_by_side(model, fields["clean"].value, fields["corrupted"].value)
        message.value = ""
        try:
            pairs_of(model, **{name: field.value for name, field in fields.items()})
        except PatchlibError as error:
            message.value = _sentence(str(error).splitlines()[0])

    def tell(done: int, total: int) -> None:
        progress.value = done / max(total, 1)
        if stop.is_set():
            raise Cancelled

    def work(pairs: PromptPairs, name: str) -> None:
        over = ("layer", "head") if SITES[name].has_heads else ("layer", "pos")
        try:
            result = sweep(model, pairs, name, over, progress=tell)
            figure = plots.heatmap_panels(result, title=f"Denoising {name}, your prompts")
            shown = [bundle(figure), bundle(takeaways.of_cells(result))]
            output.outputs = tuple({"output_type": "display_data", "data": one, "metadata": {}} for one in shown)
            message.value = ""
        except Cancelled:
            message.value = _sentence("Cancelled.")
        except Exception as error:  # in a thread nobody else would show it
            message.value = _sentence(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        finally:
            run.disabled, cancel.disabled = False, True

    def clicked(button: ipywidgets.Button) -> None:
        try:
            pairs = pairs_of(model, **{name: field.value for name, field in fields.items()})
        except PatchlibError as error:
            message.value = _sentence(str(error).splitlines()[0])
            return
        run.disabled, cancel.disabled = True, False
        stop.clear()
        progress.value = 0
        message.value = _sentence("Running ...")
        threading.Thread(target=work, args=(pairs, site.value), daemon=True).start()

    run.on_click(clicked)
    cancel.on_click(lambda button: stop.set())
    for field in fields.values():
        field.observe(typed, "value")
    typed()
    row = ipywidgets.HBox([site, run, cancel, progress], layout=ipywidgets.Layout(flex_flow="row wrap"))
    answers = ipywidgets.HBox([fields["right"], fields["wrong"]], layout=ipywidgets.Layout(flex_flow="row wrap"))
    return ipywidgets.VBox([fields["clean"], fields["corrupted"], tokens, answers, row, message, output])


def pairs_of(model: TransformerBridge, clean: str, corrupted: str, right: str, wrong: str) -> PromptPairs:
    """One pair from four texts; an answer gets the space that it has after the prompt.

    Raises:
        TaskError, AlignmentError: In a sentence, what cannot be patched and why.
    """
    answers = []
    for what, answer in (("right", right), ("wrong", wrong)):
        if not answer.strip():
            raise TaskError(f"The {what} answer is empty: give one word.")
        ids = model.tokenizer([f" {answer.strip()}"], add_special_tokens=False)["input_ids"][0]
        if len(ids) != 1:
            shown = " + ".join(repr(model.to_string([token])) for token in ids)
            raise TaskError(f"The {what} answer {answer.strip()!r} is {len(ids)} tokens ({shown}): give a word of one.")
        answers.append(ids[0])
    rows = [tokenize(model, text) for text in (clean, corrupted)]
    return PromptPairs((rows[0],), (rows[1],), torch.tensor([answers]), name="your prompts")


def _side_by_side(model: TransformerBridge, clean: str, corrupted: str) -> str:
    """Both prompts' tokens one above the other, those that differ in bold."""
    rows = [tokenize(model, text).tolist() if text.strip() else [] for text in (clean, corrupted)]
    cells = []
    for i in range(max(map(len, rows))):
        both = [html.escape(model.to_string([row[i]])) if i < len(row) else "&empty;" for row in rows]
        style = "padding:2px 5px;border:1px solid #999;" + (
            "" if both[0] == both[1] else "font-weight:bold;color:#B2182B"
        )
        cells.append([f"<td style='{style}'>{one}</td>" for one in both])
    lines = ["".join(f"<tr>{''.join(cell[k] for cell in cells)}</tr>") for k in range(2)]
    return f"<table aria-label='tokens of both prompts'>{''.join(lines)}</table>"


def _sentence(text: str) -> str:
    return f"<p role='status'>{html.escape(text)}</p>"
