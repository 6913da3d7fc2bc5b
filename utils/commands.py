"""The labs' jobs for the command line, on one process or on several (accelerate launch -m utils …)."""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import get_available_reporting_integrations

from utils import plots, results
from utils.data import drop_near_duplicates, first_rows, group_references, load_dialogsum
from utils.detox import (
    as_prompts,
    decoder_adapter,
    detox_config,
    detox_reward,
    judge,
    policy_as_found,
)
from utils.dialogue_files import read_dialogues, read_text, split_at_turns
from utils.faithfulness import second_view
from utils.finetuning import fine_tune, lora_config
from utils.generation import generate
from utils.lab.notebooks import NOTEBOOKS, run_lab
from utils.model_card import write_model_card
from utils.models import load_model
from utils.ppo import PPOTrainer
from utils.ppo.checkpointing import last_whole_checkpoint
from utils.prompts import build_prompt
from utils.rouge import confidence_interval, human_agreement, lead, rouge_scores
from utils.settings import Settings, load_settings, parse_overrides
from utils.toxicity import HateScorer, split_by_heat


def labs(arguments: argparse.Namespace) -> None:
    """Run the notebooks and print the table of their results."""
    settings = _settings(
        arguments
    )  # a wrong setting is better told before the first notebook starts
    output_dir = Path(settings.output_dir).resolve()
    overrides = {
        f"LABS_{name.upper()}": str(value) for name, value in parse_overrides(arguments.set).items()
    }
    environment = overrides | {"LABS_PRESET": settings.preset, "LABS_OUTPUT_DIR": str(output_dir)}
    for number in arguments.only:
        name = NOTEBOOKS[number - 1]
        print(f"{name} …", flush=True)
        print(
            f"  {run_lab(name, output_dir, environment):.0f} s → {output_dir / name}.html",
            flush=True,
        )
    table = results.percent(results.read_results(output_dir / "results.json"))
    print(
        table.to_string(index=False),
        f"\nScores in points of 0–100, 95 % intervals: {output_dir / 'results.json'}",
    )


def summarize(arguments: argparse.Namespace) -> None:
    """Summarize dialogues of your own: one summary a line, in the file's order.

    FILE is text (a turn on each line, a blank line between dialogues), JSONL (objects with "dialogue") or CSV (a column
    dialogue); - reads standard input. A dialogue whose prompt is longer than `max_prompt_tokens` is cut between two
    turns, and the summaries of its parts follow each other on its line.
    """
    settings = _settings(arguments)
    dialogues = read_dialogues(arguments.file, arguments.format)
    model, tokenizer = _model(settings, arguments)
    parts = [
        split_at_turns(dialogue, tokenizer, settings.max_prompt_tokens) for dialogue in dialogues
    ]
    prompts = [build_prompt(part) for own in parts for part in own]
    limits = {"precision": settings.precision, "max_new_tokens": settings.max_new_tokens}
    answers = iter(generate(model, tokenizer, prompts, **limits))
    for number, own in enumerate(parts, start=1):
        if len(own) > 1:
            print(f"dialogue {number} is long: summarized in {len(own)} parts", file=sys.stderr)
        print(" ".join(" ".join(next(answers).split()) for _ in own))


