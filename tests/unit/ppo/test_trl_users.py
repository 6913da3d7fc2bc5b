"""What TRL's users do with RLOOTrainer and GRPOTrainer, done with PPOTrainer as they write it.

The tests follow the thirty-two cases of TRL's own test suite, and more of the same kind.
"""

import copy
import functools
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    TrainerCallback,
)
from trl.rewards import (
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    think_format_reward,
)

from utils.ppo import PPOTrainer

ESTIMATORS = ("gae", "rloo", "grpo")
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
group_estimators = pytest.mark.parametrize("estimator", ("rloo", "grpo"))


def letters(completions, **kwargs):
    """Reward completions with many different letters."""
    return [float(len(set(completion))) for completion in completions]


def length(completions, **kwargs):
    """Reward long completions."""
    return [float(len(completion)) for completion in completions]


def parameters(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    return {n: param.clone() for n, param in trainer.model.named_parameters()}


def assert_all_changed(trainer: PPOTrainer, previous: dict[str, torch.Tensor]) -> None:
    assert trainer.state.log_history[-1]["train_loss"] is not None
    for n, param in previous.items():
        new_param = trainer.model.get_parameter(n)
        assert not torch.equal(param, new_param), f"Parameter {n} has not changed."


def logged(trainer: PPOTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def tiny_bert(tokenizer, name: str = "tiny-bert", **config) -> BertForSequenceClassification:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 16, "vocab_size": len(tokenizer), "num_labels": 1}
    model = BertForSequenceClassification(BertConfig(**shape | config))
    model.config.name_or_path = name
    return model


def tiny_gpt2(tokenizer, name: str = "tiny-gpt2") -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    model = GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=1))
    model.config.name_or_path = name
    return model


