"""The value head: what it reads, what it learns, and that it does not train the policy."""

import copy

import pytest
import torch
from datasets import Dataset
from tiny_models import PAD
from tiny_ppo import (
    KINDS,
    PROMPTS,
    SCRIPT,
    TOPICS,
    Watch,
    by_topic,
    encoded,
    logged,
    policy,
    script,
)
from torch import nn
from torch.testing import assert_close
from transformers import TrainerCallback

from utils.ppo.policy import add_value_head, completion_logprobs, encode


@torch.no_grad()
def values_of(model, tokenizer, completions=SCRIPT) -> torch.Tensor:
    prompts = encode(model, **encoded(tokenizer))
    return completion_logprobs(model, prompts, completions, PAD, values=True)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_zero_at_first_and_float32(make, tiny_t5, tokenizer, kind):
    trainer = make(**policy(kind, tiny_t5), max_steps=1)
    values = values_of(trainer.policy, tokenizer)
    assert values.shape == SCRIPT.shape and values.dtype == torch.float32
    assert not values.any()
    trainer.train()
    assert not trainer.sample["values"].any()
    assert logged(trainer, "explained_variance") == pytest.approx([0.0], abs=1e-5)
    assert values_of(trainer.policy, tokenizer).any()


def test_the_head_is_one_linear_layer_in_float32(tiny_t5):
    head = add_value_head(tiny_t5.to(torch.bfloat16), "detached")
    assert {name: p.shape for name, p in head.named_parameters()} == {
        "linear.weight": (1, 32),
        "linear.bias": (1,),
    }
    assert all(p.dtype == torch.float32 and not p.any() for p in head.parameters())
    hidden = torch.randn(2, 3, 32).to(torch.bfloat16)
    nn.init.normal_(head.linear.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = head(hidden, {})
    assert_close(values, hidden.float() @ head.linear.weight[0])


@torch.no_grad()
def test_the_value_is_a_linear_function_of_the_decoders_last_hidden_state(tiny_t5, tokenizer):
    head = add_value_head(tiny_t5, "detached")
    nn.init.normal_(head.linear.weight)
    nn.init.constant_(head.linear.bias, 0.5)
    decoder_ids = torch.cat([torch.full((4, 1), PAD), SCRIPT[:, :-1]], dim=1)
    output = tiny_t5(**encoded(tokenizer), decoder_input_ids=decoder_ids, output_hidden_states=True)
    expected = output["decoder_hidden_states"][-1] @ head.linear.weight[0] + 0.5
    assert_close(values_of(tiny_t5, tokenizer), expected)


def test_a_token_changes_its_own_probability_but_not_the_value_before_it(tiny_t5, tokenizer):
    nn.init.ones_(add_value_head(tiny_t5, "detached").linear.weight)
    prompts, changed = encode(tiny_t5, **encoded(tokenizer)), SCRIPT.clone()
    changed[:, 2] = 9
    logprobs, new_logprobs = (
        completion_logprobs(tiny_t5, prompts, ids, PAD)[0] for ids in (SCRIPT, changed)
    )
    values, new_values = (values_of(tiny_t5, tokenizer, ids) for ids in (SCRIPT, changed))
    assert_close(new_logprobs[:, :2], logprobs[:, :2])
    assert_close(new_values[:, :3], values[:, :3])
    assert (new_logprobs[:, 2] != logprobs[:, 2]).all()
    assert (new_values[:, 3] != values[:, 3]).all()


# --- whom the value loss trains ---


def gradients(make, model, trunk: str, vf_coef: float) -> dict[str, torch.Tensor]:
    """Gradients of a batch whose head is no longer zero."""
    watch = Watch()
    trainer = make(
        copy.deepcopy(model),
        callbacks=[watch],
        value_trunk=trunk,
        vf_coef=vf_coef,
        max_grad_norm=0.0,
        max_steps=1,
    )
    nn.init.normal_(trainer.value_head.linear.weight, generator=torch.Generator().manual_seed(0))
    script(trainer).train()
    return watch.gradients[0]


@pytest.mark.parametrize("trunk", ["detached", "own", "shared"])
def test_the_value_loss_trains_the_policy_only_where_the_trunk_is_shared(make, tiny_t5, trunk):
    without, with_loss = (gradients(make, tiny_t5, trunk, vf_coef) for vf_coef in (0.0, 10.0))
    ours = [name for name in without if not name.startswith("value_head.")]
    assert len(ours) > 20
    changed = [n for n in ours if not torch.allclose(with_loss[n], without[n], atol=1e-6)]
    assert bool(changed) == (trunk == "shared")
    head = with_loss["value_head.linear.weight"]
    assert head.abs().max() > 0 and not without["value_head.linear.weight"].any()
    own = [g for n, g in with_loss.items() if n.startswith("value_head.trunk.")]
    assert bool(own) == (trunk == "own") and all(g.isfinite().all() for g in own)
    assert not own or max(g.abs().max() for g in own) > 0


def test_a_shared_trunk_is_warned_of(make):
    with pytest.warns(UserWarning, match="can wreck its text"):
        make(value_trunk="shared")


def test_a_trunk_of_its_own_is_a_copy_that_learns_apart_from_the_policy(make, tiny_t5):
    trainer = make(value_trunk="own", max_steps=4)
    trunk = trainer.value_head.trunk
    assert all(
        torch.equal(p, trunk.get_parameter(n))
        for n, p in tiny_t5.named_parameters()
        if not n.startswith("value_head.")
    )
    trainer.train()
    name = "decoder.block.0.layer.0.SelfAttention.q.weight"
    assert not torch.equal(trunk.get_parameter(name), tiny_t5.get_parameter(name))
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in trunk.parameters()} <= held


