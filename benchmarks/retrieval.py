"""Pairs per second of retrieval over all image-caption pairs: models against one another, in turn, medians.

    [VOLTA_HOME=...] python benchmarks/retrieval.py --model ctrl_uniter_base --against volta [--dtype bfloat16]
    python benchmarks/retrieval.py --model switchbert --planted SC --against expanded

A pool of captions (12 +- 4 word pieces and two specials, in 38 slots) and images (36 regions and a global one), random
weights, evaluation mode, hard routes. A step is one block of ``--batch`` pairs, cut as the evaluation cuts them:
captions of like length with a few images. All sides score the same block in a round; the rounds' blocks are spread from
the shortest captions to the longest. A sample is a pair.

``volta`` is VOLTA's own model (for Switch-BERT, which it lacks, its UNITER), with this project's weights, in float32
unless ``--volta-dtype`` differs. It gets the same pairs as its eval_retrieval.py does, one row for each with all 38
slots. ``expanded`` is this project's model given one row for each pair, as in training.

``--planted`` sets the switchers so that every pair takes the same routes: ``SS`` in the lower half of the layers;
``SC`` (text attends to itself alone) or ``CS`` (vision does) in all but the upper sixth; joint in the rest, and in all
layers without the flag: random switchers, whose options are equally probable, would take the first one throughout.

Useful work is what this project executes for the same model; utilisation is as in ``train_step.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from interleaved import (
    Ceiling,
    Step,
    add_measures,
    add_volta,
    flags,
    giving_back,
    in_turn,
    peak,
    peak_apart,
    table,
    utilisation,
)
from torch import Tensor
from train_step import UNITER, in_rounds, shortened

from volta_switch import BertForVLTasks, load_config
from volta_switch.command import run_command
from volta_switch.cost.counts import SLOTS, some_batch
from volta_switch.cost.executed import count_flops
from volta_switch.data.batches.collate import on_device
from volta_switch.errors import UserError
from volta_switch.model.bert import switch_encoder
from volta_switch.model.pairs import expand_pairs, score_pairs
from volta_switch.tasks.retrieval_scores import block_sides
from volta_switch.train.device import autocast

TASKS = {"TASK8": {"type": "VL-logit", "process": "retrieval"}}
PLANTED = ("SS", "SC", "CS")
Tensors = dict[str, Tensor]
Block = tuple[Tensors, Tensors]  # captions, images
Score = Callable[[Tensors, Tensors], Tensor]


def main(argv: Sequence[str]) -> None:
    """Build all sides, score the blocks in turn, print the table."""
    parser = flags(__doc__, batch=128, rounds=8)
    add_measures(parser)
    add_volta(parser, "float32")
    parser.add_argument("--model", default=UNITER, help="a configuration of this project")
    parser.add_argument("--against", nargs="+", choices=("volta", "expanded", "none"), default=["none"])
    parser.add_argument("--planted", choices=PLANTED, help="routes that all pairs take; needs a switched model")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    every = some_blocks(args.captions, args.images, args.batch, device)
    count = min(len(every), args.rounds * args.steps)
    blocks = [every[(2 * number + 1) * len(every) // (2 * count)] for number in range(count)]
    makers = sides_of(args, device)
    by_default = giving_back(makers, args)
    if args.peak_of:
        print(peak(lambda: step_of(makers[args.peak_of](), blocks), device, args.peak_of in by_default))
        return
    scores = {name: make() for name, make in makers.items()}
    for name in [name for name in scores if name in (f"{args.model}, expanded", f"VOLTA {args.model}")]:
        print(f"{name}: scores equal to {difference(scores[name], scores[args.model], blocks[0]):.1e} of their spread")
    pairs = expand_pairs(*blocks[count // 2])
    rows = int(pairs["attention_mask"].sum() + pairs["image_attention_mask"].sum())
    sizes = shortened(args.model, args.layers)
    ceiling = Ceiling(rows, sizes["hidden_size"], sizes["intermediate_size"], device, dtype)
    warm_up = count if device.type == "cuda" else 1
    times = in_turn(
        {name: step_of(score, blocks) for name, score in scores.items()},
        device,
        args.rounds,
        at_once=args.steps,
        warm_up=warm_up,
        around=ceiling,
        by_default=by_default,
    )
    work = [float(count_flops(partial(scores[args.model], *block))) for block in blocks]
    done = in_rounds(work, args.rounds, args.steps, warm_up)
    further = {
        "GFLOP": dict.fromkeys(scores, f"{sum(done) / len(done) / 1e9:.1f}"),
        "% of ceiling": {name: utilisation(done, taken, ceiling) for name, taken in times.items()},
    }
    if args.memory:
        further["peak GiB"] = {name: peak_apart(name) for name in scores}
    captions, images = len(blocks[0][0]["input_ids"]), len(blocks[0][1]["image_feat"])
    print(f"blocks of {captions} captions with {images} images; ceiling in {args.dtype}: {ceiling}")
    print(table(times, captions * images, args.model, further))


def sides_of(args: Any, device: torch.device) -> dict[str, Callable[[], Score]]:
    """What makes each side's scores, by name.

    Raises:
        UserError: planted routes of a model without switchers.
    """
    dtype, volta_dtype = getattr(torch, args.dtype), getattr(torch, args.volta_dtype)
    values = shortened(args.model, args.layers)
    if args.planted and "switch" not in values:
        raise UserError(f"--planted: {args.model} has no routes; choose a model with a switch section")
    build = partial(our_model, values, args.planted, device)
    sides: dict[str, Callable[[], Score]] = {args.model: lambda: partial(shared, build(), dtype)}
    if "expanded" in args.against:
        sides[f"{args.model}, expanded"] = lambda: partial(expanded, build(), dtype)
    if "volta" in args.against:
        counterpart = UNITER if "switch" in values else args.model
        same = shortened(counterpart, args.layers)
        sides[f"VOLTA {counterpart}"] = lambda: partial(in_volta, volta_model(same, device), volta_dtype)
    return sides


def some_blocks(captions: int, images: int, batch: int, device: torch.device) -> list[Block]:
    """Make a pool and cut it as the evaluation does, the shortest captions first; no block is smaller.

    Raises:
        UserError: the pool is smaller than a block.
    """
    c, i = block_sides(batch)
    if captions < c or images < i:
        raise UserError(f"--captions {captions} --images {images}: a block has {c} captions and {i} images")
    pool = some_batch(max(captions, images))
    order = pool["attention_mask"][:captions].sum(1).argsort(stable=True)
    blocks = []
    for first, image in itertools.product(range(0, captions - c + 1, c), range(0, images - i + 1, i)):
        chosen = order[first : first + c]
        longest = int(pool["attention_mask"][chosen].sum(1).max())
        texts = {key: pool[key][chosen, :longest] for key in ("input_ids", "token_type_ids", "attention_mask")}
        some = slice(image, image + i)
        regions = {key: pool[key][some] for key in ("image_feat", "image_loc", "image_attention_mask")}
        blocks.append((on_device(texts, device), on_device(regions, device)))  # masks stay where the models read them
    return blocks


def step_of(score: Score, blocks: Sequence[Block]) -> Step:
    """Score the block of a number, and have its scores on the host."""
    return lambda number: score(*blocks[number % len(blocks)]).cpu()


def difference(score: Score, other: Score, block: Block) -> float:
    """The largest difference of two sides' scores of a block, for a spread (standard deviation) of 1."""
    found, expected = score(*block), other(*block)
    return float((found - expected).abs().max() / expected.std())


