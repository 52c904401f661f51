"""The field's tasks: drawn the same way each time, fit for the tokenizer, with the roles that they name."""

import os
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import LocalCluster

import patchlib
from patchlib.errors import TaskError
from patchlib.patching import task_parts
from patchlib.tasks.field.base import WORDS, filled
from patchlib.tasks.field.listing import FIELD_TASKS, OTHERS
from patchlib.tasks.words import IOI_WORDINGS
from patchlib.tasks.years import year_answers
from tests.tiny import load_tiny, tiny_model

LISTS = [kind for task in WORDS.values() for kind in task.values() if isinstance(kind, list)]
TEXTS = [
    *(str(wording) for wordings in LISTS for wording in wordings),
    *(kind for task in WORDS.values() for kind in task.values() if isinstance(kind, str)),
    *(word for pair in WORDS["agreement"]["nouns"].items() for word in pair),
    *(fact for country in WORDS["facts"]["countries"] for fact in country if fact),
    "is are he she A B C D X Y K L",
]
MORE = re.sub(r"[\d',\[\]]", " ", " ".join(TEXTS))  # without numbers, whose tokens are digits then


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model whose tokenizer has the tasks' words."""
    return patchlib.load_model(tiny_model(tmp_path_factory.mktemp("field"), "llama", text=MORE), device="cpu")


@pytest.mark.parametrize("kind", FIELD_TASKS, ids=lambda kind: kind.__name__)
def test_prompts_are_drawn_from_a_seed_and_fit_the_tokenizer(model, kind):
    task = kind(model, n_prompts=32, seed=0)
    pairs = task.to_pairs(model)  # as many tokens in both, answers that differ
    prompts = task.get_clean_corrupt_pairs()
    assert len(pairs) == len(set(prompts)) == 32 and pairs.seed == 0
    assert kind(model, n_prompts=32, seed=0).get_clean_corrupt_pairs() == prompts
    assert kind(model, n_prompts=5, seed=0).get_clean_corrupt_pairs() == prompts[:5]
    assert kind(model, n_prompts=32, seed=1).get_clean_corrupt_pairs() != prompts
    assert len(set(pairs.clusters)) >= 4 and pairs.metadata["source"] == kind.source
    for names in pairs.roles.values():  # named by the words that they are, whatever else is in the prompt
        assert (names >= int(model.cfg.default_prepend_bos)).all()
    first = {
        name: model.to_string([int(pairs.clean_tokens[0][index[0]])]).strip() for name, index in pairs.roles.items()
    }
    text = prompts[0][0]
    assert all(word in text for word in first.values()), first
    assert pairs.roles["END"].tolist() == [len(row) - 1 for row in pairs.clean_tokens]


@pytest.mark.parametrize(
    "kind", [*FIELD_TASKS, patchlib.IOIDataset, patchlib.InductionDataset], ids=lambda kind: kind.__name__
)
@pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning", "ignore::patchlib.AnswerWarning")
def test_every_task_goes_through_a_file_and_sweeps_to_the_same_numbers(model, tmp_path, kind):
    task = kind(model, n_prompts=3, seed=2)
    metrics = ["logit_diff", "prob"]
    how = {"over": ("layer", "role"), "layers": [1], "metric": metrics, "progress": False}
    swept = patchlib.sweep(model, task, "resid_pre", **how)
    for write, name in ((patchlib.to_csv, "task.csv"), (patchlib.to_jsonl, "task.jsonl")):
        again = patchlib.sweep(
            model, patchlib.read_pairs(write(task, model, tmp_path / name), model), "resid_pre", **how
        )
        for values in ("clean", "corrupted", "patched"):
            np.testing.assert_array_equal(again[values].values, swept[values].values)
        for coordinate in ("role", "cluster", "template"):
            assert (coordinate in again.coords) == (coordinate in swept.coords)
            if coordinate in swept.coords:
                assert again[coordinate].values.tolist() == swept[coordinate].values.tolist()


