"""A resumed run equals one that was not stopped; checkpoints of other runs are refused."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForSeq2SeqLM, PeftModel
from safetensors.torch import save_file
from tiny_ppo import (
    PROMPTS,
    count_o,
    length_reward,
    logged,
    logprobs_of,
    policy,
    same,
    weights,
)
from torch.testing import assert_close
from transformers import TrainerCallback

from utils.models import load_model
from utils.ppo.checkpointing import (
    TrainingError,
    check_recipe,
    checkpoint_flaw,
    only_run_in,
    write_digests,
)
from utils.ppo.checkpointing import last_whole_checkpoint as last_whole

EIGHT = Dataset.from_dict({"prompt": [f"{p} {word}" for p in PROMPTS for word in ("bad", "nice")]})


def checkpoint(folder: Path, step: int) -> str:
    return str(folder / f"checkpoint-{step}")


SYNCED = {"advantage_estimator": "rloo", "sync_ref_model": True, "ref_model_sync_steps": 2}
PRICED = {"advantage_estimator": "grpo", "beta": 0.1}
HALVED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
slow = pytest.mark.slow
CASES = [
    ("all parameters", {}),
    ("all parameters", SYNCED),
    ("fresh adapter", PRICED | HALVED),
    ("trained adapter", {"kl_target": 0.1, "kl_horizon": 20}),
    pytest.param("frozen encoder", {"kl_target": 0.1, "kl_horizon": 20}, marks=slow),
    pytest.param("frozen encoder", PRICED, marks=slow),
    pytest.param("all parameters", PRICED, marks=slow),
    pytest.param("all parameters", {"value_trunk": "own"}, marks=slow),
    pytest.param("fresh adapter", {"advantage_estimator": "rloo"}, marks=slow),
    pytest.param("fresh adapter", HALVED, marks=slow),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_stopped_and_resumed_run_equals_one_that_was_not(make, tiny_t5, tmp_path, kind, options):
    """Due after 5 updates, within the third sample, a checkpoint is written after 6.

    That is in the second epoch; with groups of two completions, in the first.
    """
    arguments = {
        "rows": EIGHT,
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 5,
        "lr_scheduler_type": "linear",
    } | options
    whole = make(
        **policy(kind, copy.deepcopy(tiny_t5)), output_dir=str(tmp_path / "whole"), **arguments
    )
    whole.train()

    calls = []

    def power_cut(completions, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return length_reward(completions)

    power_cut.__name__ = length_reward.__name__
    arguments["output_dir"] = str(tmp_path / "parts")
    stopped = make(**policy(kind, copy.deepcopy(tiny_t5)), reward=power_cut, **arguments)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert [f.name for f in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-6"]

    torch.manual_seed(99)  # what ran before must not matter
    resumed = make(**policy(kind, copy.deepcopy(tiny_t5)), **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    assert same(weights(resumed.model), weights(whole.model))
    if whole.ref_model is not None:
        assert same(weights(resumed.ref_model), weights(whole.ref_model))
    log, expected = (
        [
            {n: v for n, v in entry.items() if "runtime" not in n and "second" not in n}
            for entry in trainer.state.log_history[:8]
        ]
        for trainer in (resumed, whole)
    )
    assert log == expected and len(logged(whole, "reward")) == 4
    after = whole.completions.query("step > 6").reset_index(drop=True)
    assert resumed.completions.equals(after) and len(after) == 2


def test_a_run_resumed_in_a_later_epoch_sees_the_prompts_that_are_left(make, tiny_t5, tmp_path):
    """Stopped after 5 of 6 samples, in the middle of the third epoch of two samples each."""

    def run(**changes):
        seen = []

        def reward(prompts, completions, **kwargs):
            seen.append(sorted(prompts))
            return count_o(completions)

        trainer = make(
            copy.deepcopy(tiny_t5),
            reward=reward,
            rows=EIGHT,
            num_iterations=1,
            save_strategy="steps",
            save_steps=1,
            max_steps=6,
        )
        trainer.train(**changes)
        return trainer, seen

    whole, prompts = run()
    for epoch in range(3):
        assert sorted(prompts[2 * epoch] + prompts[2 * epoch + 1]) == sorted(EIGHT["prompt"])
    assert len({str(p) for p in prompts}) > 2  # every epoch has an order of its own
    for step in (2, 5):
        resumed, rest = run(resume_from_checkpoint=checkpoint(tmp_path, step))
        assert rest == prompts[step:]
        assert same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_run_resumed_at_its_last_step_takes_no_other(make, tiny_t5, tmp_path, schedule):
    arguments = {
        "rows": EIGHT,
        "max_steps": 6,  # in the middle of the second epoch
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": schedule,
    }
    whole = make(copy.deepcopy(tiny_t5), **arguments)
    whole.train()
    resumed = make(copy.deepcopy(tiny_t5), **arguments)
    resumed.train(resume_from_checkpoint=checkpoint(tmp_path, 6))
    assert resumed.state.global_step == 6 and len(logged(resumed, "reward")) == 3
    assert same(weights(resumed.model), weights(whole.model))


def test_training_again_begins_with_a_new_sample(make):
    """Though the last one has not been learned from as often as it could be."""
    calls = []

    def reward(completions, **kwargs):
        calls.append(len(completions))
        return length_reward(completions)

    trainer = make(reward=reward, num_iterations=4, max_steps=1)
    trainer.train()
    trainer.train()
    assert calls == [4, 4]


def test_checkpoints_and_evaluations_wait_for_the_end_of_a_sample(make, tmp_path):
    trainer = make(
        rows=EIGHT,
        eval_rows=EIGHT.select(range(2)),
        max_steps=12,
        save_strategy="steps",
        save_steps=5,
        eval_strategy="steps",
        eval_steps=5,
    )
    trainer.train()
    written = sorted(int(f.name[11:]) for f in tmp_path.glob("checkpoint-*"))
    assert written == [6, 10, 12]  # due after 5 and 10 of two updates a sample, and at the end
    assert [e["step"] for e in trainer.state.log_history if "eval_reward" in e] == [6, 10, 12]


def test_a_checkpoint_that_a_callback_added_later_asks_for_waits_too(make, tmp_path):
    class SaveAtFive(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = state.global_step == 5

    trainer = make(rows=EIGHT, max_steps=8, save_strategy="no")
    trainer.add_callback(SaveAtFive)
    trainer.train()
    assert [f.name for f in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


# --- checkpoints of other runs ---


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"beta": 0.3}, "beta 0.05, now 0.3"),
        ({"learning_rate": 0.5}, "learning_rate 0.01, now 0.5"),
        ({"num_iterations": 1}, "num_iterations 2, now 1"),
        ({"num_generations": 2}, "num_generations 1, now 2"),
        ({"per_device_train_batch_size": 2}, "generation_batch_size 4, now 2"),
        (HALVED, "gradient_accumulation_steps 1, now 2"),
        ({"max_completion_length": 5}, "max_completion_length 6, now 5"),
        ({"seed": 1}, "seed 42, now 1"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type 'linear', now 'cosine'"),
        ({"advantage_estimator": "rloo"}, "advantage_estimator 'gae', now 'rloo'"),
        ({"reward": count_o}, r"reward_funcs \['length_reward'\], now \['count_o'\]"),
        ({"rows": EIGHT}, "prompts '[0-9a-f]+', now '[0-9a-f]+'"),
        ({"model": "another"}, "initial_policy '[0-9a-f]+', now '[0-9a-f]+'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(
    make, tiny_t5, tmp_path, changed, named
):
    make(copy.deepcopy(tiny_t5), save_strategy="steps", save_steps=2).train()
    if changed.get("model"):
        tiny_t5.shared.weight.data[5, 3] += 1e-3  # a single number
        changed = {"model": tiny_t5}
    with pytest.raises(ValueError, match=rf"checkpoint-2 belongs to another run \({named}"):
        make(**{"model": tiny_t5} | changed).train(resume_from_checkpoint=checkpoint(tmp_path, 2))


def test_true_resumes_the_newest_run_and_another_runs_checkpoint_begins_a_new_one(
    make, tiny_t5, tmp_path
):
    def samples(max_steps: int, **changes) -> int:
        """Train for steps of which two learn from a sample; return how many samples it drew."""
        saving = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
        trainer = make(copy.deepcopy(tiny_t5), max_steps=max_steps, **saving)
        trainer.train(**changes)
        return len(trainer.completions["step"].unique()) if len(trainer.completions) else 0

    assert (samples(8), samples(4)) == (4, 2)
    assert last_whole(tmp_path).name == "checkpoint-4"
    assert samples(6, resume_from_checkpoint=True) == 1
    assert last_whole(tmp_path).name == "checkpoint-6"
    samples(8, resume_from_checkpoint=checkpoint(tmp_path, 8))  # of the first run
    assert last_whole(tmp_path) is None
    with pytest.raises(ValueError, match="no complete checkpoint of its newest run"):
        samples(8, resume_from_checkpoint=True)


def test_a_checkpoint_with_pickled_weights_is_refused(make, tiny_t5, tmp_path):
    make(copy.deepcopy(tiny_t5), save_strategy="steps", save_steps=2).train()
    folder = Path(checkpoint(tmp_path, 2))
    (folder / "model.safetensors").unlink()
    torch.save(tiny_t5.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model\.safetensors, and pickles .*save_pretrained"):
        make(tiny_t5).train(resume_from_checkpoint=str(folder))


# --- what a checkpoint holds ---


def test_a_saved_adapter_on_the_initial_policy_is_the_trained_policy(
    make, tiny_t5, tokenizer, tmp_path
):
    found = copy.deepcopy(tiny_t5)
    trainer = make(**policy("fresh adapter", tiny_t5))
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    reloaded = PeftModel.from_pretrained(found, tmp_path / "final")
    trained = logprobs_of(trainer.policy, tokenizer)
    assert_close(logprobs_of(reloaded, tokenizer), trained)
    with reloaded.disable_adapter():
        assert (logprobs_of(reloaded, tokenizer) - trained).abs().max() > 1e-3


def test_a_checkpoint_of_an_adapter_that_is_trained_on_loads_as_the_trained_policy(
    make, tiny_t5, tokenizer, tmp_path
):
    """The copy of the adapter that serves as the reference is not written."""
    tiny_t5.save_pretrained(tmp_path / "base")
    base = type(tiny_t5).from_pretrained(tmp_path / "base")
    trainer = make(**policy("trained adapter", base), save_strategy="steps", save_steps=2)
    trainer.train()
    reloaded = AutoPeftModelForSeq2SeqLM.from_pretrained(checkpoint(tmp_path, 2))
    assert_close(logprobs_of(reloaded, tokenizer), logprobs_of(trainer.policy, tokenizer))
    assert not list(Path(checkpoint(tmp_path, 2)).glob("ref/*"))


@pytest.mark.parametrize("kind", ["fresh adapter", "trained adapter", "all parameters"])
def test_a_merged_policy_is_one_model_and_answers_as_the_trained_one(
    make, tiny_t5, tokenizer, tmp_path, kind
):
    trainer = make(**policy(kind, tiny_t5))
    trainer.train()
    trainer.save_merged(tmp_path / "merged")
    merged, own = load_model(str(tmp_path / "merged"), device="cpu")
    trained = logprobs_of(trainer.policy, tokenizer)
    assert_close(logprobs_of(merged, own), trained, atol=1e-4, rtol=0)


def test_a_saved_full_policy_loads_with_its_tokenizer(make, tokenizer, tmp_path):
    trainer = make()
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    reloaded, own = load_model(str(tmp_path / "final"), device="cpu")
    assert_close(logprobs_of(reloaded, own), logprobs_of(trainer.policy, tokenizer))


def test_weights_that_are_not_finite_are_not_written_and_end_the_run(make, tiny_t5, tmp_path):
    for saving in ({}, {"save_strategy": "steps", "save_steps": 1}):
        trainer = make(
            copy.deepcopy(tiny_t5),
            learning_rate=1e38,
            lr_scheduler_type="constant",
            num_iterations=1,
            max_steps=1,
            **saving,
        )
        with pytest.raises(TrainingError, match=r"not finite after step 1\b.*now 1e\+38"):
            trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


# --- checkpoints that were cut short ---


def write_checkpoint(output_dir: Path, step: int) -> Path:
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir()
    save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(100)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    write_digests(folder)
    return folder


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
FILES += ("sha256.json",)


def test_the_newest_checkpoint_is_found_by_its_number_not_its_name(tmp_path):
    for step in (9, 100, 20):
        write_checkpoint(tmp_path, step)
    assert last_whole(tmp_path).name == "checkpoint-100"


def test_a_whole_checkpoint_has_no_flaw(tmp_path):
    assert checkpoint_flaw(write_checkpoint(tmp_path, 1)) is None


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("how", ["missing", "cut short", "empty", "one bit flipped"])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, name, how):
    good, broken = write_checkpoint(tmp_path, 10), write_checkpoint(tmp_path, 20)
    content = (broken / name).read_bytes()
    (broken / name).unlink()
    if how != "missing":
        damaged = {"cut short": content[:-1], "empty": b"", "one bit flipped": flipped(content)}
        (broken / name).write_bytes(damaged[how])
    assert last_whole(tmp_path) == good
    assert f"skipping {broken}" in caplog.text
    assert name in caplog.text or "safetensors" in caplog.text


def test_the_random_state_of_every_process_must_be_whole(tmp_path):
    folder = write_checkpoint(tmp_path, 1)
    content = (folder / "rng_state.pth").read_bytes()
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    (folder / "rng_state_1.pth").write_bytes(content)
    write_digests(folder)
    assert checkpoint_flaw(folder) is None
    (folder / "rng_state_1.pth").write_bytes(content[:-1])
    assert checkpoint_flaw(folder).startswith("rng_state_1.pth is missing or damaged")


def test_a_recipe_is_compared_by_every_one_of_its_values(tmp_path):
    folder = write_checkpoint(tmp_path, 1)
    recipe = {"args": {"learning_rate": 0.001, "seed": 1}, "attributes": {}}
    written = json.dumps({"stateful_callbacks": {"Recipe": recipe}})
    (folder / "trainer_state.json").write_text(written, encoding="utf-8")
    check_recipe(folder, {"learning_rate": 0.001, "seed": 1})
    with pytest.raises(ValueError, match=r"another run \(learning_rate 0.001, now 0.01\)"):
        check_recipe(folder, {"learning_rate": 0.01, "seed": 1})


def test_a_checkpoint_without_a_recipe_is_of_another_run(tmp_path):
    folder = write_checkpoint(tmp_path, 1)
    written = json.dumps({"stateful_callbacks": {}})
    (folder / "trainer_state.json").write_text(written, encoding="utf-8")
    with pytest.raises(ValueError, match="seed None, now 1"):
        check_recipe(folder, {"seed": 1})


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_leaves_it_free(tmp_path):
    hold = "import sys, time; from utils.ppo.checkpointing import only_run_in\n"
    hold += "with only_run_in(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    refused = pytest.raises(TrainingError, match=r"another run is training in .*another output_dir")
    with refused, only_run_in(tmp_path):
        pass
    other.kill()
    other.wait()
    with only_run_in(tmp_path):
        pass


def test_where_nothing_is_whole_there_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert last_whole(tmp_path) is None
    assert last_whole(tmp_path / "absent") is None
