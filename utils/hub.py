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
from huggingface_hub import constants
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
T = TypeVar("T")


class UnavailableError(OSError):
    """A model, tokenizer or dataset could not be loaded; the message names the id, the cause and the remedy."""


class DamagedFileError(OSError):
    """A file came from the hub with another content than the hub's hash says."""


def from_hub(id_or_path: str, read: Callable[[], T]) -> T:
    """What `read` loads under an id or from a folder.

    The hub's own client asks again where there is no answer, and goes on where a connection was cut. Here, a download
    that was refused with a passing fault (5xx), was too short or has a wrong hash is tried three times in all. Files
    that came whole stay in the cache, so that a later run fetches only the others; damaged ones are removed.

    Raises:
        UnavailableError: it cannot be loaded.
    """
    for wait in (*WAITS, None):
        try:
            return _read_whole_files(read)
        except (OSError, ValueError, SafetensorError, httpx2.HTTPError) as error:
            cause, remedy, may_pass = _explain(error)
            if wait is None or not may_pass:
                remedies = f"{remedy}, or set LABS_PRESET=offline to use the embedded models and data."
                raise UnavailableError(f"cannot load {id_or_path!r}: {cause}. {remedies}") from None
        print(f"{id_or_path}: {cause}; trying again in {wait} s", file=sys.stderr)
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _read_whole_files(read: Callable[[], T]) -> T:
    began = time.time()
    try:
        value = read()
    except (OSError, ValueError, SafetensorError):
        _remove_damaged_files(began)  # a damaged file tells more than what it led to
        raise
    _remove_damaged_files(began)
    return value


def _remove_damaged_files(since: float) -> None:
    """Check what came since then against its name in the cache, which is its hash: sha256, or git's sha1 of a blob."""
    blobs = [path for path in Path(constants.HF_HUB_CACHE).glob("*/blobs/*") if path.stat().st_mtime >= since]
    for path in blobs:
        if _hash_like(path.name, path) != path.name:
            links = [link for link in path.parents[1].glob("snapshots/*/**/*") if link.resolve() == path.resolve()]
            path.unlink()
            raise DamagedFileError(f"{', '.join(link.name for link in links)} came with a wrong checksum")


def _hash_like(name: str, path: Path) -> str:
    """The file's hash of the kind that its name is; the name itself where that is no hash."""
    if re.fullmatch(r"[0-9a-f]{64}", name):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if re.fullmatch(r"[0-9a-f]{40}", name):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return name


def _explain(error: BaseException) -> tuple[str, str, bool]:
    """The cause of a failed load and its remedy, in words, and whether another try may help."""
    causes = list(_causes(error))
    refusal = next((e for e in causes if isinstance(e, HfHubHTTPError)), None)
    status = refusal.response.status_code if refusal else None

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in causes)

    if among(DamagedFileError):
        return _first_line(error), "Run again: it was not kept", True
    if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in causes):
        return "the disk is full", f"Free some space for {constants.HF_HUB_CACHE} and run again: {KEPT}", False
    if among(OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it is not in the cache", "Unset it to let it be fetched", False
    if among(GatedRepoError) or status == 403:
        return f"the hub refuses access ({status})", "Ask for access on its page and sign in (hf auth login)", False
    if among(RepositoryNotFoundError) or status in (401, 404):
        return f"the hub shows none of that name ({status})", "Check the id; if it is private, hf auth login", False
    if status == 429:
        return "the hub had too many requests from here (429)", f"Wait some minutes and run again: {KEPT}", False
    if status is not None:
        request = refusal.response.request
        cause = f"the hub answered {status} for {request.url.path.rsplit('/', 1)[-1]}"
        return cause, f"Run again later: {KEPT}", status >= 500 and request.method == "GET"
    if among(httpx2.HTTPError, LocalEntryNotFoundError):
        return f"no whole answer from {constants.ENDPOINT}", f"Check the connection and run again: {KEPT}", False
    return _first_line(error), "Check the id or folder", "Consistency check failed" in str(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")
