"""A model card beside a fine-tuned model: what it is, how it was made, and what it scored with which uncertainty."""

from importlib.metadata import version
from pathlib import Path

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from utils.finetuning import FineTuningResult
from utils.settings import Settings

_TEXT = """\
# {model_name}, fine-tuned to summarize dialogues

{how} of `{model}` on {train_dialogues:,} dialogues of {dataset}: {trainable:,} of {total:,} parameters trained,
{epochs:g} epochs in batches of {batch_size}, learning rate {learning_rate:g} ({lr_scheduler_type}), seed {seed}. Labels
are padded with −100. {kept}.

## Scores on the test split

In points of 0–100 (words: a count), with 95 % bootstrap intervals over dialogues. ROUGE is `rouge_score`'s F1, stemmed,
mean over the references.

{table}

## Use

```python
{use}
```

The prompt is the one that it was trained with:

```
{template}
```

## Limits

It summarizes short English conversations of the kind it was trained on, names speakers `#Person1#`, `#Person2#` as its
data does, and can be wrong about who does what; ROUGE does not see that. Licenses of the base model and of the data
bind this model, too (DialogSum: CC BY-NC-SA 4.0). Made with {versions}.
"""
_USE_FULL = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)"""
_USE_ADAPTER = """\
from peft import AutoPeftModelForSeq2SeqLM
from transformers import AutoTokenizer

model = AutoPeftModelForSeq2SeqLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)"""


def write_model_card(
    folder: str | Path, settings: Settings, result: FineTuningResult, scores: pd.DataFrame
) -> Path:
    """Write README.md into a saved model's folder and return its path; `scores` comes from `results.interval_table`."""
    adapter = result.method != "full"
    data = ModelCardData(
        language="en",
        base_model=settings.shown("model"),
        datasets=[settings.shown("dataset")],
        library_name="peft" if adapter else "transformers",
        pipeline_tag="summarization",
        tags=["dialogue-summarization", "lora" if adapter else "full-fine-tuning"],
    )
    text = _TEXT.format(
        model_name=settings.model_name,
        model=settings.shown("model"),
        dataset=settings.shown("dataset"),
        how="An adapter" if adapter else "Full fine-tuning",
        trainable=result.parameters["trainable"],
        total=result.parameters["total"],
        epochs=result.epochs,
        kept="The last weights were kept"
        if result.kept == "last"
        else f"Kept: the checkpoint with the {result.kept}",
        **{name: value for name, value in result.recipe.items() if name != "method"},
        table=_markdown(scores),
        use=_USE_ADAPTER if adapter else _USE_FULL,
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft")),
    )
    path = Path(folder) / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(path)
    return path


def _markdown(scores: pd.DataFrame) -> str:
    rows = ["| system | measure | mean | 95 % interval | dialogues |", "|---|---|---|---|---|"]
    for (system, measure), row in scores.iterrows():
        points = row if measure == "words" else 100 * row
        interval = f"{points['low']:.1f} to {points['high']:.1f}"
        rows.append(
            f"| {system} | {measure} | {points['mean']:.1f} | {interval} | {row['n']:.0f} |"
        )
    return "\n".join(rows)
