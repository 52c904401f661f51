"""Files of prompts: each shape that people have, what does not fit, and the way there and back."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import patchlib
from patchlib.errors import TaskError
from patchlib.tasks.files.rows import open_rows, sampled
from patchlib.tasks.tokens import tokenize, tokenizer_name
from tests.helpers import make_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
CLEAN = "When Mary and John went to the store, John gave a drink to"
OTHER = "When Sarah and Michael went to the park, Michael gave a book to"
ROWS = [
    {"clean": CLEAN, "corrupted": CLEAN.replace(", John", ", Mary"), "answer": " Mary", "wrong_answer": " John"},
    {
        "clean": OTHER,
        "corrupted": OTHER.replace(", Michael", ", Sarah"),
        "answer": " Sarah",
        "wrong_answer": " Michael",
    },
]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return load_tiny(request.param)


def write_csv(path, rows, **how):
    with path.open("w", newline="", encoding=how.pop("encoding", "utf-8")) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), **how)
        writer.writeheader()
        writer.writerows(rows)
    return path


def same_task(one, other):
    for rows in ("clean_tokens", "corrupted_tokens"):
        assert [row.tolist() for row in getattr(one, rows)] == [row.tolist() for row in getattr(other, rows)]
    assert one.answers.tolist() == other.answers.tolist()
    assert {role: index.tolist() for role, index in one.roles.items()} == {
        role: index.tolist() for role, index in other.roles.items()
    }
    for name in ("spans", "answer_sets", "continuations", "groups", "clusters", "name", "seed"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.metadata.items() <= other.metadata.items() | one.metadata.items()


# ---- Shapes


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolons", "bom", "json", "columns", "jsonl", "parquet"])
def test_the_same_rows_in_every_kind_of_file(model, tmp_path, kind):
    path = tmp_path / "pairs.csv"
    match kind:
        case "csv":
            write_csv(path, ROWS)
        case "tsv":
            path = write_csv(tmp_path / "pairs.tsv", ROWS, delimiter="\t")
        case "semicolons":
            write_csv(path, ROWS, delimiter=";")
        case "bom":  # as Excel writes it, with its line ends
            write_csv(path, ROWS, encoding="utf-8-sig", lineterminator="\r\n")
        case "json":
            path = tmp_path / "pairs.json"
            path.write_text(json.dumps(ROWS))
        case "columns":
            path = tmp_path / "pairs.json"
            path.write_text(json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}))
        case "jsonl":
            path = tmp_path / "pairs.jsonl"
            path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
        case "parquet":
            pytest.importorskip("pyarrow")
            path = tmp_path / "pairs.parquet"
            pd.DataFrame(ROWS).to_parquet(path)
    pairs = patchlib.read_pairs(path, model)
    assert [row.tolist() for row in pairs.clean_tokens] == [tokenize(model, row["clean"]).tolist() for row in ROWS]
    assert pairs.answers.tolist() == [
        [model.to_single_token(row[n]) for n in ("answer", "wrong_answer")] for row in ROWS
    ]
    assert pairs.roles["END"].tolist() == [len(row) - 1 for row in pairs.clean_tokens] and pairs.name == "pairs"
    assert pairs.metadata["file"] == path.name and pairs.metadata["file_rows"] == 2
    assert "task_file_sha256" in sweep(model, pairs, "resid_pre", ("layer",), layers=[0]).attrs


def test_own_columns_by_name_and_positions(model, tmp_path):
    rows = [
        {
            "q": row["clean"],
            "foil": row["corrupted"],
            "good": row["answer"],
            "bad": row["wrong_answer"],
            "who": who,
            "at": -1,
        }
        for row, who in zip(ROWS, ["Mary", "Sarah"], strict=True)
    ]
    columns = {"clean": "q", "corrupted": "foil", "answer": "good", "wrong_answer": "bad", "role:IO": "who"}
    columns |= {"position:last": "at", "span:people": "who"}
    pairs = patchlib.read_pairs(write_csv(tmp_path / "own.csv", rows), model, columns=columns)
    names = [model.to_string([int(row[i])]) for row, i in zip(pairs.clean_tokens, pairs.roles["IO"], strict=True)]
    assert names == [" Mary", " Sarah"] and torch.equal(pairs.roles["last"], pairs.roles["END"])
    assert pairs.spans["people"] == tuple((int(i),) for i in pairs.roles["IO"])
    for wrong, says in [
        ({**columns, "clean": "question"}, "own.csv has no column 'question', which columns= names for 'clean'"),
        ({**columns, "prompts": "q"}, "columns= names 'prompts', which is no column that is read"),
        ([("clean", "q")], "columns cannot be a list"),
        (None, "own.csv has the columns q, foil, .*, which are no format that is known: 'pairs' has clean, corrupted"),
    ]:
        with pytest.raises(TaskError, match=says):
            patchlib.read_pairs(tmp_path / "own.csv", model, columns=wrong)


def test_eap_ig_s_ids_are_taken_where_they_are_this_tokenizer_s(model, tmp_path):
    """Its ioi.csv has prompts and the ids of two names, of a tokenizer that it does not name."""
    rows = [
        {
            "clean": row["clean"],
            "corrupted": row["corrupted"],
            "correct_idx": model.to_single_token(row["answer"]),
            "incorrect_idx": model.to_single_token(row["wrong_answer"]),
        }
        for row in ROWS
    ]
    pairs = patchlib.read_pairs(write_csv(tmp_path / "ioi.csv", rows), model)
    assert pairs.answers.tolist() == [[row["correct_idx"], row["incorrect_idx"]] for row in rows]
    assert pairs.metadata["file_format"] == "eap-ig"
    rows[1]["correct_idx"] += 1
    with pytest.raises(
        TaskError, match=r"ioi.csv, row 2 \(line 3\) has token ids .* which belong to one tokenizer"
    ) as error:
        patchlib.read_pairs(write_csv(tmp_path / "ioi.csv", rows), model)
    assert "\n" not in str(error.value)
    assert len(patchlib.read_pairs(tmp_path / "ioi.csv", model, tokenizer=tokenizer_name(model))) == 2
    with pytest.raises(TaskError, match="has token ids of the tokenizer gpt2, but this model's is"):
        patchlib.read_pairs(tmp_path / "ioi.csv", model, tokenizer="gpt2")
    rows[1]["correct_idx"] = 10**6
    with pytest.raises(TaskError, match="has the token id 1000000, but the model knows 0 to"):
        patchlib.read_pairs(write_csv(tmp_path / "ioi.csv", rows), model, tokenizer=tokenizer_name(model))


def test_greater_than_files_say_a_year_and_mean_those_above_it(tmp_path):
    """EAP-IG's have a label of one or two digits; this tokenizer writes digits one by one: tens are compared."""
    model = load_tiny("gpt2")
    text = "The war lasted from the year 17{} to the year 17"
    rows = [
        {"clean": text.format(y), "corrupted": text.format("01"), "label": int(y)} for y in ("32", "54", "97", "04")
    ]
    path = write_csv(tmp_path / "gt.csv", rows)
    pairs = patchlib.read_pairs(path, model, on_misfit="drop")
    digits = [[sorted(model.to_string([token]).strip() for token in ids) for ids in two] for two in pairs.answer_sets]
    assert digits[0] == [list("456789"), list("012")] and digits[1] == [list("6789"), list("01234")]
    with pytest.raises(TaskError, match=r"row 3 \(line 4\) the year \.\.97 has no later years of its century"):
        patchlib.read_pairs(path, model)
    rows[0]["label"] = 132
    with pytest.raises(TaskError, match="has '132' in 'label', which is no year's last two digits"):
        patchlib.read_pairs(write_csv(path, rows), model)


