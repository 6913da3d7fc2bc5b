"""Measure what less toxicity costs, with PPO, RLOO and GRPO at several KL prices and two seeds.

All runs lack the gentle settings of the labs (see `utils.detox.UNDER_PRESSURE`), so that the KL
price alone keeps the policy near its reference. Scores are on validation dialogues. Lab 3 shows the
table that this script wrote, `sweep.csv`, from which we chose the KL prices of the preset
"offline". The sweep takes about 20 minutes on two cores, after Lab 2 has run. Points that the table
has are not computed again:

    rm utils/offline/sweep.csv
    python -m tools.small_world.sweep --adapter out/lab2/lora/best
"""

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.data import drop_near_duplicates, first_rows, group_references, load_dialogsum
from utils.detox import (
    UNDER_PRESSURE,
    add_prompts,
    decoder_adapter,
    detox_config,
    detox_reward,
    initial_policy,
)
from utils.ppo import PPOTrainer
from utils.results import judge_model
from utils.settings import OFFLINE, Settings, load_settings
from utils.toxicity import HateScorer, split_by_heat

SWEEP = OFFLINE / "sweep.csv"
PRICES = {
    "gae": (0.0, 0.3, 1.0, 3.0),
    "rloo": (0.0, 1.0, 3.0),
    "grpo": (0.0, 0.1, 0.3, 1.0),
}
SEEDS = (0, 1)


def mean_scores(
    policy: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    heated: Dataset,
    ordinary: Dataset,
    scorer: HateScorer,
    settings: Settings,
) -> dict[str, float]:
    """Score one policy: toxicity on heated dialogues, ROUGE-1 and words on ordinary ones."""
    toxicity = judge_model(policy, tokenizer, heated, settings, scorer)
    quality = judge_model(policy, tokenizer, ordinary, settings)
    means = {**toxicity[["toxicity", "insulting_word"]].mean()}
    return means | {**quality[["rouge1", "words"]].mean()}


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Dataset,
    scorer: HateScorer,
    settings: Settings,
    **changes: Any,
) -> tuple[PreTrainedModel | PeftModel, float]:
    """Train a copy of the policy; return it with the mean KL of its last ten steps, in nats."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            copy.deepcopy(policy),
            detox_reward(scorer, settings, changes["advantage_estimator"], kind="logit"),
            detox_config(settings, policy.device, folder, **UNDER_PRESSURE | changes),
            prompts,
            processing_class=tokenizer,
            peft_config=decoder_adapter(settings),
        )
        trainer.train()
    log = pd.DataFrame(trainer.state.log_history)
    return trainer.policy, log["kl/k1_per_sequence"].dropna().tail(10).mean()


def main() -> None:
    """Train and score a policy at every point, and write the table after each point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", default="out/lab2/lora/best")
    parser.add_argument("--output", type=Path, default=SWEEP)
    arguments = parser.parse_args()
    settings = load_settings("offline")
    scorer = HateScorer(settings.reward_model)
    policy, tokenizer = initial_policy(settings, arguments.adapter)
    dataset = load_dialogsum(settings.dataset)
    clean = group_references(drop_near_duplicates(dataset["validation"], against=dataset["train"]))
    heated, ordinary = (
        first_rows(rows, settings.judged_dialogues) for rows in split_by_heat(clean, scorer)
    )
    prompts = add_prompts(split_by_heat(dataset["train"], scorer)[0])
    judged_on = heated, ordinary, scorer, settings

    points = [(name, beta, seed) for name in PRICES for beta in PRICES[name] for seed in SEEDS]
    if arguments.output.exists():
        rows = pd.read_csv(arguments.output).to_dict("records")
    else:
        rows = [{"estimator": "none", "kl_coef": None, "seed": None, "kl": 0.0}]
        rows[0] |= mean_scores(policy, tokenizer, *judged_on)
    done = {(row["estimator"], row["kl_coef"], row["seed"]) for row in rows}
    for estimator, beta, seed in (point for point in points if point not in done):
        changes = {"advantage_estimator": estimator, "beta": beta, "seed": seed}
        trained, kl = train(policy, tokenizer, prompts, scorer, settings, **changes)
        rows.append({"estimator": estimator, "kl_coef": beta, "seed": seed, "kl": kl})
        rows[-1] |= mean_scores(trained, tokenizer, *judged_on)
        print({name: str(value) for name, value in rows[-1].items()}, flush=True)
        pd.DataFrame(rows).round(5).to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
