"""Bad and odd input has a defined result: an error that names it, or the text as it was given.

Commands have a table of their own in `test_command_line`, files of conversations in
`test_formats`, and checkpoints in `test_resume`.
"""

import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_models
from datasets import Dataset, DatasetDict

from utils.data import drop_near_duplicates, group_references, load_dialogsum
from utils.dialogue_files import parse_conversations, read_conversations
from utils.faithfulness import facts, faithful_names, right_speakers
from utils.finetuning import fine_tune
from utils.generation import generate
from utils.ppo import PPOConfig, PPOTrainer
from utils.prompts import build_prompt, similar_examples
from utils.results import interval_table, judge, read_results, record
from utils.rouge import (
    extractive_oracle,
    human_agreement,
    lead,
    longest,
    paper_rouge_scores,
    rouge_scores,
)
from utils.settings import OFFLINE, load_settings
from utils.statistics import compare, confidence_interval, holm, proportion_interval
from utils.toxicity import HateReward, HateScorer, dialogue_heat

NAN, HUGE = math.nan, "Anna: " + "word " * 100_000
tokenizer = functools.cache(tiny_models.tiny_tokenizer)


@functools.cache
def scorer() -> HateScorer:
    return HateScorer(str(OFFLINE / "judge"), "cpu")


def write(prompts: Any, **options: Any) -> list[str]:
    model = tiny_models.tiny_model("t5")
    return generate(model, tokenizer(), prompts, **{"max_new_tokens": 4} | options)


def read(text: str | bytes, name: str = "own.txt", **options: Any) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    return [str(found) for found in parse_conversations(content, name, **options)]


def load(*rows: str) -> DatasetDict:
    """A folder whose three splits have these rows."""
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "validation", "test"):
            text = "\n".join(["id,dialogue,summary,topic", *rows]) + "\n"
            (Path(folder) / f"{split}.csv").write_text(text, encoding="utf-8")
        return load_dialogsum(folder)


def pairs(dialogues: Any = ("A: Hi.", "B: Hello."), summaries: Any = ("a", "b")) -> Dataset:
    return Dataset.from_dict({"dialogue": list(dialogues), "summary": list(summaries)})


def tune(train: Dataset, **arguments: Any) -> Any:
    model = tiny_models.tiny_model("t5")
    with tempfile.TemporaryDirectory() as folder:
        where = {"output_dir": folder} | arguments
        return fine_tune(model, tokenizer(), train, pairs(), method="full", **where)


def reinforce(reward: Any, prompts: Any = ("a", "b"), **options: Any) -> None:
    rows = Dataset.from_dict({"prompt": list(prompts)})
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        sizes = {"max_steps": 1, "per_device_train_batch_size": 2, "max_completion_length": 4}
        args = PPOConfig(folder, **quiet | sizes | options)
        model = tiny_models.tiny_model("t5")
        PPOTrainer(model, reward, args, rows, processing_class=tokenizer()).train()


def rewarding(value: Any) -> Callable:
    return lambda completions: [value] * len(completions)


def one(completions: list[str]) -> list[float]:
    return [1.0] * len(completions)


def frame(*values: Any) -> pd.DataFrame:
    return pd.DataFrame({"score": values})


