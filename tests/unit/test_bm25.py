"""JAX, where it is installed, must not be started by a search among dialogues."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def in_a_process_with_jax(folder: Path, code: str) -> str:
    """What the code prints where a package jax is installed that says when it is asked for something."""
    package = folder / "jax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "lax.py").write_text("def top_k(scores, k):\n    print('JAX STARTED')\n")
    path = os.pathsep.join([str(folder), str(PROJECT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    return done.stdout


def test_the_library_alone_starts_jax_and_takes_the_gpus_memory(tmp_path):
    assert "JAX STARTED" in in_a_process_with_jax(tmp_path, "import bm25s")


def test_neither_import_nor_search_starts_jax(tmp_path):
    code = (
        "from utils.prompts import similar_examples\n"
        "import utils.faithfulness\n"
        "print(similar_examples(['a red car', 'two green apples'], ['car', 'apples'], 1, ['green apples']))"
    )
    assert in_a_process_with_jax(tmp_path, code) == "[[('two green apples', 'apples')]]\n"


def test_jax_can_be_imported_afterwards_and_stays_the_same_module_if_it_was_before(tmp_path):
    code = "import jax, jax.lax, sys\nimport utils.bm25\nprint(sys.modules['jax'] is jax)\nimport jax.lax"
    assert in_a_process_with_jax(tmp_path, code) == "True\n"
    code = "import utils.bm25\nimport jax.lax\nprint(jax.lax.top_k.__name__)"
    (tmp_path / "second").mkdir()
    assert in_a_process_with_jax(tmp_path / "second", code) == "top_k\n"
