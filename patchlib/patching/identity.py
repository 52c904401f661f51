"""What tells two functions, objects or models apart: a sha256 of all that their numbers can depend on.

A function is its code with the names in it, its defaults, its closure, and the globals that it uses, each looked into
in the same way; an object is its class and its state. What comes from an installed library goes by its name. What
cannot be looked into (a generator, an open file, the text that ``eval`` is given) is refused, never left out.
"""

import builtins
import functools
import hashlib
import json
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from patchlib._util import first_line
from patchlib.errors import SweepError
from patchlib.models.load import raw_bytes, weights_hash
from patchlib.patching.code import file_of, imported, names_in, of_library

MOST_OBJECTS = 200_000
"""A function that leads to more of them is tied to something that was not meant to be looked into."""
OPAQUE = {"eval", "exec", "compile", "globals", "locals", "open", "input", "__import__"}
"""Builtins whose outcome does not show in what can be looked into."""
ENVIRONMENT = {"environ", "getenv"}
BOOKKEEPING = {
    "__dict__", "__weakref__", "__slotnames__", "__module__", "__doc__", "__annotations__", "__firstlineno__",
    "__static_attributes__",
    "__dataclass_fields__", "__dataclass_params__", "__abstractmethods__", "_abc_impl", "__parameters__",
    "__orig_bases__", "__annotate_func__", "__annotations_cache__",
}  # fmt: skip
"""What Python itself writes into a class; no number depends on it."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device, torch.Size)
DESCRIPTORS = (
    types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType,
    types.MethodDescriptorType, types.ClassMethodDescriptorType,
)  # fmt: skip


class _Opaque(Exception):
    """What cannot be looked into, as the end of a sentence."""


def identity(value: object, what: str) -> str:
    """A short text that changes when anything does that this value's numbers can depend on.

    Args:
        value: A metric, in most cases.
        what: It, in an error.

    Raises:
        SweepError: It holds something that cannot be looked into.
    """
    try:
        return _Walk().digest(value).hex()[:16]
    except (_Opaque, RecursionError) as error:
        why = error if isinstance(error, _Opaque) else "it is nested too deeply"
        raise SweepError(
            f"A checkpoint cannot tell whether {what} is the same next time: {why}. Sweep without checkpoint=, or "
            "give it what it needs as numbers, tensors, functions or objects that can be pickled."
        ) from error


def model_state(model: TransformerBridge) -> str:
    """What a model computes with beside its weights: modules, their settings and buffers.

    Hooks and forwards of the user's are refused (``check_model``), and those of libraries do not change it.
    """
    parts: list[object] = []
    for name, module in model.named_modules():
        settings = {
            key: value for key, value in vars(module).items() if type(value) in PLAIN and not key.startswith("_")
        }
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        parts += [name, kind, settings, dict(module._buffers)]
    return _Walk().digest(parts).hex()[:16]


class _Walk:
    """One look into a value and what it leads to; each object is hashed once, and a circle ends where it began."""

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}
        self._inside: dict[int, int] = {}  # what is being hashed, and how deep down it is
        self._alive: list[object] = []  # so that no object takes another one's id
        self._taken: set[tuple[int, str]] = set()  # what was taken from which module: they may import each other

    def digest(self, value: object) -> bytes:
        """The sha256 of a value."""
        key = id(value)
        if key in self._inside:
            return b"circle %d" % (len(self._inside) - self._inside[key])
        if key not in self._digests:
            if len(self._digests) > MOST_OBJECTS:
                raise _Opaque(f"it leads to more than {MOST_OBJECTS:,} objects")
            self._inside[key] = len(self._inside)
            self._alive.append(value)
            sha256 = hashlib.sha256()
            for part in self._parts(value):
                data = part.encode(errors="backslashreplace") if isinstance(part, str) else part
                sha256.update(b"%d:" % len(data) + data)
            del self._inside[key]
            self._digests[key] = sha256.digest()
        return self._digests[key]

    def _parts(self, value: Any) -> Iterator[str | bytes]:
        """What is hashed of a value, its kind first."""
        kind = type(value)
        yield f"{kind.__module__}.{kind.__qualname__}"
        if kind in PLAIN:
            yield repr(value)
        elif isinstance(value, torch.Tensor | np.ndarray | np.generic):
            yield from self._numbers(value)
        elif kind in (list, tuple):
            yield from map(self.digest, value)
        elif kind in (set, frozenset):
            yield from sorted(map(self.digest, value))
        elif kind in (dict, types.MappingProxyType):
            yield from sorted(self.digest(key) + self.digest(item) for key, item in value.items())
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from map(self.digest, (value.__func__, value.__self__))
        elif isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
            yield value.__qualname__
            yield self.digest(value.__self__)
        elif isinstance(value, types.ModuleType):
            yield from self._used(value, {name for name in vars(value) if not name.startswith("__")})
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, DESCRIPTORS):
            yield value.__qualname__
        elif isinstance(value, property | classmethod | staticmethod | functools.cached_property):
            names = ("fget", "fset", "fdel", "__func__", "func")
            yield from (self.digest(getattr(value, name, None)) for name in names)
        elif isinstance(value, types.CellType):
            yield from (self.digest(content) for content in _content(value))
        elif isinstance(value, TransformerBridge):
            yield from (weights_hash(value), model_state(value))
        elif isinstance(value, PreTrainedTokenizerBase) and hasattr(value, "backend_tokenizer"):
            # Padding and truncation are set for a moment in each call; the rest of its state is warnings given.
            state = json.loads(value.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
            yield from (json.dumps(state), str(value.special_tokens_map))
        elif isinstance(value, torch.Generator):
            yield bytes(raw_bytes(value.get_state()))
        else:
            yield from self._object(value)

    def _numbers(self, value: torch.Tensor | np.ndarray | np.generic) -> Iterator[str | bytes]:
        yield f"{value.dtype} {tuple(value.shape)}"
        if isinstance(value, torch.Tensor):
            try:
                yield bytes(raw_bytes(value))
            except (RuntimeError, NotImplementedError, TypeError) as error:  # sparse, quantised, without data
                raise _Opaque(f"it holds a tensor that cannot be read ({first_line(error)})") from error
        elif value.dtype.hasobject:
            yield self.digest(value.tolist())
        else:
            yield value.tobytes()

    def _code(self, code: types.CodeType) -> Iterator[str | bytes]:
        yield code.co_code
        yield code.co_exceptiontable
        yield repr((code.co_names, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))
        yield self.digest(code.co_consts)  # functions inside are among them

    def _function(self, function: types.FunctionType) -> Iterator[str | bytes]:
        code = function.__code__
        names, attributes, imports = names_in(code)
        yield from map(self.digest, (function.__defaults__, function.__kwdefaults__, vars(function)))
        for cell in function.__closure__ or ():
            for content in _content(cell):
                yield from self._used(content, attributes)
        if of_library(code.co_filename):
            yield f"{function.__module__}.{function.__qualname__}"
            return
        yield self.digest(code)
        for name in sorted(names):
            yield name
            if name in function.__globals__:
                yield from self._used(function.__globals__[name], attributes)
            elif name in OPAQUE:
                raise _Opaque(f"{function.__qualname__} calls {name}(), of which nothing can be known beforehand")
            else:
                yield str(hasattr(builtins, name))
        for name in sorted(imports):
            yield name
            for module in imported(name, function.__globals__.get("__package__")):
                yield from self._used(module, attributes)

    def _used(self, value: object, attributes: set[str]) -> Iterator[str | bytes]:
        """A global; of a user's module what the function takes from it, and what that takes from its modules."""
        if not isinstance(value, types.ModuleType):
            yield self.digest(value)
            return
        yield value.__name__
        if value.__name__ == "os" and attributes & ENVIRONMENT:
            raise _Opaque("it reads the environment, of which nothing can be known beforehand")
        file = file_of(value.__name__)
        for name in sorted(attributes & vars(value).keys()) if not of_library(file) else ():
            if (id(value), name) not in self._taken:
                self._taken.add((id(value), name))
                yield name
                yield from self._used(vars(value)[name], attributes)

    def _class(self, kind: type) -> Iterator[str | bytes]:
        yield kind.__qualname__
        if of_library(file_of(kind.__module__)):
            yield kind.__module__
            return
        yield from map(self.digest, kind.__bases__)
        yield self.digest({name: value for name, value in vars(kind).items() if name not in BOOKKEEPING})

    def _object(self, value: Any) -> Iterator[str | bytes]:
        kind = type(value)
        yield self.digest(kind)
        own = not of_library(file_of(kind.__module__))
        if own and hasattr(value, "__dict__"):  # a class may leave things out of what it says of itself
            yield self.digest(vars(value))
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # whatever an object says instead of what it consists of
            if own and hasattr(value, "__dict__"):
                return  # its state has been hashed: only pickle has no way to write it
            raise _Opaque(f"it holds a {kind.__qualname__}, which cannot be looked into") from error
        if isinstance(reduced, str):  # an object of a module, by its name there
            yield reduced
            yield from map(self.digest, (getattr(value, "__wrapped__", None), getattr(value, "__dict__", None)))
            return
        make, arguments, *state = reduced
        yield from map(self.digest, (make, arguments))
        for part in state:  # the state itself, and iterators over what lists and dicts hold
            yield self.digest(list(part) if hasattr(part, "__next__") else part)


def _content(cell: types.CellType) -> list[object]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not assigned yet
        return []
