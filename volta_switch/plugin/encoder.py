"""The switched encoder behind the signature of VOLTA's ``BertEncoder``, put into VOLTA's models and taken out again.

Legend: B batch, T text tokens, R regions, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.config import Config, SwitchConfig, load_config
from volta_switch.errors import UserError
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.rows import PackedLayout
from volta_switch.model.switch import Routes, Switcher
from volta_switch.plugin.checkout import import_encoders
from volta_switch.plugin.replacements import Patches

# What the encoder reads of a configuration; embeddings, poolers and heads are VOLTA's own.
ENCODER_FIELDS = (
    "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range", "v_hidden_size", "v_num_attention_heads",
    "v_intermediate_size", "v_hidden_act", "v_hidden_dropout_prob", "v_attention_probs_dropout_prob",
    "tt_attn_sublayers", "tv_attn_sublayers", "vt_attn_sublayers", "vv_attn_sublayers", "t_ff_sublayers",
    "v_ff_sublayers", "shared_sublayers", "single_ln_sublayers", "sublayer2attn_hidden_size",
    "sublayer2num_attention_heads", "sublayer2intermediate_size", "sublayer2v_attn_hidden_size",
    "sublayer2v_num_attention_heads", "sublayer2v_intermediate_size", "switch",
)  # fmt: skip

States = list[Tensor]


class VoltaSwitchEncoder(SwitchEncoder):
    """``SwitchEncoder`` with the signature of VOLTA's ``BertEncoder``.

    In training mode it counts the samples of every forward pass, of all ranks and replicas, so that the temperature
    anneals inside VOLTA's loop; the count lies in the state dict, so VOLTA's own checkpoints carry it. ``routes`` holds
    the routes of the latest pass, except under ``DataParallel``, whose replicas end with it.
    """

    rows_per_sample = 1  # pairs of text and image that make one sample: 4 of retrieval, 2 of NLVR2

    def __init__(self, config: Any):
        """``config``: VOLTA's ``BertConfig``."""
        super().__init__(encoder_config(config))
        self.routes: Routes | None = None
        self._replica_rows: list[int] = []  # DataParallel's replicas share it with this module

    def forward(  # type: ignore[override]
        self,
        text: Tensor,
        vision: Tensor,
        text_mask: Tensor,
        vision_mask: Tensor,
        output_all_encoded_layers: bool = True,
        output_all_attention_masks: bool = False,
    ) -> tuple[States, States, tuple[list[None], list[None]]]:
        """Returns lists that begin with the embeddings and end with the last states, zero at padding, as VOLTA does.

        Args:
            text, vision: embeddings (B, T, D) and (B, R, D).
            text_mask, vision_mask: (B, 1, 1, T or R), 0 at real positions and -10000 at padding.
            output_all_encoded_layers: also the states after every sublayer.
            output_all_attention_masks: accepted; the merged attention keeps no masks, each entry is None.

        Raises:
            UserError: in training, the temperature's floor is to come at a share of the run, whose length VOLTA's loop
                does not tell.
        """
        if self.training:
            _refuse_share(self.switch)
        layout = PackedLayout.of((text_mask[:, 0, 0] > -1, vision_mask[:, 0, 0] > -1))
        states = layout.text.pack(text), layout.vision.pack(vision)
        encoded = super().forward(states, layout, keep_all=output_all_encoded_layers)
        if encoded.routes is not None:
            self.routes = Routes(encoded.routes.modes.detach(), encoded.routes.inputs.detach())
        if self.training:
            self._replica_rows.append(len(text))
            if not getattr(self, "_is_replica", False):
                self.count_samples()
        masks: list[None] = [None] * (1 + len(self.layer) if output_all_attention_masks else 1)
        after = [
            layout.split(each) for each in (encoded.history[1:] if output_all_encoded_layers else [encoded.states])
        ]
        every_text = [text, *(layout.text.unpack(of_text) for of_text, _ in after)]
        every_vision = [vision, *(layout.vision.unpack(of_vision) for _, of_vision in after)]
        return every_text, every_vision, (masks, list(masks))

    def count_samples(self) -> None:
        """Adds the samples that passed since the last call to the temperature's count."""
        rows = sum(self._replica_rows)
        self._replica_rows.clear()
        self.switch_samples += rows // self.rows_per_sample * _ranks()

    def apply(self, fn: Callable[[nn.Module], None]) -> VoltaSwitchEncoder:
        """Applies ``fn``; after VOLTA's initialisation the switchers' options are equally probable again.

        VOLTA's task models initialise the encoder a second time, with random weights for every linear layer.
        """
        super().apply(fn)
        if getattr(fn, "__name__", "") == "init_weights":
            for module in self.modules():
                if isinstance(module, Switcher):
                    module.reset()
        return self


def encoder_config(config: Any) -> Config:
    """Returns this project's configuration of the encoder that VOLTA's ``BertConfig`` describes.

    Raises:
        UserError: the ``switch`` section or the sublayer lists are wrong.
    """
    given = vars(config)
    values = {name: given[name] for name in ENCODER_FIELDS if name in given}
    return load_config({**values, "fusion_method": "none"})  # VOLTA checks its poolers' sizes itself


def _refuse_share(switch: SwitchConfig) -> None:
    for name in ("anneal_share", "finetune_anneal_share"):
        share = getattr(switch, name)
        if share is not None:
            raise UserError(
                f"switch.{name} is {share:g}, but VOLTA's scripts do not tell how long a run is; expected null: set "
                "switch.anneal_rate to ln(start / floor) / (share x training samples of the run) in its place, start "
                f"and floor being switch.temperature (fine-tuning: finetune_temperature) and min_temperature"
            )


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


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
    """Takes the plug-in out again; models built before keep their encoders."""
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
