"""Measure seconds and memory of one PPO step.

16 prompts of 220 tokens, 48 new tokens, FLAN-T5-base's shape with random weights, LoRA of rank 32
on q and v, a classifier of RoBERTa-base's shape as reward, four minibatches, one epoch.

One more row projects the frozen encoder's output to keys and values in every pass instead of once.

With --classic PYTHON, a Python that has trl 0.11.4 (`make bench-classic` makes one), the classic
trainer takes the same step as its users run it, and its arithmetic is compared with ours on the
same tensors. Two of its faults are not compared: it leaves the first completion token out of the
loss, and it clips gradients only once, since it keeps the parameters as a generator.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from bench_finetuning import FLAN_T5_BASE, StepTimes, model
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

from utils.finetuning import lora_config
from utils.models import has_bf16, pick_device
from utils.ppo import PPOConfig, PPOTrainer, policy
from utils.ppo.losses import gae, kl_estimates, policy_loss, value_loss, whiten
from utils.settings import OFFLINE
from utils.toxicity import HateReward, HateScorer
from utils.training.cpu import use_cpu_speedups

PROMPTS, PROMPT_TOKENS, NEW_TOKENS, MINIBATCHES = 16, 220, 48, 4
ADAPTERS = {"encoder and decoder": ["q", "v"], "decoder": r".*decoder.*\.(q|v)"}
CLASSIC = Path(__file__).with_name("classic_ppo.py")


def classifier(folder: str) -> HateScorer:
    """RoBERTa-base's shape with random weights."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=50_265,
        max_position_embeddings=514,
        id2label={0: "nothate", 1: "hate"},
        label2id={},
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(OFFLINE / "judge").save_pretrained(folder)
    return HateScorer(folder)


def ours(adapter: str, steps: int, responses: int = PROMPTS) -> dict[str, float]:
    """Seconds of a step, and the highest memory of the process (on CUDA of the device)."""
    device, times = pick_device(), StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        initial = use_cpu_speedups(model())  # as on a model that `load_model` returns
        tokenizer, scorer = AutoTokenizer.from_pretrained(OFFLINE / "t5"), classifier(folder)
        text = "the"  # random ids are no text: score one of that length instead
        while len(scorer.tokenizer(text)["input_ids"]) < NEW_TOKENS:
            text += " the"

        def reward(completions):
            return HateReward(scorer, "auto")(completions=[text] * len(completions))

        letters = [f"{chr(97 + i // 26)} {chr(97 + i % 26)}" for i in range(responses * steps)]
        prompts = ["the " * (PROMPT_TOKENS - 3) + pair for pair in letters]  # none is seen twice
        assert len(set(prompts)) == responses * steps
        trainer = PPOTrainer(
            initial.eval(),
            reward,
            PPOConfig(
                folder,
                max_steps=steps * MINIBATCHES,
                per_device_train_batch_size=responses // MINIBATCHES,
                steps_per_generation=MINIBATCHES,
                num_iterations=1,
                max_completion_length=NEW_TOKENS,
                bf16=has_bf16(device),
                use_cpu=device.type == "cpu",
                save_strategy="no",
                disable_tqdm=True,
            ),
            Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            peft_config=lora_config(lora_dropout=0.0, target_modules=ADAPTERS[adapter]),
            callbacks=[times],
        )
        trainer.train()
    updates = times.seconds[MINIBATCHES - 1 :]  # without the first PPO step, which sets things up
    whole = [sum(updates[i : i + MINIBATCHES]) for i in range(0, len(updates), MINIBATCHES)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e9
    return {"seconds": statistics.median(whole), "gigabytes": memory}


def random_tensors() -> dict[str, torch.Tensor]:
    """A batch of responses of several lengths, as both sides read it."""
    generator = torch.Generator().manual_seed(0)
    shape = (16, 48)
    names = ("rewards", "values", "old_logprobs", "logprobs", "reference_logprobs", "new_values")
    tensors = {name: torch.randn(shape, generator=generator) for name in names}
    lengths = torch.randint(2, 49, (16, 1), generator=generator)
    tensors["mask"] = (torch.arange(48) < lengths).float()
    return tensors


def check_arithmetic(theirs: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    """Ours against the classic trainer's, to 1e-5."""
    mask = t["mask"]
    advantages, returns = gae(t["rewards"], t["values"], mask, 1.0, 0.95)
    white = whiten(advantages, mask)
    policy, clipped = policy_loss(t["logprobs"], t["old_logprobs"], white, mask, 0.2)
    k1, k2, _ = kl_estimates(t["logprobs"], t["reference_logprobs"])
    mine = {
        "advantages": white,
        "returns": returns * mask,
        "policy_loss": policy,
        "clip_fraction": clipped,
        "value_loss": value_loss(t["new_values"], t["values"] * mask, returns, mask, 0.2),
        "k1": k1,
        "k2": k2,
    }
    for name, tensor in mine.items():
        other = theirs[name] * mask if tensor.dim() == 2 else theirs[name]
        assert_close(
            tensor * mask if tensor.dim() == 2 else tensor,
            other,
            atol=1e-5,
            rtol=1e-5,
            msg=f"{name} differs",
        )
    print(f"equal to the classic trainer's within 1e-5: {', '.join(mine)}")


def in_a_process(command: list[str]) -> dict[str, float]:
    """The JSON of a script's last line: every side has a process of its own, for its memory."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one row for each side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classic", metavar="PYTHON")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--adapter", choices=ADAPTERS, help="only this one of ours, as JSON")
    parser.add_argument("--responses", type=int, default=PROMPTS, help="in a step, with --adapter")
    parser.add_argument("--unshared", action="store_true", help="project in every pass")
    arguments = parser.parse_args()
    if arguments.unshared:
        policy.SHARED_BYTES = 0
    if arguments.adapter:
        print(json.dumps(ours(arguments.adapter, arguments.steps, arguments.responses)))
        return

    def measured(adapter: str, *options: str) -> dict[str, float]:
        steps = str(arguments.steps)
        return in_a_process(
            [sys.executable, __file__, "--adapter", adapter, "--steps", steps, *options]
        )

    rows = {"ours, LoRA on decoder": measured("decoder")}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.classic:
            tensors = random_tensors()
            save_file(tensors, Path(folder) / "ours.safetensors")
            FLAN_T5_BASE.save_pretrained(folder)
            rows["classic (trl 0.11.4)"] = in_a_process(
                [arguments.classic, str(CLASSIC), folder, str(OFFLINE / "t5")]
            )
            check_arithmetic(load_file(Path(folder) / "theirs.safetensors"), tensors)
    rows["ours, LoRA on decoder, again"] = measured("decoder")  # a processor's speed drifts
    rows["the same, projected in every pass"] = measured("decoder", "--unshared")
    rows["ours, LoRA on encoder and decoder"] = measured("encoder and decoder")
    table = pd.DataFrame(rows).T
    if arguments.classic:
        table["times faster"] = table.loc["classic (trl 0.11.4)", "seconds"] / table["seconds"]
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
