"""Weights in and out: VOLTA's checkpoints, safetensors, and the text side from a Hugging Face BERT.

This project's modules carry VOLTA's names, and shared weights stand under each of VOLTA's names. Loading accounts for
every name and shape: what is missing, left over, misshapen or contradictory raises.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.files import replacing
from volta_switch.hub import find_bert

State = Mapping[str, Tensor]
_SHARED = "shared"  # the key of a safetensors file's metadata that says what stands under several names


def to_volta(model: nn.Module) -> dict[str, Tensor]:
    """The model's state under VOLTA's names and shapes, shared weights repeated as VOLTA repeats them."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def load_volta(
    model: nn.Module, state: State, fresh: Sequence[str] = (), unused: Sequence[str] = (), source: str = "state dict"
) -> list[str]:
    """Loads a state under VOLTA's names into a model, accounting for every name and shape.

    Args:
        model: ``BertForVLPreTraining`` or ``BertForVLTasks``.
        state: name -> tensor; DataParallel's ``module.`` prefix is dropped.
        fresh: parts of names that may be missing and then keep their initial values, such as ``("switch",)``.
        unused: parts of names that may be left over, such as ``("cls.",)`` for a pre-training head.
        source: where the state came from, for messages.

    Returns:
        The names that kept their initial values.

    Raises:
        UserError: a name is missing, left over or misshapen, or two names of one shared weight differ.
    """
    state = {re.sub(r"^module\.", "", name): tensor for name, tensor in state.items()}
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    kept = [name for name in missing if any(part in name for part in fresh)]
    lost = [name for name in missing if name not in kept]
    extra = [name for name in state if name not in own and not any(part in name for part in unused)]
    if lost:
        raise UserError(f"{source}: {_some(lost)} missing; is it a checkpoint of another architecture or head?")
    if extra:
        raise UserError(f"{source}: {_some(extra)} unexpected; is it a checkpoint of another architecture or head?")
    for name, tensor in own.items():
        if name in state and state[name].shape != tensor.shape:
            raise UserError(
                f"{source}: {name} has shape {list(state[name].shape)}, the model expects {list(tensor.shape)}; "
                "is it a checkpoint of another size?"
            )
    for names in shared_names(model):
        given = [name for name in names if name in state]
        if any(not torch.equal(state[given[0]], state[name]) for name in given[1:]):
            raise UserError(f"{source}: {_some(given)} are one shared weight in this model but hold different values")
    model.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
    return kept


def fingerprint(model: nn.Module) -> str:
    """A short checksum of the model's weights: equal where two runs start from the same ones."""
    digest = hashlib.sha256()
    for name, tensor in to_volta(model).items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def shared_names(model: nn.Module) -> list[list[str]]:
    """Groups of names that stand for one parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a weight file: ``.safetensors``, or a PyTorch file such as VOLTA's ``pytorch_model_*.bin``.

    No code in the file is run: PyTorch files are read with ``weights_only=True``.

    Raises:
        UserError: the file is missing, damaged, refused, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; give a .safetensors or .bin file that a run has written")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = load_plain(path, "weights")
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path}: expected a dictionary of tensors, as torch.save(model.state_dict()) writes it")
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors, those that ``write_weights`` stored once under each of their names."""
    from safetensors import safe_open  # here, not above: models are built without it

    try:
        with safe_open(path, framework="pt") as file:
            # copies: the file's own tensors are read only when they are used, from a file that may have changed or gone
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
            also = json.loads((file.metadata() or {}).get(_SHARED, "{}"))
    except Exception:  # safetensors, torch and JSON raise many kinds for damaged files
        raise UserError(f"{path}: could not be read as weights (damaged or not a safetensors file)") from None
    if not isinstance(also, dict) or any(
        name in tensors or not isinstance(stored, str) or stored not in tensors for name, stored in also.items()
    ):
        raise UserError(f"{path}: could not be read as weights (its table of shared weights names none of its own)")
    return tensors | {name: tensors[stored] for name, stored in also.items()}


