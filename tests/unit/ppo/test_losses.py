"""The arithmetic of PPO, against numbers worked by hand and against slow second implementations."""

import math
import random
import statistics

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from utils.ppo.losses import (
    adapted_beta,
    clipped_surrogate,
    explained_variance,
    gae,
    grpo_advantages,
    kl_estimates,
    masked_mean,
    nanstd,
    policy_loss,
    position_share,
    response_mask,
    rloo_advantages,
    sequence_log_ratio,
    token_rewards,
    value_loss,
    whiten,
)

PAD, EOS = 0, 1


# --- response mask ---


def test_mask_runs_from_the_first_token_through_eos_inclusive():
    completions = tensor([[5, 6, EOS, PAD], [5, EOS, PAD, PAD]])
    assert response_mask(completions, EOS).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]


def test_mask_of_a_completion_without_eos_is_whole():
    assert response_mask(tensor([[5, 6, 7]]), EOS).tolist() == [[1, 1, 1]]


def test_mask_of_an_empty_completion_is_its_eos():
    assert response_mask(tensor([[EOS, PAD, PAD]]), EOS).tolist() == [[1, 0, 0]]


def test_mask_keeps_a_pad_id_that_the_policy_sampled_before_eos():
    # T5's start token is its pad token, so a sampler may choose id 0: it is a token like any other.
    assert response_mask(tensor([[PAD, 5, PAD, EOS, PAD]]), EOS).tolist() == [[1, 1, 1, 1, 0]]


def test_mask_stops_at_the_first_of_several_eos():
    assert response_mask(tensor([[5, EOS, EOS, 6, EOS]]), EOS).tolist() == [[1, 1, 0, 0, 0]]


def test_mask_has_the_shape_of_the_completions_and_only_zeros_and_ones():
    completions = torch.randint(0, 4, (16, 9), generator=torch.Generator().manual_seed(0))
    mask = response_mask(completions, EOS)
    assert mask.shape == completions.shape
    assert set(mask.unique().tolist()) == {0, 1}
    assert (mask[:, 0] == 1).all()
    assert (mask.diff(dim=1) <= 0).all()  # once 0, always 0


# --- masked mean and whitening ---


def test_masked_mean_weighs_every_token_of_the_batch_alike():
    x, mask = tensor([[1.0, 2.0, 3.0], [8.0, 99.0, 99.0]]), tensor([[1, 1, 1], [1, 0, 0]])
    assert_close(masked_mean(x, mask), tensor(3.5))  # (1 + 2 + 3 + 8) / 4, not the mean of 2 and 8


def test_whitening_by_hand():
    # Mean of 1, 3, 5 is 3; variance (4 + 0 + 4) / (3 − 1) = 4; so −1, 0, 1.
    whitened = whiten(tensor([[1.0, 3.0], [5.0, 100.0]]), tensor([[1, 1], [1, 0]]))
    assert_close(whitened, tensor([[-1.0, 0.0], [1.0, 0.0]]))


def test_whitened_tokens_of_the_whole_batch_have_mean_0_and_variance_1():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 8, generator=generator) * 3 + 7
    mask = torch.arange(8) < torch.randint(1, 9, (6, 1), generator=generator)
    inside = whiten(x, mask)[mask]
    assert inside.mean().item() == pytest.approx(0, abs=1e-5)
    assert inside.var().item() == pytest.approx(1, abs=1e-4)  # torch's variance divides by n − 1


def test_whitening_is_of_the_batch_and_not_of_each_completion():
    whitened = whiten(tensor([[1.0, 1.0], [5.0, 5.0]]), torch.ones(2, 2))
    assert (whitened[0] < 0).all()
    assert (whitened[1] > 0).all()


def test_whitening_does_not_look_outside_the_mask():
    mask = tensor([[1, 1, 0], [1, 0, 0]])
    x = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    changed = x + 1000 * (1 - mask)
    assert_close(whiten(x, mask), whiten(changed, mask))
    assert whiten(changed, mask)[mask == 0].tolist() == [0, 0, 0]


def test_whitening_a_single_token_is_refused():
    with pytest.raises(ValueError, match="at least two completion tokens"):
        whiten(tensor([[3.0, 4.0]]), tensor([[1, 0]]))