def test_where_prompts_differ_is_where_the_roles_are(model):
    """The corrupted prompt has another word at the role that the task turns on, and nowhere else."""
    for kind, role in [
        (patchlib.tasks.SimpleAgreement, "subject"),
        (patchlib.tasks.ClauseAgreement, "subject"),
        (patchlib.tasks.Pronouns, "name"),
        (patchlib.tasks.Capitals, "country"),
        (patchlib.tasks.Docstring, "C_def"),
        (patchlib.tasks.ColoredObjects, "asked"),
        (patchlib.tasks.MultipleChoice, "right"),
    ]:
        pairs = kind(model, n_prompts=8).to_pairs(model)
        for i in range(8):
            apart = (pairs.clean_tokens[i] != pairs.corrupted_tokens[i]).nonzero().flatten().tolist()
            assert int(pairs.roles[role][i]) in apart, kind.__name__
            assert len(apart) <= 2 or kind in (patchlib.tasks.Capitals,)


def test_the_answers_are_true(model):
    countries = {country: facts for country, *facts in WORDS["facts"]["countries"]}
    for kind, column in ((patchlib.tasks.Capitals, 0),):
        task = kind(model, n_prompts=32)
        texts = task.to_pairs(model).example_prompts(model)
        for (clean, corrupted), right, wrong in zip(
            task.get_clean_corrupt_pairs(), texts["answer"], texts["wrong_answer"], strict=True
        ):
            country, other = (next(c for c in countries if c in text) for text in (clean, corrupted))
            assert (right.strip(), wrong.strip()) == (countries[country][column], countries[other][column])
    for clean, _ in patchlib.tasks.Addition(model, n_prompts=32).get_clean_corrupt_pairs():
        assert sum(int(word.strip("+=,.")) > 9 for word in clean.split() if word.strip("+=,.").isdigit()) >= 2
    pairs = patchlib.tasks.Addition(model, n_prompts=32).to_pairs(model)
    assert (pairs.answers[:, 0] != pairs.answers[:, 1]).all()
    greater = patchlib.tasks.GreaterThan(model, n_prompts=32)
    texts = [[model.to_string([i]).strip() for i in right] for right, _ in greater.to_pairs(model).answer_sets]
    for (clean, _), right in zip(greater.get_clean_corrupt_pairs(), texts, strict=True):
        year = int(next(word for word in clean.split() if word.isdigit() and len(word) == 4)) % 100
        assert min(map(int, right)) > year // 10  # the tens, of a tokenizer of single digits


def test_years_are_pairs_of_digits_or_tens():
    model = load_tiny("gpt2")  # digit by digit
    right, wrong = year_answers(model, 32)
    assert [model.to_string([i]) for i in right] == list("456789") and [model.to_string([i]) for i in wrong] == list(
        "012"
    )
    with pytest.raises(TaskError, match="has no later years"):
        year_answers(model, 99)


