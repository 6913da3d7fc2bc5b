import random
import re
from collections import Counter

import pytest
from datasets import Dataset, concatenate_datasets

from utils.data import (
    DatasetError,
    NearDuplicates,
    drop_near_duplicates,
    first_rows,
    group_references,
    load_dialogsum,
    load_splits,
    shortest,
)
from utils.settings import load_settings

HEADER = "id,dialogue,summary,topic\n"
ROW = "a,#Person1#: Hello.,They greet.,greeting\n"


@pytest.fixture(scope="module")
def dialogsum(real_data):
    return load_dialogsum(real_data)


@pytest.fixture
def folder(tmp_path):
    """Writes a folder of three good splits, but for the text given for one of them."""

    def write(**texts: str | bytes):
        for split in ("train", "validation", "test"):
            text = texts.get(split, HEADER + ROW)
            (tmp_path / f"{split}.csv").write_bytes(
                text if isinstance(text, bytes) else text.encode()
            )
        return tmp_path

    return write


def dialogues(*texts: str) -> Dataset:
    return Dataset.from_dict({"dialogue": list(texts)})


# Loading


def test_a_folder_of_three_files_becomes_three_splits_of_four_text_columns(folder):
    loaded = load_dialogsum(str(folder()))
    assert list(loaded) == ["train", "validation", "test"]
    assert loaded["test"].column_names == ["id", "dialogue", "summary", "topic"]
    assert loaded["test"][0]["dialogue"] == "#Person1#: Hello."


def test_columns_beyond_the_four_are_left_out(folder):
    path = folder(train="extra,topic,id,dialogue,summary\n1,greeting,a,Hello.,They greet.\n")
    assert load_dialogsum(str(path))["train"].column_names == ["id", "dialogue", "summary", "topic"]


@pytest.mark.parametrize("text", ["NA", "null", "nan", "None", "123", "007", "1e5", "True"])
def test_text_that_looks_like_something_else_survives_as_text(folder, text):
    row = load_dialogsum(str(folder(train=f"{HEADER}a,{text},{text},{text}\n")))["train"][0]
    assert row == {"id": "a", "dialogue": text, "summary": text, "topic": text}


def test_newlines_quotes_and_edge_spaces_in_a_cell_survive(folder):
    path = folder(
        train=HEADER
        + 'a,"#Person1#: Hi, ""Bob"".\n#Person2#: Hi.\r\n #Person1#: Bye. ",They meet.,hi\n'
    )
    dialogue = load_dialogsum(str(path))["train"][0]["dialogue"]
    assert dialogue == '#Person1#: Hi, "Bob".\n#Person2#: Hi.\r\n #Person1#: Bye. '


def test_a_file_saved_by_a_spreadsheet_with_a_byte_order_mark_loads(folder):
    path = folder(train=b"\xef\xbb\xbf" + (HEADER + ROW).encode())
    assert load_dialogsum(str(path))["train"]["id"][:] == ["a"]


def test_a_changed_file_is_read_anew(folder):
    load_dialogsum(str(folder()))
    path = folder(train=HEADER + ROW.replace("Hello", "Good morning"))
    assert load_dialogsum(str(path))["train"][0]["dialogue"] == "#Person1#: Good morning."


@pytest.mark.parametrize("column", ["id", "dialogue", "summary", "topic"])
def test_a_missing_column_is_named_with_its_file(folder, column):
    names = [name for name in ("id", "dialogue", "summary", "topic") if name != column]
    path = folder(validation=",".join(names) + "\na,b,c\n")
    with pytest.raises(
        DatasetError, match=rf"validation\.csv.*no column {column}.*{names[0]}, {names[1]}"
    ):
        load_dialogsum(str(path))


def test_the_error_for_a_file_with_semicolons_shows_how_its_header_was_read(folder):
    with pytest.raises(DatasetError, match=r"separated by commas, is id;dialogue;summary;topic$"):
        load_dialogsum(str(folder(train=(HEADER + ROW).replace(",", ";"))))


def test_the_unnamed_column_that_pandas_writes_for_its_index_is_left_out(folder):
    loaded = load_dialogsum(str(folder(train=f",{HEADER}0,{ROW}")))["train"]
    assert loaded.column_names == ["id", "dialogue", "summary", "topic"] and loaded["id"][:] == [
        "a"
    ]


