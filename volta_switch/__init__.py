"""Switch-BERT beside UNITER, ViLBERT, LXMERT, VL-BERT, VisualBERT and InterBERT, under identical settings.

The models are imported when they are asked for: what needs no tensors (flags, ``--help``, a look at what is missing)
does not wait for PyTorch.
"""

from typing import TYPE_CHECKING

from volta_switch.config import Config, SwitchConfig, load_config
from volta_switch.errors import UserError
from volta_switch.lazy import lazy_names

if TYPE_CHECKING:
    from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks, Output
    from volta_switch.model.switch import Routes

__version__ = "0.1.0"

__all__ = [
    "BertForVLPreTraining",
    "BertForVLTasks",
    "Config",
    "Output",
    "Routes",
    "SwitchConfig",
    "UserError",
    "load_config",
]

_MODELS = dict.fromkeys(("BertForVLPreTraining", "BertForVLTasks", "Output"), "volta_switch.model.bert")
__getattr__ = lazy_names(__name__, {**_MODELS, "Routes": "volta_switch.model.switch"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
