"""The weights that a run starts from: random ones, another run's, or a Hugging Face BERT's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.hub import find_bert, is_weight_file
from volta_switch.model.bert import switch_encoder
from volta_switch.weights import is_of_a_run, load_bert, load_volta, read_weights


def initial_weights(model: nn.Module, config: Config, source: str, allow_deeper_bert: bool = False) -> str:
    """Sets a model's start: from nothing (``""``), another run's weights, or a Hugging Face BERT.

    Args:
        model: any model of this project.
        config: its configuration.
        source: a file of weights, a folder with ``model.safetensors`` or ``pytorch_model.bin``, or a hub name.
        allow_deeper_bert: whether layers of a BERT may be left out (``load_bert``).

    Returns:
        What was done, in words for the log: where the weights come from, what of them was left out, and what of the
        model stays fresh.

    Raises:
        UserError: the weights are not there, are another project's, or do not fit.
    """
    if not source:
        return "random initial weights"
    state = read_weights(Path(source) if is_weight_file(source) else find_bert(source))
    if is_of_a_run(state):
        return _from_run(model, state, source)
    return f"text side from {source}{load_bert(model, config, state, source, allow_deeper_bert).described}"


def _from_run(model: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    # A head that is there in part is no fresh one: what it lacks is missing.
    tasks = [f"clfs_dict.{task}." for task in getattr(model, "clfs_dict", ())]
    heads = [head for head in tasks if not any(name.startswith(head) for name in state)]
    switched = switch_encoder(model)
    if switched is not None and not any("switch" in name for name in state):
        heads.append("switch")
    left = ("cls.", "clfs_dict.") if tasks else ("clfs_dict.",)
    kept = load_volta(model, state, fresh=heads, unused=left, source=source)
    if switched is not None:  # another run's weights: the temperature starts anew, lower
        switched.start_annealing(switched.switch.finetune_temperature)
    fresh = sorted({name.split(".")[0] if "switch" not in name else "switchers" for name in kept})
    unused = [name.split(".") for name in state if name not in model.state_dict()]
    heads = sorted({parts[0] if parts[0] == "cls" else ".".join(parts[:2]) for parts in unused})
    told = f"weights from {source}" + (f"; left out: {', '.join(heads)}" if heads else "")
    return told + (f"; fresh: {', '.join(fresh)}" if fresh else "")
