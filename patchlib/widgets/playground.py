"""Type two prompts and their answers, or load a file of them, and see where the difference between them is."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import ipywidgets
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_kind, first_line
from patchlib.errors import PatchlibError
from patchlib.models.check import check_model
from patchlib.tasks.files.fit import Fitted
from patchlib.tasks.files.rows import KINDS
from patchlib.tasks.pairs import PromptPairs
from patchlib.widgets.background import BackgroundSweep
from patchlib.widgets.drawing import button, in_a_row, labelled, sentence, wide
from patchlib.widgets.pair_files import FileRows, append_pair, load_rows, put_beside
from patchlib.widgets.pair_text import (
    Named,
    answer_ids,
    check_name,
    rows_of,
    side_by_side,
    standing,
    token_rows,
    typed_pair,
)

T = TypeVar("T")

EXAMPLE = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupted": "When Mary and John went to the store, Mary gave a drink to",
    "right": "Mary",
    "wrong": "John",
}
LABELS = {"clean": "Clean prompt", "corrupted": "Corrupted prompt", "right": "Right answer", "wrong": "Wrong answer"}
SHOWN_SITES = ("resid_pre", "attn_out", "mlp_out", "z")
POSITIONS = {"all": "all", "named": "the named ones"}
NOTES = ("prompts", "right", "wrong", "names", "file")


def prompt_playground(model: TransformerBridge, example: dict[str, str] | None = None) -> ipywidgets.VBox:
    """Two prompts, their answers and a site: the tokens side by side as you type, and on Run the map of effects.

    Several answers with commas between them are a set, of which any is right (wrong); one in quotes has no space before
    it. Tokens that are selected in the list and named are a position of the map, or what every head is patched at.
    Load shows each row of a file that ``read_pairs`` reads, and what does not fit; a row that is picked fills the
    fields, and all that fit are run together. Upload puts a file of one's own computer beside the notebook first. Save
    puts the pair behind a CSV or JSONL file's rows.

    Sweeps go on in the background, one at a time; Cancel stops the one that is under way after the batch that it is in.

    Args:
        model: In eval mode.
        example: What the fields ``clean``, ``corrupted``, ``right`` and ``wrong`` start with; an IOI pair when None.

    Returns:
        A box of fields and buttons. What is wrong with an entry stands beside its field.

    Raises:
        SweepError: ``example`` has another field.

    Example:
        >>> playground = patchlib.widgets.prompt_playground(model, {"right": "Mary", "wrong": "John, Tom"})
        >>> playground.children[0].description, playground.children[0].value
        ('Clean prompt', 'When Mary and John went to the store, John gave a drink to')
    """
    check_model(model)
    example = {} if example is None else check_kind("example", example, Mapping, "give {field: text}")
    for name, text in example.items():
        check_choice("field of the example", name, LABELS)
        check_kind(f"{name} of the example", text, str, "give a text")
    return _Playground(model, {**EXAMPLE, **example}).box


class _Playground:
    """The controls, and what happens when they are used."""

    def __init__(self, model: TransformerBridge, texts: Mapping[str, str]) -> None:
        self.model = model
        self.named: Named = {}
        self.file: FileRows | None = None
        self.sweeps = BackgroundSweep(self._ended)
        self.fields = {name: labelled(ipywidgets.Text, label, value=texts[name]) for name, label in LABELS.items()}
        for name in ("clean", "corrupted"):
            self.fields[name].layout = ipywidgets.Layout(width="720px", max_width="98%")
        self.tokens, self.rows = ipywidgets.HTML(), ipywidgets.HTML()
        self.notes = {name: ipywidgets.HTML() for name in NOTES}
        self.list = labelled(ipywidgets.SelectMultiple, "Tokens", rows=6)
        self.name = wide(ipywidgets.Text, "Name", placeholder="such as verb")
        self.site = labelled(ipywidgets.Dropdown, "Site", options=SHOWN_SITES)
        self.positions = wide(
            ipywidgets.Dropdown, "Positions", options=[(label, name) for name, label in POSITIONS.items()]
        )
        self.path = labelled(ipywidgets.Text, "File", placeholder="pairs.csv")
        self.path.layout.width = "420px"
        self.upload = ipywidgets.FileUpload(accept=",".join(KINDS), multiple=False, tooltip="Upload a file of pairs")
        self.row = labelled(ipywidgets.Dropdown, "Row", options=[("", None)], disabled=True)
        self.run = button("Run", self._run_pair, button_style="primary")
        self.run.layout.width = "100px"
        self.run_file = button("Run all rows that fit", self._run_file, disabled=True)
        self.run_file.layout.width = "auto"
        name, clear = button("Name them", self._name), button("Clear names", self._clear_names)
        load, save = button("Load", self._load), button("Save the pair", self._save)
        for field in self.fields.values():
            field.observe(self.check, "value")
        self.row.observe(self._pick, "value")
        self.upload.observe(self._uploaded, "value")
        self.check()
        answers = [in_a_row(self.fields[which], self.notes[which]) for which in ("right", "wrong")]
        self.box = ipywidgets.VBox(
            [
                self.fields["clean"], self.fields["corrupted"], self.tokens, self.notes["prompts"], *answers,
                in_a_row(self.list, ipywidgets.VBox([self.name, in_a_row(name, clear)]), self.notes["names"]),
                in_a_row(self.site, self.positions, self.run, self.sweeps.cancel),
                in_a_row(self.sweeps.progress, self.sweeps.note),
                in_a_row(self.path, load, self.upload, save, self.notes["file"]),
                self.rows, in_a_row(self.row, self.run_file), self.sweeps.output,
            ]
        )  # fmt: skip

    def attempt(self, note: str, make: Callable[[], T]) -> T | None:
        """What ``make`` gives; None where it cannot be made, and the note says why."""
        self.notes[note].value = ""
        try:
            return make()
        except PatchlibError as error:
            self.notes[note].value = sentence(first_line(error))
            return None

    def check(self, change: object = None) -> PromptPairs | None:
        """Show the tokens, and beside each field what is wrong with it; the pair if nothing is."""
        clean, corrupted, right, wrong = (field.value for field in self.fields.values())
        both = token_rows(self.model, clean, corrupted)
        self.tokens.value = side_by_side(self.model, both, self.named)
        options = [(f"{i}: {self.model.to_string([token])}", i) for i, token in enumerate(both[0])]
        if options != list(self.list.options):  # or what is selected would be no more
            self.list.options = options
        lost = [name for name in self.named if name not in standing(self.named, both[0])]
        self.notes["names"].value = sentence(f"Other tokens stand where {', '.join(lost)} was.") if lost else ""
        rows = self.attempt("prompts", lambda: rows_of(self.model, clean, corrupted))
        good = self.attempt("right", lambda: answer_ids(self.model, "right", right))
        bad = self.attempt("wrong", lambda: answer_ids(self.model, "wrong", wrong))
        if rows is None or good is None or bad is None:
            return None
        return self.attempt("wrong", lambda: typed_pair(self.model, rows, (good, bad), self.named))

    def _name(self) -> None:
        chosen = [int(index) for index in self.list.value]
        if (name := self.attempt("names", lambda: check_name(self.name.value, chosen))) is not None:
            (row, _) = token_rows(self.model, self.fields["clean"].value, "")
            self.named = {**self.named, name: [(index, row[index]) for index in chosen]}
            self.check()

    def _clear_names(self) -> None:
        self.named = {}
        self.check()

    def _uploaded(self, change: Mapping[str, Any]) -> None:
        for sent in change["new"]:  # one at most
            if file := self.attempt("file", partial(put_beside, sent["name"], bytes(sent["content"]))):
                self.path.value = str(file)
                self._load()

    def _load(self) -> None:
        self.file = self.attempt("file", lambda: load_rows(self.model, self.path.value))
        self.run_file.disabled = self.file is None or not self.file.fitted or self.run.disabled
        self.rows.value = "" if self.file is None else self.file.table()
        rows = [] if self.file is None else self.file.rows
        self.row.options = [("", None), *((str(row.row), i) for i, row in enumerate(rows))]
        self.row.disabled = not rows
        if self.file is not None:
            self.notes["file"].value = sentence(str(self.file))

    def _pick(self, change: Mapping[str, Any]) -> None:
        if self.file is None or change["new"] is None:
            return
        row = self.file.rows[change["new"]]
        texts = self.file.texts[change["new"]]
        is_fitted = isinstance(row, Fitted)
        self.named = (
            {name: [(index, row.clean[index]) for index in where] for name, where in row.positions.items()}
            if isinstance(row, Fitted)
            else {}
        )
        for name, field in self.fields.items():
            field.value = texts.get(name, "")
        self.check()
        self.notes["file"].value = sentence(f"{row.row} fits." if is_fitted else f"{row.row} {row.detail}")

    def _save(self) -> None:
        pair = self.check()
        if pair is None:
            self.notes["file"].value = sentence("Not saved: mend what is said above first.")
        elif (saved := self.attempt("file", lambda: append_pair(self.model, pair, self.path.value))) is not None:
            self._load()
            self.notes["file"].value = sentence(f"Saved as row {saved[1]} of {saved[0]}.")

    def _run_pair(self) -> None:
        pairs = self.check()
        if pairs is None:
            self.sweeps.say("Not run: mend what is said above first.")
        else:
            self._start(pairs, "your prompts")

    def _run_file(self) -> None:
        file = self.file
        pairs = None if file is None else self.attempt("file", file.pairs)
        if file is not None and pairs is not None:
            self._start(pairs, f"{len(pairs)} rows of {file.reading.name}")

    def _start(self, pairs: PromptPairs, whose: str) -> None:
        named = [name for name in pairs.positions if name != "END"] if self.positions.value == "named" else None
        if named == []:
            self.sweeps.say("Not run: no token is named; select some and name them first.")
            return
        self.run.disabled, self.run_file.disabled = True, True
        self.sweeps.start(self.model, pairs, self.site.value, named, whose)

    def _ended(self) -> None:
        self.run.disabled, self.run_file.disabled = False, self.file is None or not self.file.fitted
