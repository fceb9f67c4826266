"""x"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from volta_switch import BertForVLPreTraining
from volta_switch.config import Config
from volta_switch.model.encoder import encoder_of

NUMBER = 4


@dataclass(frozen=True)
class Size:
    parameters: int
    sublayers: int
    word_table: int

    @classmethod
    def of(cls, config: Config) -> Size:
        with torch.device("meta"):
            model = BertForVLPreTraining(config)
        count = lambda module: sum(p.numel() for p in module.parameters())
        return cls(count(model), count(encoder_of(model).layer), config.vocab_size * config.hidden_size)


def ddp_bytes(size, processes):
    return 2 * (processes - 1) / processes * 4 * size.parameters


def fsdp_bytes(size, processes, parts=1):
    rest = size.parameters - size.sublayers
    return (processes - 1) / processes * 4 * (parts * (2 * size.sublayers + rest) + size.parameters)


@dataclass(frozen=True)
class Assumptions:
    utilisation: float = 0.4


def tables(a):
    return []
