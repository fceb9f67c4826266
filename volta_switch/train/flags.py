"""The flags of the four entry points: VOLTA's, with METHOD's hyperparameters as defaults, and this project's own.

Every flag stands once, under one heading of the help. Nothing here imports PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from volta_switch.config.model_folder import TASKS
from volta_switch.flag_parser import FlagParser
from volta_switch.ranges import (
    ADAM_BETA,
    ADAM_EPSILON,
    ANY_TEXT,
    BATCH_SIZE,
    COUNT,
    COUNT_OR_NONE,
    EPOCHS,
    GRADIENT_NORM,
    LEARNING_RATE,
    PART,
    PATH,
    POOL_IMAGES,
    PROBABILITY,
    PROCESSES,
    SECONDS,
    SEED,
    SHARE,
    WARMUP_PROPORTION,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    WORDS,
    Choice,
    Number,
    Spelling,
    Text,
    Truth,
)
from volta_switch.tasks.task import Share

# The headings of the help, in their order.
DATA, MODEL, TRAINING, EVALUATION, MACHINE, RESULTS, ACCEPTED = HEADINGS = (
    "data",
    "model",
    "training",
    "evaluation",
    "precision and devices",
    "checkpoints and results",
    "accepted for VOLTA's scripts",
)
# Flags that VOLTA's scripts take and that mean nothing here; accepted so that its command lines run unchanged. A run
# that is given one says so (``flag_values.print_ineffective_settings``).
WITHOUT_EFFECT = {
    "local_rank": "set by torchrun's environment",
    "distributed": "set by torchrun's environment",
    "cache": "samples are shuffled over the whole epoch",
    "adam_correct_bias": "AdamW is always bias-corrected",
    "use_chunk": "VOLTA does not read it, either",
    "num_subiters": "images are batched by --batch_size",
    "caps_per_image": "read from the annotations",
    "drop_last": "every sample counts",
    "eval_steps": "validation follows every epoch",
    "max_val_batches": "the whole split is validated",
    "save_every_num_epochs": "every epoch's weights are kept, or with --save_best_only the best",
}
PRECISIONS = ("fp32", "bf16", "fp16")
# Flags of VOLTA's that would change what is computed, with the only value supported here.
FIXED = {"optim": "AdamW", "lr_scheduler": "warmup_linear", "loss": "", "is_m3p": ""}
OBJECTIVES = {
    0: "masked words and regions, matching",
    1: "the same, without masked losses for mismatched pairs (the paper's)",
    2: "masked words and regions; no mismatched pairs, no matching",
}


def _saving(text: str) -> tuple[int, float]:
    """Returns optimiser steps and minutes between checkpoints; 0: not by these."""
    if text.endswith("m"):
        return 0, Number(0.0, 1e6).spelt(text[:-1])
    return COUNT_OR_NONE.spelt(text), 0.0


def _share_of_pairs(text: str) -> Share:
    number, count = PART.spelt(text)
    return Share(number - 1, count)


def _whole_epochs(text: str) -> int:
    value = float(text)  # VOLTA's scripts write 10.0
    if not value.is_integer():
        raise ValueError
    return EPOCHS.read(int(value))  # type: ignore[no-any-return]


SAVING = Spelling("steps (500) or minutes (30m)", _saving)
SHARD = Spelling(PART.expected, _share_of_pairs)
WHOLE_EPOCHS = Spelling(EPOCHS.expected, _whole_epochs)


def parser(
    description: str, seed: int, work: str, add_data_flags: Callable[[FlagParser], None] = lambda flags: None
) -> FlagParser:
    """Makes a parser with the flags that all four entry points have.

    Args:
        description: what the entry point does, for the help.
        seed: the default of ``--seed``.
        work: the heading of the flags of the work itself, ``TRAINING`` or ``EVALUATION``.
        add_data_flags: adds the flags by which data are found; they stand before those of how data are read.
    """
    flags = FlagParser(description=description)
    for heading in HEADINGS:
        flags.group(heading)
    add_data_flags(flags)
    _add_reading_flags(flags)
    model, machine, output = (flags.group(heading) for heading in (MODEL, MACHINE, RESULTS))
    named = "a name in config/, a path, a folder or hf://owner/name; default: --from_pretrained's, else switchbert"
    model.add_argument("--config_file", "--config", type=PATH, default=None, help=named)
    model.add_argument(
        "--set", action="append", type=Text(), default=[], metavar="KEY=VALUE", help="override a field of it"
    )
    start = "a run's folder, hf://owner/name, a file of weights, a BERT (folder or hub name), or '' for random weights"
    model.add_argument("--from_pretrained", type=ANY_TEXT, default="", help=start)
    output.add_argument("--output_dir", type=PATH, default="checkpoints", help="run folders are made here")
    output.add_argument("--save_name", type=ANY_TEXT, default="", help="appended to the run folder's name")
    discard = "discard the results that the folder holds; without it they are kept, and the command ends"
    output.add_argument("--overwrite", action="store_true", help=discard)
    fixes = "fixes initial weights, order, masks and noise"
    flags.group(work).add_argument("--seed", type=SEED, default=seed, help=fixes)
    machine.add_argument("--device", type=ANY_TEXT, default="auto", help="auto, cpu, cuda or cuda:<n>")
    machine.add_argument("--precision", default="auto", choices=(*PRECISIONS, "auto"), help="auto: bf16 on CUDA")
    machine.add_argument("--threads", type=PROCESSES, default=0, help="CPU threads; 0 leaves PyTorch's default")
    machine.add_argument("--num_workers", type=PROCESSES, default=0, help="loader processes; 0 reads in this process")
    _add_accepted_flags(flags)
    return flags


def _add(group: argparse._ArgumentGroup, name: str, **settings: Any) -> None:
    """Adds a flag that may be spelt with ``-`` and, as VOLTA's flags are, with ``_``."""
    group.add_argument(name, f"--{name[2:].replace('-', '_')}", **settings)


