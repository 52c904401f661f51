"""Type two prompts and two answers, and see where the difference between them is."""

import html
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import ipywidgets
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_kind, first_line
from patchlib.errors import ContrastWarning, PatchlibError, TaskError
from patchlib.models.check import check_model
from patchlib.patching.sites import SITES
from patchlib.patching.sweeps import sweep
from patchlib.plots import takeaways
from patchlib.plots.sweeps import heatmap_panels
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import check_pair, tokenize, tokenizer_of
from patchlib.widgets.drawing import in_a_row, outputs, wide

T = TypeVar("T")
Rows: TypeAlias = tuple[Int[Tensor, " pos"], ...]

EXAMPLE = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupted": "When Mary and John went to the store, Mary gave a drink to",
    "right": "Mary",
    "wrong": "John",
}
LABELS = {"clean": "Clean prompt", "corrupted": "Corrupted prompt", "right": "Right answer", "wrong": "Wrong answer"}
SHOWN_SITES = ("resid_pre", "attn_out", "mlp_out", "z")


class Cancelled(Exception):
    """The user pressed Cancel."""


def prompt_playground(model: TransformerBridge, example: dict[str, str] | None = None) -> ipywidgets.VBox:
    """Two prompts, two answers and a site: the tokens side by side as you type, and on Run the map of effects.

    Sweeps go on in the background, one at a time; Cancel stops the one that is under way after the batch that it is in.

    Args:
        model: In eval mode.
        example: What the fields ``clean``, ``corrupted``, ``right`` and ``wrong`` start with; an IOI pair when None.

    Returns:
        A box of fields and buttons. What is wrong with an entry stands beside its field.

    Raises:
        SweepError: ``example`` has another field.

    Example:
        >>> playground = patchlib.widgets.prompt_playground(model, {"right": "Mary", "wrong": "John"})
        >>> playground.children[0].description, playground.children[0].value
        ('Clean prompt', 'When Mary and John went to the store, John gave a drink to')
    """
    check_model(model)
    example = {} if example is None else check_kind("example", example, Mapping, "give {field: text}")
    for name, text in example.items():
        check_choice("field of the example", name, LABELS)
        check_kind(f"{name} of the example", text, str, "give a text")
    texts = {**EXAMPLE, **example}
    fields = {name: wide(ipywidgets.Text, label, value=texts[name]) for name, label in LABELS.items()}
    for name in ("clean", "corrupted"):
        fields[name].layout = ipywidgets.Layout(width="720px", max_width="98%")
    site = wide(ipywidgets.Dropdown, "Site", options=SHOWN_SITES)
    run_button = ipywidgets.Button(description="Run", button_style="primary")
    cancel_button = ipywidgets.Button(description="Cancel", disabled=True)
    progress = ipywidgets.FloatProgress(min=0, max=1, layout=ipywidgets.Layout(width="240px"))
    tokens, output = ipywidgets.HTML(), ipywidgets.Output()
    notes = {name: ipywidgets.HTML() for name in ("prompts", "right", "wrong", "sweep")}
    stop = threading.Event()

    def attempt(name: str, make: Callable[[], T]) -> T | None:
        notes[name].value = ""
        try:
            return make()
        except PatchlibError as error:
            notes[name].value = _sentence(first_line(error))
            return None

    def check(change: object = None) -> PromptPairs | None:
        """Show the tokens, and beside each field what is wrong with it; the pair if nothing is."""
        clean, corrupted, right, wrong = (field.value for field in fields.values())
        tokens.value = _side_by_side(model, clean, corrupted)
        rows = attempt("prompts", lambda: rows_of(model, clean, corrupted))
        good = attempt("right", lambda: answer_token(model, "right", right))
        bad = attempt("wrong", lambda: answer_token(model, "wrong", wrong))
        if rows is None or good is None or bad is None:
            return None
        return attempt("sweep", lambda: PromptPairs(*rows, torch.tensor([[good, bad]]), name="your prompts"))

    def tell(done: int, total: int) -> None:
        progress.value = done / max(total, 1)
        if stop.is_set():
            raise Cancelled

    def sweep_and_draw(pairs: PromptPairs, name: str) -> None:
        over = ("layer", "head") if SITES[name].has_heads else ("layer", "pos")
        try:
            with warnings.catch_warnings(record=True) as caught:  # shown here, and not somewhere in the notebook
                warnings.simplefilter("always", ContrastWarning)
                result = sweep(model, pairs, name, over, progress=tell)
            figure = heatmap_panels(result, title=f"Denoising {name}, your prompts")
            output.outputs = outputs([figure, takeaways.of_cells(result)])
            notes["sweep"].value = "".join(_sentence(str(warning.message).splitlines()[0]) for warning in caught)
        except Cancelled:
            notes["sweep"].value = _sentence("Cancelled.")
        except Exception as error:  # in a thread nobody else would show it
            notes["sweep"].value = _sentence(f"{type(error).__name__}: {first_line(error)}")
        finally:
            run_button.disabled, cancel_button.disabled = False, True

    def clicked(button: ipywidgets.Button) -> None:
        pairs = check()
        if pairs is None:
            notes["sweep"].value = _sentence("Not run: mend what is said above first.")
            return
        run_button.disabled, cancel_button.disabled = True, False
        stop.clear()
        progress.value = 0
        notes["sweep"].value = _sentence("Running ...")
        threading.Thread(target=sweep_and_draw, args=(pairs, site.value), daemon=True).start()

    run_button.on_click(clicked)
    cancel_button.on_click(lambda button: stop.set())
    for field in fields.values():
        field.observe(check, "value")
    check()
    answers = [in_a_row(fields[name], notes[name]) for name in ("right", "wrong")]
    rows = [*answers, in_a_row(site, run_button, cancel_button), in_a_row(progress, notes["sweep"])]
    return ipywidgets.VBox([fields["clean"], fields["corrupted"], tokens, notes["prompts"], *rows, output])


