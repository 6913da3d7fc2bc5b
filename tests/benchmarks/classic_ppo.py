"""The classic PPO trainer's part of bench_ppo.py, for an environment with trl 0.11.4.

It reads `config.json` and `ours.safetensors` from a folder, writes `theirs.safetensors` there, and
prints the seconds and gigabytes of one step as JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)
from trl import AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer

PROMPTS, PROMPT_TOKENS, NEW_TOKENS, SCORED_TOKENS = 16, 220, 48, 270


def arithmetic(trainer: PPOTrainer, t: dict) -> dict:
    """Return the classic trainer's advantages, losses and KL estimates for these tensors."""
    values, advantages, returns = trainer.compute_advantages(t["values"], t["rewards"], t["mask"])
    logits = torch.zeros(*t["mask"].shape, 8)
    policy, value, stats = trainer.loss(
        t["old_logprobs"],
        values,
        logits,
        t["new_values"],
        t["logprobs"],
        t["mask"],
        advantages,
        returns,
    )
    k1 = trainer._kl_penalty(t["logprobs"], t["reference_logprobs"])
    trainer.config.kl_penalty = "mse"
    k2 = trainer._kl_penalty(t["logprobs"], t["reference_logprobs"])
    trainer.config.kl_penalty = "kl"
    return {
        "advantages": advantages,
        "returns": returns,
        "policy_loss": policy,
        "value_loss": value / trainer.config.vf_coef,
        "clip_fraction": torch.as_tensor(stats["policy/clipfrac"]),
        "k1": k1,
        "k2": k2,
    }


def main() -> None:
    """Take one step as users of that trainer do, and print its seconds and gigabytes."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    policy = T5ForConditionalGeneration(T5Config.from_pretrained(folder))
    policy.lm_head.weight.data *= policy.config.d_model**-0.5  # as in bench_finetuning.model
    policy.save_pretrained(folder / "policy")
    adapter = LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=32, lora_alpha=32, lora_dropout=0.05, target_modules=["q", "v"]
    )
    model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(
        str(folder / "policy"), peft_config=adapter
    )
    judge = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=50_265, max_position_embeddings=514)
    ).eval()
    config = PPOConfig(batch_size=PROMPTS, mini_batch_size=4, ppo_epochs=1, learning_rate=1e-5)
    trainer = PPOTrainer(
        config, model, ref_model=None, tokenizer=AutoTokenizer.from_pretrained(sys.argv[2])
    )
    theirs = arithmetic(trainer, load_file(folder / "ours.safetensors"))
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in theirs.items()},
        folder / "theirs.safetensors",
    )

    queries = [torch.randint(5, 500, (PROMPT_TOKENS,)) for _ in range(PROMPTS)]
    start = time.perf_counter()
    responses = [
        trainer.generate(q, max_new_tokens=NEW_TOKENS, do_sample=True, top_k=0, top_p=1.0).squeeze(
            0
        )
        for q in queries
    ]
    sampled = time.perf_counter()
    with torch.no_grad():
        ids = torch.randint(5, 500, (PROMPTS, SCORED_TOKENS))
        rewards = [judge(row.unsqueeze(0)).logits[0, 0] for row in ids]
    scored = time.perf_counter()
    trainer.step(queries, responses, rewards)
    end = time.perf_counter()
    parts = {"sampling": sampled - start, "reward": scored - sampled, "update": end - scored}
    print(json.dumps(parts), file=sys.stderr)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": end - start, "gigabytes": kilobytes / 1e6, **parts}))


if __name__ == "__main__":
    main()
