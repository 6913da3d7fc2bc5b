"""The bootstrap cell, run as in Colab: a clone by tag, in an environment that has most packages."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import nbformat
import pytest

from tools import publish
from utils.lab.notebooks import NOTEBOOKS, ROOT

ADDRESS = "https://github.com/someone/labs"
PYPROJECT = """[project]
version = "0.1.0"

[project.urls]
# repository = "https://github.com/…" # `make publish` fills it in from the git remote
"""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_badge_and_cell_are_those_of_the_project(name):
    cells = {cell.id: cell.source for cell in nbformat.read(ROOT / f"{name}.ipynb", 4).cells}
    assert cells[publish.BADGE_CELL] == publish.badge(name)
    assert publish.bootstrap() in cells[publish.BOOTSTRAP_CELL]
    assert publish.badge(name) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_cells_code_has_at_most_30_lines_of_80_columns():
    lines = publish.bootstrap().splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 80


# The address, in one place


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A git clone of a project without an address; returns a function that sets its remote."""
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)

    def settle(remote: str) -> str:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", remote], check=True)
        publish.settle_address()
        return publish.project()[0]

    return settle


@pytest.mark.parametrize(
    "remote",
    [
        ADDRESS,
        f"{ADDRESS}.git",
        f"{ADDRESS}/",
        "git@github.com:someone/labs.git",
        "ssh://git@github.com/someone/labs.git",
        "https://someone:a-secret-token@github.com/someone/labs.git",
    ],
)
def test_without_an_address_it_is_that_of_the_git_remote_and_never_its_token(project, remote):
    assert project(remote) == ADDRESS
    assert "/github/someone/labs/blob/v0.1.0/lab1.ipynb" in publish.badge("lab1")
    assert f'"{ADDRESS}", "v0.1.0"' in publish.bootstrap()


@pytest.mark.parametrize("remote", ["/srv/labs", "https://example.org/github.com.git", "../labs"])
def test_a_remote_that_colab_cannot_open_gives_no_address(project, remote):
    assert project(remote) == ""
    assert "enter the address of this project" in publish.badge("lab1")


def test_an_address_that_is_set_stays(project, tmp_path):
    own = PYPROJECT.replace("# repository", "repository").replace("…", "own/labs")
    (tmp_path / "pyproject.toml").write_text(own, encoding="utf-8")
    assert project(ADDRESS) == "https://github.com/own/labs"


def test_a_cell_of_an_earlier_version_is_replaced_and_the_rest_stays():
    first = publish.bootstrap().splitlines()[0]
    for end in publish.ENDS:
        old = f"# @title Set up\n{first}\nsome_code()\n{end}\n\nimport time\n"
        new = publish.with_bootstrap(old)
        assert new == f"# @title Set up\n{publish.bootstrap()}\n\nimport time\n"
        assert publish.with_bootstrap(new) == new


# Where the notebook comes from

STAND_IN = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"


@pytest.fixture
def elsewhere(tmp_path) -> dict[str, str]:
    """Variables with which git finds small repositories under three addresses on GitHub."""
    urls = {}
    for owner in ("someone", "fork", "typed"):
        folder = tmp_path / owner
        (folder / "utils").mkdir(parents=True)
        (folder / "utils" / "owner.txt").write_text(owner, encoding="utf-8")
        git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        for step in (
            ["init", "--quiet", "--initial-branch=main"],
            ["add", "."],
            ["commit", "--quiet", "--message=labs"],
            ["tag", publish.project()[1]],
            ["branch", "my/work"],
        ):
            subprocess.run(git + step, check=True)
        urls[f"url.{folder.as_uri()}.insteadOf"] = f"https://github.com/{owner}/labs"
    settings = [(f"GIT_CONFIG_KEY_{i}", key) for i, key in enumerate(urls)]
    settings += [(f"GIT_CONFIG_VALUE_{i}", value) for i, value in enumerate(urls.values())]
    return os.environ | {"GIT_CONFIG_COUNT": str(len(urls))} | dict(settings)