@pytest.fixture
def reward_path(tmp_path, tokenizer) -> str:
    """Folder of a tiny reward model and its tokenizer."""
    folder = tmp_path / "tiny-reward"
    tiny_bert(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def model_path(tmp_path, tiny_t5, tokenizer) -> str:
    """Folder of a tiny T5 and its tokenizer."""
    folder = tmp_path / "tiny-t5"
    tiny_t5.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# 1 to 8: reward functions


@every_estimator
def test_train_reward_func_standard(tiny_t5, tokenizer, dataset, config, estimator):
    def reward_func(completions, **kwargs):
        return [float(len(completion)) for completion in completions]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


def test_a_reward_func_may_name_only_what_it_needs(tiny_t5, tokenizer, dataset, config):
    seen = []

    def reward_func(completion_ids, prompts):
        seen.extend(zip(prompts, completion_ids, strict=True))
        return [float(len(ids)) for ids in completion_ids]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(max_steps=1),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert {prompt for prompt, _ in seen} <= set(dataset["prompt"])
    assert all(isinstance(ids, list) and 1 <= len(ids) <= 8 for _, ids in seen)


@pytest.mark.parametrize(
    "reward_func",
    [
        get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=7),
        get_repetition_penalty_reward(ngram_size=1),
    ],
    ids=["soft_overlong_punishment", "repetition_penalty"],
)
@every_estimator
def test_train_with_a_reward_of_trl(tiny_t5, tokenizer, dataset, config, reward_func, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert all(-1 <= reward <= 0 for reward in logged(trainer, "reward"))
    assert min(logged(trainer, "reward")) < 0


@every_estimator
def test_train_multiple_reward_funcs(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[length, letters],
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    for entry in trainer.state.log_history[:-1]:
        total = entry["rewards/length/mean"] + entry["rewards/letters/mean"]
        assert entry["reward"] == pytest.approx(total)


@every_estimator
def test_train_sync_and_async_reward_funcs(tiny_t5, tokenizer, dataset, config, estimator):
    async def async_reward_func(completions, **kwargs):
        return [float(len(set(completion))) for completion in completions]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[length, async_reward_func],
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    assert logged(trainer, "rewards/async_reward_func/mean")


@every_estimator
def test_train_multiple_reward_funcs_with_none_output(
    tiny_t5, tokenizer, dataset, config, estimator
):
    def non_applicable_reward_func(completions, **kwargs):
        return [None] * len(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[letters, non_applicable_reward_func],
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    assert logged(trainer, "reward") == logged(trainer, "rewards/letters/mean")


@every_estimator
def test_rows_without_a_reward_are_left_out_of_the_mean(
    tiny_t5, tokenizer, dataset, config, estimator
):
    def reward_func(prompts, completions, **kwargs):
        return [None if "Anna" in prompt else 2.0 for prompt in prompts]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert logged(trainer, "reward") == [2.0, 2.0]


@every_estimator
def test_warning_raised_all_rewards_none(tiny_t5, tokenizer, dataset, config, caplog, estimator):
    def always_none_reward_func(completions, **kwargs):
        return [None] * len(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=always_none_reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    with caplog.at_level("WARNING"):
        trainer.train()

    assert "All reward functions returned None for the following kwargs:" in caplog.text
    for n, param in previous_trainable_params.items():
        assert torch.equal(param, trainer.model.get_parameter(n)), f"Parameter {n} has changed."


@every_estimator
def test_reward_metric_reflects_reward_weights(tiny_t5, tokenizer, dataset, config, estimator):
    def constant_reward_1(completions, **kwargs):
        return [1.0] * len(completions)

    def constant_reward_0(completions, **kwargs):
        return [0.0] * len(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[constant_reward_1, constant_reward_0],
        args=config(advantage_estimator=estimator, reward_weights=[0.7, 0.3]),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert logged(trainer, "reward") == pytest.approx([0.7, 0.7])
    assert logged(trainer, "rewards/constant_reward_1/mean") == [1.0, 1.0]
    assert logged(trainer, "rewards/constant_reward_1/std") == [0.0, 0.0]
    assert logged(trainer, "rewards/constant_reward_0/mean") == [0.0, 0.0]


def test_as_many_weights_as_reward_funcs_are_needed(tiny_t5, tokenizer, dataset, config):
    with pytest.raises(ValueError, match="1 reward_weights for 2 reward functions"):
        PPOTrainer(
            model=tiny_t5,
            reward_funcs=[length, letters],
            args=config(reward_weights=[1.0]),
            train_dataset=dataset,
            processing_class=tokenizer,
        )


@every_estimator
def test_train_reward_func_additional_column(tiny_t5, tokenizer, dataset, config, estimator):
    dataset = dataset.add_column("some_values", list(range(len(dataset))))
    expected = dict(zip(dataset["prompt"], dataset["some_values"], strict=True))

    def reward_func(prompts, completions, some_values, **kwargs):
        assert some_values == [expected[prompt] for prompt in prompts]
        return [
            float(abs(len(completion) - value))
            for completion, value in zip(completions, some_values, strict=True)
        ]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


@every_estimator
def test_train_with_reward_func_accessing_trainer_state_and_completion_ids(
    tiny_t5, tokenizer, dataset, config, estimator
):
    steps = []

    def reward_func(completions, **kwargs):
        steps.append(kwargs["trainer_state"].global_step)
        texts = tokenizer.batch_decode(kwargs["completion_ids"], skip_special_tokens=True)
        assert texts == completions
        return [float(len(ids)) for ids in kwargs["completion_ids"]]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert steps == [0, 1]


def test_train_reward_func_with_log_extra(tiny_t5, tokenizer, dataset, config, capsys):
    def reward_func(completions, log_extra, **kwargs):
        log_extra("test_column", [completion[:5] for completion in completions])
        return [float(len(completion)) for completion in completions]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(log_completions=True),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    kept = trainer.completions
    assert [text[:5] for text in kept["completion"]] == kept["test_column"].tolist()
    assert "test_col" in capsys.readouterr().out


@every_estimator
def test_train_reward_func_with_log_metric(tiny_t5, tokenizer, dataset, config, estimator):
    def reward_func(completions, log_metric, **kwargs):
        log_metric("custom_accuracy", 0.75)
        return [float(len(completion)) for completion in completions]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert logged(trainer, "custom_accuracy") == [0.75, 0.75]
    assert trainer.evaluate()["eval_custom_accuracy"] == 0.75


class CountWord:
    """A reward with a setting of its own."""

    def __init__(self, word: str):
        self.word = word

    def __call__(self, completions, **kwargs):
        return [float(completion.count(self.word)) for completion in completions]


class AsyncCountWord(CountWord):
    async def __call__(self, completions, **kwargs):
        return super().__call__(completions)


def count_letter(completions, letter, **kwargs):
    return [float(completion.count(letter)) for completion in completions]


@pytest.mark.parametrize(
    ("reward_func", "name"),
    [
        (CountWord("good"), "CountWord"),
        (AsyncCountWord("good"), "AsyncCountWord"),
        (functools.partial(count_letter, letter="o"), "count_letter"),
        (lambda completions, **kwargs: torch.tensor([len(c) for c in completions]), "<lambda>"),
    ],
)
def test_a_reward_may_be_an_instance_a_partial_or_a_lambda(
    tiny_t5, tokenizer, dataset, config, reward_func, name
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[reward_func],
        args=config(max_steps=1),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert logged(trainer, f"rewards/{name}/mean") == logged(trainer, "reward")


def test_a_reward_func_with_too_few_rewards_is_refused(tiny_t5, tokenizer, dataset, config):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=lambda completions, **kwargs: [1.0],
        args=config(),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    with pytest.raises(ValueError, match="returned 1 rewards for 4 completions"):
        trainer.train()


# 9 to 12: adapters, all parameters, gradient checkpointing


def assert_only_the_adapter_changed(trainer, previous, base_param_names) -> None:
    changed = 0
    for n, param in previous.items():
        new_param = trainer.model.get_parameter(n)
        if n in base_param_names:
            torch.testing.assert_close(param, new_param, msg=f"Parameter {n} has changed.")
        elif "base_layer" not in n and ".ref." not in n:
            assert not torch.equal(param, new_param), f"Parameter {n} has not changed."
            changed += 1
        else:
            assert torch.equal(param, new_param), f"Parameter {n} has changed."
    assert changed


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@every_estimator
def test_train_peft_config(tiny_t5, tokenizer, dataset, config, estimator, gradient_checkpointing):
    base_param_names = [f"base_model.model.{n}" for n, _ in tiny_t5.named_parameters()]
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, gradient_checkpointing=gradient_checkpointing),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, task_type="SEQ_2_SEQ_LM"),
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert trainer.state.log_history[-1]["train_loss"] is not None
    assert isinstance(trainer.model, PeftModel)
    assert_only_the_adapter_changed(trainer, previous_trainable_params, base_param_names)


@pytest.mark.parametrize("lora", [LoraConfig(r=4), LoraConfig(r=4, target_modules="all-linear")])
def test_a_peft_config_needs_no_task_type(tiny_t5, tokenizer, dataset, config, lora):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(max_steps=1),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.train()

    assert trainer.state.log_history[-1]["train_loss"] is not None


@every_estimator
def test_train_peft_model(tiny_t5, tokenizer, dataset, config, estimator):
    base_param_names = [f"base_model.model.{n}" for n, _ in tiny_t5.named_parameters()]
    model = get_peft_model(tiny_t5, LoraConfig(r=4, task_type="SEQ_2_SEQ_LM"))
    trainer = PPOTrainer(
        model=model,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, beta=0.1),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert "ref" in trainer.model.peft_config
    assert trainer.state.log_history[-1]["train_loss"] is not None
    assert_only_the_adapter_changed(trainer, previous_trainable_params, base_param_names)


def test_a_peft_model_and_a_peft_config_together_are_refused(tiny_t5, tokenizer, dataset, config):
    lora = LoraConfig(r=4, task_type="SEQ_2_SEQ_LM")
    with pytest.raises(ValueError, match="leave peft_config out"):
        PPOTrainer(
            model=get_peft_model(tiny_t5, lora),
            reward_funcs=letters,
            args=config(),
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora,
        )


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@every_estimator
def test_without_peft_config_all_parameters_are_trained(
    tiny_t5, tokenizer, dataset, config, estimator, gradient_checkpointing
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, gradient_checkpointing=gradient_checkpointing),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=None,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


def test_gradient_checkpointing_changes_no_number(tiny_t5, tokenizer, dataset, config):
    trained = []
    for gradient_checkpointing in (False, True):
        trainer = PPOTrainer(
            model=copy.deepcopy(tiny_t5),
            reward_funcs=letters,
            args=config(gradient_checkpointing=gradient_checkpointing, learning_rate=1e-2),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.train()
        trained.append(logged(trainer, "loss"))

    assert trained[0] == pytest.approx(trained[1], rel=1e-4)


# 13 to 15: evaluation and streams


@every_estimator
def test_train_with_eval(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, eval_strategy="steps", eval_steps=1),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(2)),
        processing_class=tokenizer,
    )
    trainer.train()

    for name in ("eval_loss", "eval_reward", "eval_rewards/letters/mean"):
        assert len(logged(trainer, name)) == 2
    metrics = trainer.evaluate()
    assert metrics["eval_reward"] == metrics["eval_rewards/letters/mean"]
    assert metrics["eval_completions/mean_length"] <= 8


@every_estimator
def test_train_with_num_generations_eval(tiny_t5, tokenizer, dataset, config, estimator):
    rows = []

    def reward_func(completions, **kwargs):
        rows.append(len(completions))
        return letters(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(
            advantage_estimator=estimator,
            num_generations_eval=1,
            eval_strategy="steps",
            eval_steps=2,
        ),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(3)),
        processing_class=tokenizer,
    )
    trainer.train()

    assert rows == [4, 4, 3]


def test_an_eval_batch_must_hold_whole_groups(tiny_t5, tokenizer, dataset, config):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(num_generations_eval=3),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
    )
    with pytest.raises(ValueError, match="multiple of num_generations_eval=3"):
        trainer.evaluate()


def test_a_completion_of_one_token_can_be_evaluated(tiny_t5, tokenizer, dataset, config):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(max_completion_length=1, num_generations=1, per_device_eval_batch_size=1),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(1)),
        processing_class=tokenizer,
    )

    assert trainer.evaluate()["eval_completions/mean_length"] == 1


