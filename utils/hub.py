"""Between the labs and a hub: a second try where it may help, a check of every file that came, else one clear error."""

import errno
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx2
from datasets.exceptions import DatasetsError
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError

WAITS = (2, 8)  # seconds before the second and the third try
KEPT = "files that came whole are kept"
FAULTS = (OSError, ValueError, SafetensorError, DatasetsError, httpx2.HTTPError)
T = TypeVar("T")


class UnavailableError(OSError):
    """A model, tokenizer or dataset could not be loaded; the message names the id, the cause and the remedy."""


class DamagedFileError(OSError):
    """Files came from the hub with another content than the hub's hashes say."""


def from_hub(id_or_path: str, read: Callable[[], T], kind: str = "model") -> T:
    """What `read` loads under an id or from a folder; `kind` is "model" or "dataset".

    The hub's own client asks again where there is no answer, and goes on where a connection was closed. Here, a
    download that was refused with a passing fault (5xx), reset, too short, or has a wrong hash is tried three times in
    all. Files that came whole stay in the cache, so that a later run fetches only the others; damaged ones are removed.

    Raises:
        UnavailableError: it cannot be loaded.
    """
    since = time.time()
    for wait in (*WAITS, None):
        try:
            return _read_whole_files(id_or_path, read, kind, since)
        except FAULTS as error:
            cause, remedy, may_pass = _explain(error)
            if wait is None or not may_pass:
                raise UnavailableError(
                    f"cannot load {id_or_path!r}: {cause}. {remedy}, or take the embedded models and data (LABS_PRESET="
                    "offline, in a command --preset offline, and no other model or dataset set)."
                ) from None
        print(f"{id_or_path}: {cause}; trying again in {wait} s", file=sys.stderr)
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _read_whole_files(id_or_path: str, read: Callable[[], T], kind: str, since: float) -> T:
    try:
        value = read()
    except BaseException as error:
        wanted = isinstance(error, Exception)  # not so if the user stopped it
        damaged = _remove_damaged_files(id_or_path, kind, 0 if wanted else since)
        if damaged and wanted:  # they tell more than what they led to
            raise DamagedFileError(f"{', '.join(damaged)} had a wrong checksum") from error
        raise
    if damaged := _remove_damaged_files(id_or_path, kind, since):
        raise DamagedFileError(f"{', '.join(damaged)} had a wrong checksum")
    return value


def _remove_damaged_files(id_or_path: str, kind: str, since: float) -> list[str]:
    """Check the repository's files that came since then, and remove those whose content is not what their hash says."""
    damaged = []
    for path in Path(constants.HF_HUB_CACHE, f"{kind}s--{id_or_path.replace('/', '--')}").glob(
        "snapshots/*/**/*"
    ):
        if path.is_file() and path.stat().st_mtime >= since:  # of what a link leads to
            if constants.HF_HUB_OFFLINE and not path.is_symlink():
                continue  # nobody is there to tell its hash
            expected = (
                path.resolve().name
                if path.is_symlink()
                else _hash_on_the_hub(id_or_path, path, kind)
            )
            if _hash_like(expected, path) != expected:
                damaged.append(path.name)
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
    return damaged


def _hash_on_the_hub(id_or_path: str, path: Path, kind: str) -> str:
    """Where the cache cannot hold links, a file's name there does not tell its hash: the hub does."""
    commit = next(folder for folder in path.parents if folder.parent.name == "snapshots")
    file = path.relative_to(commit).as_posix()
    return get_hf_file_metadata(
        hf_hub_url(id_or_path, file, repo_type=kind, revision=commit.name)
    ).etag


def _hash_like(expected: str, path: Path) -> str:
    """The file's hash of the kind that is expected: sha256, or git's sha1 of a blob. Of another kind, what a mirror of
    the hub may give, nothing is known, and nothing is checked.
    """
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if re.fullmatch(r"[0-9a-f]{40}", expected):
        content = path.read_bytes()
        return hashlib.sha1(
            b"blob %d\0" % len(content) + content, usedforsecurity=False
        ).hexdigest()
    return expected


def _explain(error: BaseException) -> tuple[str, str, bool]:
    """The cause of a failed load and its remedy, in words, and whether another try may help."""
    causes = list(_causes(error))
    refusal = next((e for e in causes if isinstance(e, HfHubHTTPError)), None)
    status = refusal.response.status_code if refusal else None

    def among(*kinds: type[BaseException]) -> bool:
        """Whether the failure, or one that led to it, is of these kinds."""
        return any(isinstance(e, kinds) for e in causes)

    if among(DamagedFileError) and constants.HF_HUB_OFFLINE:
        return _first_line(error), "Unset HF_HUB_OFFLINE to let them be fetched anew", False
    if among(DamagedFileError):
        return _first_line(error), "Run again: they were not kept", True
    if any(is_full_disk(e) for e in causes):
        return (
            "the disk is full",
            f"Free some space for {constants.HF_HOME} and run again: {KEPT}",
            False,
        )
    if constants.HF_HUB_OFFLINE and among(OfflineModeIsEnabled, LocalEntryNotFoundError):
        return (
            "HF_HUB_OFFLINE is set, and it is not in the cache",
            "Unset it to let it be fetched",
            False,
        )
    if among(GatedRepoError) or status == 403:
        return (
            f"the hub refuses access ({status})",
            "Ask for access on its page and sign in (hf auth login)",
            False,
        )
    if among(RepositoryNotFoundError) or status == 404:
        return (
            f"the hub shows none of that name ({status})",
            "Check the id; if it is private, hf auth login",
            False,
        )
    if status == 401:
        return (
            "the hub refuses your token (401)",
            "Sign in anew (hf auth login), or unset HF_TOKEN",
            False,
        )
    if status == 429:
        return (
            "the hub had too many requests from here (429)",
            f"Wait some minutes and run again: {KEPT}",
            False,
        )
    if status is not None:
        request = refusal.response.request
        cause = f"the hub answered {status} for {request.url.path.rsplit('/', 1)[-1]}"
        return cause, f"Run again later: {KEPT}", status >= 500 and request.method == "GET"
    if among(httpx2.HTTPError, LocalEntryNotFoundError):
        remedy = f"Check the connection and run again: {KEPT}"
        return f"no whole answer from {constants.ENDPOINT}", remedy, among(httpx2.ReadError)
    if among(DatasetsError):
        cause = next(
            e for e in causes if not isinstance(e, DatasetsError)
        )  # datasets wraps what its reader said
        return f"its files cannot be read ({_first_line(cause)})", "Tell its owner", False
    return _first_line(error), "Check the id or folder", "Consistency check failed" in str(error)


def is_full_disk(error: BaseException) -> bool:
    """Whether a write was refused for lack of space, by the system or by the datasets library, which asks before."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or str(error).startswith("Not enough disk space")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")
