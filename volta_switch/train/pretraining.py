"""``train_concap.py``: pre-training on Conceptual Captions."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from volta_switch.config import Config
from volta_switch.data.batches.batching import BatchSampler, Loader, make_loader, start_epoch
from volta_switch.data.batches.collate import Batch, Layout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import BadRecord, UserError
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.train.arguments import (
    add_training_flags,
    data_settings,
    load_model_config,
    load_tokenizer,
    parser,
    prepare_device,
    run_name,
    shared_hyperparameters,
)
from volta_switch.train.checkpoints import initial_weights
from volta_switch.train.loop import Losses, Validation
from volta_switch.train.optimisation import Hyperparameters
from volta_switch.train.start import Run, start_run

Split = Literal["train", "valid"]
REGRESSED = ("1", "2", "5")  # the visual targets that read the features before masking
OBJECTIVES = {
    0: "masked words and regions, matching",
    1: "the same, without masked losses for mismatched pairs (the paper's)",
    2: "masked words and regions; no mismatched pairs, no matching",
}


def main(argv: Sequence[str]) -> Path:
    """Pre-trains one model; returns its run folder."""
    args = flags().parse_args(argv)
    config = load_model_config(args)
    device, precision = prepare_device(args)
    tokenizer = load_tokenizer(config, args.max_seq_length)
    hyper = Hyperparameters(
        epochs=args.num_train_epochs,
        batch_size=args.train_batch_size,
        learning_rate=args.learning_rate,
        **shared_hyperparameters(args),
    )
    small_batch = hyper.batch_size // hyper.grad_acc_steps
    splits: tuple[Split, Split] = ("train", "valid")
    loaders = {split: split_loader(args, config, tokenizer, split, small_batch) for split in splits}
    torch.manual_seed(hyper.seed)
    model = BertForVLPreTraining(config)
    start = initial_weights(model, config, args.from_pretrained)
    model.to(device)

    start_epoch(loaders["valid"], 0)  # the same masks in every validation
    losses = partial(pretraining_losses, model, args.objective)
    run = Run(
        entry_point="train_concap",
        name=run_name(args),
        config=config,
        hyper=hyper,
        model=model,
        start=start,
        settings={
            "objective": args.objective,
            "masking": args.masking,
            "max_seq_length": args.max_seq_length,
            **data_settings(args),
        },
        data={"features_path": args.features_path, "annotations_path": args.annotations_path},
        losses=losses,
        loader=loaders["train"],
        validate=lambda: validate(losses, loaders["valid"], device),
    )
    trainer = start_run(args, argv, run, device, precision)
    trainer.fit()
    trainer.run.close()
    return trainer.run.path


def flags() -> argparse.ArgumentParser:
    """VOLTA's flags of ``train_concap.py``."""
    result = parser("Pre-trains one model on Conceptual Captions.", seed=42)
    data = result.add_argument_group("data")
    root = "datasets/conceptual_captions"
    data.add_argument("--annotations_path", default=f"{root}/annotations", help="caption_train.json and _valid.json")
    data.add_argument(
        "--features_path",
        default=f"{root}/resnet101_faster_rcnn_genome_imgfeats/volta",
        help="training_feat_all.lmdb and validation_feat_all.lmdb",
    )
    data.add_argument("--max_seq_length", type=int, default=38, help="word pieces, [CLS] and [SEP] included")
    data.add_argument("--objective", type=int, default=1, choices=sorted(OBJECTIVES), help=f"{OBJECTIVES}")
    data.add_argument("--masking", default="volta", choices=("volta", "span"), help="span: InterBERT's segments")
    result.add_argument("--train_batch_size", type=int, default=256, help="samples per optimiser step")
    result.add_argument("--learning_rate", type=float, default=1e-4)
    result.add_argument("--num_train_epochs", type=_whole, default=10)
    add_training_flags(result, weight_decay=0.01, clip_grad_norm=5.0)
    return result


