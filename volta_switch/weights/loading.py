"""Weights into a model and out of it, accounting for every name, shape and type.

A file's names are brought to one spelling, whatever wrote it:

| in files | read as |
|---|---|
| ``{"model": {...}, "epoch": 9}``, also ``state_dict``, ``model_state_dict`` and others | what stands inside |
| ``module.bert...``, ``_orig_mod.bert...`` (DataParallel, DDP; ``torch.compile``) | ``bert...`` |
| ``LayerNorm.gamma``, ``LayerNorm.beta`` (from TensorFlow) | ``LayerNorm.weight``, ``LayerNorm.bias`` |
| ``embeddings...``, ``encoder...`` (an encoder without its heads) | ``bert.embeddings...``, ``bert.encoder...`` |

Other projects' files have BERT's names for their text side. Taken for a BERT, they would give a model its text side
and lose the rest in silence: they are refused by what they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.errors import UserError

FLOOR_SAMPLES = "switch_floor_samples"  # an encoder's buffer, which weights of before there were shares lack
# Keys under which training programs store weights beside optimisers, epochs and the like.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights")
_DEEPEST = 8
_ADDED = ("module.", "_orig_mod.")
_OLD = {".gamma": ".weight", ".beta": ".bias"}
_HEADS = ("cls.", "clfs_dict.")  # which stand beside ``bert.``
_WORDS = "embeddings.word_embeddings.weight"
_RUN = re.compile(r"\.attention_self\.")  # VOLTA's and this project's runs
_BERT = re.compile(r"bert\.encoder\.layer\.\d+\.attention\.self\.query\.weight")
# Those whose files ``weight_tools`` reads, one tuple for each layout.
VOLTA_LXMERT = ("LXMERT (VOLTA's conversion)",)
LXMERT = ("LXMERT (Hugging Face's layout)", "LXMERT (its own layout)")
VISUAL_BERT = ("VisualBERT (Hugging Face's layout)", "VisualBERT (its own layout)")
UNITER = ("UNITER or VILLA",)
VILBERT = ("12-in-1", "ViLBERT or 12-in-1")
# Project -> a part of a name, after ``normalised``, that no other's files have. The first that is found counts.
_OTHERS = {
    VOLTA_LXMERT[0]: r"^cls\.qaPredictions\.",
    "VL-BERT (its own layout)": r"(^|\.)vlbert\.",
    VILBERT[0]: r"\.task_embeddings\.|^vil_prediction_gqa\.|^vil_tri_prediction\.",
    VILBERT[1]: r"\.encoder\.(c_layer|v_layer)\.\d+\.|^vil_prediction\.",
    LXMERT[0]: r"^lxmert\.",
    LXMERT[1]: r"(^|\.)encoder\.(x_layers|r_layers|visn_fc)\.",
    VISUAL_BERT[0]: r"(^|\.)visual_bert\.|(^|\.)visual_(token_type|position)_embeddings\.",
    VISUAL_BERT[1]: r"(^|\.)(token_type|position)_embeddings_visual\.",
    UNITER[0]: r"^uniter\.|(^|\.)img_embeddings\.",
    "Oscar or VinVL": r"(^|\.)img_embedding\.",
    "ViLT": r"^vilt\.|^transformer\.patch_embed\.",
    "ALBEF or BLIP": r"^visual_encoder\.",
    "CLIP": r"^visual_projection\.|^vision_model\.|^visual\.(transformer|conv1|layer1)\.",
    "RoBERTa": r"^roberta\.",
    "DistilBERT": r"^distilbert\.|^transformer\.layer\.\d+\.attention\.q_lin\.",
    "ALBERT": r"^albert\.|\.embedding_hidden_mapping_in\.",
    "ELECTRA": r"^electra\.|^discriminator_predictions\.|^generator_predictions\.",
}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def to_volta(model: nn.Module) -> dict[str, Tensor]:
    """Returns the model's state under VOLTA's names and shapes, shared weights repeated as VOLTA repeats them."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def load_volta(
    model: nn.Module,
    state: Mapping[str, Tensor],
    fresh: Sequence[str] = (),
    unused: Sequence[str] = (),
    source: str = "state dict",
) -> list[str]:
    """Loads a state under VOLTA's names into a model, accounting for every name, shape and type.

    Args:
        model: ``BertForVLPreTraining`` or ``BertForVLTasks``.
        state: name -> tensor, in any spelling; floating-point numbers of any width.
        fresh: parts of names that may be missing and then keep their initial values, such as ``("switch",)``.
        unused: beginnings of names that may be left over, such as ``("cls.",)`` for a pre-training head.
        source: where the state came from, for messages.

    Returns:
        The names that kept their initial values.

    Raises:
        UserError: a name is missing, left over or there twice, a tensor is misshapen, of another kind or not finite, or
            two names of one shared weight differ. The model is as it was.
    """
    state = normalised(state, source)
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    initial = [name for name in missing if any(part in name for part in fresh)]
    lost = [name for name in missing if name not in initial and not name.endswith(FLOOR_SAMPLES)]
    extra = [name for name in state if name not in own and not name.startswith(tuple(unused))]
    if lost or extra:
        wanted = "give weights of a run, this project's or VOLTA's"
        refuse_others(state, source, wanted)
        refuse_bert(state, source, wanted)
    if lost:
        raise UserError(f"{source}: {some(lost)} missing; is it a checkpoint of another architecture or head?")
    if extra:
        raise UserError(f"{source}: {some(extra)} unexpected; is it a checkpoint of another architecture or head?")
    given = {name: state[name] for name in own if name in state}
    given = fitted(own, given, source, "is it a checkpoint of another size?")
    check_shared(model, given, source)
    model.load_state_dict(given, strict=False)
    return initial


