"""One PPO step on each of two processes, started by test_ppo_command.py: every process writes down what it saw."""

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
prompts = [
    f"#Person1#: Could I borrow your {thing}?" for thing in ("ladder", "drill", "saw", "hammer")
]
seen: list[str] = []


def by_process(prompts, completions, **columns):
    """A reward that tells the processes apart."""
    seen.extend(prompts)
    return [float(state.process_index)] * len(completions)


class Recorder(PPOTrainer):
    """Keeps its rollouts."""

    def _roll_out(self, rows):
        self.rollout = super()._roll_out(rows)
        return self.rollout


trainer = Recorder(
    *load_model(str(OFFLINE / "t5"), "cpu"),
    by_process,
    PPOConfig(
        str(folder / "run"),
        max_steps=1,
        per_device_train_batch_size=2,
        max_new_tokens=8,
        missing_eos_penalty=0.0,
        learning_rate=1e-2,
        use_cpu=True,
    ),
    Dataset.from_dict({"prompt": prompts}),
)
trainer.train()
rollout = trainer.rollout
trained = torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
result = {
    "prompts": seen,
    "responses": rollout.responses.tolist(),
    "advantages": rollout.advantages[rollout.mask.bool()].tolist(),
    "score": trainer.state.log_history[0]["score/raw"],
    "kl": trainer.state.log_history[0]["kl/k1_per_sequence"],
    "trained": trained.double().sum().item(),
    "processes": state.num_processes,
}
(folder / f"{state.process_index}.json").write_text(json.dumps(result), encoding="utf-8")