def answer_token(model: TransformerBridge, which: str, answer: str) -> int:
    """An answer's token, with the space that it has after a prompt; TaskError if it is none or more than one."""
    word = answer.strip()
    if not word:
        raise TaskError(f"The {which} answer is empty: give one word.")
    ids = tokenizer_of(model)([f" {word}"], add_special_tokens=False)["input_ids"][0]
    if len(ids) != 1:
        shown = " + ".join(repr(model.to_string([token])) for token in ids)
        raise TaskError(f"The {which} answer {word!r} is {len(ids)} tokens ({shown}): give a word of one.")
    return int(ids[0])


def rows_of(model: TransformerBridge, clean: str, corrupted: str) -> tuple[Rows, Rows]:
    """Two texts as tokens; TaskError or AlignmentError where a patch between them has no meaning."""
    if not clean.strip() or not corrupted.strip():
        raise TaskError("A prompt is empty: type two that differ in one thing.")
    rows = tokenize(model, clean), tokenize(model, corrupted)
    check_pair(0, *rows, lambda token: str(model.to_string([token])))
    return (rows[0],), (rows[1],)


def _side_by_side(model: TransformerBridge, clean: str, corrupted: str) -> str:
    """Both prompts' tokens one above the other, those that differ marked."""
    rows = [tokenize(model, text).tolist() if text.strip() else [] for text in (clean, corrupted)]
    lines = []
    for name, row, other in (("clean", *rows), ("corrupted", *rows[::-1])):
        cells = [f"<th scope='row' style='text-align:left;padding-right:8px'>{name}</th>"]
        for i in range(max(map(len, rows))):
            token = html.escape(model.to_string([row[i]])) if i < len(row) else "&empty;"
            differs = i >= min(map(len, rows)) or row[i] != other[i]
            mark = ";font-weight:bold;background:#B2182B;color:#fff" if differs else ""  # 6.5:1 on any theme
            cells.append(f"<td style='padding:2px 5px;border:1px solid #767676{mark}'>{token}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<table aria-label='tokens of both prompts; those that differ are bold'>{''.join(lines)}</table>"
    return f"<div style='overflow-x:auto;line-height:1.6'>{table}</div>"


def _sentence(text: str) -> str:
    return f"<span role='status'>{html.escape(text)}</span>"
