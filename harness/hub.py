"""Fetch a repository of the Hugging Face hub at one commit, or say in one sentence why it cannot be had.

The hub's client loads inside the functions, because most commands need none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from floe_bench.harness.errors import UsageError
from floe_bench.harness.files import remembered_digest

if TYPE_CHECKING:
    import httpx2

Kind = Literal["model", "dataset"]

INSTEAD = {"model": "a local copy with --model-path", "dataset": "a local folder with --data-dir"}


def snapshot(
    kind: Kind,
    name: str,
    revision: str | None,
    patterns: Sequence[str] | None = None,
    is_whole: Callable[[Path], bool] = lambda folder: False,
) -> Path:
    """Return the folder of a repository's files at one commit, in the hub's cache. The commit is the folder's name.

    A commit whose files are in the cache is not asked for. A branch (None: the main one) is, and where the hub keeps
    silent, its commit in the cache is taken. Files that differ from the hub's in size or sha256 are fetched anew.

    Args:
        revision: commit, branch or tag.
        patterns: the files wanted, as `snapshot_download` takes them. None wants all.
        is_whole: judges a folder in the cache that older clients left without the hub's list of its files.

    Raises:
        UsageError: the files are neither in the cache nor to be had.
    """
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError, XetDownloadError

    wanted = list(patterns) if patterns is not None else None
    lack = ""
    try:
        cached, lack = _cached(kind, name, revision, wanted, is_whole)
        if cached and cached.name == revision:
            return cached
        commit = _commit(kind, name, revision, known=cached.name if cached else None)
        if cached and cached.name == commit:
            return cached
        print(f"fetching {', '.join(wanted or ['all files'])} of {kind} {name} from the hub", file=sys.stderr)
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=wanted))
        for file in _faults(kind, name, folder, wanted) or ():
            hf_hub_download(name, file, repo_type=kind, revision=folder.name, force_download=True)
        return folder
    except HFValidationError as error:
        raise UsageError(f"'{name}' cannot be a {kind} on the hub: write it as organisation/name") from error
    except (HTTPError, InvalidURL, OSError, ValueError, ImportError, XetDownloadError) as error:  # all from the client
        what = f"{kind} {name} at revision {revision}" if revision else f"{kind} {name}"
        raise UsageError(
            f"{_reason(error, what, lack)}, give {INSTEAD[kind]}, or run the profile smoke, which needs no hub"
        ) from error


def _cached(
    kind: Kind, name: str, revision: str | None, wanted: list[str] | None, is_whole: Callable[[Path], bool]
) -> tuple[Path | None, str]:
    """Return the folder in the cache if all wanted files are in it as the hub has them, else what is wrong."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=wanted, local_files_only=True)
        )
    except IncompleteSnapshotError as error:
        folder = Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        return None, "is not"
    faults = _faults(kind, name, folder, wanted)
    if faults is None:
        return (folder, "") if is_whole(folder) else (None, "is not known to be whole")
    return (None, f"has {', '.join(faults[:3])} missing or broken") if faults else (folder, "")


def _faults(kind: Kind, name: str, folder: Path, wanted: list[str] | None) -> list[str] | None:
    """Return the wanted files that are missing, or differ from the hub's. Return None where its list is not kept."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    try:
        listed = get_cached_repo_tree(name, repo_type=kind, revision=folder.name)
    except CachedRepoTreeNotFoundError:
        return None
    sizes = {file.path: file.size for file in listed}
    return [path for path in filter_repo_objects(sizes, allow_patterns=wanted) if _differs(folder / path, sizes[path])]


def _differs(file: Path, size: int) -> bool:
    """Tell whether a file in the cache is not the hub's. The cache names a large file by its sha256."""
    if not file.is_file() or file.stat().st_size != size:
        return True
    name = file.resolve().name
    return bool(re.fullmatch("[0-9a-f]{64}", name)) and remembered_digest(file) != name


def _commit(kind: Kind, name: str, revision: str | None, known: str | None) -> str:
    """Ask the hub for the revision's commit. Return the known one where the hub keeps silent.

    One question, without the client's five repeats: what the hub refuses is said at once.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks["request"]
    if _limit not in hooks:
        hooks.append(_limit)
    try:
        commit = HfApi().repo_info(name, repo_type=kind, revision=revision).sha
    except (HTTPError, OSError, ValueError) as error:
        status = _status(error)
        if known and (status is None or status == 429 or status >= 500):
            return known
        raise
    if commit is None:
        raise UsageError(f"the hub names no commit of {kind} {name}: give {INSTEAD[kind]}")
    return commit


def _limit(request: httpx2.Request) -> None:
    """Let a request wait for HF_HUB_DOWNLOAD_TIMEOUT seconds at most. The client sets some of them no limit."""
    patience = _patience()
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {key: min(value or patience, patience) for key, value in limits.items()}


def _patience() -> float:
    """Return how many seconds a request waits for the hub's next byte."""
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and what it was raised from: the client wraps an answer of the hub in errors of the cache."""
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """Return the status of the hub's answer. Return None where there was no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((cause.response.status_code for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)


def _reason(error: Exception, what: str, lack: str) -> str:
    """Return why the hub did not give `what`, and what to do about it."""
    from httpx2 import TimeoutException
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    causes = list(_causes(error))
    cause = causes[-1]
    status = _status(error)
    asked = f"{status}; {_token()}"

    def is_a(kind: type[Exception]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if is_a(OfflineModeIsEnabled):
        return f"{what} {lack} in {_cache()}, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set: run once without it"
    if is_a(GatedRepoError):
        return f"{what} is gated ({asked}): accept its licence on its page and run `hf auth login`"
    if status == 404 or is_a(RepositoryNotFoundError):
        return f"{what} is not found on the hub, or it is private ({asked}): check name and revision"
    if status in (401, 403):
        return f"the hub refuses {what} ({asked}): run `hf auth login`"
    if status == 429:
        return f"the hub has had too many requests ({asked}) to give {what}: wait and run the same command again"
    if status is not None:
        return f"the hub cannot give {what} ({status}): run the same command again later"
    if is_a(TimeoutException):
        return f"the hub at {constants.ENDPOINT} kept silent for {_patience()} s ({what}): try again later"
    if is_a(JSONDecodeError):
        return f"what answers at {constants.ENDPOINT} is no hub ({what}): check HF_ENDPOINT and the network"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{what} cannot be kept in {_cache()} ({error.strerror}): make room, or point HF_HOME elsewhere"
    detail = (str(cause) or type(cause).__name__).strip().splitlines()[0]
    return f"{what} cannot be fetched from the hub at {constants.ENDPOINT} ({detail}): check the network"


def _cache() -> str:
    from huggingface_hub import constants

    return f"the hub's cache {constants.HF_HUB_CACHE}"


def _token() -> str:
    """Return which token was sent."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or get_token() is None:
        return "no token was sent"
    name = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    return f"the token in {name or constants.HF_TOKEN_PATH} was sent"
