"""python -m utils finetune: what it writes, how it resumes, and that two processes train as one."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from processes import TWO_PROCESSES, kill_once_there, run
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from utils.cli import main
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
    job = ["finetune", "--preset", "offline", "--cpu", "--output-dir", str(output_dir)]
    return [*job, "--set", *settings, *arguments]


def module(*arguments) -> list[str]:
    """The same command for a process of its own."""
    return ["-m", "utils", *command(*arguments)]


def history(output_dir: Path, method: str = "full") -> pd.DataFrame:
    return pd.read_csv(output_dir / "finetune" / method / "history.csv")


def weights(output_dir: Path) -> dict:
    return load_file(output_dir / "finetune" / "full" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of 24 steps that nothing stopped."""
    output_dir = tmp_path_factory.mktemp("whole")
    assert main(command(output_dir, *EVERY_FOUR_STEPS)) == 0
    return output_dir


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


def test_overrides_reach_the_trainer_and_win_over_settings(tmp_path):
    settings = (*SMALL, "max_steps=3", "learning_rate=0.25", "lr_scheduler_type=constant")
    assert main(command(tmp_path, "--set", "warmup_steps=0", settings=settings)) == 0
    log = history(tmp_path, "lora")
    assert log["step"].max() == 3
    assert log["learning_rate"].dropna().iloc[-1] == 0.25


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_resumes_and_ends_bit_for_bit_like_one_that_was_not(whole, tmp_path):
    kill_once_there(
        tmp_path / "finetune" / "full" / "checkpoints" / "checkpoint-8",
        *module(tmp_path, *EVERY_FOUR_STEPS),
    )
    assert not (tmp_path / "finetune" / "full" / "model").exists()
    resumed = run(*module(tmp_path, *EVERY_FOUR_STEPS, "--resume"))
    assert "checkpoint-" in resumed.stderr
    expected, ended = weights(whole), weights(tmp_path)
    assert expected.keys() == ended.keys()
    assert all(expected[name].equal(ended[name]) for name in expected)
    logs = [history(whole), history(tmp_path)]
    for column in ("eval_loss", "eval_rouge1", "learning_rate"):
        values = [log[column].dropna().tolist() for log in logs]
        assert values[0] == values[1] and len(values[0]) >= 2
    # The mean loss since the last entry starts again where the run does; later entries agree.
    assert logs[0]["loss"].dropna().iloc[-1] == logs[1]["loss"].dropna().iloc[-1]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path):
    """Without dropout, which each process draws for itself."""
    model = tmp_path / "t5"
    shutil.copytree(OFFLINE / "t5", model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.0}), encoding="utf-8")
    one, two = tmp_path / "one", tmp_path / "two"
    settings = (*SMALL, f"model={model}")
    assert main(command(one, *EVERY_FOUR_STEPS, settings=settings)) == 0
    halved = command(two, *EVERY_FOUR_STEPS, settings=(*settings, "batch_size=4"))
    run(*TWO_PROCESSES, "-m", "utils", *halved)
    one, two = history(one), history(two)
    assert one["step"].max() == two["step"].max() == 24
    for column in ("loss", "eval_loss", "eval_rouge1"):
        values = one[column].dropna().tolist()
        assert len(values) >= 2
        assert two[column].dropna().tolist() == pytest.approx(values, rel=2e-3, abs=2e-3)
