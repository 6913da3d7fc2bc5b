"""Calling reward functions, and refusing what cannot be a reward."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RewardFunction = Callable[..., list[float]]


def reward_name(function: RewardFunction) -> str:
    """The name under which a reward function is logged and told of."""
    return getattr(function, "__name__", type(function).__name__)


def call_reward(
    function: RewardFunction,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: dict[str, list],
) -> Tensor:
    """One finite float32 number for each completion, shape (completions,).

    Raises:
        ValueError: another number of rewards, or one that is not finite; the function and the completion are named.
    """
    rewards = torch.as_tensor(function(prompts, completions, **columns), dtype=torch.float32)
    if rewards.shape != (len(completions),):
        raise ValueError(
            f"the reward function {reward_name(function)} returned shape {tuple(rewards.shape)} "
            f"for {len(completions)} completions: return one number each"
        )
    if not torch.isfinite(rewards).all():
        row = int((~torch.isfinite(rewards)).nonzero()[0])
        raise ValueError(
            f"the reward function {reward_name(function)} returned {rewards[row].item()} "
            f"for the completion {completions[row]!r}: return finite numbers"
        )
    return rewards
