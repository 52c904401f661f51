"""The GGUF file of the default model -> a Hugging Face folder that loads in less than a second.

Apart from `default`, so that torch and transformers are imported only where a model is converted or loaded.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from patchlib._util import sha256_of
from patchlib.models.default import RECORD, Weights
from patchlib.progress import progress_bar


def convert(weights: Weights, gguf: Path, folder: Path) -> None:
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

    former_hook = logging.set_tqdm_hook(hidden)
    try:
        yield
    finally:
        logging.set_tqdm_hook(former_hook)
