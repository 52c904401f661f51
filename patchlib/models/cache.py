"""The models on this disk: which there are, how much they take, and how to be rid of them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import CacheNotFound, scan_cache_dir

from patchlib.errors import ModelError
from patchlib.models.default import SMOLLM2, Weights, cache_dir

OURS = "patchlib's cache"
HUB = "the model hub's cache"


@dataclass(frozen=True)
class CachedModel:
    """A model on this disk: `size` in bytes; `where` is `OURS`, or `HUB`, which other programs share."""

    name: str
    size: int
    where: str
    folder: Path


def cached_models() -> list[CachedModel]:
    """The models on this disk: patchlib's own, then those of the model hub's cache, whoever fetched them.

    Example:
        >>> from patchlib.models.cache import cached_models
        >>> default = next(cached for cached in cached_models() if cached.name == patchlib.DEFAULT_MODEL)
        >>> default.where, default.size > 500_000_000  # bytes
        ("patchlib's cache", True)
    """
    size = sum(map(_size, _files_of(SMOLLM2)))
    ours = [CachedModel(SMOLLM2.name, size, OURS, cache_dir())] if size else []
    try:
        repos = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        repos = []
    shared = [CachedModel(repo.repo_id, repo.size_on_disk, HUB, repo.repo_path) for repo in repos]
    return ours + sorted(shared, key=lambda model: model.name.casefold())


def clear_models(name: str | None = None) -> list[CachedModel]:
    """Delete a model from this disk, or all in patchlib's own cache; they are fetched again when they are needed.

    Args:
        name: As `cached_models` has it. Models of the hub's cache, which other programs share, go only by name.

    Returns:
        What was deleted.

    Raises:
        ModelError: There is no such model here, another process is fetching it, or it cannot be deleted.

    Example:
        >>> from patchlib.models.cache import clear_models
        >>> clear_models("gpt-9")
        Traceback (most recent call last):
        patchlib.errors.ModelError: there is no model 'gpt-9' on this disk to clear; there are: ...
    """
    cached = cached_models()
    to_clear = [model for model in cached if (model.where == OURS if name is None else model.name == name)]
    if name is not None and not to_clear:
        names = ", ".join(model.name for model in cached) or "none"
        raise ModelError(f"there is no model {name!r} on this disk to clear; there are: {names}")
    try:
        for model in to_clear:
            if model.where == OURS:
                with FileLock(cache_dir() / f"{model.name}.lock", timeout=0):
                    for path in _files_of(SMOLLM2):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                hub = scan_cache_dir()
                (repo,) = (repo for repo in hub.repos if repo.repo_path == model.folder)
                hub.delete_revisions(*(revision.commit_hash for revision in repo.revisions)).execute()
    except Timeout as error:
        raise ModelError(f"another process is fetching {model.name!r}; clear it when that is done") from error
    except OSError as error:
        raise ModelError(
            f"{model.name!r} cannot be deleted from {model.folder} ({error}); delete it by hand"
        ) from error
    return to_clear


def _files_of(weights: Weights) -> list[Path]:
    """What the cache holds of a model: its folder, the file that it was made from, what a killed process left."""
    cache = cache_dir()
    paths = [cache / weights.name, cache / weights.file, *cache.glob(f"{weights.name}.tmp-*")]
    return [path for path in paths if path.exists()]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
