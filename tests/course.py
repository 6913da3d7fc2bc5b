"""What a lab's core is, and how long it is: everything before "Going further" counts."""

import re

import nbformat


def core(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the cells before "Going further": recap, exercises and solutions included."""
    starts = [cell.source.startswith("# Going further") for cell in notebook.cells]
    return notebook.cells[: starts.index(True)]


def words(cells: list[nbformat.NotebookNode]) -> int:
    """Count the words of markdown cells, those of solutions, formulas and alt texts included."""
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return len([word for text in texts for word in text.split() if re.search(r"\w", word)])


def lines(cell: nbformat.NotebookNode) -> int:
    """Count the lines of a cell that are not blank."""
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def code(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return the code cells but for the folded one that sets a lab up."""
    return [cell for cell in cells if cell.cell_type == "code" and cell.id != "colab-bootstrap"]


def long(cells: list[nbformat.NotebookNode]) -> list[str]:
    """Return the ids of code cells of more than 20 lines that do not define what is taught."""
    taught = {cell.id for cell in cells if "taught" in cell.metadata.get("tags", [])}
    return [cell.id for cell in code(cells) if lines(cell) > 20 and cell.id not in taught]
