"""python -m utils ppo: what it writes, how it resumes, and what several processes share."""

import json
import os
import statistics
from pathlib import Path

import pandas as pd
import pytest
from peft import get_peft_model
from processes import TWO_PROCESSES, kill_once_there, run
from safetensors.torch import load_file

from utils.cli import main
from utils.finetuning import lora_config
from utils.generation import generate
from utils.models import load_model
from utils.settings import OFFLINE

SMALL = (
    "judged_dialogues=8",
    "ppo_batch_size=8",
    "ppo_steps=6",
    "num_iterations=2",
    "max_new_tokens=16",
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter as Lab 2 writes one, on the small world's T5."""
    folder = tmp_path_factory.mktemp("adapter")
    model, _ = load_model(str(OFFLINE / "t5"), "cpu")
    get_peft_model(model, lora_config(4)).save_pretrained(folder)
    return folder


def command(
    output_dir: Path, adapter: Path, *arguments: str, settings: tuple[str, ...] = SMALL
) -> list[str]:
    job = ["ppo", "--preset", "offline", "--cpu", "--output-dir", str(output_dir)]
    return [*job, "--adapter", str(adapter), "--set", *settings, *arguments]


def samples(output_dir: Path) -> pd.DataFrame:
    """The log entries of the steps that drew a sample."""
    return pd.read_csv(output_dir / "ppo" / "gae" / "history.csv").dropna(subset="reward")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, adapter) -> Path:
    """A run of six samples that nothing stopped."""
    output_dir = tmp_path_factory.mktemp("whole")
    assert main(command(output_dir, adapter, "--checkpoint-steps", "4")) == 0
    return output_dir


def test_the_model_its_log_its_samples_and_its_scores_are_written(whole):
    assert len(samples(whole)) == 6
    assert samples(whole)["kl/k1_per_sequence"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert pd.read_csv(whole / "ppo" / "gae" / "completions.csv")["step"].nunique() == 6
    model, tokenizer = load_model(str(whole / "ppo" / "gae" / "model"), "cpu")
    assert generate(model, tokenizer, ["#Person1#: Hello."], max_new_tokens=4)
    scores = json.loads((whole / "results.json").read_text(encoding="utf-8"))["ppo_gae"]
    assert set(scores["toxicity"]) == set(scores["insulting_word"]) == {"before", "after"}
    assert set(scores["rouge1"]) == {"before", "after", "human"}


def test_overrides_reach_ppos_own_arguments(adapter, tmp_path):
    settings = (*SMALL, "max_steps=1", "num_iterations=1", "max_completion_length=3")
    assert main(command(tmp_path, adapter, settings=settings)) == 0
    log = samples(tmp_path)
    assert len(log) == 1 and log["completions/max_length"].iloc[0] <= 3


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_resumes_and_ends_bit_for_bit_like_one_that_was_not(whole, adapter, tmp_path):
    arguments = ["-m", "utils", *command(tmp_path, adapter, "--checkpoint-steps", "4")]
    kill_once_there(tmp_path / "ppo" / "gae" / "checkpoints" / "checkpoint-8", *arguments)
    assert "checkpoint-" in run(*arguments, "--resume").stdout
    expected, ended = (
        load_file(folder / "ppo" / "gae" / "model" / "model.safetensors")
        for folder in (whole, tmp_path)
    )
    assert expected.keys() == ended.keys()
    assert all(expected[name].equal(ended[name]) for name in expected)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_within_noise(whole, adapter, tmp_path):
    halved = command(tmp_path, adapter, settings=(*SMALL, "ppo_batch_size=4"))
    run(*TWO_PROCESSES, "-m", "utils", *halved)
    one, two = samples(whole), samples(tmp_path)
    assert len(two) == 6
    assert two["kl/k1_per_sequence"].iloc[0] == pytest.approx(0, abs=1e-4)
    # 6 samples of 8 other completions each: their mean rewards differ by their standard error.
    errors = [(runs["reward_std"] ** 2).mean() / 48 for runs in (one, two)]
    assert abs(two["reward"].mean() - one["reward"].mean()) < 3 * sum(errors) ** 0.5


@pytest.mark.slow
def test_every_process_has_its_own_prompts_and_statistics_are_of_all(tmp_path):
    run(*TWO_PROCESSES, str(Path(__file__).with_name("ppo_on_two_processes.py")), str(tmp_path))
    first, second = (
        json.loads((tmp_path / f"{i}.json").read_text(encoding="utf-8")) for i in range(2)
    )
    assert first["processes"] == second["processes"] == 2
    assert len(first["prompts"]) == len(second["prompts"]) == 2
    assert not set(first["prompts"]) & set(second["prompts"])
    assert first["completions"] != second["completions"]
    assert first["reward"] == second["reward"] == 0.5  # rewards are 0 on one and 1 on the other
    assert first["kl"] == second["kl"] == pytest.approx(0, abs=1e-4)
    together = first["advantages"] + second["advantages"]
    assert statistics.mean(together) == pytest.approx(0, abs=1e-5)
    assert statistics.variance(together) == pytest.approx(1, abs=1e-3)
    assert statistics.mean(first["advantages"]) < -0.5 < 0.5 < statistics.mean(second["advantages"])
    terms = first["loss_terms"] + second["loss_terms"]  # a mean over the tokens of both
    assert first["loss"] == pytest.approx(statistics.mean(terms), rel=1e-3)
    assert first["trained"] == second["trained"]
