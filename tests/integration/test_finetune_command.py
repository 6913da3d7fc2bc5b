"""python -m utils finetune: a killed run goes on to the same end, two processes train as one, a card tells results."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from utils.labs import QUIET, ROOT
from utils.settings import OFFLINE

SMALL = ("train_dialogues=96", "validation_dialogues=4", "test_dialogues=12", "batch_size=8", "full_epochs=2")
# --multi_gpu is accelerate's word for several processes under torch's launcher; the command's own --cpu takes gloo.
TWO_PROCESSES = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes=2",
    "--num_machines=1",
    "--mixed_precision=no",
    "--dynamo_backend=no",
)
ENVIRONMENT = os.environ | QUIET | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def command(output_dir: Path, *arguments: str, launch: tuple[str, ...] = (), settings: tuple[str, ...] = SMALL):
    job = ["utils", "finetune", "--preset", "offline", "--cpu", "--output-dir", str(output_dir), "--set", *settings]
    return [sys.executable, "-m", *launch, *(("-m",) if launch else ()), *job, *arguments]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(command(*arguments, **options), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def weights(output_dir: Path) -> dict:
    return load_file(output_dir / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of 24 steps that nothing stopped."""
    output_dir = tmp_path_factory.mktemp("whole")
    run(output_dir, "--method", "full", "--checkpoint-steps", "4")
    return output_dir


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_and_ends_bit_for_bit_like_the_one_that_was_not(whole, tmp_path):
    arguments = (tmp_path, "--method", "full", "--checkpoint-steps", "4")
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "checkpoints" / "checkpoint-8").exists():  # it may be killed while this one is written
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    resumed = run(*arguments, "--resume")
    assert "going on from" in resumed.stderr and "checkpoint-" in resumed.stderr
    expected, ended = weights(whole), weights(tmp_path)
    assert expected.keys() == ended.keys()
    assert all(expected[name].equal(ended[name]) for name in expected)
    histories = [pd.read_csv(folder / "history.csv") for folder in (whole, tmp_path)]
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
    arguments = ("--method", "full", "--checkpoint-steps", "4")
    run(tmp_path / "one", *arguments, settings=(*SMALL, f"model={model}"))
    halved = [pair for pair in SMALL if not pair.startswith("batch_size")]
    run(tmp_path / "two", *arguments, launch=TWO_PROCESSES, settings=(*halved, "batch_size=4", f"model={model}"))
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    assert one["step"].max() == two["step"].max() == 24
    for column in ("loss", "eval_loss", "eval_rouge1"):
        assert len(one[column].dropna()) >= 2
        assert two[column].dropna().tolist() == pytest.approx(one[column].dropna().tolist(), rel=2e-3, abs=2e-3)


def test_the_saved_model_and_its_card_can_be_used(whole):
    model = AutoModelForSeq2SeqLM.from_pretrained(whole / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    card = (whole / "model" / "README.md").read_text(encoding="utf-8")
    scores = json.loads((whole / "results.json").read_text(encoding="utf-8"))["finetune"]
    fine_tuned = scores["rouge1"]["fine_tuned"]
    interval = f"{100 * fine_tuned['low']:.1f} to {100 * fine_tuned['high']:.1f}"
    assert f"| fine_tuned | rouge1 | {100 * fine_tuned['mean']:.1f} | {interval} | 12 |" in card
    assert "base_model: utils/offline/t5" in card and str(ROOT) not in card
    assert {"lead", "human", "fine_tuned"} == set(scores["rouge1"])
