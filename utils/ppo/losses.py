"""The arithmetic of PPO as pure functions on tensors of shape (batch, time).

A mask is 1 on the tokens that the policy chose, from the first response token through end-of-sequence, and 0 after.
"""

import torch
from torch import Tensor

EPSILON = 1e-8
GROUP_EPSILON = 1e-4  # as in TRL: rewards that differ by less are noise


def response_mask(responses: Tensor, eos_token_id: int) -> Tensor:
    """1 from the first response token through the first end-of-sequence, inclusive; responses without one count whole.

    `responses` holds the ids after the decoder's start token. Padding is never looked for: T5's start token equals its
    pad token.
    """
    is_eos = (responses == eos_token_id).long()
    return (is_eos.cumsum(dim=1) - is_eos == 0).long()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` over the positions where `mask` is 1."""
    return (x * mask).sum() / mask.sum()


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 (Bessel-corrected) over the masked positions of the whole batch; 0
    elsewhere.

    Raises:
        ValueError: fewer than two masked positions, whose variance does not exist.
    """
    if (count := mask.sum()) < 2:
        raise ValueError(
            f"cannot whiten {int(count)} value(s): a batch needs at least two response tokens"
        )
    centered = (x - masked_mean(x, mask)) * mask
    variance = centered.square().sum() / (count - 1)
    return centered * torch.rsqrt(variance + EPSILON)


def kl_estimates(logprobs: Tensor, reference_logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-token estimates of KL(policy ‖ reference) from tokens the policy sampled (Schulman 2020, "Approximating KL
    divergence").

    With r = p_reference / p_policy: k1 = −log r (unbiased), k2 = (log r)² / 2, k3 = (r − 1) − log r (unbiased, never
    negative).
    """
    log_ratio = reference_logprobs - logprobs
    return -log_ratio, log_ratio.square() / 2, torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """−kl_coef · kl on every response token, plus the sequence's score (batch,) on its last one."""
    rewards = -kl_coef * kl * mask
    last = mask.sum(dim=1, keepdim=True).long() - 1
    return rewards.scatter_add(1, last, scores.unsqueeze(1).to(rewards.dtype))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al. 2016): advantages, and returns = advantages + values; 0 outside
    the mask.

    δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γλ A_{t+1}; after the last response token V and A are 0.
    """
    mask = mask.to(values.dtype)
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(values)
    following_value = following_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following_advantage = (delta + gamma * lam * following_advantage) * mask[:, t]
        following_value = values[:, t]
        advantages[:, t] = following_advantage
    return advantages, advantages + values


def rloo_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024): each response's reward minus the mean reward of
    the other responses to its prompt. `rewards` is (responses,), those to one prompt side by side.

    Raises:
        ValueError: groups of fewer than two, or rewards that are not whole groups.
    """
    groups = _groups(rewards, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()


def grpo_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Group-relative advantages (Shao et al. 2024): each response's reward, standardized (Bessel-corrected) among the
    responses to its prompt; 0 in a group that is all alike. `rewards` is (responses,), those to one prompt side by
    side.

    Raises:
        ValueError: groups of fewer than two, or rewards that are not whole groups.
    """
    groups = _groups(rewards, group_size)
    deviation = groups.std(dim=1, keepdim=True)
    return ((groups - groups.mean(dim=1, keepdim=True)) / (deviation + GROUP_EPSILON)).flatten()


def _groups(rewards: Tensor, group_size: int) -> Tensor:
    if group_size < 2:
        raise ValueError(
            f"groups of {group_size} response(s) cannot be compared: sample at least two to each prompt"
        )
    if len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards are not whole groups of {group_size}")
    return rewards.view(-1, group_size)


def adapted_kl_coef(
    kl_coef: float, kl: float, target: float, responses: int, horizon: int
) -> float:
    """The next KL coefficient of Ziegler et al. 2019 (2.2): coef · (1 + clip(KL / target − 1, ±0.2) · responses /
    horizon). It rises while the KL per sequence is above the target, and falls while it is below.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * responses / horizon)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated, and the share of tokens on which the clip
    decides.

    loss = mean max(−ρA, −clip(ρ, 1−ε, 1+ε)A) with ρ = p_new / p_old.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return masked_mean(torch.maximum(unclipped, clipped), mask), masked_mean(
        (clipped > unclipped).float(), mask
    )


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """Half the squared error of the values, which may move by at most `clip_range` from the old ones; the worse of both
    counts.
    """
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * masked_mean(
        torch.maximum((values - returns).square(), (clipped - returns).square()), mask
    )


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(returns − values) / Var(returns) over the masked positions: 1 is perfect, 0 no better than a constant."""
    inside = mask.bool()
    return 1 - (returns - values)[inside].var(correction=0) / (
        returns[inside].var(correction=0) + EPSILON
    )
