"""Rewards: what reward functions see, how their numbers add up, and where the score goes."""

import asyncio
import copy
import functools
import logging
import math

import pytest
import torch
from datasets import Dataset
from tiny_ppo import DATA, PROMPTS, SCRIPT, TOPICS, by_topic, length_reward, logged, script
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification

from utils.ppo.losses import whiten
from utils.ppo.rewards import Rewards, as_text, reward_name

ORDERED = {"shuffle_dataset": False, "max_steps": 1}


def token_rewards_of(trainer) -> list[list[float]]:
    """The reward of each token, which is the difference of returns where γ = λ = 1."""
    returns = trainer.sample["returns"]
    following = torch.cat([returns[:, 1:], torch.zeros(len(returns), 1)], dim=1)
    return [[round(x, 4) + 0.0 for x in row] for row in (returns - following).tolist()]


# --- what a reward function is called with ---


def test_reward_functions_see_prompts_plain_completions_and_the_datas_columns(make):
    seen = []

    def reward(prompts, completions, completion_ids, **columns):
        seen.append((prompts, completions, completion_ids, columns))
        return [0.0] * len(completions)

    trainer = script(make(reward=reward, **ORDERED))
    trainer.train()
    prompts, completions, ids, columns = seen[0]
    assert prompts == PROMPTS and columns["topic"] == TOPICS
    assert completions == trainer.processing_class.batch_decode(SCRIPT, skip_special_tokens=True)
    assert completions[1] == "" and not any("</s>" in c or "<pad>" in c for c in completions)
    assert ids == [[5, 1], [1], [5, 6, 7, 8], [0, 5, 6, 1]]
    assert columns["trainer_state"] is trainer.state


def test_completions_to_one_prompt_stand_side_by_side_and_share_their_columns(make):
    seen = []

    def reward(prompts, completions, topic, **kwargs):
        seen.append((prompts, topic))
        return [0.0] * len(completions)

    make(
        reward=reward,
        advantage_estimator="grpo",
        num_generations=3,
        per_device_train_batch_size=12,
        max_steps=1,
    ).train()
    prompts, topics = seen[0]
    assert sorted(set(prompts)) == sorted(PROMPTS)
    for first in range(0, 12, 3):
        assert len(set(prompts[first : first + 3])) == len(set(topics[first : first + 3])) == 1
        assert TOPICS[PROMPTS.index(prompts[first])] == topics[first]


def test_a_function_receives_only_what_its_signature_names():
    def one(completions):
        return [1.0] * len(completions)

    def two(topic, completions, absent=2.0):
        return [absent + len(t) for t in topic]

    table = Rewards([one, two])(["p", "q"], ["x", "y"], topic=["a", "bb"], other=[0, 0])
    assert table.tolist() == [[1.0, 3.0], [1.0, 4.0]]


def test_coroutines_and_functions_keep_their_own_columns():
    async def first(completions):
        return [1.0] * len(completions)

    def second(completions):
        return [2.0] * len(completions)

    async def third(completions):
        return [3.0] * len(completions)

    assert Rewards([first, second, third])(["p"], ["x"]).tolist() == [[1.0, 2.0, 3.0]]


def test_coroutines_are_awaited_where_a_loop_runs_already_as_in_a_notebook():
    class Judge:
        async def __call__(self, completions):
            return [2.0] * len(completions)

    async def cell():
        return Rewards([Judge()])(["p"], ["x"])

    assert asyncio.run(cell()).tolist() == [[2.0]]


def test_rewards_are_named_after_functions_partials_and_classes():
    class Judge:
        def __call__(self, completions):
            return [0.0] * len(completions)

    partial = functools.partial(functools.partial(length_reward, a=1), b=2)
    names = [reward_name(f) for f in (length_reward, partial, Judge())]
    assert names == ["length_reward", "length_reward", "Judge"]


def test_messages_become_text_by_the_chat_template_or_line_by_line(tokenizer):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "good"}]
    assert as_text("good", tokenizer) == "good"
    assert as_text(messages, tokenizer) == "Be kind.\ngood"
    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert as_text(messages, own) == "system: Be kind.\nuser: good\nassistant:"
    answered = [*messages, {"role": "assistant", "content": "bad"}]
    assert as_text(answered, own).endswith("assistant: bad\n")


