"""Bad input gets an error that names the value and the remedy."""

import copy
import math
from dataclasses import fields

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_ppo import DATA, DECODER_ONLY, PROMPTS, length_reward, trained_adapter
from transformers import TrainingArguments
from trl import GRPOConfig, RLOOConfig

from utils.ppo import PPOConfig, PPOTrainer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage_estimator": "reinforce"}, "advantage_estimator='reinforce': choose from gae,"),
        ({"loss_type": "mean"}, "loss_type='mean': choose from grpo, bnpo, dr_grpo, dapo"),
        ({"scale_rewards": "all"}, "scale_rewards='all': choose from group, batch, none"),
        ({"value_trunk": "twin"}, "value_trunk='twin': choose from detached, shared, own"),
        ({"importance_sampling_level": "word"}, "importance_sampling_level='word': choose from"),
        (
            {"importance_sampling_level": "sequence"},
            "choose 'token', or advantage_estimator='rloo'",
        ),
        (
            {"advantage_estimator": "rloo", "num_generations": 1},
            "num_generations=1 must be at least 2",
        ),
        ({"num_generations": 0}, "num_generations=0 must be at least 1"),
        ({"num_iterations": 0}, "num_iterations=0 must be at least 1"),
        ({"max_completion_length": 0}, "max_completion_length=0 must be at least 1"),
        ({"kl_horizon": 0}, "kl_horizon=0 must be at least 1"),
        ({"kl_target": 0.0}, "kl_target=0.0 must be a positive number"),
        ({"kl_target": math.nan}, "kl_target=nan must be a positive number"),
        ({"kl_target": 1.0, "beta": 0.0}, "set a beta above 0"),
        (
            {"advantage_estimator": "rloo", "num_generations": 3},
            "generation_batch_size=4 must be a multiple of num_generations=3",
        ),
        (
            {"generation_batch_size": 6},
            "generation_batch_size=6 must be a multiple of the",
        ),
        (
            {"generation_batch_size": 8, "steps_per_generation": 3},
            "generation_batch_size or steps_per_generation, not both",
        ),
        (
            {
                "advantage_estimator": "rloo",
                "eval_strategy": "steps",
                "eval_steps": 1,
                "num_generations_eval": 3,
            },
            "evaluation batch of 4 completions must be a multiple of num_generations_eval=3",
        ),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True would break up groups"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_cannot_work_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


OURS = {  # beside what report_to and the Trainer's own options are set to, for a T5 on any device
    "learning_rate": 1e-5,
    "disable_dropout": True,
}


@pytest.mark.parametrize(("estimator", "trl"), [("rloo", RLOOConfig), ("grpo", GRPOConfig)])
def test_the_options_of_rloo_and_grpo_have_trls_defaults(tmp_path, estimator, trl):
    size = {"per_device_train_batch_size": 8, "output_dir": str(tmp_path), "use_cpu": True}
    ours = PPOConfig(**size, advantage_estimator=estimator)
    theirs = trl(**size)
    inherited = {f.name for f in fields(TrainingArguments)} - {"learning_rate", "logging_steps"}
    shared = {f.name for f in fields(ours)} & {f.name for f in fields(theirs)} - inherited
    assert {"beta", "num_generations", "num_iterations", "epsilon", "temperature"} <= shared
    differing = {n: getattr(ours, n) for n in shared if getattr(ours, n) != getattr(theirs, n)}
    assert differing == {n: v for n, v in OURS.items() if n in shared}


def test_the_options_of_ppo_are_those_that_it_is_published_with(tmp_path):
    ours = PPOConfig(str(tmp_path))
    assert (ours.num_generations, ours.num_iterations, ours.beta) == (1, 4, 0.05)
    assert (ours.epsilon, ours.epsilon_value, ours.vf_coef) == (0.2, 0.2, 0.1)
    assert (ours.gamma, ours.lam, ours.min_advantage_std) == (1.0, 1.0, 1.0)
    assert ours.normalize_advantages and ours.value_trunk == "detached"
    assert (ours.loss_type, ours.scale_rewards) == ("bnpo", "none")


@pytest.mark.parametrize(("given", "meant"), [(True, "group"), (False, "none")])
def test_scale_rewards_may_be_said_with_true_and_false_as_in_trl(tmp_path, given, meant):
    assert PPOConfig(str(tmp_path), scale_rewards=given).scale_rewards == meant


def test_every_option_is_explained():
    own = set(PPOConfig.__annotations__)
    assert {"beta", "epsilon", "max_kl", "missing_eos_penalty"} <= own
    assert all(PPOConfig.__dataclass_fields__[name].metadata.get("help") for name in own)


def test_a_tokenizer_without_eos_is_refused(make, tokenizer):
    own = copy.deepcopy(tokenizer)
    own.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        make(processing_class=own)


def test_data_without_prompts_are_refused_and_the_model_is_left_alone(make, tiny_t5):
    with pytest.raises(ValueError, match=r"no column is named 'prompt' \(columns: query, topic\)"):
        make(rows=DATA.rename_column("prompt", "query"), peft_config=LoraConfig(**DECODER_ONLY))
    assert not any("lora" in name for name, _ in tiny_t5.named_parameters())


def test_missing_data_and_data_that_are_no_dataset_are_refused(make):
    with pytest.raises(ValueError, match="train_dataset is missing"):
        make(rows=None)
    with pytest.raises(TypeError, match="not a list"):
        make(rows=PROMPTS)


def test_evaluation_data_are_checked_too(tiny_t5, tokenizer, config):
    for rows in (DATA.remove_columns("prompt"), {"a": DATA, "b": DATA.remove_columns("prompt")}):
        with pytest.raises(ValueError, match=r"no column is named 'prompt' \(columns: topic\)"):
            PPOTrainer(tiny_t5, length_reward, config(), DATA, rows, processing_class=tokenizer)


def test_fewer_prompts_than_are_sampled_from_at_once_are_refused_with_the_remedy(make):
    with pytest.raises(
        ValueError, match=r"has 4 prompts, fewer than the 5 .*lower per_device_train_batch_size"
    ):
        make(per_device_train_batch_size=5)
    assert make(per_device_train_batch_size=4) is not None


def test_an_incomplete_last_batch_of_prompts_makes_no_step(make):
    rows = Dataset.from_dict({"prompt": [*PROMPTS, "ladder"]})
    trainer = make(rows=rows, max_steps=-1, num_train_epochs=2, num_iterations=1)
    trainer.train()
    assert trainer.state.global_step == 2  # one full batch in each epoch


def test_an_adapter_that_does_not_train_is_refused(make, tiny_t5):
    frozen = trained_adapter(tiny_t5)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no parameter to train: .*is_trainable=True"):
        make(frozen)


def test_an_adapter_and_a_peft_config_together_are_refused(make, tiny_t5):
    model = get_peft_model(tiny_t5, LoraConfig(r=4, target_modules=["q"]))
    with pytest.raises(ValueError, match=r"leave peft_config out .* or merge it first"):
        make(model, peft_config=LoraConfig(**DECODER_ONLY))


def test_a_model_without_a_start_token_is_refused(make, tiny_t5):
    for settings in (tiny_t5.config, tiny_t5.generation_config):
        settings.decoder_start_token_id = settings.bos_token_id = None
    with pytest.raises(ValueError, match=r"set model\.config.decoder_start_token_id"):
        make()
