"""The playground: pairs that are typed, spans and sets of answers, files of pairs, and pairs that are saved."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest

import patchlib
from patchlib import SweepError
from patchlib.plots.style import PLOTLY_MIME
from patchlib.tasks.tokens import tokenize
from patchlib.widgets import prompt_playground
from patchlib.widgets.pair_text import answer_ids, answer_text
from tests.tiny import load_tiny
from tests.widgets.boxes import field, walk

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


@pytest.fixture(scope="module")
def model():
    return load_tiny("llama")


def wait_until(done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


TEXTS = {"clean": "the store and the park", "corrupted": "the store and the book", "right": "drink", "wrong": "gift"}


def said(box):
    """What stands beside the prompts, the two answers, the names, the buttons and the file."""
    return [widget.value for widget in walk(box) if isinstance(widget, ipywidgets.HTML)][1:7]


def test_the_playground_runs_a_good_pair_and_says_what_is_wrong_with_a_bad_one(model):
    box = prompt_playground(model, TEXTS)
    output = next(widget for widget in walk(box) if isinstance(widget, ipywidgets.Output))
    assert said(box) == [""] * 6
    field(box, "Run").click()
    wait_until(lambda: not field(box, "Run").disabled)
    figure = output.outputs[0]["data"][PLOTLY_MIME]
    assert "Denoising resid_pre, your prompts" in figure["layout"]["title"]["text"]
    field(box, "Corrupted prompt").value = "the store"
    assert "tokens and its corrupted prompt" in said(box)[0]
    field(box, "Corrupted prompt").value = TEXTS["corrupted"]
    field(box, "Right answer").value = ""
    field(box, "Run").click()
    assert not field(box, "Run").disabled and "right answer is empty" in said(box)[1]


def test_an_example_has_only_the_fields_that_there_are(model):
    with pytest.raises(SweepError, match="Unknown field of the example 'rigth': choose 'clean'"):
        prompt_playground(model, {"rigth": "drink"})


def test_cancel_stops_the_sweep(model, monkeypatch):
    begun = []

    def slow(*args, progress, **kwargs):
        for i in range(10_000):  # longer than is waited for, if it is not cancelled
            begun.append(i)
            time.sleep(0.01)
            progress(i, 10_000)

    monkeypatch.setattr("patchlib.widgets.background.sweep", slow)
    box = prompt_playground(model, TEXTS)
    field(box, "Run").click()
    wait_until(lambda: len(begun) > 3)
    assert field(box, "Run").disabled
    field(box, "Cancel").click()
    wait_until(lambda: not field(box, "Run").disabled)
    assert len(begun) < 10_000 and "Cancelled" in said(box)[4]


def test_answers_of_two_tokens_and_prompts_that_do_not_align_are_refused_beside_their_field(model):
    assert model.to_string(answer_ids(model, "right", " drink ")) == " drink"
    with pytest.raises(patchlib.TaskError, match=r"wrong answer 'unbelievablelongword' is \d+ tokens"):
        answer_ids(model, "wrong", "unbelievablelongword")
    box = prompt_playground(model, {**TEXTS, "wrong": "unbelievablelongword", "corrupted": "the store"})
    prompts, right, wrong, _, run, _ = said(box)
    assert "tokens and its corrupted prompt" in prompts and not right and "unbelievablelongword" in wrong and not run
    field(box, "Run").click()
    assert not field(box, "Run").disabled and "Not run" in said(box)[4]


def test_a_pair_without_contrast_says_so(model):
    box = prompt_playground(model, {**TEXTS, "right": "gift", "wrong": "drink"})
    field(box, "Run").click()
    wait_until(lambda: not field(box, "Run").disabled)
    fine = prompt_playground(model, TEXTS)
    field(fine, "Run").click()
    wait_until(lambda: not field(fine, "Run").disabled)
    assert sorted("no usable contrast" in said(playground)[4] for playground in (box, fine)) == [False, True]


def press(box, button):
    field(box, button).click()
    wait_until(lambda: not field(box, "Run").disabled)


def shown(box):
    """The figure's title, the names of its columns, and its numbers."""
    output = next(widget for widget in walk(box) if isinstance(widget, ipywidgets.Output))
    return output.outputs[0]["data"][PLOTLY_MIME]


def name_tokens(box, name, indices):
    field(box, "Tokens").value = indices
    field(box, "Name").value = name
    field(box, "Name them").click()