@pytest.mark.parametrize("cell", ["", '""', "   ", '"\n \n"'])
@pytest.mark.parametrize("position", range(4))
def test_an_empty_cell_is_named_with_file_row_column_and_remedy(folder, cell, position):
    cells = ["b", "#Person1#: Bye.", "They part.", "farewell"]
    cells[position] = cell
    column = HEADER.strip().split(",")[position]
    path = folder(test=f"{HEADER}{ROW}{','.join(cells)}\n")
    with pytest.raises(DatasetError, match=rf"test\.csv, row 2: {column} .*fill it in"):
        load_dialogsum(str(path))


def test_a_repeated_id_is_named_with_file_row_and_remedy(folder):
    other, last = ROW.replace("a,", "b,", 1), ROW.replace("a,", "c,", 1)
    with pytest.raises(DatasetError, match=r"train\.csv, row 3: the id 'a' is repeated; give"):
        load_dialogsum(str(folder(train=HEADER + ROW + other + ROW + last)))


def test_equal_ids_in_different_splits_are_no_error(folder):
    assert load_dialogsum(str(folder())).num_rows == {"train": 1, "validation": 1, "test": 1}


def test_a_row_with_too_many_cells_is_refused_with_file_line_and_one_line_of_text(folder):
    with pytest.raises(DatasetError, match=r"train\.csv.*line 3, saw 5") as error:
        load_dialogsum(str(folder(train=HEADER + ROW + "b,b,c,d,e\n")))
    assert "\n" not in str(error.value)


def test_a_row_with_too_few_cells_is_an_empty_cell(folder):
    with pytest.raises(DatasetError, match=r"train\.csv, row 2: topic"):
        load_dialogsum(str(folder(train=HEADER + ROW + "b,Hello.,They greet.\n")))


def test_a_dialogue_of_140000_characters_loads(folder):
    long = "#Person1#: Hello. " * 7_778
    assert load_dialogsum(str(folder(train=HEADER + ROW.replace("#Person1#: Hello.", long))))[
        "train"
    ]["dialogue"][:] == [long]


def test_rows_that_all_have_one_cell_too_many_are_not_shifted_but_refused(folder):
    with pytest.raises(DatasetError, match=r"train\.csv has rows with more cells than its first"):
        load_dialogsum(str(folder(train=HEADER + ROW.replace("\n", ",more\n"))))


@pytest.mark.parametrize("text", ["", HEADER])
def test_a_file_without_rows_is_named_with_the_remedy(folder, text):
    with pytest.raises(DatasetError, match=r"train\.csv .*(no rows|No columns)"):
        load_dialogsum(str(folder(train=text)))


def test_a_file_that_is_not_utf8_is_named(folder):
    with pytest.raises(DatasetError, match=r"train\.csv.*utf-8"):
        load_dialogsum(str(folder(train=(HEADER + ROW.replace("Hello", "Olé")).encode("latin-1"))))


def test_a_folder_without_splits_is_named_with_what_it_needs(tmp_path):
    with pytest.raises(
        DatasetError,
        match=rf"{re.escape(str(tmp_path))} has no train\.csv.*needs train\.csv.*test\.csv",
    ):
        load_dialogsum(str(tmp_path))


def test_only_the_absent_splits_are_called_missing(folder):
    path = folder()
    (path / "validation.csv").unlink()
    with pytest.raises(DatasetError, match=r"has no validation\.csv:"):
        load_dialogsum(str(path))


