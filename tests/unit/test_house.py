"""The house's own rules: a small package, short functions, imports that run downward."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import nbformat
import pytest

from utils.lab.notebooks import NOTEBOOKS, ROOT

FILES = sorted((ROOT / "utils").rglob("*.py"))
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}
HOME = re.compile(r"/(?:home|Users|root)/\w+|[A-Z]:\\+Users\\+\w+")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: ast.AST, package: str = "") -> set[str]:
    """Return the absolute names of all modules that are imported."""
    names = set()
    for node in ast.walk(nodes):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            full = {f"{module}.{alias.name}" for alias in node.names}
            names |= {name if name in SOURCES else module for name in full}
    return names


def imports_of(module: str) -> set[str]:
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imported(tree(path), package)


def notebook_code(name: str) -> str:
    cells = nbformat.read(ROOT / f"{name}.ipynb", 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def test_package_has_at_most_20_modules_at_its_top():
    assert len(list((ROOT / "utils").glob("*.py"))) <= 20


def test_package_does_not_grow():
    """The aim is 4,000 lines. Until then, this number rises only with a new capability."""
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= 7_680


@pytest.mark.parametrize("folder", ["utils", "tools"])
def test_no_function_is_longer_than_50_lines(folder):
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > 50
    ]
    assert not long


def test_imports_form_no_cycle():
    imports = {module: imports_of(module) & set(SOURCES) - {module} for module in SOURCES}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the cycle


def test_ppo_imports_nothing_from_utils_but_itself():
    names = {
        name for module in SOURCES if module.startswith("utils.ppo") for name in imports_of(module)
    }
    ours = {name for name in names if name.split(".")[0] == "utils"}
    assert not {name for name in ours if name.split(".")[:2] != ["utils", "ppo"]}


def test_no_module_imports_what_only_maintainers_run():
    named = {
        module for module in SOURCES for name in imports_of(module) if name.split(".")[0] == "tools"
    }
    assert not named


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_notebook_imports_what_only_maintainers_run(name):
    names = imported(ast.parse(notebook_code(name)))
    assert "tools" not in {name.split(".")[0] for name in names}


def test_no_file_names_a_home_folder():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("the project is no git clone")
    named = []
    for file in listed.stdout.split("\0"):
        path = ROOT / file
        if file and path.is_file() and path.suffix not in (".png", ".safetensors"):
            text = path.read_text(encoding="utf-8")
            named += [f"{file}: {match[0]}" for match in HOME.finditer(text)]
    assert not named