def test_whitening_equal_values_gives_zeros():
    assert whiten(torch.full((2, 2), 3.0), torch.ones(2, 2)).abs().max() == 0


def test_a_small_deviation_is_not_blown_up_to_one():
    x, mask = tensor([[1.0, 3.0, 5.0]]), torch.ones(1, 3)  # deviation 2
    assert_close(whiten(x, mask, min_std=4.0), tensor([[-0.5, 0.0, 0.5]]))
    assert_close(whiten(x, mask, min_std=1.0), tensor([[-1.0, 0.0, 1.0]]))


# --- KL ---


def test_kl_estimates_by_hand():
    # p_policy = 1/2, p_reference = 1/4, so r = 1/2 and log r = −ln 2.
    k1, k2, k3 = kl_estimates(tensor(0.5).log(), tensor(0.25).log())
    assert_close(k1, tensor(math.log(2)))  # −log r = 0.6931
    assert_close(k2, tensor(math.log(2) ** 2 / 2))  # 0.2402
    assert_close(k3, tensor(math.log(2) - 0.5))  # (1/2 − 1) + 0.6931 = 0.1931


def test_kl_of_a_policy_to_itself_is_zero():
    logprobs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert all((k == 0).all() for k in kl_estimates(logprobs, logprobs))


def test_k1_has_the_sign_of_a_single_token_and_k3_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    logprobs, reference = -5 * torch.rand(2, 1000, generator=generator)
    k1, k2, k3 = kl_estimates(logprobs, reference)
    assert k1.min() < 0 < k1.max()
    assert k2.min() >= 0
    assert k3.min() >= 0


def test_k1_and_k3_are_unbiased_by_enumeration():
    # Every token once, weighted by the policy's probability: no sampling error is left.
    policy, reference = tensor([0.7, 0.2, 0.1]).double(), tensor([0.1, 0.2, 0.7]).double()
    kl = (policy * (policy / reference).log()).sum()
    k1, k2, k3 = kl_estimates(policy.log(), reference.log())
    assert_close((policy * k1).sum(), kl)
    assert_close((policy * k3).sum(), kl)
    assert (policy * k2).sum() > 1.2 * kl  # k2 is biased


# --- rewards of tokens ---


def test_the_score_is_added_at_the_last_completion_token():
    mask = tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    rewards = token_rewards(tensor([1.0, 2.0, 3.0]), torch.zeros(3, 3), mask, beta=0.1)
    assert rewards.tolist() == [[0, 0, 1], [0, 2, 0], [3, 0, 0]]


def test_every_completion_token_pays_for_its_kl_and_padding_pays_nothing():
    kl, mask = tensor([[0.5, -1.0, 9.0]]), tensor([[1, 1, 0]])
    rewards = token_rewards(tensor([2.0]), kl, mask, beta=0.1)
    assert_close(rewards, tensor([[-0.05, 2.1, 0.0]]))  # −0.1 · 0.5; −0.1 · −1 + 2; outside


# --- generalized advantage estimation ---


def test_gae_of_two_tokens_by_hand():
    # δ1 = 1 − 0.25 = 0.75; δ0 = 0 + 0.5 · 0.25 − 0.5 = −0.375;
    # A0 = −0.375 + 0.5 · 0.5 · 0.75 = −0.1875.
    advantages, returns = gae(
        tensor([[0.0, 1.0]]), tensor([[0.5, 0.25]]), torch.ones(1, 2), gamma=0.5, lam=0.5
    )
    assert_close(advantages, tensor([[-0.1875, 0.75]]))
    assert_close(returns, tensor([[0.3125, 1.0]]))  # advantages + values


def test_gae_of_three_tokens_by_hand():
    # γ = 0.9, λ = 0.8, γλ = 0.72.
    # δ2 = 2.0 − 0.5 = 1.5                          A2 = 1.5
    # δ1 = 0.1 + 0.9 · 0.5 − 0.4 = 0.15             A1 = 0.15 + 0.72 · 1.5 = 1.23
    # δ0 = −0.2 + 0.9 · 0.4 − 0.3 = −0.14           A0 = −0.14 + 0.72 · 1.23 = 0.7456
    rewards, values = tensor([[-0.2, 0.1, 2.0]]), tensor([[0.3, 0.4, 0.5]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), gamma=0.9, lam=0.8)
    assert_close(advantages, tensor([[0.7456, 1.23, 1.5]]))
    assert_close(returns, tensor([[1.0456, 1.63, 2.0]]))


