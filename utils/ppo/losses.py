"""The arithmetic of PPO, RLOO and GRPO as pure functions on tensors of shape (batch, time).

A mask is 1 from the first completion token through end-of-sequence, and 0 after it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-8
GROUP_EPSILON = 1e-4  # as in TRL: rewards that differ by less are noise


def response_mask(completion_ids: Tensor, eos_token_ids: int | Sequence[int]) -> Tensor:
    """Return 1 up to and including the first end-of-sequence token, 0 after it; (batch, time).

    `completion_ids` holds the ids after the decoder's start token. The mask does not depend on the
    pad token, which T5 also uses as its start token.
    """
    ends = torch.as_tensor(eos_token_ids, device=completion_ids.device)
    is_eos = torch.isin(completion_ids, ends).long()
    return (is_eos.cumsum(dim=1) - is_eos == 0).long()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x over the positions where the mask is 1."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, min_std: float = 0.0) -> Tensor:
    """Shift and scale to mean 0 and variance 1 (Bessel-corrected) over the mask; 0 elsewhere.

    `min_std` is a lower bound on the standard deviation that x is divided by.
    Raises ValueError if the mask has fewer than two positions: one value has no variance.
    """
    if (count := mask.sum()) < 2:
        raise ValueError(
            f"cannot whiten {int(count)} value(s): pass at least two completion tokens"
        )
    centered = (x - masked_mean(x, mask)) * mask
    std = (centered.square().sum() / (count - 1) + EPSILON).sqrt()
    return centered / std.clamp(min=min_std)


def kl_estimates(logprobs: Tensor, reference_logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate KL(policy ‖ reference) for each token that the policy sampled: k1, k2 and k3.

    With r = p_reference / p_policy: k1 = −log r (unbiased), k2 = (log r)² / 2, and
    k3 = (r − 1) − log r (unbiased, never negative); Schulman 2020, "Approximating KL Divergence".
    """
    log_ratio = reference_logprobs - logprobs
    return -log_ratio, log_ratio.square() / 2, torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return −beta · kl on each completion token, plus the score (batch,) on its last token."""
    rewards = -beta * kl * mask
    last = (mask.sum(dim=1, keepdim=True).long() - 1).clamp(min=0)
    return rewards.scatter_add(1, last, scores.unsqueeze(1).to(rewards.dtype))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return generalized advantage estimates and returns = advantages + values; 0 outside the mask.

    δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γλ A_{t+1}; V and A are 0 after the last token
    (Schulman et al. 2016).
    """
    mask = mask.to(values.dtype)
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


def rloo_advantages(rewards: Tensor, num_generations: int) -> Tensor:
    """Return each completion's reward minus the mean of its group's other rewards, (completions,).

    REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024). `rewards` is (completions,),
    ordered by prompt. NaN marks a completion without a reward; no mean includes it, and its
    advantage is 0.
    Raises ValueError if groups have fewer than two completions or the last one is incomplete.
    """
    groups = _groups(rewards, num_generations)
    others = (~groups.isnan()).sum(dim=1, keepdim=True) - 1
    baseline = (groups.nansum(dim=1, keepdim=True) - groups) / others
    return (groups - baseline).flatten().nan_to_num(0.0, 0.0, 0.0)


def grpo_advantages(rewards: Tensor, num_generations: int, scale: str = "group") -> Tensor:
    """Return group-relative advantages, (completions,): rewards minus their group's mean.

    `scale` divides them by the standard deviation of the group ("group", Shao et al. 2024) or the
    batch ("batch"), or by nothing ("none", Liu et al. 2025). NaN and errors: see `rloo_advantages`.
    """
    groups = _groups(rewards, num_generations)
    centered = groups - groups.nanmean(dim=1, keepdim=True)
    if scale != "none":
        std = nanstd(groups, dim=1) if scale == "group" else nanstd(groups.reshape(1, -1), dim=1)
        centered = centered / (std + GROUP_EPSILON)
    return centered.flatten().nan_to_num(0.0)


def nanstd(x: Tensor, dim: int) -> Tensor:
    """Return the Bessel-corrected standard deviation along `dim`, ignoring NaN; 0 for one value."""
    count = (~x.isnan()).sum(dim=dim, keepdim=True)
    squares = (x - x.nanmean(dim=dim, keepdim=True)).square().nansum(dim=dim, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()


def _groups(rewards: Tensor, num_generations: int) -> Tensor:
    if num_generations < 2:
        raise ValueError(
            f"groups of {num_generations} completion(s) cannot be compared: sample at least two "
            "for each prompt"
        )
    if len(rewards) % num_generations:
        raise ValueError(f"{len(rewards)} rewards cannot form groups of {num_generations}")
    return rewards.view(-1, num_generations)


def adapted_beta(beta: float, kl: float, target: float, completions: int, horizon: int) -> float:
    """Return the adapted β: β · (1 + clip(KL / target − 1, ±0.2) · completions / horizon).

    β rises while the KL per sequence is above the target (Ziegler et al. 2019, section 2.2).
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * completions / horizon)


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor, mean: bool) -> Tensor:
    """Return the log-ratio of whole completions, (batch, 1): the sum over tokens, or their mean."""
    total = (log_ratio * mask).sum(dim=1, keepdim=True)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1) if mean else total


def clipped_surrogate(
    log_ratio: Tensor,
    advantages: Tensor,
    epsilon: float,
    epsilon_high: float | None = None,
    delta: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return PPO's loss for each token, and masks of the tokens clipped from below and from above.

    loss = max(−ρA, −clip(ρ, 1−ε, 1+ε_high)A) with ρ = p_new / p_old (Schulman et al. 2017, eq. 7);
    `delta` also bounds ρ where A < 0.
    """
    ratio = log_ratio.exp()
    low, high = 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    loss = torch.maximum(-advantages * bounded, -advantages * ratio.clamp(low, high))
    return loss, (ratio < low) & (advantages < 0), (ratio > high) & (advantages > 0)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return the mean of `clipped_surrogate` over the mask, and the share of clipped tokens."""
    loss, low, high = clipped_surrogate(logprobs - old_logprobs, advantages, epsilon)
    return masked_mean(loss, mask), masked_mean((low | high).float(), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, epsilon: float
) -> Tensor:
    """Return the mean of `clipped_value_error` over the mask."""
    return masked_mean(clipped_value_error(values, old_values, returns, epsilon), mask)


def clipped_value_error(
    values: Tensor, old_values: Tensor, returns: Tensor, epsilon: float
) -> Tensor:
    """Return half the squared error of each value, (batch, time).

    Each value is also clipped to within `epsilon` of the old one; the larger error counts.
    """
    clipped = old_values + (values - old_values).clamp(-epsilon, epsilon)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − Var(returns − values) / Var(returns) over the mask; constant values give 0."""
    inside = mask.bool()
    residual = (returns - values)[inside].var(correction=0)
    return 1 - residual / (returns[inside].var(correction=0) + EPSILON)


def position_share(advantages: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the advantages' variance that a token's distance from the end explains.

    This is the correlation ratio η²: the variance of the means at each distance divided by the
    total variance, 0 to 1. If it is large, updates depend more on length than on content.
    """
    inside = mask.bool()
    distance = (mask.sum(dim=1, keepdim=True) - mask.cumsum(dim=1))[inside].long()
    a = advantages[inside]
    counts = torch.bincount(distance).clamp(min=1)
    means = torch.zeros(len(counts), dtype=a.dtype, device=a.device).scatter_add(0, distance, a)
    between = ((means / counts)[distance] - a.mean()).square().sum()
    return between / ((a - a.mean()).square().sum() + EPSILON)
