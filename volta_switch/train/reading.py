"""How the entry points read data once their flags are read: a task's options, and the tokenizer."""

from __future__ import annotations

import argparse

import torch

from volta_switch.config import Config
from volta_switch.data.tokenizer import Tokenizer, check_vocab_size
from volta_switch.errors import UserError
from volta_switch.tasks import DataOptions
from volta_switch.train.ranks import Ranks


def data_options(
    args: argparse.Namespace,
    device: torch.device,
    features: str,
    num_workers: int | None = None,
    ranks: Ranks | None = None,
) -> DataOptions:
    """How a task's data are read, by the flags; ``features`` and ``num_workers`` where given replace what they say."""
    return DataOptions(
        pin_memory=device.type == "cuda",
        rank=0 if ranks is None else ranks.number,
        ranks=1 if ranks is None else ranks.count,
        parts=getattr(args, "accumulate", 1),
        seed=args.seed,
        num_workers=args.num_workers if num_workers is None else num_workers,
        in_memory=args.in_memory,
        features=features,
        boxes=args.boxes,
        volta_compat=args.volta_compat,
        max_bad_records=args.max_bad_records,
        worker_timeout=getattr(args, "worker_timeout", 0.0),
        data_fraction=getattr(args, "data_fraction", 1.0),
        data_fraction_seed=getattr(args, "data_fraction_seed", 0),
    )


def load_tokenizer(config: Config, max_seq_length: int) -> Tokenizer:
    """The configuration's tokenizer, checked against its vocabulary size and the longest text that it may be given."""
    if not 2 < max_seq_length <= config.max_position_embeddings:
        raise UserError(
            f"max_seq_length is {max_seq_length}, expected 3 to {config.max_position_embeddings}, the model's "
            "max_position_embeddings; change one of them"
        )
    tokenizer = Tokenizer(config.bert_model, config.do_lower_case)
    check_vocab_size(tokenizer, config.vocab_size)
    return tokenizer
