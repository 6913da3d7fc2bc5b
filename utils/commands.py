"""Run the commands of the labs; `utils.cli` has checked their arguments."""

import sys
import time
from argparse import Namespace
from pathlib import Path

import pandas as pd
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils import detox, results
from utils.conversations.parts import summarize_in_parts
from utils.conversations.turns import Turn, number_speakers, restore_names
from utils.data import load_splits
from utils.dialogue_files import is_of_small_world
from utils.faithfulness import load_facts
from utils.finetuning import fine_tune, finetune_arguments
from utils.generation import Int8Model, generate
from utils.lab.heated import heated_splits, with_ordinary
from utils.model_card import write_model_card
from utils.models import load_model
from utils.ppo import PPOTrainer
from utils.ppo.checkpointing import last_whole_checkpoint
from utils.rouge import human_agreement, lead
from utils.settings import Settings, parse_overrides
from utils.statistics import confidence_interval
from utils.toxicity import HateScorer


def labs(arguments: Namespace) -> None:
    """Run the notebooks and print the table of their results."""
    from utils.lab.notebooks import NOTEBOOKS, ROOT, run_lab  # takes seconds

    output_dir = Path(arguments.settings.output_dir).resolve()
    overrides = parse_overrides(arguments.set)
    variables = {f"LABS_{name.upper()}": str(value) for name, value in overrides.items()}
    variables["LABS_PRESET"] = arguments.settings.preset
    variables["LABS_OUTPUT_DIR"] = str(output_dir)
    for name in (NOTEBOOKS[number - 1] for number in arguments.only):
        print(f"{name} …", flush=True)
        seconds = run_lab(ROOT / f"{name}.ipynb", output_dir, variables)
        print(f"  {seconds:.0f} s → {output_dir / name}.html", flush=True)
    file = output_dir / "results.json"
    print(results.percent(results.read_results(file)).to_string(index=False))
    print(f"Shown in points of 0–100, with 95% intervals; stored from 0 to 1 in {file}")


def report(arguments: Namespace) -> None:
    """Write the report of a run, and say how to send it."""
    from utils.lab.report import write_report

    file, text = write_report(Path(arguments.settings.output_dir))
    print(f"{file}\n{text}\nRead both. To send them, open an issue in the project, paste the")
    print(f"text of {text.name} into it, and attach {file.name}.")


def summarize(arguments: Namespace) -> None:
    """Print a summary of each conversation; for a long one, print its parts' to stderr, too."""
    settings, (model, tokenizer) = arguments.settings, _load_model(arguments)
    found, limit = arguments.conversations, settings.max_prompt_tokens
    whole = not is_of_small_world(settings.model)  # its T5 never learned to summarize summaries
    numbered = [number_speakers(conversation.turns) for conversation in found]
    if arguments.keep_names:
        numbered = [(conversation.turns, {}) for conversation in found]

    def ask(prompts: list[str]) -> list[str]:
        options = {"precision": settings.precision, "max_new_tokens": settings.max_new_tokens}
        return generate(model, tokenizer, prompts, **options)

    def tell(index: int, parts: list[list[Turn]], summaries: list[str]) -> None:
        how = f"summarized in {len(parts)} parts{', then as a whole' if whole else ''}"
        print(f"{found[index].place}: over max_prompt_tokens={limit}, so {how}", file=sys.stderr)
        for number, (part, summary) in enumerate(zip(parts, summaries, strict=True), start=1):
            summary = restore_names(summary, numbered[index][1])
            print(f"  part {number}, {len(part)} turn(s): {summary}", file=sys.stderr)

    turns = [turns for turns, _ in numbered]
    summaries = summarize_in_parts(turns, ask, tokenizer, limit, tell, whole)
    for summary, (_, names) in zip(summaries, numbered, strict=True):
        print(restore_names(summary, names))


def toxicity(arguments: Namespace) -> None:
    """Print the probability of hate of each text, and their mean."""
    scorer = HateScorer(arguments.settings.reward_model, "cpu" if arguments.cpu else None)
    for number in scorer.too_long(arguments.texts):
        read = f"only its first {scorer.max_tokens} tokens are read"
        print(f"text {number + 1} is long: {read}", file=sys.stderr)
    scores = pd.DataFrame({"hate": scorer.probability(arguments.texts)})
    turns = [turn for conversation in arguments.conversations for turn in conversation.turns]
    for probability, turn in zip(scores["hate"], turns, strict=True):
        print(f"{probability:.3f}\t{turn}")
    if len(scores) > 1:
        mean = confidence_interval(scores, seed=arguments.settings.seed).loc["hate"]
        interval = f"mean {mean['mean']:.3f}, 95% interval {mean['low']:.3f} to {mean['high']:.3f}"
        share = f"{(scores['hate'] >= 0.5).mean():.0%} at 0.5 or more"
        print(f"{len(scores)} texts: {interval}; {share}", file=sys.stderr)


def evaluate(arguments: Namespace) -> None:
    """Score a model, lead-2 and the human summaries on the test split, and plot the scores."""
    from utils import plots

    settings, start = arguments.settings, time.perf_counter()
    test = load_splits(settings)["test"]
    table = _score(*_load_model(arguments), test, settings, "model")
    file = results.record("evaluate", table, settings, time.perf_counter() - start)
    title = f"{settings.model_name}, {'with' if arguments.adapter else 'without'} adapter"
    figure = file.with_name("evaluate.png")
    plots.plot_intervals(table, "rouge1", title).savefig(figure, dpi=150)
    print(results.percent(table.loc[(slice(None), ["rouge1", "rouge2", "rougeL"]), :]).to_string())
    print(f"Shown in points of 0–100; all measures, from 0 to 1: {file}; figure: {figure}")