def test_too_few_words_are_one_error_that_says_so(bare):
    model = load_tiny("gpt2")
    with pytest.raises(
        TaskError, match="Only 0 of 400 drawn prompts of 'Gendered pronouns' suit this model's"
    ) as error:
        patchlib.tasks.Pronouns(bare, n_prompts=4)
    assert "\n" not in str(error.value)
    with pytest.raises(TaskError, match="n_prompts must be a whole number"):
        patchlib.tasks.Capitals(model, n_prompts=0)
    with pytest.raises(TaskError, match="seed must be"):
        patchlib.tasks.Capitals(model, seed=-1)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A model whose tokenizer has few words."""
    return patchlib.load_model(tiny_model(tmp_path_factory.mktemp("bare"), "gpt2", text="a"), device="cpu")


def test_slots_are_found_where_they_are_filled():
    text, places = filled("{a} and {b}, {{x}} {a}", a="one", b="two")
    assert text == "one and two, {x} one"
    assert [text[start:end] for start, end in (*places["a"], *places["b"])] == ["one", "one", "two"]


def test_the_list_has_every_task_with_its_source():
    table = patchlib.tasks.list()
    assert table.name.tolist() == [kind.__name__ for kind in FIELD_TASKS] + [name for name, *_ in OTHERS]
    assert table.source.str.contains("20").all() and table.asks.str.len().gt(10).all()
    assert all(getattr(patchlib.tasks, kind.__name__) is kind for kind in FIELD_TASKS)
    assert all(hasattr(patchlib, name) for name, *_ in OTHERS) and not set(IOI_WORDINGS) & set(MORE)


def test_the_table_of_tasks_says_what_a_model_can_do(model, bare):
    """A random model can do nothing, and is told so; a task that the tokenizer cannot write has its own line."""
    said = []
    table = patchlib.task_table(model, ["SimpleAgreement", "Capitals"], n_prompts=4, told=said.append)
    assert table.task.tolist() == ["SimpleAgreement", "Capitals"] and len(said) == 2
    assert (table.n == 4).all() and table.accuracy.between(0, 1).all()
    assert (table.usable | (table.why != "")).all()
    (row,) = patchlib.task_table(bare, "Pronouns", n_prompts=2).to_dict("records")
    assert row["n"] == 0 and not row["usable"] and "suit this model's tokenizer" in row["why"]
    with pytest.raises(TaskError, match="Unknown task 'Capital'"):
        patchlib.task_table(model, "Capital")


def test_the_command_prints_the_table(model, tmp_path, capsys):
    from patchlib.cli import main

    out = tmp_path / "tasks.csv"
    folder = tiny_model(tmp_path / "model", "llama", text=MORE)
    assert main(["tasks", "SimpleAgreement", "--model", folder, "--n", "4", "--device", "cpu", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 prompts a task" in lines[0] and lines[2].startswith("SimpleAgreement") and out.is_file()
    assert main(["tasks", "Capital", "--model", folder, "--device", "cpu"]) == 2
    assert torch.is_grad_enabled()


def kill_worker(place, device, task, how):
    """A part whose process is lost where the task is Capitals."""
    if task == "Capitals":
        os.kill(os.getpid(), signal.SIGKILL)
    return task_parts._row(place, device, task, how)


def asked(folder, out, *options):
    """The command's arguments for two tasks of a model."""
    tasks = ["SimpleAgreement", "Capitals", "--n", "4", "--device", "cpu"]
    return ["tasks", *tasks, "--model", folder, "--out", str(out), *options]


def test_parts_on_a_dask_cluster_give_the_numbers_of_one_process_and_name_what_is_lost(model, tmp_path, capsys):
    from patchlib.cli import main

    folder, none = tiny_model(tmp_path / "model", "llama", text=MORE), str(tmp_path / "none")
    assert main(asked(folder, tmp_path / "here.csv")) == 0
    capsys.readouterr()
    with LocalCluster(1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=None) as cluster:
        options = ("--model", none, "--scheduler", cluster.scheduler_address)
        assert main(asked(folder, tmp_path / "dask.csv", *options)) == 1
    assert "no: lost: ModelError" in capsys.readouterr().out
    here, dask = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("here", "dask"))
    assert here.task.tolist() == dask.task[2:].tolist() == ["SimpleAgreement", "Capitals"]
    assert dask.why[2:].str.startswith("lost: ModelError").all() and (dask.model[2:] == none).all()
    pd.testing.assert_frame_equal(dask[:2], here, rtol=1e-5)
    assert main(["tasks", "Capitals", "--workers", "0"]) == 2


@pytest.mark.slow
def test_parts_in_processes_do_too_and_a_process_that_dies_costs_its_own(model, tmp_path, monkeypatch):
    """Each process imports PyTorch, which takes seconds."""
    from patchlib.cli import main

    folder = tiny_model(tmp_path / "model", "llama", text=MORE)
    assert main(asked(folder, tmp_path / "here.csv")) == 0
    assert main(asked(folder, tmp_path / "two.csv", "--workers", "2")) == 0
    here, two = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("here", "two"))
    pd.testing.assert_frame_equal(two, here, rtol=1e-5)
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        submit = executor.submit
        monkeypatch.setattr(executor, "submit", lambda part: submit(kill_worker, *part.args))
        rows = list(task_parts.task_rows([folder], ["SimpleAgreement", "Capitals"], "cpu", executor, n_prompts=4))
    np.testing.assert_allclose(rows[0]["difference"], here.difference[0], rtol=1e-5)
    assert rows[1]["task"] == "Capitals" and rows[1]["why"].startswith("lost: BrokenProcessPool") and not rows[1]["n"]
