"""Whatever stands in a YAML file: values as JSON means them, or one line."""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from patchlib.errors import RunError
from patchlib.runs.plain_yaml import read_yaml
from tests.attacks.case import clear_line

FEW = settings(max_examples=80, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
PLACE = Path(tempfile.mkdtemp(prefix="patchlib-yaml-"), "values.yaml")

ODD = [
    *("010", "1:30", "1_0", "yes", "on", "2020-01-01", "1e5", "0o17", "0x_1", ".inf", "<<", "=", "~", "null"),
    *("[", "{", "}", ":", "#", "'", '"', "|", ">", "%", "@", "*a", "!!set"),
]
words = st.sampled_from([*ODD, "", "- a", "? b", "&a x", "!!int 3", "\t", "\n "]) | st.text(max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=8)
mappings = st.dictionaries(words, values, max_size=4)


def _read(text: str) -> dict[str, Any] | None:
    """The file's values, None where one clear line refuses it."""
    PLACE.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return read_yaml(PLACE, "the file")
    except RunError as error:
        clear_line(str(error))
        return None


def _same(one: Any, other: Any) -> bool:
    """Equal in kind too: 1, 1.0 and True are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@FEW
@given(mappings, st.booleans())
def test_json_is_read_as_json(mapping, ascii_only):
    read = _read(json.dumps(mapping, ensure_ascii=ascii_only))
    assert read is None or _same(read, json.loads(json.dumps(mapping)))


@FEW
@given(mappings)
def test_what_another_program_wrote_as_yaml_is_read_as_it_was_or_refused(mapping):
    text = yaml.safe_dump(mapping, allow_unicode=True)
    # PyYAML writes the texts 1e5 and .5e3 without quotes; to people, and to YAML 1.2, these are numbers.
    assume(not re.search(r"[0-9][eE][0-9]", text))
    read = _read(text)
    assert read is None or _same(read, mapping)


@FEW
@given(
    st.lists(words, max_size=12).map(" ".join) | st.lists(words, max_size=6).map("\nx: ".join) | st.text(max_size=60)
)
def test_any_text_is_plain_values_or_one_line(text):
    read = _read(text)
    if read is not None:
        again = json.loads(json.dumps(read))
        assert _same(again, read) and json.dumps(read).encode()


@FEW
@given(
    st.floats().map(repr)
    | st.integers().map("{:,}".format)
    | st.from_regex(r"[-+]?[0-9_:.eE+xob]{1,8}", fullmatch=True)
)
def test_a_plain_word_is_what_python_and_json_say_or_text(word):
    """A number is never another number than Python reads in the same characters."""
    read = _read(f"x: {word}")
    if read and list(read) == ["x"] and isinstance(read["x"], int | float) and not isinstance(read["x"], bool):
        expected = float(word.replace(".inf", "inf").replace(".nan", "nan")) if "x" not in word else int(word, 0)
        assert read["x"] == expected or math.isnan(read["x"])
