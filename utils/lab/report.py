"""Write a report of a run that can be shared: scores, times, hardware, and nothing personal."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from utils.lab.notebooks import NOTEBOOKS, ROOT
from utils.results import LIBRARIES, hardware, percent, read_results
from utils.settings import FIELDS, PRESETS, Settings

NAMED = ("model", "reward_model", "second_judge", "dataset")
PUBLIC = {Settings(preset=p, **own).shown(name) for p, own in PRESETS.items() for name in NAMED}
HUB_ID = re.compile(r"(google|facebook)/[\w.-]+")
VALUE = re.compile(r"[\d.e+-]+|True|False|all|none|default|auto|fp32|bf16")  # of a setting
PLAIN = re.compile(r"[\w .,+()@-]{1,60}")  # holds no path and no address
KEYS, NUMBERS = ["lab", "measure", "system"], ["mean", "low", "high", "n"]


def write_report(output_dir: Path) -> tuple[Path, Path]:
    """Write report.json, and report.md for an issue, beside results.json; return both paths.

    Raises ValueError if no lab has run there.
    """
    shared = report(output_dir / "results.json")
    file, text = output_dir / "report.json", output_dir / "report.md"
    file.write_text(json.dumps(shared, indent=2) + "\n", encoding="utf-8")
    text.write_text(as_issue(shared), encoding="utf-8")
    return file, text


def report(path: Path) -> dict[str, Any]:
    """Return the parts of a results.json to share: known names, numbers, and short plain texts.

    It has only scores that the small world's stored run also has. Models and datasets are named
    only if a preset names them, or if they belong to Google or Facebook.

    Raises ValueError if no lab has run there.
    """
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    labs = [name.split("_")[0] for name in NOTEBOOKS]
    runs = {lab: _run(stored[lab]["run"]) for lab in labs if lab in stored}
    if not runs:
        raise ValueError(f"{path} has no run of a lab: run one first, for example with make labs")
    known = read_results(ROOT / "docs" / "results.json")[KEYS]
    scores = read_results(path).merge(known, on=KEYS)[KEYS + NUMBERS]
    scores = scores.astype(dict.fromkeys(NUMBERS, float) | {"n": int})
    return {"runs": runs, "scores": scores.to_dict("records")}


def _run(run: dict[str, Any]) -> dict[str, Any]:
    settings = {n: v for n, v in run["settings"].items() if n in FIELDS and VALUE.fullmatch(v)}
    for name in NAMED:
        value = run["settings"].get(name, "none")
        settings[name] = value if value in PUBLIC or HUB_ID.fullmatch(value) else "another"
    told = {"preset": run["preset"], "minutes": round(run["seconds"] / 60, 1), "settings": settings}
    for part, names in {"versions": ("python", *LIBRARIES), "hardware": hardware()}.items():
        own = {name: run.get(part, {}).get(name) for name in names}
        told[part] = {name: value for name, value in own.items() if PLAIN.fullmatch(str(value))}
    return told


def as_issue(shared: dict[str, Any]) -> str:
    """Return the report as Markdown, ready for an issue in the project."""
    lines = ["### A run of the labs", ""]
    for lab, run in shared["runs"].items():
        told = run["settings"] | run["versions"] | run["hardware"]
        lines += [f"**{lab}**, preset {run['preset']}: {run['minutes']} minutes", ""]
        lines += [", ".join(f"{name} {value}" for name, value in told.items()), ""]
    lines += ["| lab | measure | system | score | 95% interval | dialogues |", "|---" * 6 + "|"]
    for row in percent(pd.DataFrame(shared["scores"], columns=KEYS + NUMBERS), 1).itertuples():
        score = f"{row.mean} | {row.low} to {row.high} | {row.n}"
        lines.append(f"| {row.lab} | {row.measure} | {row.system} | {score} |")
    return "\n".join(lines) + "\n"
