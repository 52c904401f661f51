"""Exercises that explain: what a coursework notebook is asked about, and checks that say what is likely wrong.

The notebooks are in ``coursework/`` of the repository, one beside each of ``notebooks/``, with their solutions and
hidden tests; ``patchlib coursework release`` makes the students' version, ``grade`` grades what they hand in
(``release``, ``grade``). What both import is here:

* ``Variant``: model, task and seed. One file, ``variant.json`` beside a notebook, changes every number in it.
* ``checks``: a module for each notebook, with a function for each exercise. It is given the student's function and
  calls it at another layer, position or seed than the exercise's example.
* ``compare`` and ``call``, which the checks are made of, and ``CheckFailed``, what they raise.

Example:
    >>> from patchlib.coursework import CheckFailed
    >>> from patchlib.coursework.checks import layer_patching as check
    >>> def effect(clean, corrupted, patched):
    ...     return (clean.mean() - patched.mean()) / (clean.mean() - corrupted.mean())
    >>> toy = patchlib.toys.or_gate()
    >>> try:
    ...     check.effect(effect, toy.model, toy.task)
    ... except CheckFailed as failed:
    ...     print(failed)
    effect is 1 - effect: 0 is the corrupted forward pass and 1 the clean one; did you measure what is still missing?
"""

from patchlib.coursework.compare import CheckFailed, call, compare
from patchlib.coursework.variant import Variant

__all__ = ["CheckFailed", "Variant", "call", "compare"]