def _whole(text: str) -> int:
    number = float(text)  # VOLTA's scripts write 10.0
    if number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number of epochs, found {text}")
    return int(number)


def split_loader(
    args: argparse.Namespace, config: Config, tokenizer: Tokenizer, split: Split, batch_size: int
) -> Loader:
    """Batches of a split, as the flags of ``train_concap.py`` ask for.

    ``--volta-compat``: in validation the global region stands first, whatever the model, and mismatched pairs keep
    their masked losses.
    """
    dataset = _dataset(args, config, tokenizer, split)
    where = config.add_global_imgfeat
    if args.volta_compat and split == "valid" and where is not None:
        where = "first"
    layout = Layout(where, pad_id=config.pad_token_id)  # type: ignore[arg-type]
    return make_loader(
        dataset,
        BatchSampler(dataset.text_lengths, batch_size, args.seed, shuffle=split == "train"),
        partial(dataset.collate, layout=layout),
        args.num_workers,
        pin_memory=torch.cuda.is_available() and args.device != "cpu",
        max_bad_records=args.max_bad_records,
    )


def _dataset(args: argparse.Namespace, config: Config, tokenizer: Tokenizer, split: Split) -> ConcapDataset:
    dataset = ConcapDataset(
        Path(args.features_path),
        Path(args.annotations_path),
        split,
        tokenizer,
        num_locs=config.num_locs,
        objective=0 if args.volta_compat and split == "valid" and args.objective == 1 else args.objective,
        masking=args.masking,
        max_seq_length=args.max_seq_length,
        seed=args.seed,
        in_memory=args.in_memory,
        feature_targets=any(config.visual_target_weights.get(target, 0) > 0 for target in REGRESSED),
        fraction=args.data_fraction if split == "train" else 1.0,
        fraction_seed=args.data_fraction_seed,
        volta_compat=args.volta_compat,
    )
    _check_widths(dataset, config, args.max_bad_records)
    return dataset


def _check_widths(dataset: ConcapDataset, config: Config, max_bad_records: int) -> None:
    """Raises UserError unless the first pair that can be read has regions as wide as the model expects."""
    for index in range(len(dataset)):
        try:
            regions, _ = dataset.pairs[index]
            break
        except BadRecord:
            if index >= min(max_bad_records, len(dataset) - 1):
                raise
    widths = {"v_feature_size": regions.features, "v_num_classes": regions.cls_prob}
    for key, array in widths.items():
        found, expected = 0 if array is None else array.shape[1], getattr(config, key)
        if found != expected:
            raise UserError(
                f"{dataset.pairs.path}: regions are {found} wide in what {key} counts, the model expects {expected}; "
                f"set {key} to {found}, or give the feature file that the model was made for"
            )


def pretraining_losses(model: BertForVLPreTraining, objective: int, batch: Batch) -> Losses:
    """The three losses of paper section 2.4.3 and their sum; objective 2 leaves out matching."""
    inputs = dict(batch.inputs)
    if objective == 2:
        del inputs["next_sentence_label"]
    out = model(**inputs)
    named = {"mlm": out.loss_mlm, "vision": out.loss_vision, "itm": out.loss_itm, "loss": out.loss}
    return {name: loss for name, loss in named.items() if loss is not None}


def validate(losses: Any, batches: Iterable[Batch], device: torch.device) -> Validation:
    """Mean losses over the samples; the score is minus their sum."""
    totals: dict[str, Tensor] = {}
    samples = 0
    with torch.inference_mode():
        for batch in filter(len, batches):  # a batch is empty where all its records were passed over
            samples += len(batch)
            for name, loss in losses(batch.to(device)).items():
                totals[name] = totals.get(name, torch.zeros((), device=device)) + loss.float() * len(batch)
    means = {name: float(total) / samples for name, total in totals.items()}
    return Validation(-means["loss"], means)
