"""``train_concap.py``: pre-training on Conceptual Captions."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from volta_switch.config import Config
from volta_switch.config.model_folder import files_of
from volta_switch.data.batches.collate import Batch, BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.batches.loader import Loader, make_loader, start_epoch
from volta_switch.data.batches.sampling import BatchSampler
from volta_switch.data.files.shard_cache import GIB, ShardCache, default_cache_folder
from volta_switch.data.formats.shards import WINDOW
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import BadRecord, UserError
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.train.device import prepare_device
from volta_switch.train.entry_points import read_flags
from volta_switch.train.flag_values import data_settings, load_pretraining_config, run_name, shared_hyperparameters
from volta_switch.train.optimisation import Hyperparameters, Learner, LossCounts, Losses, Validation
from volta_switch.train.ranks import Ranks, ranks
from volta_switch.train.run_data import (
    detector_of,
    load_tokenizer,
    pair_fingerprints,
    pair_stores,
    vocabulary_fingerprint,
)
from volta_switch.train.start import TrainingRun, initial_weights, start_run, train_to_end

Split = Literal["train", "valid"]
REGRESSED = ("1", "2", "5")  # the visual targets that read the features before masking


def main(argv: Sequence[str]) -> Path:
    """Reads the flags and pre-trains one model; returns its run folder."""
    return pretrain(read_flags("train_concap", argv), argv)


def pretrain(args: argparse.Namespace, argv: Sequence[str]) -> Path:
    """Does what ``main`` does, once the flags are read; ``argv``: the command line, for the record."""
    with ranks() as rank:
        return _pretrain(args, argv, rank)


class Pretraining(Learner):
    """The three losses of paper section 2.4.3: means over masked words, masked regions and samples."""

    losses = ("itm", "mlm", "vision")

    def __init__(self, model: BertForVLPreTraining, objective: int):
        super().__init__(model)
        self.objective = objective  # 2 leaves out matching

    def forward(self, batch: Batch) -> Losses:
        """See ``Learner.forward``."""
        inputs = dict(batch.inputs)
        if self.objective == 2:
            del inputs["next_sentence_label"]
        out = self.model(**inputs)
        named = {"mlm": out.loss_mlm, "vision": out.loss_vision, "itm": out.loss_itm}
        return {name: loss for name, loss in named.items() if loss is not None}

    def counts(self, batch: Batch) -> LossCounts:
        """See ``Learner.counts``."""
        if not len(batch):
            return dict.fromkeys(self.losses, 0)
        return {
            "itm": len(batch),
            "mlm": int((batch.inputs["masked_lm_labels"] != -1).sum()),
            "vision": int((batch.inputs["image_label"] == 1).sum()),
        }


def _pretrain(args: argparse.Namespace, argv: Sequence[str], rank: Ranks) -> Path:
    config = load_pretraining_config(args)
    device, precision = prepare_device(args, rank)
    tokenizer = load_tokenizer(config, args.max_seq_length)
    hyper = Hyperparameters(
        epochs=args.num_train_epochs,
        batch_size=args.train_batch_size,
        learning_rate=args.learning_rate,
        **shared_hyperparameters(args),
    )
    splits: tuple[Split, Split] = ("train", "valid")
    pinned = device.type == "cuda"
    loaders = {split: split_loader(args, config, tokenizer, split, hyper.batch_size, rank, pinned) for split in splits}
    torch.manual_seed(hyper.seed)
    model = BertForVLPreTraining(config)
    start = initial_weights(model, config, args.from_pretrained, args.allow_deeper_bert)

    detector = detector_of(pair_stores(args.features_path), args.from_pretrained, rank.first)
    start_epoch(loaders["valid"], 0)  # the same masks in every validation
    learner = Pretraining(model, args.objective)
    run = TrainingRun(
        entry_point="train_concap",
        name=run_name(args),
        config=config,
        hyper=hyper,
        learner=learner,
        start=start,
        settings={
            "objective": args.objective,
            "masking": args.masking,
            "max_seq_length": args.max_seq_length,
            "shards": _shard_order(loaders["train"]),
            **data_settings(args),
        },
        data={"features_path": args.features_path, "annotations_path": args.annotations_path},
        fingerprints=vocabulary_fingerprint(config) | pair_fingerprints(args.annotations_path, args.features_path),
        loader=loaders["train"],
        files=files_of(config, tokenizer.to_json(), detector=detector),
        anneal_share=config.switch.anneal_share if config.switch is not None else None,
        val_loader=loaders["valid"],
        validate=lambda batches: validate(learner, batches, device, rank),
    )
    trainer = start_run(args, argv, run, device, precision, rank)
    train_to_end(trainer)
    return trainer.run.path


def split_loader(
    args: argparse.Namespace,
    config: Config,
    tokenizer: Tokenizer,
    split: Split,
    batch_size: int,
    rank: Ranks | None = None,
    pin_memory: bool = False,
) -> Loader:
    """Loads batches of a split, as the flags of ``train_concap.py`` say; of several processes, this one's shares.

    ``--volta-compat``: in validation the global region stands first, whatever the model, and mismatched pairs keep
    their masked losses.
    """
    dataset = _dataset(args, config, tokenizer, split)
    where = config.add_global_imgfeat
    if args.volta_compat and split == "valid" and where is not None:
        where = "first"
    layout = BatchLayout(where, pad_id=config.pad_token_id)  # type: ignore[arg-type]
    rank = rank or Ranks()
    sampler = BatchSampler(
        dataset.text_lengths,
        batch_size,
        args.seed,
        shuffle=split == "train",
        rank=rank.number,
        ranks=rank.count,
        parts=args.accumulate if split == "train" else 1,
        blocks=dataset.pairs.blocks,
        window=WINDOW,
    )
    return make_loader(
        dataset,
        sampler,
        partial(dataset.collate, layout=layout),
        args.num_workers,
        pin_memory,
        max_bad_records=args.max_bad_records,
        timeout=args.worker_timeout,
    )


def _shard_order(loader: Loader) -> str | None:
    """Returns what the samples' order owes to shards; None where they are shuffled as if there were none."""
    sampler = loader.batch_sampler
    assert isinstance(sampler, BatchSampler)
    if len(sampler.blocks) <= sampler.window:
        return None
    sizes = ",".join(map(str, sampler.blocks.tolist()))
    return f"{len(sampler.blocks)} of {hashlib.sha256(sizes.encode()).hexdigest()[:16]}"


