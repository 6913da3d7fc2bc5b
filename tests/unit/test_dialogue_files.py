import io

import pytest

from utils.dialogue_files import check_words, read_conversations, read_dialogues
from utils.settings import OFFLINE

TWO = ["#Person1#: good\n#Person2#: bad", "#Person1#: hello"]
FILES = {
    "two.txt": "\n\n#Person1#: good\n#Person2#: bad\n  \n\n#Person1#: hello\n",
    "two.csv": 'id,dialogue\r\n1,"#Person1#: good\n#Person2#: bad"\r\n2,#Person1#: hello\r\n',
    "two.jsonl": (
        '{"dialogue": "#Person1#: good\\n#Person2#: bad"}\n\n'
        '{"dialogue": "#Person1#: hello", "id": 2}\n'
    ),
}


# Reading; the formats themselves are in conversations/


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


def test_a_cell_may_be_longer_than_the_parsers_own_limit(tmp_path):
    (tmp_path / "a.csv").write_text("dialogue\nAnna: " + "good " * 40_000, encoding="utf-8")
    assert len(read_dialogues(str(tmp_path / "a.csv"))[0]) > 131_072


def test_where_no_speaker_is_needed_each_line_is_a_text_and_blank_ones_are_skipped(tmp_path):
    (tmp_path / "a.txt").write_text("\ngood\r\n  \nAnna: bad\n", encoding="utf-8", newline="")
    found = read_conversations(str(tmp_path / "a.txt"), named=False)
    assert [turn for one in found for turn in one.turns] == [("", "good"), ("", "Anna: bad")]


def test_a_text_of_blank_lines_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.txt holds no text: write at"):
        read_conversations(str(tmp_path / "a.txt"), named=False)


# Words


def test_a_text_with_too_many_unknown_words_is_refused_with_its_number_and_share():
    t5 = str(OFFLINE / "t5")
    check_words(["Anna asks for the grue.", "", "12 — #!"], t5)  # one word of five
    with pytest.raises(ValueError, match="text 2: 40% of its words are unknown"):
        check_words(["Anna", "Anna asks for grues, quux."], t5)


def test_only_models_with_the_small_worlds_vocabulary_are_asked_for_their_words(tmp_path):
    check_words(["grue"], "google/flan-t5-base")
    for name in ("t5", "judge"):
        config = (OFFLINE / name / "config.json").read_text(encoding="utf-8")
        (tmp_path / "config.json").write_text(config, encoding="utf-8")  # as after fine-tuning
        with pytest.raises(ValueError, match="100%"):
            check_words(["grue"], str(tmp_path))
