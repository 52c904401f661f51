"""What a command is started from: streams that may close, signals that end it."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Steady:
    """A stream whose reader may have seen enough, as with `| head`, or whose disk is full: commands go on without."""

    def __init__(self, stream: Any) -> None:
        self.stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115  as long as the process
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for what a terminal has no letter

    def write(self, text: str) -> int:
        """Write at once, where that can be done."""
        with self._going_on():
            self.stream.write(text)
            self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing waits, unless somebody wrote to the stream itself."""
        with self._going_on():
            self.stream.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # what is in its buffer goes there too

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(self.stream, name)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """What a batch system or a closed terminal sends ends a command as Ctrl-C does."""
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP
    if threading.current_thread() is not threading.main_thread():  # which alone may change them
        numbers = set()
    # What is not as it was by default, such as what nohup ignores, stays.
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