def test_tokens_that_are_named_are_columns_of_the_map_and_what_heads_are_patched_at(model, monkeypatch):
    calls = []
    sweep = patchlib.sweep

    def noted(*args, **kwargs):
        calls.append((args[3], kwargs["positions"], sweep(*args, **kwargs)))
        return calls[-1][-1]

    monkeypatch.setattr("patchlib.widgets.background.sweep", noted)
    box = prompt_playground(model, TEXTS)
    labels = [label for label, _ in field(box, "Tokens").options]
    row = tokenize(model, TEXTS["clean"])
    assert labels == [f"{i}: {model.to_string([token])}" for i, token in enumerate(row.tolist())]
    field(box, "Positions").value = "named"
    press(box, "Run")
    assert "no token is named" in said(box)[4] and not calls
    name_tokens(box, "last two", (3, 4))
    name_tokens(box, "where", (1,))
    press(box, "Run")
    over, positions, result = calls[-1]
    assert over == ("layer", "role") and set(positions) == {"last two", "where", "END"}
    pair = patchlib.PromptPairs(
        row[None], tokenize(model, TEXTS["corrupted"])[None],
        [(answer_ids(model, "", "drink")[0], answer_ids(model, "", "gift")[0])],
        roles={"where": [1]}, spans={"last two": [(3, 4)]},
    )  # fmt: skip
    by_hand = patchlib.sweep(model, pair, "resid_pre", ("layer", "role"), positions=positions, progress=False)
    np.testing.assert_array_equal(result.patched, by_hand.patched)
    field(box, "Site").value = "z"
    press(box, "Run")
    assert calls[-1][:2] == (("layer", "head"), ["where", "last two"])
    assert "Denoising z at where, last two" in shown(box)["layout"]["title"]["text"].replace("<br>", " ")


def test_a_name_that_lost_its_tokens_is_said_and_left_out_until_they_are_back(model):
    box = prompt_playground(model, TEXTS)
    for name, indices, wrong in (
        ("", (1,), "cannot be"), ("a:b", (1,), "cannot be"), ("end", (1,), "always"), ("x", (), "No token is selected"),
    ):  # fmt: skip
        name_tokens(box, name, indices)
        assert wrong in said(box)[3]
    name_tokens(box, "place", (2,))
    table = next(widget for widget in walk(box) if isinstance(widget, ipywidgets.HTML))
    assert said(box)[3] == "" and "place" in table.value
    field(box, "Clean prompt").value = "the book and the park"
    assert "Other tokens stand where place was" in said(box)[3] and "place" not in table.value
    field(box, "Clean prompt").value = TEXTS["clean"]
    assert said(box)[3] == "" and "place" in table.value
    field(box, "Clear names").click()
    assert "place" not in table.value


def test_answers_between_commas_are_a_set_and_quotes_keep_a_word_as_it_stands(model):
    ids = answer_ids(model, "right", 'drink, "book" , gift,drink')
    assert [model.to_string([token]) for token in ids] == [" drink", "book", " gift"]
    assert answer_ids(model, "right", answer_text([" drink", "book", " gift"])) == ids
    box = prompt_playground(model, {**TEXTS, "right": "drink, letter", "wrong": "gift, book"})
    assert said(box) == [""] * 6
    press(box, "Run")
    assert "Denoising resid_pre" in shown(box)["layout"]["title"]["text"]
    field(box, "Wrong answer").value = "gift, drink"
    assert "' drink' is among the right and the wrong ones" in said(box)[2].replace("&#x27;", "'")
    field(box, "Wrong answer").value = " , "
    assert "wrong answer is empty" in said(box)[2]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_pair_is_saved_behind_a_files_rows_and_comes_back_with_its_names_and_sets(model, tmp_path, suffix):
    box = prompt_playground(model, {**TEXTS, "right": "drink, letter"})
    name_tokens(box, "place", (2,))
    name_tokens(box, "end words", (3, 4))
    path = tmp_path / f"own.{suffix}"
    field(box, "File").value = str(path)
    field(box, "Save the pair").click()
    assert f"Saved as row 1 of {path}" in said(box)[5]
    field(box, "Save the pair").click()
    assert "is the same as row 1" in said(box)[5]
    field(box, "Right answer").value = "pencil, letter"
    field(box, "Save the pair").click()
    assert "Saved as row 2" in said(box)[5] and [file.name for file in tmp_path.iterdir()] == [path.name]
    pairs = patchlib.read_pairs(path, model)
    assert (pairs.name, pairs.roles["place"].tolist(), pairs.spans) == ("own", [2, 2], {"end words": ((3, 4), (3, 4))})
    wanted = [({*answer_ids(model, "", right)}, {*answer_ids(model, "", "gift")})
              for right in ("drink, letter", "pencil, letter")]  # fmt: skip
    assert [({*right}, {*wrong}) for right, wrong in pairs.answer_sets] == wanted
    assert pairs.clean_tokens[0].tolist() == tokenize(model, TEXTS["clean"]).tolist()
    before = path.read_bytes()
    name_tokens(box, "more", (1,))
    field(box, "Right answer").value = "book"
    field(box, "Save the pair").click()
    assert ("no column" if suffix == "csv" else "names") in said(box)[5] and path.read_bytes() == before