def test_gae_stops_at_eos():
    # The same three tokens with two padded ones, whose rewards and values are nonsense.
    rewards, values = tensor([[-0.2, 0.1, 2.0, 7.0, -7.0]]), tensor([[0.3, 0.4, 0.5, 50.0, -50.0]])
    advantages, returns = gae(rewards, values, tensor([[1, 1, 1, 0, 0]]), gamma=0.9, lam=0.8)
    assert_close(advantages, tensor([[0.7456, 1.23, 1.5, 0.0, 0.0]]))
    assert_close(returns, tensor([[1.0456, 1.63, 2.0, 0.0, 0.0]]))


def test_gae_with_lambda_1_and_gamma_1_is_the_return_minus_the_value():
    rewards, values = tensor([[1.0, 2.0, 3.0]]), tensor([[0.5, -1.0, 2.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), gamma=1.0, lam=1.0)
    assert returns.tolist() == [[6.0, 5.0, 3.0]]
    assert advantages.tolist() == [[5.5, 6.0, 1.0]]


def test_gae_with_lambda_0_is_the_one_step_error():
    rewards, values = tensor([[1.0, 2.0, 3.0]]), tensor([[0.5, -1.0, 2.0]])
    advantages, _ = gae(rewards, values, torch.ones(1, 3), gamma=0.5, lam=0.0)
    assert advantages.tolist() == [[0.0, 4.0, 1.0]]  # 1 + 0.5 · −1 − 0.5; 2 + 0.5 · 2 + 1; 3 − 2


def gae_by_definition(rewards, values, length, gamma, lam):
    """A_t = Σ_k (γλ)^k δ_{t+k} (Schulman et al. 2016, eq. 16), in plain Python, of one response."""
    following = [*values[1:length], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(length)]
    return [
        sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, length)) for t in range(length)
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7)])
def test_gae_equals_its_definition_on_random_input(gamma, lam):
    rng = random.Random(0)
    lengths = [1, 2, 5, 7]
    rewards, values = [[[rng.gauss(0, 1) for _ in range(7)] for _ in lengths] for _ in range(2)]
    mask = tensor([[1] * n + [0] * (7 - n) for n in lengths])
    advantages, returns = gae(tensor(rewards).double(), tensor(values).double(), mask, gamma, lam)
    for row, n in enumerate(lengths):
        expected = gae_by_definition(rewards[row], values[row], n, gamma, lam)
        assert advantages[row, :n].tolist() == pytest.approx(expected, abs=1e-6)
        assert returns[row, :n].tolist() == pytest.approx(
            [expected[t] + values[row][t] for t in range(n)], abs=1e-6
        )
        assert advantages[row, n:].abs().sum() == returns[row, n:].abs().sum() == 0


def test_gae_leaves_its_arguments_as_they_were():
    rewards, values, mask = tensor([[1.0, 2.0]]), tensor([[3.0, 4.0]]), tensor([[1, 0]])
    gae(rewards, values, mask, gamma=0.9, lam=0.9)
    assert rewards.tolist() == [[1, 2]]
    assert values.tolist() == [[3, 4]]


# --- the policy's loss ---


