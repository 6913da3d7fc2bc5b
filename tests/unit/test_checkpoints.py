"""A checkpoint that was cut short is known as such, and the newest whole one is found."""

import json

import pytest
import torch
from safetensors.torch import save_file

from utils.ppo.checkpointing import check_recipe, checkpoint_flaw, last_whole_checkpoint


def write_checkpoint(output_dir, step):
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir()
    save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(100)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    return folder


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def test_the_newest_checkpoint_is_found_by_its_number_not_its_name(tmp_path):
    for step in (9, 100, 20):
        write_checkpoint(tmp_path, step)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-100"


def test_a_whole_checkpoint_has_no_flaw(tmp_path):
    assert checkpoint_flaw(write_checkpoint(tmp_path, 1)) is None


@pytest.mark.parametrize("how", ["missing", "cut short", "empty"])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_passed_over_and_said_so(tmp_path, caplog, name, how):
    good, broken = write_checkpoint(tmp_path, 10), write_checkpoint(tmp_path, 20)
    content = (broken / name).read_bytes()
    (broken / name).unlink()
    if how != "missing":
        (broken / name).write_bytes(content[:-1] if how == "cut short" else b"")
    assert last_whole_checkpoint(tmp_path) == good
    assert f"passing over {broken}" in caplog.text
    assert name in caplog.text or "safetensors" in caplog.text


def test_the_random_state_of_every_process_must_be_whole(tmp_path):
    folder = write_checkpoint(tmp_path, 1)
    content = (folder / "rng_state.pth").read_bytes()
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    (folder / "rng_state_1.pth").write_bytes(content)
    assert checkpoint_flaw(folder) is None
    (folder / "rng_state_1.pth").write_bytes(content[:-1])
    assert checkpoint_flaw(folder) == "rng_state_1.pth is cut short"


def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(tmp_path):
    folder = write_checkpoint(tmp_path, 1)
    written = {
        "stateful_callbacks": {
            "Recipe": {"args": {"learning_rate": 0.001, "seed": 1}, "attributes": {}}
        }
    }
    (folder / "trainer_state.json").write_text(json.dumps(written), encoding="utf-8")
    check_recipe(folder, {"learning_rate": 0.001, "seed": 1})
    with pytest.raises(
        ValueError, match=r"checkpoint-1 is of another run \(learning_rate 0.001, now 0.01\)"
    ):
        check_recipe(folder, {"learning_rate": 0.01, "seed": 1})


def test_a_checkpoint_that_tells_no_recipe_is_of_another_run(tmp_path):
    folder = write_checkpoint(tmp_path, 1)
    (folder / "trainer_state.json").write_text(
        json.dumps({"stateful_callbacks": {}}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="seed None, now 1"):
        check_recipe(folder, {"seed": 1})


def test_where_nothing_is_whole_there_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "absent") is None
