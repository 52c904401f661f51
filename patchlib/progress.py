"""Progress bars that the environment can switch off."""

from __future__ import annotations

import os

from tqdm.auto import tqdm


def progress_bar(total: int, desc: str, show: bool = True, **options) -> tqdm:
    """A bar for a terminal or a notebook; TQDM_DISABLE=1 hides it, which tqdm's notebook bars do not heed."""
    hidden = not show or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(total=total, desc=desc, disable=hidden, **options)
