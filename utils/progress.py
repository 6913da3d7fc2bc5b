"""How long a long piece of work will take, told from its first parts."""

import sys
import time
from typing import Any

import torch
from transformers import StoppingCriteria, TrainerCallback

LONG = 60.0  # seconds; shorter work needs no estimate
TIMED_PARTS = 3


class Estimate:
    """Tells once, on standard error, how long `what` will take, where that is more than a minute.

    Work has `total` units, of which each part does some; the first part, a warm-up, is not timed, the next three are.
    """

    def __init__(self, what: str, total: float):
        self.what, self.total = what, total
        self.done, self.parts, self.timed_from, self.done_before = 0.0, 0, 0.0, 0.0

    def advance(self, units: float) -> None:
        """One more part is done, of so many units."""
        self.done, self.parts = self.done + units, self.parts + 1
        now = time.perf_counter()
        if self.parts == 1:
            self.timed_from, self.done_before = now, self.done
        if self.parts == 1 + TIMED_PARTS:
            seconds = (
                (now - self.timed_from) / (self.done - self.done_before) * (self.total - self.done)
            )
            _tell(self.what, "about", seconds)


class DecodingEstimate(StoppingCriteria):
    """Tells once, after the first tokens of a batch, how long this and like batches take at most; stops nothing.

    `batches` counts them all, in sizes of this one. Answers may end before `max_new_tokens`.
    """

    def __init__(self, batches: float, max_new_tokens: int):
        self.batches, self.max_new_tokens = batches, max_new_tokens
        self.start, self.first, self.tokens = time.perf_counter(), 0.0, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Count a token of every row; False for each of them."""
        now = time.perf_counter()
        self.tokens += 1
        if self.tokens == 1:
            self.first = now
        if self.tokens == 1 + TIMED_PARTS:
            a_token = (now - self.first) / TIMED_PARTS
            whole = self.first - self.start + a_token * (self.max_new_tokens - 1)
            _tell("generating", "at most", self.batches * whole - (now - self.start))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _tell(what: str, how: str, seconds: float) -> None:
    if seconds > LONG:
        print(f"{what}: {how} {seconds / 60:.0f} more minutes", file=sys.stderr, flush=True)


class EstimateCallback(TrainerCallback):
    """Tells after a trainer's first steps how long the others will take, evaluation left out."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Begin anew at the step that a resumed run starts from."""
        self.estimate = Estimate("training", state.max_steps - state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Count a step."""
        if state.is_world_process_zero:
            self.estimate.advance(1)