def test_chat_template_kwargs_reach_the_template_and_prompts_are_padded_as_asked(make, tokenizer):
    own, seen = copy.deepcopy(tokenizer), []
    own.chat_template = "{% for m in messages %}{{ m.content }}{{ more }}{% endfor %}"
    options = {"chat_template_kwargs": '{"more": " bad"}', "pad_to_multiple_of": 8}
    trainer = make(processing_class=own, max_steps=1, **options)
    encode = trainer.processing_class.__class__.__call__

    def watch(self, texts, *args, **kwargs):
        seen.append((texts, encode(self, texts, *args, **kwargs)))
        return seen[-1][1]

    rows = [{"prompt": [{"role": "user", "content": "good"}], "topic": 0}] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.processing_class.__class__, "__call__", watch)
        trainer._draw(rows)
    assert seen[0][0] == ["good bad"] and seen[0][1]["input_ids"].shape == (1, 8)


def test_a_classifier_judges_without_dropout(make, tokenizer, tmp_path):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 1}
    shape |= {"intermediate_size": 16, "vocab_size": len(tokenizer), "hidden_dropout_prob": 0.5}
    judge = BertForSequenceClassification(BertConfig(**shape)).train()
    tokenizer.save_pretrained(tmp_path / "judge")
    judge.config.name_or_path = str(tmp_path / "judge")
    trainer = make(reward=judge, max_steps=1)
    trainer.train()
    assert not any(module.training for module in judge.modules())
    once, again = (trainer.rewards(["good"], ["bad"]) for _ in range(2))
    assert torch.equal(once, again)


# --- how rewards add up ---


def test_several_reward_functions_are_added_by_weight(make, tiny_t5):
    def one(completions, **kwargs):
        return [1] * len(completions)

    def two(completions, **kwargs):
        return torch.full((len(completions),), 2.0)

    plain = make(copy.deepcopy(tiny_t5), reward=[one, two], max_steps=1)
    plain.train()
    assert logged(plain, "reward") == [3.0]
    weighted = make(reward=[one, two], reward_weights=[0.5, -2.0], max_steps=1)
    weighted.train()
    assert logged(weighted, "reward") == [-3.5]  # 0.5 · 1 − 2 · 2
    assert logged(weighted, "rewards/one/mean") == [1.0]
    assert logged(weighted, "rewards/two/mean") == [2.0]
    assert logged(weighted, "rewards/two/std") == [0.0]


def test_a_function_that_returns_none_is_left_out_of_that_completions_sum(make, caplog):
    def sometimes(topic, **kwargs):
        return [10.0 if name == "loan" else None for name in topic]

    trainer = make(reward=[by_topic(1.0, 2.0, 3.0, 4.0), sometimes], beta=0.0, **ORDERED)
    script(trainer).train()
    assert "All reward functions returned None" not in caplog.text
    assert logged(trainer, "rewards/sometimes/mean") == [10.0]
    assert logged(trainer, "reward") == [(1 + 2 + 13 + 4) / 4]
    assert trainer.sample["returns"][:, 0].tolist() == [1.0, 2.0, 13.0, 4.0]


def test_a_completion_without_any_reward_is_left_out_of_loss_and_means(make, caplog):
    def silent(topic, **kwargs):
        return [None if name == "list" else 5.0 for name in topic]

    trainer = script(make(reward=silent, **ORDERED))
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "All reward functions returned None" in caplog.text and PROMPTS[3] in caplog.text
    assert logged(trainer, "reward") == [5.0]
    assert trainer.sample["mask"].sum(dim=1).tolist() == [2, 1, 4, 0]


def test_means_and_deviations_of_rewards_by_hand(make):
    # 1, 2, 3, 6: mean 3, deviation √((4 + 1 + 0 + 9) / 3).
    trainer = script(make(reward=by_topic(1.0, 2.0, 3.0, 6.0), **ORDERED))
    trainer.train()
    assert logged(trainer, "reward") == logged(trainer, "rewards/topic_reward/mean") == [3.0]
    expected = pytest.approx([(14 / 3) ** 0.5])
    assert logged(trainer, "reward_std") == logged(trainer, "rewards/topic_reward/std") == expected


