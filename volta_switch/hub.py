"""A BERT's files, by where they lie: a folder, the Hugging Face hub's cache on this machine, or the hub.

What is on this machine is taken without asking the hub. The hub is asked once and for a bounded time: left to itself,
``hf_hub_download`` asks it for a file that is not cached six times, with pauses of 1 to 8 seconds and up to a minute
for each answer, which without a network made half a minute of silence for every file, and several minutes behind a
firewall that drops packets.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from volta_switch.errors import UserError
from volta_switch.files import first_there, require_file

VOCABULARY = "vocab.txt"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".bin", ".safetensors", ".pt", ".pth", ".th", ".ckpt", ".tar")


class NotCached(UserError):
    """A hub's model that is not on this machine, and that the hub was not asked for."""

    def __init__(self, name: str, advice: str) -> None:
        super().__init__(
            f"{name} is neither a folder here nor in the hub's cache on this machine; it is fetched from the hub when "
            f"all else is there, or {advice}"
        )
        self.name = name


def is_weight_file(source: str | Path) -> bool:
    """Returns whether ``--from_pretrained`` names a file of weights, there or not, and no folder or hub name."""
    return os.path.isfile(source) or (Path(source).suffix in _SUFFIXES and not os.path.isdir(source))


def find_vocabulary(source: str | Path, fetch: bool = True) -> Path:
    """Returns the vocabulary file of a BERT: given, in a folder, or the hub's.

    Args:
        source: a folder with vocab.txt, the file itself, or a hub name.
        fetch: ask the hub for what is not on this machine.

    Raises:
        NotCached: it is not on this machine, and ``fetch`` is not set.
        UserError: there is none.
    """
    path = Path(source)
    if os.path.isdir(path):
        path = path / VOCABULARY
    if os.path.lexists(path):
        require_file(path, "vocabulary", "bert_model must be a folder with vocab.txt or a hub name")
        return path
    if not _is_hub_name(str(source)):
        raise UserError(f"{path}: no vocabulary there; bert_model must be a directory with vocab.txt or a hub name")
    return hub_file(str(source), [VOCABULARY], fetch, "give a folder with vocab.txt (--set bert_model=FOLDER)")


def find_bert(source: str | Path, fetch: bool = True) -> Path:
    """Returns the weight file of a BERT: given, in a folder, or the hub's; arguments and errors as above."""
    path = Path(source)
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        if found := first_there(path, WEIGHTS):
            return found
        raise UserError(f"{path}: holds neither {WEIGHTS[0]} nor {WEIGHTS[1]}")
    if not _is_hub_name(str(source)):
        raise UserError(f"{path}: no BERT there; expected a folder with {WEIGHTS[0]} or {WEIGHTS[1]}, or a hub name")
    advice = f"give a folder with {WEIGHTS[0]} (--from_pretrained FOLDER, or '' for random initial weights)"
    return hub_file(str(source), WEIGHTS, fetch, advice)


def _is_hub_name(source: str) -> bool:
    """Returns whether a hub may have a model of this name: ``name`` or ``owner/name``."""
    return not (
        Path(source).is_absolute()
        or source.startswith((".", "~"))
        or source.count("/") > 1
        or Path(source).name in ("", VOCABULARY)
        or Path(source).suffix in _SUFFIXES
    )


def hub_file(name: str, files: Sequence[str], fetch: bool, advice: str) -> Path:
    """Returns the first of a hub model's files that there is: in the cache, else, if it may be asked, on the hub.

    Args:
        name: the model's.
        files: names of files, any of which will do.
        fetch: ask the hub for what is not on this machine.
        advice: what to do without one, for messages.

    Raises:
        NotCached: there is none on this machine, and ``fetch`` is not set.
        UserError: the hub gave none, or did not answer in time.
    """
    for file in files:
        if cached := _cached(name, file):
            return cached
    if not fetch:
        raise NotCached(name, advice)
    from huggingface_hub.utils import EntryNotFoundError

    reason: Exception = ValueError("no file asked for")
    for file in files:
        try:
            return _fetched(name, file)
        except EntryNotFoundError as error:
            reason = error
        except Exception as error:  # no network, no such model, a refused download: each library version has its own
            reason = error
            break
    raise UserError(
        f"{name}: neither a folder with {files[0]} nor a model that the hub could deliver ({type(reason).__name__}: "
        f"{_first_line(reason)}); {advice}, or give this machine a network once: what the hub delivered is kept"
    )


def _cached(name: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # here, not above: a folder's files need no hub

    try:
        found = try_to_load_from_cache(name, file)
    except ValueError:  # a name that no model can have
        return None
    return Path(found) if isinstance(found, str) else None


def _fetched(name: str, file: str) -> Path:
    """Returns a file from the hub, which is fetched only after it has answered in time."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings would bury the one line of an error
    seconds = constants.HF_HUB_ETAG_TIMEOUT  # 10, or what the variable of that name says
    found: list[Exception | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(name, file), timeout=seconds)
            found.append(None)
        except Exception as error:
            found.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name has no time limit of its own
    asking.start()
    asking.join(seconds)
    if not found:
        raise ConnectionError(f"{constants.ENDPOINT} did not answer within {seconds:g} seconds")
    if found[0] is not None:
        raise found[0]
    return Path(hf_hub_download(name, file))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""