def fingerprint(model: nn.Module) -> str:
    """Returns a short checksum of the model's weights: equal where two runs start from the same ones."""
    return state_fingerprint(to_volta(model))


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Returns what ``fingerprint`` does of the model that a run's file of weights holds, from what was read of it."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if name.endswith(FLOOR_SAMPLES):  # follows from configuration and length of run; was not always there
            continue
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)  # bytes: NumPy has no bfloat16
    return digest.hexdigest()[:16]


def normalised(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Returns a state with every name in this project's spelling; what is spelt so already stays as it is.

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
    """Returns a name without what wrappers add, a layer norm's in today's words."""
    while added := next((part for part in _ADDED if name.startswith(part)), ""):
        name = name.removeprefix(added)
    name = name.replace("._orig_mod.", ".")  # parts may have been compiled, too
    old = next((end for end in _OLD if name.endswith(end)), "")
    return name.removesuffix(old) + _OLD[old] if old else name


def unwrapped(content: Any, source: str) -> dict[str, Tensor]:
    """Returns the state that a file's content is, or that a training program stored in it beside other things.

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
    """Returns the first few names, each cut where it is too long for a line, and how many there are besides."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(name if len(name) <= longest else f"{name[:longest]}..." for name in names[:shown]) + more


def is_of_a_run(names: Iterable[str]) -> bool:
    """Whether these are names of a run's weights, this project's or VOLTA's."""
    return any(_RUN.search(name) for name in names)


def refuse_others(names: Iterable[str], source: str, wanted: str) -> None:
    """Raises UserError that says whose weights these are, where they are another project's.

    Args:
        names: as ``normalised`` gives them.
        source: where they came from.
        wanted: what to give instead.
    """
    names = list(names)
    project = project_of(names)
    if not project:
        return
    importable = project in (*VOLTA_LXMERT, *LXMERT, *VISUAL_BERT, *UNITER, *VILBERT)
    command = f"import them first (volta-switch weights import {source} FOLDER), or"
    told = command if importable else "importing them is not supported:"
    signed = some([_signed(names, project)])
    raise UserError(f"{source}: these are weights of {project}, by names such as {signed}; {told} {wanted}")


def project_of(names: Iterable[str]) -> str:
    """Returns whose weights these are, by names as ``normalised`` gives them; "": a run's, a BERT's, or unknown."""
    names = list(names)
    projects = VOLTA_LXMERT if is_of_a_run(names) else _OTHERS
    return next((project for project in projects if _signed(names, project)), "")


def _signed(names: Iterable[str], project: str) -> str:
    """Returns the first name that a project's files alone have, "" without one."""
    return next((name for name in names if re.search(_OTHERS[project], name)), "")


def is_a_bert(names: Iterable[str]) -> bool:
    """Whether these are names of a BERT's layers."""
    return any(_BERT.fullmatch(name) for name in names)


def refuse_bert(names: Iterable[str], source: str, wanted: str) -> None:
    """As ``refuse_others`` for a BERT's, where a run's are wanted."""
    if found := next((name for name in names if _BERT.fullmatch(name)), ""):
        raise UserError(
            f"{source}: these are a BERT's weights, by names such as {found}, from which training may start "
            f"(--from_pretrained of train_concap.py and train_task.py): {wanted}"
        )


def fitted(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, advice: str) -> dict[str, Tensor]:
    """Returns tensors as a model takes them, each of its parameter's type.

    Args:
        own: the model's state.
        given: what is to be loaded, under the model's names. Floating-point numbers of 16, 32 and 64 bits are taken.
        source: where it came from, for messages.
        advice: what to do about another shape.

    Raises:
        UserError: a tensor is of another kind or shape, or holds a number that is not finite.
    """
    for name, tensor in given.items():
        floats = own[name].is_floating_point()
        if found := other_kind(tensor, floats):
            kind = "floating-point numbers" if floats else "whole numbers"
            raise UserError(f"{source}: {some([name])} is {found}; expected a dense tensor of {kind}")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{source}: {name} has shape {list(tensor.shape)}, the model expects {list(own[name].shape)}; {advice}"
            )
    cast = {name: tensor.to(own[name].dtype) for name, tensor in given.items()}
    # After the cast: what 64 bits hold may be infinite in 32.
    check_finite(cast, source, "; nothing can be computed with them: give other weights, such as an earlier epoch's")
    return cast


