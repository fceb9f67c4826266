"""Registered weights as model folders on this machine: fetched, compared with what is known of them, checked, written.

What no page says of a file (its size, its checksum) is recorded when it is fetched for the first time, in
``fetched.json`` of the user's cache folder, and compared ever after. A folder appears whole or not at all: its parts
are fetched beside it, in ``.<folder>.fetching``, which a process that was killed leaves for the next one to go on with.
No code in what was fetched is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.checksums import read_recorded, record, verify
from volta_switch.config.loading import CONFIG, load_config
from volta_switch.config.model_folder import WEIGHTS, is_model_folder, weights_in
from volta_switch.errors import UserError
from volta_switch.files import CannotWrite, find_object, first_there, lock_alone, measured, user_cache, write_json
from volta_switch.hub import VOCABULARY, NotCached, find_vocabulary, hub_file
from volta_switch.weight_tools.registered.archives import take_member
from volta_switch.weight_tools.registered.entries import BERT, VOLTA, Entry, RemoteFile
from volta_switch.weight_tools.registered.fetching import SECONDS, Expected, fetch

if TYPE_CHECKING:
    from volta_switch.weight_tools.importing import ImportedModel

RECORD = "fetched.json"
_OWN = WEIGHTS[1]  # VOLTA's name
_HERE = "where its files are already, name their folder (weights import FOLDER TO, weights verify --from FOLDER)"
_ORIGINAL, _ARCHIVE, _ANSWERS, _MODEL = "pytorch_model.bin", "archive", "answers.json", "model"


@dataclass(frozen=True)
class FetchedModel:
    """Weights that are on this machine."""

    source: str
    """For ``--from_pretrained``: the model's folder, or a hub's name."""
    was_here: bool
    imported: ImportedModel | None = None
    """What became of a file in another layout; None where nothing was imported now."""


def cache_folder() -> Path:
    """Returns the folder that weights are fetched into where no other is named."""
    return user_cache() / "weights"


def default_folder(entry: Entry, answers: Sequence[str] = ()) -> Path:
    """Returns the folder of an entry's model; of one with a head, another for each order of its answers."""
    return cache_folder() / "-".join(filter(None, _model_of(entry, answers).values()))


def _model_of(entry: Entry, answers: Sequence[str]) -> dict[str, str]:
    """Returns what the record says of a folder: whose model it holds, and which answers in which order."""
    digest = hashlib.sha256(chr(0).join(answers).encode()).hexdigest()[:8] if answers else ""
    return {"name": entry.name, "answers": digest}


def models_here(entries: Mapping[str, Entry]) -> dict[str, Path]:
    """Returns the models that are on this machine: name -> folder."""
    kept = _kept("folders")
    found = {}
    for name, entry in entries.items():
        if entry.layout == BERT and entry.weights.hub:
            with suppress(NotCached):
                found[name] = hub_file(entry.weights.hub, [str(entry.weights.file)], False, "").parent
        own = [folder for folder, model in kept.items() if isinstance(model, dict) and model.get("name") == name]
        for folder in own:
            if os.path.isfile(Path(folder, CONFIG)) and first_there(folder, WEIGHTS):
                found.setdefault(name, Path(folder))
    return found


