"""What is logged: TRL's keys, both KL estimates, and the difference of sampler and policy."""

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tiny_models import PAD
from tiny_ppo import (
    DATA,
    DECODER_ONLY,
    KINDS,
    SCRIPT,
    by_topic,
    encoded,
    logged,
    policy,
    script,
)
from torch import nn
from torch.testing import assert_close
from transformers import TrainerCallback

from utils.models import has_bf16
from utils.ppo.policy import completion_logprobs, encode
from utils.ppo.precision import float32_head

needs_bf16 = pytest.mark.skipif(
    not has_bf16(torch.device("cpu")), reason="this processor has no bf16"
)
KEYS = {"loss", "grad_norm", "learning_rate", "entropy", "ratio", "loss/policy", "epoch"}
KEYS |= {f"clip_ratio/{name}_mean" for name in ("low", "high", "region")}
OF_SAMPLES = {"reward", "reward_std", "kl", "beta", "reward/after_kl", "sampling/logp_difference"}
OF_SAMPLES |= {"rewards/length_reward/mean", "rewards/length_reward/std"}
OF_SAMPLES |= {
    f"completions/{s}_{t}length" for s in ("mean", "min", "max") for t in ("", "terminated_")
}
OF_SAMPLES |= {f"kl/{k}_per_{unit}" for k in ("k1", "k3") for unit in ("sequence", "token")}
OF_SAMPLES |= {"completions/clipped_ratio"}
OWN = {
    "gae": {"loss/value", "explained_variance", "advantages/position_share"},
    "rloo": {"frac_reward_zero_std"},
    "grpo": {"frac_reward_zero_std", "loss/kl"},
}


@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo"])
def test_an_update_and_a_sample_are_logged_under_these_names_and_no_others(make, estimator):
    trainer = make(advantage_estimator=estimator, beta=0.1)
    trainer.train()
    first, second, end = trainer.state.log_history
    updates = {name for name in OWN[estimator] if name.startswith("loss/")}
    assert set(first) == KEYS | OF_SAMPLES | OWN[estimator] | {"step"}
    assert set(second) == KEYS | updates | {"step"}
    assert "train_loss" in end


def test_k1_and_k3_are_summed_by_completion_and_averaged_by_token(make):
    trainer = make(max_steps=4, learning_rate=3e-2)
    script(trainer).train()
    drawn, mask = trainer.sample, trainer.sample["mask"]
    log_ratio = drawn["old_logprobs"] - drawn["reference_logprobs"]
    estimates = {"k1": log_ratio, "k3": torch.exp(-log_ratio) - 1 + log_ratio}
    for name, estimate in estimates.items():
        total = (estimate * mask).sum().item()
        assert logged(trainer, f"kl/{name}_per_sequence")[1] == pytest.approx(total / 4, rel=1e-4)
        assert logged(trainer, f"kl/{name}_per_token")[1] == pytest.approx(total / 11, rel=1e-4)
    assert logged(trainer, "kl/k3_per_token")[1] > 0
    assert logged(trainer, "kl")[1] == logged(trainer, "kl/k1_per_token")[1]  # the one it pays


def test_grpos_kl_is_k3_which_it_pays(make):
    trainer = make(advantage_estimator="grpo", beta=0.1, max_steps=4)
    trainer.train()
    assert logged(trainer, "kl") == logged(trainer, "kl/k3_per_token")


def test_lengths_and_the_share_of_completions_without_an_end_by_hand(make):
    trainer = script(make(max_steps=1))  # lengths 2, 1, 4 and 4; the third never ends
    trainer.train()
    expected = {
        "completions/mean_length": 11 / 4,
        "completions/min_length": 1,
        "completions/max_length": 4,
        "completions/mean_terminated_length": 7 / 3,
        "completions/min_terminated_length": 1,
        "completions/max_terminated_length": 4,
        "completions/clipped_ratio": 1 / 4,
    }
    for name, value in expected.items():
        assert logged(trainer, name) == pytest.approx([value]), name


def test_where_no_completion_ends_terminated_lengths_are_zero(make):
    trainer = script(make(max_steps=1), torch.full((4, 3), 5))
    trainer.train()
    assert logged(trainer, "completions/clipped_ratio") == [1.0]
    assert logged(trainer, "completions/max_terminated_length") == [0.0]


def test_a_log_of_several_steps_holds_their_means(make):
    rewards = iter([1.0, 2.0, 6.0, 11.0])

    def reward(completions, **kwargs):
        return [next(rewards)] * len(completions)

    trainer = make(reward=reward, num_iterations=1, max_steps=4, logging_steps=2)
    trainer.train()
    assert logged(trainer, "reward") == [1.5, 8.5]


def test_a_step_without_any_reward_is_left_out_of_a_logs_mean(make):
    rewards = iter([None, 5.0])

    def reward(completions, **kwargs):
        return [next(rewards)] * len(completions)

    trainer = make(reward=reward, num_iterations=1, max_steps=2, logging_steps=2)
    trainer.train()
    assert logged(trainer, "reward") == [5.0]


def test_the_gradients_norm_is_logged_as_it_was_before_clipping(make):
    trainer = make(max_grad_norm=1e-3, max_steps=1)
    trainer.train()
    assert logged(trainer, "grad_norm")[0] > 0.01


