"""How much code runs from a batch to its loss: what a reader of the core path has to read.

Prints, for a training step's forward pass: the package's functions that run and their source lines (docstrings
included, by ``sys.setprofile``), the classes whose objects are made between the batch and the first attention, and
functions that take more than three arguments by position (autograd functions aside, which can take them in no other
way). The sizes of the model and the batch do not matter.

    python benchmarks/core_path.py                 # UNITER
    python benchmarks/core_path.py switchbert --list
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import volta_switch
from volta_switch import BertForVLPreTraining, Config, load_config
from volta_switch.data.batches.collate import Batch
from volta_switch.train.pretraining import Pretraining

SIZES = (
    "hidden_size=8", "v_hidden_size=8", "intermediate_size=8", "v_intermediate_size=8", "pooler_size=8",
    "v_pooler_size=8", "num_attention_heads=2", "v_num_attention_heads=2", "vocab_size=20", "v_feature_size=8",
)  # fmt: skip
PACKAGE = Path(volta_switch.__file__).parent
ATTENTION = "_Attend.forward"


@dataclass
class CorePath:
    """What ran: functions by their code, and the classes that were made before the first attention."""

    functions: list[CodeType] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """As ``sys.setprofile`` calls it."""
        code = frame.f_code
        if event != "call" or not str(frame.f_globals.get("__name__", "")).startswith(volta_switch.__name__):
            return
        made = type(frame.f_locals.get("self"))
        is_first = code.co_name == "__init__" and made not in self.classes
        if is_first and not any(ran.co_qualname == ATTENTION for ran in self.functions):
            self.classes.append(made)
        if Path(code.co_filename).is_relative_to(PACKAGE) and not code.co_name.startswith("<"):
            self.functions += [] if code in self.functions else [code]

    @property
    def lines(self) -> int:
        """Source lines of the functions, docstrings included."""
        return sum(len(inspect.getsourcelines(code)[0]) for code in self.functions)

    @property
    def positional(self) -> list[str]:
        """The functions that take more than three arguments by position, without ``self``."""
        found = []
        for code in self.functions:
            names = code.co_varnames[: code.co_argcount]
            count = len(names) - (names[:1] in (("self",), ("cls",)))
            if count > 3 and names[:1] != ("ctx",):
                found.append(f"{code.co_qualname} ({count})")
        return found


def measure(name: str) -> CorePath:
    """Returns what a training step of a configuration's model runs, forwards, the second time it is run."""
    config = load_config(name, sizes(name))
    learner = Pretraining(BertForVLPreTraining(config).train(), objective=0)
    found = CorePath()
    for profile in (None, found.note):
        run(profile, lambda: learner(batch_of(config).to("cpu")))
    return found


def sizes(name: str) -> list[str]:
    """Overrides that make a configuration small, as far as it has such fields apart."""
    own = [key for key in load_config(name).to_dict() if key.startswith("sublayer2")]
    return [*SIZES, *(f"{key}={{}}" for key in own)]


def run(profile: Callable[..., None] | None, step: Callable[[], Any]) -> None:
    """Runs a step, watched by a profile function."""
    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)


def batch_of(config: Config, B: int = 3, T: int = 6, boxes: int = 4) -> Batch:
    """Returns a batch with padding of both modalities, masked words and regions, and all labels."""
    R = boxes + (config.add_global_imgfeat is not None)
    text_mask = (torch.arange(T) < torch.arange(T, T - B, -1)[:, None]).long()
    image_mask = torch.ones(B, R, dtype=torch.long)
    image_mask[-1, 2] = 0
    labels = torch.full((B, T), -1)
    labels[:, 1] = 5
    image_label = torch.full((B, boxes), -1)
    image_label[:, 0] = 1
    inputs = {
        "input_ids": torch.randint(1, config.vocab_size, (B, T)) * text_mask,
        "token_type_ids": torch.zeros(B, T, dtype=torch.long),
        "attention_mask": text_mask,
        "image_feat": torch.randn(B, R, config.v_feature_size),
        "image_loc": torch.rand(B, R, config.num_locs),
        "image_attention_mask": image_mask,
        "masked_lm_labels": labels,
        "image_label": image_label,
        "image_cls": torch.rand(B, boxes, config.v_num_classes).softmax(-1),
        "next_sentence_label": torch.zeros(B, dtype=torch.long),
    }
    return Batch(inputs, None, [str(sample) for sample in range(B)])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="ctrl_uniter_base", help="a configuration's name or path")
    parser.add_argument("--list", action="store_true", help="also every function, with its lines")
    args = parser.parse_args(argv)
    found = measure(args.config)
    print(f"{args.config}: {len(found.functions)} functions, {found.lines} lines")
    made = ", ".join(each.__name__ for each in found.classes)
    print(f"{len(found.classes)} classes between the batch and the attention: {made}")
    print(f"more than three arguments by position: {', '.join(found.positional) or 'none'}")
    if args.list:
        for code in sorted(found.functions, key=lambda code: (code.co_filename, code.co_firstlineno)):
            path = Path(code.co_filename).relative_to(PACKAGE)
            print(f"{len(inspect.getsourcelines(code)[0]):4d} {path} {code.co_qualname}")


if __name__ == "__main__":
    main()
