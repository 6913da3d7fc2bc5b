"""The sampler is the policy: what is drawn, with which probabilities, and what ends it."""

import copy
import math

import pytest
import torch
from peft import LoraConfig
from tiny_models import EOS, PAD
from tiny_ppo import (
    DECODER_ONLY,
    KINDS,
    PROMPTS,
    SCRIPT,
    encoded,
    logged,
    logprobs_of,
    policy,
    script,
    trained_adapter,
    weights,
)
from torch import Tensor, nn
from torch.testing import assert_close

from utils.ppo import PPOTrainer
from utils.ppo import policy as policies
from utils.ppo.losses import response_mask
from utils.ppo.policy import (
    InverseTransformSampling,
    add_value_head,
    base_model,
    completion_logprobs,
    encode,
    sample,
)


def drawn(trainer: PPOTrainer, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Completions, log-probabilities under the sampler and in a forward pass apart from ours."""
    ids, sampled = sample(
        trainer.policy.eval(),
        encode(trainer.policy, **encoded(trainer.processing_class)),
        trainer.generation_config,
        temperature,
    )
    return ids, sampled, logprobs_of(trainer.policy, trainer.processing_class, ids)


def assert_equal_until_the_end(sampled: Tensor, expected: Tensor, ids: Tensor) -> None:
    inside = response_mask(ids, EOS).bool()
    assert_close(sampled[inside], expected[inside], atol=1e-4, rtol=0)
    assert expected[inside].std() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_samplers_log_probabilities_equal_a_forward_pass(make, tiny_t5, kind):
    ids, sampled, expected = drawn(make(**policy(kind, tiny_t5), max_completion_length=10))
    assert_equal_until_the_end(sampled, expected, ids)


@pytest.mark.parametrize(
    "habit",
    [
        {"min_new_tokens": 6},
        {"repetition_penalty": 2.0},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": [5, 6, 7]},
        {"num_beams": 2},
        {"forced_bos_token_id": 5},
        {"max_new_tokens": 1},
    ],
    ids=lambda habit: next(iter(habit)),
)
def test_the_models_own_generation_settings_do_not_reach_the_sampler(make, tiny_t5, habit):
    # `generate` fills in what a GenerationConfig leaves open from the model's own settings.
    tiny_t5.generation_config.update(**habit)
    ids, sampled, expected = drawn(make(max_completion_length=10))
    assert ids.shape[1] == 10
    assert_equal_until_the_end(sampled, expected, ids)
    assert habit.items() <= tiny_t5.generation_config.to_dict().items()  # still there afterwards


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits_of_sampler_and_policy_alike(make, tokenizer, temperature):
    trainer = make(temperature=temperature, max_steps=1)
    trainer.train()
    drawn_from = trainer.sample["difference"] * trainer.sample["mask"]
    assert drawn_from.max() < 1e-4

    model, prompts = trainer.policy, encode(trainer.policy, **encoded(tokenizer))
    ids, sampled = sample(model, prompts, trainer.generation_config, temperature)
    expected = logprobs_of(model, tokenizer, ids, temperature)
    assert_equal_until_the_end(sampled, expected, ids)
    logprobs = completion_logprobs(model, prompts, ids, PAD, temperature)[0]
    assert_equal_until_the_end(logprobs, expected, ids)


def test_tokens_are_drawn_with_the_probabilities_of_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([1.0, -1.0, -math.inf, 3.0, 0.0, -math.inf])
    n = 50_000
    only = InverseTransformSampling()(None, logits.expand(n, -1))
    assert ((only == 0).sum(dim=1) == 1).all() and ((only == -math.inf).sum(dim=1) == 5).all()
    frequencies, p = (only == 0).float().mean(dim=0), logits.softmax(dim=0)
    assert (frequencies[p == 0] == 0).all()
    assert ((frequencies - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()


def test_rows_are_drawn_independently_of_each_other():
    torch.manual_seed(0)
    heads = InverseTransformSampling()(None, torch.zeros(40_000, 2))[:, 0] == 0
    assert torch.corrcoef(heads.float().view(-1, 2).T)[0, 1].abs() < 0.03


def test_the_ends_of_the_uniform_number_draw_the_first_and_the_last_possible_token(monkeypatch):
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]])
    for uniform, token in ((0.0, 1), (1 - 2**-24, 2)):
        monkeypatch.setattr(torch, "rand", lambda *size, u=uniform, **_: torch.full(size, u))
        assert InverseTransformSampling()(None, logits).argmax() == token


def test_a_token_is_drawn_also_where_rounded_probabilities_sum_to_less_than_one(monkeypatch):
    logits = torch.randn(200, 500, generator=torch.Generator().manual_seed(0))
    sums = logits.softmax(dim=-1).cumsum(dim=-1)[:, -1]
    assert (sums < 1 - 2**-24).any()
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 1 - 2**-24))
    only = InverseTransformSampling()(None, logits)
    assert ((only == 0).sum(dim=1) == 1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_raise_an_error_that_names_the_remedy(value):
    with pytest.raises(ValueError, match="not finite: training has diverged; lower the learning"):
        InverseTransformSampling()(None, torch.tensor([[0.0, 1.0], [value, 0.0]]))


def test_top_k_and_top_p_are_left_to_transformers_and_no_difference_is_claimed(make):
    trainer = make(top_k=3, temperature=0.5, max_steps=1)
    trainer.train()
    settings = trainer.generation_config
    assert (settings.do_sample, settings.top_k, settings.temperature) == (True, 3, 0.5)
    assert not logged(trainer, "sampling/logp_difference")


# --- where a completion begins and ends ---


def test_a_model_that_may_not_use_our_speedups_is_sampled_by_transformers(make, tiny_t5):
    tiny_t5.cpu_speedups = False
    trainer = make(max_steps=1)
    trainer.train()
    assert trainer.generation_config.do_sample
    assert not logged(trainer, "sampling/logp_difference")


def test_a_completion_has_no_least_length(make):
    settings = make(max_completion_length=7, cache_implementation="dynamic").generation_config
    assert settings.max_new_tokens == 7 and settings.cache_implementation == "dynamic"
    assert not settings.min_length and not settings.min_new_tokens


def test_completions_begin_after_the_start_token(make):
    ids, _, _ = drawn(make(max_completion_length=5))
    assert ids.shape == (4, 5)
    assert (ids[:, 0] != PAD).any()


def test_the_mask_runs_through_eos_also_after_a_sampled_pad_token(make):
    trainer = script(make(shuffle_dataset=False, max_steps=1))
    trainer.train()
    assert torch.equal(trainer.sample["ids"], SCRIPT)
    assert trainer.sample["mask"].sum(dim=1).tolist() == [2, 1, 4, 4]


def test_every_eos_of_the_model_ends_a_completion(make, tiny_t5):
    tiny_t5.generation_config.eos_token_id = [EOS, 6]
    trainer = make(shuffle_dataset=False, max_steps=1)
    assert trainer.generation_config.eos_token_id == [EOS, 6]
    script(trainer).train()
    assert trainer.sample["mask"].sum(dim=1).tolist() == [2, 1, 2, 3]
    assert logged(trainer, "completions/clipped_ratio") == [0.0]


def test_a_tokenizer_without_pad_token_pads_with_eos_as_trl_does(make, tokenizer):
    own = copy.deepcopy(tokenizer)
    own.pad_token = None
    trainer = make(processing_class=own, max_steps=1)
    trainer.train()
    assert trainer.generation_config.pad_token_id == EOS


def test_what_stands_after_eos_changes_nothing(make, tiny_t5):
    nonsense = SCRIPT.clone()
    nonsense[0, 2:], nonsense[1, 1:] = 9, 9
    trained = []
    for completions in (SCRIPT, nonsense):
        trainer = make(copy.deepcopy(tiny_t5), shuffle_dataset=False, max_steps=4)
        script(trainer, completions).train()
        trained.append(weights(trainer.model))
    for name, tensor in trained[0].items():
        assert_close(trained[1][name], tensor, atol=1e-5, rtol=0)


# --- the forward pass ---


@torch.no_grad()
def test_log_probabilities_are_those_of_the_model_itself(tiny_t5, tokenizer):
    prompts = encode(tiny_t5, **encoded(tokenizer))
    logprobs, entropy, values = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)
    assert_close(logprobs, logprobs_of(tiny_t5, tokenizer))
    assert entropy is None and values is None


def test_what_is_computed_in_parts_stays_with_its_completion(make, tiny_t5, tokenizer, monkeypatch):
    monkeypatch.setattr("utils.ppo.trainer.LOGITS_AT_ONCE", 1)
    parts = {"per_device_train_batch_size": 1, "steps_per_generation": 4}
    trainer = make(copy.deepcopy(tiny_t5), shuffle_dataset=False, max_steps=1, **parts)
    nn.init.ones_(trainer.value_head.linear.weight)
    script(trainer).train()
    found = add_value_head(tiny_t5, "detached")
    nn.init.ones_(found.linear.weight)
    with torch.no_grad():
        prompts = encode(tiny_t5, **encoded(tokenizer))
        logprobs, values, _ = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD, values=True)
    assert_close(trainer.sample["old_logprobs"], logprobs)
    assert_close(trainer.sample["values"], values)


@torch.no_grad()
def test_a_prompts_padding_changes_nothing(tiny_t5, tokenizer):
    together = completion_logprobs(tiny_t5, encode(tiny_t5, **encoded(tokenizer)), SCRIPT, PAD)[0]
    for row, prompt in enumerate(PROMPTS):
        batch = tokenizer([prompt], return_tensors="pt")
        prompts = encode(tiny_t5, batch["input_ids"], batch["attention_mask"])
        alone = completion_logprobs(tiny_t5, prompts, SCRIPT[row : row + 1], PAD)[0]
        assert_close(alone[0], together[row], atol=1e-4, rtol=0)


@torch.no_grad()
def test_entropy_is_that_of_the_softmax_and_of_a_uniform_policy_the_log_of_the_vocabulary(
    tiny_t5, tokenizer
):
    prompts, start = encode(tiny_t5, **encoded(tokenizer)), torch.full((4, 1), PAD)
    entropy = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD, entropy=True)[2]
    inputs = torch.cat([start, SCRIPT[:, :-1]], dim=1)
    logits = tiny_t5(**encoded(tokenizer), decoder_input_ids=inputs).logits
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert_close(entropy, expected, atol=1e-4, rtol=0)
    halved = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD, temperature=2.0, entropy=True)[2]
    expected = torch.distributions.Categorical(logits=logits / 2).entropy()
    assert_close(halved, expected, atol=1e-4, rtol=0)
    nn.init.zeros_(tiny_t5.lm_head.weight)
    entropy = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD, entropy=True)[2]
    assert_close(entropy, torch.full_like(entropy, math.log(tiny_t5.config.vocab_size)))


# --- the encoder ---


def count_rows(module: nn.Module) -> list[int]:
    """The number of prompts of every call."""
    calls = []
    module.register_forward_hook(lambda *_, **__: calls.append(1), with_kwargs=True)
    return calls


def test_a_frozen_encoder_runs_once_for_each_sample(make):
    trainer = make(peft_config=LoraConfig(**DECODER_ONLY), max_steps=12, num_iterations=4)
    calls = count_rows(trainer.policy.get_encoder())
    trainer.train()
    assert len(calls) == 3


def test_a_frozen_encoder_reads_each_prompt_once_whatever_the_number_of_completions(make):
    rows = []
    trainer = make(
        peft_config=LoraConfig(**DECODER_ONLY),
        max_steps=1,
        advantage_estimator="rloo",
        num_iterations=1,
    )
    trainer.policy.get_encoder().register_forward_hook(
        lambda module, args, kwargs, output: rows.append(len(output.last_hidden_state)),
        with_kwargs=True,
    )
    trainer.train()
    assert rows == [2]  # four completions, two of each prompt


@pytest.mark.parametrize("estimator", ["gae", "rloo"])
def test_sharing_a_frozen_encoders_output_changes_no_result(make, tiny_t5, estimator):
    """A policy whose encoder is frozen, but shown as one that trains: it runs every time."""
    runs = []
    for shared in (True, False):
        trainer = make(
            copy.deepcopy(tiny_t5),
            peft_config=LoraConfig(**DECODER_ONLY),
            max_steps=4,
            advantage_estimator=estimator,
        )
        if not shared:
            trainer.policy.get_encoder().register_parameter("unused", nn.Parameter(torch.zeros(1)))
        calls = count_rows(trainer.policy.get_encoder())
        trainer.train()
        runs.append((trainer, len(calls)))
    (shared, once), (repeated, often) = runs
    assert once == 2 < often
    for name, tensor in weights(shared.model).items():
        assert_close(repeated.model.state_dict()[name], tensor, atol=1e-4, rtol=0)
    for name in ("reward", "loss", "kl/k3_per_token"):
        assert logged(repeated, name) == pytest.approx(logged(shared, name), abs=1e-3)


def with_a_frozen_encoder(kind: str, model: nn.Module) -> dict:
    """What to train on a frozen encoder, and after a few steps an adapter that is not zero."""
    if kind == "fresh adapter":
        return {"model": model, "peft_config": LoraConfig(**DECODER_ONLY)}
    if kind == "trained adapter":
        model = trained_adapter(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".decoder." in name and ".lora_" in name)
    else:
        model.requires_grad_(True).get_encoder().requires_grad_(False)
        model.decoder.block[0].layer[1].EncDecAttention.requires_grad_(False)
    return {"model": model}


def count_projections(model: nn.Module) -> list[int]:
    """The rows of each time that the first layer projects the encoder's output to keys."""
    rows, layer = [], base_model(model).decoder.block[0].layer[1].EncDecAttention.k

    def forward(states: Tensor) -> Tensor:
        rows.append(len(states))
        return nn.Linear.forward(layer, states)

    layer.forward = forward
    return rows


@pytest.mark.parametrize("estimator", ["gae", "grpo"])
@pytest.mark.parametrize("kind", ["fresh adapter", "trained adapter", "decoder but one layer"])
def test_projecting_a_frozen_encoders_output_once_changes_no_result(
    make, tiny_t5, monkeypatch, kind, estimator
):
    """Two batches of each sample in each of two passes, in an order that is drawn anew."""
    runs = []
    for limit in (policies.SHARED_BYTES, 0):
        monkeypatch.setattr(policies, "SHARED_BYTES", limit)
        options = {"per_device_train_batch_size": 2, "steps_per_generation": 2, "max_steps": 8}
        options |= {"advantage_estimator": estimator, "beta": 0.1, "learning_rate": 0.1}
        options |= {"reward": lambda completions: [sum(map(ord, c)) % 7 for c in completions]}
        trainer = make(**with_a_frozen_encoder(kind, copy.deepcopy(tiny_t5)), **options)
        rows = count_projections(trainer.policy)
        trainer.train()
        runs.append((trainer, rows))
    (once, few), (repeated, many) = runs
    assert few == [4, 4] and sum(many) >= 2 * (4 + 4 + 4 * 2)  # sampling, its pass, four updates
    for name in ("loss", "loss/policy", "kl", "entropy", "ratio", "grad_norm"):
        expected = pytest.approx(logged(repeated, name), abs=1e-5, rel=1e-5)
        assert logged(once, name) == expected, name
    assert abs(logged(once, "kl")[-1]) > 1e-4
    for name, tensor in weights(once.model).items():
        assert_close(repeated.model.state_dict()[name], tensor, atol=1e-5, rtol=0)


@torch.no_grad()
def test_projections_are_kept_up_to_a_limit_of_bytes(tiny_t5, tokenizer, monkeypatch):
    prompts = encode(tiny_t5.requires_grad_(False), **encoded(tokenizer))
    whole = completion_logprobs(tiny_t5, dict(prompts), SCRIPT, PAD)[0]
    size = prompts["last_hidden_state"].nbytes
    limit = sum(t.nbytes for t in prompts.values()) + 3 * size  # keys and values of two layers: 4
    monkeypatch.setattr(policies, "SHARED_BYTES", limit)
    for _ in range(2):
        assert_close(completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)[0], whole)
        assert sum(t.nbytes for t in prompts.values()) == limit