def surrogate(ratio: float, advantage: float, epsilon: float = 0.2) -> tuple[float, float, float]:
    """Loss, clip fraction and gradient by the log-probability of a single token."""
    logprobs = tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    old = torch.zeros(1, 1, dtype=torch.float64)
    loss, clip_fraction = policy_loss(
        logprobs, old, torch.full_like(old, advantage), torch.ones(1, 1), epsilon
    )
    loss.backward()
    return loss.item(), clip_fraction.item(), logprobs.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, 0),  # −ρA
        (1.1, 2.0, -2.2, 0),  # inside the range
        (1.5, 2.0, -2.4, 1),  # good token, already much likelier: −1.2 · 2
        (0.5, 2.0, -1.0, 0),  # good token made rarer: the clip must not hide it, −0.5 · 2
        (0.5, -2.0, 1.6, 1),  # bad token, already much rarer: 0.8 · 2
        (1.5, -2.0, 3.0, 0),  # bad token made likelier: −1.5 · −2
    ],
)
def test_policy_loss_by_hand_and_gradient_is_zero_exactly_where_clipped(
    ratio, advantage, loss, clipped
):
    measured, clip_fraction, gradient = surrogate(ratio, advantage)
    assert measured == pytest.approx(loss)
    assert clip_fraction == clipped
    # Unclipped: d(−ρA)/d log p = −ρA.
    assert gradient == pytest.approx(0 if clipped else -ratio * advantage)


def test_gradient_of_the_first_update_is_that_of_plain_policy_gradient():
    logprobs = tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    advantages, mask = tensor([[1.0, -2.0], [0.5, 9.0]]), tensor([[1, 1], [1, 0]])
    policy_loss(logprobs, logprobs.detach(), advantages, mask, 0.2)[0].backward()
    assert_close(logprobs.grad, -advantages * mask / 3)  # three completion tokens


def test_policy_loss_is_a_mean_over_completion_tokens_and_ignores_padding():
    # Ratios 1.5 (clipped at 1.2) and 1.0, both with A = 1: −(1.2 + 1.0) / 2 = −1.1.
    logprobs = tensor([[math.log(1.5), 0.0, 5.0]], requires_grad=True)
    loss, clip_fraction = policy_loss(
        logprobs, torch.zeros(1, 3), torch.ones(1, 3), tensor([[1, 1, 0]]), 0.2
    )
    loss.backward()
    assert loss.item() == pytest.approx(-1.1)
    assert clip_fraction.item() == 0.5
    assert logprobs.grad[0, 2] == 0


def per_token(ratio: float, advantage: float, **bounds: float) -> tuple[float, bool, bool]:
    loss, low, high = clipped_surrogate(
        tensor([[math.log(ratio)]]), tensor([[advantage]]), **bounds
    )
    return loss.item(), low.item(), high.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "bounds", "loss", "low", "high"),
    [
        (1.5, 2.0, {"epsilon": 0.2, "epsilon_high": 0.4}, -2.8, False, True),  # −1.4 · 2
        (1.3, 2.0, {"epsilon": 0.2, "epsilon_high": 0.4}, -2.6, False, False),
        (0.7, -2.0, {"epsilon": 0.2, "epsilon_high": 0.4}, 1.6, True, False),  # 0.8 · 2
        (3.0, -2.0, {"epsilon": 0.2}, 6.0, False, False),  # without a bound
        (3.0, -2.0, {"epsilon": 0.2, "delta": 2.0}, 4.0, False, False),  # the bound: 2 · 2
        (3.0, 2.0, {"epsilon": 0.2, "delta": 2.0}, -2.4, False, True),  # 1.2 · 2 as before
    ],
)
def test_the_bounds_of_the_ratio_by_hand(ratio, advantage, bounds, loss, low, high):
    assert per_token(ratio, advantage, **bounds) == (pytest.approx(loss), low, high)


def test_the_ratio_of_a_sequence_is_the_product_of_its_tokens_or_their_geometric_mean():
    log_ratio, mask = tensor([[0.1, 0.3, 9.0], [0.5, 9.0, 9.0]]), tensor([[1, 1, 0], [1, 0, 0]])
    assert_close(sequence_log_ratio(log_ratio, mask, mean=False), tensor([[0.4], [0.5]]))
    assert_close(sequence_log_ratio(log_ratio, mask, mean=True), tensor([[0.2], [0.5]]))


# --- the value's loss ---


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),  # not moved: (1 − 3)² / 2
        (1.5, 1.0, 3.0, 1.62, 0.0),  # moved too far towards it: clipped at 1.2, (1.2 − 3)² / 2
        (0.5, 1.0, 3.0, 3.125, -2.5),  # moved away: the clip must not hide it, (0.5 − 3)² / 2
        (4.0, 1.0, 3.0, 1.62, 0.0),  # overshot: (1.2 − 3)² / 2 is worse than (4 − 3)² / 2
    ],
)
def test_value_loss_by_hand(value, old, target, loss, gradient):
    values = tensor([[value]], requires_grad=True)
    measured = value_loss(
        values, tensor([[old]]), tensor([[target]]), torch.ones(1, 1), epsilon=0.2
    )
    measured.backward()
    assert measured.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient)


