"""Which model, task and seed a coursework notebook is about: one file changes every number in it."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchlib._util import check_count, check_seed, check_text, first_line, shown
from patchlib.errors import TaskError

if TYPE_CHECKING:  # the command line writes variants, and need not wait for torch
    from transformer_lens.model_bridge import TransformerBridge

    from patchlib.tasks.pairs import PromptPairs

FILE, VARIABLE = "variant.json", "PATCHLIB_VARIANT"
TOY = "toy:"
"""How the name of a hand-built model begins, such as "toy:or_gate": it brings a task of its own."""
TOYS = ("or_gate", "and_gate", "induction", "backup")
IOI = "ioi"


@dataclass(frozen=True)
class Variant:
    """What a coursework notebook is about. Students of two variants have other numbers, and the same code.

    Attributes:
        model: Any name or folder that ``load_model`` takes, or "toy:or_gate", "toy:and_gate", "toy:induction" or
            "toy:backup", which brings its own task.
        task: "ioi", or the name of a class of ``patchlib.tasks`` whose answers are one token each.
        seed: Draws the prompts.
        n_prompts: How many.
        templates, corruption: Of ``IOIDataset``.

    Raises:
        TaskError: A setting that cannot be.

    Example:
        >>> from patchlib.coursework import Variant
        >>> variant = Variant(model="toy:induction", seed=3, n_prompts=6)
        >>> model, task = variant.load()
        >>> task
        PromptPairs('toy: induction', 6 pairs of 9 tokens)
        >>> variant.write(tmp_path).name
        'variant.json'
        >>> Variant.here(tmp_path) == variant
        True
    """

    model: str = "smollm2-135m"
    task: str = IOI
    seed: int = 0
    n_prompts: int = 8
    templates: str = "mixed"
    corruption: str = "swap_subject"

    def __post_init__(self) -> None:
        for name in ("model", "task", "templates", "corruption"):
            check_text(f"{name} of a variant", getattr(self, name), TaskError)
        check_seed(self.seed, error=TaskError)
        check_count("n_prompts", self.n_prompts, 4, TaskError)
        if self.model.startswith(TOY) and self.model.removeprefix(TOY) not in TOYS:
            raise TaskError(f"There is no hand-built model {shown(self.model)}: choose {_names(TOYS, TOY)}.")

    @classmethod
    def here(cls, folder: str | Path = ".") -> Variant:
        """The variant that PATCHLIB_VARIANT sets, as JSON or a file's path, else the folder's file, else the default.

        Args:
            folder: The notebook's.

        Raises:
            TaskError: The file or the variable says something that no variant can be.
        """
        given = os.environ.get(VARIABLE, "").strip()
        path = Path(given) if given and not given.startswith("{") else Path(folder) / FILE
        if not given and not path.is_file():
            return cls()
        try:
            said = json.loads(given if given.startswith("{") else path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            source = VARIABLE if given else str(path)
            raise TaskError(f"{source} is no variant: {first_line(error)}; give JSON such as {_EXAMPLE}.") from error
        return cls._of(said, VARIABLE if given else str(path))

    @classmethod
    def _of(cls, said: Any, source: str) -> Variant:
        names = [field.name for field in fields(cls)]
        if not isinstance(said, Mapping) or (set(said) - set(names)):
            raise TaskError(f"{source} must be JSON such as {_EXAMPLE}, with some of {', '.join(names)}.")
        return cls(**said)

    def write(self, folder: str | Path) -> Path:
        """Write the variant beside notebooks in a folder; returns the file."""
        path = Path(folder) / FILE
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")
        return path

    def load(self) -> tuple[TransformerBridge, PromptPairs]:
        """The model and the task.

        Returns:
            A model, ready to patch, and its prompts as tokens.

        Raises:
            ModelError: There is no such model.
            TaskError: There is no such task, or it does not suit the model.
        """
        if self.model.startswith(TOY):
            toy = self._toy(self.seed)
            return toy.model, toy.task
        from patchlib.models.load import load_model

        model = load_model(self.model)
        return model, self.load_task(model)

    def load_task(self, model: TransformerBridge, shift: int = 0, n_prompts: int | None = None) -> PromptPairs:
        """Prompts of the variant's kind from another seed.

        Args:
            model: That ``load`` gave.
            shift: Added to the variant's seed, for prompts that the notebook has not seen.
            n_prompts: How many; the variant's own when None.

        Returns:
            Prompts as tokens, each with two answers of one token.

        Raises:
            TaskError: There is no such task, it has sets of answers, or it does not suit the model.
        """
        n, seed = n_prompts or self.n_prompts, self.seed + shift
        if self.model.startswith(TOY):
            of_toy: PromptPairs = self._toy(seed, n).task
            return of_toy
        from patchlib import tasks
        from patchlib.tasks.ioi import IOIDataset

        if self.task == IOI:
            how: dict[str, Any] = {"templates": self.templates, "corruption": self.corruption}
            prompts: PromptPairs = IOIDataset(model, n_prompts=n, seed=seed, **how).to_pairs(model)
            return prompts
        names = [name for name in tasks.list()["name"] if inspect.isclass(getattr(tasks, name, None))]
        if self.task not in names:
            raise TaskError(f"There is no task {shown(self.task)}: choose {_names([IOI, *names])}.")
        pairs: PromptPairs = getattr(tasks, self.task)(model, n_prompts=n, seed=seed).to_pairs(model)
        if pairs.answer_sets or pairs.continuations:
            raise TaskError(
                f"The task {self.task} has sets of answers, and exercises read two logits by hand: choose a task whose "
                "answers are one token each, such as SimpleAgreement."
            )
        return pairs

    def _toy(self, seed: int, n_prompts: int | None = None) -> Any:
        from patchlib import toys

        return getattr(toys, self.model.removeprefix(TOY))(n_prompts=n_prompts or self.n_prompts, seed=seed)


_EXAMPLE = '{"seed": 7, "task": "ioi", "model": "smollm2-135m"}'


def _names(names: Any, prefix: str = "") -> str:
    *others, last = (f"{prefix}{name}" for name in names)
    return f"{', '.join(others)} or {last}"
