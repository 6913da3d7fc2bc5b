"""Every encoder-decoder family: sample, learn with an adapter and in full, save and load."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tiny_models import EOS, FAMILIES, PAD, tiny_model
from torch import nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from utils.ppo import PPOTrainer
from utils.ppo.losses import response_mask
from utils.ppo.policy import completion_logprobs, encode, sample, start_token

every_family = pytest.mark.parametrize("family", FAMILIES)
DECODER = r".*\bdecoder\b.*\.(q|v|q_proj|v_proj)"  # the query and value projections


# Of images, and of LED's global attention, which no prompt asks for.
UNUSED = ("vision_tower", "multi_modal_projector", "eoi_embedding", "_global.")
SHAPE = {"mt5": {"initializer_factor": 0.3}}  # else an untrained one repeats its start token


def letters(completions, **kwargs):
    return [float(len(set(completion))) for completion in completions]


def greedy_ids(model: PreTrainedModel, tokenizer, prompts: list[str]) -> torch.Tensor:
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    return model.eval().generate(**batch, max_new_tokens=8, do_sample=False)


def assert_same_model(loaded: PreTrainedModel, trained: PreTrainedModel, tokenizer, prompts):
    """Both write the same, with the same logits."""
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    start = torch.full((len(prompts), 1), start_token(trained))
    with torch.no_grad():
        ours, theirs = (
            model.eval()(**batch, decoder_input_ids=start).logits for model in (trained, loaded)
        )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    written = greedy_ids(trained, tokenizer, prompts)
    assert greedy_ids(loaded, tokenizer, prompts).tolist() == written.tolist()


@every_family
def test_the_sampler_is_the_policy(family, tokenizer, dataset):
    """Prompts of several lengths are padded; sampling uses a cache and the forward pass none."""
    model = tiny_model(family, **SHAPE.get(family, {}))
    batch = tokenizer(list(dataset["prompt"]) * 8, padding=True, return_tensors="pt")
    prompts = encode(model, batch["input_ids"], batch["attention_mask"])
    config = GenerationConfig(
        max_new_tokens=24,
        do_sample=False,
        decoder_start_token_id=start_token(model),
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    ids, sampled = sample(model, prompts, config)

    with torch.no_grad():
        logprobs = completion_logprobs(model, prompts, ids, start_token(model))[0]
    mask = response_mask(ids, EOS).bool()
    assert (ids[mask] == PAD).any()  # a token like any other, where it is sampled
    torch.testing.assert_close(logprobs[mask], sampled[mask], atol=1e-4, rtol=1e-4)


@every_family
def test_a_frozen_encoder_and_its_projections_run_once_and_give_the_same_logprobs(
    family, tokenizer, dataset
):
    model = tiny_model(family, **SHAPE.get(family, {}))
    batch = tokenizer(list(dataset["prompt"]), padding=True, return_tensors="pt")
    ids = torch.randint(3, len(tokenizer) - 3, (4, 6), generator=torch.manual_seed(0))
    with torch.no_grad():
        trained = encode(model, batch["input_ids"], batch["attention_mask"])
        expected = completion_logprobs(model, trained, ids, start_token(model))[0]
        model.requires_grad_(False)
        frozen = encode(model, batch["input_ids"], batch["attention_mask"])
        first, again = (
            completion_logprobs(model, frozen, ids, start_token(model))[0] for _ in range(2)
        )
    assert "last_hidden_state" in frozen and "input_ids" in trained
    shared = [layer for layer in frozen if isinstance(layer, nn.Linear)]
    assert len(shared) == 4  # keys and values of two layers are projected once, too
    for logprobs in (first, again):
        torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


@every_family
def test_a_step_with_a_frozen_encoder_trains_the_decoders_adapter(
    family, tokenizer, dataset, config, tmp_path
):
    model = tiny_model(family, **SHAPE.get(family, {}))
    base = copy.deepcopy(model)
    trainer = PPOTrainer(
        model=model,
        reward_funcs=letters,
        args=config(max_steps=1),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules=DECODER, task_type="SEQ_2_SEQ_LM"),
    )
    before = {n: p.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()

    assert not any("encoder" in n.split("decoder")[0] for n in before if "value_head" not in n)
    changed = [n for n, p in before.items() if not torch.equal(p, trainer.model.get_parameter(n))]
    assert any("lora_B" in n for n in changed)
    assert trainer.state.log_history[0]["sampling/logp_difference"] < 1e-4
    assert abs(trainer.state.log_history[0]["kl"]) < 1e-5
    assert abs(trainer.state.log_history[0]["ratio"] - 1) < 1e-4

    trainer.save_model(str(tmp_path / "adapter"))
    trainer.save_merged(tmp_path / "merged")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert not any("value_head" in name for name in written)
    trained, prompts = trainer.model, list(dataset["prompt"])
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")
    assert_same_model(loaded, trained, tokenizer, prompts)
    assert_same_model(type(base).from_pretrained(tmp_path / "merged"), trained, tokenizer, prompts)


@every_family
def test_a_step_of_all_parameters(family, tokenizer, dataset, config, tmp_path):
    trainer = PPOTrainer(
        model=tiny_model(family, **SHAPE.get(family, {})),
        reward_funcs=letters,
        args=config(max_steps=1, learning_rate=1e-2),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    before = {n: p.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()

    for n, p in before.items():
        if not any(part in n for part in UNUSED):
            assert not torch.equal(p, trainer.model.get_parameter(n)), f"{n} has not changed."
    assert trainer.state.log_history[0]["sampling/logp_difference"] < 1e-4
    assert abs(trainer.state.log_history[0]["ratio"] - 1) < 1e-4

    trainer.save_model(str(tmp_path / "saved"))
    saved = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert_same_model(saved, trainer.model, tokenizer, list(dataset["prompt"]))


@every_family
def test_an_adapter_needs_no_names_of_modules(family, tokenizer, dataset, config):
    lora = LoraConfig(r=4)
    trainer = PPOTrainer(
        model=tiny_model(family, **SHAPE.get(family, {})),
        reward_funcs=letters,
        args=config(max_steps=1, advantage_estimator="grpo"),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.train()
    assert lora.target_modules is None or not family.startswith("t5gemma")  # the caller's stays
    assert not any("vision" in n for n, _ in trainer.model.named_parameters() if ".lora_" in n)

    changed = {n for n, p in trainer.model.named_parameters() if "lora_B" in n and p.any()}
    assert any("encoder" in n for n in changed) and any("decoder" in n for n in changed)


@pytest.mark.parametrize("by_path", [False, True])
def test_a_decoder_only_model_is_sent_to_trl(tokenizer, dataset, config, tmp_path, by_path):
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    model = GPT2LMHeadModel(GPT2Config(**shape))
    model.save_pretrained(tmp_path / "tiny-gpt2")
    with pytest.raises(ValueError, match=r"decoder-only.*TRL's GRPOTrainer or RLOOTrainer"):
        PPOTrainer(
            model=str(tmp_path / "tiny-gpt2") if by_path else model,
            reward_funcs=letters,
            args=config(),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
