import pytest
import tiny_models
import torch

from utils import generation
from utils.generation import generate
from utils.models import load_model
from utils.settings import OFFLINE

PROMPTS = [
    "good",
    "Anna asks #Person2# for the ladder on Friday. good bad nice ugly hello world",
    "hello world",
    "bad bad bad nice ugly ladder",
    "#Person1#: Anna",
    "ugly " * 40,
    "",
]


@pytest.fixture
def model(tiny_t5):
    """A tiny T5 with weights large enough that answers differ from prompt to prompt."""
    with torch.no_grad():
        for parameter in tiny_t5.parameters():
            parameter.mul_(3)
    return tiny_t5


@pytest.fixture
def calls(model, monkeypatch) -> list[dict]:
    """What each call of `model.generate` was given, and whether dropout was on."""
    seen, original = [], model.generate

    def spy(**arguments):
        seen.append(arguments | {"training": model.training, "grad": torch.is_grad_enabled()})
        return original(**arguments)

    monkeypatch.setattr(model, "generate", spy)
    return seen


def shapes(calls: list[dict]) -> list[tuple[int, int]]:
    return [tuple(call["attention_mask"].shape) for call in calls]


# Order


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_answers_equal_those_given_one_by_one_in_the_prompts_order(
    model, tiny_tokenizer, batch_size
):
    alone = []
    for prompt in PROMPTS:
        output = model.generate(
            **tiny_tokenizer(prompt, return_tensors="pt"), max_new_tokens=5, do_sample=False
        )
        alone.append(tiny_tokenizer.decode(output[0], skip_special_tokens=True))
    assert len(set(alone)) > 3  # else the order would prove nothing
    assert (
        generate(model, tiny_tokenizer, PROMPTS, batch_size=batch_size, max_new_tokens=5) == alone
    )


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_loaded_model_of_every_family_answers_as_the_saved_one_does_one_by_one(
    family, tiny_tokenizer, tmp_path
):
    saved = tiny_models.tiny_model(family)
    if hasattr(saved.config, "initializer_factor"):  # T5's weights begin too small to differ
        with torch.no_grad():
            for parameter in saved.parameters():
                parameter.mul_(3)
    saved.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    alone = [
        saved.generate(**tiny_tokenizer(prompt, return_tensors="pt"), max_new_tokens=6)[0]
        for prompt in PROMPTS
    ]
    alone = tiny_tokenizer.batch_decode(alone, skip_special_tokens=True)
    assert len(set(alone)) > 3
    loaded = load_model(str(tmp_path), device="cpu")
    assert generate(*loaded, PROMPTS, batch_size=3, max_new_tokens=6) == alone


@pytest.mark.parametrize("family", ["bart", "pegasus", "led"])
def test_a_prompt_beyond_a_models_last_position_is_refused_with_its_length(family, tiny_tokenizer):
    model = tiny_models.tiny_model(family)
    assert len(generate(model, tiny_tokenizer, ["good " * 255], max_new_tokens=1)) == 1
    with pytest.raises(ValueError, match=r"'good .* has 257 tokens.* at most 256: shorten it"):
        generate(model, tiny_tokenizer, ["good " * 256], max_new_tokens=1)


def test_answers_move_with_their_prompts(model, tiny_tokenizer):
    forward = generate(model, tiny_tokenizer, PROMPTS, batch_size=2, max_new_tokens=5)
    assert (
        generate(model, tiny_tokenizer, PROMPTS[::-1], batch_size=2, max_new_tokens=5)
        == forward[::-1]
    )


def test_padding_is_masked(model, tiny_tokenizer, calls):
    generate(model, tiny_tokenizer, ["good", "good bad nice"], max_new_tokens=1)
    (call,) = calls
    assert call["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_special_tokens_stay_out_of_the_answers(model, tiny_tokenizer):
    answers = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=5)
    assert not any("<pad>" in answer or "</s>" in answer for answer in answers)


# Economy


def test_each_distinct_prompt_is_answered_once(model, tiny_tokenizer, calls):
    prompts = ["good", "bad", "good", "nice", "good", "bad"]
    answers = generate(model, tiny_tokenizer, prompts, batch_size=2, max_new_tokens=5)
    assert sum(rows for rows, _ in shapes(calls)) == 3
    assert len(answers) == 6
    assert answers[0] == answers[2] == answers[4]
    assert answers[1] == answers[5] != answers[0]


def test_sampling_answers_equal_prompts_anew(model, tiny_tokenizer, calls):
    torch.manual_seed(0)
    answers = generate(
        model, tiny_tokenizer, ["good"] * 6, max_new_tokens=5, do_sample=True, top_k=0
    )
    assert sum(rows for rows, _ in shapes(calls)) == 6
    assert len(set(answers)) > 1


