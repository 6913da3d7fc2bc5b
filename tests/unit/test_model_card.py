"""A model card tells base, data, training and scores, and names no folder of the machine."""

from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from utils.finetuning import FineTuningResult
from utils.model_card import write_model_card
from utils.results import interval_table
from utils.settings import OFFLINE, load_settings

SCORES = {"fine_tuned": pd.DataFrame({"rouge1": [0.2, 0.4, 0.6], "words": [10.0, 20.0, 30.0]})}


def result(method: str, kept: str = "best eval_rouge1") -> FineTuningResult:
    return FineTuningResult(
        model=None,
        method=method,
        recipe={
            "method": method,
            "template": "{dialogue} In short:",
            "train_dialogues": 1_200,
            "learning_rate": 0.001,
            "lr_scheduler_type": "cosine",
            "batch_size": 16,
            "seed": 7,
        },
        epochs=2.5,
        kept=kept,
        history=pd.DataFrame(),
        parameters={"total": 1_000_000, "trainable": 1_234, "trainable_percent": 0.1234},
        seconds=12.3,
        peak_megabytes=1.0,
        batch_size=8,
        checkpoint=None,
    )


@pytest.mark.parametrize(
    ("method", "library", "loader"),
    [
        ("full", "transformers", "AutoModelForSeq2SeqLM"),
        ("lora", "peft", "AutoPeftModelForSeq2SeqLM"),
    ],
)
def test_card_tells_base_training_and_use(tmp_path, method, library, loader):
    path = write_model_card(
        tmp_path, load_settings("offline"), result(method), interval_table(SCORES)
    )
    card = ModelCard.load(path)
    assert card.data.base_model == str(Path("utils", "offline", "t5"))
    assert card.data.library_name == library
    assert loader in card.text and "1,234 of 1,000,000 parameters" in " ".join(card.text.split())
    assert str(OFFLINE.parents[1]) not in card.content


def test_card_tells_the_recipe_the_prompt_and_which_weights_were_kept(tmp_path):
    settings, table = load_settings("offline"), interval_table(SCORES)
    card = ModelCard.load(write_model_card(tmp_path, settings, result("full"), table))
    text = " ".join(card.text.split())
    assert "1,200 dialogues" in text and "(epochs: 2.5) in batches of 16" in text
    assert "learning rate 0.001 (cosine), seed 7" in text
    assert "\n{dialogue} In short:\n" in card.text
    assert "The checkpoint with the best eval_rouge1 was kept." in text
    last = write_model_card(tmp_path, settings, result("full", kept="last"), table)
    assert "The last weights were kept." in last.read_text(encoding="utf-8")
    assert "best eval_rouge1" not in last.read_text(encoding="utf-8")


def test_card_shows_scores_in_points_and_counts_as_they_are(tmp_path):
    table = interval_table(SCORES)
    text = ModelCard.load(
        write_model_card(tmp_path, load_settings("offline"), result("full"), table)
    ).text
    low, high = (100 * table.loc[("fine_tuned", "rouge1"), name] for name in ("low", "high"))
    assert f"| fine_tuned | rouge1 | 40.0 | {low:.1f} to {high:.1f} | 3 |" in text
    assert "| fine_tuned | words | 20.0 | " in text
