"""Progress bars that the environment can switch off."""

import inspect
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from tqdm.auto import tqdm

from patchlib._util import check_flag
from patchlib.errors import SweepError

Progress = bool | Callable[[int, int], None]
"""Whether to show a bar; or a function that is told ``(done, total)``, and may raise to stop the work."""


class _Told:
    """Instead of a bar, a function that is told how far the work is; what it raises stops the work."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        self.done, self.total, self._tell = 0, total, tell

    def update(self, n: int) -> None:
        self.done += n
        self._tell(self.done, self.total)


def progress_bar(total: int, desc: str, show: Progress = True, **options: Any) -> Any:
    """A bar for a terminal or a notebook; TQDM_DISABLE=1 hides it, which tqdm's notebook bars do not heed.

    Where ``show`` is a function, it is told ``(done, total)`` instead.
    """
    if callable(show):
        try:
            inspect.signature(show).bind(0, total)
        except TypeError as error:
            raise SweepError(
                f"progress must be True, False or a function that takes (done, total): {error}."
            ) from error
        except ValueError:  # written in C: it shows when it is called
            pass
        return nullcontext(_Told(total, show))
    hidden = not check_flag("progress", show) or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(total=total, desc=desc, disable=hidden, **options)