def test_value_loss_is_a_mean_over_completion_tokens_and_ignores_padding():
    # (1² + 3²) / 2 / 2 = 2.5
    values, old = tensor([[1.0, 3.0, 50.0]]), tensor([[1.0, 3.0, 50.0]])
    assert value_loss(values, old, torch.zeros(1, 3), tensor([[1, 1, 0]]), 0.2).item() == 2.5


# --- explained variance ---


def test_explained_variance_is_1_for_perfect_values_and_0_for_a_constant():
    returns, mask = tensor([[1.0, 2.0, 3.0, 99.0]]), tensor([[1, 1, 1, 0]])
    assert explained_variance(returns, returns, mask).item() == pytest.approx(1)
    assert explained_variance(torch.full((1, 4), 2.0), returns, mask).item() == pytest.approx(
        0, abs=1e-6
    )
    assert explained_variance(torch.full((1, 4), -5.0), returns, mask).item() == pytest.approx(
        0, abs=1e-6
    )


def test_explained_variance_by_hand_and_only_inside_the_mask():
    # Returns 0, 4 (variance 4); errors −1, 1 (variance 1): 1 − 1/4.
    values, returns = tensor([[1.0, 3.0, 7.0]]), tensor([[0.0, 4.0, -7.0]])
    assert explained_variance(values, returns, tensor([[1, 1, 0]])).item() == pytest.approx(0.75)


def test_explained_variance_is_negative_when_values_mislead():
    values, returns = tensor([[3.0, 1.0]]), tensor([[1.0, 3.0]])
    assert explained_variance(values, returns, torch.ones(1, 2)).item() == pytest.approx(
        -3
    )  # 1 − 4/1


# --- what a token's distance from the end explains ---


def decayed(lengths: list[int], lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Advantages λ^(distance from the end), as gae gives them to a reward at the end; V = 0."""
    mask = (torch.arange(max(lengths)) < tensor(lengths).unsqueeze(1)).long()
    rewards = torch.zeros(mask.shape).scatter(1, tensor(lengths).unsqueeze(1) - 1, 1.0)
    return gae(rewards, torch.zeros(mask.shape), mask, 1.0, lam)[0], mask


def test_position_explains_advantages_that_decay_towards_the_start_and_nothing_else():
    assert position_share(*decayed([3, 5, 8])).item() == pytest.approx(1)


def test_position_explains_nothing_where_all_tokens_of_a_completion_have_one_advantage():
    advantages = tensor([[1.0], [-1.0], [3.0]]).expand(3, 4)
    assert position_share(advantages, torch.ones(3, 4)).item() == pytest.approx(0, abs=1e-6)


def test_position_share_by_hand():
    # Distances 1, 0 and 1, 0. Means 1 and 3 by distance around 2: 4 · 1² = 4. In all:
    # (0 − 2)² + (2 − 2)² + (2 − 2)² + (4 − 2)² = 8. The share is 4 / 8. Padding counts nowhere.
    advantages, mask = tensor([[0.0, 2.0, 9.0], [2.0, 4.0, -9.0]]), tensor([[1, 1, 0], [1, 1, 0]])
    assert position_share(advantages, mask).item() == pytest.approx(0.5)


def test_the_distance_is_counted_from_the_end_of_each_completion():
    # By distance from the end: 1, 2 and 2, so all is explained; from the start, 1 and 2 mix.
    advantages, mask = tensor([[1.0, 2.0], [2.0, 0.0]]), tensor([[1, 1], [1, 0]])
    assert position_share(advantages, mask).item() == pytest.approx(1)


# --- comparing the completions to one prompt ---


def test_rloo_by_hand():
    """Rewards 1, 2, 6 and 0, 0, 3: the others' means are 4, 3.5, 1.5 and 1.5, 1.5, 0."""
    rewards = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert_close(rloo_advantages(rewards, 3), torch.tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]))


