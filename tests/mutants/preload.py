"""Imported once by the process that all others are forked from."""

from tests.mutants.worker import import_libraries

import_libraries()