@pytest.mark.parametrize("missing", ["no/such-dataset", "/no/such/folder"])
def test_a_dataset_that_is_nowhere_is_named_with_the_remedy(missing):
    with pytest.raises(DatasetError, match=rf"'{missing}'.*LABS_PRESET=offline") as error:
        load_dialogsum(missing)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(2, ["a", "b"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c"]), (None, ["a", "b", "c"])],
)
def test_the_first_rows_are_as_many_as_there_are_or_were_asked_for(n, expected):
    assert first_rows(dialogues("a", "b", "c"), n)["dialogue"][:] == expected


# References


def test_references_of_one_dialogue_are_grouped():
    rows = [
        {"id": "test_7_1", "dialogue": "Hi.", "summary": "first", "topic": "x"},
        {"id": "test_8", "dialogue": "Bye.", "summary": "other", "topic": "z"},
        {"id": "test_7_2", "dialogue": "Hi.", "summary": "second", "topic": "y"},
        {"id": "test_7_3", "dialogue": "Hi.", "summary": "first", "topic": "x"},
    ]
    assert group_references(Dataset.from_list(rows)).to_list() == [
        {
            "id": "test_7",
            "dialogue": "Hi.",
            "summaries": ["first", "second", "first"],
            "topics": ["x", "y", "x"],
        },
        {"id": "test_8", "dialogue": "Bye.", "summaries": ["other"], "topics": ["z"]},
    ]


def test_grouping_keeps_the_order_of_first_appearance():
    rows = [
        {"id": f"{text}_{i}", "dialogue": text, "summary": "s", "topic": "t"}
        for i, text in enumerate("cabacd")
    ]
    assert group_references(Dataset.from_list(rows))["dialogue"][:] == ["c", "a", "b", "d"]


def test_only_the_last_number_is_taken_off_an_id():
    rows = [
        {"id": f"test_1_0_{i}", "dialogue": "Hi.", "summary": "s", "topic": "t"} for i in (10, 11)
    ]
    assert group_references(Dataset.from_list(rows))["id"][:] == ["test_1_0"]


# Near-duplicates


def test_jaccard_similarity_by_hand():
    # bigrams: {a b, b c, c d} and {b c, c d, d e, e f}: two shared, five in all
    assert NearDuplicates(["b c d e f"], n=2).similarity("a b c d") == pytest.approx(2 / 5)


def test_similarity_ignores_case_and_punctuation():
    assert NearDuplicates(["Good morning, Bob!"], n=2).similarity("good MORNING bob") == 1.0


def test_similarity_is_to_the_nearest_of_the_known_texts():
    near = NearDuplicates(["a b x y", "a b c y", "q r s t"], n=1)
    assert near.similarity("a b c d") == pytest.approx(3 / 5)


def test_a_repeated_ngram_counts_once():
    assert NearDuplicates(["a a a a b"], n=1).similarity("a b") == 1.0


def test_texts_that_share_no_ngram_have_similarity_zero():
    assert NearDuplicates(["a b c"], n=2).similarity("c b a") == 0.0
    assert NearDuplicates([], n=2).similarity("a b") == 0.0


def test_a_text_shorter_than_n_words_equals_only_itself():
    near = NearDuplicates(["Hello there."], n=5)
    assert near.similarity("hello there") == 1.0
    assert near.similarity("hello") == 0.0


def test_similarity_exactly_at_the_threshold_is_dropped():
    # seven 5-grams, all among the other's ten: 7 / 10
    words = list("abcdefghijklmn")
    rows, against = dialogues(" ".join(words[:11])), dialogues(" ".join(words))
    assert len(drop_near_duplicates(rows, against, threshold=0.7)) == 0
    assert len(drop_near_duplicates(rows, against, threshold=0.701)) == 1


def test_defaults_are_five_grams_and_seven_tenths():
    words = [f"word{i}" for i in range(17)]
    # 7 of 10 five-grams, but 6 of 9 six-grams; 9 of 13 five-grams, but 10 of 14 four-grams
    for known, part, kept in ((14, 11, 0), (17, 13, 1)):
        rows, against = dialogues(" ".join(words[:part])), dialogues(" ".join(words[:known]))
        assert len(drop_near_duplicates(rows, against)) == kept


def test_rows_that_stay_keep_their_order_and_columns():
    rows = Dataset.from_dict({"dialogue": ["x y", "a b", "z w"], "id": ["1", "2", "3"]})
    kept = drop_near_duplicates(rows, dialogues("a b"), n=1)
    assert kept.to_list() == [{"dialogue": "x y", "id": "1"}, {"dialogue": "z w", "id": "3"}]


@pytest.mark.parametrize(("n", "threshold"), [(1, 0.75), (2, 0.3), (3, 0.2)])
def test_near_duplicates_agree_with_comparing_every_pair(n, threshold):
    rng = random.Random(n)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 12))) for _ in range(80)]

    def grams(text: str) -> set:
        words = text.split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} or {tuple(words)}

    def jaccard(one: str, other: str) -> float:
        return len(grams(one) & grams(other)) / len(grams(one) | grams(other))

    rows, against = texts[:40], texts[40:]
    expected = [text for text in rows if max(jaccard(text, other) for other in against) < threshold]
    kept = drop_near_duplicates(dialogues(*rows), dialogues(*against), n, threshold)["dialogue"][:]
    assert kept == expected
    assert 0 < len(kept) < len(rows)


