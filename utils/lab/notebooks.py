"""Run the notebooks from top to bottom, and save them with their output, also as HTML pages."""

import os
import re
import time
from html import escape
from pathlib import Path

import nbformat
from latex2mathml import converter
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ClearOutputPreprocessor

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("lab1_prompt_engineering", "lab2_fine_tuning", "lab3_rlhf_detox")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)  # displayed, or inline
UNDESCRIBED = "No description has been provided for this image"  # nbconvert's words
QUIET = {  # progress bars belong on a screen, not in a stored notebook
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


class LabError(RuntimeError):
    """A lab stopped: the message gives the cell's error or says that the kernel died."""


def run_lab(file: Path, output_dir: Path, environment: dict[str, str]) -> float:
    """Execute a notebook, save it and its page in `output_dir`, and return the seconds it took.

    `environment` is added to this process's environment variables. If a cell fails, the notebook is
    saved with the output up to that cell.

    Raises LabError if a cell fails or the kernel dies.
    """
    notebook = nbformat.read(file, as_version=4)
    ClearOutputPreprocessor(remove_metadata_fields={"execution"}).preprocess(notebook, {})
    resources = {"metadata": {"path": str(file.parent)}}
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources=resources, store_widget_state=False
    )
    client.extra_arguments = ["--log-level=ERROR"]
    start = time.perf_counter()
    try:
        client.execute(env=os.environ | QUIET | environment)
    except CellExecutionError as error:
        raise LabError(
            f"{file.stem} stopped: {error.ename}: {error.evalue} (the page in {output_dir} shows "
            "the cell)"
        ) from None
    except DeadKernelError:
        raise LabError(
            f"{file.stem} stopped: its kernel died, most likely because memory ran out. Choose a "
            "smaller model or batch: LABS_MODEL=google/flan-t5-small, LABS_BATCH_SIZE=4, "
            "LABS_PPO_BATCH_SIZE=4"
        ) from None
    finally:
        write_with_page(notebook, output_dir / file.name)
    return time.perf_counter() - start


def write_with_page(notebook: nbformat.NotebookNode, file: Path) -> None:
    """Write an executed notebook, and beside it an HTML page that needs no network."""
    for cell in notebook.cells:  # a page cannot draw widgets without a kernel; keep their text
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, file)
    for cell in notebook.cells:  # a page cannot fold a cell; leave out what notebooks hide
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_mathml, cell.source)
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata["transient"] = {"remove_source": True}
    page, _ = HTMLExporter().from_notebook_node(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    texts = iter(o.metadata.get("image/png", {}).get("alt", UNDESCRIBED) for o in figures)
    page = re.sub(f'alt="{UNDESCRIBED}"', lambda _: f'alt="{escape(next(texts))}"', page)
    file.with_suffix(".html").write_text(page, encoding="utf-8")


def _mathml(formula: re.Match) -> str:
    """Return a LaTeX formula as MathML, which browsers show without a network."""
    displayed, inline = formula.groups()
    return converter.convert(displayed or inline, display="block" if displayed else "inline")
