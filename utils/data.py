"""Load dialogues with summaries, check them, group references, and drop near-duplicates."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from datasets import Dataset, DatasetDict, Features, Value, load_dataset
from huggingface_hub import snapshot_download

from utils.hub import UnavailableError, from_hub
from utils.settings import Settings

SPLITS = ("train", "validation", "test")
COLUMNS = ("id", "dialogue", "summary", "topic")


class DatasetError(ValueError):
    """The data cannot be used; the message names the file, the row and the remedy."""


def load_dialogsum(id_or_path: str) -> DatasetDict:
    """Load DialogSum, or data of the same layout, from the hub or from a folder of CSV files.

    Returns splits train, validation and test with the text columns id, dialogue, summary and topic.

    Raises DatasetError if it cannot be loaded, a split or column is missing, a cell is empty or
    not text, or an id is repeated.
    """
    folder = Path(id_or_path)
    dataset = _read_folder(folder) if folder.is_dir() else _read_hub(id_or_path)
    if missing := [split for split in SPLITS if split not in dataset]:
        needs = ", ".join(SPLITS)
        raise DatasetError(f"{id_or_path} has no split {', '.join(missing)}: it needs {needs}")
    for split in SPLITS:
        name = str(folder / f"{split}.csv") if folder.is_dir() else f"{id_or_path}, {split}"
        _check_rows(dataset[split], name)
    return DatasetDict({split: dataset[split].select_columns(list(COLUMNS)) for split in SPLITS})


def load_splits(settings: Settings) -> DatasetDict:
    """Load the settings' dataset, and choose the rows for training, validation and testing.

    Returns train and validation (rows of `load_dialogsum`) and test (rows of `group_references`),
    at most as many as the settings say. No dialogue of train has a near-duplicate in test, and
    no dialogue of validation has one in train.

    Raises DatasetError as `load_dialogsum` does.
    """
    dataset = load_dialogsum(settings.dataset)
    train = first_rows(dataset["train"], settings.train_dialogues)
    validation = drop_near_duplicates(dataset["validation"], against=dataset["train"])
    test = group_references(dataset["test"])
    return DatasetDict(
        train=drop_near_duplicates(train, against=dataset["test"]),
        validation=first_rows(validation, settings.validation_dialogues),
        test=first_rows(test, settings.test_dialogues),
    )


def _read_folder(folder: Path) -> dict[str, Dataset]:
    files = {split: folder / f"{split}.csv" for split in SPLITS}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        needs = ", ".join(file.name for file in files.values())
        raise DatasetError(f"the folder {folder} has no {', '.join(missing)}: it needs {needs}")
    return {split: _read_file(file) for split, file in files.items()}


def _read_file(file: Path) -> Dataset:
    """Read a CSV file with every cell as text, so that numbers and "NA" stay as written."""
    try:
        # Spreadsheets begin a file with a byte order mark, which utf-8-sig skips.
        rows = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # pandas' own errors and those of decoding
        raise DatasetError(f"{file} is not a readable CSV file: {str(error).strip()}") from None
    if missing := [name for name in COLUMNS if name not in rows.columns]:
        raise DatasetError(
            f"{file} has no column {', '.join(missing)}: its first line, read as names separated "
            f"by commas, is {', '.join(rows.columns)}"
        )
    if not isinstance(rows.index, pd.RangeIndex):  # pandas took the first cells as row names
        raise DatasetError(f"{file} has rows with more cells than its first line has names")
    features = Features({column: Value("string") for column in COLUMNS})
    return Dataset.from_pandas(rows[list(COLUMNS)], features, preserve_index=False)


def _read_hub(id_or_path: str) -> DatasetDict:
    try:
        from_hub(id_or_path, lambda: snapshot_download(id_or_path, repo_type="dataset"), "dataset")
        return from_hub(id_or_path, lambda: load_dataset(id_or_path), "dataset")
    except UnavailableError as error:
        raise DatasetError(str(error)) from None


def _check_rows(rows: Dataset, name: str) -> None:
    if missing := [column for column in COLUMNS if column not in rows.column_names]:
        has = ", ".join(rows.column_names)
        raise DatasetError(f"{name} has no column {', '.join(missing)}: it has {has}")
    if len(rows) == 0:
        header = ",".join(COLUMNS)
        raise DatasetError(f"{name} has no rows: it needs a header ({header}) and a dialogue")
    for column in COLUMNS:
        for number, cell in enumerate(rows[column], start=1):
            if not isinstance(cell, str) or not cell.strip():
                raise DatasetError(
                    f"{name}, row {number}: {column} is {cell!r}; fill it in or remove the row"
                )
    first: dict[str, int] = {}
    for number, row_id in enumerate(rows["id"], start=1):
        if first.setdefault(row_id, number) != number:
            raise DatasetError(
                f"{name}, row {number}: the id {row_id!r} is repeated; give every row its own id"
            )


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raise ValueError if `texts` is one string, or holds anything but strings."""
    if isinstance(texts, str):
        raise ValueError(f"{name} is the string {texts[:40]!r}: pass a list of texts")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{i}] is {text!r}: pass text, or leave it out")