def load_plain(path: Path, what: str) -> Any:
    """What a PyTorch file holds; no code in it is run.

    Raises:
        UserError: the file is damaged, or holds more than tensors and plain values; ``what`` says what was expected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on old pickles
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # PyTorch's own words advise to run the code
        reason = "damaged, or it holds more than tensors and plain values; nothing in it was run"
    except Exception as error:  # PyTorch raises many kinds for damaged files
        reason = _first_line(error)
    raise UserError(f"{path}: could not be read as {what} ({reason})")


def write_weights(path: str | Path, state: State) -> None:
    """Writes weights whole or not at all; ``.safetensors``, or for any other suffix a PyTorch file that VOLTA reads.

    Either holds a shared weight once. In safetensors, which has no notion of sharing, its other names stand in the
    metadata (``shared``: a JSON object, name -> name under which it is stored), where ``read_weights`` finds them.

    Raises:
        UserError: the system refused to write (``CannotWrite``); the file that stood there is unharmed.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[object, ...], str] = {}  # by place in memory: the name under which it is stored
    also: dict[str, str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place in first:
            also[name] = first[place]
        else:
            first[place] = name
            tensors[name] = tensor.detach().cpu().clone().contiguous()
    with replacing(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import save_file

            _save(
                temporary, SafetensorError, lambda: save_file(tensors, temporary, metadata={_SHARED: json.dumps(also)})
            )
        else:
            whole = {name: tensors[also.get(name, name)] for name in state}  # torch.save sees what is one tensor
            _save(temporary, RuntimeError, lambda: torch.save(whole, temporary))


def _save(temporary: Path, failure: type[Exception], write: Callable[[], None]) -> None:
    """Runs one library's writer; what the system refused, its own ``failure``, is raised as the system's error."""
    try:
        write()
    except failure as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        with temporary.open("ab") as file:  # PyTorch does not say why: what refused it refuses this
            file.write(bytes(2**20))
        raise OSError(errno.EIO, _first_line(error)) from error


def load_bert(model: nn.Module, config: Config, source: str | Path) -> list[str]:
    """Initialises the text side from a Hugging Face BERT.

    BERT's layer n goes to the sublayers that ``bert_layer2attn_sublayer`` and ``bert_layer2ff_sublayer`` name; its
    masked language modelling head goes to ``cls.predictions`` where the model has one.

    Args:
        model: any model of this project.
        config: its configuration.
        source: a folder with ``model.safetensors`` or ``pytorch_model.bin``, such a file, or a hub name.

    Returns:
        The names that were set.

    Raises:
        UserError: no weights were found, a shape does not fit, or BERT's layers are not all there.
    """
    given = {_modern_name(name): tensor for name, tensor in read_weights(find_bert(source)).items()}
    if not any(name.startswith("bert.") for name in given):  # the bare encoder, without heads
        given = {f"bert.{name}": tensor for name, tensor in given.items()}
    own = model.state_dict()
    renamed = {}
    for name, tensor in given.items():
        target = volta_name(name, config)
        if target in own:
            renamed[target] = tensor
    types = "bert.embeddings.token_type_embeddings.weight"
    table = renamed.get(types, own[types])
    if len(table) < len(own[types]) and table.shape[1:] == own[types].shape[1:]:  # VL-BERT has a third type
        renamed[types] = torch.cat((table, own[types][len(table) :]))
    wanted = [name for name in own if _is_text_side(name, config)]
    lost = [name for name in wanted if name not in renamed]
    if lost:
        raise UserError(
            f"{source}: {_some(lost)} missing; expected a BERT with {len(config.bert_layer2attn_sublayer)} layers"
        )
    for name, tensor in renamed.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{source}: {name} has shape {list(tensor.shape)}, the model expects {list(own[name].shape)}; "
                "use a BERT and a vocabulary of this size"
            )
    model.load_state_dict(renamed, strict=False)
    return sorted(renamed)


def _modern_name(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def volta_name(name: str, config: Config) -> str | None:
    """VOLTA's name of a BERT weight (``bert.encoder.layer.0...``); None where the architecture has no place for it."""
    found = re.match(
        r"bert\.encoder\.layer\.(\d+)\.(attention\.self|attention\.output|intermediate|output)\.(.+)", name
    )
    if not found:
        return name
    layer, part, rest = found.groups()
    kind = "attn" if part.startswith("attention") else "ff"
    sublayer = getattr(config, f"bert_layer2{kind}_sublayer").get(layer)
    return None if sublayer is None else f"bert.encoder.layer.{sublayer}.{part.replace('.', '_')}.{rest}"


def _is_text_side(name: str, config: Config) -> bool:
    if name.startswith("bert.embeddings."):
        return bool(re.match(r"bert\.embeddings\.((word|position|token_type)_embeddings|LayerNorm)\.", name))
    found = re.match(r"bert\.encoder\.layer\.(\d+)\.(\w+)\.(\w+)\.", name)
    if not found or found[3].startswith("v_"):
        return False
    starts = {*config.bert_layer2attn_sublayer.values(), *config.bert_layer2ff_sublayer.values()}
    return int(found[1]) in starts


def _some(names: Iterable[str], shown: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