@pytest.mark.parametrize("parts", [1, 2])
def test_entropy_and_ratio_are_means_over_the_tokens_of_an_update(make, parts):
    halves = {"per_device_train_batch_size": 4 // parts, "gradient_accumulation_steps": parts}
    trainer = make(learning_rate=0.0, value_learning_rate=0.0, **halves)
    script(trainer).train()
    drawn, mask = trainer.sample, trainer.sample["mask"]
    _, _, entropy = completion_logprobs(
        trainer.policy, drawn["prompts"], drawn["ids"], PAD, entropy=True
    )
    expected = ((entropy * mask).sum() / 11).item()
    assert logged(trainer, "entropy") == pytest.approx([expected] * 2, rel=1e-4)
    assert logged(trainer, "ratio") == pytest.approx([1.0] * 2, abs=1e-5)


def test_an_evaluation_has_metrics_of_its_own(make):
    trainer = make(eval_rows=DATA.select(range(2)), eval_strategy="steps", eval_steps=2)
    trainer.train()
    names = {n for entry in trainer.state.log_history for n in entry if n.startswith("eval_")}
    assert {"eval_reward", "eval_loss", "eval_kl", "eval_completions/mean_length"} <= names
    assert "eval_beta" not in names  # nothing is adapted in evaluation
    assert len(logged(trainer, "reward")) == 1
    assert trainer.completions["step"].tolist() == [1, 1]  # of training alone


def test_an_evaluations_loss_is_of_plain_advantages(make):
    """Whitened ones would be those of each batch. Here the first KL and values are 0."""
    trainer = make(reward=by_topic(1.0, 2.0, 3.0, 6.0), eval_rows=DATA)
    metrics = script(trainer).evaluate()
    # Lengths 2, 1, 4 and 4: minus the mean score over 11 tokens.
    assert metrics["eval_loss/policy"] == pytest.approx(-(2 * 1 + 1 * 2 + 4 * 3 + 4 * 6) / 11)


# --- precision ---


@pytest.mark.parametrize("kind", KINDS)
def test_sampler_and_forward_pass_differ_by_rounding_alone(make, tiny_t5, kind):
    trainer = make(**policy(kind, tiny_t5), max_steps=4)
    trainer.train()
    assert max(logged(trainer, "sampling/logp_difference")) < 1e-5


@needs_bf16
@pytest.mark.parametrize("kind", KINDS)
def test_under_bf16_the_difference_is_small_and_the_first_ratio_and_kl_stay_exact(
    make, tiny_t5, kind
):
    trainer = make(**policy(kind, tiny_t5), bf16=True, max_steps=4)
    trainer.train()
    assert max(logged(trainer, "sampling/logp_difference")) < 0.02
    assert logged(trainer, "ratio")[0] == pytest.approx(1.0, abs=1e-2)
    assert logged(trainer, "kl/k1_per_sequence")[0] == pytest.approx(0.0, abs=1e-3)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@needs_bf16
@torch.no_grad()
def test_the_head_computes_in_float32_under_bf16_autocast(tiny_t5, tokenizer):
    tiny_t5.lm_head.weight.data *= 20  # logits that bf16 would round by much
    prompts = encode(tiny_t5, **encoded(tokenizer))
    exact = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)[0]
        with float32_head(tiny_t5):
            ours = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)[0]
    assert (ours - exact).abs().mean() < (rounded - exact).abs().mean()
    weight = tiny_t5.lm_head.weight
    hidden = torch.randn(3, weight.shape[1])
    with float32_head(tiny_t5), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = tiny_t5.lm_head(hidden)
    assert_close(logits, hidden @ weight.T)
    assert "forward" not in vars(tiny_t5.lm_head)  # itself again


@needs_bf16
def test_updates_compute_the_head_in_float32_under_bf16(make, tiny_t5):
    seen = set()
    tiny_t5.lm_head.register_forward_hook(
        lambda head, _, logits: seen.add(logits.dtype) if torch.is_grad_enabled() else None
    )
    make(bf16=True, max_steps=1).train()
    assert seen == {torch.float32}


def test_the_heads_bias_counts_in_float32_too(tiny_t5):
    tiny_t5.lm_head.bias = nn.Parameter(torch.arange(float(tiny_t5.config.vocab_size)))
    hidden = torch.randn(3, tiny_t5.lm_head.in_features)
    expected = tiny_t5.lm_head(hidden)
    with float32_head(tiny_t5):
        assert_close(tiny_t5.lm_head(hidden), expected)


@needs_bf16
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_are_bf16_while_it_trains_under_bf16_and_float32_again_after(
    make, tiny_t5, kind
):
    seen = {}

    class Types(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            for name, p in model.named_parameters():
                seen[name] = (p.requires_grad, p.dtype, p.dim())

    trainer = make(**policy(kind, tiny_t5), callbacks=[Types()], bf16=True, max_steps=1)
    trainer.train()
    frozen = {t for n, (learns, t, _) in seen.items() if not learns and n.endswith(".o.weight")}
    assert frozen == (set() if kind == "all parameters" else {torch.bfloat16})
    assert {t for learns, t, dim in seen.values() if learns or dim == 1} == {torch.float32}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@needs_bf16
def test_a_policy_merged_in_the_middle_of_a_bf16_run_is_float32_throughout(make, tiny_t5, tmp_path):
    class MergeNow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer.save_merged(tmp_path / "merged")

    trainer = make(
        tiny_t5, peft_config=LoraConfig(**DECODER_ONLY), callbacks=[MergeNow()], bf16=True
    )
    trainer.train()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    name = "decoder.block.0.layer.0.SelfAttention.q"
    layer = trainer.policy.get_submodule(f"base_model.model.{name}")
    expected = layer.weight + layer.get_delta_weight("default")
    assert_close(merged[f"{name}.weight"], expected, atol=1e-6, rtol=0)
