"""A model on the Hugging Face hub by its address, ``hf://owner/name`` or ``hf://owner/name@revision``.

| | the hub is asked |
|---|---|
| for the commit that a branch or tag names | whenever it is looked up (``pinned``): a new push is seen |
| for a commit's list of files, with their checksums | once; it is kept beside the files |
| for the settings, the small files that a model's folder may have | once for each commit |
| for the weights | once for each commit, when they are read |

Files lie in the hub library's own cache, where its programs find them, too. Without a network, what lies there is
taken, and a line says so; with ``HF_HUB_OFFLINE=1`` nobody is asked, and nothing is said. Each file is compared with
the hub's checksum (SHA-256, of small files git's SHA-1) and with the folder's own ``volta_switch.sums`` whenever it is
handed out; a wrong one is removed and refused. Nothing that is fetched is run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from volta_switch.checksums import SUMS, Changed, verify
from volta_switch.command import environment_number
from volta_switch.errors import UserError, first_line
from volta_switch.files import find_object, measured, replacing, write_json
from volta_switch.time_limit import Answer, in_time

SCHEME = "hf://"
WEIGHTS = ("model.safetensors", "pytorch_model_best.bin", "pytorch_model.bin")  # the first that there is counts
MAIN = "main"  # the revision where none is given
# The files of a model's folder beside its weights (``config.model_folder``), of which another program's has some.
SETTINGS = (
    *("config.json", "vocab.txt", "tokenizer.json", "task.yml", "labels.json", "preprocessor.json", "training.json"),
    SUMS,
)
OF_A_DETECTOR = ("config.yaml", "objects_vocab.txt", "attributes_vocab.txt")  # beside config.json and its weights
_MOST_SETTINGS = 1 << 26  # bytes of one of them
_ADDRESS = re.compile(r"hf://((?:[\w.-]+/)?[\w.-]+)(?:@(\w[\w./-]*))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_LISTS = "volta_switch"  # in a repository's folder of the cache: what the hub said of the files of each commit
_PASSING = (408, 429)  # statuses after which the same question may be answered, as after all from 500 on


class NotCached(UserError):
    """A hub's model that is not on this machine, and that the hub was not asked for.

    ``known``: "not", or what else it is not.
    """

    def __init__(self, name: str, known: str, advice: str) -> None:
        super().__init__(
            f"{name} is {known} in the hub's cache on this machine; it is fetched from the hub when all else is there, "
            f"or {advice}"
        )
        self.name = name


class TooLarge(Exception):
    """A file of settings that is none: it would fill the disk or the memory."""


class _Address(NamedTuple):
    name: str  # owner/name, or the name of a repository without owner
    revision: str


def is_address(source: object) -> bool:
    """Returns whether this names a model on the hub by its address, right or wrong."""
    return isinstance(source, str) and source.startswith(SCHEME)


def repository_name(address: str) -> str:
    """Returns the name of an address' repository, without owner and revision."""
    return _parsed(address).name.rpartition("/")[2]


def pinned(address: str) -> str:
    """Returns the address of the commit that an address names now; one that names a commit is returned as it is.

    Raises:
        UserError: it is no address; or the hub has no such repository or revision, or keeps it from this user; or it
            did not answer in time, and the revision is not in the cache.
    """
    name, revision = _parsed(address)
    return address if _COMMIT.fullmatch(revision) else f"{SCHEME}{name}@{_commit(address)}"


def settings_folder(address: str, fetch: bool = True) -> Path:
    """Returns a folder with all files of a model but its weights, which may be there or not.

    Args:
        address: the model's.
        fetch: ask the hub for files that are not on this machine.

    Raises:
        NotCached: a file is not on this machine, and ``fetch`` is not set.
        UserError: as ``pinned``; or a file could not be fetched, or is not what the hub or ``volta_switch.sums`` says.
    """
    address = pinned(address)
    files = _files(address)
    for file in reversed((*OF_A_DETECTOR, *SETTINGS)):  # the checksums first: the others are verified by them
        if file in files:
            _file(address, file, files[file], fetch, _MOST_SETTINGS)
    return _snapshot(address)


