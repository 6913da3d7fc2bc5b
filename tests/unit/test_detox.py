"""The policy as found, its prompts, and the settings as a PPO configuration."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from torch.testing import assert_close

from utils.detox import (
    add_prompts,
    decoder_adapter,
    detox_config,
    detox_reward,
    initial_policy,
    lab2_policy,
    tuned_copy,
    write,
)
from utils.finetuning import lora_config
from utils.lab.heated import HEATED, annotate
from utils.models import load_model
from utils.prompts import build_prompt
from utils.settings import adapter_base, load_settings

CPU = torch.device("cpu")


@pytest.fixture
def settings():
    return load_settings("offline")


def save_adapter(model_id: str, folder) -> torch.Tensor:
    """Save an adapter that changes something; logits of the model with it."""
    model, tokenizer = load_model(model_id, "cpu")
    adapted = get_peft_model(model, lora_config(4, lora_dropout=0.0))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return adapted.eval()(
        **tokenizer("hello", return_tensors="pt"), decoder_input_ids=torch.zeros(1, 1).long()
    ).logits


@torch.no_grad()
def test_the_initial_policy_has_the_adapter_merged(settings, tmp_path):
    expected = save_adapter(settings.model, tmp_path)
    found, tokenizer = initial_policy(settings, tmp_path, "cpu")
    assert not any("lora" in name for name, _ in found.named_parameters())
    logits = found(
        **tokenizer("hello", return_tensors="pt"), decoder_input_ids=torch.zeros(1, 1).long()
    ).logits
    assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_missing_adapter_and_one_of_another_model_are_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="holds no adapter: run Lab 2 first"):
        initial_policy(settings, tmp_path / "nothing")
    assert adapter_base(tmp_path / "nothing") is None
    save_adapter(settings.model, tmp_path)
    assert adapter_base(tmp_path) == settings.model
    config = (tmp_path / "adapter_config.json").read_text(encoding="utf-8")
    (tmp_path / "adapter_config.json").write_text(
        config.replace(settings.model, "another/model"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="belongs to 'another/model'"):
        initial_policy(settings, tmp_path)
    assert adapter_base(tmp_path) != settings.model


def test_lab_3_starts_from_lab_2s_adapter_and_trains_one_where_there_is_none(tmp_path):
    sizes = {"train_dialogues": 4, "validation_dialogues": 2, "batch_size": 4, "lora_epochs": 1}
    settings = load_settings("offline", output_dir=str(tmp_path), max_new_tokens=4, **sizes)
    lab2_policy(settings, tmp_path / "lab3")
    assert adapter_base(tmp_path / "lab3" / "lora") == settings.model
    save_adapter(settings.model, tmp_path / "lab2" / "lora" / "best")
    found, _ = lab2_policy(settings, tmp_path / "unused")
    expected, _ = initial_policy(settings, tmp_path / "lab2" / "lora" / "best")
    assert_close(found.state_dict(), expected.state_dict())
    assert not (tmp_path / "unused").exists()


def test_prompts_are_lab_2s(settings):
    rows = add_prompts(Dataset.from_dict({"dialogue": ["#Person1#: Hello.\n#Person2#: Hi."]}))
    assert rows["prompt"][0] == build_prompt("#Person1#: Hello.\n#Person2#: Hi.")


def test_the_decoders_adapter_leaves_the_encoder_frozen(settings):
    model, _ = load_model(settings.model, "cpu")
    names = [
        n
        for n, p in get_peft_model(model, decoder_adapter(settings)).named_parameters()
        if p.requires_grad
    ]
    assert names and all(".decoder." in name for name in names)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_every_estimator_samples_as_many_responses_in_a_step(settings, tmp_path, estimator):
    ppo = detox_config(settings, CPU, tmp_path)
    other = detox_config(settings, CPU, tmp_path, advantage_estimator=estimator)
    assert ppo.generation_batch_size == other.generation_batch_size == settings.ppo_batch_size
    assert other.num_generations == settings.ppo_generations
    assert ppo.beta == settings.kl_coef
    assert other.beta == {"rloo": settings.kl_coef, "grpo": settings.grpo_kl_coef}[estimator]


def test_changes_win_over_settings(settings, tmp_path):
    config = detox_config(settings, CPU, tmp_path, beta=0.0, seed=7, advantage_estimator="grpo")
    assert (config.beta, config.seed) == (0.0, 7)


@pytest.mark.parametrize(
    ("estimator", "precision"), [("gae", "auto"), ("rloo", "auto"), ("grpo", "fp32")]
)
def test_grpo_gets_its_reward_in_float32_and_the_others_in_the_settings_precision(
    estimator, precision
):
    settings = load_settings("cpu")
    assert settings.precision == "auto"
    scorer = SimpleNamespace(device=torch.device("cpu"))
    assert detox_reward(scorer, settings, estimator).precision == precision


@pytest.fixture(scope="module")
def rows():
    """Heated dialogues for training."""
    return Dataset.from_csv(str(HEATED / "train.csv")).select(range(4))


def test_samples_repeat_with_the_seed_and_differ_from_greedy_answers(settings, rows):
    model, tokenizer = load_model(settings.model, "cpu")
    prompts = [build_prompt(text) for text in rows["dialogue"]]
    short, hot = {"max_new_tokens": 12}, {"max_new_tokens": 12, "temperature": 3.0}
    first, second = (write(model, tokenizer, prompts, settings, **hot) for _ in range(2))
    assert first == second
    assert first != write(model, tokenizer, prompts, settings, do_sample=False, **short)
    other = load_settings("offline", seed=1)
    assert first != write(model, tokenizer, prompts, other, **hot)


def test_tuned_copy_changes_the_copy_and_not_the_policy(settings, rows, tmp_path):
    model, tokenizer = load_model(settings.model, "cpu")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rows = annotate(rows, {"cool": 1.0})
    options = {"max_steps": 2, "per_device_train_batch_size": 4}
    tuned = tuned_copy(model, tokenizer, rows, settings, tmp_path, **options)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any("lora" in name for name, _ in tuned.named_parameters())
    assert any(not torch.equal(tuned.state_dict()[name], before[name]) for name in before)