@pytest.mark.parametrize(("n", "threshold"), [(0, 0.7), (5, 0.0), (5, 1.1), (5, float("nan"))])
def test_an_impossible_n_or_threshold_is_refused(n, threshold):
    with pytest.raises(ValueError, match=f"n={n}.*threshold={threshold}"):
        drop_near_duplicates(dialogues("a"), dialogues("b"), n, threshold)


# Splits


@pytest.fixture
def split_folder(folder):
    """Splits where train-2 is in test, validation-1 in train, and test-0 and test-1 are one."""

    def rows(*pairs: tuple[str, str]) -> str:
        return HEADER + "".join(f"{name},#Person1#: {text}.,s,t\n" for name, text in pairs)

    return folder(
        train=rows(("train-1", "a"), ("train-2", "x"), ("train-3", "c"), ("train-4", "d")),
        validation=rows(("validation-1", "d"), ("validation-2", "m"), ("validation-3", "x")),
        test=rows(("test-0_1", "x"), ("test-0_2", "x"), ("test-1", "y"), ("test-2", "z")),
    )


def chosen_ids(folder, **numbers: int | None) -> dict[str, list[str]]:
    splits = load_splits(load_settings("offline", dataset=str(folder), **numbers))
    return {split: rows["id"][:] for split, rows in splits.items()}


def test_train_shares_nothing_with_test_and_validation_shares_nothing_with_train(split_folder):
    assert chosen_ids(split_folder) == {
        "train": ["train-1", "train-3", "train-4"],
        "validation": ["validation-2"],
        "test": ["test-0", "test-1", "test-2"],
    }


def test_train_is_cut_before_and_validation_after_near_duplicates_are_dropped(split_folder):
    numbers = {"train_dialogues": 2, "validation_dialogues": 1, "test_dialogues": 2}
    assert chosen_ids(split_folder, **numbers) == {
        "train": ["train-1"],
        "validation": ["validation-2"],
        "test": ["test-0", "test-1"],
    }


# The real DialogSum


def test_dialogsum_has_12460_500_and_1500_rows(dialogsum):
    assert dialogsum.num_rows == {"train": 12_460, "validation": 500, "test": 1_500}


def test_dialogsum_test_split_is_500_dialogues_with_three_references_each(dialogsum):
    grouped = group_references(dialogsum["test"])
    assert len(grouped) == 500
    assert {len(summaries) for summaries in grouped["summaries"]} == {3}
    assert (grouped["id"][0], grouped["id"][499]) == ("test_0", "test_499")


def test_dialogsum_keeps_its_white_space(dialogsum):
    train = dialogsum["train"]
    assert sum(text != text.strip() for text in train["dialogue"]) == 1_571
    assert sum("\n" in text for text in train["summary"]) == 13


def test_dialogsum_validation_has_near_duplicates_in_train_and_test_has_hardly_any(dialogsum):
    held_out = {"validation": dialogsum["validation"], "test": group_references(dialogsum["test"])}
    both = concatenate_datasets(
        [
            rows.select_columns(["dialogue"]).add_column("split", [name] * 500)
            for name, rows in held_out.items()
        ]
    )
    kept = Counter(drop_near_duplicates(both, dialogsum["train"])["split"])
    assert 500 - kept["validation"] == pytest.approx(82, abs=3)
    assert 500 - kept["test"] == pytest.approx(4, abs=1)


def talk(*said: str, speakers: int = 2) -> str:
    return "\n".join(f"#Person{1 + i % speakers}#: {text}" for i, text in enumerate(said))


def test_shortest_finds_a_pattern_in_a_talk_of_two_with_enough_turns():
    dialogues = [
        talk("Hi.", "I meant no."),
        talk("Hi there, how are you?", "Fine.", "Monday?", "I meant Friday."),
        talk("Hi.", "Fine.", "Monday?", "I meant Friday."),
        talk("Hi.", "No.", "I meant no.", "Yes.", speakers=3),
        talk("Hi.", "Fine.", "Monday?", "Thanks."),
    ]
    assert shortest(dialogues, "I meant", least=4) == 2
    assert shortest(dialogues, re.compile("thanks", re.IGNORECASE), least=4) == 4
    assert shortest(dialogues, "I meant", least=2) == 0


def test_without_a_dialogue_that_fits_shortest_is_the_shortest_of_all():
    assert shortest([talk("Hello there."), talk("Hi."), talk("Good day.")], "I meant") == 1
