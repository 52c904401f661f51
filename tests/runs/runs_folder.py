"""Small folders of runs in the layout that `patchlib grid` and `patchlib run` write, without running anything."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from patchlib.runs import save_run

STEM = "02_head_patching"
PNG = base64.b64encode(  # one red pixel
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
    )
).decode()


def sweep_result(seed: int, model: str = "tiny", layers: int = 3, heads: int = 2, n: int = 4) -> xr.Dataset:
    """What `sweep` gives, with made-up numbers: L1H0 is large and L2H1 negative for all seeds."""
    random = np.random.default_rng(seed)
    effect = random.normal(0, 0.05, (1, layers, heads)).astype("float32")
    effect[0, 1, 0], effect[0, 2, 1] = 0.8 + 0.01 * seed, -0.3
    dims = ("metric", "layer", "head")
    return xr.Dataset(
        {
            "patched": ((*dims, "example"), random.normal(size=(1, layers, heads, n)).astype("float32")),
            "clean": (("metric", "example"), np.full((1, n), 3.5, "float32")),
            "corrupted": (("metric", "example"), np.full((1, n), -2.5, "float32")),
            "effect": (dims, effect),
        },
        {
            "metric": ["logit_diff"],
            "layer": np.arange(layers),
            "head": np.arange(heads),
            "example": np.arange(n),
            "clean_prompt": ("example", [f"prompt {seed}.{i}" for i in range(n)]),
            "layer_label": ("layer", [f"L{i}" for i in range(layers)]),
        },
        {"model": model, "weights_hash": f"hash of {model}", "site": "z", "seed": seed},
    )


def executed(title: str, figures: int = 2, png: str | None = None) -> nbformat.NotebookNode:
    """A notebook with heat maps as plotly's data, and one picture if its PNG is given."""
    cells = [new_markdown_cell(f"# {title}")]
    for number in range(figures):
        figure = go.Figure(go.Heatmap(z=[[0.1 * number, 0.5], [-0.5, 0.2]], colorscale="RdBu"))
        figure.update_layout(title=f"{title}: figure {number}", width=640, height=400)
        data = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
        cells.append(new_code_cell("draw()", execution_count=1, outputs=[new_output("display_data", data)]))
    if png:
        output = new_output("display_data", {"image/png": png, "text/plain": "<Figure>"})
        cells.append(new_code_cell("picture()", execution_count=2, outputs=[output]))
    return new_notebook(cells=cells)


def add_run(folder: Path, name: str | None = None, status: str = "ok", **more: Any) -> Path:
    """Write one run: below `runs/` with a status where it has a name, else as `patchlib run` writes it.

    Args:
        folder: The grid's, or the plain run's.
        name: The run's, after the notebook's stem; None for a plain run.
        status: What became of it; only "ok" leaves results, and what is given as `results`.
        more: parameters, results, error, notebook (stem), png, figures.
    """
    stem = more.get("notebook", STEM)
    place = folder / "runs" / f"{stem},{name}" if name is not None else folder
    place.mkdir(parents=True, exist_ok=True)
    parameters = {"model_name": "tiny", "n_prompts": 4, "seed": 0, **more.get("parameters", {})}
    seed, model = parameters["seed"], parameters["model_name"]
    default = {"output": sweep_result(seed, model), "roles": pd.DataFrame({"head": ["L1H0"], "score": [seed / 10]})}
    if status in ("ok", "failed"):
        results = more.get("results", default if status == "ok" else {})
        path = save_run(place, stem, results, parameters | {"out_dir": str(place)}, {"score": (seed or 0) / 10})
        changed = {"status": status, "error": more.get("error"), "title": "Heads", "wall_time_s": 12.5}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed | {"peak_memory_mb": 1200.0 + (seed or 0)}))
        nbformat.write(
            executed(f"Heads of {model}, {name}", more.get("figures", 2), more.get("png")), place / f"{stem}.ipynb"
        )
        (place / f"{stem}.html").write_text("<title>a run</title>")
    if name is not None:
        record = {"status": status, "error": more.get("error"), "attempts": 1, "parameters": parameters}
        record |= {"notebook": stem, "wall_time_s": 10.0 + (seed or 0), "peak_memory_mb": None}
        (place / "status.json").write_text(json.dumps(record))
    return place
