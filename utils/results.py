"""Score summaries, tabulate the scores with intervals, and write and read results.json."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.faithfulness import facts, faithful_names, output_length, right_speakers
from utils.generation import generate
from utils.prompts import build_prompt
from utils.rouge import compare, confidence_interval, holm, rouge_scores
from utils.settings import Settings
from utils.toxicity import HateScorer, has_insulting_word

SCORES = ("mean", "low", "high", "difference", "lowest_seed", "highest_seed")  # columns of tables
SECOND_VIEW = {  # measures beside ROUGE: title and scale in tables
    "words": ("words", 1),
    "right_speakers": ("right speakers, %", 100),
    "faithful_names": ("faithful names, %", 100),
    "facts": ("facts right, %", 100),
}
TOO_WIDE = 6  # points: an interval this wide that holds 0 says little
LIBRARIES = ("torch", "transformers", "datasets", "peft", "accelerate", "evaluate", "rouge_score")
LIBRARIES += ("numpy", "pandas")
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
    facts (see `utils.faithfulness.facts`).

    Raises ValueError if lengths differ, or all of them are None.
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
        scores["facts"] = facts(predictions, records)["facts"]
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

    `known` are the facts of the rows' dataset, as `load_facts` returns them; if empty, as None.
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
    """Return the processor, its memory in GB and the GPU, and nothing that names the machine."""
    known = torch.cpu.get_capabilities()
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

    Returns one row per system and measure, with columns mean, low, high and n (dialogues).
    """
    tables = {
        name: confidence_interval(scores, seed=seed).assign(n=len(scores))
        for name, scores in systems.items()
    }
    return pd.concat(tables, names=["system", "measure"])