def first_rows(rows: Dataset, n: int | None) -> Dataset:
    """Return the first `n` rows, or all rows if there are fewer or `n` is None."""
    return rows if n is None else rows.select(range(min(n, len(rows))))


def group_references(dataset: Dataset) -> Dataset:
    """Gather the rows of each dialogue into one, in order of first appearance.

    Returns columns id, dialogue, summaries (list) and topics (list). If a dialogue has several
    rows, its id is that of the first without the trailing `_1`, `_2`, ….
    """
    groups = dataset.to_pandas().groupby("dialogue", sort=False)
    table = groups.agg(id=("id", "first"), summaries=("summary", list), topics=("topic", list))
    shared = table["id"].str.replace(r"_\d+$", "", regex=True)
    table["id"] = table["id"].where(table["summaries"].str.len() == 1, shared)
    columns = ["id", "dialogue", "summaries", "topics"]
    return Dataset.from_dict(table.reset_index()[columns].to_dict("list"))


def turns(dialogue: str) -> list[str]:
    """Split a dialogue into its turns, speaker tags included."""
    return [turn for turn in dialogue.splitlines() if turn.strip()]


def shortest(dialogues: Sequence[str], pattern: str | re.Pattern, least: int = 9) -> int:
    """Return the index of the shortest dialogue that matches the pattern.

    It has at least `least` turns and no third speaker. If there is none, return the index of the
    shortest dialogue of all.
    """
    fits = [
        re.search(pattern, text) and len(turns(text)) >= least and "#Person3#" not in text
        for text in dialogues
    ]
    return min(range(len(dialogues)), key=lambda i: (not fits[i], len(dialogues[i])))


class NearDuplicates:
    """Compute a text's similarity to many others fast, with an index of their word n-grams."""

    def __init__(self, texts: Iterable[str], n: int = 5):
        self.n = n
        self.known = [_ngrams(text, n) for text in dict.fromkeys(texts)]
        self.index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for i, grams in enumerate(self.known):
            for gram in grams:
                self.index[gram].append(i)

    def similarity(self, text: str) -> float:
        """Return the highest Jaccard similarity to any of the texts, 0 to 1."""
        grams = _ngrams(text, self.n)
        shared = Counter(i for gram in grams for i in self.index.get(gram, ()))
        return max(
            (count / (len(grams) + len(self.known[i]) - count) for i, count in shared.items()),
            default=0.0,
        )


def drop_near_duplicates(
    dataset: Dataset, against: Dataset, n: int = 5, threshold: float = 0.7
) -> Dataset:
    """Drop the rows whose dialogue is a near-duplicate of a dialogue in `against`.

    The word n-grams of near-duplicates have a Jaccard similarity of at least `threshold`.

    Raises ValueError if `n` is below 1, or `threshold` is outside (0, 1].
    """
    if n < 1 or not 0 < threshold <= 1:
        raise ValueError(f"n={n} must be at least 1 and threshold={threshold} in (0, 1]")
    near = NearDuplicates(against["dialogue"], n)
    return dataset.select(
        [row for row, text in enumerate(dataset["dialogue"]) if near.similarity(text) < threshold]
    )


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}