def test_a_pair_goes_into_somebody_elses_columns_and_nothing_else_of_the_file_changes(model, tmp_path):
    path = tmp_path / "theirs.csv"
    header, row = (
        "id;corrupt;clean;answers;wrong_answers",
        "7;the store and the book;the store and the park; drink; gift",
    )
    before = f"\ufeff{header}\r\n{row}".encode()
    path.write_bytes(before)
    box = prompt_playground(model, {**TEXTS, "right": "letter"})
    field(box, "File").value = str(path)
    field(box, "Save the pair").click()
    assert "Saved as row 2" in said(box)[5] and path.read_bytes().startswith(before)
    assert len(patchlib.read_pairs(path, model)) == 2


@pytest.mark.parametrize(
    ("path", "wrong"), [("", "ends in .csv"), ("a.txt", "ends in .csv"), ("no/such/a.csv", "cannot be written")]
)
def test_a_path_that_cannot_be_saved_to_is_one_line(model, tmp_path, monkeypatch, path, wrong):
    monkeypatch.chdir(tmp_path)
    box = prompt_playground(model, TEXTS)
    field(box, "File").value = path
    field(box, "Save the pair").click()
    assert wrong in said(box)[5]
    field(box, "Right answer").value = ""
    field(box, "Save the pair").click()
    assert "Not saved" in said(box)[5]


FILE = """clean,corrupted,answer,wrong_answer,role:place
the store and the park,the store and the book, drink, gift,store
the store and the park,the store, drink, gift,store
the park and a store,the book and a store,drink," gift",park
,,,,
"""


def test_a_file_is_a_table_that_says_what_does_not_fit_and_whose_rows_fill_the_fields(model, tmp_path):
    path = tmp_path / "words.csv"
    path.write_text(FILE)
    box = prompt_playground(model, TEXTS)
    assert field(box, "Run all rows that fit").disabled and field(box, "Row").disabled
    field(box, "File").value = str(path)
    field(box, "Load").click()
    assert "words.csv (pairs): 2 of 4 rows fit" in said(box)[5]
    table = [widget.value for widget in walk(box) if isinstance(widget, ipywidgets.HTML)][7]
    assert table.count("<tr>") == 5 and "<b>no, length</b>: has a clean prompt of 6 tokens" in table
    assert "<b>no, unreadable</b>: is empty" in table and table.count("<td") == 24
    field(box, "Row").value = 2
    values = [field(box, label).value for label in ("Clean prompt", "Corrupted prompt", "Right answer", "Wrong answer")]
    assert values == ["the park and a store", "the book and a store", '"drink"', "gift"] and "row 3" in said(box)[5]
    field(box, "Row").value = 1
    assert (
        "row 2 (line 3) has a clean prompt of 6 tokens" in said(box)[5] and "tokens and its corrupted" in said(box)[0]
    )
    field(box, "Row").value = 0
    assert said(box)[:5] == [""] * 5
    field(box, "Positions").value = "named"
    press(box, "Run all rows that fit")
    assert "Denoising resid_pre, 2 rows of words.csv" in shown(box)["layout"]["title"]["text"]
    press(box, "Run")
    assert "your prompts" in shown(box)["layout"]["title"]["text"]
    field(box, "File").value = str(tmp_path / "none.csv")
    field(box, "Load").click()
    assert "none.csv is not there" in said(box)[5] and field(box, "Run all rows that fit").disabled


def test_an_uploaded_file_is_put_beside_the_notebook_and_never_over_another(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    box = prompt_playground(model, TEXTS)
    upload = next(widget for widget in walk(box) if isinstance(widget, ipywidgets.FileUpload))

    def send(name, text):
        sent = {"name": name, "type": "text/csv", "size": len(text), "content": memoryview(text.encode())}
        upload.value = ({**sent, "last_modified": datetime.now(UTC)},)

    send("../words.csv", FILE)
    assert (tmp_path / "words.csv").read_text() == FILE and field(box, "File").value == "words.csv"
    assert "words.csv (pairs): 2 of 4 rows fit" in said(box)[5]
    send("words.csv", FILE.replace("drink", "letter"))
    assert "there already, with other content" in said(box)[5] and (tmp_path / "words.csv").read_text() == FILE
    send("", FILE)
    assert "cannot be written" in said(box)[5]


def test_of_a_large_file_some_rows_are_drawn_and_so_it_is_said(model, tmp_path, monkeypatch):
    monkeypatch.setattr("patchlib.widgets.pair_files.MOST_ROWS", 3)
    path = tmp_path / "many.csv"
    lines = [
        f"the store and the park,the store and the book, {word}, gift" for word in ("drink", "letter", "pencil", "book")
    ]
    path.write_text("\n".join(["clean,corrupted,answer,wrong_answer", *lines]))
    box = prompt_playground(model, TEXTS)
    field(box, "File").value = str(path)
    field(box, "Load").click()
    assert "3 of 3 rows fit, drawn from 4" in said(box)[5] and len(field(box, "Row").options) == 4
    path.write_text("clean,corrupted,correct_idx,incorrect_idx\na b,a c,70000,3\n")
    field(box, "Load").click()
    assert "token ids" in said(box)[5] and len(field(box, "Row").options) == 1
