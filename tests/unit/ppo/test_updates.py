"""Updates: the loss of each type by hand, clipping, accumulation, early stop, and what trains."""

import copy
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from tiny_models import PAD
from tiny_ppo import (
    DATA,
    DECODER_ONLY,
    KINDS,
    PROMPTS,
    SCRIPT,
    Watch,
    by_topic,
    count_o,
    length_reward,
    logged,
    logprobs_of,
    policy,
    same,
    script,
    trained_adapter,
    weights,
)
from torch import Tensor
from torch.testing import assert_close
from transformers import TrainerCallback

from utils.ppo import PPOTrainer
from utils.ppo.checkpointing import TrainingError
from utils.ppo.policy import completion_logprobs

# --- the first ratio, and no dropout ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_is_one_at_the_first_update_on_a_sample(make, tiny_t5, kind):
    assert tiny_t5.config.dropout_rate == 0.1
    trainer = make(**policy(kind, tiny_t5), max_steps=4)
    trainer.train()
    first, second, third, fourth = logged(trainer, "ratio")
    assert [first, third] == pytest.approx([1.0] * 2, abs=1e-5)
    assert abs(second - 1) > 1e-4 and abs(fourth - 1) > 1e-4


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_there_is_no_dropout_in_sampling_or_learning(make, tiny_t5, gradient_checkpointing):
    lora = LoraConfig(r=4, target_modules=["q", "v"], lora_dropout=0.5)
    trainer = make(
        tiny_t5, peft_config=lora, gradient_checkpointing=gradient_checkpointing, max_steps=1
    )
    trainer.train()
    assert logged(trainer, "ratio") == pytest.approx([1.0], abs=1e-5)
    assert logged(trainer, "sampling/logp_difference")[0] < 1e-5


def test_gradient_checkpointing_saves_activations_at_every_update(make, tiny_t5):
    """It works in train mode only, in which sampling must not leave the model out."""
    modes = []
    trainer = make(gradient_checkpointing=True, num_iterations=2)
    tiny_t5.decoder.block[0].register_forward_hook(
        lambda module, *_: modes.append(module.training) if torch.is_grad_enabled() else None
    )
    trainer.train()
    assert modes and all(modes)


def test_with_dropout_left_on_the_first_ratio_is_not_one(make):
    trainer = make(disable_dropout=False)
    trainer.train()
    assert all(abs(ratio - 1) > 1e-4 for ratio in logged(trainer, "ratio"))
    assert logged(trainer, "sampling/logp_difference")[0] < 1e-5  # sampling has none in any case


# --- the loss ---


def surrogate(ratio: Tensor, advantages: Tensor) -> Tensor:
    """Eq. 7 of Schulman et al. 2017, with ε = 0.2."""
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def averaged(loss: Tensor, mask: Tensor, loss_type: str, sample_tokens: float) -> float:
    """The mean of a loss over one update's rows, by TRL's four definitions."""
    total = (loss * mask).sum()
    by_type = {
        "grpo": ((loss * mask).sum(dim=1) / mask.sum(dim=1)).mean(),
        "bnpo": total / mask.sum(),
        "dr_grpo": total / (len(mask) * 6),  # max_completion_length
        "dapo": total / sample_tokens,
    }
    return by_type[loss_type].item()