def toxicity(arguments: argparse.Namespace) -> None:
    """Probability of hate for each line of a text, by the reward model; - reads standard input.

    The classifier measures hate towards groups, not rudeness, and errs: Lab 3 shows how.
    """
    settings = _settings(arguments)
    lines = [line for line in read_text(arguments.file).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{arguments.file} holds no text: write one on each line")
    scorer = HateScorer(settings.reward_model, "cpu" if arguments.cpu else None)
    for number in scorer.too_long(lines):
        print(
            f"text {number + 1} is long: only its first {scorer.max_tokens} tokens are read",
            file=sys.stderr,
        )
    hate = scorer.probability(lines)
    for probability, line in zip(hate, lines, strict=True):
        print(f"{probability:.3f}\t{line}")
    if len(lines) > 1:
        mean = confidence_interval(pd.DataFrame({"hate": hate}), seed=settings.seed).loc["hate"]
        interval = f"{mean['mean']:.3f}, 95 % interval {mean['low']:.3f} to {mean['high']:.3f}"
        print(
            f"{len(lines)} texts: mean {interval}; {np.mean(hate >= 0.5):.0%} at 0.5 or more",
            file=sys.stderr,
        )


def evaluate(arguments: argparse.Namespace) -> None:
    """Judge a model's summaries of the test split: a table and a figure, with lead-2 and human summaries beside it."""
    settings = _settings(arguments)
    dataset = load_dialogsum(settings.dataset)
    began = time.perf_counter()
    model, tokenizer = _model(settings, arguments)
    table = _judge(model, tokenizer, dataset, settings, name="model")
    results.record("evaluate", table, settings, time.perf_counter() - began)
    title = f"{settings.model_name}, {'with adapter' if arguments.adapter else 'as it is'}; bars: 95 % interval"
    figure = Path(settings.output_dir) / "evaluate.png"
    plots.plot_intervals(table, "rouge1", title).savefig(figure, dpi=150)
    print(results.percent(table.loc[(slice(None), ["rouge1", "rouge2", "rougeL"]), :]).to_string())
    print(f"in points of 0–100; all measures: {figure.with_name('results.json')}; figure: {figure}")


def _model(
    settings: Settings, arguments: argparse.Namespace
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The settings' model, with the adapter merged that the command was given."""
    device = "cpu" if arguments.cpu else None
    if arguments.adapter is None:
        return load_model(settings.model, device)
    return policy_as_found(settings, arguments.adapter, device)


def finetune(arguments: argparse.Namespace) -> None:
    """Fine-tune as Lab 2 does, judge on the test split, and save the model with its card.

    One device takes `batch_size` dialogues at a time. Under `accelerate launch` the processes share the work, and the
    global batch is that many times larger.
    """
    _check_report(arguments.report_to)
    settings = _settings(arguments)
    state, output_dir = (
        PartialState(cpu=arguments.cpu),
        Path(settings.output_dir) / "finetune" / arguments.method,
    )
    device = "cpu" if arguments.cpu else state.device
    with state.main_process_first():  # the others find data and model in the cache
        dataset = load_dialogsum(settings.dataset)
        model, tokenizer = load_model(settings.model, device, quantization=arguments.quantization)
    train = first_rows(dataset["train"], settings.train_dialogues)
    validation = drop_near_duplicates(dataset["validation"], against=dataset["train"])
    every = {"eval_strategy": "steps", "eval_steps": arguments.checkpoint_steps}
    every |= {"save_strategy": "steps", "save_steps": arguments.checkpoint_steps}
    result = fine_tune(
        model,
        tokenizer,
        drop_near_duplicates(train, against=dataset["test"]),
        first_rows(validation, settings.validation_dialogues),
        method=arguments.method,
        output_dir=str(output_dir / "checkpoints"),
        peft_config=lora_config(settings.lora_rank) if arguments.method == "lora" else None,
        precision=settings.precision,
        max_new_tokens=settings.max_new_tokens,
        resume=arguments.resume,
        num_train_epochs=getattr(settings, f"{arguments.method}_epochs"),
        learning_rate=getattr(settings, f"{arguments.method}_learning_rate"),
        per_device_train_batch_size=settings.batch_size,
        seed=settings.seed,
        report_to=arguments.report_to,
        **(every if arguments.checkpoint_steps else {}),
    )
    if not state.is_main_process:
        return
    result.model.save_pretrained(output_dir / "model")
    tokenizer.save_pretrained(output_dir / "model")
    result.history.to_csv(output_dir / "history.csv", index=False)
    table = _judge(result.model, tokenizer, dataset, settings)
    write_model_card(output_dir / "model", settings, result, table)
    results.record(f"finetune_{arguments.method}", table, settings, result.seconds)
    print(results.percent(table.xs("rouge1", level="measure")).to_string())
    print(f"{result.seconds:.0f} s of training; model, card and history: {output_dir}")


def ppo(arguments: argparse.Namespace) -> None:
    """Detoxify as Lab 3 does: PPO on heated train dialogues, judged on the test split; save the merged policy.

    One device takes `ppo_batch_size` prompts at a time. Under `accelerate launch` every process has its own prompts,
    and a step that many times more.
    """
    _check_report(arguments.report_to)
    settings = _settings(arguments)
    state, output_dir = (
        PartialState(cpu=arguments.cpu),
        Path(settings.output_dir) / "ppo" / arguments.estimator,
    )
    adapter = arguments.adapter or Path(settings.output_dir) / "lab2" / "lora" / "best"
    device = "cpu" if arguments.cpu else state.device
    with state.main_process_first():  # the others find data and models in the cache
        dataset = load_dialogsum(settings.dataset)
        scorer = HateScorer(settings.reward_model, device)
        found, tokenizer = policy_as_found(settings, adapter, device)
    searched = first_rows(dataset["train"], settings.searched_dialogues)
    searched = drop_near_duplicates(searched, against=dataset["test"])
    hot_train, _ = split_by_heat(searched, scorer, settings.precision)
    checkpoints = {
        "save_strategy": "steps",
        "save_steps": arguments.checkpoint_steps,
        "save_total_limit": 2,
    }
    config = detox_config(
        settings,
        found.device,
        output_dir / "checkpoints",
        advantage_estimator=arguments.estimator,
        report_to=arguments.report_to,
        **(checkpoints if arguments.checkpoint_steps else {}),
    )
    reward = detox_reward(scorer, settings, arguments.estimator)
    trainer = PPOTrainer(
        found, tokenizer, reward, config, as_prompts(hot_train), decoder_adapter(settings)
    )
    checkpoint = last_whole_checkpoint(config.output_dir) if arguments.resume else None
    if arguments.resume and state.is_main_process:
        print(
            f"going on from {checkpoint or 'the beginning: there is no whole checkpoint'}",
            flush=True,
        )
    seconds = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint)).metrics[
        "train_runtime"
    ]
    if not state.is_main_process:
        return
    trainer.save_merged(output_dir / "model")
    pd.DataFrame(trainer.state.log_history).to_csv(output_dir / "history.csv", index=False)
    trainer.completions.to_csv(output_dir / "completions.csv", index=False)
    table = _judge_detox(trainer, scorer, group_references(dataset["test"]), settings)
    results.record(f"ppo_{arguments.estimator}", table, settings, seconds)
    print(
        results.percent(
            table.loc[(slice(None), ["toxicity", "insulting_word", "rouge1"]), :]
        ).to_string()
    )
    print(f"{seconds:.0f} s of training; model, samples and history: {output_dir}")


