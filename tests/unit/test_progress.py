import pytest
import torch
from transformers import TrainerControl, TrainerState

from utils import progress
from utils.generation import generate
from utils.progress import DecodingEstimate, Estimate, EstimateCallback


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock that goes on by the last of its seconds at each look."""
    seconds = [0.0, 1.0]

    def look() -> float:
        seconds[0] += seconds[1]
        return seconds[0]

    monkeypatch.setattr(progress.time, "perf_counter", look)
    return seconds


def test_the_estimate_is_what_remains_at_the_speed_of_the_second_to_fourth_part(clock, capsys):
    estimate = Estimate("generating", 1200)
    clock[1] = 100.0  # the warm-up is slow, and not counted
    estimate.advance(10)
    clock[1] = 2.0
    for _ in range(2):
        estimate.advance(10)
    assert capsys.readouterr().err == ""
    for _ in range(4):
        estimate.advance(10)
    # 30 units took 6 s, 1,160 remain: 232 s
    assert capsys.readouterr().err == "generating: about 4 more minutes\n"


def test_work_of_less_than_a_minute_needs_no_estimate(clock, capsys):
    estimate = Estimate("generating", 60)
    for _ in range(60):
        estimate.advance(1)
    assert capsys.readouterr().err == ""


def test_decoding_is_told_at_most_what_all_tokens_of_all_batches_take(clock, capsys):
    estimate = DecodingEstimate(batches=2.5, max_new_tokens=101)
    clock[1] = 20.0  # the encoder and the first token
    rows = torch.zeros(3, 1)
    assert estimate(rows, None).tolist() == [False] * 3
    clock[1] = 2.0
    for _ in range(2):
        estimate(rows, None)
    assert capsys.readouterr().err == ""
    for _ in range(3):
        estimate(rows, None)
    # A batch takes 20 + 100 · 2 = 220 s; 2.5 of them, less the 26 s that have gone: 524 s
    assert capsys.readouterr().err == "generating: at most 9 more minutes\n"


def test_a_long_generation_is_told_in_its_first_batch(tiny_t5, tiny_tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LONG", 0.0)
    prompts = ["good", "bad", "hello world"]
    told = generate(tiny_t5, tiny_tokenizer, prompts, max_new_tokens=8, min_new_tokens=8)
    assert capsys.readouterr().err.count("generating: at most 0 more minutes\n") == 1
    monkeypatch.setattr(progress, "LONG", 60.0)
    assert generate(tiny_t5, tiny_tokenizer, prompts, max_new_tokens=8, min_new_tokens=8) == told
    assert "generating" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rank_zero", "told"), [(True, "training: about 2 more minutes\n"), (False, "")]
)
def test_a_resumed_run_is_told_what_remains_by_the_first_process_alone(
    clock, capsys, rank_zero, told
):
    state = TrainerState(max_steps=154, global_step=50, is_world_process_zero=rank_zero)
    callback = EstimateCallback()
    callback.on_train_begin(None, state, TrainerControl())
    for _ in range(4):
        callback.on_step_end(None, state, TrainerControl())
    assert capsys.readouterr().err == told  # 100 steps of a second
