"""Load from the Hugging Face Hub, with retries, checksums and messages that name the remedy."""

import errno
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import httpx2
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.sha import git_hash
from safetensors import SafetensorError

WAITS = (2, 8)  # seconds before the second and the third try
KEPT = "complete files are kept"
ANSWERS = {  # status: cause, remedy
    401: ("the hub rejects your token", "Sign in again (hf auth login), or unset HF_TOKEN"),
    403: ("the hub refuses access", "Ask for access on its page and sign in (hf auth login)"),
    404: (
        "the hub shows nothing under that name",
        "Check the id; if it is private, sign in (hf auth login)",
    ),
    429: ("the hub got too many requests from here", f"Wait a few minutes and run again ({KEPT})"),
}
LOADING = (OSError, ValueError, SafetensorError, UnpicklingError, DatasetsError, httpx2.HTTPError)
File = tuple[Path, int]  # and when it last changed
T = TypeVar("T")


class UnavailableError(OSError):
    """A model or dataset could not be loaded; the message names the id, cause and remedy."""


class DamagedFileError(OSError):
    """Files in the cache differ from their checksums on the hub."""


def from_hub(id_or_path: str, read: Callable[[], T], kind: str = "model") -> T:
    """Return what `read` loads from a hub id or a folder; `kind` is "model" or "dataset".

    The hub's client resumes interrupted downloads. In addition, a download is tried up to three
    times if the hub answers with a 5xx status, the connection is reset, or a file is too short or
    has a wrong checksum. Complete files stay in the cache; damaged ones are removed.

    Raises UnavailableError if the model or dataset cannot be loaded.
    """
    before = _cached_files(id_or_path, kind)
    for wait in (*WAITS, None):
        try:
            return _read_and_check(id_or_path, read, kind, before)
        except LOADING as error:
            cause, remedy, may_pass = _explain(error)
            if wait is None or not may_pass:
                raise UnavailableError(
                    f"cannot load {id_or_path!r}: {cause}. {remedy}, or use the small world's"
                    " models and data (LABS_PRESET=offline, or --preset offline in a command)."
                ) from None
        print(f"{id_or_path}: {cause}; trying again in {wait} s", file=sys.stderr)
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _read_and_check(id_or_path: str, read: Callable[[], T], kind: str, before: set[File]) -> T:
    try:
        value = read()
    except Exception as error:
        _remove_damaged_files(id_or_path, kind, set(), error)  # raises a clearer error
        raise
    _remove_damaged_files(id_or_path, kind, before)
    return value


def _snapshots(id_or_path: str, kind: str) -> list[Path]:
    name = f"{kind}s--{id_or_path.replace('/', '--')}"
    return list(Path(constants.HF_HUB_CACHE, name, "snapshots").glob("*"))


def _cached_files(id_or_path: str, kind: str) -> set[File]:
    """Return the cached files of a model or dataset, each with the time of its last change."""
    files = (path for folder in _snapshots(id_or_path, kind) for path in folder.rglob("*"))
    return {(path, path.stat().st_mtime_ns) for path in files if path.is_file()}


def _remove_damaged_files(
    id_or_path: str, kind: str, known: set[File], error: Exception | None = None
) -> None:
    """Remove damaged files from the cache, except `known` ones; raise DamagedFileError if any.

    If the hub provides no checksums, this checks against those in the names of the cached files.
    """
    damaged, found = [], _cached_files(id_or_path, kind) - known  # a clock may jump back
    for snapshot in _snapshots(id_or_path, kind):
        files = [path for path, _ in found if snapshot in path.parents]
        if files and not constants.HF_HUB_OFFLINE:
            verify = HfApi().verify_repo_checksums
            try:
                checked = verify(id_or_path, repo_type=kind, revision=snapshot.name)
                damaged += [snapshot / mismatch["path"] for mismatch in checked.mismatches]
                continue
            except (httpx2.HTTPError, HfHubHTTPError, ValueError) as refusal:
                if error is None:  # it was loaded
                    unverified = "loaded, but not verified against the hub's checksums"
                    print(f"{id_or_path}: {unverified}: {_explain(refusal)[0]}", file=sys.stderr)
        damaged += [path for path in files if not _matches_its_checksum(path)]
    for path in damaged:
        path.resolve().unlink(missing_ok=True)  # what the link points to
        path.unlink(missing_ok=True)
    if damaged:
        names = ", ".join(path.name for path in damaged)
        raise DamagedFileError(f"{names} had a wrong checksum") from error


def _matches_its_checksum(path: Path) -> bool:
    """Return whether a cached file matches the checksum in its name, or True if it has none."""
    name = path.resolve().name
    if not path.is_symlink() or len(name) not in (40, 64):
        return True
    content = path.read_bytes()
    return name == (sha256(content).hexdigest() if len(name) == 64 else git_hash(content))


def _explain(error: BaseException) -> tuple[str, str, bool]:
    """Return the cause of a failed load, its remedy, and whether another try may help."""
    chain = list(_chain(error))
    refusal = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    status = refusal.response.status_code if refusal else None

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    offline = constants.HF_HUB_OFFLINE
    if among(DamagedFileError):
        again = "Unset HF_HUB_OFFLINE" if offline else "Run again"
        return _first_line(error), f"{again} to download it", not offline
    if any(_is_full_disk(e) for e in chain):
        remedy = f"Free some space for {constants.HF_HOME} and run again ({KEPT})"
        return "the disk is full", remedy, False
    if offline and among(OfflineModeIsEnabled, LocalEntryNotFoundError):
        return "it is not in the cache", "Unset HF_HUB_OFFLINE to download it", False
    known = 403 if among(GatedRepoError) else 404 if among(RepositoryNotFoundError) else status
    if known in ANSWERS:
        cause, remedy = ANSWERS[known]
        return f"{cause} ({status})", remedy, False
    if status is not None:
        request = refusal.response.request
        cause = f"the hub answered {status} for {request.url.path.rsplit('/', 1)[-1]}"
        return cause, f"Run again later ({KEPT})", status >= 500 and request.method == "GET"
    if among(httpx2.HTTPError, LocalEntryNotFoundError):
        remedy = f"Check the connection and run again ({KEPT})"
        return f"no complete answer from {constants.ENDPOINT}", remedy, among(httpx2.ReadError)
    if among(UnpicklingError):  # torch refuses to run it
        return "its weights file holds more than tensors", "Choose a model with safetensors", False
    if "named model.safetensors found" in str(error) or "with `safetensors`" in str(error):
        cause = "it has no model.safetensors, and pickles (pytorch_model.bin) are not loaded"
        return cause, "Load it with transformers and call save_pretrained to convert it", False
    if among(DatasetsError):  # datasets wraps its reader's error
        cause = next(e for e in chain if not isinstance(e, DatasetsError))
        return f"its files cannot be read ({_first_line(cause)})", "Tell the owner", False
    return _first_line(error), "Check the id or folder", "Consistency check failed" in str(error)


def _is_full_disk(error: BaseException) -> bool:
    """Return whether the system or the datasets library reported that the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or str(error).startswith("Not enough disk space")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")