def obtain(entry: Entry, to: str | Path = "", wanted: Sequence[str] = (), seconds: float = SECONDS) -> FetchedModel:
    """Returns an entry's model, fetched where it is not here.

    Args:
        entry: of the registry.
        to: the model's folder; "": one below ``cache_folder``, or for a BERT the hub's cache.
        wanted: answers in the order of the task's data: a file's head of answers is kept, in that order.
        seconds: of silence, after which a server is taken for gone.

    Raises:
        UserError: it cannot be fetched, is not what is known of it, or holds other weights; or the folder is another
            model's. Nothing is left under the folder's name.
    """
    if entry.by_hand or entry.layout is None:
        address = entry.weights.key
        raise UserError(f"{entry.name}: cannot be fetched: {entry.by_hand or 'its layout is not known'} ({address})")
    if wanted and entry.answers is None:
        raise UserError(f"{entry.name}: the registry names no answers of a head; leave out --answers-of")
    if entry.layout == BERT and not to:
        return _bert_in_cache(entry)
    folder = Path(os.path.realpath(to or default_folder(entry, wanted)))
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        _check_there(entry, folder, wanted)
        return FetchedModel(str(folder), True)
    work = folder.with_name(f".{folder.name}.fetching")
    with _alone(work):
        made, imported = _made(entry, work, wanted, seconds)
        try:
            os.replace(made, folder)
        except OSError as error:
            raise CannotWrite(folder, error) from error
        shutil.rmtree(work, ignore_errors=True)
    _keep("folders", str(folder), _model_of(entry, wanted))
    return FetchedModel(str(folder), False, imported)


def _made(entry: Entry, work: Path, wanted: Sequence[str], seconds: float) -> tuple[Path, ImportedModel | None]:
    """Fetches an entry's parts and returns the folder that its model was written into."""
    made = work / _MODEL
    shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
    if entry.layout == VOLTA:
        from volta_switch.weight_tools.registered.volta_files import check_weights, fill_folder  # imports PyTorch

        config = load_config(str(entry.config))
        # the vocabulary first: it is small, and may not be there
        vocabulary = read_recorded(find_vocabulary(config.bert_model, advice=_HERE))
        weights, found = _file(entry.weights, work, _OWN, seconds)
        with _discarding(weights, work / _ARCHIVE):
            heads = check_weights(weights, config, entry)
        _remember(entry.weights, found)  # now that it is one
        made.mkdir()
        fill_folder(made, entry, config, vocabulary, weights, heads)
        return made, None
    if entry.layout == BERT:
        weights, vocabulary_file = _hub_weights(entry.weights), find_vocabulary(str(entry.weights.hub), advice=_HERE)
        made.mkdir()
        for file in (weights, vocabulary_file):
            shutil.copyfile(file, made / file.name)
            record(made / file.name)
        return made, None
    return made, _imported(entry, work, made, wanted, seconds)


def _imported(entry: Entry, work: Path, made: Path, wanted: Sequence[str], seconds: float) -> ImportedModel:
    """Writes a file in another layout as a model's folder."""
    from volta_switch.weight_tools.given import read_answers  # only now: these import PyTorch
    from volta_switch.weight_tools.imported_folders import write_model
    from volta_switch.weight_tools.importing import import_weights

    remote, labels = entry.weights, []
    task = entry.answers.task if entry.answers and wanted else ""
    if entry.answers and wanted:
        file, found = _file(entry.answers, work, _ANSWERS, seconds)
        with _discarding(file):
            labels = read_answers(file, entry.answers.key)
        _remember(entry.answers, found)
    if remote.hub:
        hub_file(remote.hub, [CONFIG], True, _HERE)
    weights, found = (_hub_weights(remote), {}) if remote.hub else _file(remote, work, _ORIGINAL, seconds)
    with _discarding(*() if remote.hub else (weights, work / _ARCHIVE)):
        model = import_weights(weights, str(entry.layout), (), task, labels, wanted)
    if not remote.hub:
        _remember(remote, found)
    vocabulary = None
    if remote.hub:
        with suppress(UserError):  # not every model has its own
            vocabulary = hub_file(remote.hub, [VOCABULARY], True, "")
    vocabulary = vocabulary or find_vocabulary(model.config.bert_model, advice=_HERE)
    write_model(model, made, read_recorded(vocabulary))
    return model


def _bert_in_cache(entry: Entry) -> FetchedModel:
    name = str(entry.weights.hub)
    was_here = True
    try:
        hub_file(name, [str(entry.weights.file)], False, "")
    except NotCached:
        was_here = False
    _hub_weights(entry.weights)
    find_vocabulary(name, advice=_HERE)
    return FetchedModel(name, was_here)


