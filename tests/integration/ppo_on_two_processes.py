"""One PPO step on each of two processes, for test_ppo_command.py: each writes what it saw."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset

from utils.models import load_model
from utils.ppo import PPOConfig, PPOTrainer
from utils.settings import OFFLINE

state = PartialState(cpu=True)
folder = Path(sys.argv[1])
things = ("ladder", "drill", "saw", "hammer")
prompts = [f"#Person1#: Could I borrow your {thing}?" for thing in things]
seen: list[str] = []


def by_process(prompts, completions, **columns):
    """Reward what tells the processes apart."""
    seen.extend(prompts)
    return [float(state.process_index)] * len(completions)


config = PPOConfig(
    str(folder / "run"),
    max_steps=1,
    per_device_train_batch_size=2,
    max_completion_length=8,
    min_advantage_std=0.0,  # the deviation of these rewards, 0.5, would be below the default
    logging_steps=1,
    learning_rate=1e-2,
    use_cpu=True,
)
model, tokenizer = load_model(str(OFFLINE / "t5"), "cpu")
rows = Dataset.from_dict({"prompt": prompts})
trainer = PPOTrainer(model, by_process, config, rows, processing_class=tokenizer)
trainer.train()
sample, log = trainer.sample, trainer.state.log_history[0]
trained = torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
advantages, returns, mask = (sample[name] for name in ("advantages", "returns", "mask"))
result = {
    "loss": log["loss"],
    # The first ratio is 1 and the first value 0.
    "loss_terms": (-advantages + config.vf_coef * returns**2 / 2)[mask.bool()].tolist(),
    "prompts": seen,
    "completions": sample["ids"].tolist(),
    "advantages": advantages[mask.bool()].tolist(),
    "reward": log["reward"],
    "kl": log["kl/k1_per_sequence"],
    "trained": trained.double().sum().item(),
    "processes": state.num_processes,
}
(folder / f"{state.process_index}.json").write_text(json.dumps(result), encoding="utf-8")