@contextmanager
def jupyter(answer: str):
    """Colab's Jupyter, which gives one answer; yields the variables that name its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/sessions" else 404)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    port = str(server.server_port)
    yield {"COLAB_JUPYTER_IP": "127.0.0.1", "KMP_TARGET_PORT": port}
    server.shutdown()
    server.server_close()


def fetched(folder: Path, variables: dict[str, str], address: str, typed: str = "") -> str:
    """Run the cell up to where it imports the project; return what it printed, or its error."""
    cell = publish.BOOTSTRAP.replace("ADDRESS", address).replace("TAG", publish.project()[1])
    cell = cell.replace('repository = ""', f'repository = "{typed}"').partition("sys.path.in")[0]
    folder.mkdir(exist_ok=True)
    code = f"{STAND_IN}{cell}\nprint(Path('utils/owner.txt').read_text())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True
    )
    return done.stdout + done.stderr.strip().rpartition("\n")[2] * (done.returncode != 0)


def opened(path: str) -> str:
    session = {"kernel": {"id": "a"}, "name": "lab1.ipynb", "path": path, "type": "notebook"}
    return json.dumps([session])


FORK = "https://github.com/fork/labs/blob/{}/lab1_prompt_engineering.ipynb"


@pytest.mark.parametrize("ref", ["main", "my/work", "v0.1.0"])
@pytest.mark.parametrize("quoted", [1, 2])
def test_a_notebook_opened_from_a_fork_fetches_that_fork_at_that_ref(
    elsewhere, tmp_path, ref, quoted
):
    path = FORK.format(ref)
    for _ in range(quoted):
        path = quote(path, safe="")
    with jupyter(opened(f"fileId={path}")) as variables:
        said = fetched(tmp_path / "content", elsewhere | variables, ADDRESS)
    assert said == f"fetching https://github.com/fork/labs at {ref}\nfork\n"


@pytest.mark.parametrize("answer", ["[]", "not JSON", opened("fileId=1aB2c")])
def test_a_notebook_from_elsewhere_fetches_the_projects_address_at_its_tag(
    elsewhere, tmp_path, answer
):
    with jupyter(answer) as variables:
        said = fetched(tmp_path / "content", elsewhere | variables, ADDRESS)
    assert said == f"fetching {ADDRESS} at {publish.project()[1]}\nsomeone\n"


@pytest.mark.parametrize(
    "variables", [{}, {"COLAB_JUPYTER_IP": "127.0.0.1", "KMP_TARGET_PORT": "9"}]
)
def test_where_colab_has_no_such_jupyter_the_projects_address_is_fetched(
    elsewhere, tmp_path, variables
):
    said = fetched(tmp_path / "content", elsewhere | variables, ADDRESS)
    assert said == f"fetching {ADDRESS} at {publish.project()[1]}\nsomeone\n"


@pytest.mark.parametrize(
    ("typed", "ref"),
    [
        ("https://github.com/typed/labs", "HEAD"),
        ("github.com/typed/labs", "HEAD"),
        ("https://github.com/typed/labs/blob/my/work/lab2_fine_tuning.ipynb", "my/work"),
        ("https://colab.research.google.com/github/typed/labs/blob/main/lab1.ipynb", "main"),
    ],
)
def test_an_address_that_is_typed_wins(elsewhere, tmp_path, typed, ref):
    with jupyter(opened(f"fileId={quote(FORK.format('main'), safe='')}")) as variables:
        said = fetched(tmp_path / "content", elsewhere | variables, ADDRESS, typed)
    assert said == f"fetching https://github.com/typed/labs at {ref}\ntyped\n"


def test_without_any_address_one_sentence_says_what_to_type(elsewhere, tmp_path):
    said = fetched(tmp_path / "content", elsewhere, "")
    wanted = "Enter the project's GitHub address in `repository`."
    assert said == f"AssertionError: {wanted}"
    assert not (tmp_path / "content" / "labs").exists()


def test_a_ref_that_cannot_be_fetched_is_named_and_the_next_try_can_succeed(elsewhere, tmp_path):
    path = FORK.format("gone")
    said = fetched(tmp_path / "content", elsewhere, ADDRESS, path)
    assert said.endswith("AssertionError: git cannot fetch gone from https://github.com/fork/labs")
    again = fetched(tmp_path / "content", elsewhere, ADDRESS, FORK.format("main"))
    assert again.endswith("\nfork\n")


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


def published(folder: Path) -> dict[str, str]:
    """Variables with which git finds a clone of this project, with its tag, under ADDRESS."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("the project is no git clone")
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(folder)], check=True)
    subprocess.run(
        ["git", "-C", str(folder), "tag", "--force", publish.project()[1], "HEAD"], check=True
    )
    key = f"url.{folder.as_uri()}.insteadOf"
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": key, "GIT_CONFIG_VALUE_0": ADDRESS}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows lets few users make symbolic links")
def test_in_colab_the_project_is_fetched_missing_packages_install_and_torch_and_numpy_stay(content):
    """The newest release of the missing package needs a newer numpy: an older one is installed."""
    wheels = content.parent / "wheels"
    write_wheel(wheels, LACKING, "0.1.2")
    write_wheel(wheels, LACKING, "0.1.3", f"numpy>{version('numpy')}")
    write_wheel(wheels, "numpy", f"{version('numpy').rsplit('.', 1)[0]}.99")
    python = content.parent / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    cell = publish.BOOTSTRAP.replace("ADDRESS", ADDRESS).replace("TAG", publish.project()[1])
    code = f"import google.colab\n{cell}\n{cell}\nimport torch, numpy, {LACKING}, utils.settings\n"
    versions = f"torch.__version__, numpy.__version__, {LACKING}.__version__"
    code += f"print({versions}, utils.settings.__file__)"
    from_wheels = published(content.parent / "project") | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    done = subprocess.run(
        [str(python), "-c", code],
        cwd=content,
        env=os.environ | from_wheels,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    utils = content / "labs" / "utils"
    assert done.stdout.splitlines() == [
        f"fetching {ADDRESS} at {publish.project()[1]}",  # once, although the cell runs twice
        f"{version('torch')} {version('numpy')} 0.1.2 {utils / 'settings.py'}",
    ]
    assert (content / "labs" / "kept.txt").read_text().split() == [
        f"torch=={version('torch')}",
        f"numpy=={version('numpy')}",
    ]


# Elsewhere


def test_elsewhere_the_cell_fetches_and_installs_nothing():
    code = f"import subprocess, os\nsubprocess.run = os.system = None\n{publish.bootstrap()}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_another_package_called_utils_gives_way_to_the_projects(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{publish.bootstrap()}"
    code += "\nprint(Path(sys.modules['utils'].__file__).parent)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str(ROOT / "utils"), done.stderr
