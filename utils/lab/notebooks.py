"""Run the notebooks from top to bottom, and write them, their pages and their results into one folder."""

import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ClearOutputPreprocessor

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("lab1_prompt_engineering", "lab2_fine_tuning", "lab3_rlhf_detox")
QUIET = {  # progress bars belong on a screen, not in a stored notebook
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


class LabError(RuntimeError):
    """A lab stopped; the message shows the error of the cell, or says that its kernel died."""


def run_lab(name: str, output_dir: Path, environment: dict[str, str]) -> float:
    """Execute one notebook with `environment` added, write `<name>.ipynb` and `<name>.html`, return the seconds.

    What had run is written also when a cell fails; what had not has no outputs, least of all those of an earlier run.

    Raises:
        LabError: a cell raised, or the kernel died.
    """
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    ClearOutputPreprocessor(remove_metadata_fields={"execution"}).preprocess(notebook, {})
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
        store_widget_state=False,
    )
    client.extra_arguments = ["--log-level=ERROR"]
    start = time.perf_counter()
    try:
        client.execute(env=os.environ | QUIET | environment)
    except CellExecutionError as error:
        raise LabError(
            f"{name} stopped: {error.ename}: {error.evalue}\nThe page shows the cell: {output_dir}"
        ) from None
    except DeadKernelError:
        raise LabError(
            f"{name} stopped: its kernel died, most likely because memory ran out. Take a smaller model or batch: "
            "LABS_MODEL=google/flan-t5-small, LABS_BATCH_SIZE=4, LABS_PPO_BATCH_SIZE=4"
        ) from None
    finally:
        _write(notebook, name, output_dir)
    return time.perf_counter() - start


def _write(notebook: nbformat.NotebookNode, name: str, output_dir: Path) -> None:
    _drop_widget_views(notebook)
    output_dir.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output_dir / f"{name}.ipynb")
    page, _ = HTMLExporter().from_notebook_node(notebook)
    (output_dir / f"{name}.html").write_text(page, encoding="utf-8")


def _drop_widget_views(notebook: nbformat.NotebookNode) -> None:
    """A stored page has no kernel to draw widgets with: leave what stands beside them, such as text/html."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
