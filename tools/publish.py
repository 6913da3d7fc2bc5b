"""Write Colab badges and cells, the trainer's options, and results into notebooks and pages."""

import base64
import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from transformers import TrainingArguments
from trl import GRPOConfig, RLOOConfig

from utils.lab.notebooks import NOTEBOOKS, ROOT
from utils.ppo.config import DEFAULTS, PPOConfig
from utils.results import percent, read_results
from utils.settings import load_settings

DOCS = ROOT / "docs"
BADGE_CELL, BOOTSTRAP_CELL = "colab-badge", "colab-bootstrap"  # cell ids
FIGURES = {  # file in docs/: notebook, id of the cell, position among the figures of that cell
    "lab1": ("lab1_prompt_engineering", "figure-prompts", 0),
    "lab2": ("lab2_fine_tuning", "figure-fine-tuning", 0),
    "lab3_frontier": ("lab3_rlhf_detox", "figure-frontier", 0),
    "lab3_rivals": ("lab3_rlhf_detox", "figure-detox", 0),
}
TABLES = {  # lab and measure in results.json: title of the table, name of the score
    ("lab1", "rouge1"): ("Lab 1: prompts", "ROUGE-1 F1, points"),
    ("lab2", "rouge1"): ("Lab 2: fine-tuning", "ROUGE-1 F1, points"),
    ("lab3", "toxic_share"): ("Lab 3: sampled summaries of heated dialogues", "toxic, %"),
    ("lab3", "told"): ("Lab 3: facts told in these summaries", "facts told, %"),
    ("lab3", "rouge1"): ("Lab 3: ordinary dialogues, greedy", "ROUGE-1 F1, points"),
}
DETOX = {
    "before": "before PPO",
    "after": "after PPO",
    "polite prompt": "polite prompt, no training",
    "filter": "word filter, no training",
    "best of 8": "best of 8 samples, no training",
    "best of n": "best of n samples at PPO's KL",
    **{
        f"supervised, {n}": f"fine-tuned on {n} cool " + ("summary" if n == 1 else "summaries")
        for n in (1, 8, 32, 128)
    },
    "rloo": "RLOO",
    "grpo": "GRPO",
}
BASELINES = {"lead": "lead-2: first two turns", "human": "one reference against the others"}
SYSTEMS = {  # the rows of each table: name in results.json, name for readers
    ("lab1", "rouge1"): {
        "zero_shot": "zero-shot",
        "one_shot": "one-shot",
        "few_shot": "few-shot, three examples",
        "chosen": "prompt and decoding chosen on validation",
        **BASELINES,
    },
    ("lab2", "rouge1"): {
        "zero_shot": "zero-shot",
        "full": "full fine-tuning",
        "lora": "LoRA",
        **BASELINES,
    },
    ("lab3", "toxic_share"): DETOX,
    ("lab3", "told"): DETOX,
    ("lab3", "rouge1"): {
        "before": "before PPO",
        "after": "after PPO",
        "human": BASELINES["human"],
    },
}
BOOTSTRAP = r"""
# In Colab, this fetches the project and installs what is missing.
repository = ""  # @param {type:"string"}
keep_on_drive = False  # @param {type:"boolean"}
import os
import re
import sys
from pathlib import Path
from urllib.request import unquote, urlopen

if "google.colab" in sys.modules and not Path("utils").is_dir():
    address, ref = "ADDRESS", "TAG"
    jupyter = "http://{COLAB_JUPYTER_IP}:{KMP_TARGET_PORT}/api/sessions"
    try:  # Colab's Jupyter knows where this notebook was opened from
        said = urlopen(jupyter.format(**os.environ), timeout=9).read().decode()
    except (KeyError, OSError, ValueError):  # Colab does not document this
        said = ""
    place = r"github(?:\.com)?/([\w.-]+/[\w.-]+)(?:/blob/(\w[\w./-]*)/.*ipynb)?"
    if found := re.search(place, repository or unquote(unquote(said))):
        address, ref = f"https://github.com/{found[1]}", found[2] or "HEAD"
    assert address, "Enter the project's GitHub address in `repository`."
    print(f"fetching {address} at {ref}")
    fetch = f"-C labs fetch -q --depth=1 {address} {ref}"
    for step in ("init -q labs", fetch, "-C labs checkout -q FETCH_HEAD"):
        failed = os.spawnlp(os.P_WAIT, "git", "git", *step.split())
        assert not failed, f"git cannot fetch {ref} from {address}"
    os.chdir("labs")
sys.path.insert(0, str(Path.cwd()))  # before any other package called utils
from utils.lab.setup import set_up

set_up(keep_on_drive)
"""
# The last line of the cell, also in earlier versions of the notebooks
ENDS = ("set_up(keep_on_drive)", 'print("utils from", folder if in_colab else folder.name)')
ON_GITHUB = re.compile(r"(?:^|[/@])github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?$")
NO_ADDRESS = """In [Colab](https://colab.research.google.com), choose *Open notebook*, then
*GitHub*, and enter the address of this project."""


