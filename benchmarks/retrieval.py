"""Pairs per second of retrieval over all image-caption pairs, one model against VOLTA's, in turn, medians.

    [VOLTA_HOME=...] python benchmarks/retrieval.py --model ctrl_uniter_base [--dtype bfloat16]

The same captions (12 +- 4 word pieces and two specials, VOLTA pads them to 30) and images (36 regions and a global one)
on both sides, random weights, evaluation mode, hard routes. This project scores one image against captions of like
length; VOLTA, always in float32, one caption against many images, as its script does. Times are of the model alone; on
a CPU they are CPU seconds of this process.
"""

from __future__ import annotations

import os

import torch
from interleaved import Step, autocast, flags, in_turn, table
from torch import Tensor
from train_step import shortened, some_batch

from volta_switch import BertForVLTasks, load_config

SLOTS = 30  # of VOLTA's captions
TASKS = {"TASK8": {"type": "VL-logit", "process": "retrieval"}}


def main() -> None:
    """Make the pairs, score them in turn, print the table."""
    parser = flags(__doc__, batch=128, rounds=5)
    parser.add_argument("--model", default="ctrl_uniter_base")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    batch = {name: tensor.to(device) for name, tensor in some_batch(args.batch).items()}
    sides = {args.model: our_pairs(args.model, args.layers, batch, device, dtype)}
    if os.environ.get("VOLTA_HOME"):
        sides["VOLTA"] = volta_pairs(args.model, args.layers, batch, device)
    print(table(in_turn(sides, device, args.rounds), args.batch, args.model))


def our_pairs(name: str, layers: int, batch: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Step:
    """One image against captions, cut to the longest of them."""
    torch.manual_seed(0)
    model = BertForVLTasks(load_config(shortened(name, layers)), TASKS).to(device).eval()
    order = batch["attention_mask"].sum(1).argsort()
    longest = int(batch["attention_mask"].sum(1).max())
    inputs = {key: batch[key][order, :longest] for key in ("input_ids", "token_type_ids", "attention_mask")}
    for key in ("image_feat", "image_loc", "image_attention_mask"):
        inputs[key] = batch[key][:1].expand_as(batch[key])

    def step() -> Tensor:
        with torch.inference_mode(), autocast(device, dtype):
            return model("TASK8", **inputs).scores[:, 0].float().cpu()

    return step


def volta_pairs(name: str, layers: int, batch: dict[str, Tensor], device: torch.device) -> Step:
    """One caption against images, its 30 slots repeated for each."""
    from volta_switch.plugin import register
    from volta_switch.plugin.checkout import find_checkout, import_encoders, import_volta

    encoders = import_encoders(find_checkout())
    register()  # for a configuration with a switch section; any other is VOLTA's own
    torch.manual_seed(0)
    config = import_volta("config").BertConfig.from_dict(shortened(name, layers))
    model = encoders.BertForVLTasks(config, task_cfg=TASKS, task_ids=["TASK8"]).to(device).eval()
    words = batch["input_ids"][:1, :SLOTS].expand(len(batch["input_ids"]), -1)
    types, mask = torch.zeros_like(words), batch["attention_mask"][:1, :SLOTS].expand_as(words)
    images = (batch["image_feat"], batch["image_loc"])

    def step() -> Tensor:
        with torch.no_grad():
            return model(words, *images, "TASK8", types, mask, batch["image_attention_mask"])[0].view(-1).cpu()

    return step


if __name__ == "__main__":
    main()
