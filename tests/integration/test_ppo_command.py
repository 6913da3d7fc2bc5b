"""python -m utils ppo: the notebook's job as a command, on one process, on two, and after a kill."""

import json
import os
import statistics
from pathlib import Path

import pandas as pd
import pytest
from peft import get_peft_model
from processes import TWO_PROCESSES, kill_once_there, run, start
from safetensors.torch import load_file

from utils.finetuning import lora_config
from utils.generation import generate
from utils.models import load_model
from utils.settings import OFFLINE

SMALL = (
    "searched_dialogues=200",
    "judged_dialogues=8",
    "ppo_batch_size=8",
    "ppo_steps=6",
    "max_new_tokens=16",
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter as Lab 2 writes one, on the embedded T5."""
    folder = tmp_path_factory.mktemp("adapter")
    model, _ = load_model(str(OFFLINE / "t5"), "cpu")
    get_peft_model(model, lora_config(4)).save_pretrained(folder)
    return folder


def command(
    output_dir: Path, adapter: Path, *arguments: str, settings: tuple[str, ...] = SMALL
) -> list[str]:
    job = [
        "utils",
        "ppo",
        "--preset",
        "offline",
        "--cpu",
        "--output-dir",
        str(output_dir),
        "--adapter",
        str(adapter),
    ]
    return ["-m", *job, "--set", *settings, *arguments]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, adapter) -> Path:
    """A run of six steps that nothing stopped."""
    output_dir = tmp_path_factory.mktemp("whole")
    run(*command(output_dir, adapter, "--checkpoint-steps", "2"))
    return output_dir


def test_the_model_its_log_its_samples_and_its_scores_are_written(whole):
    log = pd.read_csv(whole / "ppo" / "gae" / "history.csv").dropna(subset="score/raw")
    assert len(log) == 6
    assert log["kl/k1_per_sequence"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert len(pd.read_csv(whole / "ppo" / "gae" / "completions.csv")) == 12
    model, tokenizer = load_model(str(whole / "ppo" / "gae" / "model"), "cpu")
    assert generate(model, tokenizer, ["#Person1#: Hello."], max_new_tokens=4)
    scores = json.loads((whole / "results.json").read_text(encoding="utf-8"))["ppo_gae"]
    assert set(scores["toxicity"]) == {"before", "after"}
    assert set(scores["rouge1"]) == {"before", "after", "human"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_and_ends_bit_for_bit_like_the_one_that_was_not(
    whole, adapter, tmp_path
):
    arguments = command(tmp_path, adapter, "--checkpoint-steps", "2")
    kill_once_there(tmp_path / "ppo" / "gae" / "checkpoints" / "checkpoint-4", *arguments)
    assert "checkpoint-" in run(*arguments, "--resume").stdout
    expected, ended = (
        load_file(folder / "ppo" / "gae" / "model" / "model.safetensors")
        for folder in (whole, tmp_path)
    )
    assert expected.keys() == ended.keys()
    assert all(expected[name].equal(ended[name]) for name in expected)


def test_two_processes_give_the_result_of_one_within_noise(whole, adapter, tmp_path):
    halved = [pair for pair in SMALL if not pair.startswith("ppo_batch_size")]
    run(*TWO_PROCESSES, *command(tmp_path, adapter, settings=(*halved, "ppo_batch_size=4")))
    one, two = (
        pd.read_csv(folder / "ppo" / "gae" / "history.csv").dropna(subset="score/raw")
        for folder in (whole, tmp_path)
    )
    assert len(two) == 6
    assert two["kl/k1_per_sequence"].iloc[0] == pytest.approx(0, abs=1e-4)
    # Eight other samples a step: their mean scores differ by their standard error.
    assert two["score/raw"].mean() == pytest.approx(one["score/raw"].mean(), abs=1.0)


def test_every_process_has_its_own_prompts_and_statistics_are_of_all(tmp_path):
    run(*TWO_PROCESSES, str(Path(__file__).with_name("ppo_on_two_processes.py")), str(tmp_path))
    first, second = (
        json.loads((tmp_path / f"{i}.json").read_text(encoding="utf-8")) for i in range(2)
    )
    assert first["processes"] == second["processes"] == 2
    assert len(first["prompts"]) == len(second["prompts"]) == 2
    assert not set(first["prompts"]) & set(second["prompts"])
    assert first["responses"] != second["responses"]
    assert first["score"] == second["score"] == 0.5  # rewards are 0 on one and 1 on the other
    assert first["kl"] == second["kl"] == pytest.approx(0, abs=1e-4)
    together = first["advantages"] + second["advantages"]
    assert statistics.mean(together) == pytest.approx(0, abs=1e-5)
    assert statistics.variance(together) == pytest.approx(1, abs=1e-3)
    assert statistics.mean(first["advantages"]) < -0.5 < 0.5 < statistics.mean(second["advantages"])
    assert first["trained"] == second["trained"]


def test_without_an_adapter_the_remedy_is_told(tmp_path):
    done = start(*command(tmp_path, tmp_path / "nothing"))
    assert done.returncode == 1
    assert "error: " in done.stderr and "holds no adapter: run Lab 2 first" in done.stderr