def test_several_eval_datasets_have_their_names_in_the_metrics(tiny_t5, tokenizer, dataset, config):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(eval_strategy="steps", eval_steps=2),
        train_dataset=dataset,
        eval_dataset={"short": dataset.select(range(2)), "long": dataset.select(range(2, 4))},
        processing_class=tokenizer,
    )
    trainer.train()

    assert len(logged(trainer, "eval_short_reward")) == 1
    assert len(logged(trainer, "eval_long_rewards/letters/mean")) == 1


def test_evaluation_does_not_change_training(tiny_t5, tokenizer, dataset, config):
    """Only step 1 agrees: evaluation draws from the same random numbers."""
    losses = []
    for eval_strategy in ("no", "steps"):
        trainer = PPOTrainer(
            model=copy.deepcopy(tiny_t5),
            reward_funcs=letters,
            args=config(eval_strategy=eval_strategy, eval_steps=1),
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.train()
        losses.append(logged(trainer, "loss")[0])

    assert losses[0] == losses[1]


def test_the_best_checkpoint_by_the_rewards_of_evaluation_is_loaded(
    tiny_t5, tokenizer, dataset, config
):
    worth = iter([3.0, 1.0, 2.0])

    def reward_func(completions, log_metric, **kwargs):
        training = log_metric.__self__ is trainer.metrics["train"]
        value = 0.0 if training else next(worth)
        return [value] * len(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(
            max_steps=3,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_reward",
            greater_is_better=True,
        ),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(1)),
        processing_class=tokenizer,
    )
    trainer.train()

    assert trainer.state.best_metric == 3.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    best = type(tiny_t5).from_pretrained(trainer.state.best_model_checkpoint)
    for n, param in best.named_parameters():
        assert torch.equal(param, trainer.model.get_parameter(n)), n


