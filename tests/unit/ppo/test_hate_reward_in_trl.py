"""The labs' reward is a plain reward function: TRL's own trainer takes it, too."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel
from trl import GRPOConfig, GRPOTrainer

from utils.ppo import PPOTrainer
from utils.toxicity import HateReward, HateScorer


@pytest.fixture
def scorer(tmp_path, tokenizer) -> HateScorer:
    """A tiny untrained classifier with the labels "nothate" and "hate"."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 16, "vocab_size": len(tokenizer), "initializer_range": 1.0}
    labels = {0: "nothate", 1: "hate"}
    config = BertConfig(**shape, id2label=labels, label2id={v: k for k, v in labels.items()})
    BertForSequenceClassification(config).save_pretrained(tmp_path / "hate")
    tokenizer.save_pretrained(tmp_path / "hate")
    return HateScorer(str(tmp_path / "hate"), device="cpu")


def test_hate_reward_trains_a_decoder_only_model_in_trls_grpo_trainer(
    scorer, tokenizer, dataset, tmp_path
):
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    trainer = GRPOTrainer(
        model=GPT2LMHeadModel(GPT2Config(**shape, **ends)),
        reward_funcs=HateReward(scorer),
        args=GRPOConfig(
            output_dir=str(tmp_path / "grpo"),
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            learning_rate=0.1,
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=8,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=dataset,
        processing_class=left,
    )
    previous = {n: param.clone() for n, param in trainer.model.named_parameters()}

    trainer.train()

    rewards = [e["rewards/nothate_logp/mean"] for e in trainer.state.log_history[:-1]]
    assert len(rewards) == 2 and all(reward < 0 for reward in rewards)
    assert any(not torch.equal(p, trainer.model.get_parameter(n)) for n, p in previous.items())


@pytest.mark.parametrize("kind", ["logp", "logit"])
def test_hate_reward_scores_each_completion_of_our_trainer_alone(
    scorer, tiny_t5, tokenizer, dataset, config, kind
):
    trainer = PPOTrainer(
        model=tiny_t5,
        reward_funcs=HateReward(scorer, kind=kind),
        args=config(max_steps=1, num_completions_to_keep=4),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()

    kept = trainer.completions
    score = scorer.log_probability if kind == "logp" else scorer.logits
    assert kept[f"nothate_{kind}"].tolist() == pytest.approx(
        score(kept["completion"].tolist()), abs=1e-4
    )