def test_agreement_files_say_the_number(model, tmp_path):
    rows = [{"clean": "The keys to the cabinet", "corrupted": "The key to the cabinet", "plural": 1}]
    model_words = {
        word: len(model.tokenizer([word], add_special_tokens=False)["input_ids"][0]) for word in (" are", " do")
    }
    if model_words[" do"] > 1:  # this tokenizer has no such verb
        with pytest.raises(
            TaskError, match=r"row 1 \(line 2\) has ' .*' among several answers, which takes more than one"
        ):
            patchlib.read_pairs(write_csv(tmp_path / "sva.csv", rows), model)
    rows[0]["plural"] = "many"
    with pytest.raises(TaskError, match="has 'many' in 'plural', which is neither 0 nor 1"):
        patchlib.read_pairs(write_csv(tmp_path / "sva.csv", rows), model)


def test_auto_circuit_s_json(model, tmp_path):
    """Prompts with lists of answers, and positions counted without BOS, said once for all of them."""
    prompts = [
        {
            "clean": row["clean"],
            "corrupt": row["corrupted"],
            "answers": [row["answer"]],
            "wrong_answers": [row["wrong_answer"], " Bob"],
        }
        for row in ROWS
    ]
    content = {"seq_labels": ["When"], "word_idxs": {"IO": 1, "S1": 3, "end": 13}, "prompts": prompts}
    path = tmp_path / "ioi_prompts.json"
    path.write_text(json.dumps(content))
    pairs = patchlib.read_pairs(path, model)
    n_bos = int(model.cfg.default_prepend_bos)
    assert pairs.roles["IO"].tolist() == [1 + n_bos] * 2 and list(pairs.roles) == ["IO", "S1", "END"]
    bob = model.to_single_token(" Bob")
    assert pairs.answer_sets[0] == ((int(pairs.answers[0, 0]),), (int(pairs.answers[0, 1]), bob))
    path.write_text(json.dumps(content | {"word_idxs": {"IO": 99}}))
    with pytest.raises(TaskError, match=r"ioi_prompts.json, row 1 has no position 'IO': there is no token 99"):
        patchlib.read_pairs(path, model)