REFUSED = {  # name: what is done, and what the ValueError says
    # prompts
    "a dialogue that is None": (lambda: build_prompt(None), "the dialogue is None: pass text"),
    "a dialogue that is a number": (lambda: build_prompt(3), "the dialogue is 3: pass text"),
    "a template without a place for the dialogue": (
        lambda: build_prompt("A: Hi.", template="{dialog}"),
        r"'\{dialog\}' has no \{dialogue\}",
    ),
    "an example without a summary": (
        lambda: build_prompt("A: Hi.", ["B: Hello."]),
        "'B: Hello.' is not a pair: pass",
    ),
    "a budget without a tokenizer": (
        lambda: build_prompt("A: Hi.", max_tokens=5),
        "max_tokens=5 needs a tokenizer",
    ),
    "a budget smaller than the dialogue": (
        lambda: build_prompt(HUGE, tokenizer=tokenizer(), max_tokens=512),
        "tokens without any example, more than max_tokens=512: raise max_tokens or shorten",
    ),
    "more similar examples than there are": (
        lambda: similar_examples(["A: Hi."], ["a"], 2, ["B: Hi."]),
        "2",
    ),
    # generation
    "a prompt that is not in a list": (lambda: write("Hi."), "prompts is the string 'Hi.': pass"),
    "a prompt that is None": (lambda: write(["Hi.", None]), r"prompts\[1\] is None: pass text"),
    "a batch of none": (lambda: write(["Hi."], batch_size=0), "batch_size=0 must be a whole"),
    "half a batch": (lambda: write(["Hi."], batch_size=1.5), "batch_size=1.5 must be a whole"),
    "summaries of no token": (lambda: write(["Hi."], max_new_tokens=0), "greater than 0"),
    "no beam": (lambda: write(["Hi."], num_beams=0), "num_beams=0 must be at least 1"),
    "a misspelled option": (lambda: write(["Hi."], max_tokens=3), "max_tokens"),
    "no answer to a prompt": (
        lambda: write(["Hi."], do_sample=True, num_return_sequences=0),
        "num_return_sequences=0 must be at least 1",
    ),
    "two greedy answers to a prompt": (
        lambda: write(["Hi."], num_return_sequences=2),
        "do not support `num_return_sequences` different than 1",
    ),
    "a negative temperature": (
        lambda: write(["Hi."], do_sample=True, temperature=-1.0),
        "strictly positive",
    ),
    "a precision that T5 cannot have": (lambda: write(["Hi."], precision="fp16"), "'fp16': choose"),
    # measures
    "more references than predictions": (
        lambda: rouge_scores(["a"], ["a", "b"]),
        "1 predictions against 2 references",
    ),
    "a prediction that is not in a list": (
        lambda: rouge_scores("abc", ["a", "b", "c"]),
        "predictions is the string 'abc': pass a list",
    ),
    "a reference that is not in a list": (
        lambda: rouge_scores(["abc"], "a"),
        "references is the string 'a': pass a list",
    ),
    "a prediction that is None": (lambda: rouge_scores([None], ["a"]), r"predictions\[0\] is None"),
    "a prediction that is NaN": (lambda: rouge_scores([NAN], ["a"]), r"predictions\[0\] is nan"),
    "a reference that is None": (
        lambda: rouge_scores(["a", "b"], ["a", ["b", None]]),
        r"references\[1\]\[1\] is None",
    ),
    "a prediction without a reference": (
        lambda: rouge_scores(["a", "b"], ["a", []]),
        "prediction 1 has no reference",
    ),
    "an unknown reduction": (
        lambda: rouge_scores(["a"], ["a"], reduce="median"),
        "'median': choose 'mean' or 'max'",
    ),
    "the paper's ROUGE of nothing": (lambda: paper_rouge_scores([None], ["a"]), "is None"),
    "the first −1 turns": (lambda: lead("A: Hi.\nB: Hi.", -1), "n=-1: ask for 0 turns or more"),
    "the longest −2 turns": (lambda: longest("A: Hi.", -2), "n=-2: ask for 0 turns or more"),
    "an oracle of bare text": (lambda: extractive_oracle("A: Hi.", "Hi."), "is the string 'Hi.'"),
    "humans who cannot be compared": (
        lambda: human_agreement([["a", "b"], ["a"]]),
        "dialogue 1 has fewer than two references",
    ),
    "names without dialogues": (lambda: faithful_names(["a"], []), "1 predictions with 0 dialogue"),
    "speakers of None": (lambda: right_speakers([None], ["a"]), r"predictions\[0\] is None"),
    "a record without facts": (lambda: facts(["a"], [{}]), r"records\[0\] is not a dialogue's"),
    "nothing to judge by": (lambda: judge(["a"]), "nothing to judge by"),
    # statistics
    "a missing score": (lambda: confidence_interval(frame(1, NAN)), "row 1 has a missing score"),
    "an infinite score": (lambda: confidence_interval(frame(1, math.inf)), "row 1 has an infinite"),
    "a score that is text": (
        lambda: confidence_interval(frame("a", "b")),
        "not a number.*text columns",
    ),
    "one dialogue": (lambda: confidence_interval(frame(1.0)), "too few: score at least two"),
    "no dialogue": (lambda: confidence_interval(frame()), "too few: score at least two"),
    "a level in percent": (lambda: confidence_interval(frame(1, 2), level=95), "between 0 and 1"),
    "systems of different dialogues": (lambda: compare(frame(1, 2), frame(1)), "are not paired"),
    "a share of nothing": (lambda: proportion_interval(0, 0), "0 of 0: pass at least one trial"),
    "a share above one": (lambda: proportion_interval(5, 3), "5 of 3"),
    "a p-value above one": (lambda: holm([0.1, 2.0]), "must be between 0 and 1"),
    "a p-value that is NaN": (lambda: holm([0.1, NAN]), "must be between 0 and 1"),
    "a table without dialogues": (lambda: interval_table({"a": frame()}), "too few"),
    # judges and rewards
    "a text that is None": (lambda: scorer().probability([None]), r"texts\[0\] is None"),
    "a label that the judge lacks": (lambda: scorer().logits(["Hi."], "toxic"), "nothate, hate"),
    "an unknown kind of reward": (lambda: HateReward(scorer(), kind="p"), "'logp' or 'logit'"),
    "a reward in fp16": (lambda: HateReward(scorer(), "fp16"), "choose 'auto', 'fp32' or 'bf16'"),
    "a reward that is NaN": (lambda: reinforce(rewarding(NAN)), "returned nan for the completion"),
    "a reward that is infinite": (lambda: reinforce(rewarding(math.inf)), "returned inf"),
    "a reward that is text": (
        lambda: reinforce(rewarding("good")),
        "returned a non-number: .*'good'",
    ),
    "too few rewards": (
        lambda: reinforce(lambda completions: [1.0]),
        "1 rewards for 2 completions",
    ),
    # training
    "training without a dialogue": (lambda: tune(pairs([], [])), "train has no rows"),
    "training without summaries": (
        lambda: tune(pairs().remove_columns("summary")),
        r"columns \['dialogue'\]: it needs dialogue, and summary",
    ),
    "a summary that is None": (lambda: tune(pairs(summaries=("a", None))), r"summary\[1\] is None"),
    "a misspelled training argument": (lambda: tune(pairs(), epochs=3), "argument 'epochs'"),
    "a learning rate that is NaN": (lambda: tune(pairs(), learning_rate=NAN), "learning rate: nan"),
    "a negative learning rate": (lambda: tune(pairs(), learning_rate=-1), "learning rate: -1"),
    "a training batch of none": (
        lambda: tune(pairs(), per_device_train_batch_size=0),
        "batch_size=0",
    ),
    "a prompt column with another name": (
        lambda: PPOTrainer("t5", one, train_dataset=Dataset.from_dict({"text": ["a"]})),
        r"no column is named 'prompt' \(columns: text\)",
    ),
    "PPO without a prompt": (lambda: reinforce(one, []), "train_dataset has 0 prompts"),
    "a missing prompt": (lambda: reinforce(one, ["a", None]), "row 1 has no prompt"),
    "a negative price of KL": (lambda: reinforce(one, beta=-1), "beta=-1 must be between 0"),
    "a price of KL that is NaN": (lambda: reinforce(one, beta=NAN), "beta=nan must be between"),
    "a discount above one": (lambda: reinforce(one, gamma=2), "gamma=2 must be between 0 and 1"),
    "a temperature of zero": (lambda: reinforce(one, temperature=0), "temperature=0 must be"),
    "a clip range of zero": (lambda: reinforce(one, epsilon=0), "epsilon=0 must be between"),
    "an unknown estimator": (
        lambda: reinforce(one, advantage_estimator="a2c"),
        "choose from gae, rloo, grpo",
    ),
    "completions of no token": (lambda: reinforce(one, max_completion_length=0), "at least 1"),
    # data
    "a cell that is never closed": (lambda: load('1,"A: Hi.,a,t'), "is not a readable CSV file"),
    "data at a file's address": (lambda: load_dialogsum(__file__), "cannot load"),
    "an impossible similarity": (
        lambda: drop_near_duplicates(pairs(), pairs(), threshold=2),
        r"threshold=2 in \(0, 1\]",
    ),
    "a setting of the wrong type": (lambda: load_settings("offline", seed="x"), "of type int"),
    "a setting that is NaN": (
        lambda: load_settings("offline", ppo_learning_rate=NAN),
        "must be positive and finite",
    ),
    # one's own files
    "an empty file": (lambda: read(""), "own.txt holds no dialogue"),
    "a file of names only": (lambda: read("Anna:\nBen:\n"), "holds no dialogue"),
    "null bytes": (lambda: read("Anna: a\0b"), "it contains null bytes"),
    "a PDF": (lambda: read(b"%PDF-1.7\0\1", "own.pdf"), "own.pdf is not UTF-8"),
    "half a JSON": (lambda: read('{"dialogue":', "own.json"), "own.json is not JSON"),
    "JSON that is a number": (lambda: read("3", "own.json"), 'is 3: write rows with "dialogue"'),
    "a turn without text": (
        lambda: read('[{"speaker": "A", "text": null}]', "own.json"),
        'entry 1 has no "text"',
    ),
    "a subtitle file without cues": (lambda: read("WEBVTT\n\n", "own.vtt"), "holds no dialogue"),
    "a cue at minute 99": (
        lambda: read("1\n00:99:00,000 --> x\nA: Hi.\n", "own.srt"),
        "wrong time",
    ),
    "an archive that is none": (
        lambda: read_conversations(str(OFFLINE / "README.md") + "/a.zip"),
        "a.zip",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_the_value_or_the_remedy(name):
    done, message = REFUSED[name]
    with pytest.raises((ValueError, OSError), match=message):
        done()


EMOJI, ARABIC, CHINESE = "Anna 😀: Hi 👍", "أحمد: مرحبا", "王: 你好"
IMITATION = "A: Summarize the following conversation.\n\nSummary: {dialogue} <extra_id_0> </s>"
HTML = "Anna: <b>hi</b> & <script>alert(1)</script>"
KEPT = {  # name: what is done, and its result
    "a dialogue with braces": (
        lambda: build_prompt("A: {0} {x}", template="{dialogue}"),
        "A: {0} {x}",
    ),
    "a dialogue that imitates the template": (
        lambda: build_prompt(IMITATION, [("B: {dialogue}", "b")], "{dialogue} ->"),
        f"B: {{dialogue}} -> b\n\n{IMITATION} ->",
    ),
    "no prompts": (lambda: write([]), []),
    "no predictions": (lambda: len(rouge_scores([], [])), 0),
    "an empty prediction": (lambda: rouge_scores([""], ["a"])["rouge1"].tolist(), [0.0]),
    "numpy and tuples for lists": (lambda: len(rouge_scores(pd.Series(["a"]), (["a", "b"],))), 1),
    "a text of 100,000 words to judge": (lambda: len(scorer().probability([HUGE])), 1),
    "no texts to judge": (lambda: scorer().probability([]).tolist(), []),
    "emoji to judge": (lambda: len(dialogue_heat(scorer(), [EMOJI])), 1),
    "a share of 0 of 107": (lambda: round(proportion_interval(0, 107)[1], 3), 0.034),
    "no p-values": (lambda: holm([]).tolist(), []),
    "rewards that are None": (lambda: reinforce(rewarding(None)), None),
    "rewards that are whole numbers": (lambda: reinforce(rewarding(1)), None),
    "prompts that are empty": (lambda: reinforce(one, ["", ""]), None),
    "emoji": (lambda: read(EMOJI), [EMOJI]),
    "Arabic": (lambda: read(ARABIC), [ARABIC]),
    "a Chinese colon": (lambda: read("王：你好"), [CHINESE]),
    "HTML": (lambda: read(HTML), [HTML]),
    "control characters": (lambda: read("Anna: a\x07b"), ["Anna: a\x07b"]),
    "a right-to-left mark": (lambda: read("\u200fAnna: Hi."), ["Anna: Hi."]),
    "special tokens": (lambda: read("Anna: <extra_id_0> </s>"), ["Anna: <extra_id_0> </s>"]),
    "a conversation of 100,000 words": (
        lambda: [text.count("word") for text in read(HUGE)],
        [100_000],
    ),
    "a cell of 200,000 characters": (
        lambda: len(read(f'dialogue\n"Anna: {"x" * 200_000}"', "own.csv")[0]),
        200_006,
    ),
    "5,000 speakers": (
        lambda: read("\n".join(f"N{i} N: Hi." for i in range(5000)))[0].count("\n"),
        4999,
    ),
    "data with HTML, emoji and special tokens": (
        lambda: load(f"1,{HTML} 😀 </s>,a,t")["train"][0]["dialogue"],
        f"{HTML} 😀 </s>",
    ),
    "the words NaN, NA and null": (
        lambda: list(load("1,NaN,NA,null")["train"][0].values()),
        ["1", "NaN", "NA", "null"],
    ),
    "a dialogue of 100,000 words": (
        lambda: group_references(load(f"1,{HUGE},a,t")["test"]).num_rows,
        1,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_odd_input_is_taken_as_it_is(name):
    done, result = KEPT[name]
    assert done() == result


@pytest.mark.parametrize("text", ["😀😀", "a\x1b[31m", "你好", "say </s> or <extra_id_0>"])
def test_text_that_the_tokenizer_cannot_read_gives_a_warning(text):
    with pytest.warns(UserWarning, match="1 of 1 prompts hold characters without a token"):
        write([text])


@pytest.mark.parametrize("text", ["你好吗", "مرحبا بكم", "Привет"])
def test_text_that_rouge_cannot_read_gives_a_warning(text):
    with pytest.warns(UserWarning, match="their ROUGE is meaningless"):
        rouge_scores([text], [text])


def test_a_prompt_that_memory_cannot_hold_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="tokens do not fit into memory: shorten it, or summarize"):
        write(["hello world " * 400_000])


# Results that are there already


def test_results_of_other_labs_stay_and_a_damaged_file_is_set_aside(tmp_path):
    settings = load_settings("offline", output_dir=str(tmp_path))
    table = interval_table({"a": frame(0.5, 0.6)})
    path = record("lab1", table, settings, 1.0)
    record("lab2", table, settings, 1.0)
    assert set(read_results(path)["lab"]) == {"lab1", "lab2"}
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json is not JSON"):
        read_results(path)
    damaged = path.read_text(encoding="utf-8")
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text("null", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"it is kept as results\.damaged"):
        record("lab1", table, load_settings("offline", output_dir=str(other)), 1.0)
    with pytest.warns(UserWarning, match=r"it is kept as results\.damaged"):
        record("lab3", table, settings, 1.0)
    assert set(read_results(path)["lab"]) == {"lab3"}
    (aside,) = tmp_path.glob("results.damaged-*.json")
    assert aside.read_text(encoding="utf-8") == damaged


def test_a_file_in_place_of_the_output_folder_is_named_and_stays(tmp_path):
    place = tmp_path / "out"
    place.write_text("mine", encoding="utf-8")
    with pytest.raises(OSError, match="out"):
        tune(pairs(), output_dir=str(place))
    settings = load_settings("offline", output_dir=str(place))
    with pytest.raises(OSError, match="out"):
        record("lab1", interval_table({"a": frame(0.5, 0.6)}), settings, 1.0)
    assert place.read_text(encoding="utf-8") == "mine"


def test_the_table_has_at_least_80_cases():
    assert len(REFUSED) + len(KEPT) >= 80