def check_finite(state: Mapping[str, Tensor], source: str, advice: str = "") -> None:
    """Raises UserError, which names the weights, where some hold numbers that are not finite."""
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if wrong:
        hold = "holds" if len(wrong) == 1 else "hold"
        raise UserError(f"{source}: {some(wrong)} {hold} numbers that are not finite (NaN, or beyond float32){advice}")


def check_shared(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raises UserError where names of one shared weight hold different values."""
    for names in shared_names(model):
        given = [name for name in names if name in state]
        if any(not torch.equal(state[given[0]], state[name]) for name in given[1:]):
            raise UserError(f"{source}: {some(given)} are one shared weight in this model but hold different values")


def distinct(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights without those that are another one's memory: a shared weight once, by its first name."""
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        first.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else (name,), name)
    return {name: state[name] for name in first.values()}


def shared_names(model: nn.Module) -> list[list[str]]:
    """Returns the groups of names that stand for one parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def other_kind(given: Tensor, floats: bool) -> str:
    """Returns what keeps a tensor from being a parameter, whatever its shape; "" where nothing does.

    Args:
        given: the tensor.
        floats: the parameter holds floating-point numbers, not whole ones.
    """
    if given.is_nested or given.layout != torch.strided:
        return "a sparse or nested tensor"
    if given.is_meta:
        return "a tensor without values (meta)"
    if given.dtype not in (_FLOATS if floats else _WHOLE):
        return f"a tensor of {str(given.dtype).removeprefix('torch.')}"
    return ""


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; the extremes say it, a NaN being both, in a seventh of ``isfinite``'s time."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))
