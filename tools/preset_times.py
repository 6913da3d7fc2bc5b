"""Estimate how long a lab takes with a preset, from its work and from times per item.

`tools.measure_presets` counts the work. docs/performance.md says where the times come from.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

NEW_TOKENS = 30  # about the length of a reference summary in DialogSum


@dataclass(frozen=True)
class Work:
    """Rows to summarize ("generate"), train on ("full", "lora"), sample from ("ppo") or "judge".

    `tokens` is the mean length of their prompts, or of the judged texts; `new` and `beams` are
    those of `generate`.
    """

    kind: str
    rows: float
    tokens: float
    new: int = NEW_TOKENS
    beams: int = 1


@dataclass(frozen=True)
class Speed:
    """A machine's seconds for each prompt token, new token, further beam and training example.

    A further beam takes `beam` seconds for a row and `beam_token` for each of its prompt tokens.
    Training times hold for prompts of 200 tokens, and are proportional to the length. `judge` is
    the time for each token of a judged text; `ppo` does not include the judge.
    """

    prompt_token: float
    new_token: float
    beam: float
    beam_token: float
    full: float
    lora: float
    ppo: float
    judge: float

    def seconds(self, work: Work) -> float:
        """Return the seconds that some work takes."""
        if work.kind == "judge":
            return work.rows * work.tokens * self.judge
        if work.kind != "generate":
            return work.rows * getattr(self, work.kind) * work.tokens / 200
        row = self.prompt_token * work.tokens + self.new_token * work.new
        return work.rows * (row + (work.beams - 1) * (self.beam + self.beam_token * work.tokens))


SPEEDS = {
    # FLAN-T5-small in fp32 on two cores without AVX-512
    "cpu": Speed(0.9e-3, 2.3e-3, 0.12, 0.3e-3, full=0.53, lora=0.45, ppo=0.73, judge=2e-3),
    # FLAN-T5-base in fp32 on a T4
    "gpu": Speed(0.06e-3, 0.7e-3, 0.01, 0.01e-3, full=0.065, lora=0.045, ppo=0.12, judge=0.05e-3),
}


def minutes(work: Iterable[Work], preset: str) -> dict[str, float]:
    """Return the minutes that each kind of work takes on the machine that a preset is made for."""
    total: dict[str, float] = defaultdict(float)
    for part in work:
        total[part.kind] += SPEEDS[preset].seconds(part) / 60
    return dict(total)