def test_prompts_of_like_length_share_a_batch_the_longest_first(model, tiny_tokenizer, calls):
    generate(
        model,
        tiny_tokenizer,
        ["good", "bad " * 9, "nice", "ugly " * 9],
        batch_size=2,
        max_new_tokens=1,
    )
    assert shapes(calls) == [(2, 10), (2, 2)]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_no_batch_is_larger_than_asked_for(model, tiny_tokenizer, calls, batch_size):
    generate(model, tiny_tokenizer, PROMPTS, batch_size=batch_size, max_new_tokens=1)
    assert max(rows for rows, _ in shapes(calls)) == batch_size


def test_batches_fill_a_budget_of_padded_tokens_unless_a_size_is_asked_for(
    model, tiny_tokenizer, calls, monkeypatch
):
    monkeypatch.setattr(generation, "DECODED_TOKENS", 24)
    prompts = [
        f"{'good ' * words}{end}" for words in (1, 1, 5, 7) for end in ("bad", "nice", "ugly")
    ]
    generate(model, tiny_tokenizer, [*prompts, "hello " * 40], max_new_tokens=1)
    assert shapes(calls)[0] == (1, 41)  # over the budget by itself, and still answered
    assert all(rows * length <= 24 for rows, length in shapes(calls)[1:])
    assert max(rows for rows, _ in shapes(calls)) == 3


# State


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_while_generating_and_as_it_was_after(
    model, tiny_tokenizer, calls, training
):
    model.train(training)
    generate(model, tiny_tokenizer, PROMPTS[:2], max_new_tokens=1)
    assert [call["training"] for call in calls] == [False]
    assert {module.training for module in model.modules()} == {training}


def test_a_model_in_train_mode_answers_as_in_eval_mode(model, tiny_tokenizer):
    expected = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=5)
    assert generate(model.train(), tiny_tokenizer, PROMPTS, max_new_tokens=5) == expected


def test_train_mode_is_restored_after_an_error(model, tiny_tokenizer, monkeypatch):
    def fail(**_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.train(), "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(model, tiny_tokenizer, ["good"])
    assert model.training


def test_no_gradients_are_kept(model, tiny_tokenizer, calls):
    generate(model, tiny_tokenizer, ["good"], max_new_tokens=1)
    assert [call["grad"] for call in calls] == [False]


# Configuration


def test_the_number_of_new_tokens_is_always_explicit(model, tiny_tokenizer, calls):
    generate(model, tiny_tokenizer, ["good"])
    generate(model, tiny_tokenizer, ["good"], max_new_tokens=7)
    assert [call["max_new_tokens"] for call in calls] == [128, 7]


def test_decoding_is_greedy_unless_asked_otherwise(model, tiny_tokenizer, calls):
    generate(model, tiny_tokenizer, ["good"], max_new_tokens=1)
    generate(model, tiny_tokenizer, ["good"], max_new_tokens=1, do_sample=True)
    assert [call["do_sample"] for call in calls] == [False, True]


def test_a_model_that_asks_for_beams_decodes_greedily_too(model, tiny_tokenizer, calls):
    model.generation_config.num_beams = 4  # as BART's checkpoints do
    generate(model, tiny_tokenizer, ["good"], max_new_tokens=1)
    assert calls[0]["num_beams"] == 1


def test_other_arguments_reach_the_model(model, tiny_tokenizer, calls):
    generate(model, tiny_tokenizer, ["good"], max_new_tokens=3, num_beams=2, length_penalty=0.6)
    assert (calls[0]["num_beams"], calls[0]["length_penalty"]) == (2, 0.6)


def test_a_long_prompt_reaches_the_model_uncut(model, tiny_tokenizer, calls):
    generate(model, tiny_tokenizer, ["good " * 600], max_new_tokens=1)
    assert shapes(calls) == [(1, 601)]


@pytest.mark.parametrize("sample", [False, True])
def test_no_prompts_give_no_answers(model, tiny_tokenizer, calls, sample):
    assert generate(model, tiny_tokenizer, [], do_sample=sample) == []
    assert calls == []


@pytest.mark.parametrize("batch_size", [0, -1, 1.5])
def test_an_impossible_batch_size_is_refused_and_named(model, tiny_tokenizer, batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        generate(model, tiny_tokenizer, ["good"], batch_size=batch_size, max_new_tokens=1)


def test_one_bare_prompt_is_not_taken_for_a_list_of_letters(model, tiny_tokenizer):
    with pytest.raises((TypeError, ValueError), match="list"):
        generate(model, tiny_tokenizer, "good", max_new_tokens=1)


def test_several_answers_to_a_prompt_follow_each_other_the_best_beam_first(model, tiny_tokenizer):
    options = {"max_new_tokens": 5, "num_beams": 3}
    best = generate(model, tiny_tokenizer, PROMPTS, **options)
    beams = generate(model, tiny_tokenizer, PROMPTS, num_return_sequences=3, **options)
    assert len(beams) == 3 * len(PROMPTS) and beams[::3] == best


def test_several_samples_of_a_prompt_differ_and_it_is_encoded_once(model, tiny_tokenizer):
    encoded = []
    model.encoder.register_forward_hook(
        lambda module, args, options, output: encoded.append(len(options["input_ids"])),
        with_kwargs=True,
    )
    options = {"max_new_tokens": 5, "do_sample": True, "num_return_sequences": 4}
    answers = generate(model, tiny_tokenizer, PROMPTS, **options)
    assert len(answers) == 4 * len(PROMPTS) and len(set(answers[:4])) > 1
    assert sum(encoded) == len(PROMPTS)


def test_a_gpus_batches_are_as_large_as_its_memory_allows(monkeypatch):
    monkeypatch.setattr(generation, "device_memory", lambda device: 16 * 2**30)
    assert generation._tokens_at_once(torch.device("cuda")) == (16_384, 16_384)
    monkeypatch.setattr(generation, "device_memory", lambda device: 140 * 2**30)
    assert generation._tokens_at_once(torch.device("cuda")) == (143_360, 143_360)


def test_the_encoder_takes_a_batch_in_parts_within_its_budget_to_the_same_answers(
    model, tiny_tokenizer, monkeypatch
):
    whole = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=5)
    encoded = []
    model.encoder.register_forward_hook(
        lambda module, args, options, output: encoded.append(tuple(options["input_ids"].shape)),
        with_kwargs=True,
    )
    monkeypatch.setattr(generation, "ENCODED_TOKENS", 10)
    assert generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=5) == whole
    assert len(encoded) > 1 and all(rows == 1 or rows * tokens <= 10 for rows, tokens in encoded)
    assert sum(rows for rows, _ in encoded) == len(set(PROMPTS))


