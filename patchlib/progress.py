"""Progress bars that the environment can switch off."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tqdm.auto import tqdm


class _Told(AbstractContextManager):
    """Instead of a bar, a function that is told how far it is; what it raises stops the work."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        self.done, self.total, self._tell = 0, total, tell

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int) -> None:
        self.done += n
        self._tell(self.done, self.total)


def progress_bar(total: int, desc: str, show: bool | Callable[[int, int], None] = True, **options: Any) -> Any:
    """A bar for a terminal or a notebook; TQDM_DISABLE=1 hides it, which tqdm's notebook bars do not heed.

    Where ``show`` is a function, it is told ``(done, total)`` instead.
    """
    if callable(show):
        return _Told(total, show)
    hidden = not show or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(total=total, desc=desc, disable=hidden, **options)