def test_mib_s_rows_have_choices_and_counterfactuals(model, tmp_path):
    def side(row, right):
        choices = [row["answer"][1:], row["wrong_answer"][1:]]
        return {"prompt": row["clean" if right else "corrupted"], "choices": choices, "answerKey": int(not right)}

    rows = [
        {**side(row, True), "abc_counterfactual": side(row, True), "s2_io_flip_counterfactual": side(row, False)}
        for row in ROWS
    ]
    path = tmp_path / "mib.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    pairs = patchlib.read_pairs(path, model)
    plain = patchlib.read_pairs(write_csv(tmp_path / "pairs.csv", ROWS), model)
    assert pairs.answers.tolist() == plain.answers.tolist()
    assert [row.tolist() for row in pairs.corrupted_tokens] == [row.tolist() for row in plain.corrupted_tokens]
    with pytest.raises(TaskError, match=r"row 1 .* has a counterfactual with the same answer, ' Mary': name another"):
        patchlib.read_pairs(path, model, columns={"corrupted": "abc_counterfactual"})
    for row in rows:  # multiple choice has labels
        for part in (row, *(value for value in row.values() if isinstance(value, dict))):
            part["choices"] = {"label": [" Mary", " John"], "text": ["a", "b"]}
    path.write_text("\n".join(map(json.dumps, rows)))
    assert patchlib.read_pairs(path, model).answers[0].tolist() == plain.answers[0].tolist()


# ---- What does not fit


def test_rows_that_do_not_fit_are_refused_by_number_or_dropped(model, tmp_path):
    good = ROWS[0]
    long = {**good, "corrupted": good["corrupted"].replace("store", "unbelievable store")}
    rows = [good, long, good, {**good, "corrupted": good["clean"]}, {**good, "wrong_answer": " Mary"}, ROWS[1]]
    rows += [
        {**good, "answer": ""},
        {name: "" for name in good},
        {**good, "answer": " Mary Mary", "wrong_answer": " Mary Bob"},
    ]
    path = write_csv(tmp_path / "mixed.csv", rows)
    with pytest.raises(
        TaskError, match=r"mixed.csv, row 2 \(line 3\) has a clean prompt of \d+ tokens and a corrupted one"
    ):
        patchlib.read_pairs(path, model)
    pairs = patchlib.read_pairs(path, model, on_misfit="drop")
    assert len(pairs) == 2 and pairs.metadata["n_dropped"] == 7
    with pytest.raises(TaskError, match="on_misfit"):
        patchlib.read_pairs(path, model, on_misfit="skip")
    with pytest.raises(
        TaskError, match=r"has no row that fits \(1 rows; the first, row 1 \(line 2\), has a clean prompt"
    ):
        patchlib.read_pairs(write_csv(path, [long]), model, on_misfit="drop")


def test_limit_draws_the_same_rows_and_streams_the_rest(model, tmp_path):
    rows = [{**ROWS[0], "clean": CLEAN.replace("drink", word), "corrupted": ROWS[0]["corrupted"].replace("drink", word)}
            for word in patchlib.tasks.words.OBJECTS[:40]]  # fmt: skip
    path = write_csv(tmp_path / "many.csv", rows)
    one, again, other = (patchlib.read_pairs(path, model, limit=5, seed=seed) for seed in (0, 0, 1))
    texts = [model.to_string(row) for row in one.clean_tokens]
    assert texts == [model.to_string(row) for row in again.clean_tokens]
    assert texts != [model.to_string(row) for row in other.clean_tokens]
    assert one.metadata["file_sample"] == 5 and one.metadata["file_rows"] == 40
    drawn, count = sampled(open_rows(path).rows, 5, 0)
    assert [row.number for row in drawn] == sorted(row.number for row in drawn) and count == [40]
    # Every row is as likely as any other.
    counts = np.bincount(
        [row.number for s in range(400) for row in sampled(open_rows(path).rows, 5, s)[0]], minlength=41
    )
    assert counts[1:].min() > 20 and counts[1:].max() < 85  # 50 each, with a spread of 6.6


