import io
import itertools

import pytest

from utils.dialogue_files import check_words, read_dialogues, read_lines, split_at_turns
from utils.prompts import build_prompt, count_tokens

TWO = ["#Person1#: good\n#Person2#: bad", "#Person1#: hello"]
FILES = {
    "two.txt": "\n\n#Person1#: good\n#Person2#: bad\n  \n\n#Person1#: hello\n",
    "two.csv": 'id,dialogue\r\n1,"#Person1#: good\n#Person2#: bad"\r\n2,#Person1#: hello\r\n',
    "two.jsonl": (
        '{"dialogue": "#Person1#: good\\n#Person2#: bad"}\n\n'
        '{"dialogue": "#Person1#: hello", "id": 2}\n'
    ),
}


# Reading


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_same_dialogues_are_read_from_text_csv_and_jsonl(tmp_path, name, mark):
    (tmp_path / name).write_text(mark + FILES[name], encoding="utf-8", newline="")
    assert read_dialogues(str(tmp_path / name)) == TWO


@pytest.mark.parametrize("name", FILES)
def test_standard_input_is_text_unless_said_otherwise(monkeypatch, name):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(FILES[name].encode())))
    file_format = None if name.endswith("txt") else name.split(".")[1]
    assert read_dialogues("-", file_format) == TWO


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n\n", "holds no dialogue"),
        ("a.csv", "id,text\n1,hello\n", "call one of them dialogue"),
        ("a.csv", "dialogue,id\nhello,1\n,2\n", "dialogue 2 is empty"),
        ("a.jsonl", '{"dialogue": "hello"}\n{"dialogue": 3}\n', "line 2 has no text"),
        (
            "a.csv",
            'dialogue\nhello\n"never closed\nhello\n',
            "after line 2: this is not CSV.*check its quotes",
        ),
        ("a.jsonl", '{"dialogue": "hello"}\nhello\n', "line 2 is not JSON"),
        (
            "a.jsonl",
            '{"dialogue": "hello"}\n{"dialogue": "\\ud800"}\n',
            "line 2 holds half a character",
        ),
        (
            "a.json",
            '[{"dialogue": "hello"}]',
            r"\.json is not one of text, jsonl, csv: convert it, or .*--format",
        ),
    ],
)
def test_a_file_without_dialogues_is_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_dialogues(str(tmp_path / name))


def test_a_unicode_line_separator_inside_a_row_does_not_end_it(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"dialogue": "good\u2028bad"}\n', encoding="utf-8")
    (tmp_path / "a.csv").write_text("dialogue\ngood\u0085bad\n", encoding="utf-8")
    assert read_dialogues(str(tmp_path / "a.jsonl")) == ["good\u2028bad"]
    assert read_dialogues(str(tmp_path / "a.csv")) == ["good\u0085bad"]


def test_a_cell_may_be_longer_than_the_parsers_own_limit(tmp_path):
    (tmp_path / "a.csv").write_text("dialogue\n" + "good " * 40_000, encoding="utf-8")
    assert len(read_dialogues(str(tmp_path / "a.csv"))[0]) > 131_072


def test_another_encoding_is_refused_with_the_files_name(tmp_path):
    (tmp_path / "a.txt").write_text("caf\u00e9", encoding="latin-1")
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8.*save it with that encoding"):
        read_dialogues(str(tmp_path / "a.txt"))


def test_lines_of_a_text_are_read_without_blank_ones(tmp_path):
    (tmp_path / "a.txt").write_text("\ngood\r\n  \nbad\n", encoding="utf-8", newline="")
    assert read_lines(str(tmp_path / "a.txt")) == ["good", "bad"]


def test_a_text_of_blank_lines_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.txt holds no text: write one on each line"):
        read_lines(str(tmp_path / "a.txt"))


# Splitting


def tokens(part, tokenizer):
    return count_tokens(tokenizer, build_prompt(part))


def test_a_dialogue_that_fits_is_not_split(tiny_tokenizer):
    assert split_at_turns(TWO[0], tiny_tokenizer, 500) == [TWO[0]]


def test_a_long_dialogue_is_split_between_turns_into_the_longest_parts_that_fit(
    tiny_tokenizer,
):
    turns = [f"#Person{1 + i % 2}#: " + "good bad " * (1 + i % 3) for i in range(20)]
    limit = tokens("\n".join(turns[:5]), tiny_tokenizer)
    parts = split_at_turns("\n".join(turns), tiny_tokenizer, limit)
    assert [turn for part in parts for turn in part.split("\n")] == turns
    assert len(parts) > 2 and all(tokens(part, tiny_tokenizer) <= limit for part in parts)
    for part, following in itertools.pairwise(parts):
        assert tokens(part + "\n" + following.split("\n")[0], tiny_tokenizer) > limit


def test_a_turn_that_exceeds_the_prompt_alone_is_refused_with_the_remedy(tiny_tokenizer):
    told = r"'#Person2#: good good.*more than max_prompt_tokens=120.*raise the setting"
    with pytest.raises(ValueError, match=told):
        split_at_turns("#Person1#: hello\n#Person2#: " + "good " * 200, tiny_tokenizer, 120)


# Words


def test_a_text_with_too_many_unknown_words_is_refused_with_its_number_and_share(tmp_path):
    known = tmp_path / "words.txt"
    known.write_text("anna\nasks\nfor\nthe\n", encoding="utf-8")
    check_words(["Anna asks for the ladder.", "", "12 — #!"], known)  # one word of five
    with pytest.raises(ValueError, match="text 2: 40% of its words are unknown"):
        check_words(["Anna", "Anna asks for ladders, please."], known)
