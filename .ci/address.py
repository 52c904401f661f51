"""Point the badges, the notebooks' Colab cell and the metadata at a repository: yours, or that of your course.

Usage: ``python .ci/address.py OWNER/NAME``
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "CITATION.cff", "README.md", "notebooks/*.ipynb")


def address(root: Path = ROOT) -> str:
    """OWNER/NAME, as pyproject.toml has it."""
    urls = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    return "/".join(urls["Repository"].split("/")[-2:])


def change(new: str, root: Path = ROOT) -> list[Path]:
    """Write the new address over the old one, and return the files that had it."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        raise SystemExit(f"{new!r} is no address; give OWNER/NAME, as in github.com/OWNER/NAME")
    old, changed = address(root), []
    for path in [path for pattern in FILES for path in sorted(root.glob(pattern))]:
        text = path.read_text("utf-8")
        if re.search(named := rf"(?<![\w.-]){re.escape(old)}(?![\w-])", text):
            path.write_text(re.sub(named, new, text), "utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for path in change(sys.argv[1]):
        print(path.relative_to(ROOT))
