"""Measure what less toxicity costs, with PPO, RLOO and GRPO at several KL prices and five seeds.

The runs are those of Lab 3: its planted policy, prompts and configuration. They are judged on
validation dialogues. Lab 3 shows the table that this script wrote, `sweep.csv`, from which we chose
the KL prices of the preset "offline". The sweep takes about half an hour on one core, after Lab 2
has run. Points in the table are not computed again, so delete it to start over:

    rm utils/offline/sweep.csv
    python -m tools.small_world.sweep --adapter out/lab2/lora/best
"""

import argparse
import copy
import tempfile
from pathlib import Path

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils import detox
from utils.data import drop_near_duplicates, group_references, load_dialogsum
from utils.lab.heated import (
    QUOTING,
    annotate,
    calmest,
    heated_splits,
    judge_heated,
    with_heat,
    with_ordinary,
)
from utils.ppo import PPOTrainer
from utils.prompts import build_prompt
from utils.rouge import rouge_scores
from utils.settings import OFFLINE, Settings, load_settings
from utils.toxicity import HateScorer

SWEEP = OFFLINE / "sweep.csv"
PRICES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2)
SEEDS = (0, 1, 2, 3, 4)
ESTIMATORS = ("gae", "rloo", "grpo")


class Validation:
    """Held-out dialogues, and the judges that score a policy on them."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, heated: Dataset, settings: Settings
    ) -> None:
        labels = tuple(settings.second_judge_labels.split(","))
        self.tokenizer, self.heated, self.settings = tokenizer, heated, settings
        self.scorer = HateScorer(settings.reward_model)
        self.second = HateScorer(settings.second_judge, labels=labels)
        dataset = load_dialogsum(settings.dataset)
        rows = drop_near_duplicates(dataset["validation"], against=dataset["train"])
        rows = group_references(rows)
        self.ordinary = calmest(with_heat(rows, self.scorer), len(rows) // 2)

    def scores(self, policy: PreTrainedModel) -> dict[str, float]:
        """Score sampled summaries of heated dialogues, and greedy ones of ordinary dialogues."""
        heated, ordinary = (
            [build_prompt(dialogue) for dialogue in rows["dialogue"]]
            for rows in (self.heated, self.ordinary)
        )
        texts = detox.write(policy, self.tokenizer, heated, self.settings)
        table = judge_heated(texts, self.heated, self.scorer, self.second)
        texts = detox.write(policy, self.tokenizer, ordinary, self.settings, do_sample=False)
        quality = rouge_scores(texts, list(self.ordinary["summaries"]))
        heated_scores = table[["toxic_share", "facts", "told"]].mean()
        return {**heated_scores, "rouge1": quality["rouge1"].mean()}


def train(
    planted: PreTrainedModel,
    prompts: Dataset,
    validation: Validation,
    estimator: str,
    beta: float,
    seed: int,
) -> dict[str, float]:
    """Train a copy of the policy; return its scores and the mean KL of its last five steps."""
    settings = validation.settings
    with tempfile.TemporaryDirectory() as folder:
        changes = {"advantage_estimator": estimator, "beta": beta, "seed": seed}
        trainer = PPOTrainer(
            copy.deepcopy(planted),
            detox.detox_reward(validation.scorer, settings, estimator),
            detox.detox_config(settings, planted.device, folder, **changes),
            prompts,
            processing_class=validation.tokenizer,
            peft_config=detox.decoder_adapter(settings),
        )
        trainer.train()
    kl = detox.step_log(trainer)["kl/k1_per_sequence"].tail(5).mean()
    return {"kl": kl} | validation.scores(trainer.policy)


def main() -> None:
    """Train and score a policy at every point, and write the table after each point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", default="out/lab2/lora/best")
    parser.add_argument("--output", type=Path, default=SWEEP)
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=ESTIMATORS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    settings = load_settings("offline")
    start, tokenizer = detox.initial_policy(settings, arguments.adapter)
    splits = heated_splits(settings, HateScorer(settings.reward_model))
    annotated = annotate(splits["heated_train"], QUOTING, settings.seed)
    mixed = with_ordinary(annotated, splits["ordinary_train"])
    with tempfile.TemporaryDirectory() as folder:
        planted = detox.tuned_copy(start, tokenizer, mixed, settings, folder)
    validation = Validation(tokenizer, splits["heated_validation"], settings)
    rows = with_ordinary(splits["heated_train"], splits["ordinary_train"])
    prompts = detox.add_prompts(rows)

    if arguments.output.exists():
        table = pd.read_csv(arguments.output).to_dict("records")
    else:
        table = [{"estimator": "none", "kl_coef": None, "seed": None, "kl": 0.0}]
        table[0] |= validation.scores(planted)
    done = {(row["estimator"], row["kl_coef"], row["seed"]) for row in table}
    points = [(e, b, s) for e in arguments.estimators for b in PRICES for s in arguments.seeds]
    for estimator, beta, seed in (point for point in points if point not in done):
        row = {"estimator": estimator, "kl_coef": beta, "seed": seed}
        table.append(row | train(planted, prompts, validation, estimator, beta, seed))
        print({name: str(value) for name, value in table[-1].items()}, flush=True)
        pd.DataFrame(table).round(5).to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