def weights_of(address: str, fetch: bool = True) -> Path:
    """Returns a model's file of weights, beside which its settings lie.

    Raises:
        NotCached, UserError: as ``settings_folder``; or the repository has no weights.
    """
    address = pinned(address)
    settings_folder(address, fetch)
    files = _files(address)
    file = next((name for name in WEIGHTS if name in files), None)
    if file is None:
        raise UserError(_without_weights(address, sorted(files)))
    return _file(address, file, files[file], fetch)


def whole_folder(address: str) -> Path:
    """Returns a folder with a model's settings and weights; raises as ``weights_of``."""
    return weights_of(address).parent


def fetched_file(name: str, file: str, revision: str | None = None, most: int | None = None) -> Path:
    """Returns a file from the hub, which is fetched only after it has answered in time.

    Args:
        name: the repository's.
        file: its name there.
        revision: a commit, a branch or a tag; None: the default branch.
        most: bytes that it may have; None: any number.

    Raises:
        ConnectionError: the hub did not answer within its library's ``HF_HUB_ETAG_TIMEOUT`` seconds (10).
        TooLarge: it has more bytes.
        Exception: what the hub's library raised.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    url = hf_hub_url(name, file, revision=revision)
    told = _answer(lambda: get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT))
    if most is not None and not (told.size is not None and told.size <= most):
        raise TooLarge(f"{told.size} bytes, expected {most:,} or fewer")
    return Path(hf_hub_download(name, file, revision=revision))


def _answer(ask: Callable[[], Answer]) -> Answer:
    """Returns the hub's answer to one question; raises as ``fetched_file``."""
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings would bury the one line of an error
    seconds = constants.HF_HUB_ETAG_TIMEOUT
    try:
        return in_time(ask, seconds)
    except TimeoutError:
        raise ConnectionError(f"{constants.ENDPOINT} did not answer within {seconds:g} seconds") from None


def _parsed(address: str) -> _Address:
    found = _ADDRESS.fullmatch(address)
    if found is None or ".." in address:
        raise UserError(f"{address}: expected {SCHEME}owner/name, or {SCHEME}owner/name@revision")
    return _Address(found[1], found[2] or MAIN)


def _cache(address: str) -> Path:
    """Returns a repository's folder in the hub library's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{_parsed(address).name.replace('/', '--')}"


def _snapshot(address: str) -> Path:
    """Returns the folder of a commit's files."""
    return _cache(address) / "snapshots" / _parsed(address).revision


def _commit(address: str) -> str:
    """Returns the commit that a branch or tag names: as the hub says, else as it said before."""
    try:
        return _ask(address)[0]
    except Exception as error:  # no network, no such model, a refusal: each library version has its own
        if refusal := _refusal(address, error):
            raise refusal from None
        reference = _cache(address) / "refs" / _parsed(address).revision
        commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else ""
        if not _COMMIT.fullmatch(commit):
            raise _absent(address, error) from None
        from huggingface_hub.utils import OfflineModeIsEnabled

        if not isinstance(error, OfflineModeIsEnabled) and environment_number("RANK", 0) == 0:
            said = f"{address}: the hub could not be asked ({type(error).__name__}: {first_line(error)})"
            print(f"{said}; taken from the cache on this machine: commit {commit}", file=sys.stderr)
        return commit


def _files(address: str) -> dict[str, str]:
    """Returns the names of all files of a commit, and the checksums that the hub gives ("" where it gives none)."""
    kept = find_object(_list(address))
    if kept is not None:
        return {name: str(digest) for name, digest in kept.items()}
    try:
        return _ask(address)[1]
    except Exception as error:
        if refusal := _refusal(address, error):
            raise refusal from None
        there = _snapshot(address)
        if not there.is_dir():
            raise _absent(address, error) from None
        # fetched by another program, such as `hf download`: the cache calls files by their checksums
        names = {path.name: path.resolve().name for path in there.iterdir()}
        return {name: digest if _DIGEST.fullmatch(digest) else "" for name, digest in names.items()}


def _list(address: str) -> Path:
    return _cache(address) / _LISTS / f"{_parsed(address).revision}.json"


