"""The labs' results: a table with an interval for every score, claims that are checked, and out/results.json."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.rouge import confidence_interval
from utils.settings import Settings

SCORES = ("mean", "low", "high", "difference", "lowest_seed", "highest_seed")  # columns of tables
LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "evaluate",
    "rouge_score",
    "numpy",
    "pandas",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def interval_table(systems: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Mean and 95 % interval of every measure of every system; a row of a system's table is one dialogue.

    Returns one row per system and measure, indexed by both, with columns mean, low, high and n (dialogues).
    """
    tables = {
        name: confidence_interval(scores, seed=seed).assign(n=len(scores))
        for name, scores in systems.items()
    }
    return pd.concat(tables, names=["system", "measure"])


def percent(table: pd.DataFrame, decimals: int = 2) -> pd.DataFrame:
    """Scores of 0 to 1 as they are read: in points of 0 to 100, rounded. p-values and counts, such as the measure
    "words", are not scaled, and p-values not rounded.
    """
    scores = [name for name in table.columns if name in SCORES]
    measures = table.reset_index().get("measure", table.index)
    scale = np.where(measures == "words", 1, 100)
    return table.assign(**{name: (scale * table[name]).round(decimals) for name in scores})


def claim(text: str, holds: bool, settings: Settings) -> None:
    """Say whether a claim about results holds in this run.

    The claims of the text were made of the embedded default, where one that fails is an error. Other models, data or
    sizes may well behave otherwise, and the run says so.

    Raises:
        AssertionError: the claim does not hold on the embedded default.
    """
    if not holds and settings.is_embedded_default:
        raise AssertionError(f"this does not hold: {text}")
    print(f"{'✓' if holds else '✗ not in this run:'} {text}")


def record(
    lab: str,
    scores: pd.DataFrame,
    settings: Settings,
    seconds: float,
    figures: Mapping[str, Any] | None = None,
) -> Path:
    """Write one lab's results into results.json, beside those of the other labs.

    `scores` comes from `interval_table`; scores stay between 0 and 1. `figures` are results that are no scores.
    Returns the file's path.
    """
    path = Path(settings.output_dir) / "results.json"
    entry: dict[str, Any] = dict(figures or {})
    for (system, measure), row in scores.iterrows():
        values = {name: float(row[name]) for name in ("mean", "low", "high")} | {"n": int(row["n"])}
        entry.setdefault(measure, {})[system] = values
    entry["run"] = {
        "preset": settings.preset,
        "embedded_default": settings.is_embedded_default,
        "seed": settings.seed,
        "seconds": round(seconds, 1),
        "versions": versions(),
        "settings": settings.table()["value"].to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(whole | {lab: entry}, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def read_results(path: str | Path) -> pd.DataFrame:
    """The scores of a results.json as one table: lab, measure, system, mean, low, high, n."""
    whole = json.loads(Path(path).read_text(encoding="utf-8"))
    rows = [
        {"lab": lab, "measure": measure, "system": system, **values}
        for lab, measures in whole.items()
        for measure, systems in measures.items()
        for system, values in (systems.items() if isinstance(systems, dict) else ())
        if isinstance(values, dict) and "mean" in values
    ]
    return pd.DataFrame(rows)
