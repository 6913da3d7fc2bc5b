"""Measure what less toxicity costs: PPO, RLOO and GRPO at several KL prices, with three seeds each.

All train without the gentle settings of the labs (`utils.detox.UNDER_PRESSURE`), so that the KL
price alone keeps the policy near its reference. Scores are of validation dialogues. Lab 3 shows the
table that this script wrote, `sweep.csv`, and the preset "offline" took its KL prices from it.
About 20 minutes on two cores, after Lab 2 has run:

    python -m tools.small_world.sweep --adapter out/lab2/lora/best
"""

import argparse
import copy
import tempfile
from pathlib import Path

import pandas as pd
from peft import PeftModel
from transformers import PreTrainedModel

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
from utils.settings import OFFLINE, load_settings
from utils.toxicity import HateScorer, split_by_heat

SWEEP = OFFLINE / "sweep.csv"
PRICES = {
    "gae": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
    "rloo": (0.0, 0.3, 1.0, 3.0),
    "grpo": (0.0, 0.1, 0.3, 1.0),
}
SEEDS = (0, 1, 2)


def main() -> None:
    """Train and score every point, and write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", default="out/lab2/lora/best")
    parser.add_argument("--output", type=Path, default=SWEEP)
    arguments = parser.parse_args()
    settings = load_settings("offline")
    scorer = HateScorer(settings.reward_model)
    found, tokenizer = initial_policy(settings, arguments.adapter)
    dataset = load_dialogsum(settings.dataset)
    clean = group_references(drop_near_duplicates(dataset["validation"], against=dataset["train"]))
    hot, calm = (
        first_rows(rows, settings.judged_dialogues) for rows in split_by_heat(clean, scorer)
    )
    hot_train = add_prompts(split_by_heat(dataset["train"], scorer)[0])

    def judged(policy: PreTrainedModel | PeftModel) -> dict[str, float]:
        """Return the mean scores of one policy."""
        toxicity = judge_model(policy, tokenizer, hot, settings, scorer)
        quality = judge_model(policy, tokenizer, calm, settings)
        means = {**toxicity[["toxicity", "insulting_word"]].mean()}
        return means | {**quality[["rouge1", "words"]].mean()}

    rows = [{"estimator": "none", "kl_coef": None, "seed": None, "kl": 0.0} | judged(found)]
    for estimator, prices in PRICES.items():
        for kl_coef in prices:
            for seed in SEEDS:
                with tempfile.TemporaryDirectory() as folder:
                    changes = UNDER_PRESSURE | {
                        "advantage_estimator": estimator,
                        "beta": kl_coef,
                        "seed": seed,
                    }
                    trainer = PPOTrainer(
                        copy.deepcopy(found),
                        detox_reward(scorer, settings, estimator, kind="logit"),
                        detox_config(settings, found.device, folder, **changes),
                        hot_train,
                        processing_class=tokenizer,
                        peft_config=decoder_adapter(settings),
                    )
                    trainer.train()
                log = pd.DataFrame(trainer.state.log_history)
                kl = log["kl/k1_per_sequence"].dropna().tail(10).mean()
                rows.append(
                    {"estimator": estimator, "kl_coef": kl_coef, "seed": seed, "kl": kl}
                    | judged(trainer.policy)
                )
                print({name: str(value) for name, value in rows[-1].items()}, flush=True)
                pd.DataFrame(rows).round(5).to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
