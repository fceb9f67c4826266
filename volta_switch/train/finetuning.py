"""``train_task.py``: fine-tuning on one task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch

from volta_switch.config import Config
from volta_switch.config.model_folder import TASKS, files_of, refuse_other_labels
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.loader import Loader
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLTasks, start_from_prior, switch_encoder
from volta_switch.tasks import Task, TaskSpec, build_task, features_path
from volta_switch.train.device import prepare_device
from volta_switch.train.entry_points import read_flags
from volta_switch.train.flag_values import (
    data_settings,
    load_model_config,
    load_task_spec,
    run_name,
    shared_hyperparameters,
    training_splits,
)
from volta_switch.train.optimisation import Hyperparameters, Learner, LossCounts, Losses, Validation
from volta_switch.train.ranks import Ranks, ranks
from volta_switch.train.run_data import (
    data_options,
    detector_of,
    load_tokenizer,
    task_fingerprints,
    vocabulary_fingerprint,
)
from volta_switch.train.start import TrainingRun, initial_weights, start_run, train_to_end


def main(argv: Sequence[str]) -> Path:
    """Reads the flags and fine-tunes one model on one task; returns its run folder."""
    return fine_tune(read_flags("train_task", argv), argv)


def fine_tune(args: argparse.Namespace, argv: Sequence[str]) -> Path:
    """Does what ``main`` does, once the flags are read; ``argv``: the command line, for the record."""
    with ranks() as rank:
        return _finetune(args, argv, rank)


class FineTuning(Learner):
    """The loss of one task: a mean over samples."""

    losses = ("loss",)

    def __init__(self, model: BertForVLTasks, task: Task):
        super().__init__(model)
        self.task, self.head = task, task.spec.head()

    def forward(self, batch: Batch) -> Losses:
        """See ``Learner.forward``."""
        scores = self.task.scores(cast(BertForVLTasks, self.model), batch)
        return {"loss": self.task.loss(scores.float(), batch)}

    def counts(self, batch: Batch) -> LossCounts:
        """See ``Learner.counts``."""
        return {"loss": len(batch)}


def _finetune(args: argparse.Namespace, argv: Sequence[str], rank: Ranks) -> Path:
    spec = load_task_spec(args)
    config = load_model_config(args, spec.fusion_method)
    device, precision = prepare_device(args, rank)
    hyper = _hyperparameters(args, spec)
    tokenizer = load_tokenizer(config, spec.max_seq_length)
    task = build_task(spec, config, tokenizer, data_options(args, device, args.train_features_lmdbpath, ranks=rank))
    val_options = data_options(args, device, args.val_features_lmdbpath, args.num_val_workers, rank)
    val_task = build_task(spec, config, tokenizer, val_options)
    train_split, val_split = training_splits(args, spec)
    loader = task.loader(train_split, hyper.batch_size, training=True)
    val_loader = val_task.loader(
        val_split, args.eval_batch_size or spec.eval_batch_size or spec.batch_size, training=False
    )
    for split, some in ((train_split, loader), (val_split, val_loader)):
        _require_answers(spec, split, some)
    labels = task.labels(spec)
    refuse_other_labels(args.from_pretrained, spec.key, labels)
    stores = [
        features_path(spec, train_split, args.train_features_lmdbpath, args.boxes),
        features_path(spec, val_split, args.val_features_lmdbpath, args.boxes),
    ]
    detector = detector_of(stores, args.from_pretrained, rank.first)
    model, start = _model(args, spec, config, hyper)
    run = TrainingRun(
        entry_point="train_task",
        name=run_name(args, f"{spec.name}_"),
        config=config,
        hyper=hyper,
        learner=FineTuning(model, task),
        start=start,
        settings={
            "task": spec.key,
            "train_split": train_split,
            "val_split": val_split,
            "boxes": args.boxes,
            "entry": spec.deciding(),
            **data_settings(args),
        },
        data={"tasks_config_file": args.tasks_config_file or TASKS, "dataroot": str(spec.path(spec.dataroot))},
        fingerprints=vocabulary_fingerprint(config)
        | task_fingerprints(
            spec,
            args.boxes,
            [(train_split, True, args.train_features_lmdbpath), (val_split, False, args.val_features_lmdbpath)],
        ),
        loader=loader,
        val_loader=val_loader,
        files=files_of(
            config, tokenizer.to_json(), {spec.key: {**spec.kept(), "metric": task.metric}}, labels, detector=detector
        ),
        anneal_share=config.switch.finetune_anneal_share if config.switch is not None else None,
        validate=lambda batches: _validate(val_task, model, batches, device, rank),
    )
    trainer = start_run(args, argv, run, device, precision, rank)
    progress = train_to_end(trainer)
    if rank.first:
        print(f"best validation score: {progress.best_score:.3f} (epoch {progress.best_epoch + 1})", file=sys.stderr)
    return trainer.run.path


def _require_answers(spec: TaskSpec, split: str, loader: Loader) -> None:
    """Reads a split's first sample, so that what is wrong with the features shows before anything is written.

    Raises:
        UserError: it cannot be read, or has no answers.
    """
    if loader.first().target is None:
        raise UserError(
            f"{spec.key} ({spec.name}): split {split!r} has no answers; expected one to train on and one to "
            "validate by (--train_split, --val_split); eval_task.py writes the answers of a model to such a split"
        )


def _model(
    args: argparse.Namespace, spec: TaskSpec, config: Config, hyper: Hyperparameters
) -> tuple[BertForVLTasks, str]:
    """Returns the model with its initial weights, and where these come from."""
    torch.manual_seed(hyper.seed)
    model = BertForVLTasks(config, {spec.key: spec.head()})
    start_from_prior(model.clfs_dict[spec.key], hyper.head_prior)  # unless the weights bring a head of their own
    start = initial_weights(model, config, args.from_pretrained, args.allow_deeper_bert)
    switched = switch_encoder(model)
    if switched is not None:
        switched.start_annealing(switched.switch.finetune_temperature)
    return model, start


def _hyperparameters(args: argparse.Namespace, spec: TaskSpec) -> Hyperparameters:
    return Hyperparameters(
        epochs=spec.num_epoch if args.num_epoch is None else args.num_epoch,
        batch_size=spec.batch_size if args.batch_size is None else args.batch_size,
        learning_rate=spec.lr if args.lr is None else args.lr,
        schedule_epochs=args.optim_train_epochs,
        **shared_hyperparameters(args),
        head_prior=args.head_prior,
    )


def _validate(
    task: Task, model: BertForVLTasks, batches: Iterable[Batch], device: torch.device, rank: Ranks
) -> Validation:
    evaluation = task.evaluate(model, batches, device, rank.gathered)
    return Validation(evaluation.score, evaluation.metrics)
