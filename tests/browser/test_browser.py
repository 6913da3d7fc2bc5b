"""The labs and their pages as a reader meets them: in JupyterLab and as HTML, in Chromium.

`make browser-test` installs what this needs, and writes screenshots to out/browser.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
import small_labs

from utils.lab.notebooks import NOTEBOOKS, QUIET, ROOT, write_with_page

playwright = pytest.importorskip("playwright.sync_api", reason="make browser-test installs it")
pytestmark = pytest.mark.slow

SCREENSHOTS = ROOT / "out" / "browser"
TOKEN = "labs"
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
OWN = "Ada: Could you lend me the ladder?\nBen: Sure, Ada.\n"
KERNEL_IS_READY = """async () => {
    const { context, sessionContext } = window.jupyterapp.shell.currentWidget;
    await context.ready;
    await sessionContext.ready;
    await sessionContext.session.kernel.info;
}"""
ALL_CELLS = {"windowingMode": "none"}  # JupyterLab builds every cell, also those out of sight
SOLVED = {  # a line of an exercise's cell, and the solution that is typed into it
    "lab1_prompt_engineering": (
        "def rouge1_recall",
        "def rouge1_recall(prediction, reference):\n"
        "    both = Counter(words(prediction)) & Counter(words(reference))\n"
        "    return both.total() / len(words(reference))",
    ),
    "lab2_fine_tuning": (
        "def lora_weights",
        "def lora_weights(d_in, d_out, r):\n    return r * d_in + d_out * r",
    ),
    "lab3_rlhf_detox": (
        "def largest_share",
        "def largest_share(n):\n    return 1 - 0.025 ** (1 / n)",
    ),
}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium, the system's or playwright's, without connections of its own to the outside."""
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
    with playwright.sync_playwright() as p:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if not Path(chromium or p.chromium.executable_path).exists():
            pytest.skip("Chromium is not installed: make browser-test installs it")
        options = {"executable_path": chromium, "args": ["--no-sandbox", *quiet]}
        running = p.chromium.launch(**options)
        yield running
        running.close()


# Notebooks in JupyterLab


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a JupyterLab on a copy of the project, with small sizes of the labs."""
    folder, settings = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("settings")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    notebooks = settings / "@jupyterlab" / "notebook-extension"
    notebooks.mkdir(parents=True)
    (notebooks / "tracker.jupyterlab-settings").write_text(json.dumps(ALL_CELLS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--no-browser")
    options += (f"--IdentityProvider.token={TOKEN}", "--allow-root", "--expose-app-in-browser")
    sizes = small_labs.variables() | {"LABS_PRESET": "offline"}
    place = {"JUPYTERLAB_SETTINGS_DIR": str(settings)}
    command = [sys.executable, "-m", "jupyterlab", *options]
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | QUIET | sizes | place, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    wait_for(f"{address}/api?token={TOKEN}")
    yield address, folder
    process.terminate()
    process.wait()


def wait_for(address: str, seconds: int = 60) -> None:
    """Wait until a server answers."""
    for _ in range(10 * seconds):
        try:
            urlopen(address).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{address} does not answer")


class Lab:
    """A notebook that is open in JupyterLab."""

    def __init__(self, browser, server: tuple[str, Path], name: str):
        address, folder = server
        self.name, self.file = name, folder / f"{name}.ipynb"
        self.page = browser.new_page(viewport=DESKTOP)
        self.page.goto(f"{address}/lab/tree/{name}.ipynb?reset&token={TOKEN}")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        self.page.evaluate(KERNEL_IS_READY)

    def command(self, name: str) -> None:
        """Run a command of JupyterLab, such as one of its menus', and wait for its end."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def cell(self, text: str):
        """Return the code cell whose source has this text."""
        source = self.page.locator(".jp-InputArea", has_text=text)
        return self.page.locator(".jp-CodeCell", has=source).first

    def type_over(self, text: str, source: str) -> None:
        """Replace the source of a cell by what a reader would type, and run it."""
        editor = self.cell(text).locator(".cm-content").first
        editor.scroll_into_view_if_needed()
        editor.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Shift+Enter")

    def saved(self) -> nbformat.NotebookNode:
        """Save the notebook and read it."""
        self.command("docmanager:save")
        return nbformat.read(self.file, as_version=4)


