"""Putting the switched encoder into VOLTA's models, and taking it out again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from volta_switch.model.bert import switch_encoder
from volta_switch.plugin.checkout import import_encoders
from volta_switch.plugin.encoder import VoltaSwitchEncoder
from volta_switch.plugin.patches import Patches

ROWS_PER_SAMPLE = {"retrieval": 4, "nlvr": 2}  # what VOLTA's task_utils.py makes of one sample, by its process
_patches = Patches()  # empty while the plug-in is not registered


def register(home: str | Path | None = None) -> None:
    """Puts the switched encoder into VOLTA; a second call changes nothing.

    After it, a model that VOLTA builds from a configuration with a ``switch`` section has this project's switched
    encoder in place of VOLTA's; every other configuration is untouched.

    Args:
        home: a checkout of VOLTA, added to ``sys.path``; by default ``VOLTA_HOME`` from the environment, which is
            needed only where VOLTA cannot be imported without it.

    Raises:
        UserError: no VOLTA can be imported, or another package of that name is found (PyPI's ``volta`` is one).
    """
    if _patches:
        return
    encoders = import_encoders(home)
    _wrap_models(encoders)
    _wrap_from_pretrained(encoders)
    _wrap_data_parallel()


def unregister() -> None:
    """Takes the plug-in out again; models that were built keep their encoders."""
    _patches.undo()


def _wrap_models(encoders: ModuleType) -> None:
    # Rebinding volta.encoders.BertEncoder would break its own super(BertEncoder, self) call.
    @_patches.wrap(encoders.BertModel, "__init__")
    def init(original: Any, model: Any, config: Any, *args: Any, **options: Any) -> None:
        original(model, config, *args, **options)
        if getattr(config, "switch", None) is not None:
            model.encoder = VoltaSwitchEncoder(config)
            model.encoder.apply(model.init_weights)

    @_patches.wrap(encoders.BertForVLTasks, "__init__")
    def init_tasks(original: Any, model: Any, config: Any, task_cfg: Any, task_ids: Any, *args: Any, **kw: Any) -> None:
        original(model, config, task_cfg, task_ids, *args, **kw)
        encoder = switch_encoder(model)
        if isinstance(encoder, VoltaSwitchEncoder) and len(task_ids) == 1:
            encoder.rows_per_sample = ROWS_PER_SAMPLE.get(task_cfg[task_ids[0]].get("process"), 1)


def _wrap_from_pretrained(encoders: ModuleType) -> None:
    # METHOD: the temperature starts anew, lower, whenever fine-tuning begins from another run's weights. A resumed run
    # loads its own state afterwards and goes on where it was.
    tasks = encoders.BertForVLTasks

    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        loaded = super(tasks, cls).from_pretrained(*args, **options)  # None where VOLTA finds no file
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        encoder = switch_encoder(model) if model is not None else None
        if encoder is not None:
            encoder.start_annealing(encoder.switch.finetune_temperature)
        return loaded

    _patches.set(tasks, "from_pretrained", classmethod(from_pretrained))


def _wrap_data_parallel() -> None:
    # The replicas of a pass are gone after it; what they saw is counted by the module that they are copies of.
    @_patches.wrap(nn.DataParallel, "forward")
    def forward(original: Any, parallel: Any, *inputs: Any, **options: Any) -> Any:
        outputs = original(parallel, *inputs, **options)
        encoder = switch_encoder(parallel.module)
        if isinstance(encoder, VoltaSwitchEncoder):
            encoder.count_samples()
        return outputs