def _add_reading_flags(flags: FlagParser) -> None:
    """Adds how data are read, whichever they are."""
    data = flags.group(DATA)
    bad = "records that cannot be used and are passed over, counted and reported, before the run is stopped"
    _add(data, "--max-bad-records", type=COUNT_OR_NONE, default=0, help=bad)
    compat = "VOLTA's data with its known errors, to compare with published numbers (docs/volta-differences.md)"
    _add(data, "--volta-compat", action="store_true", help=compat)
    data.add_argument("--in_memory", nargs="?", const=True, default=False, type=Truth(), help="keep images decoded")


def _add_accepted_flags(flags: FlagParser) -> None:
    """Adds VOLTA's flags that do nothing here, and those of which one value alone is supported."""
    accepted = flags.group(ACCEPTED)
    accepted.description = "so that VOLTA's command lines run unchanged; there is no need to give any"
    settings: dict[str, Any] = {"nargs": "?", "metavar": "VALUE", "default": argparse.SUPPRESS}
    for name, reason in WITHOUT_EFFECT.items():
        accepted.add_argument(f"--{name}", type=ANY_TEXT, help=f"ignored: {reason}", **settings)
    for name, value in FIXED.items():
        only = f"the only choice: {value}" if value else "not supported"
        accepted.add_argument(f"--{name}", type=Choice(value), help=only, **settings)


def add_training_flags(flags: FlagParser, weight_decay: float, clip_grad_norm: float) -> None:
    """Adds the flags of the two training entry points."""
    flags.set_defaults(from_pretrained="bert-base-uncased")
    deeper = "leave out layers of a BERT that the model's configuration has no place for; refused otherwise"
    _add(flags.group(MODEL), "--allow-deeper-bert", action="store_true", help=deeper)
    fraction = (
        "train on this share of the samples, 0 < share <= 1: the same samples for every model and --seed; "
        "negatives of retrieval come from all images of the split"
    )
    data, training = flags.group(DATA), flags.group(TRAINING)
    _add(data, "--data-fraction", type=SHARE, default=1.0, help=fraction)
    _add(data, "--data-fraction-seed", type=SEED, default=0, help="draws the share")
    warm = "share of all optimiser steps in which the learning rate rises"
    training.add_argument("--warmup_proportion", type=WARMUP_PROPORTION, default=0.1, help=warm)
    training.add_argument("--warmup_steps", type=WARMUP_STEPS, default=None, help="overrides --warmup_proportion")
    training.add_argument("--adam_epsilon", type=ADAM_EPSILON, default=1e-6, help="of AdamW")
    training.add_argument("--adam_betas", type=ADAM_BETA, nargs=2, default=(0.9, 0.999), help="of AdamW")
    spared = "of AdamW; none on biases and LayerNorm"
    training.add_argument("--weight_decay", type=WEIGHT_DECAY, default=weight_decay, help=spared)
    norm = "the largest norm of all gradients together; 0: any"
    training.add_argument("--clip_grad_norm", type=GRADIENT_NORM, default=clip_grad_norm, help=norm)
    stop = (
        "end after so many optimiser steps, with validation and weights, as if somebody had stopped the run there: the "
        "schedule stays that of all epochs, and --resume goes on with more steps or all; 0: train all epochs"
    )
    _add(training, "--max-steps", type=COUNT_OR_NONE, default=0, metavar="N", help=stop)
    skipped = "optimiser steps left out because a loss or gradient was not finite, before the run is stopped"
    _add(training, "--max-skipped-steps", type=COUNT_OR_NONE, default=10, help=skipped)
    _add_checkpoint_flags(flags)
    _add_division_flags(flags)


