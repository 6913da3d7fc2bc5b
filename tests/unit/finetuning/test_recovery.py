"""What a run of fine-tuning survives: a stop, a full disk, too little memory, bad numbers."""

import math
import signal
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from tiny_models import tiny_model
from tiny_training import (
    EVERY_STEP,
    PAIRS,
    UNSAVED,
    OutOfMemory,
    checkpoints,
    largest_difference,
    losses,
    same,
    weights,
)
from transformers import TrainerCallback

from utils.ppo.checkpointing import TrainingError, last_whole_checkpoint
from utils.training.memory import activation_bytes


def plain_t5():
    """The tiny T5 without dropout, so that runs with other batches can be compared."""
    return tiny_model("t5", dropout_rate=0.0)


# --- the same again ---


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_fixed_seed_gives_the_same_weights_twice(train, method):
    results = []
    for run in range(2):
        torch.manual_seed(100 + run)  # what ran before must not matter
        results.append(weights(train(method, tiny_model("t5"), seed=7, **UNSAVED).model))
    assert same(*results)


def test_another_seed_gives_other_weights(train):
    models = [train("full", tiny_model("t5"), seed=seed, **UNSAVED).model for seed in (1, 2)]
    assert not same(*map(weights, models))


def test_the_order_of_the_batches_follows_the_seed_and_changes_with_the_epoch(train):
    def order(seed: int) -> list[list[int]]:
        rows, model = [], plain_t5()
        model.register_forward_pre_hook(
            lambda _, __, inputs: rows.append(inputs["input_ids"].sum().item()), with_kwargs=True
        )
        options = {"per_device_train_batch_size": 1, "num_train_epochs": 4}
        train("full", model, seed=seed, **options, **UNSAVED)
        return [rows[i : i + 4] for i in range(0, 16, 4)]

    epochs = order(1)
    assert all(sorted(rows) == sorted(epochs[0]) for rows in epochs)
    assert len(set(map(tuple, epochs))) > 1
    assert epochs == order(1) != order(2)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_run_equals_the_run_that_was_not_stopped(train, tmp_path, method):
    constant = {"lr_scheduler_type": "constant", "load_best_model_at_end": False}
    whole = train(method, tiny_model("t5"), num_train_epochs=2, **constant)
    parts = {"output_dir": tmp_path / "parts"} | constant
    train(method, tiny_model("t5"), num_train_epochs=1, **parts)
    torch.manual_seed(99)
    resumed = train(method, tiny_model("t5"), num_train_epochs=2, resume=True, **parts)
    assert same(weights(resumed.model), weights(whole.model))
    assert losses(resumed) == losses(whole)


def test_a_run_resumed_at_its_last_step_takes_no_other(train):
    three_steps = EVERY_STEP | {"max_steps": 3, "lr_scheduler_type": "constant"}  # two an epoch
    whole = train("full", tiny_model("t5"), **three_steps)
    resumed = train("full", tiny_model("t5"), resume=True, **three_steps)
    assert resumed.history["step"].max() == 3
    assert same(weights(resumed.model), weights(whole.model))


def test_resuming_passes_over_a_checkpoint_that_was_cut_short(train, tmp_path, caplog):
    arguments = EVERY_STEP | {"num_train_epochs": 2}
    whole = weights(train("full", tiny_model("t5"), **arguments).model)
    newest = tmp_path / "checkpoint-4" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    again = train("full", tiny_model("t5"), resume=True, **arguments)
    assert "checkpoint-4: optimizer.pt is missing or damaged" in caplog.text
    assert f"resuming from {tmp_path / 'checkpoint-3'}" in caplog.text
    assert same(weights(again.model), whole)


def test_resuming_where_there_is_nothing_starts_from_the_beginning_and_says_so(train, caplog):
    fresh = train("full", tiny_model("t5"), **UNSAVED)
    resumed = train("full", tiny_model("t5"), resume=True, **UNSAVED)
    assert "starting from the beginning" in caplog.text
    assert same(weights(fresh.model), weights(resumed.model))


