"""PPO, RLOO and GRPO for encoder-decoder models, with the interface of TRL's trainers."""

from utils.ppo.config import PPOConfig
from utils.ppo.losses import gae, policy_loss, value_loss, whiten
from utils.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer", "gae", "policy_loss", "value_loss", "whiten"]