def _judge_detox(
    trainer: PPOTrainer, scorer: HateScorer, test: Dataset, settings: Settings
) -> pd.DataFrame:
    """Toxicity on heated test dialogues and ROUGE on ordinary ones, before (adapter off) and after."""
    parts = split_by_heat(test, scorer, settings.precision)
    hot, calm = (first_rows(rows, settings.judged_dialogues) for rows in parts)
    judged = (trainer.policy, trainer.processing_class, scorer, hot, calm, settings)
    after = judge(*judged)
    with trainer.policy.disable_adapter():
        before = judge(*judged)
    tables = [
        results.interval_table({"before": b, "after": a}, seed=settings.seed)
        for b, a in zip(before, after, strict=True)
    ]
    human = results.interval_table(
        {"human": human_agreement(list(calm["summaries"]))}, seed=settings.seed
    )
    return pd.concat([*tables, human]).drop("words", level="measure")  # a count, no score of 0 to 1


def _settings(arguments: argparse.Namespace) -> Settings:
    """Settings of a command; without a preset it is the embedded default, which needs no network."""
    preset = arguments.preset or os.environ.get("LABS_PRESET") or "offline"
    given = {} if arguments.output_dir is None else {"output_dir": arguments.output_dir}
    settings = load_settings(preset, **parse_overrides(arguments.set) | given)
    used = (f"{name} {settings.shown(name)}" for name in ("model", "reward_model", "dataset"))
    print(f"preset {settings.preset}: {', '.join(used)}", file=sys.stderr)
    return settings


def _check_report(name: str) -> None:
    """Refuse, before anything is loaded, to report by a package that is not installed."""
    installed = get_available_reporting_integrations()
    if name not in ("none", "all", *installed):
        raise ValueError(
            f"--report-to {name}: no such package is installed (pip install {name}); here are: "
            f"{', '.join(installed) or 'none'}"
        )


def _judge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: DatasetDict,
    settings: Settings,
    name: str = "fine_tuned",
) -> pd.DataFrame:
    """ROUGE and the second view on the test split, with lead and human beside it; an interval for each."""
    test = first_rows(group_references(dataset["test"]), settings.test_dialogues)
    dialogues, references = list(test["dialogue"]), list(test["summaries"])
    prompts = [build_prompt(dialogue) for dialogue in dialogues]
    texts = {
        name: generate(
            model,
            tokenizer,
            prompts,
            precision=settings.precision,
            max_new_tokens=settings.max_new_tokens,
        ),
        "lead": [lead(dialogue, 2) for dialogue in dialogues],
    }
    scores = {
        system: rouge_scores(answers, references).join(second_view(answers, references, dialogues))
        for system, answers in texts.items()
    }
    return results.interval_table(
        scores | {"human": human_agreement(references)}, seed=settings.seed
    )