# --- where the score goes ---


def test_the_score_is_added_at_the_last_token_and_a_missing_end_lowers_it(make):
    reward = by_topic(2.0, 3.0, 4.0, 5.0)
    trainer = script(make(reward=reward, missing_eos_penalty=1.5, **ORDERED))
    trainer.train()
    # The first KL is 0, so the score stands alone. The third completion never ends: 4 − 1.5.
    assert token_rewards_of(trainer) == [
        [0.0, 2.0, 0.0, 0.0],
        [3.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 2.5],
        [0.0, 0.0, 0.0, 5.0],
    ]
    assert logged(trainer, "reward") == [3.5]  # as the function gave it
    assert logged(trainer, "reward/after_kl") == pytest.approx([3.125])


def test_the_score_is_clipped_before_the_penalty_and_scaled_after_it(make):
    options = {"reward_clip_range": (2.5, 4.5), "missing_eos_penalty": 0.5}
    trainer = make(reward=by_topic(2.0, 3.0, 4.0, 5.0), scale_rewards="batch", **options, **ORDERED)
    script(trainer).train()
    scores = torch.tensor([2.5, 3.0, 3.5, 4.5])
    last = trainer.sample["returns"].gather(1, torch.tensor([[1], [0], [3], [3]])).squeeze(1)
    assert_close(last, scores / scores.std(), atol=1e-3, rtol=0)
    given = torch.tensor([2.0, 3.0, 4.0, 5.0]).std().item()
    assert logged(trainer, "reward_std") == pytest.approx([given])  # as the function gave them


def test_equal_scores_are_not_divided_by_zero(make):
    trainer = make(reward=by_topic(2.0, 2.0, 2.0, 2.0), scale_rewards="batch", **ORDERED)
    trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_k1_is_what_each_token_pays_and_the_price_is_beta(make):
    reward = by_topic(1.0, 2.0, 3.0, 4.0)
    trainer = make(reward=reward, beta=0.3, max_steps=4, learning_rate=3e-2)
    script(trainer)  # two samples of the same tokens, the prompts in another order
    trainer.train()
    drawn = trainer.sample
    log_ratio = (drawn["old_logprobs"] - drawn["reference_logprobs"]) * drawn["mask"]
    assert log_ratio.abs().max() > 0.01
    paid = -0.3 * log_ratio.flip(1).cumsum(1).flip(1) * drawn["mask"]
    scores = (drawn["returns"] - paid)[:, :1]  # the same at each token, γ = λ = 1
    assert_close(drawn["returns"], (scores + paid) * drawn["mask"], atol=1e-4, rtol=0)
    assert scores.round().sort(dim=0).values.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]


# --- advantages ---


def test_gaes_advantages_are_whitened_over_the_whole_sample_and_not_each_batch(make):
    trainer = make(
        reward=by_topic(1.0, 2.0, 3.0, 6.0),
        per_device_train_batch_size=2,
        steps_per_generation=2,
        min_advantage_std=0.5,
        **ORDERED,
    )
    script(trainer).train()
    drawn, mask = trainer.sample, trainer.sample["mask"]
    raw = drawn["returns"] - drawn["values"]
    assert_close(drawn["advantages"], whiten(raw, mask, 0.5))
    inside = drawn["advantages"][mask.bool()]
    assert inside.mean().item() == pytest.approx(0, abs=1e-5)
    assert inside.var().item() == pytest.approx(1, abs=1e-4)


def test_the_least_deviation_that_whitening_divides_by_is_an_option(make):
    trainer = make(reward=by_topic(1.0, 2.0, 3.0, 6.0), min_advantage_std=10.0, **ORDERED)
    script(trainer).train()
    drawn, inside = trainer.sample, trainer.sample["mask"].bool()
    raw = (drawn["returns"] - drawn["values"])[inside]
    assert_close(drawn["advantages"][inside], (raw - raw.mean()) / 10)