G = "clean,corrupted,answer,wrong_answer"
GOOD = ",".join(f'"{cell}"' for cell in ROWS[0].values())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", f"{G}\n", r"a.csv has no row that fits \(0 rows\)"),
        ("a.csv", f"{G}\n{GOOD}\n,,,\n", r"a.csv, row 2 \(line 3\) is empty"),
        ("a.csv", f"{G}\n{GOOD},x", r"row 1 \(line 2\) has 5 cells, but the header 4"),
        ("a.csv", f'{G}\n"{CLEAN},{CLEAN}\n{GOOD}', r"row 1 \(line 3\) cannot be read .* write a quote inside as"),
        ("a.csv", f"{G},clean\n{GOOD},x", "a.csv has the column 'clean' twice"),
        ("a.csv", "clean,corrupted,answer\n1,2,3", "which are no format that is known"),
        ("a.csv", f"{G}\n{GOOD}".replace("drink", "caf\u00e9").encode("latin-1"), "not UTF-8 .byte 0xe9 in line 2"),
        ("a.csv", f"{G}\n{GOOD}".encode("utf-16"), "a.csv is UTF-16"),
        (
            "a.csv",
            f"{G}\n{GOOD}".replace("drink", "dr\0ink"),
            r"row 1 \(line 2\) cannot be read: A prompt must be a text",
        ),
        ("a.csv", f"{G},role:x\n{GOOD},Zoe", "has no position 'x': the span 'Zoe' is not in"),
        ("a.csv", f"{G},role:x\n{GOOD},John", "stands 2 times in .*: say which with .*occurrence"),
        ("a.csv", f"{G},role:x:middle\n{GOOD},Mary", "whose last word must be first, last or all"),
        ("a.csv", f"{G},position:x\n{GOOD},two", "has no token index in 'position:x', but 'two'"),
        ("a.csv", f"{G},positions:x\n{GOOD},2 2", "has a token twice"),
        ("a.csv", f"{G},position:END\n{GOOD},3", "names END, but not as its last token"),
        ("a.csv", f"{G},seed\n{GOOD},x", "row 1 has a seed that is no whole number"),
        ("a.csv", f"{G},metadata\n{GOOD},[1]", "a.csv: metadata of the file cannot be a list"),
        ("a.json", "{", "a.json is no JSON"),
        ("a.json", "[1, 2]", "a.json has no row with columns; the first, row 1, is no object with columns, but 1"),
        ("a.jsonl", '{"a":' * 5000 + "1" + "}" * 5000, r"the first, row 1 .line 1., is no JSON .maximum recursion"),
        ("a.csv", f"{G}\n{GOOD}\n".replace("\n", "\r"), "a.csv ends its lines with CR alone: save it"),
        ("a.json", "{}\n{}", "one object a line is JSONL"),
        ("a.json", "[" * 100_000, "a.json is no JSON"),
        ("a.json", '{"prompts": []}', "a.json has no rows with columns"),
        ("a.jsonl", json.dumps(ROWS[0]) + "\n{", r"a.jsonl, row 2 \(line 2\) is no JSON"),
        ("a.jsonl", json.dumps({**ROWS[0], "clean": None}), "has nothing in the column 'clean'"),
        ("a.jsonl", json.dumps({**ROWS[0], "answer": {"a": 1}}), "has no text or texts in 'answer'"),
        ("a.jsonl", json.dumps({**ROWS[0], "clean": [1, 2], "corrupted": [1, 3]}), "nothing says to which"),
        (
            "a.jsonl",
            json.dumps({**ROWS[0], "answer": [" Mary", " John"]}),
            "' John' among its right and among its wrong",
        ),
        ("a.jsonl", json.dumps({**ROWS[0], "answer": [" Mary", " Mary Bob"]}), "takes more than one token"),
        ("a.jsonl", json.dumps({**ROWS[0], "clean": CLEAN * 20}), r"row 1 \(line 1\) has a clean prompt of \d+ tokens"),
        ("a.parquet", "junk", "cannot be read as Parquet"),
        ("a.xlsx", "PK", "a.xlsx is no kind of file that is read here"),
    ],
)
def test_odd_files_are_one_line_with_the_row_s_number(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TaskError, match=says) as error:
        patchlib.read_pairs(path, load_tiny("gpt2"))
    assert "\n" not in str(error.value)
    with pytest.raises(TaskError, match=r"cannot be .*File name too long"):
        patchlib.read_pairs("x" * 5000 + ".csv", load_tiny("gpt2"))


