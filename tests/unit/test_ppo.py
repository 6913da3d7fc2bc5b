"""PPO for encoder-decoder models: sampler, reference, mask, rewards, updates, errors, learning and resuming."""

import copy
import math
from contextlib import contextmanager

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForSeq2SeqLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.testing import assert_close
from transformers import T5ForConditionalGeneration, TrainerCallback

import utils.ppo
from utils.finetuning import lora_config
from utils.generation import generate
from utils.models import has_bf16, load_model
from utils.ppo import PPOConfig, PPOTrainer
from utils.ppo.checkpointing import TrainingError
from utils.ppo.losses import gae, response_mask, whiten
from utils.ppo.policy import InverseTransformSampling, PolicyModel, entropy_of

PROMPTS = [
    "#Person1#: good",
    "hello world",
    "Anna asks #Person2# for the ladder on Friday.",
    "nice ugly bad good",
]
TOPICS = ["praise", "greeting", "loan", "list"]
DATA = Dataset.from_dict({"prompt": PROMPTS, "topic": TOPICS})
DECODER_ONLY = LoraConfig(r=4, lora_alpha=4, target_modules=r"decoder.*\.(q|v)")
EOS, PAD = 1, 0
# Four responses: ended after two tokens, ended at once, never ended, and one that begins with the pad id.
SCRIPT = torch.tensor([[5, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [5, 6, 7, 8], [PAD, 5, 6, EOS]])
LENGTHS = [2, 1, 4, 4]


def no_reward(prompts, completions, **columns):
    return [0.0] * len(completions)


def length_reward(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


@pytest.fixture
def make(tiny_t5, tiny_tokenizer, tmp_path):
    """A PPOTrainer with tiny numbers: one step of two epochs over four prompts."""

    def build(
        model=tiny_t5,
        reward=length_reward,
        rows=DATA,
        peft_config=None,
        tokenizer=tiny_tokenizer,
        **arguments,
    ) -> PPOTrainer:
        small = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": 4,
            "max_new_tokens": 6,
            "num_ppo_epochs": 2,
            "max_steps": 1,
            "learning_rate": 1e-2,
            "use_cpu": True,
        }
        return PPOTrainer(
            model, tokenizer, reward, PPOConfig(**small | arguments), rows, peft_config=peft_config
        )

    return build


def logged(trainer: PPOTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def script(trainer: PPOTrainer, responses: torch.Tensor = SCRIPT) -> PPOTrainer:
    """Let the policy "sample" what is written, prompt by prompt."""
    by_row = {
        tuple(trainer.processing_class(p)["input_ids"]): r
        for p, r in zip(PROMPTS, responses, strict=True)
    }

    def sample(prompts, generation_config):
        rows = zip(prompts["input_ids"].tolist(), prompts["attention_mask"].tolist(), strict=True)
        return torch.stack(
            [by_row[tuple(i for i, m in zip(*row, strict=True) if m)] for row in rows]
        )

    trainer.model.sample = sample
    return trainer


@pytest.fixture
def spy(monkeypatch):
    """Record the arguments and the result of every call of a function that `utils.ppo` uses."""

    def watch(name: str) -> list[tuple[tuple, object]]:
        calls, original = [], getattr(utils.ppo, name)

        def recorded(*args):
            calls.append((args, original(*args)))
            return calls[-1][1]

        monkeypatch.setattr(utils.ppo, name, recorded)
        return calls

    return watch


@contextmanager
def gradient_norms():
    """Norm of the gradients at each step of an optimizer; steps without gradients change nothing and do not count."""
    norms = []

    def record(optimizer, *_):
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if gradients:
            norms.append(torch.stack([g.norm() for g in gradients]).norm().item())

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield norms
    finally:
        handle.remove()


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def encoded(tokenizer) -> dict[str, torch.Tensor]:
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def logprobs_of(model, tokenizer, responses: torch.Tensor = SCRIPT) -> torch.Tensor:
    """Log-probability of each response token, computed apart from the code under test."""
    decoder_input_ids = torch.cat([torch.zeros_like(responses[:, :1]), responses[:, :-1]], dim=1)
    logits = model(**encoded(tokenizer), decoder_input_ids=decoder_input_ids).logits
    return torch.distributions.Categorical(logits=logits).log_prob(responses)


def with_adapter(model, rank: int = 4) -> PeftModel:
    """A "fine-tuned" policy: LoRA whose B is no longer zero; always the same."""
    peft_model = get_peft_model(model, lora_config(rank=rank))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft_model.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return peft_model.eval()


# --- 1. the sampler is the policy ---


def sampled(trainer: PPOTrainer, prompts: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Responses, and the log-probabilities of the distributions they were drawn from, (batch, time, vocabulary)."""
    seen, draw = [], InverseTransformSampling.__call__

    def keep_scores(self, input_ids, scores):
        seen.append(scores)
        return draw(self, input_ids, scores)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InverseTransformSampling, "__call__", keep_scores)
        responses = trainer.model.sample(prompts, trainer.sampling)
    return responses, torch.log_softmax(torch.stack(seen, dim=1), dim=-1)


@pytest.mark.parametrize("peft_config", [None, DECODER_ONLY, False])
@torch.no_grad()
def test_sampler_log_probabilities_equal_a_forward_pass(make, tiny_t5, tiny_tokenizer, peft_config):
    trainer = make(with_adapter(tiny_t5), peft_config=peft_config, max_new_tokens=10)
    trainer.model.eval()
    prompts = trainer.model.encode(**encoded(tiny_tokenizer))
    responses, distributions = sampled(trainer, prompts)
    logprobs, _, _ = trainer.model(prompts, responses)
    drawn_from = distributions.gather(-1, responses.unsqueeze(-1)).squeeze(-1)
    inside = response_mask(responses, EOS).bool()
    assert_close(logprobs[inside], drawn_from[inside], atol=1e-4, rtol=0)
    assert logprobs[inside].std() > 0.01


def test_a_frozen_encoders_output_can_be_learned_from(make, tiny_tokenizer):
    # It is computed in inference mode, whose tensors autograd refuses.
    trainer = make(peft_config=DECODER_ONLY)
    prompts = trainer.model.encode(**encoded(tiny_tokenizer))
    logprobs, _, _ = trainer.model(prompts, torch.full((len(prompts["attention_mask"]), 3), 5))
    logprobs.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in trainer.model.parameters())


@pytest.mark.parametrize(
    "habit",
    [
        {"min_new_tokens": 6},
        {"repetition_penalty": 2.0},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": [5, 6, 7]},
        {"num_beams": 2},
    ],
)
@torch.no_grad()
def test_the_models_own_generation_settings_do_not_reach_the_sampler(
    make, tiny_t5, tiny_tokenizer, habit
):
    # `generate` fills what a GenerationConfig leaves open from the model's own, and the sampler is then not the policy.
    tiny_t5.generation_config.update(**habit)
    trainer = make(peft_config=False)
    trainer.model.eval()
    prompts = trainer.model.encode(**encoded(tiny_tokenizer))
    responses, distributions = sampled(trainer, prompts)
    assert distributions.isfinite().all()
    logprobs, _, _ = trainer.model(prompts, responses)
    drawn_from = distributions.gather(-1, responses.unsqueeze(-1)).squeeze(-1)
    inside = response_mask(responses, EOS).bool()
    assert_close(logprobs[inside], drawn_from[inside], atol=1e-4, rtol=0)
    assert (
        habit.items() <= tiny_t5.generation_config.to_dict().items()
    )  # still there for evaluation


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
    heads = (
        (InverseTransformSampling()(None, torch.zeros(40_000, 2))[:, 0] == 0).float().view(-1, 2)
    )
    assert torch.corrcoef(heads.T)[0, 1].abs() < 0.03


def test_the_ends_of_the_uniform_number_draw_the_first_and_the_last_possible_token(monkeypatch):
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]])
    for uniform, token in ((0.0, 1), (1 - 2**-24, 2)):
        monkeypatch.setattr(torch, "rand", lambda *size, u=uniform, **_: torch.full(size, u))
        assert InverseTransformSampling()(None, logits).argmax() == token


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_end_in_an_error_that_says_so(value):
    with pytest.raises(
        ValueError, match="logits are not finite: training has diverged, lower the learning rate"
    ):
        InverseTransformSampling()(None, torch.tensor([[0.0, 1.0], [value, 0.0]]))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_entropy_is_that_of_the_softmax_whatever_is_added_to_all_logits(offset):
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 3, 50)
    logits[0, 0, 7] = -math.inf
    expected = torch.distributions.Categorical(logits=logits.double()).entropy().float()
    assert_close(entropy_of(logits + offset), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1


def test_a_response_has_no_least_length(make):
    config = make(max_new_tokens=7).sampling
    assert config.max_new_tokens == 7
    assert not config.min_length
    assert not config.min_new_tokens


@torch.no_grad()
def test_responses_begin_after_the_start_token(make, tiny_tokenizer):
    trainer = make(max_new_tokens=5)
    responses = trainer.model.sample(
        trainer.model.encode(**encoded(tiny_tokenizer)), trainer.sampling
    )
    assert responses.shape[1] <= 5
    assert (responses[:, 0] != PAD).any()


# --- the policy with its value head ---


@torch.no_grad()
def test_logprobs_are_those_of_the_model_itself(tiny_t5, tiny_tokenizer):
    expected = logprobs_of(tiny_t5, tiny_tokenizer)
    model = PolicyModel(tiny_t5)
    logprobs, _, _ = model(model.encode(**encoded(tiny_tokenizer)), SCRIPT)
    assert_close(logprobs, expected)


@torch.no_grad()
def test_a_prompts_padding_changes_nothing(tiny_t5, tiny_tokenizer):
    model = PolicyModel(tiny_t5)
    torch.nn.init.ones_(model.value_head.weight)
    together = model(model.encode(**encoded(tiny_tokenizer)), SCRIPT)
    for row, prompt in enumerate(PROMPTS):
        batch = tiny_tokenizer([prompt], return_tensors="pt")
        alone = model(
            model.encode(batch["input_ids"], batch["attention_mask"]), SCRIPT[row : row + 1]
        )
        for a, b in zip(alone, together, strict=True):
            assert_close(a[0], b[row], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_token_changes_its_own_probability_but_not_the_value_before_it(tiny_t5, tiny_tokenizer):
    model = PolicyModel(tiny_t5)
    torch.nn.init.ones_(model.value_head.weight)
    prompts, changed = model.encode(**encoded(tiny_tokenizer)), SCRIPT.clone()
    changed[:, 2] = 9
    (logprobs, values, _), (new_logprobs, new_values, _) = (
        model(prompts, SCRIPT),
        model(prompts, changed),
    )
    assert_close(new_logprobs[:, :2], logprobs[:, :2])
    assert_close(new_values[:, :3], values[:, :3])
    assert (new_logprobs[:, 2] != logprobs[:, 2]).all()
    assert (new_values[:, 3] != values[:, 3]).all()


@torch.no_grad()
def test_the_value_is_a_linear_function_of_the_decoders_last_hidden_state(tiny_t5, tiny_tokenizer):
    model = PolicyModel(tiny_t5, peft_config=False)
    torch.nn.init.normal_(model.value_head.weight)
    torch.nn.init.constant_(model.value_head.bias, 0.5)
    decoder_input_ids = torch.cat([torch.zeros_like(SCRIPT[:, :1]), SCRIPT[:, :-1]], dim=1)
    output = tiny_t5(
        **encoded(tiny_tokenizer), decoder_input_ids=decoder_input_ids, output_hidden_states=True
    )
    _, values, _ = model(model.encode(**encoded(tiny_tokenizer)), SCRIPT)
    assert_close(values, output.decoder_hidden_states[-1] @ model.value_head.weight[0] + 0.5)


@torch.no_grad()
def test_entropy_of_a_uniform_policy_is_the_log_of_the_vocabulary(tiny_t5, tiny_tokenizer):
    torch.nn.init.zeros_(tiny_t5.lm_head.weight)
    model = PolicyModel(tiny_t5)
    logprobs, _, entropy = model(model.encode(**encoded(tiny_tokenizer)), SCRIPT)
    vocabulary = tiny_t5.config.vocab_size
    assert_close(entropy, torch.full_like(entropy, math.log(vocabulary)))
    assert_close(logprobs, torch.full_like(entropy, -math.log(vocabulary)))


def test_value_head_starts_at_zero_in_float32_without_dropout(tiny_t5):
    head = PolicyModel(tiny_t5).value_head
    assert isinstance(head, torch.nn.Linear)
    assert head.weight.shape == (1, tiny_t5.config.d_model)
    for parameter in head.parameters():
        assert parameter.dtype == torch.float32
        assert (parameter == 0).all()


@torch.no_grad()
def test_log_softmax_and_value_stay_float32_under_bf16_autocast(tiny_t5, tiny_tokenizer):
    model = PolicyModel(tiny_t5)
    with torch.autocast("cpu", torch.bfloat16):
        prompts = model.encode(**encoded(tiny_tokenizer))
        outputs = [*model(prompts, SCRIPT), model.reference_logprobs(prompts, SCRIPT)]
    assert {x.dtype for x in outputs} == {torch.float32}


# --- 2. no dropout ---


@pytest.mark.parametrize(
    "peft_config", [None, False, LoraConfig(r=4, target_modules=["q", "v"], lora_dropout=0.5)]
)
def test_ratio_is_one_on_the_first_minibatch(make, tiny_t5, peft_config):
    assert tiny_t5.config.dropout_rate == 0.1
    trainer = make(peft_config=peft_config, max_steps=2, num_mini_batches=2)
    trainer.train()
    assert logged(trainer, "ratio_first") == pytest.approx([1.0] * 2, abs=1e-5)
    assert (
        max(abs(ratio - 1) for ratio in logged(trainer, "ratio")) > 1e-3
    )  # later minibatches have moved
    assert not any(module.training for module in trainer.model.modules())


# --- 3. the mask ---


def test_learning_sees_the_tokens_through_eos_and_no_others(make, spy):
    calls = spy("policy_loss")
    trainer = script(make(num_ppo_epochs=1))
    trainer.train()
    (_, _, advantages, mask, _), _ = calls[0]
    assert sorted(mask.sum(dim=1).tolist()) == sorted(LENGTHS)
    assert (mask[:, 0] == 1).all()
    assert (advantages * (1 - mask) == 0).all()


def test_what_stands_after_eos_changes_nothing(make, tiny_t5):
    padded, nonsense = SCRIPT, SCRIPT.clone()
    nonsense[0, 2:], nonsense[1, 1:] = 9, 9
    trained = []
    for responses in (padded, nonsense):
        trainer = script(
            make(copy.deepcopy(tiny_t5), reward=no_reward, max_steps=2, peft_config=False),
            responses,
        )
        trainer.train()
        trained.append(weights(trainer.model))
    for name, tensor in trained[0].items():
        assert_close(trained[1][name], tensor, atol=1e-5, rtol=0)


# --- 4. the reference ---


def as_found(model: T5ForConditionalGeneration, kind: str):
    return with_adapter(model) if kind == "fine-tuned adapter" else model


@pytest.mark.parametrize("kind", ["plain", "fine-tuned adapter"])
@pytest.mark.parametrize("peft_config", [None, DECODER_ONLY, False])
def test_kl_is_zero_before_the_first_update_and_not_after(make, tiny_t5, peft_config, kind):
    trainer = make(
        as_found(tiny_t5, kind), peft_config=peft_config, max_steps=3, learning_rate=3e-2
    )
    trainer.train()
    for name in ("kl/k1_per_sequence", "kl/k1_per_token", "kl/k3_per_sequence", "kl/k3_per_token"):
        assert logged(trainer, name)[0] == pytest.approx(0, abs=1e-5)
        assert abs(logged(trainer, name)[2]) > 1e-3


@pytest.mark.parametrize("peft_config", [None, DECODER_ONLY, False])
def test_the_reference_is_the_policy_as_found_and_stays_so(
    make, tiny_t5, tiny_tokenizer, peft_config
):
    before_fine_tuning = logprobs_of(tiny_t5, tiny_tokenizer)
    policy = with_adapter(tiny_t5)
    found = logprobs_of(policy, tiny_tokenizer)
    assert (found - before_fine_tuning).abs().max() > 0.1  # the wrong reference would be seen
    trainer = make(policy, peft_config=peft_config, max_steps=2)
    prompts = trainer.model.encode(**encoded(tiny_tokenizer))
    assert_close(trainer.model.reference_logprobs(prompts, SCRIPT), found, atol=1e-4, rtol=0)
    trainer.train()
    prompts = trainer.model.encode(**encoded(tiny_tokenizer))
    assert_close(trainer.model.reference_logprobs(prompts, SCRIPT), found, atol=1e-4, rtol=0)
    assert (logprobs_of(trainer.policy, tiny_tokenizer) - found).abs().max() > 1e-3


def test_asking_for_the_reference_leaves_the_adapter_on(tiny_t5, tiny_tokenizer):
    model = PolicyModel(tiny_t5)
    for name, parameter in model.policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    prompts = model.encode(**encoded(tiny_tokenizer))
    before = model(prompts, SCRIPT)[0]
    model.reference_logprobs(prompts, SCRIPT)
    assert torch.equal(model(prompts, SCRIPT)[0], before)


def test_lora_needs_no_second_model_and_a_full_policy_gets_a_frozen_copy(tiny_t5):
    assert PolicyModel(copy.deepcopy(tiny_t5)).reference is None
    model = PolicyModel(tiny_t5, peft_config=False)
    assert same(weights(model.reference), weights(model.policy))
    assert not any(p.requires_grad for p in model.reference.parameters())
    assert not {id(p) for p in model.reference.parameters()} & {
        id(p) for p in model.policy.parameters()
    }


# --- 5. KL in the reward and in the log ---


def test_k1_is_the_penalty_and_k1_and_k3_are_logged_by_sequence_and_by_token(make, spy):
    kl_calls, reward_calls = spy("kl_estimates"), spy("token_rewards")
    trainer = make(max_steps=2, num_ppo_epochs=1, kl_coef=0.3, learning_rate=3e-2)
    trainer.train()
    rollouts = [
        call for call in kl_calls if not call[0][0].requires_grad and not call[0][1].requires_grad
    ]
    (logprobs, reference_logprobs), _ = rollouts[1]
    (_, kl, mask, kl_coef), _ = reward_calls[1]
    log_ratio = logprobs - reference_logprobs
    assert_close(kl, log_ratio)  # k1 = log p − log p_reference
    assert kl_coef == 0.3
    k3 = torch.exp(-log_ratio) - 1 + log_ratio
    for name, estimate in (("k1", log_ratio), ("k3", k3)):
        total = (estimate * mask).sum().item()
        assert logged(trainer, f"kl/{name}_per_sequence")[1] == pytest.approx(total / 4, rel=1e-4)
        assert logged(trainer, f"kl/{name}_per_token")[1] == pytest.approx(
            total / mask.sum().item(), rel=1e-4
        )
    assert logged(trainer, "kl/k3_per_token")[1] > 0


# --- 6. where the score goes ---


def by_topic(scores: dict[str, float]):
    """A reward that depends on the row alone."""

    def reward(prompts, completions, topic, **columns):
        return [scores[name] for name in topic]

    return reward


def test_the_score_is_added_at_the_last_response_token(make, spy):
    calls = spy("gae")
    reward = by_topic(dict(zip(TOPICS, [2.0, 3.0, 4.0, 5.0], strict=True)))
    trainer = script(make(reward=reward, scale_scores=False, missing_eos_penalty=1.5))
    trainer.train()
    rewards = calls[0][0][0]
    # The first KL is 0, so the score stands alone. The third response never ends: 4 − 1.5 = 2.5.
    expected = [
        [0.0, 2.0, 0.0, 0.0],
        [3.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 2.5],
        [0.0, 0.0, 0.0, 5.0],
    ]
    order = lambda rows: sorted(rows, key=lambda row: max(row))  # noqa: E731
    for row, target in zip(order(rewards.tolist()), order(expected), strict=True):
        assert row == pytest.approx(target, abs=1e-5)


def test_the_share_of_responses_without_eos_and_their_length_are_logged(make):
    trainer = script(make())
    trainer.train()
    assert logged(trainer, "truncated") == [0.25]  # one of four never ends
    assert logged(trainer, "response_tokens") == [2.75]  # (2 + 1 + 4 + 4) / 4


# --- 7. reward functions ---


def test_reward_functions_see_prompts_plain_completions_and_the_datas_columns(make):
    seen = []

    def reward(prompts, completions, **columns):
        seen.append((prompts, completions, columns))
        return no_reward(prompts, completions)

    trainer = script(make(reward=reward))
    trainer.train()
    (prompts, completions, columns) = seen[0]
    assert sorted(prompts) == sorted(PROMPTS)
    assert columns == {"topic": [TOPICS[PROMPTS.index(prompt)] for prompt in prompts]}
    words = trainer.processing_class.batch_decode(SCRIPT, skip_special_tokens=True)
    assert completions == [words[PROMPTS.index(prompt)] for prompt in prompts]
    assert completions[prompts.index(PROMPTS[1])] == ""
    assert not any(mark in text for text in completions for mark in ("</s>", "<pad>"))


def test_raw_and_scaled_scores_are_both_logged(make):
    # Scores 1, 2, 3, 6, the truncated third less 1: 1, 2, 2, 6. Mean 2.75; squared deviations
    # 3.0625 + 0.5625 + 0.5625 + 10.5625 = 14.75; standard deviation √(14.75 / 3) = 2.2174.
    reward = by_topic(dict(zip(TOPICS, [1.0, 2.0, 3.0, 6.0], strict=True)))
    trainer = script(make(reward=reward, scale_scores=True))
    trainer.train()
    assert logged(trainer, "score/raw") == [3.0]
    assert logged(trainer, "score/scaled") == pytest.approx([2.75 / 2.2174], abs=1e-4)


def test_equal_scores_are_not_divided_by_zero(make):
    trainer = make(
        reward=lambda prompts, completions, **_: [2.0] * 4,
        missing_eos_penalty=0.0,
        scale_scores=True,
    )
    trainer.train()
    assert logged(trainer, "score/scaled") == [2.0]
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_several_reward_functions_are_added_by_weight(make):
    def one(prompts, completions, **columns):
        return [1] * len(completions)

    def two(prompts, completions, **columns):
        return torch.full((len(completions),), 2.0)

    trainer = make(reward=[one, two])
    trainer.train()
    assert logged(trainer, "score/raw") == [3.0]
    trainer = make(
        T5ForConditionalGeneration(trainer.policy.config),
        reward=[one, two],
        reward_weights=[0.5, -2.0],
    )
    trainer.train()
    assert logged(trainer, "score/raw") == [-3.5]  # 0.5 · 1 − 2 · 2


def test_samples_are_kept_with_their_raw_score(make):
    reward = by_topic(dict(zip(TOPICS, [1.0, 2.0, 3.0, 6.0], strict=True)))
    trainer = script(make(reward=reward, scale_scores=True, log_completions=4))
    trainer.train()
    assert list(trainer.completions) == ["step", "prompt", "completion", "score"]
    scores = dict(zip(trainer.completions["prompt"], trainer.completions["score"], strict=True))
    assert scores == dict(zip(PROMPTS, [1.0, 2.0, 3.0, 6.0], strict=True))


# --- 8. advantages ---


def test_advantages_are_whitened_over_the_whole_batch_and_not_the_minibatch(make, spy):
    gae_calls, loss_calls = spy("gae"), spy("policy_loss")
    script(make(num_ppo_epochs=1, num_mini_batches=2, gamma=0.9, lam=0.8)).train()
    (_, _, mask, gamma, lam), (advantages, _) = gae_calls[0]
    assert (gamma, lam) == (0.9, 0.8)
    used = torch.cat([args[2][args[3].bool()] for args, _ in loss_calls])
    assert used.mean().item() == pytest.approx(0, abs=1e-5)
    assert used.var().item() == pytest.approx(1, abs=1e-4)
    assert_close(used.sort().values, whiten(advantages, mask)[mask.bool()].sort().values)
    first = loss_calls[0][0]
    assert first[2][first[3].bool()].mean().abs() > 0.05  # half of the batch has a mean of its own


def test_old_logprobs_values_and_advantages_are_fixed_during_the_updates(make, spy):
    calls, value_calls = spy("policy_loss"), spy("value_loss")
    make(num_ppo_epochs=3).train()
    assert len(calls) == len(value_calls) == 3
    for args in (*(c[0][1:4] for c in calls), *(c[0][1:4] for c in value_calls)):
        assert not any(x.requires_grad for x in args)
    for which in (1, 2):  # old log-probabilities, advantages
        totals = [call[0][which].sum().item() for call in calls]
        assert totals == pytest.approx([totals[0]] * 3, abs=1e-4)
        totals = [call[0][which].sum().item() for call in value_calls]  # old values, returns
        assert totals == pytest.approx([totals[0]] * 3, abs=1e-4)
    for learned in (calls, value_calls):
        assert learned[2][0][0].sum().item() != pytest.approx(
            learned[0][0][0].sum().item(), abs=1e-4
        )


def test_returns_are_gae_returns_and_clip_ranges_are_the_configs(make, spy):
    gae_calls, policy_calls, value_calls = spy("gae"), spy("policy_loss"), spy("value_loss")
    script(make(num_ppo_epochs=1, cliprange=0.11, cliprange_value=0.22)).train()
    (rewards, values, mask, _, _), _ = gae_calls[0]
    _, returns = gae(rewards, values, mask, 1.0, 0.95)
    assert sorted(value_calls[0][0][2].sum(dim=1).tolist()) == pytest.approx(
        sorted(returns.sum(dim=1).tolist())
    )
    assert policy_calls[0][0][4] == 0.11
    assert value_calls[0][0][4] == 0.22


# --- 9. the value ---


def test_first_values_are_zero_and_the_value_head_learns_the_return(make, spy):
    calls = spy("gae")
    trainer = make(
        reward=lambda prompts, completions, **_: [1.0] * 4,
        missing_eos_penalty=0.0,
        max_steps=12,
        learning_rate=3e-2,
        cliprange_value=1.0,
        gamma=1.0,
        lam=1.0,
        kl_coef=0.0,
    )
    trainer.train()
    assert (calls[0][0][1] == 0).all()
    losses = logged(trainer, "loss/value")
    assert losses[-1] < losses[0] / 2
    assert trainer.model.value_head.weight.abs().max() > 0


def test_explained_variance_is_zero_for_values_that_start_at_zero(make):
    trainer = make()
    trainer.train()
    assert logged(trainer, "explained_variance") == pytest.approx([0.0], abs=1e-5)


# --- 10. gradients ---


def test_gradients_are_clipped_at_every_optimiser_step(make):
    # The rate is low, so that no ratio is clipped and every gradient is larger than its limit.
    trainer = make(
        max_steps=2, num_ppo_epochs=3, num_mini_batches=2, max_grad_norm=1e-3, learning_rate=1e-5
    )
    with gradient_norms() as norms:
        trainer.train()
    assert len(norms) == 2 * 3 * 2
    assert norms == pytest.approx([1e-3] * 12, rel=1e-2)


def test_gradients_do_not_pile_up_from_one_minibatch_to_the_next(make):
    trainer = make(num_ppo_epochs=3, learning_rate=0.0, max_grad_norm=1e6)
    with gradient_norms() as norms:
        trainer.train()
    assert norms[0] > 0
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-3)  # the same rows under the same weights


def test_the_loss_is_the_surrogate_plus_vf_coef_times_the_value_loss(make):
    trainer = make(num_ppo_epochs=1, vf_coef=0.7)
    trainer.train()
    policy, value = logged(trainer, "loss/policy")[0], logged(trainer, "loss/value")[0]
    assert value > 0
    assert logged(trainer, "loss")[0] == pytest.approx(policy + 0.7 * value, abs=1e-4)


# --- 11. early stop ---


def test_max_kl_stops_before_the_optimisers_step_and_counts_what_is_skipped(make, tiny_t5):
    trainer = make(copy.deepcopy(tiny_t5), num_ppo_epochs=4, learning_rate=3e-2, max_kl=1e-4)
    with gradient_norms() as norms:
        trainer.train()
    assert logged(trainer, "skipped_updates") == [3]
    assert len(norms) == 1  # the first update has no drift yet, the second finds it
    single = make(copy.deepcopy(tiny_t5), num_ppo_epochs=1, learning_rate=3e-2)
    single.train()
    assert same(weights(trainer.model), weights(single.model))


def test_max_kl_is_compared_with_k3_per_token_to_the_sampler(make, tiny_t5, spy):
    def skipped(max_kl: float | None) -> float:
        trainer = make(copy.deepcopy(tiny_t5), learning_rate=3e-2, max_kl=max_kl)
        trainer.train()
        return logged(trainer, "skipped_updates")[0]

    calls = spy("policy_loss")
    assert skipped(None) == 0
    logprobs, old_logprobs, _, mask, _ = calls[1][0]  # the second update, after one step
    log_ratio = ((logprobs - old_logprobs) * mask).detach()
    drift = ((log_ratio.exp() - 1 - log_ratio).sum() / mask.sum()).item()
    assert skipped(drift * 1.01) == 0
    assert skipped(drift * 0.99) == 1


def test_a_generous_max_kl_skips_nothing(make):
    trainer = make(num_ppo_epochs=4, max_kl=100.0)
    with gradient_norms() as norms:
        trainer.train()
    assert logged(trainer, "skipped_updates") == [0]
    assert len(norms) == 4


def test_a_batch_that_is_skipped_does_not_end_the_run(make):
    trainer = make(max_steps=3, num_ppo_epochs=4, learning_rate=3e-2, max_kl=1e-4)
    trainer.train()
    assert logged(trainer, "skipped_updates") == [3, 3, 3]
    assert logged(trainer, "ratio_first") == pytest.approx([1.0] * 3, abs=1e-5)


# --- 12. what trains ---


@pytest.mark.parametrize("peft_config", [None, DECODER_ONLY])
def test_the_optimiser_holds_exactly_the_adapter_and_the_value_head(make, peft_config):
    trainer = make(peft_config=peft_config)
    trainer.train()
    held = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    wanted = [
        id(p)
        for n, p in trainer.model.named_parameters()
        if ".lora_" in n or n.startswith("value_head.")
    ]
    assert sorted(held) == sorted(wanted)
    # q and v of 2 decoder layers, self and cross: 8 of rank 4; with the encoder and the default rank 32: 12.
    adapter = {True: 12 * 32 * 64, False: 8 * 4 * 64}[peft_config is None]
    assert (
        sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])
        == adapter + 33
    )


def test_without_adapter_the_optimiser_holds_the_policy_and_the_value_head_but_not_the_reference(
    make, tiny_t5
):
    trainer = make(peft_config=False)
    trainer.train()
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {
        id(p) for part in (tiny_t5, trainer.model.value_head) for p in part.parameters()
    }


@pytest.mark.parametrize("kind", ["plain", "fine-tuned adapter"])
def test_lora_leaves_the_base_weights_as_they_were(make, tiny_t5, kind):
    found = as_found(copy.deepcopy(tiny_t5), kind)
    before = weights(found.merge_and_unload() if isinstance(found, PeftModel) else found)
    trainer = make(as_found(tiny_t5, kind), max_steps=2)
    trainer.train()
    base = trainer.policy.unload()
    assert same(weights(base), before)


def test_the_default_adapter_has_no_dropout_and_adapts_q_and_v(make):
    config = make().policy.peft_config["default"]
    assert config.lora_dropout == 0.0
    assert set(config.target_modules) == {"q", "v"}


# --- several responses to a prompt: RLOO and GRPO ---

GROUPED = {"num_generations": 2, "per_device_train_batch_size": 4}


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_without_value_head_the_optimiser_holds_the_adapter_alone(make, estimator):
    trainer = make(advantage_estimator=estimator, **GROUPED)
    trainer.train()
    assert trainer.model.value_head is None
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for n, p in trainer.model.named_parameters() if ".lora_" in n}
    assert not logged(trainer, "loss/value") and not logged(trainer, "explained_variance")


def test_responses_to_one_prompt_stand_side_by_side_and_share_their_columns(make):
    seen = []

    def reward(prompts, completions, topic):
        seen.append((prompts, topic))
        return [0.0] * len(completions)

    make(reward=reward, num_generations=3, num_mini_batches=1, num_ppo_epochs=1).train()
    prompts, topics = seen[0]
    assert len(prompts) == 12
    for first in range(0, 12, 3):
        assert len(set(prompts[first : first + 3])) == len(set(topics[first : first + 3])) == 1
        assert TOPICS[PROMPTS.index(prompts[first])] == topics[first]


def counting_reward():
    """1, 2, 4, 8, … whatever the completion."""
    return lambda prompts, completions, **columns: [2.0**i for i in range(len(completions))]


def test_rloo_advantages_come_from_rewards_minus_kl_and_stand_on_every_token(make, spy):
    calls, losses, kls, masks = (
        spy(n) for n in ("rloo_advantages", "policy_loss", "kl_estimates", "response_mask")
    )
    trainer = make(
        reward=counting_reward(),
        advantage_estimator="rloo",
        kl_coef=0.5,
        missing_eos_penalty=0.0,
        max_steps=2,
        num_ppo_epochs=1,
        learning_rate=3e-2,
        **GROUPED,
    )
    trainer.train()
    mask = masks[1][1]
    k1 = [call for call in kls if not call[0][0].requires_grad and not call[0][1].requires_grad][1][
        1
    ][0]
    (rewards, group_size), advantages = calls[1]
    assert group_size == 2
    assert (k1 * mask).sum(dim=1).abs().max() > 0.01
    assert_close(rewards, torch.tensor([2.0**i for i in range(8)]) - 0.5 * (k1 * mask).sum(dim=1))
    used = losses[1][0][2]
    expected = (advantages.unsqueeze(1) * mask).tolist()
    assert sorted(used.tolist()) == sorted(expected)


def test_grpo_pays_for_kl_in_the_loss_and_not_in_the_reward(make, spy):
    advantages = spy("grpo_advantages")
    trainer = make(
        reward=counting_reward(),
        advantage_estimator="grpo",
        kl_coef=0.5,
        missing_eos_penalty=0.0,
        max_steps=2,
        **GROUPED,
    )
    trainer.train()
    for (rewards, _), _ in advantages:
        assert torch.equal(rewards, torch.tensor([2.0**i for i in range(8)]))
    assert logged(trainer, "loss/kl")[1] > 0
    seen = []
    original = trainer._loss

    def both(model, batch, first):
        loss, drift = original(model, batch, first)
        logprobs = model(batch.prompts, batch.responses)[0]
        surrogate = utils.ppo.policy_loss(
            logprobs, batch.logprobs, batch.advantages, batch.mask, 0.2
        )[0]
        log_ratio = (batch.reference_logprobs - logprobs)[batch.mask.bool()]
        seen.append(
            (loss.item(), (surrogate + 0.5 * (log_ratio.exp() - 1 - log_ratio).mean()).item())
        )
        return loss, drift

    trainer._loss = both
    trainer.args.max_steps = 3
    trainer.train()
    for loss, expected in seen:
        assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo"])
def test_reward_rises_with_every_estimator(make, estimator):
    trainer = make(
        reward=count_o,
        advantage_estimator=estimator,
        num_generations=4,
        num_ppo_epochs=3,
        max_steps=25,
        kl_coef=0.0,
        missing_eos_penalty=0.0,
        learning_rate=2e-2,
    )
    trainer.train()
    scores = logged(trainer, "score/raw")
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 1


# --- a batch in parts ---


@pytest.mark.parametrize(
    "own", [{}, {"max_kl": 1e-4}, {"advantage_estimator": "rloo", "num_generations": 2}]
)
def test_gradient_accumulation_changes_memory_and_not_the_result(make, tiny_t5, own):
    """Ten prompts, four a step: two of them fill no step in either way."""
    rows = Dataset.from_dict(
        {
            "prompt": [f"{prompt} {word}" for prompt in PROMPTS for word in ("bad", "nice")]
            + PROMPTS[:2]
        }
    )
    trained = []
    for batch, parts in ((4, 1), (2, 2), (1, 4)):
        trainer = make(
            copy.deepcopy(tiny_t5),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts,
            rows=rows,
            max_steps=3,
            learning_rate=1e-3,
            **own,
        )
        trainer.train()
        trained.append(
            (weights(trainer.model), [logged(trainer, n) for n in ("score/raw", "skipped_updates")])
        )
    for tensors, log in trained[1:]:
        assert log == trained[0][1]
        for name, tensor in tensors.items():
            assert_close(tensor, trained[0][0][name], atol=2e-4, rtol=0)


# --- the price of KL ---


def test_a_fixed_kl_coefficient_stays(make):
    trainer = make(max_steps=3, kl_coef=0.07, learning_rate=3e-2)
    trainer.train()
    assert logged(trainer, "kl/coef") == [0.07] * 3


def test_an_adaptive_kl_coefficient_follows_the_kl(make):
    trainer = make(max_steps=4, kl_coef=0.1, kl_target=1e-3, kl_horizon=4, learning_rate=3e-2)
    trainer.train()
    coefs, kls = logged(trainer, "kl/coef"), logged(trainer, "kl/k1_per_sequence")
    assert coefs[:2] == pytest.approx([0.1, 0.08])  # the first KL is 0, far below the target
    for before, after, kl in zip(coefs, coefs[1:], kls, strict=False):
        assert after == pytest.approx(before * (1 + min(max(kl / 1e-3 - 1, -0.2), 0.2)), rel=1e-3)
    assert coefs[3] > coefs[2]


# --- the frozen encoder ---


def count_calls(module: torch.nn.Module) -> list[int]:
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_frozen_encoder_runs_once_a_batch(make):
    trainer = make(peft_config=DECODER_ONLY, max_steps=3, num_ppo_epochs=4, num_mini_batches=2)
    calls = count_calls(trainer.policy.get_encoder())
    trainer.train()
    assert trainer.model.encoder_is_frozen
    assert len(calls) == 3


def test_sharing_the_frozen_encoders_output_changes_no_result(make, tiny_t5):
    runs = []
    for frozen in (True, False):
        trainer = make(
            copy.deepcopy(tiny_t5), peft_config=DECODER_ONLY, max_steps=3, num_mini_batches=2
        )
        calls = count_calls(trainer.policy.get_encoder())
        trainer.model.encoder_is_frozen = frozen
        trainer.train()
        runs.append((trainer, len(calls)))
    (shared, once), (repeated, often) = runs
    assert once == 3 < often
    for name, tensor in weights(shared.model).items():
        assert_close(repeated.model.state_dict()[name], tensor, atol=1e-4, rtol=0)
    for name in ("score/raw", "loss/policy", "loss/value", "kl/k3_per_token"):
        assert logged(repeated, name) == pytest.approx(logged(shared, name), abs=1e-3)


def test_an_encoder_that_trains_is_never_shared(make, tiny_tokenizer):
    for peft_config in (None, False):
        trainer = make(peft_config=peft_config)
        assert not trainer.model.encoder_is_frozen
        assert "last_hidden_state" not in trainer.model.encode(**encoded(tiny_tokenizer))


# --- learning ---


def count_o(prompts, completions, **columns):
    """Toy reward: how often the letter o stands in the response, as in "good", "hello", "world" and "for"."""
    return [float(text.count("o")) for text in completions]


@pytest.mark.parametrize("peft_config", [DECODER_ONLY, False])
def test_reward_rises_on_a_toy_task(make, peft_config):
    trainer = make(
        reward=count_o,
        rows=Dataset.from_dict({"prompt": PROMPTS * 6}),
        peft_config=peft_config,
        per_device_train_batch_size=24,
        max_steps=24,
        num_ppo_epochs=3,
        learning_rate=1e-2 if peft_config is False else 3e-2,
        kl_coef=0.0,
        missing_eos_penalty=0.0,
    )
    trainer.train()
    scores = logged(trainer, "score/raw")
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 1


def test_a_high_kl_price_keeps_the_policy_close(make, tiny_t5):
    kl = {}
    for price in (0.0, 5.0):
        trainer = make(
            copy.deepcopy(tiny_t5),
            reward=count_o,
            peft_config=DECODER_ONLY,
            rows=Dataset.from_dict({"prompt": PROMPTS * 4}),
            per_device_train_batch_size=16,
            max_steps=12,
            learning_rate=3e-2,
            kl_coef=price,
            missing_eos_penalty=0.0,
        )
        trainer.train()
        kl[price] = sum(logged(trainer, "kl/k3_per_sequence")[-5:]) / 5
    assert kl[5.0] < kl[0.0] / 2


def test_the_trained_policy_answers_prompts(make, tiny_tokenizer):
    trainer = make()
    trainer.train()
    assert len(generate(trainer.policy, tiny_tokenizer, PROMPTS, max_new_tokens=4)) == 4


def test_a_batch_that_is_not_full_makes_no_step(make):
    trainer = make(
        rows=Dataset.from_dict({"prompt": [*PROMPTS, "ladder"]}), max_steps=-1, num_train_epochs=2
    )
    trainer.train()
    assert trainer.state.global_step == 2  # one full batch in each epoch


def test_a_last_batch_of_one_prompt_can_be_learned_from_too(make):
    rows = Dataset.from_dict({"prompt": [*PROMPTS, "ladder"]})
    arguments = {"dataloader_drop_last": False, "scale_scores": True, "num_mini_batches": 2}
    trainer = make(rows=rows, max_steps=-1, num_train_epochs=1, **arguments)
    trainer.train()
    assert trainer.state.global_step == 2
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16")
@pytest.mark.parametrize("peft_config", [None, DECODER_ONLY, False])
def test_under_bf16_sampler_policy_and_reference_compute_in_the_same_precision(make, peft_config):
    trainer = make(peft_config=peft_config, bf16=True)
    names, seen = ("encode", "sample", "forward", "reference_logprobs"), {}

    def watch(name):
        original = getattr(trainer.model, name)

        def watched(*args, **kwargs):
            seen.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
            return original(*args, **kwargs)

        setattr(trainer.model, name, watched)

    for name in names:
        watch(name)
    trainer.train()
    assert seen == {name: {True} for name in names}
    assert logged(trainer, "kl/k1_per_sequence") == pytest.approx([0.0], abs=1e-4)


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this processor has no bf16")
def test_bf16_is_autocast_over_float32_weights_and_the_first_ratio_stays_one(make):
    trainer = make(bf16=True, max_steps=2)
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert logged(trainer, "ratio_first") == pytest.approx([1.0] * 2, abs=1e-2)


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this processor has no bf16")
@pytest.mark.parametrize("peft_config", [None, DECODER_ONLY, False])
def test_frozen_weights_are_bf16_while_it_trains_under_bf16_and_float32_again_after(
    make, peft_config
):
    trainer = make(peft_config=peft_config, bf16=True)
    seen, step = {}, trainer.training_step
    trainer.training_step = lambda *a, **k: [
        seen.update(
            {n: (p.requires_grad, p.dtype, p.dim()) for n, p in trainer.model.named_parameters()}
        ),
        step(*a, **k),
    ][1]
    trainer.train()
    layers = {
        dtype
        for name, (learns, dtype, dim) in seen.items()
        if not learns and name.endswith(".o.weight")
    }
    assert layers == {torch.bfloat16}
    assert {dtype for learns, dtype, dim in seen.values() if learns or dim == 1} == {torch.float32}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this processor has no bf16")
def test_a_policy_merged_in_the_middle_of_a_bf16_run_is_float32_throughout(make, tmp_path):
    class MergeNow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            assert {p.dtype for p in trainer.model.parameters()} == {torch.float32, torch.bfloat16}
            trainer.save_merged(tmp_path / "merged")

    trainer = make(bf16=True)
    trainer.add_callback(MergeNow())
    trainer.train()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    name = "decoder.block.0.layer.0.SelfAttention.q"
    layer = trainer.policy.get_submodule(f"base_model.model.{name}")
    assert_close(
        merged[f"{name}.weight"],
        layer.weight + layer.get_delta_weight("default"),
        atol=1e-6,
        rtol=0,
    )


# --- 14. repeating, saving and resuming ---


@pytest.mark.parametrize("peft_config", [None, False])
def test_a_fixed_seed_gives_the_same_weights_twice(make, tiny_t5, peft_config):
    trained = []
    for run in range(2):
        torch.manual_seed(100 + run)  # what ran before must not matter
        trainer = make(copy.deepcopy(tiny_t5), peft_config=peft_config, max_steps=2, seed=7)
        trainer.train()
        trained.append(weights(trainer.model))
    assert same(*trained)


@pytest.mark.parametrize(
    ("peft_config", "own"),
    [
        (None, {}),
        (DECODER_ONLY, {"kl_target": 0.1, "kl_horizon": 20}),
        (False, {}),
        (None, {"advantage_estimator": "rloo", "num_generations": 2}),
        (DECODER_ONLY, {"advantage_estimator": "grpo", "num_generations": 2}),
        (None, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
    ],
)
def test_a_run_killed_and_resumed_equals_the_run_that_was_not(
    make, tiny_t5, tmp_path, peft_config, own
):
    rows = Dataset.from_dict(
        {"prompt": [f"{prompt} {word}" for prompt in PROMPTS for word in ("bad", "nice")]}
    )
    arguments = {
        "rows": rows,
        "peft_config": peft_config,
        "max_steps": 5,
        "save_strategy": "steps",
        "save_steps": 3,  # in the middle of the second epoch: 8 prompts, 4 a step
        "lr_scheduler_type": "linear",
        "num_mini_batches": 2,
    } | own
    whole = make(copy.deepcopy(tiny_t5), output_dir=str(tmp_path / "whole"), **arguments)
    whole.train()

    calls = []

    def power_cut(prompts, completions, **columns):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return length_reward(prompts, completions)

    power_cut.__name__ = length_reward.__name__
    killed = make(
        copy.deepcopy(tiny_t5), reward=power_cut, output_dir=str(tmp_path / "parts"), **arguments
    )
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    torch.manual_seed(99)
    resumed = make(copy.deepcopy(tiny_t5), output_dir=str(tmp_path / "parts"), **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    assert same(weights(resumed.model), weights(whole.model))
    for name in ("score/raw", "kl/k1_per_sequence", "kl/coef", "loss/policy", "learning_rate"):
        assert logged(resumed, name) == logged(whole, name)
        assert len(logged(whole, name)) == 5
    assert logged(resumed, "loss/value") == logged(whole, "loss/value")
    assert len(logged(whole, "loss/value")) == (5 if whole.args.advantage_estimator == "gae" else 0)
    after_the_kill = whole.completions.query("step > 3").reset_index(drop=True)
    assert resumed.completions.equals(after_the_kill)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_run_resumed_at_its_last_step_takes_no_other(make, tiny_t5, tmp_path, schedule):
    rows = Dataset.from_dict(
        {"prompt": 3 * PROMPTS}
    )  # three steps an epoch: the fourth ends in the middle of one
    arguments = {
        "rows": rows,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": schedule,
    }
    whole = make(copy.deepcopy(tiny_t5), **arguments)
    whole.train()
    resumed = make(copy.deepcopy(tiny_t5), **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.state.global_step == 4 and len(logged(resumed, "score/raw")) == 4
    assert same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kl_coef": 0.3}, "kl_coef 0.05, now 0.3"),
        (
            {"advantage_estimator": "rloo", "num_generations": 2},
            "advantage_estimator 'gae', now 'rloo'",
        ),
        ({"reward": no_reward}, r"reward_funcs \['length_reward'\], now \['no_reward'\]"),
    ],
)
def test_resuming_another_run_is_refused(make, tiny_t5, tmp_path, changed, said):
    make(copy.deepcopy(tiny_t5), save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match=rf"checkpoint-1 is of another run \({said}"):
        make(tiny_t5, **changed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_saved_adapter_on_the_policy_as_found_is_the_trained_policy(
    make, tiny_t5, tiny_tokenizer, tmp_path
):
    found = copy.deepcopy(tiny_t5)
    trainer = make(max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    reloaded = PeftModel.from_pretrained(found, tmp_path / "final")
    trained = logprobs_of(trainer.policy, tiny_tokenizer)
    assert_close(logprobs_of(reloaded, tiny_tokenizer), trained)
    with reloaded.disable_adapter():
        assert (logprobs_of(reloaded, tiny_tokenizer) - trained).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["plain", "fine-tuned adapter"])
def test_a_checkpoint_finds_the_policy_as_found_and_is_the_trained_policy(
    make, tiny_t5, tiny_tokenizer, tmp_path, kind
):
    found = as_found(tiny_t5, kind)
    reference = logprobs_of(found, tiny_tokenizer)
    trainer = make(found, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    reloaded = AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "checkpoint-2")
    assert_close(logprobs_of(reloaded, tiny_tokenizer), logprobs_of(trainer.policy, tiny_tokenizer))
    base, _ = load_model(str(tmp_path / "base"), device="cpu")
    assert_close(logprobs_of(base, tiny_tokenizer), reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("peft_config", [None, False])
def test_a_merged_policy_is_one_model_and_answers_as_the_trained_one(
    make, tiny_tokenizer, tmp_path, peft_config
):
    trainer = make(peft_config=peft_config, max_steps=2)
    trainer.train()
    trainer.save_merged(tmp_path / "merged")
    merged, tokenizer = load_model(str(tmp_path / "merged"), device="cpu")
    assert_close(
        logprobs_of(merged, tokenizer),
        logprobs_of(trainer.policy, tiny_tokenizer),
        atol=1e-4,
        rtol=0,
    )


def test_a_saved_full_policy_loads_with_its_tokenizer(make, tiny_tokenizer, tmp_path):
    trainer = make(peft_config=False, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    reloaded, tokenizer = load_model(str(tmp_path / "final"), device="cpu")
    assert_close(logprobs_of(reloaded, tokenizer), logprobs_of(trainer.policy, tiny_tokenizer))


# --- what is refused ---


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused_and_function_and_completion_are_named(make, value):
    def broken(prompts, completions, **columns):
        return [value if text == "" else 1.0 for text in completions]

    trainer = script(make(reward=broken))
    with pytest.raises(ValueError, match=rf"broken returned {value} for the completion ''"):
        trainer.train()


@pytest.mark.parametrize("rewards", [[1.0] * 3, [1.0] * 5, [[1.0]] * 4, 1.0])
def test_a_wrong_number_of_rewards_is_refused(make, rewards):
    def miscounting(prompts, completions, **columns):
        return rewards

    with pytest.raises(ValueError, match=r"miscounting returned shape .* for 4 completions"):
        make(reward=miscounting).train()


@pytest.mark.parametrize("token", ["pad_token", "eos_token"])
def test_a_tokenizer_without_pad_or_eos_is_refused(make, tiny_tokenizer, token):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    setattr(tokenizer, token, None)
    with pytest.raises(ValueError, match=f"no {token}"):
        make(tokenizer=tokenizer)


def test_data_without_prompts_is_refused_and_the_model_is_left_alone(make, tiny_t5):
    with pytest.raises(ValueError, match=r"columns query, topic: .*'prompt'"):
        make(rows=DATA.rename_column("prompt", "query"))
    assert not any("lora" in name for name, _ in tiny_t5.named_parameters())


def test_fewer_prompts_than_a_batch_are_refused_with_the_remedy(make):
    with pytest.raises(
        ValueError, match=r"has 4 prompts, fewer than a batch of 5: .*LABS_PPO_BATCH_SIZE"
    ):
        make(rows=DATA.select(range(4)), per_device_train_batch_size=5)


def test_a_wrong_number_of_weights_is_refused(make):
    with pytest.raises(ValueError, match="2 reward_weights for 1 reward functions"):
        make(reward_weights=[1.0, 2.0])


def test_reward_functions_of_one_name_are_refused(make):
    with pytest.raises(ValueError, match="no_reward, no_reward: give each a name of its own"):
        make(reward=[no_reward, no_reward])


def test_no_reward_function_is_refused(make):
    with pytest.raises(ValueError, match="reward function"):
        make(reward=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_mini_batches": 3}, "num_mini_batches=3 .* must divide the batch of 4 responses"),
        (
            {"gradient_accumulation_steps": 2, "num_mini_batches": 3},
            "gradient_accumulation_steps=2 must divide the batch of 8",
        ),
        (
            {"advantage_estimator": "reinforce"},
            "advantage_estimator='reinforce': choose gae, rloo, grpo",
        ),
        ({"advantage_estimator": "rloo"}, "num_generations=1 must be at least 2"),
        ({"num_generations": 0}, "num_generations=0 must be at least 1"),
        ({"kl_target": 0.0}, "kl_target=0.0 must be a positive number"),
        ({"kl_target": math.nan}, "kl_target=nan must be a positive number"),
        ({"num_mini_batches": 0}, "num_mini_batches=0 must be at least 1"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs=0 must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_every_field_of_the_config_is_explained():
    own = set(PPOConfig.__annotations__)
    assert {"kl_coef", "cliprange", "max_kl", "missing_eos_penalty"} <= own
    assert all(PPOConfig.__dataclass_fields__[name].metadata.get("help") for name in own)


@pytest.mark.parametrize("update", [0, 1], ids=["in the middle of a step", "at its end"])
def test_an_infinite_gradient_is_not_applied(make, update):
    trainer = make(num_ppo_epochs=1, num_mini_batches=2, peft_config=False)
    backward = iter(range(100))
    weight = trainer.policy.shared.weight
    weight.register_hook(
        lambda gradient: gradient * math.inf if next(backward) == update else gradient
    )
    with pytest.raises(TrainingError, match=r"gradient is (inf|nan) at step 1\b"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.policy.parameters())


def test_weights_that_are_not_finite_are_neither_written_nor_passed_over(make, tiny_t5, tmp_path):
    overflow = {
        "learning_rate": 1e38,
        "num_ppo_epochs": 1,
        "num_mini_batches": 1,
        "peft_config": False,
    }
    with pytest.raises(TrainingError, match=r"not finite after step 1\b.*now 1e\+38"):
        make(copy.deepcopy(tiny_t5), **overflow).train()
    with pytest.raises(TrainingError, match=r"not finite after step 1\b"):
        make(copy.deepcopy(tiny_t5), **overflow, save_strategy="steps", save_steps=1).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_max_grad_norm_of_0_clips_no_gradient(make, tiny_t5):
    arguments = {"num_ppo_epochs": 3, "learning_rate": 0.0}
    with gradient_norms() as unclipped:
        make(copy.deepcopy(tiny_t5), max_grad_norm=0.0, **arguments).train()
    with gradient_norms() as expected:
        make(copy.deepcopy(tiny_t5), max_grad_norm=1e9, **arguments).train()
    assert unclipped == pytest.approx(expected, rel=1e-5) and min(unclipped) > 0


def test_grpos_reward_holds_no_price_of_kl(make):
    trainer = make(
        advantage_estimator="grpo", num_generations=2, kl_coef=5.0, max_steps=3, learning_rate=3e-2
    )
    trainer.train()
    assert max(map(abs, logged(trainer, "kl/k1_per_sequence"))) > 0
    assert logged(trainer, "reward") == logged(trainer, "score/scaled")
