"""Run notebooks as they are committed: default parameters, figures as small pictures too, no trace of the run.

    .venv/bin/python .ci/notebooks.py [NOTEBOOK ...]      all of notebooks/ when none is named

Needs the extra ``dev``, and Chrome or Chromium for the pictures.
"""

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def shrink(png: str) -> str:
    """The same picture in 128 colours, a fifth of the size (base64)."""
    small = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def execute(path: Path) -> None:
    """Run a notebook in an empty folder and write it back."""
    notebook = nbformat.read(path, as_version=4)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, record_timing=False, store_widget_state=False)
        client.execute(cwd=folder)
    took = {"seconds": round(time.monotonic() - begin), "cores": os.cpu_count()}  # for `patchlib grid --dry-run`
    # Without the last two, `jupyter nbconvert --to script` makes a text file.
    language = {"name": "python", "file_extension": ".py", "nbconvert_exporter": "python"}
    kept = {"kernelspec": notebook.metadata.kernelspec, "language_info": language}
    notebook.metadata = kept | {"patchlib": took}
    for cell in notebook.cells:
        if "live" in cell.metadata.get("tags", []):
            cell.outputs = []  # a stored control is dead: it would show an error until it is run
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = shrink(output.data["image/png"])
    nbformat.write(notebook, path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    os.environ |= {"PLOTLY_RENDERER": "plotly_mimetype+png", "TQDM_DISABLE": "1"}
    for path in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        execute(path)