def test_a_trunk_of_its_own_learns_also_where_the_policy_has_an_adapter(make, tiny_t5):
    trainer = make(**policy("frozen encoder", tiny_t5), value_trunk="own")
    assert all(p.requires_grad for p in trainer.value_head.parameters())


def test_the_head_has_a_learning_rate_of_its_own_without_weight_decay(make):
    rates = []

    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer, **kwargs):
            rates.append([group["lr"] for group in optimizer.param_groups])

    trainer = make(
        callbacks=[Rates()],
        learning_rate=1e-3,
        value_learning_rate=0.5,
        weight_decay=0.1,
        lr_scheduler_type="linear",
        max_steps=4,
    )
    trainer.train()
    group = trainer.optimizer.param_groups[-1]
    assert {id(p) for p in group["params"]} == {
        id(p) for p in trainer.value_head.linear.parameters()
    }
    assert group["weight_decay"] == 0.0
    # The schedule is that of the policy: after each of four steps a quarter less.
    assert [r[-1] for r in rates] == pytest.approx([0.375, 0.25, 0.125, 0.0])
    assert [r[0] for r in rates] == pytest.approx([0.75e-3, 0.5e-3, 0.25e-3, 0.0])


# --- what it learns ---


@pytest.mark.parametrize(
    "kind", ["frozen encoder", pytest.param("all parameters", marks=pytest.mark.slow)]
)
def test_explained_variance_passes_one_half_where_the_return_depends_on_the_prompt(
    make, tiny_t5, kind
):
    trainer = make(
        **policy(kind, tiny_t5),
        reward=by_topic(-2.0, -1.0, 1.0, 2.0),
        rows=EQUAL["rows"],
        per_device_train_batch_size=8,
        max_steps=60,  # 30 samples
        learning_rate=1e-4,
        beta=0.0,
    )
    trainer.train()
    explained = logged(trainer, "explained_variance")
    assert explained[0] == pytest.approx(0.0, abs=1e-5)
    assert sum(explained[25:30]) / 5 > 0.5


EQUAL = {
    "reward": by_topic(3.0, 3.0, 3.0, 3.0),
    "rows": Dataset.from_dict({"prompt": PROMPTS * 2, "topic": TOPICS * 2}),
    "per_device_train_batch_size": 8,
    "beta": 0.0,
    "max_steps": 20,
    "num_iterations": 1,
    "max_completion_length": 12,
    "learning_rate": 3e-3,
}


def test_equal_rewards_give_no_push_by_position_and_do_not_change_the_length(make):
    trainer = make(**EQUAL)
    trainer.train()
    shares = logged(trainer, "advantages/position_share")
    lengths = logged(trainer, "completions/mean_length")
    assert shares[0] == pytest.approx(0.0, abs=1e-5)
    assert sum(shares) / 20 < 0.35  # of what little the value head gets wrong
    assert sum(lengths[-5:]) / 5 == pytest.approx(sum(lengths[:5]) / 5, abs=1.0)


def test_what_the_defaults_avoid_shortens_completions_though_all_rewards_are_equal(make):
    """λ = 0.95, whitening without a floor, and a value loss that trains the policy."""
    trainer = make(
        lam=0.95,
        min_advantage_std=0.0,
        value_trunk="shared",
        value_learning_rate=EQUAL["learning_rate"],
        **EQUAL,
    )
    trainer.train()
    shares = logged(trainer, "advantages/position_share")
    lengths = logged(trainer, "completions/mean_length")
    assert shares[0] > 0.99 and sum(shares) / 20 > 0.7
    assert sum(lengths[-5:]) / 5 < sum(lengths[:5]) / 5 - 3