def finetune(arguments: Namespace) -> None:
    """Fine-tune as Lab 2 does, score on the test split, and save the model with its card."""
    settings, state = arguments.settings, PartialState(cpu=arguments.cpu)
    output_dir = Path(settings.output_dir) / "finetune" / arguments.method
    device = "cpu" if arguments.cpu else state.device
    with state.main_process_first():  # the other processes find data and model in the cache
        splits = load_splits(settings)
        options = {"quantization": arguments.quantization, "cpu_speedups": settings.cpu_speedups}
        model, tokenizer = load_model(settings.model, device, **options)
    options = finetune_arguments(settings, arguments.method, **arguments.changes)
    options["output_dir"] = str(output_dir / "checkpoints")
    result = fine_tune(model, tokenizer, splits["train"], splits["validation"], **options)
    state.destroy_process_group()  # a process that exits with an open group may abort
    if not state.is_main_process:
        return
    result.model.save_pretrained(output_dir / "model")
    tokenizer.save_pretrained(output_dir / "model")
    result.history.to_csv(output_dir / "history.csv", index=False)
    table = _score(result.model, tokenizer, splits["test"], settings, "fine_tuned")
    write_model_card(output_dir / "model", settings, result, table)
    results.record(f"finetune_{arguments.method}", table, settings, result.seconds)
    print(results.percent(table.xs("rouge1", level="measure")).to_string())
    print(f"{result.seconds:.0f} s of training; model, card and history: {output_dir}")


def ppo(arguments: Namespace) -> None:
    """Train a policy as Lab 3 does, score it on the test split, and save it merged."""
    settings, state = arguments.settings, PartialState(cpu=arguments.cpu)
    estimator = arguments.changes["advantage_estimator"]
    output_dir = Path(settings.output_dir) / "ppo" / estimator
    with state.main_process_first():  # the other processes find data and models in the cache
        scorer = HateScorer(settings.reward_model, "cpu" if arguments.cpu else state.device)
        splits = heated_splits(settings, scorer)
        policy, tokenizer = detox.initial_policy(settings, arguments.adapter, scorer.device)
    rows = with_ordinary(splits["heated_train"], splits["ordinary_train"])
    checkpoints = output_dir / "checkpoints"
    args = detox.detox_config(settings, scorer.device, checkpoints, **arguments.changes)
    reward = detox.detox_reward(scorer, settings, estimator)
    prompts, adapter = detox.add_prompts(rows), detox.decoder_adapter(settings)
    trainer = PPOTrainer(
        policy, reward, args, prompts, processing_class=tokenizer, peft_config=adapter
    )
    checkpoint = last_whole_checkpoint(args.output_dir) if settings.resume else None
    if settings.resume and state.is_main_process:
        missing = f"starting from the beginning: {args.output_dir} has no complete checkpoint"
        print(f"resuming from {checkpoint}" if checkpoint else missing)
    trained = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint)).metrics
    state.destroy_process_group()  # a process that exits with an open group may abort
    if not state.is_main_process:
        return
    trainer.save_merged(output_dir / "model")
    pd.DataFrame(trainer.state.log_history).to_csv(output_dir / "history.csv", index=False)
    trainer.completions.to_csv(output_dir / "completions.csv", index=False)
    table = _score_policy(trainer, scorer, splits, settings)
    results.record(f"ppo_{estimator}", table, settings, trained["train_runtime"])
    measures = ["toxicity", "insulting_word", "rouge1"]
    print(results.percent(table.loc[(slice(None), measures), :]).to_string())
    print(f"{trained['train_runtime']:.0f} s of training; model and history: {output_dir}")


def _load_model(
    arguments: Namespace,
) -> tuple[PreTrainedModel | Int8Model, PreTrainedTokenizerBase]:
    settings, device = arguments.settings, "cpu" if arguments.cpu or arguments.int8 else None
    if arguments.adapter is None:
        model, tokenizer = load_model(settings.model, device, cpu_speedups=settings.cpu_speedups)
    else:
        model, tokenizer = detox.initial_policy(settings, arguments.adapter, device)
    return Int8Model(model, tokenizer) if arguments.int8 else model, tokenizer


def _score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    test: Dataset,
    settings: Settings,
    name: str,
) -> pd.DataFrame:
    """Score a model, lead-2 and the human summaries on the test split, with intervals."""
    dialogues, references = list(test["dialogue"]), list(test["summaries"])
    known = load_facts(settings.dataset)
    systems = {
        name: results.judge_model(model, tokenizer, test, settings, known=known),
        "lead": results.judge([lead(text, 2) for text in dialogues], references, dialogues),
        "human": human_agreement(references),
    }
    return results.interval_table(systems, seed=settings.seed)


def _score_policy(
    trainer: PPOTrainer, scorer: HateScorer, splits: DatasetDict, settings: Settings
) -> pd.DataFrame:
    """Score toxicity on heated test dialogues and quality on others, before and after training."""
    model, ordinary = (trainer.policy, trainer.processing_class), splits["ordinary_test"]
    cool = [[text] for text in splits["heated_test"]["cool"]]
    heated = splits["heated_test"].add_column("summaries", cool)

    def scores() -> list[pd.DataFrame]:
        toxicity = results.judge_model(*model, heated, settings, scorer)
        quality = results.judge_model(*model, ordinary, settings)
        return [toxicity[["toxicity", "insulting_word"]], quality.drop(columns="words")]

    after = scores()
    with trainer.policy.disable_adapter():
        before = scores()
    systems = [{"before": old, "after": new} for old, new in zip(before, after, strict=True)]
    systems.append({"human": human_agreement(list(ordinary["summaries"]))})
    return pd.concat([results.interval_table(system, settings.seed) for system in systems])