class LossesByHand:
    """Recomputes every batch's log-probabilities apart from the trainer, before it learns."""

    def __init__(self, trainer: PPOTrainer):
        self.trainer, self.original, self.seen = trainer, trainer.compute_loss, []
        trainer.compute_loss = self.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        prompts, ids = inputs["prompts"], inputs["ids"]
        with torch.no_grad():
            start = torch.zeros_like(ids[:, :1])
            decoder_ids = torch.cat([start, ids[:, :-1]], dim=1)
            output = model.eval()(
                **prompts, decoder_input_ids=decoder_ids, output_hidden_states=True
            )
            logprobs = torch.distributions.Categorical(logits=output["logits"]).log_prob(ids)
        loss = self.original(model, inputs, *args, **kwargs)
        values = output.get("state_values")
        self.seen.append((inputs, logprobs, values, loss.item()))
        return loss


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("estimator", ["gae", "grpo"])
def test_the_loss_of_every_update_by_hand(make, estimator, loss_type):
    """Four updates: two batches of two completions, twice; lengths 2, 1, 4 and 4."""
    trainer = make(
        reward=lambda completions, **kwargs: [3.0, 1.0, 0.0, 5.0],
        advantage_estimator=estimator,
        loss_type=loss_type,
        beta=0.5,
        vf_coef=0.7,
        use_bias_correction_kl=False,
        per_device_train_batch_size=2,
        steps_per_generation=2,
        max_steps=4,
        learning_rate=3e-2,
    )
    by_hand = LossesByHand(script(trainer))
    trainer.train()
    ratios = []
    for inputs, logprobs, values, loss in by_hand.seen:
        mask = inputs["mask"].float()
        log_ratio = (logprobs - inputs["old_logprobs"]) * mask
        terms = surrogate(log_ratio.exp(), inputs["advantages"])
        if estimator == "gae":
            old, target = inputs["values"], inputs["returns"]
            clipped = torch.maximum(torch.minimum(values, old + 0.2), old - 0.2)
            terms += 0.7 * 0.5 * torch.maximum((values - target) ** 2, (clipped - target) ** 2)
        else:
            difference = inputs["reference_logprobs"] - logprobs
            terms += 0.5 * (difference.exp() - 1 - difference)
        # dapo: half of the sample is learned from at each update.
        assert loss == pytest.approx(averaged(terms, mask, loss_type, 11 / 2), rel=1e-3, abs=1e-5)
        ratios.append(((log_ratio.exp() * mask).sum() / mask.sum()).item())
    assert logged(trainer, "ratio") == pytest.approx(ratios, rel=1e-4)
    assert len(ratios) == 4 and max(abs(ratio - 1) for ratio in ratios) > 0.05
    assert logged(trainer, "loss") == pytest.approx([s[3] for s in by_hand.seen], abs=1e-4)
    parts = {"gae": "loss/value", "grpo": "loss/kl"}
    for i, total in enumerate(s[3] for s in by_hand.seen):
        part = logged(trainer, "loss/policy")[i] + logged(trainer, parts[estimator])[i]
        assert total == pytest.approx(part, abs=1e-5)


def test_a_step_that_reaches_into_the_next_sample_weighs_its_batches_alike(make):
    """Samples of three batches of one completion each, of which a step takes two."""
    trainer = make(
        reward=by_topic(3.0, 1.0, 0.0, 5.0),
        rows=DATA.select([0, 1, 2, 3] * 2),
        vf_coef=0.0,
        per_device_train_batch_size=1,
        steps_per_generation=3,
        gradient_accumulation_steps=2,
        num_iterations=1,
        max_steps=3,
    )
    by_hand = LossesByHand(script(trainer))
    trainer.train()
    assert len(by_hand.seen) == 6
    for inputs, logprobs, _, loss in by_hand.seen:
        ratio = ((logprobs - inputs["old_logprobs"]) * inputs["mask"]).exp()
        terms = surrogate(ratio, inputs["advantages"])
        assert loss == pytest.approx(averaged(terms, inputs["mask"], "bnpo", 11) / 2, abs=1e-5)


