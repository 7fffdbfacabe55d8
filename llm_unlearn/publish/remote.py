"""The Hugging Face Hub over the network, with one clear line for each thing that goes wrong there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llm_unlearn.errors import OutputError

HTTP_ERROR: type[BaseException] = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)  # of httpx or httpx2
NOTHING_LOST = "Nothing was lost: give the same command again."


@contextmanager
def talking(about: str) -> Iterator[None]:
    """Raise OutputError, in one line that says what to do, for what goes wrong while the Hub is asked about `about`."""
    try:
        yield
    except HFValidationError as error:
        raise OutputError(f"{about!r} is no Hub id: give user/name ({_first(error)}).") from error
    except OfflineModeIsEnabled as error:
        raise OutputError(
            f"the Hub cannot be reached for {about}: HF_HUB_OFFLINE is set; unset it. {NOTHING_LOST}"
        ) from error
    except GatedRepoError as error:
        raise OutputError(f"{about} is gated: ask for access on its page, then log in with hf auth login.") from error
    except RevisionNotFoundError as error:
        raise OutputError(f"{about} has no such revision: {_first(error)}") from error
    except RepositoryNotFoundError as error:
        if _status(error) == 401:
            raise OutputError(_refused(about)) from error
        raise OutputError(f"{about} is not on the Hub, or your token may not see it.") from error
    except LocalEntryNotFoundError as error:
        raise OutputError(f"{about} could not be fetched: no network, and it is not in the cache.") from error
    except HfHubHTTPError as error:
        raise OutputError(_said(error, about)) from error
    except HTTP_ERROR as error:
        what = f"{type(error).__name__}: {_first(error)}" if str(error) else type(error).__name__
        raise OutputError(f"no connection to {constants.ENDPOINT} ({what}). {NOTHING_LOST}") from error


def _said(error: HfHubHTTPError, about: str) -> str:
    """What the Hub's status means."""
    status = _status(error)
    if status == 401:
        return _refused(about)
    if status == 403:
        return f"your token may not write to {about}: give a token with write access (hf auth login), or another name."
    if status in (409, 412):
        return f"{about} was changed by somebody else meanwhile; look at it, then give the same command again."
    if isinstance(error, BadRequestError):
        return f"the Hub refuses {about}: {_first(error)}"
    return f"the Hub failed at {about} (status {status}). {NOTHING_LOST}"


def _refused(about: str) -> str:
    return f"the Hub refuses your token for {about}: log in again with hf auth login, or set HF_TOKEN."


def _status(error: Any) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


class Repository:
    """One model repository on the Hub.  Raises OutputError where there is no token to write with."""

    def __init__(self, name: str) -> None:
        """Look for a token; nothing is sent yet."""
        if name.count("/") != 1:
            raise OutputError(f"{name!r} is no Hub id: give user/name.")
        if not get_token():
            raise OutputError("no token for the Hub: log in with hf auth login, or set HF_TOKEN.")
        self.name, self._api = name, HfApi(library_name="llm_unlearn")
        self.head: str | None = None

    def look(self) -> dict[str, Any] | None:
        """Return {private, files} of what is there, None where there is nothing yet."""
        try:
            with talking(self.name):
                found = self._api.model_info(self.name)
        except OutputError as error:
            missing = isinstance(error.__cause__, RepositoryNotFoundError) and _status(error.__cause__) == 404
            if missing and not isinstance(error.__cause__, GatedRepoError):
                return None
            raise
        self.head = found.sha
        return {"private": bool(found.private), "files": sorted(each.rfilename for each in found.siblings or ())}

    def create(self, *, private: bool) -> None:
        """Make the repository, empty."""
        with talking(self.name):
            self._api.create_repo(self.name, private=private, exist_ok=True)
        self.look()

    def read(self, file: str) -> str:
        """Return the text of a file that is there."""
        with talking(f"{self.name}/{file}"):
            path = self._api.hf_hub_download(self.name, file, revision=self.head)
        return Path(path).read_text(encoding="utf-8")

    def put(self, files: dict[str, Path | bytes], gone: Sequence[str], message: str) -> str:
        """Upload the files and remove those `gone`, as one commit on what `look` saw; return its address.

        Large files go first and count for nothing until the commit names them: an interrupted push leaves what was there.
        """
        steps: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in gone]
        steps += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in files.items()]
        with talking(self.name):
            done = self._api.create_commit(self.name, steps, commit_message=message, parent_commit=self.head)
        return str(done.commit_url)


def download(name: str, revision: str | None = None) -> Path:
    """Return the folder with a repository's files, fetched from the Hub or taken from its cache."""
    with talking(name):
        return Path(snapshot_download(name, revision=revision))


def exists(name: str, revision: str | None = None) -> bool:
    """Return whether the Hub holds this model at this revision, gated or not; raise OutputError where it cannot be asked."""
    try:
        with talking(name):
            HfApi().model_info(name, revision=revision)
    except OutputError as error:
        if isinstance(error.__cause__, GatedRepoError):
            return True
        if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
            return False
        raise
    return True