def picture(folder: Path, figure: str) -> bytes:
    """Return one of FIGURES as PNG, from the executed notebook in the folder."""
    name, cell_id, number = FIGURES[figure]
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    pictures = [
        output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(pictures[number])


def project() -> tuple[str, str]:
    """Return the project's address on GitHub, "" if it has none yet, and its version's tag."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table.get("urls", {}).get("repository", ""), f"v{table['version']}"


def settle_address() -> None:
    """Write the git remote's GitHub address into pyproject.toml if that file has none yet."""
    file = ROOT / "pyproject.toml"
    asked = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    remote = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    found = ON_GITHUB.search(remote)
    if found and not project()[0]:
        line = f'repository = "https://github.com/{found[1]}"'  # without a token
        text = re.sub("(?m)^# repository = .*$", line, file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")


def badge(notebook: str) -> str:
    """Return the Markdown of a badge that opens a notebook in Colab, or how to open it there."""
    address, tag = project()
    if not address:
        return NO_ADDRESS
    repository = address.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{repository}/blob/{tag}/{notebook}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"


def bootstrap() -> str:
    """Return the source of the cell that sets up the project in Colab."""
    address, tag = project()
    return BOOTSTRAP.strip().replace("ADDRESS", address).replace("TAG", tag)


def with_bootstrap(source: str) -> str:
    """Replace the bootstrap code in a setup cell, and keep what comes before and after it."""
    code = bootstrap()
    before, found, rest = source.partition(code.splitlines()[0])
    for end in ENDS:
        _, ended, after = rest.partition(end)
        if found and ended:
            return before + code + after
    return code


def publish_addresses() -> None:
    """Write badges and setup cells into the notebooks, and badges into the README."""
    for name in NOTEBOOKS:
        notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
        if BADGE_CELL not in {cell.id for cell in notebook.cells}:
            notebook.cells[1:1] = (
                nbformat.v4.new_markdown_cell(id=BADGE_CELL),
                nbformat.v4.new_code_cell(id=BOOTSTRAP_CELL),
            )
        for cell in notebook.cells:
            if cell.id == BADGE_CELL:
                cell.source = badge(name)
            elif cell.id == BOOTSTRAP_CELL:
                cell.source = with_bootstrap(cell.source)
        nbformat.write(notebook, ROOT / f"{name}.ipynb")
    badges = dict.fromkeys(badge(name) for name in NOTEBOOKS)  # one sentence, or three badges
    _fill(ROOT / "README.md", "colab", " ".join(badges))


def publish_options() -> None:
    """Write the table of the trainer's options into docs/trainer.md."""
    _fill(ROOT / "docs" / "trainer.md", "fields", options_table())


def options_table() -> str:
    """Return a table of the options that PPOConfig adds to TrainingArguments or changes in it."""
    inherited = {f.name: f.default for f in dataclasses.fields(TrainingArguments)}
    trl = {f.name for config in (GRPOConfig, RLOOConfig) for f in dataclasses.fields(config)}
    lines = ["| option | default | in TRL | meaning |", "|---|---|---|---|"]
    for option in dataclasses.fields(PPOConfig):
        if option.name in inherited and option.default in (inherited[option.name], MISSING):
            continue
        defaults = [str(own.get(option.name, option.default)) for own in DEFAULTS.values()]
        default = " / ".join(defaults if option.name in DEFAULTS["gae"] else defaults[:1])
        known = "yes" if option.name in trl else "no"
        meaning = option.metadata["help"].replace("|", "\\|")
        lines.append(f"| `{option.name}` | {default} | {known} | {meaning} |")
    return "\n".join(lines)


def publish_expected() -> None:
    """Write the tables of docs/expected.csv and docs/published.csv into docs/expected.md."""
    _fill(DOCS / "expected.md", "expected", expected_table())
    _fill(DOCS / "expected.md", "published", published_table())


def expected_table() -> str:
    """Return the ranges of docs/expected.csv as a Markdown table."""
    lines = ["| lab | measure | system | expected | label | why |", "|---" * 6 + "|"]
    for row in pd.read_csv(DOCS / "expected.csv", keep_default_na=False).itertuples():
        span = f"{row.low:g} to {row.high:g} {row.unit}"
        name = f"{row.lab} | {row.measure} | {row.system or '–'}"
        lines.append(f"| {name} | {span} | {row.label} | {row.reason} |")
    return "\n".join(lines)


def published_table() -> str:
    """Return the scores of docs/published.csv as a Markdown table."""
    titles = (
        "system | model | ROUGE-1 | ROUGE-2 | ROUGE-L | references | stemmed | scored on, source"
    )
    lines = [f"| {titles} |", "|---" * 8 + "|"]
    table = pd.read_csv(DOCS / "published.csv", dtype=str, keep_default_na=False)
    for row in table.itertuples():
        source = f"[{row.source}]({row.address})" if row.address else row.source
        scores = f"{row.rouge1} | {row.rouge2} | {row.rougeL}"
        how = f"{row.references} | {row.stemmed} | {', '.join(filter(None, (row.unit, source)))}"
        lines.append(f"| {row.system} | {row.size} | {scores} | {how} |")
    return "\n".join(lines)


def publish_results(output_dir: Path) -> None:
    """Copy figures and scores of a run of all labs into docs/, and fill in docs/results.md.

    Raises ValueError if a lab has not run there with the preset offline and its default seed.
    """
    runs = _small_world_runs(output_dir)
    for figure in FIGURES:
        (DOCS / f"{figure}.png").write_bytes(picture(output_dir, figure))
    (DOCS / "results.json").write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    _fill(DOCS / "results.md", "results", results_tables(DOCS / "results.json"))


def results_tables(path: Path) -> str:
    """Return the main scores of a results.json as Markdown tables, one for each entry of TABLES."""
    scores = percent(read_results(path), decimals=6).set_index(["lab", "measure", "system"])
    tables = []
    for (lab, measure), (title, score) in TABLES.items():
        lines = [f"### {title}", "", f"| system | {score} | 95% interval | dialogues |"]
        lines.append("|---|---|---|---|")
        for system, name in SYSTEMS[lab, measure].items():
            row = scores.loc[(lab, measure, system)]
            interval = f"{row['low']:.1f} to {row['high']:.1f}"
            lines.append(f"| {name} | {row['mean']:.1f} | {interval} | {row['n']:.0f} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _small_world_runs(output_dir: Path) -> dict[str, Any]:
    """Return the entries of all labs in a folder's results.json.

    Raises ValueError if a lab has not run there with the preset offline and its default seed.
    """
    path = output_dir / "results.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    labs = [name.split("_")[0] for name in NOTEBOOKS]
    for lab in labs:
        run = stored.get(lab, {}).get("run", {})
        if not run.get("embedded_default") or run["seed"] != load_settings("offline").seed:
            raise ValueError(
                f"{output_dir} has no run of {lab} with the preset offline: run `make labs` first"
            )
    return {lab: stored[lab] for lab in labs}


def _fill(page: Path, mark: str, text: str) -> None:
    """Replace the text between <!-- mark --> and <!-- end of mark --> on a page.

    Raises ValueError if the page does not have exactly one such place.
    """
    marked = re.compile(rf"(<!-- {mark} -->\n\n).*?(\n\n<!-- end of {mark} -->)", re.DOTALL)
    filled, count = marked.subn(
        lambda match: match[1] + text + match[2], page.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ValueError(f"{page.name} has {count} places marked <!-- {mark} -->: it needs one")
    page.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    settle_address()
    publish_addresses()
    publish_options()
    publish_expected()
    try:
        publish_results(ROOT / "out")
    except ValueError as error:
        sys.exit(f"badges and setup cells are filled in, but results are not: {error}")
