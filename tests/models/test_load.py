"""Names to models: what load_model promises, and one clear error for each way in which it can fail."""

from __future__ import annotations

import http.server
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import patchlib.models.load
from patchlib.errors import ModelError
from patchlib.models.default import DEFAULT_MODEL
from patchlib.models.load import last_weights_hash, load_model, weights_hash
from patchlib.models.names import list_models
from tests.tiny import KINDS, load_tiny, tiny_model, tiny_path, tiny_tokenizer

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


class Hub(http.server.ThreadingHTTPServer):
    """A model hub on this machine: the repository acme/tiny is `folder`; all other requests get `refusal`."""

    folder: Path | None
    refusal: tuple[int, str]


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        status, code = self.server.refusal
        content, etag = b"", '""'
        if self.server.folder and self.path.startswith("/acme/tiny/resolve/"):
            file = self.server.folder / self.path.split("/")[-1]
            status, code = (200, "") if file.is_file() else (404, "EntryNotFound")
            content = file.read_bytes() if file.is_file() else b""
            etag = f'"{file.name}-{len(content)}"'
        elif self.server.folder and self.path.startswith("/api/models/acme/tiny"):
            status, code = (404, "EntryNotFound") if "/tree/" in self.path else (200, "")
            content = json.dumps({"id": "acme/tiny", "sha": "c" * 40}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub_server() -> Iterator[Hub]:
    """One server for all tests, because the hub's client remembers the address."""
    server = Hub(("127.0.0.1", 0), HubHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, with an empty repository and an empty download cache."""
    hub_server.folder, hub_server.refusal = None, (404, "RepoNotFound")
    constants = huggingface_hub.constants
    address = f"http://127.0.0.1:{hub_server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "1")
    return hub_server


def message(name: object, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_folder_is_ready_to_hook(kind: str) -> None:
    folder = tiny_path(kind)
    model = load_model(folder, device="cpu")
    assert model.cfg.model_name == folder
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    logits, cache = model.run_with_cache(PROMPT)
    assert cache["blocks.1.attn.hook_z"].shape[2] == model.cfg.n_heads
    tokens = model.to_tokens(PROMPT)
    expected = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")(tokens).logits
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_global_random_states_are_left_alone(kind: str) -> None:
    folder = tiny_path(kind)
    before = (torch.random.get_rng_state(), random.getstate(), np.random.get_state())
    load_model(folder)
    after = (torch.random.get_rng_state(), random.getstate(), np.random.get_state())
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(np.array_equal(a, b) for a, b in zip(before[2], after[2], strict=True))


def test_loading_says_nothing_and_leaves_progress_bars_as_they_were(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    folder = tiny_path()
    capfd.readouterr()
    load_model(folder)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    with transformers.utils.logging.tqdm([1], desc="a bar of the user's") as bar:
        list(bar)
    assert "a bar of the user's" in capfd.readouterr().err


def test_paths_and_dtypes_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tiny_path())
    monkeypatch.chdir(folder.parent)
    assert load_model(f"./{folder.name}").cfg.model_name == f"./{folder.name}"
    assert load_model(folder, dtype="bfloat16").cfg.dtype == torch.bfloat16
    model = load_model(folder, device=torch.device("cpu"), dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_hash_is_of_the_weights_alone() -> None:
    first, second = load_model(tiny_path("llama")), load_model(tiny_path("llama"))
    assert len(weights_hash(first)) == 64
    assert weights_hash(first) == weights_hash(second)
    others = [load_tiny("gpt2"), load_tiny("llama", seed=1), load_model(tiny_path("llama"), dtype="bfloat16")]
    assert len({weights_hash(first), *map(weights_hash, others)}) == 4


def test_hash_is_kept_but_notices_an_edit_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_path())
    before = weights_hash(model)
    with monkeypatch.context() as patch:
        patch.delattr(patchlib.models.load, "hashlib")  # nothing may be hashed the second time
        assert last_weights_hash(model) == before
    parameter = next(model.original_model.parameters())
    original = parameter.clone()
    parameter += 1
    assert last_weights_hash(model) != before
    parameter.copy_(original)
    assert last_weights_hash(model) == before
    parameter.data *= 2  # which PyTorch does not count
    assert last_weights_hash(model) != before
    parameter.data.copy_(original)
    assert weights_hash(model) == before
    parameter.data.view(-1)[1] += 1  # a single number
    assert weights_hash(model) != before


def test_hash_of_a_model_loaded_in_inference_mode() -> None:
    with torch.inference_mode():
        model = load_model(tiny_path())
    assert weights_hash(model) == weights_hash(load_tiny())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_hash_is_the_same_on_cuda() -> None:
    model = load_model(tiny_path(), device="cuda")
    assert next(model.parameters()).device.type == "cuda"
    assert weights_hash(model) == weights_hash(load_tiny())


def test_list_of_models_starts_with_the_default_and_can_be_searched() -> None:
    names = list_models()
    assert names[0] == DEFAULT_MODEL
    assert len(set(names)) == len(names) > 500
    assert {"openai-community/gpt2", "EleutherAI/pythia-70m"} <= set(names)
    assert not any("bert-base" in name for name in names)
    pythias = list_models(contains="PYTHIA-70m")
    assert "EleutherAI/pythia-70m" in pythias
    assert all("pythia-70m" in name.casefold() for name in pythias)
    assert list_models(contains="no such text") == []


def test_a_model_from_the_hub(hub: Hub) -> None:
    hub.folder = Path(tiny_path("neox"))
    model = load_model("acme/tiny")
    assert model.cfg.model_name == "acme/tiny"
    assert weights_hash(model) == weights_hash(load_tiny("neox"))


def test_a_hub_model_with_pickled_weights_only_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.folder = Path(tiny_model(tmp_path / "model"))
    (hub.folder / "model.safetensors").unlink()
    torch.save({}, hub.folder / "pytorch_model.bin")
    assert "model.safetensors" in message("acme/tiny")


def test_unknown_name_offers_close_ones(hub: Hub) -> None:
    said = message("acme/pythia-70")
    assert "there is no model 'acme/pythia-70'" in said
    assert "EleutherAI/pythia-70m" in said
    assert "list_models" in said
    assert "there is no model 'two words'" in message("two words")


def test_gated_model_asks_for_a_token(hub: Hub) -> None:
    hub.refusal = (403, "GatedRepo")
    assert "HF_TOKEN" in message("acme/gated")


def test_no_network_is_not_called_an_unknown_name(offline: None) -> None:
    said = message("gpt2")
    assert "the model hub cannot be reached" in said
    assert "similar" not in said  # TransformerLens knows gpt2
    assert DEFAULT_MODEL in said
    assert "(similar names: smollm2-135m, " in message("smollm2-135")


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "a/b/c"])
def test_a_path_that_is_no_folder(name: str) -> None:
    assert f"there is no folder '{name}'" in message(name)


@pytest.mark.parametrize("name", [None, 3, b"gpt2"])
def test_a_name_of_another_type(name: object) -> None:
    assert "list_models" in message(name)


@pytest.mark.parametrize("dtype", ["float31", "int64", torch.int8, "load", 32])
def test_bad_dtype(dtype: object) -> None:
    assert "'bfloat16'" in message(tiny_path(), dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", 1.5])
def test_bad_device(device: object) -> None:
    assert "take 'cpu'" in message(tiny_path(), device=device)


def change_config(folder: str, **changes: object) -> None:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_unsupported_architectures(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    for kind, architecture in (("bert", "BertForMaskedLM"), ("t5", "T5ForConditionalGeneration")):
        change_config(folder, model_type=kind, architectures=[architecture])
        assert f"is not supported ({architecture})" in message(folder)
    change_config(folder, model_type="ctrl", architectures=["CTRLLMHeadModel"])  # TransformerLens lacks it
    assert "is not supported (CTRLLMHeadModel)" in message(folder)
    change_config(folder, model_type="never_heard_of")  # transformers lacks it
    assert "is not supported" in message(folder)


def test_a_model_with_code_of_its_own_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    change_config(folder, model_type="own", auto_map={"AutoConfig": "own.A", "AutoModelForCausalLM": "own.B"})
    assert "never runs a model's own code" in message(folder)
    assert not ran.exists()


def test_a_folder_without_its_files(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "has no *.safetensors" in message(folder)
    (tmp_path / "config.json").unlink()
    assert "has no config.json and no *.safetensors" in message(folder)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_folder_without_tokenizer(kind: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, kind)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in message(folder)


def test_damaged_files_in_a_folder(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    change_config(folder, n_layer=4)
    assert "do not fit their config.json (12 tensors" in message(folder)
    change_config(folder, n_layer=3, n_positions=64)
    assert "do not fit their config.json (1 tensors" in message(folder)
    change_config(folder, n_positions=128)
    assert load_model(folder).cfg.n_layers == 3
    os.truncate(tmp_path / "model.safetensors", 5000)
    assert "could not be loaded" in message(folder)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in message(folder)


def test_tiny_tokenizer_splits_only_unknown_words() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.tokenize(PROMPT)[:3] == ["When", "ĠMary", "Ġand"]
    assert len(tokenizer(PROMPT).input_ids) == 14
    assert len(tokenizer(" Zorg").input_ids) > 1


@pytest.mark.real_model
def test_the_default_model(capfd: pytest.CaptureFixture[str]) -> None:
    model = load_model()  # the first load on a machine fetches and converts, and says so
    capfd.readouterr()
    again = load_model(DEFAULT_MODEL, device="cpu", dtype="float32")
    assert capfd.readouterr() == ("", "")
    assert model.cfg.model_name == "smollm2-135m"
    assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.n_key_value_heads) == (30, 9, 3)
    assert weights_hash(model) == weights_hash(again)
    with torch.no_grad():
        top = model(PROMPT)[0, -1].topk(1).indices
    assert model.to_string(top) == " Mary"