def test_resuming_from_another_runs_checkpoint_is_refused(train):
    train("full", tiny_model("t5"), **EVERY_STEP)
    for method, changes, said in (
        ("full", {"learning_rate": 3e-2}, "learning_rate 0.01, now 0.03"),
        ("full", {"per_device_train_batch_size": 1}, "batch_size 2"),
        ("lora", {}, "method 'full', now 'lora'"),
    ):
        with pytest.raises(ValueError, match=said):
            train(method, tiny_model("t5"), resume=True, **EVERY_STEP | changes)


def test_a_full_disk_stops_training_and_names_the_last_whole_checkpoint(train, tmp_path):
    """A limit on a file's size stands for the full disk: the system refuses to write on, too."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    try:
        with pytest.raises(TrainingError, match=r"checkpoint-2: .*checkpoint-1$") as caught:
            train(callbacks=[Fill()], **EVERY_STEP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.__cause__ is not None
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-1"


class Interrupt(TrainerCallback):
    """Stops the run in the middle of a step, as with Ctrl-C or the stop button of a notebook."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.steps:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_keeps_a_whole_checkpoint_and_resumes_to_the_same_weights(
    train, tmp_path, method
):
    steps = EVERY_STEP | {"num_train_epochs": 3, "lr_scheduler_type": "constant"}
    whole = train(method, tiny_model("t5"), **steps | {"output_dir": tmp_path / "whole"})
    with pytest.raises(KeyboardInterrupt):
        train(method, tiny_model("t5"), callbacks=[Interrupt(2)], **steps)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"
    resumed = train(method, tiny_model("t5"), resume=True, **steps)
    assert same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("finished", [0, 1])
@pytest.mark.parametrize("older", [{"learning_rate": 3e-2}, {"num_train_epochs": 4}])
def test_an_interrupted_run_never_resumes_from_a_longer_run_before_it(
    train, tmp_path, caplog, older, finished
):
    """The second older run has the same recipe, but at each step another learning rate."""
    steps = EVERY_STEP | {"num_train_epochs": 2}
    whole = train("full", tiny_model("t5"), **steps | {"output_dir": tmp_path / "whole"})
    steps["output_dir"] = parts = tmp_path / "parts"
    train("full", tiny_model("t5"), **steps | older)
    with pytest.raises(KeyboardInterrupt):
        train("full", tiny_model("t5"), callbacks=[Interrupt(finished)], **steps)
    newest = last_whole_checkpoint(parts)
    assert newest == (parts / "checkpoint-1" if finished else None)
    assert "according to its sha256.json, another run wrote it" in caplog.text
    resumed = train("full", tiny_model("t5"), resume=True, **steps)
    assert same(weights(resumed.model), weights(whole.model))
    assert [folder.name for folder in checkpoints(parts)] == ["checkpoint-3", "checkpoint-4"]


# --- numbers that are not finite ---


def test_a_loss_that_is_not_a_number_ends_training_and_names_the_step(train, tmp_path):
    # A rate of 1e38 throws the weights out of float32's range at step 1, and the loss of step 2 is
    # not a number, also in a run too short to log it.
    for logging_steps in (1, 10):
        with pytest.raises(
            TrainingError, match=r"nan at step 2\b.*learning rate.*1e\+38"
        ) as caught:
            train(model=tiny_model("t5"), learning_rate=1e38, logging_steps=logging_steps)
        assert str(tmp_path) in str(caught.value)


def test_weights_that_are_not_finite_are_neither_written_nor_returned(train, tmp_path):
    for arguments in (EVERY_STEP, UNSAVED):
        with pytest.raises(TrainingError, match=r"not finite after step 1\b"):
            train(model=tiny_model("t5"), learning_rate=1e38, max_steps=1, **arguments)
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_an_infinite_gradient_of_a_finite_loss_is_not_applied(
    train, tiny_t5, tmp_path, max_grad_norm
):
    backward = iter(range(100))
    tiny_t5.shared.weight.register_hook(
        lambda gradient: gradient * math.inf if next(backward) == 1 else gradient
    )
    with pytest.raises(TrainingError, match=r"(inf|nan) at step 2\b"):
        train(max_grad_norm=max_grad_norm, **EVERY_STEP)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-1"]
    assert all(weight.isfinite().all() for weight in tiny_t5.parameters())


# --- too little memory ---


