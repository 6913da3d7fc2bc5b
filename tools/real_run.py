"""Run the labs on the real models, and check the results: the steps of the workflow real.yml.

python -m tools.real_run                     # the preset comes from LABS_PRESET
python -m tools.real_run --labs 1 --expected my_ranges.csv
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from nbconvert.filters import markdown2html

from utils.lab.notebooks import NOTEBOOKS, ROOT, LabError, run_lab
from utils.lab.report import write_report
from utils.settings import load_settings

EXPECTED = ROOT / "docs" / "expected.csv"
PUBLISHED = ("results.json", "report.json", "report.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Run labs, write a site and a summary, and return 1 if a lab or a check fails."""
    parser = argparse.ArgumentParser(description="Run the labs, and check their results.")
    parser.add_argument("--labs", type=int, nargs="*", choices=(1, 2, 3), default=(1, 2, 3))
    parser.add_argument("--output-dir", type=Path, default=Path("out"))
    parser.add_argument("--expected", type=Path, default=EXPECTED, help="CSV with ranges")
    arguments = parser.parse_args(argv)
    output_dir = arguments.output_dir.resolve()
    failures = [failure for lab in arguments.labs if (failure := _run(lab, output_dir))]
    preset = load_settings().preset
    failures += unexpected(output_dir / "results.json", arguments.expected, preset)
    _write_site(output_dir, failures)
    print(*failures or ["all results are within their expected ranges"], sep="\n")
    return int(bool(failures))


def _run(lab: int, output_dir: Path) -> str | None:
    """Run a lab; return why it failed, or None."""
    name = NOTEBOOKS[lab - 1]
    print(f"{name} …", flush=True)
    try:
        seconds = run_lab(ROOT / f"{name}.ipynb", output_dir, {"LABS_OUTPUT_DIR": str(output_dir)})
    except LabError as error:
        return str(error)
    print(f"  {seconds / 60:.1f} minutes", flush=True)
    return None


def unexpected(results: Path, expected: Path, preset: str) -> list[str]:
    """Return a sentence for each range of a preset that a result misses, or that has no result."""
    runs = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    failures = []
    ranges = pd.read_csv(expected, keep_default_na=False).query("preset == @preset")
    if ranges.empty:
        return [f"{expected.name} has no range for the preset {preset}"]
    for row in ranges.itertuples():
        name = " ".join(part for part in (row.lab, row.measure, row.system) if part)
        value = _value(runs.get(row.lab, {}), row.measure, row.system)
        if value is None:
            failures.append(f"{name}: there is no result")
        elif not row.low <= value * row.scale <= row.high:
            found = f"{value * row.scale:.4g} is outside {row.low} to {row.high}"
            failures.append(f"{name}: {found} ({row.label}: {row.reason})")
    return failures


def _value(run: dict[str, Any], measure: str, system: str) -> float | None:
    """Return a mean or figure from a lab's results; "a − b" is the difference of two systems."""
    if " − " in system:
        first, second = (_value(run, measure, name) for name in system.split(" − "))
        return None if first is None or second is None else first - second
    found = run.get(measure)
    if system and isinstance(found, dict):
        found = found.get(system)
    return found["mean"] if isinstance(found, dict) else found


def _write_site(output_dir: Path, failures: list[str]) -> None:
    """Gather pages and results in the folder site, with an index, for GitHub Pages."""
    site = output_dir / "site"
    site.mkdir(parents=True, exist_ok=True)
    if (output_dir / "results.json").exists():
        write_report(output_dir)
    pages = sorted(output_dir.glob("lab*.html"))
    for file in [*pages, *(output_dir / name for name in PUBLISHED)]:
        if file.exists():
            shutil.copy(file, site)
    links = [f"- [{file.stem}]({file.name})" for file in pages]
    report = site / "report.md"
    text = [
        "# The labs on the real models",
        *(f"- {failure}" for failure in failures or ["All results are as expected."]),
        "## Pages",
        *links,
        report.read_text(encoding="utf-8") if report.exists() else "",
    ]
    summary = "\n\n".join(text)
    page = f'<!doctype html>\n<meta charset="utf-8">\n{markdown2html(summary)}'
    (site / "index.html").write_text(page, encoding="utf-8")
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        Path(place).write_text(summary, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
