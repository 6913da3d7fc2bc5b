"""PPO, RLOO and GRPO for encoder-decoder models, with the interface of TRL's trainers."""

from .config import PPOConfig
from .losses import gae, policy_loss, value_loss, whiten
from .trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer", "gae", "policy_loss", "value_loss", "whiten"]
