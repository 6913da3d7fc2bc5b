"""Estimated times agree with the measured ones, and the work of a lab is counted, not done."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset

from tools.measure_presets import _Log
from tools.preset_times import NEW_TOKENS, SPEEDS, Work, minutes
from utils.lab.notebooks import ROOT
from utils.settings import OFFLINE

ONE_CORE = [  # prompt tokens, new tokens, beams, seconds: FLAN-T5-small's shape, AVX2, fp32
    (191, 30, 1, 0.43),
    (191, 60, 1, 0.55),
    (858, 30, 1, 1.29),
    (213, 30, 4, 1.43),
    (892, 30, 4, 3.47),
]


@pytest.mark.parametrize(("tokens", "new", "beams", "seconds"), ONE_CORE)
def test_a_summary_takes_about_the_measured_time_of_one_core_divided_by_1_8(
    tokens, new, beams, seconds
):
    estimate = SPEEDS["cpu"].seconds(Work("generate", 1, tokens, new, beams))
    assert estimate == pytest.approx(seconds / 1.8, rel=0.2)


def test_training_takes_the_time_per_example_and_grows_with_the_prompts():
    assert SPEEDS["cpu"].seconds(Work("full", 10, 200)) == pytest.approx(5.3)
    assert SPEEDS["cpu"].seconds(Work("lora", 10, 400)) == pytest.approx(9.0)


def test_minutes_are_summed_by_kind():
    work = [Work("full", 60, 200), Work("full", 60, 200), Work("lora", 60, 200)]
    assert minutes(work, "cpu") == pytest.approx({"full": 1.06, "lora": 0.45})


def test_the_page_shows_the_times_per_item():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in ("full", "lora", "ppo"):
        cpu, gpu = (getattr(SPEEDS[preset], name) for preset in ("cpu", "gpu"))
        assert f"| {cpu:g} | " in page and f" | {gpu:g} |" in page
    for name in ("prompt_token", "new_token", "judge"):
        cpu, gpu = (f"{getattr(SPEEDS[preset], name):.5f}" for preset in ("cpu", "gpu"))
        assert f"| {cpu.rstrip('0')} | " in page and f" | {gpu.rstrip('0')} |" in page


# Counting


@pytest.fixture
def log(tmp_path) -> _Log:
    return _Log(tmp_path / "work.jsonl")


def counted(file: Path) -> list[Work]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Work(**json.loads(line)["work"]) for line in lines]


def split_words(texts: list[str]) -> dict:
    return {"input_ids": [text.split() for text in texts]}


def test_summaries_are_counted_with_their_lengths_and_beams_and_not_generated(log):
    generate = log.of_generate(None, count=True)
    prompts = ["a b c", "a b c d e"]
    assert generate("model", split_words, prompts, max_new_tokens=8, num_beams=4) == prompts
    assert counted(log.file) == [Work("generate", 2, 4.0, 8, 4)]


def test_several_samples_of_a_prompt_count_one_prompt_and_the_tokens_of_all(log):
    generate = log.of_generate(None, count=True)
    assert len(generate("model", split_words, ["a b"], num_return_sequences=8)) == 8
    assert counted(log.file) == [Work("generate", 1, 2.0, 8 * NEW_TOKENS)]


def test_the_seconds_of_a_training_leave_out_those_of_its_evaluations(log):
    generate = log.of_generate(lambda *args: time.sleep(0.2) or [], count=False)
    log.of_training(lambda trainer: generate("model", split_words, ["a"]), count=False)(Trainer(4))
    lines = [json.loads(line) for line in log.file.read_text(encoding="utf-8").splitlines()]
    evaluation, training = (line["seconds"] for line in lines)
    assert evaluation >= 0.2 > training


def test_judged_texts_are_counted_and_those_of_each_ppo_step(log):
    scorer = SimpleNamespace(model=SimpleNamespace(), tokenizer=split_words)
    score = log.of_judging(lambda scorer, texts: len(texts))

    class PPOTrainer(Trainer):
        pass

    steps = PPOTrainer(10, adapter=True, max_steps=6, num_iterations=2)
    log.of_training(lambda trainer: score(scorer, ["a b", "a"]), count=True)(steps)
    assert score(scorer, ["a b", "a"]) == 2
    assert counted(log.file)[0] == Work("judge", 6, 1.5)
    assert counted(log.file)[2] == Work("judge", 2, 1.5)


def test_the_work_of_the_small_world_is_done_and_not_counted(log):
    small = SimpleNamespace(name_or_path=str(OFFLINE / "t5"))
    generate = log.of_generate(lambda *args: ["done"], count=True)
    assert generate(small, split_words, ["a"]) == ["done"] and not log.file.exists()


def test_a_summary_counts_as_no_longer_than_a_true_one(log):
    log.of_generate(None, count=True)("model", split_words, ["a"], max_new_tokens=128)
    assert counted(log.file)[0].new == NEW_TOKENS


class Trainer:
    """What counting reads of a Trainer."""

    def __init__(self, rows: int, adapter: bool = False, **changes: object):
        self.model = SimpleNamespace(**({"peft_config": {}} if adapter else {}))
        self.train_dataset = Dataset.from_dict({"input_ids": [[1, 2, 3]] * rows})
        defaults = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
        defaults |= {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch"}
        self.args = SimpleNamespace(**defaults | changes)


@pytest.mark.parametrize(
    ("trainer", "work"),
    [
        (Trainer(10), Work("full", 20, 3)),
        (Trainer(10, adapter=True), Work("lora", 20, 3)),
        (Trainer(10, max_steps=6, eval_strategy="no"), Work("full", 24, 3)),
    ],
)
def test_training_counts_its_examples_and_takes_one_step(log, trainer, work):
    log.of_training(lambda trainer: None, count=True)(trainer)
    assert counted(log.file) == [work] and trainer.args.max_steps == 1


def test_ppo_counts_each_response_once(log):
    class PPOTrainer(Trainer):
        pass

    steps = PPOTrainer(10, adapter=True, max_steps=12, num_iterations=2)
    log.of_training(lambda trainer: None, count=True)(steps)
    (work,) = counted(log.file)
    assert (work.kind, work.rows) == ("ppo", 24)


def test_ppo_counts_the_tokens_of_its_prompts(log):
    class PPOTrainer(Trainer):
        pass

    steps = PPOTrainer(1, adapter=True, max_steps=1, num_iterations=1)
    steps.train_dataset = Dataset.from_dict({"prompt": ["a b c", "a b c d e"]})
    steps.processing_class = split_words
    log.of_training(lambda trainer: None, count=True)(steps)
    assert counted(log.file) == [Work("ppo", 4, 4.0)]


def test_the_evaluation_of_each_epoch_is_counted(log):
    generate = log.of_generate(None, count=True)

    def train(trainer):
        generate("model", split_words, ["a b"])

    log.of_training(train, count=True)(Trainer(10))
    generate("model", split_words, ["a b"])
    assert [work.rows for work in counted(log.file)] == [2, 20, 1]
