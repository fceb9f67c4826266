"""Model configurations: VOLTA's JSON schema, plus one section ``switch`` for Switch-BERT."""

from volta_switch.config.checks import attention_size, intermediate_size, static_mode
from volta_switch.config.loading import find_config, load_config
from volta_switch.config.schema import Config, SwitchConfig
from volta_switch.config.variants import ATTENTION_MODES, AttentionMode

__all__ = [
    "ATTENTION_MODES",
    "AttentionMode",
    "Config",
    "SwitchConfig",
    "attention_size",
    "find_config",
    "intermediate_size",
    "load_config",
    "static_mode",
]