def test_a_projection_that_learns_is_never_shared(tiny_t5, tokenizer):
    """Nor one with a bias that learns, as with LoraConfig(bias="all")."""
    cross = tiny_t5.requires_grad_(False).decoder.block[0].layer[1].EncDecAttention
    cross.k.bias = nn.Parameter(torch.zeros(cross.k.out_features))
    cross.v.weight.requires_grad_(True)
    prompts = encode(tiny_t5, **encoded(tokenizer))
    for _ in range(2):
        completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)[0].sum().backward()
        learned = (cross.k.bias, cross.v.weight)
        assert all(p.grad.any() for p in learned)
        first = completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)[0]
        with torch.no_grad():
            cross.v.weight += 1
        assert not torch.allclose(completion_logprobs(tiny_t5, prompts, SCRIPT, PAD)[0], first)
    assert cross.v not in prompts and cross.k not in prompts


@pytest.mark.parametrize("kind", ["fresh adapter", "all parameters"])
def test_an_encoder_that_trains_is_never_shared(make, tiny_t5, tokenizer, kind):
    trainer = make(**policy(kind, tiny_t5))
    assert "last_hidden_state" not in encode(trainer.policy, **encoded(tokenizer))


def test_a_frozen_encoders_output_can_be_learned_from(make, tokenizer):
    # It is computed in inference mode, whose tensors autograd refuses.
    trainer = make(peft_config=LoraConfig(**DECODER_ONLY))
    prompts = encode(trainer.policy, **encoded(tokenizer))
    completion_logprobs(trainer.policy, prompts, SCRIPT, PAD)[0].sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in trainer.policy.parameters())


def test_rows_of_a_batch_stay_with_their_own_prompts(make, tiny_t5, tokenizer):
    """Each completion's log-probability is that under its own prompt, in a mixed order."""
    trainer = make(trained_adapter(tiny_t5), advantage_estimator="rloo", max_steps=1)
    seen = []
    reward = trainer.rewards

    def spy(prompts, completions, **named):
        seen.extend(prompts)
        return reward(prompts, completions, **named)

    spy.names = reward.names
    trainer.rewards = spy
    found = copy.deepcopy(trainer.policy)
    trainer.train()
    ids, logprobs = trainer.sample["ids"], trainer.sample["old_logprobs"]
    assert len(set(seen)) == 2
    for row, prompt in enumerate(seen):
        expected = logprobs_of(found, tokenizer, ids[row].expand(4, -1))[PROMPTS.index(prompt)]
        assert_close(logprobs[row], expected, atol=1e-4, rtol=0)