# Precision


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16", torch.bfloat16), ("fp32", torch.float32), (None, torch.float32)],
)
def test_it_computes_in_the_precision_asked_for(
    model, tiny_tokenizer, monkeypatch, precision, dtype
):
    monkeypatch.setattr("utils.models.has_bf16", lambda device: True)
    seen = set()
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    generate(model, tiny_tokenizer, PROMPTS, precision=precision, max_new_tokens=3)
    assert seen == {dtype}


def test_without_a_precision_it_is_the_callers(model, tiny_tokenizer):
    seen = set()
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=3)
    assert seen == {torch.bfloat16}


# Progress


class Clock:
    """A clock that moves on by `step` seconds at each look."""

    def __init__(self, step: float):
        self.now, self.step = 0.0, step

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(
    ("step", "told"),
    [
        # A batch: 2 s to its first token, 7 more take 2 s each: 16 s. Four of them, less 8 s gone.
        (2.0, ""),
        # A batch: 80 s. Four of them, less 40 s gone: 280 s.
        (10.0, "generating: at most 5 more minutes\n"),
    ],
)
def test_the_longest_time_is_told_once_if_it_is_more_than_a_minute(
    model, tiny_tokenizer, monkeypatch, capsys, step, told
):
    monkeypatch.setattr(generation, "time", Clock(step))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    prompts = ["good", "bad", "hello", "world"]
    generate(model, tiny_tokenizer, prompts, batch_size=1, max_new_tokens=8, min_new_tokens=8)
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(("variable", "shown"), [("0", True), ("1", False)])
def test_a_bar_counts_prompts_unless_tqdm_is_disabled(
    model, tiny_tokenizer, monkeypatch, capsys, variable, shown
):
    monkeypatch.setenv("TQDM_DISABLE", variable)
    generate(model, tiny_tokenizer, ["good", "bad"], max_new_tokens=1)
    assert ("0/2" in capsys.readouterr().err) is shown


# Text that the model cannot read


@pytest.mark.parametrize("unread", ["Thanks 😀 Tom", "مرحبا", "Anna said </s> and left."])
def test_the_warning_of_a_prompt_that_the_model_cannot_read_quotes_its_beginning(unread):
    model, tokenizer = load_model(str(OFFLINE / "t5"), "cpu")
    with pytest.warns(UserWarning, match="1 of 2 prompts hold characters") as told:
        generate(model, tokenizer, ["Hello, Tom.", unread], max_new_tokens=2)
    assert repr(unread[:40]) in str(told[0].message)


def test_nothing_is_said_of_prompts_that_the_model_can_read(recwarn):
    model, tokenizer = load_model(str(OFFLINE / "t5"), "cpu")
    generate(model, tokenizer, ["Hello, Tom.", "a < b", "", "</i>"], max_new_tokens=2)
    assert not [w for w in recwarn if "prompts hold" in str(w.message)]