def test_gamma_and_lambda_shape_gaes_advantages_by_hand(make):
    # Values are 0 at first: the score of a completion decays by γλ = 0.72 towards its start.
    trainer = make(
        reward=by_topic(1.0, 1.0, 1.0, 1.0),
        gamma=0.9,
        lam=0.8,
        normalize_advantages=False,
        **ORDERED,
    )
    script(trainer).train()
    d = 0.72
    expected = [[d, 1, 0, 0], [1, 0, 0, 0], [d**3, d**2, d, 1], [d**3, d**2, d, 1]]
    assert_close(trainer.sample["advantages"], torch.tensor(expected))


@pytest.mark.parametrize(
    ("estimator", "scores", "expected"),
    [("rloo", [1.0, 4.0], [-3.0, 3.0]), ("grpo", [1.0, 4.0], [-(0.5**0.5), 0.5**0.5])],
)
def test_group_advantages_stand_on_every_token_of_their_completion(
    make, estimator, scores, expected
):
    trainer = make(
        reward=lambda completions, **kwargs: scores * 2,
        advantage_estimator=estimator,
        beta=0.0,
        **ORDERED,
    )
    script(trainer).train()
    drawn = trainer.sample
    column = torch.tensor(expected * 2).unsqueeze(1)
    assert_close(drawn["advantages"], column * drawn["mask"], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("estimator", "scale", "expected"),
    [
        ("rloo", "batch", [-1.0, 1.0, -4.0, 4.0]),
        ("grpo", "batch", [-0.5, 0.5, -2.0, 2.0]),
        ("grpo", "none", [-0.5, 0.5, -2.0, 2.0]),
    ],
)
def test_groups_are_compared_by_scores_that_are_scaled_as_asked(make, estimator, scale, expected):
    scores = torch.tensor([1.0, 2.0, 4.0, 8.0])
    options = {"advantage_estimator": estimator, "scale_rewards": scale, "beta": 0.0}
    trainer = make(reward=lambda completions, **kwargs: scores, **options, **ORDERED)
    trainer.train()
    scaled = torch.tensor(expected) / (scores.std() if scale == "batch" else 1.0)
    assert_close(trainer.sample["advantages"][:, 0], scaled, atol=1e-3, rtol=0)


def test_rloos_rewards_pay_for_the_kl_of_the_whole_completion(make):
    trainer = make(
        reward=lambda completions, **kwargs: [1.0, 2.0, 4.0, 8.0],
        advantage_estimator="rloo",
        beta=0.5,
        max_steps=4,
        learning_rate=3e-2,
    )
    trainer.train()
    drawn = trainer.sample
    log_ratio = ((drawn["old_logprobs"] - drawn["reference_logprobs"]) * drawn["mask"]).sum(dim=1)
    assert log_ratio.abs().max() > 0.01
    paid = torch.tensor([1.0, 2.0, 4.0, 8.0]) - 0.5 * log_ratio
    others = paid.view(2, 2).flip(1).flatten()
    assert_close(drawn["advantages"][:, 0], paid - others)
    assert logged(trainer, "reward/after_kl")[1] == pytest.approx(paid.mean().item(), rel=1e-4)


def test_grpos_rewards_hold_no_price_of_kl(make):
    trainer = make(advantage_estimator="grpo", beta=5.0, max_steps=4, learning_rate=3e-2)
    trainer.train()
    assert max(map(abs, logged(trainer, "kl/k1_per_sequence"))) > 1e-3
    assert logged(trainer, "reward") == logged(trainer, "reward/after_kl")


def test_group_advantages_can_be_normalized_over_the_batch(make):
    trainer = make(
        reward=lambda completions, **kwargs: [0.0, 2.0, 0.0, 6.0],
        advantage_estimator="rloo",
        normalize_advantages=True,
        beta=0.0,
        **ORDERED,
    )
    trainer.train()
    # −2, 2, −6, 6: deviation √(80 / 3).
    expected = torch.tensor([-2.0, 2.0, -6.0, 6.0]) / (80 / 3) ** 0.5
    assert_close(trainer.sample["advantages"][:, 0], expected, atol=1e-3, rtol=0)