def _add_checkpoint_flags(flags: FlagParser) -> None:
    """Adds what training writes beside the results, and how it goes on from there."""
    output = flags.group(RESULTS)
    resume = "go on from the run folder's newest checkpoint, or start where there is none"
    output.add_argument("--resume", action="store_true", help=resume)
    one = "go on from this checkpoint, a folder checkpoints/step-…"
    output.add_argument("--resume_file", type=ANY_TEXT, default="", help=one)
    every = (
        "write a checkpoint every so many optimiser steps (500) or minutes (30m), beside those at epochs' ends; 0: none"
    )
    _add(output, "--save-every", type=SAVING, default="30m", metavar="N|Nm", help=every)
    _add(output, "--keep-checkpoints", type=COUNT, default=2, help="how many of the newest checkpoints are kept")
    output.add_argument("--save_best_only", action="store_true", help="do not keep every epoch's weights")
    output.add_argument("--logdir", type=PATH, default="logs", help="TensorBoard's folder")
    _add(output, "--log-every", type=COUNT, default=20, metavar="N", help="optimiser steps of a line")
    _add(output, "--log-ids", action="store_true", help="write every step's samples down")


def _add_division_flags(flags: FlagParser) -> None:
    """Adds how an optimiser step is computed and divided; torchrun starts several processes."""
    machine = flags.group(MACHINE)
    late = "seconds without a batch from the loader's processes, after which the run is stopped; 0: wait for ever"
    _add(machine, "--worker-timeout", type=SECONDS, default=600, help=late)
    parts = "parts, one after the other, that each process's share of a batch is divided into"
    machine.add_argument("--gradient_accumulation_steps", dest="accumulate", type=COUNT, default=1, help=parts)
    machine.add_argument("--fsdp", action="store_true", help="divide the model, too, among the processes (FSDP2)")
    exact = (
        "dropout and Gumbel noise by seed, epoch, sample and layer, so that the same is learnt however a step is "
        "divided; takes more time"
    )
    machine.add_argument("--deterministic", action="store_true", help=exact)
    again = "compute each layer again in the backward pass rather than keep its activations"
    _add(machine, "--gradient-checkpointing", action="store_true", help=again)
    machine.add_argument("--compile", action="store_true", help="compile the layers (torch.compile); slow to start")


def _add_task_flags(flags: FlagParser) -> None:
    """Adds the flags of the entry points that read a task file."""
    data = flags.group(DATA)
    which = "number, key or name: 10, TASK10, refcoco+; default: the model's"
    data.add_argument("--task", type=ANY_TEXT, default="", help=which)
    file = f"VOLTA's task file; default: {TASKS}, in which the model's own task has the model's settings"
    data.add_argument("--tasks_config_file", type=PATH, default=None, help=file)
    root = (
        "the folder in which the task file's relative paths begin; default: a synthetic world's own, else the working "
        "directory or the task file's folder, whichever has them"
    )
    data.add_argument("--data_root", "--data-root", type=ANY_TEXT, default="", help=root)
    for split in ("train", "val"):
        names = "overrides the task file's (retrieval, NLVR2, SNLI-VE)"
        data.add_argument(f"--{split}_annotations_jsonpath", type=ANY_TEXT, default="", help=names)
    data.add_argument("--val_features_lmdbpath", type=ANY_TEXT, default="", help="overrides the task file's")
    boxes = "referring expressions: the detector's boxes, or the annotated ones of features_h5path2"
    data.add_argument("--boxes", choices=("detected", "gt"), default="detected", help=boxes)
    workers = "loader processes of validation and test; default: as many as --num_workers"
    flags.group(MACHINE).add_argument("--num_val_workers", type=PROCESSES, default=None, help=workers)


def _add_pair_flags(flags: FlagParser) -> None:
    """Adds where image-caption pairs are found."""
    data = flags.group(DATA)
    root = "datasets/conceptual_captions"
    captions = "the folder of caption_train.json and caption_valid.json"
    data.add_argument("--annotations_path", type=PATH, default=f"{root}/annotations", help=captions)
    features = (
        "the folder of training_feat_all.lmdb and validation_feat_all.lmdb; or shards, in a folder or at https://, "
        "s3://, ..."
    )
    found = f"{root}/resnet101_faster_rcnn_genome_imgfeats/volta"
    data.add_argument("--features_path", type=PATH, default=found, help=features)
    cache = "where shards that are fetched are kept; default: a folder below $XDG_CACHE_HOME or the temporary folder"
    data.add_argument("--shard_cache", type=ANY_TEXT, default="", help=cache)
    size = "the largest size of --shard_cache, in GiB"
    data.add_argument("--shard_cache_gib", type=Number(0.0, 1e6, above=True), default=16.0, help=size)
    data.add_argument("--max_seq_length", type=WORDS, default=38, help="word pieces, [CLS] and [SEP] included")


