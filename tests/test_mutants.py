"""The table of faults fits the source; `python -m tests.mutants` puts them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.__main__ import MAY_SURVIVE, ROOT, occurrences
from tests.mutants.table import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.module}: {fault}")
def test_a_fault_s_text_is_there_once_and_its_tests_are_there(fault):
    assert occurrences(fault) == 1
    assert fault.new != fault.old and "\n" not in fault.old + fault.new
    compile((ROOT / fault.file).read_text().replace(fault.old, fault.new), fault.file, "exec")
    assert fault.tests and all(Path(ROOT, test.split("::")[0]).exists() for test in fault.tests)


def test_there_are_faults_everywhere_and_few_that_may_survive():
    assert len(FAULTS) >= 60 and len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)
    assert sum(bool(fault.reason) for fault in FAULTS) <= MAY_SURVIVE
