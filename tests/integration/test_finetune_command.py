"""python -m utils finetune: a killed run goes on to the same end, two processes train as one, a card tells results."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from processes import TWO_PROCESSES, kill_once_there, run
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from utils.lab.notebooks import ROOT
from utils.settings import OFFLINE

SMALL = (
    "train_dialogues=96",
    "validation_dialogues=4",
    "test_dialogues=12",
    "batch_size=8",
    "full_epochs=2",
)
EVERY_FOUR_STEPS = ("--method", "full", "--checkpoint-steps", "4")


def command(output_dir: Path, *arguments: str, settings: tuple[str, ...] = SMALL) -> list[str]:
    job = ["utils", "finetune", "--preset", "offline", "--cpu", "--output-dir", str(output_dir)]
    return ["-m", *job, "--set", *settings, *arguments]


def weights(output_dir: Path) -> dict:
    return load_file(output_dir / "finetune" / "full" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of 24 steps that nothing stopped."""
    output_dir = tmp_path_factory.mktemp("whole")
    run(*command(output_dir, *EVERY_FOUR_STEPS))
    return output_dir


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_and_ends_bit_for_bit_like_the_one_that_was_not(whole, tmp_path):
    kill_once_there(
        tmp_path / "finetune" / "full" / "checkpoints" / "checkpoint-8",
        *command(tmp_path, *EVERY_FOUR_STEPS),
    )
    assert not (tmp_path / "finetune" / "full" / "model").exists()
    resumed = run(*command(tmp_path, *EVERY_FOUR_STEPS, "--resume"))
    assert "going on from" in resumed.stderr and "checkpoint-" in resumed.stderr
    expected, ended = weights(whole), weights(tmp_path)
    assert expected.keys() == ended.keys()
    assert all(expected[name].equal(ended[name]) for name in expected)
    histories = [
        pd.read_csv(folder / "finetune" / "full" / "history.csv") for folder in (whole, tmp_path)
    ]
    for column in ("eval_loss", "eval_rouge1", "learning_rate"):
        values = [history[column].dropna().tolist() for history in histories]
        assert values[0] == values[1] and len(values[0]) >= 2
    # The trainer's mean loss since its last entry starts anew where the run does; later entries agree.
    assert histories[0]["loss"].dropna().iloc[-1] == histories[1]["loss"].dropna().iloc[-1]


def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path):
    """Without dropout, which each process draws for itself."""
    model = tmp_path / "t5"
    shutil.copytree(OFFLINE / "t5", model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.0}), encoding="utf-8")
    run(*command(tmp_path / "one", *EVERY_FOUR_STEPS, settings=(*SMALL, f"model={model}")))
    halved = [pair for pair in SMALL if not pair.startswith("batch_size")]
    halved = (*halved, "batch_size=4", f"model={model}")
    run(*TWO_PROCESSES, *command(tmp_path / "two", *EVERY_FOUR_STEPS, settings=halved))
    one, two = (
        pd.read_csv(tmp_path / name / "finetune" / "full" / "history.csv")
        for name in ("one", "two")
    )
    assert one["step"].max() == two["step"].max() == 24
    for column in ("loss", "eval_loss", "eval_rouge1"):
        assert len(one[column].dropna()) >= 2
        assert two[column].dropna().tolist() == pytest.approx(
            one[column].dropna().tolist(), rel=2e-3, abs=2e-3
        )


def test_the_saved_model_and_its_card_can_be_used(whole):
    model = AutoModelForSeq2SeqLM.from_pretrained(whole / "finetune" / "full" / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole / "finetune" / "full" / "model")
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    card = (whole / "finetune" / "full" / "model" / "README.md").read_text(encoding="utf-8")
    scores = json.loads((whole / "results.json").read_text(encoding="utf-8"))["finetune_full"]
    fine_tuned = scores["rouge1"]["fine_tuned"]
    interval = f"{100 * fine_tuned['low']:.1f} to {100 * fine_tuned['high']:.1f}"
    assert f"| fine_tuned | rouge1 | {100 * fine_tuned['mean']:.1f} | {interval} | 12 |" in card
    assert "base_model: utils/offline/t5" in card and str(ROOT) not in card
    assert {"lead", "human", "fine_tuned"} == set(scores["rouge1"])
