"""The tasks' words, read once from words.yaml, which says what each of them has to fit."""

from pathlib import Path

import yaml

_words = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text("utf-8"))

SEED_WORDING: str = _words["seed_wording"]
SEED_FILLS: tuple[tuple[str, str, str, str], ...] = tuple(map(tuple, _words["seed_fills"]))
IOI_WORDINGS: tuple[str, ...] = tuple(_words["ioi_wordings"])
INDUCTION_WORDINGS: tuple[str, ...] = tuple(_words["induction_wordings"])
BETWEEN: tuple[str, ...] = tuple(_words["between"])
NAMES: tuple[str, ...] = tuple(_words["names"].split())
LAST_NAMES: tuple[str, ...] = tuple(_words["last_names"].split())
PLACES: tuple[str, ...] = tuple(_words["places"].split())
OBJECTS: tuple[str, ...] = tuple(_words["objects"].split())
