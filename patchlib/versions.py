"""The versions that results and manifests carry; light, so that a headless run need not import torch for them."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on, by name."""
    libraries = ("patchlib", "torch", "transformer-lens", "transformers", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}
