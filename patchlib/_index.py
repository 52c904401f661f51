"""The page that lists the runs of a folder, made from their manifests alone."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import jinja2

from patchlib._manifest import replacing
from patchlib.errors import RunError

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>patchlib runs: {{ folder }}</title>
<style>
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1c2330; --soft: #5c677a;
        --line: #dde2ea; --chip: #eef1f6; --link: #1656b8; --ok: #1a7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12151b; --card: #1b2029; --ink: #e6eaf1; --soft: #9aa6b8; --line: #2f3744;
          --chip: #262d39; --link: #8ab6ff; --ok: #5fd39a; --bad: #ff9389; } }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem; background: var(--page); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 0; } p { margin: .5rem 0; }
a { color: var(--link); } h2 a { text-decoration: none; } h2 a:hover { text-decoration: underline; }
header p, footer, dt, summary { color: var(--soft); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 1.25rem 0;
          padding: 1.1rem 1.25rem; overflow-wrap: anywhere; }
.head { display: flex; gap: 1rem; justify-content: space-between; align-items: baseline; }
.status { font-size: .85rem; font-weight: 600; color: var(--bad); white-space: nowrap; }
.status.ok { color: var(--ok); }
.error { color: var(--bad); font-family: ui-monospace, monospace; font-size: .9rem; }
dl { display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: .8rem 0; }
dt { font-size: .8rem; } dd { margin: 0; font-variant-numeric: tabular-nums; }
ul { display: flex; flex-wrap: wrap; gap: .4rem; list-style: none; margin: .8rem 0; padding: 0; }
li, code { font-family: ui-monospace, monospace; font-size: .85rem; }
.parameters li { background: var(--chip); border-radius: .3rem; padding: .1rem .5rem; }
.files { gap: .4rem 1.2rem; border-top: 1px solid var(--line); margin-bottom: 0; padding-top: .8rem; }
footer { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; }
</style>
</head>
<body>
<header>
<h1>patchlib runs</h1>
<p>{{ counts }}</p>
</header>
<main>
{% for run in runs %}
<article>
<div class="head">
{% if run.page %}<h2><a href="{{ run.page | urlencode }}">{{ run.title }}</a></h2>
{% else %}<h2>{{ run.title }}</h2>
{% endif %}
<span class="status {{ run.status }}">{{ run.status }}</span>
</div>
{% if run.description %}<p>{{ run.description }}</p>{% endif %}
{% if run.error %}<p class="error">{{ run.error }}</p>{% endif %}
<dl>
{% for name, value in run.facts %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% if run.parameters %}
<ul class="parameters" aria-label="parameters">
{% for name, value in run.parameters %}<li>{{ name }} = {{ value }}</li>
{% endfor %}
</ul>
{% endif %}
<details><summary>Repeat this run</summary><code>{{ run.repeat }}</code></details>
<ul class="files" aria-label="files">
{% for name, size in run.files %}<li><a href="{{ name | urlencode }}">{{ name }}</a> {{ size }}</li>
{% endfor %}
</ul>
</article>
{% endfor %}
</main>
<footer>
{% for name, version in versions.items() %}
<span>{{ name }} {{ version }}</span>
{% endfor %}
</footer>
</body>
</html>
"""


def write_index(folder: Path) -> Path:
    """Write `index.html` over all the manifests of a folder, and return its path.

    Raises:
        RunError: a manifest is damaged, or the page cannot be written.
    """
    manifests = [_read_manifest(path) for path in sorted(folder.glob("*.manifest.json"))]
    statuses = [manifest["status"] for manifest in manifests]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)
    html = template.render(
        folder=folder.name,
        counts=counts or "Nothing has run yet.",
        runs=[_card(manifest, folder) for manifest in manifests],
        versions=_versions(manifests),
    )
    with replacing(folder / "index.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return folder / "index.html"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged; delete it and run the notebook again") from error


def _card(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    stem = manifest["notebook"]
    page = f"{stem}.html"
    names = [page, f"{stem}.ipynb", *(file["name"] for file in manifest["files"]), f"{stem}.manifest.json"]
    present = [name for name in names if (folder / name).is_file()]
    seconds = manifest.get("runner_wall_time_s") or manifest["wall_time_s"]
    models = [
        f"{model['name']} ({(model['weights_hash'] or 'no hash')[:10]})" for model in manifest["models"]
    ]
    facts = {
        "Wall time": f"{seconds:.1f} s" if seconds else None,
        "Peak memory": f"{manifest['peak_memory_mb']:,.0f} MB" if manifest["peak_memory_mb"] else None,
        "Threads": manifest["threads"],
        "Model": ", ".join(models) or None,
        "Finished (UTC)": manifest["finished_utc"][:19].replace("T", " "),
    }
    return {
        "title": manifest.get("title", stem),
        "description": textwrap.shorten(manifest.get("description", ""), 260, placeholder=" ..."),
        "status": manifest["status"],
        "error": manifest.get("error"),
        "page": page if page in present else None,
        "facts": [(name, value) for name, value in facts.items() if value is not None],
        "parameters": [(name, value) for name, value in manifest["parameters"].items() if name != "out_dir"],
        "repeat": manifest["repeat"],
        "files": [(name, _size((folder / name).stat().st_size)) for name in present],
    }


def _versions(manifests: list[dict[str, Any]]) -> dict[str, str]:
    seen: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, version in manifest["versions"].items():
            seen.setdefault(name, set()).add(version or "not installed")
    return {name: " / ".join(sorted(versions)) for name, versions in seen.items()}


def _size(n_bytes: int) -> str:
    if n_bytes < 1000:
        return f"{n_bytes} B"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