def test_where_memory_runs_out_the_batch_is_halved_and_accumulated_to_the_same_gradient(
    train, caplog
):
    one_step = UNSAVED | {"per_device_train_batch_size": 4, "optim": "sgd"}
    whole = train("full", plain_t5(), **one_step)
    model = plain_t5()
    halved = train("full", model, callbacks=[OutOfMemory(model, rows=1)], **one_step)
    assert (whole.batch_size, halved.batch_size) == (4, 1)
    assert "batches of 2, 2 per optimizer step" in caplog.text
    assert "batches of 1, 4 per optimizer step" in caplog.text
    assert whole.history["step"].max() == halved.history["step"].max() == 1
    assert largest_difference(halved.model, whole.model) < 1e-5


@pytest.mark.parametrize(("batch", "rows", "taken"), [(3, 2, 1), (5, 3, 1), (6, 3, 3), (6, 2, 1)])
def test_where_memory_runs_out_the_batch_keeps_its_size_in_all(train, batch, rows, taken):
    twelve = PAIRS.select(3 * [0, 1, 2, 3])
    arguments = UNSAVED | {"rows": twelve, "per_device_train_batch_size": batch, "optim": "sgd"}
    whole = train("full", plain_t5(), **arguments)
    model = plain_t5()
    parts = train("full", model, callbacks=[OutOfMemory(model, rows, step=1)], **arguments)
    assert (parts.batch_size, parts.recipe["batch_size"]) == (taken, batch)
    assert parts.history["step"].max() == whole.history["step"].max() == math.ceil(12 / batch)
    assert largest_difference(parts.model, whole.model) < 1e-4


def test_where_memory_runs_out_late_training_continues_from_the_newest_checkpoint(train, caplog):
    for name, arguments in {"saved": EVERY_STEP, "unsaved": UNSAVED}.items():
        whole = train("full", plain_t5(), **UNSAVED)
        model = plain_t5()
        callbacks = [OutOfMemory(model, rows=1, step=1)]
        halved = train("full", model, callbacks=callbacks, **arguments)
        assert halved.batch_size == 1 and "out of memory at step 1" in caplog.text, name
        assert losses(halved) == pytest.approx(losses(whole), abs=1e-4), name
        assert largest_difference(halved.model, whole.model) < 1e-4, name
        caplog.clear()


@pytest.mark.parametrize("rows", [4, 2, 1])
def test_a_batch_too_long_for_the_memory_is_computed_in_parts_to_the_same_gradient(
    train, tiny_tokenizer, monkeypatch, rows
):
    one_step = UNSAVED | {"per_device_train_batch_size": 4, "optim": "sgd"}
    whole, model = train("full", plain_t5(), **one_step), plain_t5()
    longest = max(len(tiny_tokenizer(dialogue)["input_ids"]) for dialogue in PAIRS["dialogue"])
    memory = SimpleNamespace(total=4 * activation_bytes(model.config, rows, longest))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    watched = OutOfMemory(model, rows=rows)
    parts = train("full", model, callbacks=[watched], **one_step)
    assert parts.batch_size == 4 and watched.sizes == [rows] * (4 // rows)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    assert largest_difference(parts.model, whole.model) < 1e-5


def test_a_batch_of_one_that_does_not_fit_is_the_systems_own_error(train, tiny_t5):
    with pytest.raises(torch.OutOfMemoryError):
        train("full", callbacks=[OutOfMemory(tiny_t5, rows=0)], **UNSAVED)


def test_other_errors_are_not_taken_for_a_lack_of_memory(train, tiny_t5):
    def fail(*args):
        raise RuntimeError("shapes do not match")

    tiny_t5.decoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train("full", **UNSAVED)


@pytest.mark.parametrize("rows", [2, 1])
def test_peak_memory_counts_what_a_forward_pass_stores_also_when_memory_ran_out(
    train, tiny_t5, rows
):
    callbacks = [OutOfMemory(tiny_t5, rows)]
    stored = []
    tiny_t5.register_forward_hook(lambda *args: stored.append(np.ones(100_000_000 // 8)))
    tiny_t5.register_forward_pre_hook(lambda *args: stored.clear())
    result = train("full", callbacks=callbacks, **UNSAVED)
    assert result.batch_size == rows
    assert 80 < result.peak_megabytes < 200
