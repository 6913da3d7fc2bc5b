"""DialogSum-like data: load and check it, group references, drop near-duplicates."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Value, config, load_dataset
from huggingface_hub import snapshot_download

from utils.hub import UnavailableError, from_hub, is_full_disk

SPLITS = ("train", "validation", "test")
COLUMNS = ("id", "dialogue", "summary", "topic")


class DatasetError(ValueError):
    """The data cannot be used; the message names the file, the row and the remedy."""


def load_dialogsum(id_or_path: str) -> DatasetDict:
    """Load DialogSum, or data of the same layout, from the hub or from a folder with train.csv, validation.csv and
    test.csv.

    Returns splits train, validation and test with the text columns id, dialogue, summary and topic, as they stand in
    the files.

    Raises:
        DatasetError: a split or column is missing, a cell is empty or not text, an id is repeated, or nothing is there
            to load.
    """
    folder = Path(id_or_path)
    dataset = _read_folder(folder) if folder.is_dir() else _read_hub(id_or_path)
    if missing := [s for s in SPLITS if s not in dataset]:
        raise DatasetError(
            f"{id_or_path} has no split {', '.join(missing)}: it needs {', '.join(SPLITS)}"
        )
    for split in SPLITS:
        _check_rows(
            dataset[split],
            str(folder / f"{split}.csv") if folder.is_dir() else f"{id_or_path}, split {split}",
        )
    return DatasetDict({split: dataset[split].select_columns(list(COLUMNS)) for split in SPLITS})


def _read_folder(folder: Path) -> DatasetDict:
    files = {split: folder / f"{split}.csv" for split in SPLITS}
    if missing := [f.name for f in files.values() if not f.is_file()]:
        raise DatasetError(
            f"the folder {folder} has no {', '.join(missing)}: it needs {', '.join(f'{s}.csv' for s in SPLITS)}"
        )
    splits = {}
    for split, file in files.items():
        try:
            features = _text_features(file)
            splits[split] = load_dataset(
                "csv",
                data_files=str(file),
                split="train",
                keep_default_na=False,
                encoding="utf-8-sig",  # spreadsheets write a byte order mark
                features=features,
            )
        except DatasetError:
            raise
        except (
            Exception
        ) as error:  # datasets wraps the parser's own error, whose class is not public
            cause = error.__cause__ or error
            if is_full_disk(cause):
                raise DatasetError(
                    f"the disk is full: free some space for {config.HF_DATASETS_CACHE}"
                ) from None
            raise DatasetError(f"{file} is not a readable CSV file: {str(cause).strip()}") from None
    return DatasetDict(splits)


def _text_features(file: Path) -> Features:
    """Every column of a CSV file as text, so that a number in a dialogue stays the text that it was."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines)
        header = next(rows, [])
        if next(rows, None) is None:
            raise DatasetError(
                f"{file} has no rows: it needs a header ({','.join(COLUMNS)}) and at least one dialogue"
            )
    if missing := [name for name in COLUMNS if name not in header]:
        raise DatasetError(
            f"{file} has no column {', '.join(missing)}: its first line, read as names apart by commas, is "
            f"{', '.join(header)}"
        )
    return Features(
        {name or f"Unnamed: {number}": Value("string") for number, name in enumerate(header)}
    )  # as pandas


def _read_hub(id_or_path: str) -> DatasetDict:
    try:
        from_hub(
            id_or_path, lambda: snapshot_download(id_or_path, repo_type="dataset"), kind="dataset"
        )
        return from_hub(id_or_path, lambda: load_dataset(id_or_path), kind="dataset")
    except UnavailableError as error:
        raise DatasetError(str(error)) from None


def _check_rows(rows: Dataset, where: str) -> None:
    if missing := [c for c in COLUMNS if c not in rows.column_names]:
        raise DatasetError(
            f"{where} has no column {', '.join(missing)}: it has {', '.join(rows.column_names)}"
        )
    if len(rows) == 0:
        raise DatasetError(f"{where} has no rows")
    for column in COLUMNS:
        for number, cell in enumerate(rows[column], start=1):
            if not isinstance(cell, str) or not cell.strip():
                raise DatasetError(
                    f"{where}, row {number}: {column} is {cell!r}; fill it in with text or remove the row"
                )
    repeated = [name for name, count in Counter(rows["id"]).items() if count > 1]
    if repeated:
        number = len(rows["id"]) - rows["id"][::-1].index(repeated[0])
        raise DatasetError(
            f"{where}, row {number}: the id {repeated[0]!r} is repeated; give every row an id of its own"
        )


def first_rows(rows: Dataset, n: int | None) -> Dataset:
    """The first `n` rows, or all where there are fewer or `n` is None."""
    return rows if n is None else rows.select(range(min(n, len(rows))))


def group_references(dataset: Dataset) -> Dataset:
    """Gather rows of the same dialogue: one row per dialogue, in order of first appearance.

    Returns columns id, dialogue, summaries (list) and topics (list); the id of several rows is theirs without the
    trailing `_1`, `_2`, ….
    """
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in dataset:
        groups[row["dialogue"]].append(row)
    return Dataset.from_list(
        [
            {
                "id": rows[0]["id"] if len(rows) == 1 else re.sub(r"_\d+$", "", rows[0]["id"]),
                "dialogue": dialogue,
                "summaries": [row["summary"] for row in rows],
                "topics": [row["topic"] for row in rows],
            }
            for dialogue, rows in groups.items()
        ]
    )


def turns(dialogue: str) -> list[str]:
    """The dialogue's turns, speaker tags included."""
    return [turn for turn in dialogue.splitlines() if turn.strip()]


class NearDuplicates:
    """Finds, exactly, how near a text comes to any of many others: an inverted index from word n-grams to texts."""

    def __init__(self, texts: Iterable[str], n: int = 5):
        self.n = n
        self.known = [_ngrams(text, n) for text in dict.fromkeys(texts)]
        self.index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for i, grams in enumerate(self.known):
            for gram in grams:
                self.index[gram].append(i)

    def similarity(self, text: str) -> float:
        """Highest Jaccard similarity of the text's word n-grams to those of any known text, 0 to 1."""
        grams = _ngrams(text, self.n)
        shared = Counter(i for gram in grams for i in self.index.get(gram, ()))
        return max(
            (count / (len(grams) + len(self.known[i]) - count) for i, count in shared.items()),
            default=0.0,
        )


def drop_near_duplicates(
    dataset: Dataset, against: Dataset, n: int = 5, threshold: float = 0.7
) -> Dataset:
    """Keep the rows whose dialogue has no near-duplicate in `against`: Jaccard similarity of word n-grams below
    `threshold`.

    Raises:
        ValueError: n below 1, or a threshold outside (0, 1].
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
