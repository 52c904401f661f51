"""Every case, from the modules of this folder that register some."""

import importlib
import pkgutil

import tests.attacks
from tests.attacks.case import CASES, Case

NO_CASES = ("case", "table", "kills_runs", "kills_sweep", "__main__")


def all_cases() -> list[Case]:
    """The cases in the order of their kinds."""
    for module in pkgutil.iter_modules(tests.attacks.__path__):
        if module.name not in NO_CASES and not module.name.startswith("test_"):
            importlib.import_module(f"tests.attacks.{module.name}")
    return sorted(CASES, key=lambda case: (case.kind[0], int(case.kind[1:])))
