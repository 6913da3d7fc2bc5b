"""Fills the Colab badges and the notebooks' bootstrap cells from the address and version in pyproject.toml."""

import re
import tomllib

import nbformat

from utils.labs import NOTEBOOKS, ROOT

BADGE_CELL, BOOTSTRAP_CELL = "colab-badge", "colab-bootstrap"  # cell ids
MARKED = re.compile(r"(<!-- colab -->\n).*(\n<!-- end of colab -->)", re.DOTALL)  # in the README
BOOTSTRAP = """
# In Colab: fetch the project and what Colab lacks. Elsewhere: nothing.
import subprocess
import sys
from importlib.metadata import version
from os import chdir
from pathlib import Path

in_colab = "google.colab" in sys.modules
if in_colab and not Path("utils").is_dir():
    if not Path("labs").is_dir():
        source = [
            "{address}",
            "--branch={tag}",
        ]
        clone = ["git", "clone", "--quiet", "--depth=1", *source, "labs"]
        subprocess.run(clone, check=True)
    chdir("labs")
    sys.path.insert(0, str(Path.cwd()))
    kept = "".join(f"{{name}}=={{version(name)}}\\n" for name in ("torch", "numpy"))
    Path("kept.txt").write_text(kept)
    install = [sys.executable, "-m", "pip", "install", "--quiet"]
    lists = ["-r", "requirements-colab.txt", "-c", "kept.txt"]
    subprocess.run(install + lists, check=True)

import utils

folder = Path(utils.__file__).parent
assert folder == Path.cwd() / "utils", f"another utils was found: {{folder}}"
print("utils from", folder if in_colab else folder.name)
"""


def project() -> tuple[str, str]:
    """The project's public address, and the tag of its version."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table["urls"]["repository"], f"v{table['version']}"


def badge(notebook: str) -> str:
    """Markdown of a badge that opens a notebook in Colab."""
    address, tag = project()
    place = address.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{place}/blob/{tag}/{notebook}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"


def bootstrap() -> str:
    """Source of the cell that makes the project ready in Colab."""
    address, tag = project()
    return BOOTSTRAP.strip().format(address=address, tag=tag)


def fill() -> None:
    """Write badges and cells into the notebooks and the README; outputs stay."""
    for name in NOTEBOOKS:
        notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
        cells = {cell.id: cell for cell in notebook.cells}
        if BADGE_CELL not in cells:
            notebook.cells[1:1] = [
                nbformat.v4.new_markdown_cell(id=BADGE_CELL),
                nbformat.v4.new_code_cell(id=BOOTSTRAP_CELL),
            ]
            cells = {cell.id: cell for cell in notebook.cells}
        cells[BADGE_CELL].source, cells[BOOTSTRAP_CELL].source = badge(name), bootstrap()
        nbformat.write(notebook, ROOT / f"{name}.ipynb")
    readme = ROOT / "README.md"
    lines = "\n".join(f"- {name.replace('_', ' ')}: {badge(name)}" for name in NOTEBOOKS)
    readme.write_text(MARKED.sub(rf"\g<1>{lines}\g<2>", readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    fill()
