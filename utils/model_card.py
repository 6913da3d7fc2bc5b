"""Write the model card of a fine-tuned model: its base, its training and its scores."""

from importlib.metadata import version
from pathlib import Path

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from utils.finetuning import FineTuningResult
from utils.settings import Settings

TEXT = """\
# Dialogue summarizer: {model_name}, fine-tuned

{how} of `{model}` on {train_dialogues:,} dialogues of {dataset}, with {trainable:,} of
{total:,} parameters trained (epochs: {epochs:g}) in batches of {batch_size}, learning rate
{learning_rate:g} ({lr_scheduler_type}), seed {seed}. {kept}.

## Scores on the test split

Scores are on a scale of 0–100, except for the number of words, with 95% intervals over dialogues
(exact for yes/no, else bootstrap). ROUGE is `rouge_score`'s stemmed F1, averaged over references.

{table}

## Use

```python
from {library} import {loader}
from transformers import AutoTokenizer

model = {loader}.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

Use the prompt that the model was trained with:

```
{template}
```

## Limits

The model summarizes short English conversations like those it was trained on. It calls speakers
`#Person1#` and `#Person2#`, as its data does, and can be wrong about who does what, which ROUGE
does not notice. The licenses of the base model and the data apply to this model, too (DialogSum:
CC BY-NC-SA 4.0). Made with {versions}.
"""


def write_model_card(
    folder: str | Path, settings: Settings, result: FineTuningResult, scores: pd.DataFrame
) -> Path:
    """Write README.md into a saved model's folder and return its path.

    `scores` comes from `results.interval_table`.
    """
    adapter = result.method == "lora"
    library = "peft" if adapter else "transformers"
    data = ModelCardData(
        language="en",
        base_model=settings.shown("model"),
        datasets=[settings.shown("dataset")],
        library_name=library,
        pipeline_tag="summarization",
        tags=["dialogue-summarization", "lora" if adapter else "full-fine-tuning"],
    )
    text = TEXT.format(
        model_name=settings.model_name,
        model=data.base_model,
        dataset=data.datasets[0],
        how="LoRA fine-tuning" if adapter else "Full fine-tuning",
        **result.parameters,
        **result.recipe,
        epochs=result.epochs,
        kept="The last weights were kept"
        if result.kept == "last"
        else f"The checkpoint with the {result.kept} was kept",
        table=_markdown(scores),
        library=library,
        loader="AutoPeftModelForSeq2SeqLM" if adapter else "AutoModelForSeq2SeqLM",
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft")),
    )
    path = Path(folder) / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(path)
    return path


def _markdown(scores: pd.DataFrame) -> str:
    lines = ["| system | measure | mean | 95% interval | dialogues |", "|---|---|---|---|---|"]
    for (system, measure), row in scores.iterrows():
        mean, low, high = row[["mean", "low", "high"]] * (1 if measure == "words" else 100)
        interval = f"{low:.1f} to {high:.1f}"
        lines.append(f"| {system} | {measure} | {mean:.1f} | {interval} | {row['n']:.0f} |")
    return "\n".join(lines)