def _dataset(args: argparse.Namespace, config: Config, tokenizer: Tokenizer, split: Split) -> ConcapDataset:
    dataset = ConcapDataset(
        args.features_path,
        args.annotations_path,
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
        shard_cache=ShardCache(Path(args.shard_cache or default_cache_folder()), int(args.shard_cache_gib * GIB)),
    )
    _check_widths(dataset, config, args.max_bad_records)
    return dataset


def _check_widths(dataset: ConcapDataset, config: Config, max_bad_records: int) -> None:
    """Raises UserError unless the pairs, or the first that can be read, have regions as wide as the model expects."""
    layout = dataset.pairs.layout
    if layout is not None:  # then nothing has to be read, and no shard to be fetched
        _compare_widths(dataset, config, {"v_feature_size": layout.feature_size, "v_num_classes": layout.classes})
        return
    for index in range(len(dataset)):
        try:
            regions, _ = dataset.pairs[index]
            break
        except BadRecord:
            if index >= min(max_bad_records, len(dataset) - 1):
                raise
    widths = {"v_feature_size": regions.features, "v_num_classes": regions.cls_prob}
    found = {key: 0 if array is None else array.shape[1] for key, array in widths.items()}
    _compare_widths(dataset, config, found)


def _compare_widths(dataset: ConcapDataset, config: Config, widths: dict[str, int]) -> None:
    for key, found in widths.items():
        expected = getattr(config, key)
        if found != expected:
            raise UserError(
                f"{dataset.pairs.path}: regions are {found} wide in what {key} counts, the model expects {expected}; "
                f"set {key} to {found}, or give the feature file that the model was made for"
            )


def validate(
    learner: Learner, batches: Iterable[Batch], device: torch.device, ranks: Ranks | None = None
) -> Validation:
    """Returns mean losses over all words, regions and samples of all processes; the score is minus their sum."""
    ranks = ranks or Ranks()
    totals = dict.fromkeys(learner.losses, 0.0)
    counted = dict.fromkeys(learner.losses, 0)
    with torch.inference_mode():
        for batch in batches:
            if not batch.inputs:  # all its records were passed over
                continue
            counts = learner.counts(batch)
            for name, loss in learner(batch.to(device)).items():
                counted[name] += counts[name]
                totals[name] += float(loss) * counts[name]
    names = learner.losses
    sums = ranks.sums([*(totals[name] for name in names), *(counted[name] for name in names)])
    means = {name: total / count for name, total, count in zip(names, sums, sums[len(names) :], strict=False) if count}
    means["loss"] = sum(means.values())
    return Validation(-means["loss"], means)