def overview(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Tabulate systems for reading, from one row per dialogue: one row per system, cells of text.

    Shows ROUGE-1 with its 95% interval and, where the scores have them, the mean number of words
    and the shares of right speakers, faithful names and right facts.
    """
    from utils.plots import readable  # matplotlib takes a second to import

    rows: dict[str, dict[str, str]] = {}
    for name, table in scores.items():
        mean, low, high = 100 * confidence_interval(table[["rouge1"]], seed=seed).loc["rouge1"]
        rows[readable(name)] = {
            "ROUGE-1": f"{mean:.1f}",
            "95% interval": f"{low:.1f} to {high:.1f}",
        }
        for measure, (title, scale) in SECOND_VIEW.items():
            if measure in table:
                rows[readable(name)][title] = f"{scale * table[measure].mean():.1f}"
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def beside_published(lab: str, scores: pd.DataFrame, measure: str = "rouge1") -> pd.DataFrame:
    """Tabulate a run beside the stored run on the small world and published FLAN-T5 figures.

    `scores` comes from `interval_table`. Published figures are those of docs/published.csv that
    average over the references, as the labs do.
    """
    from utils.plots import readable  # matplotlib takes a second to import

    docs = Path(__file__).parents[1] / "docs"
    stored = read_results(docs / "results.json").query("lab == @lab and measure == @measure")
    published = pd.read_csv(docs / "published.csv").query("references == 'mean'")
    columns = {
        "your run": scores.xs(measure, level="measure").apply(_with_interval, axis=1),
        "small world": stored.set_index("system").apply(_with_interval, axis=1),
        "published": published.set_index("system")[measure].map("{:.1f}".format),
        "source": published.set_index("system")["source"],
    }
    table = pd.DataFrame(columns).reindex(columns["your run"].index)
    return table.rename(index=readable).rename_axis(None).fillna("")


def _with_interval(row: pd.Series) -> str:
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def compare_systems(
    scores: Mapping[str, pd.DataFrame],
    pairs: Sequence[tuple[str, str]],
    measure: str = "rouge1",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare pairs of systems by one measure on the same dialogues, one row per dialogue.

    Returns one row per pair, "a − b" in readable names, with the mean difference and its 95%
    interval (points of 0 to 100, or words) and `p_holm`, the p-value of the randomization test
    after Holm's correction over all pairs.

    Raises ValueError if there is no pair, and as `utils.rouge.compare` does.
    """
    from utils.plots import readable  # matplotlib takes a second to import

    if not pairs:
        raise ValueError("there is nothing to compare: pass at least one pair of systems")
    rows = {}
    for a, b in pairs:
        both = scores[a][[measure]], scores[b][[measure]]
        rows[f"{readable(a)} − {readable(b)}"] = compare(*both, seed=seed).loc[measure]
    table = pd.DataFrame(rows).T
    scale = 1 if measure == "words" else 100
    points = scale * table[["difference", "low", "high"]]
    return points.assign(p_holm=holm(table["p"]))


def finding(comparison: pd.Series | pd.DataFrame, unit: str = "points of ROUGE-1") -> None:
    """Print one sentence for each row of `compare_systems`, or for one of its rows."""
    rows = [comparison] if isinstance(comparison, pd.Series) else _rows(comparison)
    for row in rows:
        print(finding_sentence(row, unit))


def finding_sentence(row: pd.Series, unit: str = "points of ROUGE-1") -> str:
    """Say in a sentence what one row of `compare_systems` shows.

    A difference counts if its interval excludes 0 and `p_holm` is below 0.05. An interval that
    holds 0 and is wider than 6 says that there are too few dialogues.
    """
    (a, b), short = row.name.split(" − "), unit.split()[0]
    difference, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    if low <= 0 <= high and high - low > TOO_WIDE:
        least = f"{(high - low) / 2:.1f} {short}"
        return f"Too few dialogues to tell {a} from {b}: differences under {least} would not show."
    if low <= 0 <= high or row["p_holm"] >= 0.05:
        interval = f"[{_tenths(low)}, {_tenths(high)}]"
        gap = f"{_tenths(difference, '+')} {short} {interval}"
        return f"No clear difference between {a} and {b}: {gap}."
    if difference < 0:
        a, b, low, high = b, a, -high, -low
    size, interval = _tenths(abs(difference)), f"[{_tenths(low)}, {_tenths(high)}]"
    s = "" if a == "humans" else "s"
    text = f"{a} beat{s} {b} by {size} {unit} {interval}."
    if short == "words":
        text = f"{a} write{s} {size} words more than {b} {interval}."
    return text[0].upper() + text[1:]


def _tenths(number: float, sign: str = "") -> str:
    """Format a number with one decimal and a true minus sign, and never as −0.0."""
    return f"{round(number, 1) + 0.0:{sign}.1f}".replace("-", "−")


def _rows(table: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in table.iterrows()]


def percent(table: pd.DataFrame, decimals: int = 2) -> pd.DataFrame:
    """Turn scores of 0 to 1 into rounded points of 0 to 100; word counts are only rounded."""
    scores = [name for name in table.columns if name in SCORES]
    measures = table.reset_index().get("measure", table.index)
    scale = np.where(measures == "words", 1, 100)
    return table.assign(**{name: (scale * table[name]).round(decimals) for name in scores})


def claim(text: str, holds: bool, settings: Settings) -> None:
    """Print whether a statement about the results holds in this run.

    Raises AssertionError if it does not hold with the embedded default settings.
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
    whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(whole | {lab: entry}, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def read_results(path: str | Path) -> pd.DataFrame:
    """Read the scores of a results.json as one table: lab, measure, system, mean, low, high, n."""
    whole = json.loads(Path(path).read_text(encoding="utf-8"))
    rows = [
        {"lab": lab, "measure": measure, "system": system, **values}
        for lab, measures in whole.items()
        for measure, systems in measures.items()
        for system, values in (systems.items() if isinstance(systems, dict) else ())
        if isinstance(values, dict) and "mean" in values
    ]
    return pd.DataFrame(rows)
