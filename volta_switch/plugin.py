"""Switch-BERT inside an unmodified VOLTA checkout (github.com/e-bug/volta).

After ``register()``, a model that VOLTA builds from a configuration with a ``switch`` section has this project's
switched encoder in place of VOLTA's; every other configuration is untouched. VOLTA's files are not written to.

Legend: B batch, T text tokens, R regions, D hidden.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.config import Config, load_config
from volta_switch.errors import UserError
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import Routes, Switcher

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

CHECKOUT = "a checkout of github.com/e-bug/volta"
States = list[Tensor]
_undo: list[Callable[[], None]] = []  # what takes the plug-in out again; empty while it is not registered


class VoltaSwitchEncoder(SwitchEncoder):
    """``SwitchEncoder`` with the signature of VOLTA's ``BertEncoder``.

    In training mode it counts the samples of every forward pass, of all ranks, so that the temperature anneals inside
    VOLTA's loop; the count lies in the state dict, so VOLTA's own checkpoints carry it. Under ``DataParallel`` only the
    first replica's share of a batch is counted. ``routes`` holds the routes of the latest pass.
    """

    def __init__(self, config: Any):
        """``config``: VOLTA's ``BertConfig``."""
        super().__init__(encoder_config(config))
        self.routes: Routes | None = None

    def forward(  # type: ignore[override]
        self,
        text: Tensor,
        vision: Tensor,
        text_mask: Tensor,
        vision_mask: Tensor,
        output_all_encoded_layers: bool = True,
        output_all_attention_masks: bool = False,
    ) -> tuple[States, States, tuple[list[None], list[None]]]:
        """VOLTA's contract: lists that begin with the embeddings and end with the last states.

        Args:
            text, vision: (B, T, D) and (B, R, D) embeddings.
            text_mask, vision_mask: (B, 1, 1, T or R), 0 at real positions and -10000 at padding.
            output_all_encoded_layers: also the states after every sublayer.
            output_all_attention_masks: accepted; the merged attention keeps no masks, each entry is None.
        """
        encoded = super().forward(text, vision, text_mask, vision_mask, keep_all=output_all_encoded_layers)
        if encoded.routes is not None:
            self.routes = Routes(encoded.routes.modes.detach(), encoded.routes.inputs.detach())
        if self.training:
            self.switch_samples += len(text) * _ranks()
        masks: list[None] = [None] * (1 + len(self.layer) if output_all_attention_masks else 1)
        if output_all_encoded_layers:
            return encoded.all_text, encoded.all_vision, (masks, list(masks))
        return [text, encoded.text], [vision, encoded.vision], (masks, list(masks))

    def apply(self, fn: Callable[[nn.Module], None]) -> VoltaSwitchEncoder:
        """As ``nn.Module.apply``; after VOLTA's initialisation the switchers' options are equally probable again.

        VOLTA's task models initialise the encoder a second time, with random weights for every linear layer.
        """
        super().apply(fn)
        if getattr(fn, "__name__", "") == "init_weights":
            for module in self.modules():
                if isinstance(module, Switcher):
                    module.reset()
        return self


def encoder_config(config: Any) -> Config:
    """This project's configuration of the encoder that VOLTA's ``BertConfig`` describes.

    Raises:
        UserError: the ``switch`` section or the sublayer lists are wrong.
    """
    given = vars(config)
    values = {name: given[name] for name in ENCODER_FIELDS if name in given}
    return load_config({**values, "fusion_method": "none"})  # VOLTA checks its poolers' sizes itself


def register(home: str | Path | None = None) -> None:
    """Puts the switched encoder into VOLTA; a second call changes nothing.

    Args:
        home: a checkout of VOLTA, added to ``sys.path``; by default ``VOLTA_HOME`` from the environment, which is
            needed only where VOLTA cannot be imported without it.

    Raises:
        UserError: no VOLTA can be imported, or another package of that name is found (PyPI's ``volta`` is one).
    """
    if _undo:
        return
    encoders = _import_encoders(home)
    _wrap_model(encoders)
    _wrap_from_pretrained(encoders)


def unregister() -> None:
    """Takes the plug-in out again; models that were built keep their encoders."""
    while _undo:
        _undo.pop()()


def _wrap_model(encoders: ModuleType) -> None:
    # Rebinding volta.encoders.BertEncoder would break its own super(BertEncoder, self) call.
    original = encoders.BertModel.__init__

    @functools.wraps(original)
    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, config, *args, **kwargs)
        if getattr(config, "switch", None) is not None:
            self.encoder = VoltaSwitchEncoder(config)
            self.encoder.apply(self.init_weights)

    encoders.BertModel.__init__ = init
    _undo.append(lambda: setattr(encoders.BertModel, "__init__", original))


def _wrap_from_pretrained(encoders: ModuleType) -> None:
    # METHOD: the temperature starts anew, lower, whenever fine-tuning begins from another run's weights. A resumed run
    # loads its own state afterwards and goes on where it was.
    tasks = encoders.BertForVLTasks

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = super(tasks, cls).from_pretrained(*args, **kwargs)  # None where VOLTA finds no file
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        encoder = switch_encoder(model) if model is not None else None
        if encoder is not None:
            encoder.start_annealing(encoder.switch.finetune_temperature)
        return loaded

    tasks.from_pretrained = classmethod(from_pretrained)
    _undo.append(lambda: delattr(tasks, "from_pretrained"))


def _import_encoders(home: str | Path | None) -> ModuleType:
    """The module ``volta.encoders`` of VOLTA."""
    folder = home or os.environ.get("VOLTA_HOME")
    if folder and (home or not _holds_encoders(_package_folders())):
        _add_to_path(Path(folder).expanduser().resolve())
    found = _package_folders()
    if not found:
        raise UserError(f"VOLTA cannot be imported: set VOLTA_HOME to {CHECKOUT}")
    elsewhere = home and Path(home, "volta").expanduser().resolve() not in [place.resolve() for place in found]
    if elsewhere or not _holds_encoders(found):
        raise UserError(
            f"{found[0]}: another package named volta is found here first; set VOLTA_HOME to {CHECKOUT} and uninstall "
            "the other"
        )
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the checkout stays as it is
    try:
        encoders = importlib.import_module("volta.encoders")
    except Exception as error:  # whatever VOLTA's own imports raise on this machine
        reason = " ".join(str(error).split())
        raise UserError(f"{found[0]}: VOLTA cannot be imported ({reason}); install what it needs") from error
    finally:
        sys.dont_write_bytecode = writes
    lost = [name for name in ("BertModel", "BertForVLPreTraining", "BertForVLTasks") if not hasattr(encoders, name)]
    if lost:
        raise UserError(f"{found[0]}: volta.encoders has no {lost[0]}; expected {CHECKOUT}")
    return encoders


def _add_to_path(folder: Path) -> None:
    if not _holds_encoders([folder / "volta"]):
        raise UserError(f"VOLTA_HOME {folder}: holds no volta/encoders.py; expected {CHECKOUT}")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def _package_folders() -> list[Path]:
    """Where the package ``volta`` would be imported from; it is not run."""
    try:
        spec = importlib.util.find_spec("volta")
    except ValueError:  # a module without a spec stands in its place
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []


def _holds_encoders(folders: list[Path]) -> bool:
    return any((folder / "encoders.py").is_file() for folder in folders)


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