@every_estimator
def test_train_with_an_iterable_dataset(tiny_t5, tokenizer, dataset, config, estimator):
    prompts = dataset["prompt"]
    stream = IterableDataset.from_generator(lambda: ({"prompt": prompt} for prompt in prompts))
    groups = []

    def reward_func(prompts, completions, **kwargs):
        groups.append(prompts)
        return letters(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator),
        train_dataset=stream,
        eval_dataset=dataset.to_iterable_dataset(),
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    assert all(len(group) == 4 and group[0] == group[1] for group in groups)
    assert len({prompt for group in groups for prompt in group}) == 4  # all of them in two steps
    assert trainer.evaluate()["eval_reward"] > 0


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_is_shuffled_by_the_seed_where_asked_for(
    tiny_t5, tokenizer, dataset, config, shuffle
):
    orders = []

    def reward_func(prompts, completions, **kwargs):
        orders.append(prompts)
        return letters(completions)

    stream = Dataset.from_dict({"prompt": [*dataset["prompt"]] * 2}).to_iterable_dataset()
    for seed in (1, 1, 2):
        PPOTrainer(
            model=copy.deepcopy(tiny_t5),
            reward_funcs=reward_func,
            args=config(
                num_generations=1,
                per_device_train_batch_size=8,
                max_steps=1,
                seed=seed,
                shuffle_dataset=shuffle,
            ),
            train_dataset=stream,
            processing_class=tokenizer,
        ).train()

    assert orders[0] == orders[1]
    assert (orders[0] == orders[2] == [*dataset["prompt"]] * 2) == (not shuffle)
    assert (orders[0] != orders[2]) == shuffle