def pretraining_flags() -> FlagParser:
    """Makes the parser of ``train_concap.py``."""
    flags = parser("Pre-trains one model on Conceptual Captions.", 42, TRAINING, _add_pair_flags)
    training = flags.group(TRAINING)
    training.add_argument("--num_train_epochs", type=WHOLE_EPOCHS, default=10, metavar="N", help="epochs to train")
    training.add_argument("--train_batch_size", type=BATCH_SIZE, default=256, help="samples per optimiser step")
    training.add_argument("--learning_rate", type=LEARNING_RATE, default=1e-4, help="the highest learning rate")
    objectives = "; ".join(f"{number}: {what}" for number, what in OBJECTIVES.items())
    training.add_argument("--objective", type=Choice(*OBJECTIVES), default=1, help=objectives)
    masking = "span: InterBERT's segments"
    training.add_argument("--masking", default="volta", choices=("volta", "span"), help=masking)
    add_training_flags(flags, weight_decay=0.01, clip_grad_norm=5.0)
    return flags


def finetuning_flags() -> FlagParser:
    """Makes the parser of ``train_task.py``."""
    flags = parser("Fine-tunes one model on one task.", 0, TRAINING, _add_task_flags)
    data, training = flags.group(DATA), flags.group(TRAINING)
    for split in ("train", "val"):
        data.add_argument(f"--{split}_split", type=ANY_TEXT, default="", help="another split than the task file's")
    features = "another feature file than the task file's"
    data.add_argument("--train_features_lmdbpath", type=ANY_TEXT, default="", help=features)
    training.add_argument("--num_epoch", type=EPOCHS, default=None, help="overrides the task file's")
    training.add_argument("--optim_train_epochs", type=EPOCHS, default=None, help="epochs the schedule is made for")
    training.add_argument("--batch_size", type=BATCH_SIZE, default=None, help="overrides the task file's")
    training.add_argument("--eval_batch_size", type=BATCH_SIZE, default=None, help="overrides the task file's")
    training.add_argument("--lr", type=LEARNING_RATE, default=None, help="overrides the task file's")
    prior = "probability that the head's outputs start from; VOLTA starts at 0.5, rare answers learn faster from less"
    training.add_argument("--head_prior", type=PROBABILITY, default=0.5, help=prior)
    add_training_flags(flags, weight_decay=1e-4, clip_grad_norm=1.0)
    return flags


def evaluation_flags(description: str = "Evaluates one model on one task.", batch_size: int = 256) -> FlagParser:
    """Makes the parser of ``eval_task.py``, on which other evaluations build."""
    flags = parser(description, 42, EVALUATION, _add_task_flags)
    flags.set_defaults(output_dir="results", zero_shot=False)
    split = "default: the task file's validation split"
    flags.group(DATA).add_argument("--split", type=ANY_TEXT, default="", help=split)
    flags.group(EVALUATION).add_argument("--batch_size", type=BATCH_SIZE, default=batch_size, help="samples at once")
    routing = "how Switch-BERT's routes are read"
    flags.group(EVALUATION).add_argument("--routing", default="hard", choices=("hard", "soft"), help=routing)
    return flags


def retrieval_flags() -> FlagParser:
    """Makes the parser of ``eval_retrieval.py``."""
    flags = evaluation_flags("Evaluates image-text retrieval over all pairs.", batch_size=128)
    zero_shot = "score pairs by the pre-training matching head"
    flags.group(EVALUATION).add_argument("--zero_shot", action="store_true", help=zero_shot)
    pools = (
        "rank within pools of N images, in the order of the annotations, and score the pairs within them alone; "
        "overrides the task file's; default: the split is one pool"
    )
    flags.group(EVALUATION).add_argument("--pool_images", type=POOL_IMAGES, default=None, metavar="N", help=pools)
    shard = "score the K-th of N shares of the pairs alone; a run without it takes what is there and writes the results"
    flags.group(EVALUATION).add_argument("--shard", type=SHARD, default=None, metavar="K/N", help=shard)
    output = flags.group(RESULTS)
    output.add_argument("--restart", action="store_true", help="discard the scores of an interrupted run")
    output.add_argument("--keep_scores", action="store_true", help="also write all scores, <split>_scores.npy")
    return flags


def add_world_flag(flags: FlagParser) -> None:
    """Adds ``--world``, of the four entry points (``world_runs``)."""
    world = (
        "try the command without data: on a small synthetic world, with the model's layers and widths and random "
        "weights, for 2 steps with batches of 8 unless told otherwise; world and results are written below runs/world"
    )
    flags.add_argument("--world", action="store_true", help=world)