@pytest.fixture(scope="module", params=NOTEBOOKS)
def lab(request, browser, server) -> Iterator[Lab]:
    """A lab after Run All Cells."""
    opened = Lab(browser, server, request.param)
    opened.command("notebook:run-all-cells")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=SCREENSHOTS / f"jupyterlab_{request.param}.png")
    yield opened
    opened.page.close()


def test_run_all_in_jupyterlab_ends_without_an_error_and_shows_figures(lab):
    cells = [cell for cell in lab.saved().cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    shown = lab.page.locator(".jp-OutputArea img").count()
    assert shown == sum("image/png" in output.get("data", {}) for output in outputs) > 0
    broken = "images => images.filter(i => !i.naturalWidth).length"
    assert lab.page.locator(".jp-Notebook img").evaluate_all(broken) == 0


def test_a_prediction_that_is_typed_in_is_compared(lab):
    asked = "guess = None  # a number"
    source = lab.cell(asked).locator(".cm-content").first.inner_text()
    lab.type_over(asked, source.replace("None", "0.5", 1))
    said = lab.cell("guess = 0.5").locator(".jp-OutputArea")
    said.get_by_text(re.compile("too low|too high|spot on")).first.wait_for(timeout=60_000)


def test_an_exercise_is_solved_in_the_browser(lab):
    text, solution = SOLVED[lab.name]
    lab.type_over(text, solution)
    lab.page.keyboard.press("Shift+Enter")  # the check stands below
    number = re.compile(r"^✓ exercise \d")
    lab.page.locator(".jp-OutputArea").get_by_text(number).first.wait_for(timeout=60_000)


def test_the_playground_summarizes_ones_own_conversation(lab):
    if lab.name != NOTEBOOKS[0]:
        pytest.skip("the playground is in Lab 1")
    (lab.file.parent / "chat.txt").write_text(OWN, encoding="utf-8")
    source = lab.cell("my_file = None").locator(".cm-content").first.inner_text()
    lab.type_over("my_file = None", source.replace("None", '"chat.txt"', 1))
    playground = lab.cell("my_file =").locator(".jp-OutputArea")
    playground.get_by_role("button", name="Summarize").click(timeout=60_000)
    playground.get_by_text(re.compile("Summary: .*(Ada|Ben)")).first.wait_for(timeout=60_000)
    playground.screenshot(path=SCREENSHOTS / "playground.png")


# Pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The pages of the stored notebooks."""
    folder = tmp_path_factory.mktemp("pages")
    for name in NOTEBOOKS:
        stored = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
        write_with_page(stored, folder / f"{name}.ipynb")
    return {name: folder / f"{name}.html" for name in NOTEBOOKS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_shows_pictures_and_formulas_without_a_network(browser, pages, name, size, scheme):
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.goto(pages[name].as_uri())
    images = page.locator("img")
    assert images.evaluate_all("images => images.filter(i => !i.naturalWidth).length") == 0
    assert images.evaluate_all("images => images.filter(i => !i.alt).length") == 0
    heights = page.locator("math").evaluate_all(
        "all => all.map(m => m.getBoundingClientRect().height)"
    )
    assert heights and min(heights) > 5
    prose = page.locator(".jp-RenderedMarkdown p").all_inner_texts()
    assert not [text for text in prose if "$" in text or "\\frac" in text]
    if size == PHONE:  # nothing but code and tables, which scroll by themselves, is cut off
        wide = page.locator(".jp-RenderedMarkdown img, .jp-RenderedMarkdown p").evaluate_all(
            "(all, width) => all.filter(e => e.getBoundingClientRect().right > width + 1).length",
            size["width"],
        )
        assert wide == 0
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}_{size['width']}_{scheme}.png", full_page=True)
    context.close()
