"""YAML as people mean it: plain values, names that stand once, and nothing that grows without end.

YAML 1.1, which PyYAML reads, takes `010` for 8, `1:30` for 90, `no` for false and `2020-01-01` for a date. Here values
are those of YAML 1.2 (and of JSON), and what the two versions of YAML read as different numbers or truth values has to
be written in another way.
"""

import math
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from patchlib.errors import RunError

LONGEST = 100_000
"""Bytes of a file, which takes seconds to read: a list of a thousand single runs has less."""
LARGEST = 10 * LONGEST
"""Characters and values of a file, once each alias is what it stands for."""
NAMES = ("notebook", "notebooks")
"""Whose values are names, so that `04` is one too."""
_TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = "!ambiguous"
_NUMBER = r"(?:0|[1-9][0-9]*)"
_EXPONENT = r"(?:[eE][-+]?[0-9]+)?"
_PLAIN = {  # what a plain word is; the first that fits
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": rf"[-+]?{_NUMBER}|0x[0-9a-fA-F]+",
    "float": rf"[-+]?(?:\.[0-9]+|{_NUMBER}(?:\.[0-9]*)?){_EXPONENT}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": "<<",
}
_SEVERAL = (  # means one thing to some readers of YAML and another to others
    rf"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?{_EXPONENT}|[-+]?0[bB][01_]+|[-+]?0[xX][0-9a-fA-F_]+|[-+]?0[oO][0-7_]+"
    "|(?i:yes|no|on|off)"
)


def read_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """A YAML file's names and values, such as JSON has too; RunError, which calls it ``what``, where it has none."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes; take several files")
        if odd := re.search("[\x85\u2028\u2029]", text := content.decode("utf-8-sig")):
            raise ValueError(f"{odd[0]!r} ends a line to some readers of YAML: write that, in double quotes")
        values = yaml.load(text, _PlainLoader)
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{what} {path!s:.200} cannot be read: {' '.join(str(error).split()):.300}") from error
    except RecursionError as error:
        raise RunError(f"{what} {path} cannot be read: its values are nested too deep") from error
    if not isinstance(values, dict):
        raise RunError(f"{what} {path} holds no keys; each line is a name and its value, such as `seed: 1`")
    return values


class _PlainLoader(yaml.SafeLoader):
    """Values of JSON. A name that stands twice is an error: the first one's values would be lost without a word."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class declares it
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def get_single_node(self) -> Node | None:
        """The file's node, once it is known that its aliases do not make it endless."""
        node = super().get_single_node()
        if node is not None:
            _size(node, {})
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != f"{_TAG}merge"]
        for key in keys:
            if isinstance(key, ScalarNode) and key.tag == _AMBIGUOUS:
                key.tag = f"{_TAG}str"  # a name is text
            if key.tag != f"{_TAG}str":
                said = key.value if isinstance(key, ScalarNode) else "a list or a mapping"
                raise ConstructorError(None, None, f"the name {said} is no text; put it in quotes", key.start_mark)
        names = [key.value for key in keys]
        for key, value in node.value:
            for name in [value, *value.value] if key.value in NAMES else []:
                if isinstance(name, ScalarNode) and name.tag == _AMBIGUOUS:
                    name.tag = f"{_TAG}str"
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConstructorError(None, None, f"{twice[0]!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _size(node: Node, known: dict[Node, int]) -> int:
    """Characters and values below a node, an alias counted as what it stands for; an error where they are too many."""
    if node in known:
        size = known[node]
    elif isinstance(node, ScalarNode):
        size = 1 + len(node.value)
    else:
        known[node] = LARGEST  # until it is known: a node that holds itself is endless
        children = [child for pair in node.value for child in pair] if isinstance(node, MappingNode) else node.value
        size = 1 + sum(_size(child, known) for child in children)
        known[node] = size
    if size >= LARGEST:
        raise ConstructorError(None, None, "its aliases make it larger than it may be", node.start_mark)
    return size


def _text(loader: _PlainLoader, node: ScalarNode) -> str:
    try:  # JSON writes a character beyond 16 bits as two halves
        return str(loader.construct_scalar(node)).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        said = "a text has half a character, which no file can hold"
        raise ConstructorError(None, None, said, node.start_mark) from None


def _number(loader: _PlainLoader, node: ScalarNode) -> float:
    kind, text = node.tag.removeprefix(_TAG), node.value
    if not re.fullmatch(_PLAIN[kind], text):
        raise ConstructorError(None, None, f"{text!r} is no {kind}", node.start_mark)
    if kind == "int":
        return int(text, 0)
    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if math.isinf(number) and "inf" not in text.lower():
        raise ConstructorError(None, None, f"{text} is larger than a number can be", node.start_mark)
    return number


def _refuse_ambiguous(loader: _PlainLoader, node: ScalarNode) -> Any:
    text = node.value
    mend = "a number without zeros before it and without _" if not text.isalpha() else "true or false"
    said = f"{text} is not the same to all readers of YAML: write {mend}, or '{text}' in quotes for a text"
    raise ConstructorError(None, None, said, node.start_mark)


def _refuse_tag(loader: _PlainLoader, node: Node) -> Any:
    raise ConstructorError(None, None, f"values tagged {node.tag!r} are not taken; put text in quotes", node.start_mark)


for _kind, _pattern in _PLAIN.items():
    _PlainLoader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"^(?:{_pattern})$"), None)
_PlainLoader.add_implicit_resolver(_AMBIGUOUS, re.compile(rf"^(?:{_SEVERAL})$"), None)
for _tag, _constructor in {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}bool": yaml.SafeLoader.construct_yaml_bool,
    f"{_TAG}int": _number,
    f"{_TAG}float": _number,
    f"{_TAG}str": _text,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
    _AMBIGUOUS: _refuse_ambiguous,
    None: _refuse_tag,
}.items():
    _PlainLoader.add_constructor(_tag, _constructor)
