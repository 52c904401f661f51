"""One-line faults that the tests have to find: `python -m tests.mutants`."""
