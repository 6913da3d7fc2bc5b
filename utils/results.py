"""Score summaries, tabulate the scores with intervals, and write and read results.json."""

import json
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from datasets import Dataset
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.faithfulness import facts, faithful_names, output_length, right_speakers
from utils.generation import generate
from utils.prompts import build_prompt
from utils.rouge import confidence_interval, rouge_scores
from utils.settings import Settings
from utils.statistics import proportion_interval
from utils.toxicity import HateScorer, has_insulting_word

SCORES = ("mean", "low", "high", "difference", "lowest_seed", "highest_seed")  # columns of tables
LIBRARIES = ("torch", "transformers", "datasets", "peft", "accelerate", "evaluate", "rouge_score")
LIBRARIES += ("trl", "numpy", "pandas")
INSTRUCTIONS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve", "bf16")  # of CPUs


def judge(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]] | None = None,
    dialogues: Sequence[str] | None = None,
    scorer: HateScorer | None = None,
    records: Sequence[Mapping] | None = None,
) -> pd.DataFrame:
    """Score summaries by the measures that the arguments allow, one row per summary.

    `references` add ROUGE, words and right_speakers; `dialogues` add faithful_names; `scorer` adds
    toxicity (p(hate) of the summary alone) and insulting_word; `records`, the dialogues' facts, add
    told and facts (see `utils.faithfulness.facts`).

    Raises ValueError if lengths differ, or all these arguments are None.
    """
    scores = pd.DataFrame(index=range(len(predictions)))
    if references is not None:
        scores = rouge_scores(predictions, references)
        scores["words"] = output_length(predictions)
        scores["right_speakers"] = right_speakers(predictions, references)
    if dialogues is not None:
        scores["faithful_names"] = faithful_names(predictions, dialogues)
    if scorer is not None:
        scores["toxicity"] = scorer.probability(predictions)
        scores["insulting_word"] = has_insulting_word(predictions)
    if records is not None:
        scores[["told", "facts"]] = facts(predictions, records)[["told", "facts"]]
    if scores.columns.empty:
        raise ValueError("nothing to judge by: pass references, dialogues, a scorer or records")
    return scores


def judge_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    settings: Settings,
    scorer: HateScorer | None = None,
    known: Mapping[str, Mapping] | None = None,
) -> pd.DataFrame:
    """Summarize rows of `group_references` with greedy decoding, and score the summaries.

    `known` are the facts of the rows' dataset, as `load_facts` returns them; empty means None.
    """
    prompts = [build_prompt(dialogue) for dialogue in rows["dialogue"]]
    options = {"precision": settings.precision, "max_new_tokens": settings.max_new_tokens}
    summaries = generate(model, tokenizer, prompts, **options)
    records = [known[name] for name in rows["id"]] if known else None
    return judge(summaries, list(rows["summaries"]), list(rows["dialogue"]), scorer, records)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def hardware() -> dict[str, str | int | None]:
    """Return the system, processor, memory in GB and GPU, but nothing that names the machine."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # as in `models.has_bf16`
    gpu = torch.cuda.get_device_properties() if torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "processor": known.get("cpu_name") or platform.machine(),
        "instructions": " ".join(name for name in INSTRUCTIONS if known.get(name)),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "gpu": gpu and gpu.name,
        "gpu_memory_gb": gpu and round(gpu.total_memory / 1e9),
    }


def interval_table(systems: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Compute the mean and 95% interval of every measure, from one row per dialogue and system.

    A share, which is a column of zeros and ones, gets its exact interval, which has a width even at
    0 and 1; all others get a bootstrap interval.
    Returns one row per system and measure, with columns mean, low, high and n (dialogues).
    """
    tables = {}
    for name, scores in systems.items():
        table = confidence_interval(scores, seed=seed).assign(n=len(scores))
        for measure in (column for column in scores if scores[column].isin((0, 1)).all()):
            interval = proportion_interval(int(scores[measure].sum()), len(scores))
            table.loc[measure, ["low", "high"]] = interval
        tables[name] = table
    return pd.concat(tables, names=["system", "measure"])


def percent(table: pd.DataFrame, decimals: int = 2) -> pd.DataFrame:
    """Turn scores of 0 to 1 into rounded points of 0 to 100; word counts are only rounded."""
    scores = [name for name in table.columns if name in SCORES]
    measures = table.reset_index().get("measure", table.index)
    scale = np.where(measures == "words", 1, 100)
    return table.assign(**{name: (scale * table[name]).round(decimals) for name in scores})


def record(
    lab: str,
    scores: pd.DataFrame,
    settings: Settings,
    seconds: float,
    figures: Mapping[str, Any] | None = None,
) -> Path:
    """Write one lab's results into results.json, next to those of the other labs.

    `scores` comes from `interval_table`, between 0 and 1; `figures` are other results.
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
        "hardware": hardware(),
        "settings": settings.table()["value"].to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # another lab may be writing
        whole = _others(path)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(whole | {lab: entry}, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
    return path


def _others(path: Path) -> dict[str, Any]:
    """Return what results.json holds; if it cannot be read, set it aside with a warning."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        aside = path.with_suffix(f".damaged-{time.time_ns()}.json")
        path.replace(aside)
        warnings.warn(f"{path} is not JSON ({error}): it is kept as {aside.name}", stacklevel=3)
        return {}


def read_results(path: str | Path) -> pd.DataFrame:
    """Read the scores of a results.json as one table: lab, measure, system, mean, low, high, n.

    Raises ValueError if the file is not JSON.
    """
    try:
        whole = dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): run the labs again") from None
    rows = [
        {"lab": lab, "measure": measure, "system": system, **values}
        for lab, measures in whole.items()
        for measure, systems in measures.items()
        for system, values in (systems.items() if isinstance(systems, dict) else ())
        if isinstance(values, dict) and "mean" in values
    ]
    return pd.DataFrame(rows)