def _hub_weights(remote: RemoteFile) -> Path:
    """Returns a hub's file, which the hub's library fetches, goes on with and keeps; compared with what is known."""
    path = hub_file(str(remote.hub), [str(remote.file)], True, _HERE)
    found = measured(path)
    if difference := _expected(remote).difference(found):
        raise UserError(f"{remote.key}: refused: {path} {difference}; remove it from the hub's cache to fetch it again")
    _remember(remote, found)
    return path


def _file(remote: RemoteFile, work: Path, name: str, seconds: float) -> tuple[Path, Mapping[str, Any]]:
    """Fetches a file of the web into ``work``; of an archive, the file in it that is meant.

    Returns:
        The file, and the size and sha256 of what was fetched.
    """
    path, expected = work / name, _expected(remote)
    fetched = work / _ARCHIVE if remote.member else path
    found = measured(fetched) if fetched.is_file() else None  # of a process that was killed
    if found is None or expected.difference(found):
        found = fetch(remote.addresses, fetched, expected, seconds)
    if remote.member:
        with _discarding(fetched):
            take_member(fetched, remote.member, path)
    return path, found


def _check_there(entry: Entry, folder: Path, answers: Sequence[str]) -> None:
    """Raises UserError where a folder that is there is not this entry's model with these answers, or was changed."""
    if _kept("folders").get(str(folder)) != _model_of(entry, answers):
        same = f"{entry.name} with the answers that are asked for" if answers else entry.name
        raise UserError(f"{folder}: is there already, and was not fetched as {same}; give another folder (--to)")
    if entry.layout == BERT:
        verify(folder)
        return
    if not is_model_folder(folder):
        raise UserError(f"{folder}: no model any more; move it away, then fetch it again")
    weights = weights_in(folder)
    verify(folder)
    if entry.layout == VOLTA and not entry.weights.member:
        difference = _expected(entry.weights).difference(measured(weights))
        if difference:
            raise UserError(f"{weights}: {difference}; move the folder away, then fetch it again")


# --- What is kept in the cache folder ------------------------------------------------------------------------------


def _expected(remote: RemoteFile) -> Expected:
    """Returns what the registry says of a file, else what was recorded when it was fetched first."""
    first = _kept("checksums").get(remote.key)
    if remote.sha256 or not isinstance(first, dict):
        return Expected(remote.bytes, remote.sha256)
    told = f"the record of its first fetch ({cache_folder() / RECORD})"
    return Expected(remote.bytes or first.get("bytes"), first.get("sha256"), told)


def _remember(remote: RemoteFile, found: Mapping[str, Any]) -> None:
    if not remote.sha256:
        _keep("checksums", remote.key, dict(found))


def _kept(section: str) -> dict[str, Any]:
    """Returns a section of the record. Raises UserError where the record is there and cannot be read."""
    path = cache_folder() / RECORD
    found = find_object(path)
    if found is None and os.path.lexists(path):
        raise UserError(f"{path}: damaged; move it away: what was fetched before is then not compared any more")
    values = (found or {}).get(section)
    return values if isinstance(values, dict) else {}


def _keep(section: str, key: str, value: Any) -> None:
    path = cache_folder() / RECORD
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{RECORD}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _kept(section).get(key) != value:
                whole = find_object(path) or {}
                write_json(path, {**whole, section: {**_kept(section), key: value}})
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(path, error) from error


@contextmanager
def _discarding(*files: Path) -> Iterator[None]:
    """Removes files where the block refuses what is in them, so that they are fetched again."""
    try:
        yield
    except UserError:
        for file in files:
            file.unlink(missing_ok=True)
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes a folder that no other process uses inside the block; removed where nothing is in it.

    Raises:
        UserError: another process uses it.
        CannotWrite: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CannotWrite(folder, error) from error
    try:
        lock_alone(handle, f"{folder}: another process is fetching into it; wait for that one")
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()  # before another process may have it
        os.close(handle)
