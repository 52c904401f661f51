"""Headless runs: one notebook (`execute`), many on any executor (`grid`), and what came out of them (`report`).

A *run* is an executed notebook. Nothing here imports torch, and what is heavy is imported when it is asked for: a
notebook that only saves its results does not wait for papermill.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