@pytest.mark.parametrize("learning_rate", [1e-4, 2e-2], ids=["no ratio clipped", "some clipped"])
@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_the_ratio_of_whole_completions_by_hand(make, estimator, learning_rate):
    """RLOO's is the product of its tokens' ratios, GRPO's (GSPO) their geometric mean."""
    trainer = make(
        reward=lambda completions, **kwargs: [3.0, 1.0, 0.0, 5.0],
        advantage_estimator=estimator,
        importance_sampling_level="sequence",
        loss_type="grpo",
        beta=0.0,
        learning_rate=learning_rate,
    )
    by_hand = LossesByHand(script(trainer))
    trainer.train()
    inputs, logprobs, _, loss = by_hand.seen[1]
    mask, advantages = inputs["mask"].float(), inputs["advantages"][:, 0]
    product = ((logprobs - inputs["old_logprobs"]) * mask).sum(dim=1)
    by_estimator = {"rloo": product, "grpo": product / mask.sum(dim=1)}
    losses = {n: surrogate(r.exp(), advantages).mean().item() for n, r in by_estimator.items()}
    assert loss == pytest.approx(losses[estimator], rel=1e-3)
    clipped = (by_estimator[estimator].exp() > 1.2) & (advantages > 0)
    share = clipped.float().mean().item()
    assert logged(trainer, "clip_ratio/high_mean")[1] == pytest.approx(share)
    if learning_rate == 1e-4:
        assert share == 0 and abs(losses["rloo"] - losses["grpo"]) > 0.005
    else:
        assert share > 0


def test_grpos_price_of_kl_is_weighted_by_the_ratio_as_in_trl(make, tiny_t5):
    parts = {}
    for corrected in (True, False):
        trainer = make(
            copy.deepcopy(tiny_t5),
            reward=lambda completions, **kwargs: [3.0, 1.0, 0.0, 5.0],
            advantage_estimator="grpo",
            use_bias_correction_kl=corrected,
            beta=0.5,
        )
        by_hand = LossesByHand(script(trainer))
        trainer.train()
        inputs, logprobs, _, _ = by_hand.seen[1]
        difference = inputs["reference_logprobs"] - logprobs
        k3 = difference.exp() - 1 - difference
        ratio = (logprobs - inputs["old_logprobs"]).exp() if corrected else 1.0
        parts[corrected] = 0.5 * averaged(k3 * ratio, inputs["mask"], "bnpo", 11)
        assert logged(trainer, "loss/kl")[1] == pytest.approx(parts[corrected], rel=1e-3)
    assert parts[True] != pytest.approx(parts[False], rel=1e-2)


def test_the_ratio_that_weights_grpos_price_of_kl_has_a_gradient_as_in_trl(make):
    trainer = make(
        reward=lambda completions, **kwargs: [3.0, 1.0, 0.0, 5.0],
        advantage_estimator="grpo",
        loss_type="bnpo",
        beta=0.5,
        learning_rate=3e-2,
    )
    script(trainer).train()
    drawn, mask = trainer.sample, trainer.sample["mask"]
    inputs = drawn | {"normalizer": 11.0, "advantages": torch.zeros_like(drawn["advantages"])}
    weight = trainer.policy.shared.weight
    (gradient,) = torch.autograd.grad(trainer.compute_loss(trainer.policy, inputs), weight)
    logprobs = completion_logprobs(trainer.policy, drawn["prompts"], drawn["ids"], PAD)[0]
    difference = drawn["reference_logprobs"] - logprobs
    ratio = (logprobs - drawn["old_logprobs"]).exp()
    loss = 0.5 * ((difference.exp() - 1 - difference) * ratio * mask).sum() / 11
    (expected,) = torch.autograd.grad(loss, weight)
    assert_close(gradient, expected, atol=1e-5, rtol=1e-3)


def test_the_bounds_of_ratio_and_value_are_the_configs(make):
    """So narrow that every ratio and value that has moved is clipped."""
    options = {"epsilon": 1e-6, "epsilon_high": 1e-6, "epsilon_value": 1e-6, "vf_coef": 1.0}
    trainer = make(reward=length_reward, min_advantage_std=0.0, **options)
    trainer.train()
    low, high = logged(trainer, "clip_ratio/low_mean"), logged(trainer, "clip_ratio/high_mean")
    assert low[0] == high[0] == 0
    assert low[1] + high[1] == pytest.approx(logged(trainer, "clip_ratio/region_mean")[1])
    assert logged(trainer, "clip_ratio/region_mean")[1] > 0.5
    first, second = logged(trainer, "loss/value")
    assert second >= first * 0.9999  # the old values' error still counts


