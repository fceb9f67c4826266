"""Switch-BERT beside UNITER, ViLBERT, LXMERT, VL-BERT, VisualBERT and InterBERT, under identical settings."""

from volta_switch.config import Config, SwitchConfig, load_config
from volta_switch.errors import UserError
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
