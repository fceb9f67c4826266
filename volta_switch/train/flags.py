"""VOLTA's flags, with METHOD's hyperparameters as defaults; nothing here imports PyTorch."""

from __future__ import annotations

import argparse

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
    PATH,
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

# Flags that VOLTA's scripts take and that mean nothing here; accepted so that its command lines run unchanged. A run
# that is given one says so (``told_settings``).
WITHOUT_EFFECT = {
    "local_rank": "torchrun says it by its variables",
    "distributed": "torchrun says it by its variables",
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
    """Optimiser steps and minutes between checkpoints; 0: not by these."""
    if text.endswith("m"):
        return 0, Number(0.0, 1e6).spelt(text[:-1])
    return COUNT_OR_NONE.spelt(text), 0.0


def _share_of_pairs(text: str) -> Share:
    number, _, count = text.partition("/")
    share = Share(COUNT.spelt(number) - 1, COUNT.spelt(count))
    if share.number >= share.count:
        raise ValueError
    return share


def _whole_epochs(text: str) -> int:
    value = float(text)  # VOLTA's scripts write 10.0
    if not value.is_integer():
        raise ValueError
    return EPOCHS.read(int(value))  # type: ignore[no-any-return]


SAVING = Spelling("steps (500) or minutes (30m)", _saving)
SHARD = Spelling("K/N with K from 1 to N", _share_of_pairs)
WHOLE_EPOCHS = Spelling(EPOCHS.expected, _whole_epochs)


def parser(description: str, seed: int) -> FlagParser:
    """Flags of all four entry points."""
    flags = FlagParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    model = flags.add_argument_group("model")
    model.add_argument(
        "--config_file", "--config", type=PATH, default="switchbert", help="a name in config/, or a path"
    )
    model.add_argument("--set", action="append", type=Text(), default=[], metavar="KEY=VALUE", help="overrides a field")
    model.add_argument(
        "--from_pretrained",
        type=ANY_TEXT,
        default="",
        help="weights of another run, a BERT (folder or hub name), or '' for random initial weights",
    )
    output = flags.add_argument_group("output")
    output.add_argument("--output_dir", type=PATH, default="checkpoints", help="run folders are made here")
    output.add_argument("--save_name", type=ANY_TEXT, default="", help="appended to the run folder's name")
    discard = "discard the results that the folder holds; without it they are kept, and the command ends"
    output.add_argument("--overwrite", action="store_true", help=discard)
    data = flags.add_argument_group("data")
    data.add_argument(
        *("--max-bad-records", "--max_bad_records"),
        type=COUNT_OR_NONE,
        default=0,
        help="records that cannot be used and are passed over, counted and reported, before the run is stopped",
    )
    data.add_argument(
        *("--volta-compat", "--volta_compat"),
        action="store_true",
        help="VOLTA's data with its known errors, to compare with published numbers (docs/volta-differences.md)",
    )
    machine = flags.add_argument_group("machine")
    machine.add_argument("--seed", type=SEED, default=seed, help="fixes initial weights, order, masks and noise")
    machine.add_argument("--num_workers", type=PROCESSES, default=0, help="loader processes; 0 reads in this process")
    machine.add_argument("--in_memory", nargs="?", const=True, default=False, type=Truth(), help="keep images decoded")
    machine.add_argument("--device", type=ANY_TEXT, default="auto", help="auto, cpu, cuda or cuda:<n>")
    machine.add_argument("--precision", default="auto", choices=(*PRECISIONS, "auto"), help="auto: bf16 on CUDA")
    machine.add_argument("--threads", type=PROCESSES, default=0, help="CPU threads; 0 leaves PyTorch's default")
    for name, reason in WITHOUT_EFFECT.items():
        ignored = f"accepted and ignored: {reason}"
        flags.add_argument(f"--{name}", nargs="?", type=ANY_TEXT, help=ignored, default=argparse.SUPPRESS)
    for name, value in FIXED.items():
        only = f"the only choice: {value}" if value else "not supported"
        flags.add_argument(f"--{name}", nargs="?", type=Choice(value), help=only, default=argparse.SUPPRESS)
    return flags


def add_training_flags(flags: FlagParser, weight_decay: float, clip_grad_norm: float) -> None:
    """Flags of the two training entry points."""
    flags.set_defaults(from_pretrained="bert-base-uncased")
    deeper = "leave out layers of a BERT that the model's configuration has no place for; refused otherwise"
    flags.add_argument("--allow-deeper-bert", "--allow_deeper_bert", action="store_true", help=deeper)
    training = flags.add_argument_group("training")
    training.add_argument("--logdir", type=PATH, default="logs", help="TensorBoard's folder")
    fraction = (
        "train on this share of the samples, 0 < share <= 1: the same samples for every model and --seed; "
        "negatives of retrieval come from all images of the split"
    )
    training.add_argument("--data-fraction", "--data_fraction", type=SHARE, default=1.0, help=fraction)
    training.add_argument("--data-fraction-seed", "--data_fraction_seed", type=SEED, default=0, help="draws the share")
    resume = "go on from the run folder's newest checkpoint, or start where there is none"
    training.add_argument("--resume", action="store_true", help=resume)
    training.add_argument(
        "--resume_file", type=ANY_TEXT, default="", help="go on from this checkpoint, a folder checkpoints/step-…"
    )
    training.add_argument("--warmup_proportion", type=WARMUP_PROPORTION, default=0.1)
    training.add_argument("--warmup_steps", type=WARMUP_STEPS, default=None, help="overrides --warmup_proportion")
    training.add_argument("--adam_epsilon", type=ADAM_EPSILON, default=1e-6)
    training.add_argument("--adam_betas", type=ADAM_BETA, nargs=2, default=(0.9, 0.999))
    training.add_argument("--weight_decay", type=WEIGHT_DECAY, default=weight_decay)
    training.add_argument("--clip_grad_norm", type=GRADIENT_NORM, default=clip_grad_norm, help="0: none")
    training.add_argument("--save_best_only", action="store_true", help="do not keep every epoch's weights")
    stop = (
        "end after so many optimiser steps, with validation and weights, as if somebody had stopped the run there: the "
        "schedule stays that of all epochs, and --resume goes on with more steps or all; 0: train all epochs"
    )
    training.add_argument("--max-steps", "--max_steps", type=COUNT_OR_NONE, default=0, metavar="N", help=stop)
    _add_survival_flags(flags)
    _add_division_flags(flags)


def _add_survival_flags(flags: FlagParser) -> None:
    survival = flags.add_argument_group("checkpoints and watchfulness")
    every = (
        "write a checkpoint every so many optimiser steps (500) or minutes (30m), beside those at epochs' ends; 0: none"
    )
    survival.add_argument("--save-every", "--save_every", type=SAVING, default="30m", metavar="N|Nm", help=every)
    kept = "how many of the newest checkpoints are kept"
    survival.add_argument("--keep-checkpoints", "--keep_checkpoints", type=COUNT, default=2, help=kept)
    skipped = "optimiser steps left out because a loss or gradient was not finite, before the run is stopped"
    survival.add_argument("--max-skipped-steps", "--max_skipped_steps", type=COUNT_OR_NONE, default=10, help=skipped)
    late = "seconds without a batch from the loader's processes, after which the run is stopped; 0: wait for ever"
    survival.add_argument("--worker-timeout", "--worker_timeout", type=SECONDS, default=600, help=late)
    survival.add_argument(
        *("--log-every", "--log_every"), type=COUNT, default=20, metavar="N", help="optimiser steps of a line"
    )
    survival.add_argument("--log-ids", "--log_ids", action="store_true", help="write every step's samples down")


def _add_division_flags(flags: FlagParser) -> None:
    division = flags.add_argument_group("dividing a step (torchrun starts several processes)")
    parts = "parts, one after the other, that each process's share of a batch is divided into"
    division.add_argument("--gradient_accumulation_steps", dest="accumulate", type=COUNT, default=1, help=parts)
    division.add_argument("--fsdp", action="store_true", help="divide the model, too, among the processes (FSDP2)")
    exact = (
        "dropout and Gumbel noise by seed, epoch, sample and layer, so that the same is learnt however a step is "
        "divided; takes more time"
    )
    division.add_argument("--deterministic", action="store_true", help=exact)
    again = "compute each layer again in the backward pass rather than keep its activations"
    division.add_argument("--gradient-checkpointing", "--gradient_checkpointing", action="store_true", help=again)
    division.add_argument("--compile", action="store_true", help="compile the layers (torch.compile); slow to start")


def add_task_flags(flags: FlagParser) -> None:
    """Flags of the entry points that read a task file."""
    task = flags.add_argument_group("task")
    task.add_argument(
        "--tasks_config_file", type=PATH, default="config_tasks/ctrl_trainval_tasks.yml", help="VOLTA's task file"
    )
    root = (
        "the folder in which the task file's relative paths begin; default: a small world's own, else the working "
        "directory or the task file's folder, whichever has them"
    )
    task.add_argument("--data_root", "--data-root", type=ANY_TEXT, default="", help=root)
    task.add_argument("--task", type=ANY_TEXT, default="", help="number, key or name: 10, TASK10, refcoco+")
    for split in ("train", "val"):
        names = "overrides the task file's (retrieval, NLVR2, SNLI-VE)"
        task.add_argument(f"--{split}_annotations_jsonpath", type=ANY_TEXT, default="", help=names)
    boxes = "referring expressions: the detector's boxes, or the annotated ones of features_h5path2"
    task.add_argument("--boxes", choices=("detected", "gt"), default="detected", help=boxes)
    task.add_argument("--val_features_lmdbpath", type=ANY_TEXT, default="", help="overrides the task file's")
    task.add_argument("--num_val_workers", type=PROCESSES, default=None, help="loader processes of validation and test")


def pretraining_flags() -> FlagParser:
    """VOLTA's flags of ``train_concap.py``."""
    result = parser("Pre-trains one model on Conceptual Captions.", seed=42)
    data = result.add_argument_group("data")
    root = "datasets/conceptual_captions"
    data.add_argument(
        "--annotations_path", type=PATH, default=f"{root}/annotations", help="caption_train.json and _valid.json"
    )
    data.add_argument(
        "--features_path",
        type=PATH,
        default=f"{root}/resnet101_faster_rcnn_genome_imgfeats/volta",
        help="training_feat_all.lmdb and validation_feat_all.lmdb; or shards, in a folder or at https://, s3://, ...",
    )
    cache = "where shards that are fetched are kept; default: a folder below $XDG_CACHE_HOME or the temporary folder"
    data.add_argument("--shard_cache", type=ANY_TEXT, default="", help=cache)
    data.add_argument(
        "--shard_cache_gib",
        type=Number(0.0, 1e6, above=True),
        default=16.0,
        help="the largest size of --shard_cache, in GiB",
    )
    data.add_argument("--max_seq_length", type=WORDS, default=38, help="word pieces, [CLS] and [SEP] included")
    data.add_argument("--objective", type=Choice(*OBJECTIVES), default=1, help=f"{OBJECTIVES}")
    data.add_argument("--masking", default="volta", choices=("volta", "span"), help="span: InterBERT's segments")
    result.add_argument("--train_batch_size", type=BATCH_SIZE, default=256, help="samples per optimiser step")
    result.add_argument("--learning_rate", type=LEARNING_RATE, default=1e-4)
    result.add_argument("--num_train_epochs", type=WHOLE_EPOCHS, default=10)
    add_training_flags(result, weight_decay=0.01, clip_grad_norm=5.0)
    return result


def finetuning_flags() -> FlagParser:
    """VOLTA's flags of ``train_task.py``."""
    result = parser("Fine-tunes one model on one task.", seed=0)
    add_task_flags(result)
    result.add_argument("--train_split", type=ANY_TEXT, default="", help="another split than the task file's")
    result.add_argument("--val_split", type=ANY_TEXT, default="", help="another split than the task file's")
    result.add_argument(
        "--train_features_lmdbpath", type=ANY_TEXT, default="", help="another feature file than the task file's"
    )
    result.add_argument("--num_epoch", type=EPOCHS, default=None, help="overrides the task file's")
    result.add_argument("--optim_train_epochs", type=EPOCHS, default=None, help="epochs the schedule is made for")
    result.add_argument("--batch_size", type=BATCH_SIZE, default=None, help="overrides the task file's")
    result.add_argument("--eval_batch_size", type=BATCH_SIZE, default=None, help="overrides the task file's")
    result.add_argument("--lr", type=LEARNING_RATE, default=None, help="overrides the task file's")
    prior = "probability that the head's outputs start from; VOLTA starts at 0.5, rare answers learn faster from less"
    result.add_argument("--head_prior", type=PROBABILITY, default=0.5, help=prior)
    add_training_flags(result, weight_decay=1e-4, clip_grad_norm=1.0)
    return result


def evaluation_flags(description: str = "Evaluates one model on one task.", batch_size: int = 256) -> FlagParser:
    """VOLTA's flags of the two evaluation scripts."""
    result = parser(description, seed=42)
    add_task_flags(result)
    result.set_defaults(output_dir="results", zero_shot=False)
    result.add_argument("--split", type=ANY_TEXT, default="", help="default: the task file's validation split")
    result.add_argument("--batch_size", type=BATCH_SIZE, default=batch_size)
    result.add_argument("--routing", default="hard", choices=("hard", "soft"), help="how Switch-BERT's routes are read")
    return result


def retrieval_flags() -> FlagParser:
    """The flags of retrieval over all pairs."""
    result = evaluation_flags("Evaluates image-text retrieval over all pairs.", batch_size=128)
    result.add_argument("--zero_shot", action="store_true", help="score pairs by the pre-training matching head")
    pairs = result.add_argument_group("all pairs")
    pairs.add_argument("--restart", action="store_true", help="discard the scores of an interrupted run")
    shard = "score the K-th of N shares of the pairs alone; a run without it takes what is there and writes the results"
    pairs.add_argument("--shard", type=SHARD, default=None, metavar="K/N", help=shard)
    pairs.add_argument("--keep_scores", action="store_true", help="also write all scores, <split>_scores.npy")
    return result


def add_world_flag(flags: FlagParser) -> None:
    """``--world``, of the four entry points (``world_runs``)."""
    world = (
        "try the command without data: on a small synthetic world, with the model's layers and widths and random "
        "weights, for 2 steps with batches of 8 unless told otherwise; world and results are written below runs/world"
    )
    flags.add_argument("--world", action="store_true", help=world)
