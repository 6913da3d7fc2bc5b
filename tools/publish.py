"""Fills in what the project shows: Colab badges and cells from pyproject.toml, the README's results from a run."""

import base64
import json
import re
import sys
import tomllib
from pathlib import Path

import nbformat

from utils.lab.notebooks import NOTEBOOKS, ROOT
from utils.results import percent, read_results
from utils.settings import load_settings

BADGE_CELL, BOOTSTRAP_CELL = "colab-badge", "colab-bootstrap"  # cell ids
FIGURES = {  # the notebook it is in, its cell's id, and its number among the cell's figures
    "lab1": ("lab1_prompt_engineering", "figure-prompts", 0),
    "lab2": ("lab2_fine_tuning", "figure-fine-tuning", 0),
    "lab3_frontier": ("lab3_rlhf_detox", "figure-frontier", 0),
    "lab3_toxicity": ("lab3_rlhf_detox", "figure-detox", 0),
    "lab3_rouge": ("lab3_rlhf_detox", "figure-detox", 1),
}
DETOX = (
    "before",
    "after",
    "before_sampled",
    "after_sampled",
    "best_of_8",
    "polite_prompt",
    "no_kl_price",
)
SHOWN = {
    ("lab1", "rouge1"): ("zero_shot", "one_shot", "few_shot", "chosen", "lead", "human"),
    ("lab2", "rouge1"): ("zero_shot", "full", "lora", "lead", "human"),
    ("lab3", "toxicity"): (*DETOX, "lead", "human"),
    ("lab3", "rouge1"): (*DETOX, "lead", "human"),
}
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
        clone = [
            *("git", "-c", "advice.detachedHead=false", "clone", "--quiet"),
            *("--depth=1", "--branch={tag}"),
            "{address}",
            "labs",
        ]
        subprocess.run(clone, check=True)
    kept = "".join(f"{{name}}=={{version(name)}}\\n" for name in ("torch", "numpy"))
    Path("kept.txt").write_text(kept)
    install = [sys.executable, "-m", "pip", "install", "--quiet"]
    lists = ["-r", "labs/requirements-colab.txt", "-c", "kept.txt"]
    subprocess.run(install + lists, check=True)
    chdir("labs")
    sys.path.insert(0, str(Path.cwd()))

import utils

folder = Path(utils.__file__).parent
assert folder == Path.cwd() / "utils", f"another utils was found: {{folder}}"
print("utils from", folder if in_colab else folder.name)
"""


def picture(folder: Path, figure: str) -> bytes:
    """One of FIGURES as PNG, from the executed notebook in the folder."""
    name, cell_id, number = FIGURES[figure]
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    pictures = [
        output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(pictures[number])


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


def publish_addresses() -> None:
    """Write badges and bootstrap cells into the notebooks, whose outputs stay, and the badges into the README."""
    for name in NOTEBOOKS:
        notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
        if BADGE_CELL not in {cell.id for cell in notebook.cells}:
            cells = (
                nbformat.v4.new_markdown_cell(id=BADGE_CELL),
                nbformat.v4.new_code_cell(id=BOOTSTRAP_CELL),
            )
            notebook.cells[1:1] = cells
        for cell in notebook.cells:
            if cell.id == BADGE_CELL:
                cell.source = badge(name)
            elif cell.id == BOOTSTRAP_CELL:
                cell.source = bootstrap()
        nbformat.write(notebook, ROOT / f"{name}.ipynb")
    _write_into_readme("colab", " ".join(badge(name) for name in NOTEBOOKS))


def publish_results(output_dir: Path) -> None:
    """Take the figures and scores of a run of all labs into docs/, and a table of the main ones into the README.

    Raises:
        ValueError: a lab has not run there, or not as the embedded default with its seed.
    """
    results = output_dir / "results.json"
    whole = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    labs = [name.split("_")[0] for name in NOTEBOOKS]
    for lab in labs:
        run = whole.get(lab, {}).get("run", {})
        if not run.get("embedded_default") or run["seed"] != load_settings("offline").seed:
            raise ValueError(
                f"{output_dir} holds no run of {lab} on the embedded default: run `make labs` first"
            )
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    for figure in FIGURES:
        (docs / f"{figure}.png").write_bytes(picture(output_dir, figure))
    text = json.dumps({lab: whole[lab] for lab in labs}, indent=2)
    (docs / "results.json").write_text(text + "\n", encoding="utf-8")
    scores = percent(read_results(docs / "results.json")).set_index(["lab", "measure", "system"])
    lines = [
        "| lab | measure | system | mean | 95 % interval | dialogues |",
        "|---|---|---|---|---|---|",
    ]
    for (lab, measure), systems in SHOWN.items():
        for system in systems:
            row = scores.loc[(lab, measure, system)]
            interval = f"{row['low']:.1f} to {row['high']:.1f}"
            lines.append(
                f"| {lab} | {measure} | {system} | {row['mean']:.1f} | {interval} | {row['n']:.0f} |"
            )
    _write_into_readme("results", "\n".join(lines))


def _write_into_readme(mark: str, text: str) -> None:
    """Replace what stands between <!-- mark --> and <!-- end of mark -->."""
    readme = ROOT / "README.md"
    marked = re.compile(rf"(<!-- {mark} -->\n\n).*?(\n\n<!-- end of {mark} -->)", re.DOTALL)
    whole, count = marked.subn(
        lambda match: match[1] + text + match[2], readme.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ValueError(f"README.md has {count} places marked <!-- {mark} -->: it needs one")
    readme.write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    publish_addresses()
    try:
        publish_results(ROOT / "out")
    except ValueError as error:
        sys.exit(f"badges and bootstrap cells are filled in, results are not: {error}")
