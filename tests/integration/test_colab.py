"""The bootstrap cell, run as in Colab: a clone by tag, in an environment that has most packages."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

from tools import publish
from utils.lab.notebooks import NOTEBOOKS, ROOT


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_badge_and_cell_carry_the_one_address_and_tag(name):
    cells = {cell.id: cell.source for cell in nbformat.read(ROOT / f"{name}.ipynb", 4).cells}
    address, tag = publish.project()
    assert cells[publish.BADGE_CELL] == publish.badge(name)
    assert publish.bootstrap() in cells[publish.BOOTSTRAP_CELL]
    assert cells[publish.BOOTSTRAP_CELL] == publish.with_bootstrap(cells[publish.BOOTSTRAP_CELL])
    assert (
        f"{address.removeprefix('https://github.com/')}/blob/{tag}/{name}.ipynb"
        in cells[publish.BADGE_CELL]
    )
    assert publish.badge(name) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (
        address in cells[publish.BOOTSTRAP_CELL]
        and f"--branch={tag}" in cells[publish.BOOTSTRAP_CELL]
    )


LACKING = "rouge_score"  # not installed in the simulated Colab


@pytest.fixture
def content(tmp_path) -> Path:
    """An empty folder beside an environment with google.colab and all packages but one."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    packages = next((tmp_path / "env").rglob("site-packages"))
    for old in packages.glob("setuptools*"):  # Python 3.11 brings one that is too old for torch
        shutil.rmtree(old)
    seen = tmp_path / "seen"
    seen.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith((LACKING, "google", "pip", "__pycache__")):
            (seen / entry.name).symlink_to(entry)
    (packages / "seen.pth").write_text(str(seen), encoding="utf-8")
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (tmp_path / "content").mkdir()
    return tmp_path / "content"


def write_wheel(folder: Path, name: str, number: str, *requires: str) -> None:
    """An installable package that holds its version and nothing else."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-{number}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"__version__ = {number!r}\n")
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{needs}"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")


def published(folder: Path) -> str:
    """Address of a local clone with the version's tag."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("the project is no git clone")
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(folder)], check=True)
    subprocess.run(
        ["git", "-C", str(folder), "tag", "--force", publish.project()[1], "HEAD"], check=True
    )
    return folder.as_uri()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows lets few users make symbolic links")
def test_in_colab_the_project_is_cloned_once_missing_packages_install_and_torch_and_numpy_stay(
    content,
):
    """The newest release of the missing package needs a newer numpy: an older one is installed."""
    wheels = content.parent / "wheels"
    write_wheel(wheels, LACKING, "0.1.2")
    write_wheel(wheels, LACKING, "0.1.3", f"numpy>{version('numpy')}")
    write_wheel(wheels, "numpy", f"{version('numpy').rsplit('.', 1)[0]}.99")
    python = content.parent / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    cell = publish.bootstrap().replace(publish.project()[0], published(content.parent / "project"))
    code = f"import google.colab\n{cell}\n{cell}\nimport torch, numpy, {LACKING}, utils.settings\n"
    versions = f"torch.__version__, numpy.__version__, {LACKING}.__version__"
    code += f"print({versions}, utils.settings.__file__)"
    from_wheels = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    done = subprocess.run(
        [str(python), "-c", code], cwd=content, env=from_wheels, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    utils = content / "labs" / "utils"
    assert done.stdout.splitlines() == [
        f"utils from {utils}",
        f"utils from {utils}",
        f"{version('torch')} {version('numpy')} 0.1.2 {utils / 'settings.py'}",
    ]
    assert (content / "kept.txt").read_text().split() == [
        f"torch=={version('torch')}",
        f"numpy=={version('numpy')}",
    ]


def test_elsewhere_the_cell_fetches_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", publish.bootstrap()], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "utils from utils\n"), done.stderr


def test_another_package_called_utils_is_refused(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{publish.bootstrap()}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "another utils was found" in done.stderr
