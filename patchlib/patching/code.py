"""What a function's code names, and whether code is of an installed library, which goes by its name."""

import dis
import functools
import importlib
import os
import site
import sys
import sysconfig
import types
from contextlib import suppress
from pathlib import Path


def names_in(code: types.CodeType) -> tuple[set[str], set[str], set[str]]:
    """The globals, the attributes and the modules that some code takes, with those of the functions inside it."""
    names: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_NAME" or "GLOBAL" in step.opname:
            names[0].add(step.argval)
        elif "ATTR" in step.opname or step.opname in ("LOAD_METHOD", "IMPORT_FROM"):
            names[1].add(step.argval)
        elif step.opname == "IMPORT_NAME":
            names[2].add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for all_names, inner in zip(names, names_in(constant), strict=True):
                all_names |= inner
    return names


def imported(name: str, package: str | None) -> list[types.ModuleType]:
    """The modules that an import inside a function may mean, seen from its package."""
    modules = []
    for path in [name, f".{name}"] if package else [name]:
        with suppress(Exception):  # the function itself will say what is wrong when it is called
            modules.append(importlib.import_module(path, package))
    return modules


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Folders of what is installed, and of patchlib itself."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {site.getusersitepackages(), str(Path(__file__).parents[1])}
    folders |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    return tuple(f"{Path(folder).resolve()}{os.sep}" for folder in folders if folder)


@functools.cache
def of_library(file: str) -> bool:
    """Whether a file is of Python, or of an installed library."""
    return file.startswith("<frozen") or str(Path(file).resolve()).startswith(_libraries())


def file_of(module: str) -> str:
    """The file of a module; of its package where it has none, as parts of compiled libraries."""
    for name in (module, module.partition(".")[0]):
        if name in sys.builtin_module_names:
            return "<frozen>"
        if file := getattr(sys.modules.get(name), "__file__", None):
            return str(file)
    return "<made by hand>"  # typed into a notebook, for one
