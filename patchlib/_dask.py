"""A Dask cluster by its scheduler's address, for the commands that run on one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from patchlib.errors import RunError

if TYPE_CHECKING:
    from concurrent.futures import Executor


@contextmanager
def dask_executor(address: str | None) -> Iterator[Executor | None]:
    """An executor of the Dask scheduler at an address; None without one."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise RunError("--scheduler needs Dask: pip install distributed") from error
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunError(f"there is no Dask scheduler at {address} ({error})") from error
    with client:
        # A lost worker's runs are given to another by Dask, which counts how often (its allowed-failures).
        yield client.get_executor(pure=False)