# ---- There and back


@pytest.mark.parametrize("write", [patchlib.to_csv, patchlib.to_jsonl])
def test_tasks_come_back_from_files(model, tmp_path, write):
    ioi = patchlib.IOIDataset(model, n_prompts=6).to_pairs(model)
    names = patchlib.InductionDataset(model, n_prompts=3, seq_len=4).to_pairs(model)
    random = replace(make_pairs(model), spans={"two": [[1, 2]] * 4}, seed=3)  # whose texts do not turn back
    sets = replace(ioi, answer_sets=tuple(((int(a), 70 + i), (int(b),)) for i, (a, b) in enumerate(ioi.answers)))
    steps = replace(random, answers=[([5, 9, 11], [7]), ([4], [8, 30]), ([3, 3], [6, 2]), ([2, 50], [60, 61])])
    for i, task in enumerate((ioi, names, random, sets, steps)):
        path = write(task, model, tmp_path / f"{i}.{'csv' if write is patchlib.to_csv else 'jsonl'}")
        same_task(task, patchlib.read_pairs(path, model))
        if i == 2:
            text = path.read_text()
            assert tokenizer_name(model) in text and "clean_ids" in text and str(tmp_path) not in text
    path.write_text(re.sub(tokenizer_name(model), "elsewhere:00000000", path.read_text()))
    with pytest.raises(TaskError, match="token ids of the tokenizer elsewhere:00000000, but this model's is"):
        patchlib.read_pairs(path, model)
    with pytest.raises(TaskError, match="cannot be written"):
        write(ioi, model, tmp_path / "nowhere" / "x.csv")


def test_prompts_that_a_task_has_twice_come_back_twice(model, tmp_path):
    pairs = patchlib.IOIDataset(model, n_prompts=3).to_pairs(model).select([0, 1, 0, 2, 2])
    for write, name in ((patchlib.to_csv, "task.csv"), (patchlib.to_jsonl, "task.jsonl")):
        path = write(pairs, model, tmp_path / name)
        same_task(pairs, patchlib.read_pairs(path, model))
        path.write_text(path.read_text().replace("duplicates", "other"))
        with pytest.raises(TaskError, match=r"row 3 .*is the same as row 1"):
            patchlib.read_pairs(path, model)


# ---- Before anyone sweeps


def test_check_names_a_missing_space(model, tmp_path):
    report = patchlib.check_file(write_csv(tmp_path / "spaces.csv", ROWS), model)
    assert not [mend for mend in report.mends if "space" in mend]
    rows = [ROWS[0], {**ROWS[1], "answer": "Sarah", "wrong_answer": "Michael"}]
    (mend,) = (m for m in patchlib.check_file(write_csv(tmp_path / "a.csv", rows), model).mends if "space" in m)
    assert mend.startswith("1 row has an answer without the space before a word, the first row 2 (line 3): ")
    assert "write ' Sarah'" in mend
    good = [ROWS[0], {**ROWS[1], "clean": f"{OTHER} (", "corrupted": f"{ROWS[1]['corrupted']} (", "answer": "Sarah"}]
    assert not [m for m in patchlib.check_file(write_csv(tmp_path / "b.csv", good), model).mends if "space" in m]


def test_check_says_what_does_not_fit_and_what_would_help(model, tmp_path):
    good = ROWS[0]
    rows = [good, {**good, "corrupted": good["corrupted"] + " it"}, good, ROWS[1], {**ROWS[1], "answer": ""}]
    path = write_csv(tmp_path / "mixed.csv", rows)
    report = patchlib.check_file(path, model)
    assert report.dropped.row.tolist() == [2, 3, 5] and report.dropped.line.tolist() == [3, 4, 6]
    assert report.dropped.reason.tolist() == ["length", "duplicate", "unreadable"] and not report.usable
    assert (report.n_rows, report.n_fit, len(report.pairs)) == (5, 2, 2)
    assert any(mend.startswith("1 row differs in length: choose words") for mend in report.mends)
    page = str(report)
    assert "mixed.csv (pairs): 2 of 5 rows fit." in page and "row 3, duplicate: is the same as row 1" in page
    nothing = patchlib.check_file(write_csv(path, rows[1:2]), model)
    assert nothing.pairs is None and nothing.contrast.empty and not nothing.usable and "0 of 1 rows fit" in str(nothing)