def _ask(address: str) -> tuple[str, dict[str, str]]:
    """Asks the hub for the commit of a revision and its files, as ``_files`` returns them, and keeps its answer."""
    from huggingface_hub import HfApi, constants

    name, revision = _parsed(address)
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    found = _answer(lambda: HfApi().model_info(name, revision=revision, timeout=timeout, files_metadata=True))
    commit = str(found.sha)
    if not _COMMIT.fullmatch(commit):
        raise ValueError(f"{constants.ENDPOINT} names no commit")
    files = {file.rfilename: (file.lfs.sha256 if file.lfs else file.blob_id) or "" for file in found.siblings or ()}
    with suppress(OSError):  # a cache that may only be read
        write_json(_list(f"{SCHEME}{name}@{commit}"), files)
        if revision != commit:
            with replacing(_cache(address) / "refs" / revision) as reference:
                reference.write_text(commit, encoding="ascii")  # as the library keeps it, without an end of line
    return commit, files


def _file(address: str, file: str, digest: str, fetch: bool, most: int | None = None) -> Path:
    """Returns a file of a commit from the cache, or else from the hub, once it is verified; ``most``: its bytes."""
    path = _snapshot(address) / file
    if not path.is_file():
        if not fetch:
            raise NotCached(address, "not", "give a model's folder on this machine")
        name, commit = _parsed(address)
        try:
            path = fetched_file(name, file, commit, most)
        except TooLarge as error:
            raise UserError(f"{address}: {file} is refused: {error}; no model of this project has such a one") from None
        except Exception as error:
            raise _refusal(address, error) or UserError(
                f"{address}: {file} is not in the cache on this machine, and the hub could not deliver it "
                f"({type(error).__name__}: {first_line(error)}); give the command again when there is a network"
            ) from None
    if digest and _digest(path, len(digest)) != digest:
        _remove(path)
        raise UserError(
            f"{address}: {file} is not what the hub says it is (its checksum is another); it was removed from the "
            "cache; give the command again to fetch it anew"
        )
    try:
        verify(path)
    except Changed:
        _remove(path)
        raise UserError(
            f"{address}: {file} is not what was written (its sha256 is not that in the model's {SUMS}); it was removed "
            "from the cache; tell the model's owner, or give another revision"
        ) from None
    return path


def _digest(path: Path, length: int) -> str:
    """Returns a file's SHA-256 or, for a length of 40, the SHA-1 by which git calls it."""
    if length == 64:
        return str(measured(path)["sha256"])
    with path.open("rb") as file:
        start = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        return hashlib.file_digest(file, lambda: start).hexdigest()


def _remove(path: Path) -> None:
    """Removes a file of the cache, and what it is a link to."""
    while True:
        target = path.parent / os.readlink(path) if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if target is None:
            return
        path = target


def _refusal(address: str, error: Exception) -> UserError | None:
    """Returns what the hub's answer means for the user; None where it gave none."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = _parsed(address)
    if isinstance(error, HFValidationError):
        return UserError(f"{address}: no repository can have this name ({first_line(error)})")
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{name}"
        return UserError(
            f"{address}: its owner gives access on request; ask for it at {page}, then log in (hf auth login) or set "
            "HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{address}: {constants.ENDPOINT} has no repository {name}, or keeps it private; check the name, or log in "
            "(hf auth login) or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{address}: the repository has no branch, tag or commit {revision}; check the revision")
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, HfHubHTTPError) and 400 <= status < 500 and status not in _PASSING:
        advice = "; log in (hf auth login) or set HF_TOKEN" if status in (401, 403) else ""
        return UserError(f"{address}: the hub refuses to give it ({first_line(error)}){advice}")
    return None


def _absent(address: str, error: Exception) -> UserError:
    return UserError(
        f"{address}: not in the hub's cache on this machine, and the hub could not be asked ({type(error).__name__}: "
        f"{first_line(error)}); give this machine a network once: what the hub delivered is kept"
    )


def _without_weights(address: str, files: list[str]) -> str:
    if parts := [file for file in files if file.endswith(".index.json")]:
        return (
            f"{address}: has its weights in several files ({parts[0]}); load it with transformers and write it as one "
            "(model.save_pretrained(FOLDER, max_shard_size='100GB'))"
        )
    some = f"{', '.join(files[:5])}{' ...' if len(files) > 5 else ''}" or "none"
    return f"{address}: holds neither {' nor '.join(WEIGHTS)}; its files: {some}"