@pytest.mark.parametrize("streamed", [False, True])
def test_completions_to_one_prompt_stand_side_by_side_in_evaluation_too(
    tiny_t5, tokenizer, dataset, config, streamed
):
    seen = []

    def reward_func(prompts, completions, **kwargs):
        seen.extend(prompts)
        return letters(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(num_generations_eval=2),
        train_dataset=dataset,
        eval_dataset=dataset.to_iterable_dataset() if streamed else dataset,
        processing_class=tokenizer,
    )
    trainer.evaluate()

    assert seen == [prompt for prompt in dataset["prompt"] for _ in range(2)]


# 16 to 26: the options


@every_estimator
def test_train_beta_zero(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, beta=0.0),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert trainer.ref_model is None
    assert_all_changed(trainer, previous_trainable_params)
    assert not logged(trainer, "kl")


@every_estimator
def test_beta_is_the_price_of_kl(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, beta=0.3),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    kl = logged(trainer, "kl")
    assert abs(kl[0]) < 1e-6  # the reference is the policy as training begins
    assert abs(kl[1]) > 1e-3
    assert trainer.args.beta == 0.3


@every_estimator
def test_max_completion_length_is_the_longest_completion(
    tiny_t5, tokenizer, dataset, config, estimator
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, max_completion_length=3),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert max(logged(trainer, "completions/max_length")) == 3
    assert max(logged(trainer, "completions/clipped_ratio")) > 0


def generated(monkeypatch, model, completions: list[list[int]]) -> None:
    """Let the model's `generate` return these completions, as TRL's own tests do."""

    def fake_generate(self, attention_mask, **kwargs):
        ids = torch.tensor(completions)[: len(attention_mask)]
        return torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), ids], dim=1)

    monkeypatch.setattr(type(model), "generate", fake_generate)


TRUNCATED = [9, 10, 11, 12, 13, 14, 15, 16]
ENDED = [17, 18, 19, 1, 0, 0, 0, 0]
ENDED_IN_TIME = [20, 21, 22, 23, 24, 25, 26, 1]


@every_estimator
def test_train_with_mask_truncated_completions(
    tiny_t5, tokenizer, dataset, config, monkeypatch, estimator
):
    generated(monkeypatch, tiny_t5, [TRUNCATED, ENDED, ENDED_IN_TIME, ENDED])
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=length,
        args=config(advantage_estimator=estimator, mask_truncated_completions=True),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    assert logged(trainer, "completions/clipped_ratio")[0] == 0.25
    assert logged(trainer, "completions/mean_terminated_length")[0] == pytest.approx(16 / 3)


@every_estimator
def test_train_with_mask_truncated_completions_all_masked(
    tiny_t5, tokenizer, dataset, config, monkeypatch, estimator
):
    generated(monkeypatch, tiny_t5, [TRUNCATED] * 4)
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, mask_truncated_completions=True),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert trainer.state.log_history[-1]["train_loss"] is not None
    for n, param in previous_trainable_params.items():
        new_param = trainer.model.get_parameter(n)
        assert torch.equal(param, new_param), f"Parameter {n} has changed."