@pytest.mark.parametrize("sign", [1, -1])
def test_ratio_and_value_have_bounds_of_their_own_by_hand(make, sign):
    bounds = {"epsilon": 0.01, "epsilon_high": 0.05, "delta": 1.1, "epsilon_value": 0.02}
    trainer = make(reward=by_topic(3.0, 1.0, 0.0, 5.0), learning_rate=3e-2, vf_coef=0.7, **bounds)
    script(trainer).train()
    drawn, mask, returns = trainer.sample, trainer.sample["mask"].bool(), trainer.sample["returns"]
    inputs = drawn | {"normalizer": 11.0, "advantages": sign * drawn["advantages"]}
    loss = trainer.compute_loss(trainer.policy, inputs)
    logprobs, values, _ = completion_logprobs(
        trainer.policy, drawn["prompts"], drawn["ids"], PAD, values=True
    )
    ratio, advantages = (logprobs - drawn["old_logprobs"]).exp(), inputs["advantages"]
    for moved in (ratio < 0.99, ratio > 1.05, ratio > 1.1):
        assert (moved & mask).any()
    clipped = ratio.clamp(0.99, 1.05) * advantages
    policy = -torch.minimum(ratio.clamp(max=1.1) * advantages, clipped)
    near = drawn["values"] + (values - drawn["values"]).clamp(-0.02, 0.02)
    value = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    assert_close(loss, (policy + 0.7 * value)[mask].sum() / 11, atol=1e-5, rtol=1e-4)


def test_an_update_logs_the_clipped_share_of_the_tokens_of_all_its_batches(make):
    """Two batches whose completions have 11 tokens in all, but never as many in each."""
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer = make(reward=by_topic(3.0, 1.0, 0.0, 5.0), learning_rate=3e-2, epsilon=0.2, **halves)
    by_hand = LossesByHand(script(trainer))
    trainer.train()
    clipped = 0
    for inputs, logprobs, _, _ in by_hand.seen[2:]:
        ratio, advantages = (logprobs - inputs["old_logprobs"]).exp(), inputs["advantages"]
        outside = ((ratio < 0.8) & (advantages < 0)) | ((ratio > 1.2) & (advantages > 0))
        clipped += (outside * inputs["mask"]).sum().item()
    assert 0 < clipped < 11
    assert logged(trainer, "clip_ratio/region_mean")[1] == pytest.approx(clipped / 11)