# --- completions that are left out ---


@pytest.mark.parametrize("dropped", [False, True])
def test_groups_whose_rewards_are_all_equal_are_counted_and_can_be_left_out(make, dropped):
    trainer = make(
        reward=lambda completions, **kwargs: [3.0, 3.0, 0.0, 1.0],
        advantage_estimator="grpo",
        drop_zero_std_groups=dropped,
        **ORDERED,
    )
    script(trainer).train()
    assert logged(trainer, "frac_reward_zero_std") == [0.5]
    kept = [0, 0, 4, 4] if dropped else [2, 1, 4, 4]
    assert trainer.sample["mask"].sum(dim=1).tolist() == kept


def test_equal_rewards_are_left_out_of_training_and_not_of_evaluation(make):
    equal = by_topic(3.0, 3.0, 3.0, 3.0)
    options = {"advantage_estimator": "grpo", "drop_zero_std_groups": True}
    assert make(reward=equal, eval_rows=DATA, **options).evaluate()["eval_entropy"] > 0


def test_completions_that_do_not_end_can_be_left_out(make):
    trainer = script(make(mask_truncated_completions=True, **ORDERED))
    trainer.train()
    assert trainer.sample["mask"].sum(dim=1).tolist() == [2, 1, 0, 4]
    assert logged(trainer, "completions/mean_length") == [2.75]  # all four are counted


# --- what is kept of them ---


def test_completions_are_kept_with_their_rewards_and_extra_columns(make):
    def reward(prompts, completions, log_extra, log_metric, **kwargs):
        log_extra("initial", [prompt[0] for prompt in prompts])
        log_metric("prompt_length", len(prompts[0]))
        return [1.0, 2.0, 3.0, 6.0]

    trainer = make(reward=reward, num_completions_to_keep=3, max_steps=4, shuffle_dataset=False)
    script(trainer).train()
    assert trainer.completions["step"].tolist() == [1, 1, 1, 3, 3, 3]
    table = trainer.completions.tail(3)
    assert list(table) == ["step", "prompt", "completion", "reward", "initial"]
    assert table["prompt"].tolist() == PROMPTS[:3] and table["reward"].tolist() == [1.0, 2.0, 3.0]
    texts = trainer.processing_class.batch_decode(SCRIPT[:3], skip_special_tokens=True)
    assert table["completion"].tolist() == texts and len(set(texts)) == 3
    assert table["initial"].tolist() == [prompt[0] for prompt in PROMPTS[:3]]
    assert logged(trainer, "prompt_length") == [len(PROMPTS[0])] * 2


# --- what is refused ---


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused_and_function_and_completion_are_named(make, value):
    def broken(completions, **kwargs):
        return [value if text == "" else 1.0 for text in completions]

    with pytest.raises(ValueError, match=rf"broken returned {value} for the completion ''"):
        script(make(reward=broken)).train()


@pytest.mark.parametrize("count", [3, 5])
def test_a_wrong_number_of_rewards_is_refused(make, count):
    def miscounting(completions, **kwargs):
        return [1.0] * count

    with pytest.raises(ValueError, match=f"miscounting returned {count} rewards for 4 completions"):
        make(reward=miscounting).train()


def test_reward_functions_of_one_name_are_refused(make):
    with pytest.raises(ValueError, match=r"\(length_reward, length_reward\) share a name"):
        make(reward=[length_reward, length_reward])


def test_no_reward_function_is_refused(make):
    with pytest.raises(ValueError, match="reward_funcs is empty"):
        make(reward=[])


def test_a_wrong_number_of_weights_is_refused(make):
    with pytest.raises(ValueError, match="2 reward_weights for 1 reward functions"):
        make(reward_weights=[1.0, 2.0])


def test_a_column_with_a_name_that_rewards_use_is_refused(make):
    rows = Dataset.from_dict({"prompt": PROMPTS, "completions": TOPICS})
    with pytest.raises(ValueError, match=r"column 'completions' has a name reserved .*: rename it"):
        make(rows=rows)
    assert "completions" not in DATA.column_names