@pytest.mark.parametrize("scale_rewards", ["none", "batch", "group", True, False])
@every_estimator
def test_train_scale_rewards(tiny_t5, tokenizer, dataset, config, estimator, scale_rewards):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, scale_rewards=scale_rewards),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@every_estimator
def test_train_loss_types(tiny_t5, tokenizer, dataset, config, estimator, loss_type):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(
            advantage_estimator=estimator, loss_type=loss_type, gradient_accumulation_steps=2
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


@pytest.mark.parametrize(
    "option",
    [
        {"epsilon_high": 0.28},
        {"delta": 2.0},
        {"reward_clip_range": (5, 15)},
        {"normalize_advantages": True},
        {"normalize_advantages": False},
        {"num_iterations": 2},
        {"importance_sampling_level": "token"},
        {"missing_eos_penalty": 1.0},
    ],
    ids=lambda option: "-".join(option),
)
@every_estimator
def test_train_with_an_option(tiny_t5, tokenizer, dataset, config, estimator, option):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=length,
        args=config(advantage_estimator=estimator, max_steps=3, **option),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.7},
        {"repetition_penalty": 1.1},
        {"top_p": 0.9, "top_k": 10, "min_p": 0.01, "repetition_penalty": 1.1},
        {"generation_kwargs": {"do_sample": True, "top_k": 50, "num_beams": 2}},
        {"generation_kwargs": '{"top_k": 50}'},
        {"lr_scheduler_type": "cosine", "warmup_steps": 1},
        {"weight_decay": 0.1, "max_grad_norm": 0.5},
    ],
    ids=lambda option: "-".join(option),
)
def test_train_with_an_option_of_sampling_or_of_the_optimizer(
    tiny_t5, tokenizer, dataset, config, option
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=length,
        args=config(**option),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


@group_estimators
def test_train_with_the_ratio_of_whole_sequences(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, importance_sampling_level="sequence"),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


def test_reward_clip_range_bounds_what_is_learned_from_and_not_what_is_logged(
    tiny_t5, tokenizer, dataset, config
):
    def reward_func(completions, **kwargs):
        return [100.0] * len(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(reward_clip_range=(-1, 1), max_steps=1, beta=0.0),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert logged(trainer, "reward") == [100.0]
    assert logged(trainer, "reward/after_kl") == [1.0]


@every_estimator
def test_num_iterations_is_how_often_a_sample_is_learned_from(
    tiny_t5, tokenizer, dataset, config, estimator
):
    calls = []

    def reward_func(completions, **kwargs):
        calls.append(len(completions))
        return letters(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(advantage_estimator=estimator, num_iterations=3, max_steps=6),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert calls == [4, 4]


@every_estimator
def test_train_with_sync_ref_model(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(
            advantage_estimator=estimator, beta=0.1, sync_ref_model=True, ref_model_sync_steps=2
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)
    assert trainer.ref_model is not None
    previous_ref_params = {n: p.clone() for n, p in trainer.ref_model.named_parameters()}

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    for n, param in previous_ref_params.items():
        new_ref_param = trainer.ref_model.get_parameter(n)
        assert not torch.equal(param, new_ref_param), f"Ref Parameter {n} has not changed."


# 27: reward models


@every_estimator
def test_train_with_a_reward_model_by_path(
    tiny_t5, tokenizer, dataset, config, reward_path, estimator
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_path,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    assert len(logged(trainer, "rewards/tiny-reward/mean")) == 2


@pytest.mark.parametrize("reward_model", [tiny_bert, tiny_gpt2])
def test_train_with_a_loaded_reward_model(tiny_t5, tokenizer, dataset, config, reward_model):
    reward_model = reward_model(tokenizer)
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_model,
        args=config(),
        train_dataset=dataset,
        processing_class=tokenizer,
        reward_processing_classes=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    assert len(trainer.reward_processing_classes) == 1
    assert trainer.reward_processing_classes[0] is tokenizer


def test_a_reward_model_without_a_name_is_logged_under_its_class(
    tiny_t5, tokenizer, dataset, config
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[tiny_bert(tokenizer, name=""), tiny_gpt2(tokenizer, name="")],
        args=config(max_steps=1),
        train_dataset=dataset,
        processing_class=tokenizer,
        reward_processing_classes=[tokenizer, tokenizer],
    )
    trainer.train()

    assert logged(trainer, "rewards/BertForSequenceClassification/mean")
    assert logged(trainer, "rewards/GPT2ForSequenceClassification/mean")


def test_train_multiple_mixed_reward_funcs(tiny_t5, tokenizer, dataset, config, reward_path):
    async def async_reward_func(completions, **kwargs):
        return letters(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[length, reward_path, tiny_gpt2(tokenizer), async_reward_func],
        args=config(reward_weights=[0.1, 1.0, 1.0, 0.1]),
        train_dataset=dataset,
        processing_class=tokenizer,
        reward_processing_classes=[None, None, tokenizer, None],
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    for name in ("length", "tiny-reward", "tiny-gpt2", "async_reward_func"):
        assert len(logged(trainer, f"rewards/{name}/mean")) == 2


def test_a_reward_model_reads_prompt_and_completion(tiny_t5, tokenizer, dataset, config):
    reward_model, pairs, rewards = tiny_bert(tokenizer), [], []

    def spy(prompts, completions, **kwargs):
        pairs.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(prompts)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[reward_model, spy],
        args=config(max_steps=1, num_completions_to_keep=4),
        train_dataset=dataset,
        processing_class=tokenizer,
        reward_processing_classes=[tokenizer, None],
    )
    trainer.train()

    for prompt, completion in pairs:
        ids = tokenizer(prompt + completion, return_tensors="pt")
        with torch.no_grad():
            rewards.append(reward_model(**ids).logits.item())
    assert trainer.completions["tiny-bert"].tolist() == pytest.approx(rewards, abs=1e-5)


def test_a_reward_model_with_two_outputs_is_refused(tiny_t5, tokenizer, dataset, config):
    with pytest.raises(ValueError, match="which one is the reward"):
        PPOTrainer(
            model=tiny_t5,
            reward_funcs=tiny_bert(tokenizer, num_labels=2),
            args=config(),
            train_dataset=dataset,
            processing_class=tokenizer,
            reward_processing_classes=tokenizer,
        )


def test_mismatched_reward_processing_classes_length(tiny_t5, tokenizer, dataset, config):
    with pytest.raises(ValueError, match="must match"):
        PPOTrainer(
            model=tiny_t5,
            reward_funcs=[tiny_bert(tokenizer), tiny_gpt2(tokenizer)],
            reward_processing_classes=tokenizer,  # only one, but need two
            args=config(),
            train_dataset=dataset,
            processing_class=tokenizer,
        )


# 28 to 31: generation, tokenizer, workers, resume


def test_generation_kwargs_reach_transformers(tiny_t5, tokenizer, dataset, config):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(generation_kwargs={"min_new_tokens": 8, "top_k": 5}),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert min(logged(trainer, "completions/min_length")) == 8
    assert trainer.generation_config.top_k == 5


def test_model_and_reward_model_by_path_and_nothing_else(
    dataset, model_path, reward_path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    more = Dataset.from_dict({"prompt": list(dataset["prompt"]) * 2})
    trainer = PPOTrainer(model=model_path, reward_funcs=reward_path, train_dataset=more)

    assert trainer.args.advantage_estimator == "gae"
    assert trainer.processing_class.eos_token_id == 1


def test_model_by_path_with_its_own_tokenizer(dataset, config, model_path):
    trainer = PPOTrainer(
        model=model_path,
        reward_funcs=letters,
        args=config(model_init_kwargs={"dtype": "float32"}),
        train_dataset=dataset,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


def test_a_bf16_models_weights_are_loaded_in_float32(tiny_t5, tokenizer, dataset, config, tmp_path):
    tiny_t5.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    trainer = PPOTrainer(
        model=str(tmp_path / "bf16"),
        reward_funcs=letters,
        args=config(),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    assert {param.dtype for param in trainer.model.parameters()} == {torch.float32}


def test_train_multiple_dataloader_workers(tiny_t5, tokenizer, dataset, config):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(dataloader_num_workers=2),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


@every_estimator
def test_train_resumes_from_a_checkpoint(tiny_t5, tokenizer, dataset, config, estimator):
    def trainer():
        return PPOTrainer(
            model=copy.deepcopy(tiny_t5),
            reward_funcs=letters,
            args=config(
                advantage_estimator=estimator,
                max_steps=3,
                save_strategy="steps",
                save_steps=1,
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
        )

    whole = trainer()
    whole.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-2")

    assert resumed.state.global_step == 3
    for n, param in whole.model.named_parameters():
        assert torch.equal(param, resumed.model.get_parameter(n)), n


# 32: what is logged


@every_estimator
def test_log_keys(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator, beta=0.1),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    keys = {"reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "loss", "grad_norm"}
    keys |= {"rewards/letters/mean", "rewards/letters/std", "learning_rate"}
    keys |= {f"completions/{which}_length" for which in ("mean", "min", "max")}
    keys |= {f"completions/{which}_terminated_length" for which in ("mean", "min", "max")}
    keys |= {"completions/clipped_ratio", "clip_ratio/region_mean"}
    keys |= {"clip_ratio/low_mean", "clip_ratio/high_mean"}
    assert keys <= trainer.state.log_history[0].keys()


def test_the_last_entry_of_the_log_holds_what_was_not_logged_before(
    tiny_t5, tokenizer, dataset, config
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(logging_steps=2, max_steps=3),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    last = trainer.state.log_history[-1]
    assert last["rewards/letters/mean"] == last["reward"]


@pytest.mark.parametrize("num_completions_to_print", [None, 0, 1])
def test_log_completions_prints_a_table(
    tiny_t5, tokenizer, dataset, config, capsys, num_completions_to_print
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(
            log_completions=True, num_completions_to_print=num_completions_to_print, max_steps=1
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    out = capsys.readouterr().out
    assert ("Completion" in out) == (num_completions_to_print != 0)


# More of the same kind


@every_estimator
def test_train_num_generations_larger_than_batch_size(
    tiny_t5, tokenizer, dataset, config, estimator
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(
            advantage_estimator=estimator,
            per_device_train_batch_size=2,
            num_generations=4,  # larger than the batch, but
            gradient_accumulation_steps=2,  # gradient accumulation should allow that
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)


@pytest.mark.parametrize(
    "batches",
    [{"generation_batch_size": 8}, {"steps_per_generation": 4}],
    ids=lambda d: next(iter(d)),
)
@every_estimator
def test_a_sample_of_several_batches(tiny_t5, tokenizer, dataset, config, estimator, batches):
    samples = []

    def reward_func(prompts, completions, **kwargs):
        samples.append(prompts)
        return letters(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(
            advantage_estimator=estimator,
            per_device_train_batch_size=2,
            num_generations=4,
            max_steps=8,
            **batches,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert trainer.args.generation_batch_size == 8 and trainer.args.steps_per_generation == 4
    assert [len(sample) for sample in samples] == [8, 8]
    assert all(len(set(sample[i : i + 4])) == 1 for sample in samples for i in (0, 4))
    assert len({prompt for sample in samples for prompt in sample}) == 4


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_gradient_accumulation_changes_no_number(tiny_t5, tokenizer, dataset, config, loss_type):
    norms = []
    for batch, accumulation in ((4, 1), (2, 2)):
        trainer = PPOTrainer(
            model=copy.deepcopy(tiny_t5),
            reward_funcs=letters,
            args=config(
                loss_type=loss_type,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=1,
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.train()
        norms.append(logged(trainer, "grad_norm")[0])

    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@every_estimator
def test_max_steps_may_end_within_a_sample(tiny_t5, tokenizer, dataset, config, estimator):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(
            advantage_estimator=estimator,
            num_iterations=2,
            max_steps=3,
            save_strategy="steps",
            save_steps=3,
            eval_strategy="steps",
            eval_steps=3,
        ),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert trainer.state.global_step == 3
    assert len(logged(trainer, "eval_reward")) == 1
    assert (Path(trainer.args.output_dir) / "checkpoint-3").is_dir()


def test_num_train_epochs_goes_over_all_prompts(tiny_t5, tokenizer, dataset, config):
    seen = []

    def reward_func(prompts, completions, **kwargs):
        seen.extend(prompts)
        return letters(completions)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=reward_func,
        args=config(max_steps=-1, num_train_epochs=2, num_iterations=2),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    assert trainer.state.global_step == 8  # 2 epochs · 2 samples · 2 iterations
    assert sorted(seen) == sorted(list(dataset["prompt"]) * 4)  # 2 epochs · 2 generations


def test_callbacks_are_called(tiny_t5, tokenizer, dataset, config):
    seen = []

    class Record(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(logs)

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(),
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[Record()],
    )
    trainer.train()

    assert "reward" in seen[0]


@pytest.mark.parametrize("scheduled", [False, True])
@every_estimator
def test_train_with_an_optimizer_of_ones_own(
    tiny_t5, tokenizer, dataset, config, estimator, scheduled
):
    optimizer = torch.optim.SGD(tiny_t5.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(advantage_estimator=estimator),
        train_dataset=dataset,
        processing_class=tokenizer,
        optimizers=(optimizer, scheduler if scheduled else None),
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)  # the value head, too
    if scheduled and estimator == "gae":
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [0.1, trainer.args.value_learning_rate]


def test_conversational_prompts_and_a_reward_for_them(tiny_t5, tokenizer, dataset, config):
    dataset = dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})

    def reward_func(completions, **kwargs):
        return [float(len(completion[0]["content"])) for completion in completions]

    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=[reward_func, think_format_reward],
        args=config(),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
    )
    previous_trainable_params = parameters(trainer)

    trainer.train()

    assert_all_changed(trainer, previous_trainable_params)
    assert trainer.evaluate()["eval_rewards/think_format_reward/mean"] == 0


def test_remove_unused_columns_keeps_the_prompt(tiny_t5, tokenizer, dataset, config):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(remove_unused_columns=True, max_steps=1),
        train_dataset=dataset.add_column("other", list("abcd")),
        processing_class=tokenizer,
    )
    trainer.train()

    assert trainer.state.log_history[-1]["train_loss"] is not None


@pytest.mark.parametrize("value_trunk", ["detached", "shared", "own"])
def test_train_value_trunks(tiny_t5, tokenizer, dataset, config, value_trunk):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(value_trunk=value_trunk, max_steps=4),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    trunk = value_trunk == "own"
    assert any(n.startswith("value_head.trunk") for n in parameters(trainer)) == trunk
    assert trainer.state.log_history[-1]["train_loss"] is not None


def test_the_trained_model_is_saved_as_a_plain_one(tiny_t5, tokenizer, dataset, config, tmp_path):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=letters,
        args=config(),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))

    saved, loading = type(tiny_t5).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not loading["unexpected_keys"] and not loading["missing_keys"]
    for n, param in saved.named_parameters():
        assert torch.equal(param, trainer.model.get_parameter(n))
