"""One spelling for the names of weights, whatever wrote the file.

| in files | read as |
|---|---|
| ``{"model": {...}, "epoch": 9}``, also ``state_dict``, ``model_state_dict`` and others | what stands inside |
| ``module.bert...``, ``_orig_mod.bert...`` (DataParallel, DDP; ``torch.compile``) | ``bert...`` |
| ``LayerNorm.gamma``, ``LayerNorm.beta`` (from TensorFlow) | ``LayerNorm.weight``, ``LayerNorm.bias`` |
| ``embeddings...``, ``encoder...`` (an encoder without its heads) | ``bert.embeddings...``, ``bert.encoder...`` |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from volta_switch.errors import UserError

# Keys under which training programs store weights beside optimisers, epochs and the like.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights")
_DEEPEST = 8
_ADDED = ("module.", "_orig_mod.")
_OLD = {".gamma": ".weight", ".beta": ".bias"}
_HEADS = ("cls.", "clfs_dict.")  # which stand beside ``bert.``
_WORDS = "embeddings.word_embeddings.weight"


def normalised(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A state with every name in this project's spelling; what is spelt so already stays as it is.

    Raises:
        UserError: two names are one weight's, so that one of them would be dropped; ``source`` is named.
    """
    plain = {name: _plain(name) for name in state}
    if _WORDS in plain.values():
        plain = {name: own if own.startswith(("bert.", *_HEADS)) else f"bert.{own}" for name, own in plain.items()}
    written: dict[str, str] = {}
    for name, own in plain.items():
        if own in written:
            raise UserError(
                f"{source}: {some([written[own], name])} are two names of one weight ({own}), and nothing says which "
                "is meant; keep one of them in the file"
            )
        written[own] = name
    return {own: state[name] for own, name in written.items()}


def _plain(name: str) -> str:
    """A name without what wrappers add, a layer norm's in today's words."""
    while added := next((part for part in _ADDED if name.startswith(part)), ""):
        name = name.removeprefix(added)
    name = name.replace("._orig_mod.", ".")  # parts may have been compiled, too
    old = next((end for end in _OLD if name.endswith(end)), "")
    return name.removesuffix(old) + _OLD[old] if old else name


def unwrapped(content: Any, source: str) -> dict[str, Tensor]:
    """The state that a file's content is, or that a training program stored in it beside other things.

    Raises:
        UserError: there is none, or several, or a key is no text; ``source`` is named.
    """
    for _ in range(_DEEPEST):  # a file may hold a dictionary that holds itself
        if not isinstance(content, Mapping):
            break
        inside = [key for key in content if key in WRAPPERS and isinstance(content[key], Mapping)]
        if not inside:
            break
        beside = [key for key, value in content.items() if key not in inside and _is_state(value)]
        weights = [key for key, value in content.items() if isinstance(value, Tensor) and "." in str(key)]
        if len(inside) > 1 or beside or weights:
            raise UserError(
                f"{source}: holds several sets of weights ({some([*inside, *beside, *weights])}), and nothing says "
                "which is meant; keep one of them in the file"
            )
        content = content[inside[0]]
    expected = "expected a dictionary of tensors by name, as torch.save(model.state_dict()) writes it"
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: {expected}, found {_kind(content)}")
    for key, value in content.items():
        if not isinstance(key, str):
            raise UserError(f"{source}: {expected}, found the key {some([repr(key)])}, which is no text")
        if not isinstance(value, Tensor):
            raise UserError(f"{source}: {expected}, found {_kind(value)} under {some([key])}")
    if not content:
        raise UserError(f"{source}: {expected}, found no tensor")
    return dict(content)


def _is_state(value: Any) -> bool:
    """Whether a value is a set of weights, such as a moving average of them; random states are none."""
    return (
        isinstance(value, Mapping)
        and all(isinstance(tensor, Tensor) for tensor in value.values())
        and any("." in str(name) for name in value)
    )


def _kind(value: Any) -> str:
    return {dict: "a dictionary", list: "a list", Tensor: "a single tensor"}.get(type(value), type(value).__name__)


def some(names: Iterable[str], shown: int = 3, longest: int = 100) -> str:
    """The first few names, each cut where it is too long for a line, and how many there are besides."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(name if len(name) <= longest else f"{name[:longest]}..." for name in names[:shown]) + more