def test_the_command_checks_a_file(tmp_path, capsys):
    from patchlib.cli import main
    from tests.tiny import tiny_path

    path = write_csv(tmp_path / "pairs.csv", [*ROWS, ROWS[0]])
    out = tmp_path / "dropped.csv"
    assert main(["check", str(path), "--model", tiny_path("gpt2"), "--device", "cpu", "--dropped", str(out)]) == 1
    assert "2 of 3 rows fit" in capsys.readouterr().out and pd.read_csv(out).reason.tolist() == ["duplicate"]
    assert main(["check", str(tmp_path / "no.csv"), "--model", tiny_path("gpt2")]) == 2
    assert "no.csv is not there" in capsys.readouterr().err


# ---- What was wrong without a word


def read_rows(tmp_path, rows, model, **how):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return patchlib.read_pairs(path, model, **how)


def test_the_label_0_is_one_and_a_missing_one_is_said(model, tmp_path):
    assert read_rows(tmp_path, [ROWS[0] | {"cluster": 0}, ROWS[1] | {"cluster": 1}], model).clusters == ("0", "1")
    with pytest.raises(TaskError, match=r"row 2 \(line 2\) has no cluster, and others have one"):
        read_rows(tmp_path, [ROWS[0] | {"cluster": 0}, ROWS[1]], model)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([{"answer": [" Mary", None]}, {}], r"row 1 .* has None among the texts in 'answer'"),
        ([{"role:a": "Mary", "position:a": 2}, {}], r"row 1 .* names the position 'a' in two columns"),
        ([{"position:a": 2}, {"positions:a": [1, 2]}], r"row 2 .* names 'a' as one token or as several"),
    ],
)
def test_what_a_row_says_in_two_ways_is_one_line(model, tmp_path, more, message):
    with pytest.raises(TaskError, match=message):
        read_rows(tmp_path, [row | extra for row, extra in zip(ROWS, more, strict=True)], model)


def test_a_role_named_end_comes_back_and_so_do_rows_that_end_in_padding(model, tmp_path):
    pairs = make_pairs(model)
    pairs = replace(pairs, roles={"end": pairs.roles["END"], "first": pairs.roles["first"]})
    eos = torch.tensor([int(model.tokenizer.eos_token_id)])
    clean, corrupted = (
        tuple(torch.cat([r, eos]) for r in rows) for rows in (pairs.clean_tokens, pairs.corrupted_tokens)
    )
    padded = replace(pairs, clean_tokens=clean, corrupted_tokens=corrupted, roles={}, keep_pads=True)
    for task in (pairs, padded):
        for write, name in ((patchlib.to_csv, "task.csv"), (patchlib.to_jsonl, "task.jsonl")):
            again = patchlib.read_pairs(write(task, model, tmp_path / name), model)
            same_task(task, again)
            assert again.keep_pads == task.keep_pads


def test_an_answer_is_tokenised_behind_its_own_prompt(model, tmp_path):
    """Two prompts that end in one character, behind one of which the answer begins inside the last token."""
    rows = []
    for clean in ("The keys to the mat and I", "The keys to the mat and (I"):
        row = {"clean": clean, "corrupted": clean.replace("keys", "key"), "answer": "s", "wrong_answer": "t"}
        rows.append(row)
    both = read_rows(tmp_path, rows, model)
    for order in ([0], [1]):
        alone = read_rows(tmp_path, [rows[i] for i in order], model)
        assert alone.answers.tolist() == both.select(order).answers.tolist()


def test_a_check_asks_for_no_accuracy_where_no_answer_of_a_corrupted_prompt_is_right(model, tmp_path):
    pairs = replace(make_pairs(model), metadata={"corrupted_answer": "none"})
    report = patchlib.check_file(patchlib.to_csv(pairs, model, tmp_path / "abc.csv"), model)
    assert report.contrast.index.to_list() == ["logit_diff", "prob"]