def test_what_was_sampled_is_fixed_during_the_updates(make):
    trainer = make(num_iterations=3, max_steps=3)
    seen, original = [], trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        order = inputs["ids"].sum(dim=1).argsort()
        names = ("ids", "old_logprobs", "values", "returns", "advantages", "reference_logprobs")
        seen.append({name: inputs[name][order].clone() for name in names})
        assert not any(inputs[name].requires_grad for name in names)
        return original(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    assert len(seen) == 3
    assert same(seen[0], seen[1]) and same(seen[0], seen[2])


def test_a_sample_of_one_token_has_no_variance_and_no_advantage(make):
    trainer = make(per_device_train_batch_size=1, max_completion_length=1)
    trainer.train()
    assert trainer.sample["advantages"].tolist() == [[0.0]]
    assert all(p.isfinite().all() for p in trainer.model.parameters())


# --- gradients ---


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("estimator", ["gae", "grpo"])
def test_gradient_accumulation_gives_the_gradient_of_one_batch(make, tiny_t5, estimator, loss_type):
    gradients = []
    for batch, parts in ((4, 1), (1, 4)):
        watch = Watch()
        trainer = make(
            copy.deepcopy(tiny_t5),
            reward=lambda completions, **kwargs: [3.0, 1.0, 0.0, 5.0],
            callbacks=[watch],
            advantage_estimator=estimator,
            loss_type=loss_type,
            beta=0.5,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts,
            max_grad_norm=0.0,
            max_steps=1,
        )
        script(trainer).train()
        gradients.append(watch.gradients[0])
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            assert_close(other[name], gradient, atol=1e-5, rtol=1e-3)


def test_gradients_are_clipped_at_every_step(make):
    # The rate is low, so that no ratio is clipped and every gradient is larger than its limit.
    watch = Watch()
    make(callbacks=[watch], max_steps=4, max_grad_norm=1e-3, learning_rate=1e-5).train()
    assert watch.norms == pytest.approx([1e-3] * 4, rel=1e-2)


def test_a_max_grad_norm_of_0_clips_no_gradient(make, tiny_t5):
    norms = []
    for limit in (0.0, 1e9):
        watch = Watch()
        make(
            copy.deepcopy(tiny_t5), callbacks=[watch], max_grad_norm=limit, learning_rate=0.0
        ).train()
        norms.append(watch.norms)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and min(norms[0]) > 0


def test_gradients_do_not_pile_up_from_one_update_to_the_next(make):
    watch = Watch()
    trainer = make(
        callbacks=[watch], num_iterations=3, max_steps=3, learning_rate=0.0, value_learning_rate=0.0
    )
    trainer.train()
    assert watch.norms[0] > 0
    assert watch.norms == pytest.approx([watch.norms[0]] * 3, rel=1e-3)  # the same rows, weights


@pytest.mark.parametrize("update", [0, 1], ids=["in the middle of a step", "at its end"])
def test_an_infinite_gradient_is_not_applied(make, update):
    trainer = make(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    backward = iter(range(100))
    trainer.policy.shared.weight.register_hook(
        lambda gradient: gradient * math.inf if next(backward) == update else gradient
    )
    with pytest.raises(TrainingError, match=r"gradient is (inf|nan) at step 1\b"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.policy.parameters())


# --- the early stop ---


def test_max_kl_stops_before_the_optimizers_step_and_skips_the_rest_of_the_sample(make, tiny_t5):
    options = {"learning_rate": 3e-2, "lr_scheduler_type": "constant"}
    stopped = make(
        copy.deepcopy(tiny_t5),
        num_iterations=4,
        max_steps=4,
        max_kl=1e-4,
        **options,
    )
    by_hand = LossesByHand(stopped)
    stopped.train()
    # The first update has no drift yet; the second finds it, and is not taken.
    assert logged(stopped, "skipped_updates") == [0, 1, 1, 1]
    assert len(by_hand.seen) == 2  # the third and the fourth compute nothing
    single = make(copy.deepcopy(tiny_t5), num_iterations=1, max_steps=1, **options)
    single.train()
    assert same(weights(stopped.model), weights(single.model))


def test_max_kl_is_compared_with_k3_per_token_to_the_sampler(make, tiny_t5, tokenizer):
    """The drift after one update, computed apart from the trainer, is where the bound lies."""
    options = {"shuffle_dataset": False, "learning_rate": 3e-2, "lr_scheduler_type": "constant"}
    once = script(make(copy.deepcopy(tiny_t5), num_iterations=1, max_steps=1, **options))
    once.train()
    log_ratio = logprobs_of(once.policy, tokenizer) - logprobs_of(tiny_t5, tokenizer)
    mask = once.sample["mask"]
    drift = ((log_ratio.exp() - 1 - log_ratio) * mask).sum().item() / mask.sum().item()

    def skipped(factor: float) -> list[float]:
        trainer = make(copy.deepcopy(tiny_t5), max_kl=drift * factor, **options)
        script(trainer).train()
        return logged(trainer, "skipped_updates")

    assert skipped(1.05) == [0, 0]
    assert skipped(0.95) == [0, 1]


@pytest.mark.parametrize("parts", [{}, {"per_device_train_batch_size": 2}])
def test_an_early_stop_ends_with_its_sample(make, parts):
    accumulation = {"gradient_accumulation_steps": 2} if parts else {}
    calls = []

    def reward(completions, **kwargs):
        calls.append(len(completions))
        return length_reward(completions)

    trainer = make(
        reward=reward,
        num_iterations=3,
        max_steps=9,
        learning_rate=3e-2,
        max_kl=1e-4,
        **parts,
        **accumulation,
    )
    trainer.train()
    assert logged(trainer, "skipped_updates") == [0, 1, 1] * 3
    assert calls == [4, 4, 4]
    assert logged(trainer, "ratio")[0] == pytest.approx(1.0, abs=1e-5)


def test_a_generous_max_kl_skips_nothing(make):
    watch = Watch()
    trainer = make(callbacks=[watch], num_iterations=4, max_steps=4, max_kl=100.0)
    trainer.train()
    assert logged(trainer, "skipped_updates") == [0] * 4
    assert len(watch.gradients) == 4


# --- the price of KL ---


def test_a_fixed_price_of_kl_stays(make):
    trainer = make(max_steps=6, beta=0.07, learning_rate=3e-2)
    trainer.train()
    assert logged(trainer, "beta") == pytest.approx([0.07] * 3)


@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo"])
def test_an_adaptive_price_follows_the_kl_and_what_is_logged_is_what_is_charged(make, estimator):
    charged = []

    class Charged(TrainerCallback):
        """Solves each sample's advantages or loss for the price of KL."""

        def on_log(self, args, state, control, logs, **kwargs):
            drawn = trainer.sample
            if "beta" not in logs:
                return
            mask = drawn["mask"]
            log_ratio = (drawn["reference_logprobs"] - drawn["old_logprobs"]) * mask
            k1, k3 = -log_ratio.sum(dim=1), (log_ratio.exp() - 1 - log_ratio).sum() / mask.sum()
            if not charged:  # the first KL is 0
                charged.append(0.1)
            elif estimator == "gae":  # the return of the first token is score − price · k1
                charged.append((2.0 - drawn["returns"][0, 0]).item() / k1[0].item())
            elif estimator == "rloo":
                gap = k1[1] - k1[0]
                charged.append((drawn["advantages"][0, 0] / gap).item())
            else:
                charged.append(logs["loss/kl"] / k3.item())

    trainer = make(
        reward=lambda completions, **kwargs: [2.0, 2.0, 2.0, 4.0],
        callbacks=[Charged()],
        advantage_estimator=estimator,
        loss_type="bnpo",
        beta=0.1,
        kl_target=1.0,  # between a KL per token and a KL per sequence
        kl_horizon=4,
        max_steps=8,
        learning_rate=3e-2,
        lr_scheduler_type="constant",
    )
    script(trainer).train()
    prices, kls = logged(trainer, "beta"), logged(trainer, "kl/k1_per_sequence")
    assert prices[:2] == pytest.approx([0.1, 0.08])  # the first KL is 0, far below the target
    for before, after, kl in zip(prices, prices[1:], kls, strict=False):
        assert after == pytest.approx(before * (1 + min(max(kl / 1.0 - 1, -0.2), 0.2)), rel=1e-3)
    assert charged[1:] == pytest.approx(prices[1:], rel=1e-2)


# --- what trains ---


@pytest.mark.parametrize("estimator", ["gae", "rloo"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizer_holds_exactly_what_trains_and_only_that_changes(
    make, tiny_t5, kind, estimator
):
    trainer = make(
        **policy(kind, tiny_t5),
        reward=lambda completions, **kwargs: [3.0, 1.0, 0.0, 5.0],
        advantage_estimator=estimator,
    )
    before = weights(trainer.model)
    trainer.train()
    held = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    wanted = {
        name: id(p)
        for name, p in trainer.model.named_parameters()
        if name.startswith("value_head.")
        or kind == "all parameters"
        or (".lora_" in name and ".ref." not in name)
    }
    assert sorted(held) == sorted(wanted.values())
    assert any(name.startswith("value_head.") for name in wanted) == (estimator == "gae")
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    assert changed and changed - tied <= set(wanted)
    if kind == "frozen encoder":  # q and v of two layers, self and cross: 8 of rank 4
        adapter = {n: trainer.model.get_parameter(n) for n in wanted if ".lora_" in n}
        assert sum(p.numel() for p in adapter.values()) == 8 * 4 * 64
        assert not any(".encoder." in name for name in adapter)


def test_an_adapter_leaves_the_base_weights_as_they_were(make, tiny_t5):
    for found in (copy.deepcopy(tiny_t5), trained_adapter(copy.deepcopy(tiny_t5))):
        lora = None if isinstance(found, PeftModel) else LoraConfig(**DECODER_ONLY)
        trainer = make(found, peft_config=lora)
        trainer.train()
        del trainer.policy.value_head
        assert same(weights(trainer.policy.unload()), weights(tiny_t5))


def test_a_model_can_be_trained_again_by_another_trainer(make, tiny_t5):
    first = make(value_trunk="own")
    first.train()
    second = make(first.model)
    second.train()
    assert second.value_head is not first.value_head
    third = make(second.model, advantage_estimator="rloo")
    third.train()
    assert not any(name.startswith("value_head") for name, _ in third.model.named_parameters())


def test_rloo_and_grpo_have_no_value_head(make):
    for estimator in ("rloo", "grpo"):
        trainer = make(advantage_estimator=estimator)
        trainer.train()
        assert trainer.value_head is None
        assert not logged(trainer, "loss/value") and not logged(trainer, "explained_variance")


# --- learning ---


@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo"])
def test_reward_rises_on_a_toy_task(make, estimator):
    trainer = make(
        reward=count_o,
        rows=Dataset.from_dict({"prompt": PROMPTS * 4}),
        advantage_estimator=estimator,
        num_generations=1 if estimator == "gae" else 4,
        per_device_train_batch_size=16,
        max_steps=30,
        beta=0.0,
        learning_rate=2e-2,
    )
    trainer.train()
    rewards = logged(trainer, "reward")
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 1


def test_a_fixed_seed_gives_the_same_weights_twice_and_another_seed_others(make, tiny_t5):
    trained = []
    for run, seed in enumerate((7, 7, 8)):
        torch.manual_seed(100 + run)  # what ran before must not matter
        trainer = make(**policy("fresh adapter", copy.deepcopy(tiny_t5)), seed=seed)
        trainer.train()
        trained.append(weights(trainer.model))
    assert same(trained[0], trained[1]) and not same(trained[0], trained[2])


def test_the_order_of_the_prompts_follows_the_seed(make):
    orders = []

    def reward(prompts, completions, **kwargs):
        orders.append(prompts)
        return [0.0] * len(completions)

    for seed in (1, 1, 2):
        make(reward=reward, rows=DATA.select([0, 1, 2, 3] * 2), seed=seed, max_steps=1).train()
    assert orders[0] == orders[1] != orders[2]


def test_each_pass_over_a_sample_has_an_order_of_its_own_and_takes_every_completion(make):
    trainer = make(
        advantage_estimator="gae",
        per_device_train_batch_size=1,
        steps_per_generation=4,
        num_iterations=3,
        max_steps=12,
    )
    seen, original = [], trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        assert len(inputs["ids"]) == 1
        seen.append(tuple(inputs["ids"][0].tolist()))
        return original(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    script(trainer).train()
    passes = [seen[i : i + 4] for i in (0, 4, 8)]
    assert all(sorted(p) == sorted(map(tuple, SCRIPT.tolist())) for p in passes)
    assert len({tuple(p) for p in passes}) > 1
