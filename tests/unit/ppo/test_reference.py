"""The reference is the policy as training begins, and stays so."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from tiny_models import PAD
from tiny_ppo import (
    KINDS,
    PROMPTS,
    SCRIPT,
    count_o,
    encoded,
    logged,
    logprobs_of,
    policy,
    same,
    trained_adapter,
    weights,
)
from torch import Tensor
from torch.testing import assert_close

from utils.ppo import PPOTrainer
from utils.ppo.policy import completion_logprobs, encode

every_kind = pytest.mark.parametrize("kind", KINDS)


@torch.no_grad()
def reference_logprobs(trainer: PPOTrainer) -> Tensor:
    with trainer.reference.active(trainer.policy.eval()) as reference:
        prompts = encode(reference, **encoded(trainer.processing_class))
        return completion_logprobs(reference, prompts, SCRIPT, PAD)[0]


@pytest.mark.parametrize("estimator", ["gae", "grpo"])
@every_kind
def test_kl_is_zero_before_the_first_update_and_not_after(make, tiny_t5, kind, estimator):
    trainer = make(
        **policy(kind, tiny_t5),
        reward=lambda completions, **kwargs: [1.0, 2.0, 4.0, 8.0],
        advantage_estimator=estimator,
        beta=0.1,
        max_steps=4,
        learning_rate=3e-2,
    )
    trainer.train()
    names = [f"kl/{k}_per_{unit}" for k in ("k1", "k3") for unit in ("sequence", "token")]
    for name in (*names, "kl"):
        before, after = logged(trainer, name)
        assert before == pytest.approx(0, abs=1e-5)
        assert abs(after) > 1e-3


@every_kind
def test_the_reference_is_the_initial_policy_and_stays_so(make, tiny_t5, tokenizer, kind):
    before_any_adapter = logprobs_of(tiny_t5, tokenizer)
    given = policy(kind, tiny_t5)
    initial = logprobs_of(given["model"], tokenizer)
    moved = (initial - before_any_adapter).abs().max()
    assert (moved > 0.1) == (kind == "trained adapter")  # the wrong reference would be seen

    trainer = make(**given, max_steps=4)
    assert_close(reference_logprobs(trainer), initial, atol=1e-4, rtol=0)
    trainer.train()
    assert_close(reference_logprobs(trainer), initial, atol=1e-4, rtol=0)
    assert (logprobs_of(trainer.policy, tokenizer) - initial).abs().max() > 1e-3


@every_kind
def test_the_policy_is_itself_again_after_the_reference_was_asked(make, tiny_t5, tokenizer, kind):
    trainer = make(**policy(kind, tiny_t5), max_steps=2)
    trainer.train()
    trained = [name for name, p in trainer.policy.named_parameters() if p.requires_grad]
    before = logprobs_of(trainer.policy, tokenizer)
    assert (reference_logprobs(trainer) - before).abs().max() > 1e-3
    assert torch.equal(logprobs_of(trainer.policy, tokenizer), before)
    assert [n for n, p in trainer.policy.named_parameters() if p.requires_grad] == trained

    with pytest.raises(KeyError), trainer.reference.active(trainer.policy):
        raise KeyError  # also where the block fails
    assert torch.equal(logprobs_of(trainer.policy, tokenizer), before)
    assert [n for n, p in trainer.policy.named_parameters() if p.requires_grad] == trained


def test_what_of_an_adapter_was_frozen_stays_so(make, tiny_t5):
    model = trained_adapter(tiny_t5)
    for name, parameter in model.named_parameters():
        if ".encoder." in name:
            parameter.requires_grad_(False)
    before = weights(model)
    trainer = make(model)
    trainer.train()
    learning = [n for n, p in model.named_parameters() if p.requires_grad and "lora" in n]
    assert len(learning) == 16 and all(".decoder." in name for name in learning)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= set(learning)


def test_a_fresh_adapter_needs_no_copy_and_a_full_policy_gets_a_frozen_one(make, tiny_t5):
    assert make(**policy("fresh adapter", copy.deepcopy(tiny_t5))).ref_model is None
    before = weights(tiny_t5)
    reference = make(tiny_t5, advantage_estimator="rloo").ref_model
    assert same(weights(reference), before)
    assert not any(p.requires_grad for p in reference.parameters())
    theirs = {p.data_ptr() for p in reference.parameters()}
    assert not theirs & {p.data_ptr() for p in tiny_t5.parameters()}


def test_a_reference_has_no_dropout_though_the_policy_was_in_train_mode(make, tiny_t5):
    reference = make(tiny_t5.train()).ref_model
    assert not any(module.training for module in reference.modules())


def test_an_adapter_that_is_trained_on_gets_a_frozen_copy_of_the_adapter_alone(make, tiny_t5):
    trainer = make(trained_adapter(tiny_t5))
    copies = {n: p for n, p in trainer.policy.named_parameters() if ".ref." in n}
    assert (
        len(copies) == 24
    )  # A and B of q and v of two encoder and, twice each, two decoder layers
    for name, parameter in copies.items():
        original = trainer.policy.get_parameter(name.replace(".ref.", ".default."))
        assert torch.equal(parameter, original) and original.requires_grad
        assert parameter.data_ptr() != original.data_ptr() and not parameter.requires_grad
    assert isinstance(trainer.policy, PeftModel) and trainer.ref_model is None


def test_without_a_price_of_kl_there_is_no_reference_unless_it_is_logged(make):
    trainer = make(beta=0.0, max_steps=1)
    trainer.train()
    assert trainer.reference is None and not logged(trainer, "kl")
    trainer = make(trainer.policy, beta=0.0, log_kl=True, max_steps=1)
    trainer.train()
    assert logged(trainer, "kl") == pytest.approx([0], abs=1e-5)


def test_a_synced_reference_moves_by_alpha_towards_the_policy(make, tiny_t5):
    before = weights(tiny_t5)
    trainer = make(
        sync_ref_model=True, ref_model_mixup_alpha=0.25, ref_model_sync_steps=2, max_steps=2
    )
    trainer.train()
    for name, tensor in weights(trainer.ref_model).items():
        trained = trainer.policy.state_dict()[name]
        assert_close(tensor, 0.25 * trained + 0.75 * before[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "options"), [("fresh adapter", {}), ("all parameters", {"beta": 0.0})]
)
def test_a_reference_that_cannot_follow_is_refused(make, tiny_t5, kind, options):
    with pytest.raises(ValueError, match="sync_ref_model=True needs a separate reference model"):
        make(**policy(kind, tiny_t5), sync_ref_model=True, **options)


def test_a_high_price_of_kl_keeps_the_policy_close(make, tiny_t5):
    kl = {}
    for price in (0.0, 5.0):
        trainer = make(
            **policy("frozen encoder", copy.deepcopy(tiny_t5)),
            reward=count_o,
            rows=Dataset.from_dict({"prompt": PROMPTS * 4}),
            per_device_train_batch_size=16,
            max_steps=12,
            learning_rate=3e-2,
            beta=price,
            log_kl=True,
        )
        trainer.train()
        kl[price] = sum(logged(trainer, "kl/k3_per_sequence")[-3:])
    assert kl[5.0] < kl[0.0] / 2
