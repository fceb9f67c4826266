"""A BERT's files, by where they lie: a folder, the Hugging Face hub's cache on this machine, or the hub.

What is on this machine is taken without asking the hub. The hub is asked once and for a bounded time: left to itself,
``hf_hub_download`` asks it for a file that is not cached six times, with pauses of 1 to 8 seconds and up to a minute
for each answer, which without a network made half a minute of silence for every file, and several minutes behind a
firewall that drops packets.

A BERT's name is ``name`` or ``owner/name``. A model by its address, ``hf://owner/name``, is ``hub_models``' own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from volta_switch.errors import UserError, first_line
from volta_switch.files import first_there, require_file
from volta_switch.hub_models import NotCached, fetched_file, is_address, settings_folder, weights_of

VOCABULARY = "vocab.txt"
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a BERT, and of other programs' models
_OTHER_VOCABULARY = "give a folder with vocab.txt (--set bert_model=FOLDER)"
_SUFFIXES = (".bin", ".safetensors", ".pt", ".pth", ".th", ".ckpt", ".tar")


def is_weight_file(source: str | Path) -> bool:
    """Returns whether ``--from_pretrained`` names a file of weights, there or not; no folder, name or address."""
    if is_address(source):
        return False
    return os.path.isfile(source) or (Path(source).suffix in _SUFFIXES and not os.path.isdir(source))


def find_vocabulary(source: str | Path, fetch: bool = True, advice: str = _OTHER_VOCABULARY) -> Path:
    """Returns the vocabulary file of a BERT: given, in a folder, or the hub's.

    Args:
        source: a folder with vocab.txt, the file itself, a hub name, or an address.
        fetch: ask the hub for what is not on this machine.
        advice: what to do without one, for messages.

    Raises:
        NotCached: it is not on this machine, and ``fetch`` is not set.
        UserError: there is none.
    """
    path = settings_folder(str(source), fetch) if is_address(source) else Path(source)
    if is_address(source) and not (path / VOCABULARY).is_file():
        raise UserError(f"{source}: has no {VOCABULARY}; give a vocabulary with --set bert_model=FOLDER")
    if os.path.isdir(path):
        path = path / VOCABULARY
    if os.path.lexists(path):
        require_file(path, "vocabulary", "bert_model must be a folder with vocab.txt or a hub name")
        return path
    if not is_hub_name(str(source)):
        raise UserError(f"{path}: no vocabulary there; bert_model must be a directory with vocab.txt or a hub name")
    return hub_file(str(source), [VOCABULARY], fetch, advice)


def find_bert(source: str | Path, fetch: bool = True) -> Path:
    """Returns the weight file of a BERT: given, in a folder, or the hub's; arguments and errors as above."""
    if is_address(source):
        return weights_of(str(source), fetch)
    path = Path(source)
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        if found := first_there(path, HUB_WEIGHTS):
            return found
        raise UserError(f"{path}: holds neither {HUB_WEIGHTS[0]} nor {HUB_WEIGHTS[1]}")
    if not is_hub_name(str(source)):
        raise UserError(
            f"{path}: no BERT there; expected a folder with {HUB_WEIGHTS[0]} or {HUB_WEIGHTS[1]}, or a hub name"
        )
    advice = f"give a folder with {HUB_WEIGHTS[0]} (--from_pretrained FOLDER, or '' for random initial weights)"
    return hub_file(str(source), HUB_WEIGHTS, fetch, advice)


def is_path(source: str) -> bool:
    """Returns whether something that a user named is a path, there or not, and no name on a hub.

    ``owner/name`` is a path where a folder of the owner's name is here.
    """
    here = Path(source)
    return here.exists() or not is_hub_name(source) or ("/" in source and here.parent.is_dir())


def is_hub_name(source: str) -> bool:
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
        raise NotCached(name, "neither a folder here nor", advice)
    from huggingface_hub.utils import EntryNotFoundError

    reason: Exception = ValueError("no file asked for")
    for file in files:
        try:
            return fetched_file(name, file)
        except EntryNotFoundError as error:
            reason = error
        except Exception as error:  # no network, no such model, a refused download: each library version has its own
            reason = error
            break
    raise UserError(
        f"{name}: neither a folder with {files[0]} nor a model that the hub could deliver ({type(reason).__name__}: "
        f"{first_line(reason)}); {advice}, or give this machine a network once: what the hub delivered is kept"
    )


def _cached(name: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # here, not above: a folder's files need no hub

    try:
        found = try_to_load_from_cache(name, file)
    except ValueError:  # a name that no model can have
        return None
    return Path(found) if isinstance(found, str) else None