def our_model(values: dict[str, Any], planted: str | None, device: torch.device) -> BertForVLTasks:
    """Make this project's model, its routes planted where that is asked for."""
    torch.manual_seed(0)
    model = BertForVLTasks(load_config(values), TASKS).to(device).eval()
    encoder = switch_encoder(model)
    if encoder is None:
        return model
    below = encoder.depth // 2 if planted == "SS" else encoder.depth - max(1, encoder.depth // 6)
    with torch.no_grad():
        for layer, switcher in enumerate(encoder.attention_switch):
            mode = planted if planted and layer < below else "J"
            switcher.options.bias[encoder.switch.modes.index(mode)] = 9.0
        for switcher in encoder.input_switch:
            switcher.options.bias[0] = 9.0
    return model


def shared(model: BertForVLTasks, dtype: torch.dtype, texts: Tensors, images: Tensors) -> Tensor:
    """Scores of a block, (c, i), what depends on one modality alone being computed once."""
    with autocast(texts["input_ids"].device, dtype):
        return score_pairs(model, texts, images, "TASK8")


def expanded(model: BertForVLTasks, dtype: torch.dtype, texts: Tensors, images: Tensors) -> Tensor:
    """The same by the model given every pair."""
    with torch.inference_mode(), autocast(texts["input_ids"].device, dtype):
        scores = model("TASK8", **expand_pairs(texts, images)).scores
        assert scores is not None
        return scores.float().view(len(texts["input_ids"]), -1)


def volta_model(values: dict[str, Any], device: torch.device) -> torch.nn.Module:
    """Make VOLTA's model with the weights that this project's has."""
    from volta_switch.plugin.checkout import find_checkout, import_encoders, import_volta

    encoders = import_encoders(find_checkout())
    config = import_volta("config").BertConfig.from_dict(values)
    model = encoders.BertForVLTasks(config, task_cfg=TASKS, task_ids=["TASK8"])
    model.load_state_dict(our_model(values, None, torch.device("cpu")).state_dict())
    return model.to(device).eval()


def in_volta(model: torch.nn.Module, dtype: torch.dtype, texts: Tensors, images: Tensors) -> Tensor:
    """Scores of a block by VOLTA's model, texts padded to all slots."""
    pairs = expand_pairs(texts, images)
    more = (0, SLOTS - texts["input_ids"].shape[1])
    words, types, mask = (
        torch.nn.functional.pad(pairs[key], more) for key in ("input_ids", "token_type_ids", "attention_mask")
    )
    masks = (tensor.to(words.device) for tensor in (mask, pairs["image_attention_mask"]))
    given = words, pairs["image_feat"], pairs["image_loc"], "TASK8", types, *masks
    with torch.no_grad(), autocast(words.device, dtype):
        return model(*given)[0].float().view(len(texts["input_ids"]), -1)


if __name__ == "__main__":
    run_command(main)