def test_grpo_by_hand():
    """Rewards 1, 3: mean 2, deviation √2; a group that is all alike has no advantage."""
    expected = torch.tensor([-1.0, 1.0, 0.0, 0.0]) / 2**0.5
    assert_close(
        grpo_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2), expected, atol=1e-4, rtol=0
    )


def test_grpo_by_hand_with_the_deviation_of_the_batch_or_none():
    # Centered −1, 1, −3, 3. Of 1, 3, 2, 8 around 3.5: √((6.25 + 0.25 + 2.25 + 20.25) / 3).
    rewards, centered = tensor([1.0, 3.0, 2.0, 8.0]), tensor([-1.0, 1.0, -3.0, 3.0])
    assert_close(grpo_advantages(rewards, 2, "none"), centered)
    batch = grpo_advantages(rewards, 2, "batch")
    assert_close(batch, centered / (29 / 3) ** 0.5, atol=1e-4, rtol=0)


NOTHING = math.nan


def test_a_completion_without_a_reward_counts_nowhere():
    # Group 1, –, 3, 5: of three rewards. RLOO: 1 − 4, 0, 3 − 3, 5 − 2.
    rewards = tensor([1.0, NOTHING, 3.0, 5.0])
    assert rloo_advantages(rewards, 4).tolist() == [-3.0, 0.0, 0.0, 3.0]
    assert grpo_advantages(rewards, 4, "none").tolist() == [-2.0, 0.0, 0.0, 2.0]
    expected = tensor([-2.0, 0.0, 0.0, 2.0]) / 2.0  # deviation of 1, 3, 5
    for scale in ("group", "batch"):
        assert_close(grpo_advantages(rewards, 4, scale), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("group", [[NOTHING, NOTHING], [NOTHING, 2.0]])
def test_a_group_with_at_most_one_reward_has_no_advantage(group):
    rewards = tensor([*group, 1.0, 3.0])
    assert rloo_advantages(rewards, 2).tolist() == [0.0, 0.0, -2.0, 2.0]
    assert grpo_advantages(rewards, 2, "none").tolist() == [0.0, 0.0, -1.0, 1.0]
    assert grpo_advantages(rewards, 2)[:2].tolist() == [0.0, 0.0]


def test_deviation_without_nan_by_hand():
    x = tensor([[1.0, NOTHING, 3.0], [5.0, NOTHING, NOTHING]])
    assert_close(nanstd(x, dim=1), tensor([[2.0**0.5], [0.0]]))


@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_rloo_and_grpo_equal_a_plain_loop(group_size):
    rewards = torch.randn(24, generator=torch.Generator().manual_seed(0))
    rloo, grpo = [], []
    for i, reward in enumerate(rewards.tolist()):
        first = i - i % group_size
        group = rewards[first : first + group_size].tolist()
        others = group[: i - first] + group[i - first + 1 :]
        rloo.append(reward - sum(others) / len(others))
        grpo.append((reward - sum(group) / group_size) / (statistics.stdev(group) + 1e-4))
    assert_close(rloo_advantages(rewards, group_size), torch.tensor(rloo))
    assert_close(grpo_advantages(rewards, group_size), torch.tensor(grpo))


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
def test_groups_that_cannot_be_compared_are_refused(advantages):
    with pytest.raises(ValueError, match="at least two"):
        advantages(torch.ones(4), 1)
    with pytest.raises(ValueError, match="5 rewards cannot form groups of 2"):
        advantages(torch.ones(5), 2)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.1),
        (6.6, 0.1 * 1.001),
        (12.0, 0.1 * 1.002),
        (600.0, 0.1 * 1.002),
        (3.0, 0.1 * 0.998),
        (-1.0, 0.1 * 0.998),
    ],
)
def test_adaptive_kl_coefficient_by_hand(kl, expected):
    """Target 6 nats, 100 completions of a horizon of 10,000: by ±0.2 · 100 / 10,000 at most."""
    assert adapted_beta(0.1, kl, target=6.0, completions=100, horizon=10_000) == pytest.approx(
        expected
    )
