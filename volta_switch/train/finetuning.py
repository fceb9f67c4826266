"""``train_task.py``: fine-tuning on one task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from volta_switch.model.bert import BertForVLTasks, start_from_prior, switch_encoder
from volta_switch.tasks import DataOptions, Task, TaskSpec, build_task
from volta_switch.train.arguments import (
    add_task_flags,
    add_training_flags,
    load_model_config,
    load_task_spec,
    load_tokenizer,
    parser,
    prepare_device,
    run_name,
)
from volta_switch.train.checkpoints import initial_weights
from volta_switch.train.loop import Trainer, Validation
from volta_switch.train.optimisation import Hyperparameters
from volta_switch.train.run_folder import LATEST, RunFolder
from volta_switch.weights import fingerprint


def main(argv: Sequence[str]) -> Path:
    """Fine-tunes one model on one task; returns its run folder."""
    args = flags().parse_args(argv)
    spec = load_task_spec(args)
    config = load_model_config(args, spec.fusion_method)
    device, precision = prepare_device(args)
    hyper = _hyperparameters(args, spec)
    tokenizer = load_tokenizer(config, spec.max_seq_length)
    options = DataOptions(args.seed, args.num_workers, args.in_memory, args.train_features_lmdbpath)
    task = build_task(spec, config, tokenizer, options)
    workers = args.num_workers if args.num_val_workers is None else args.num_val_workers
    val_options = DataOptions(args.seed, workers, args.in_memory, args.val_features_lmdbpath)
    val_task = build_task(spec, config, tokenizer, val_options)
    train_split, val_split = args.train_split or spec.train_split, args.val_split or spec.val_split
    loader = task.loader(train_split, hyper.batch_size // hyper.grad_acc_steps, training=True)
    val_loader = val_task.loader(
        val_split, args.eval_batch_size or spec.eval_batch_size or spec.batch_size, training=False
    )
    for some in (loader, val_loader):
        some.dataset[0]  # what is wrong with the features shows before anything is written

    torch.manual_seed(hyper.seed)
    model = BertForVLTasks(config, {spec.key: spec.head()})
    start_from_prior(model.clfs_dict[spec.key], hyper.head_prior)
    start = initial_weights(model, config, args.from_pretrained)  # which may bring a head of its own
    switched = switch_encoder(model)
    if switched is not None:
        switched.start_annealing(switched.switch.finetune_temperature)
    model.to(device)

    name = run_name(args, f"{spec.name}_")
    run = RunFolder(Path(args.output_dir) / name, Path(args.logdir) / name)
    settings = {"task": spec.key, "train_split": train_split, "val_split": val_split}
    identity = {"config": config.to_dict(), "hyperparameters": hyper.to_dict(), "start": fingerprint(model), **settings}
    described = {
        "entry_point": "train_task",
        "start": start,
        "hyperparameters": hyper.to_dict(),
        "settings": settings,
        "data": {"tasks_config_file": args.tasks_config_file, "dataroot": spec.dataroot},
        "precision": str(precision).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    trainer = Trainer(
        model=model,
        losses=lambda batch: {"loss": task.loss(task.scores(model, batch).float(), batch)},
        loader=loader,
        validate=lambda: _validate(val_task, model, val_loader, device),
        hyper=hyper,
        run=run,
        device=device,
        precision=precision,
        identity=identity,
        save_steps=args.save_steps,
        keep_epochs=not args.save_best_only,
    )
    resumed = bool(args.resume_file) or (args.resume and (run.path / LATEST).is_file())
    if resumed:
        trainer.resume(Path(args.resume_file) if args.resume_file else run.path / LATEST)
    run.start(config, ["train_task.py", *argv], described, resumed, trainer.progress.step)
    print(f"{run.path}: {spec.name}, {start}, on {device}", file=sys.stderr)
    progress = trainer.fit()
    print(f"best validation score: {progress.best_score:.3f} (epoch {progress.best_epoch + 1})", file=sys.stderr)
    run.close()
    return run.path


def flags() -> argparse.ArgumentParser:
    """VOLTA's flags of ``train_task.py``."""
    result = parser("Fine-tunes one model on one task.", seed=0)
    add_task_flags(result)
    result.add_argument("--train_split", default="", help="another split than the task file's")
    result.add_argument("--val_split", default="", help="another split than the task file's")
    result.add_argument("--train_features_lmdbpath", default="", help="another feature file than the task file's")
    result.add_argument("--num_epoch", type=int, default=None, help="overrides the task file's")
    result.add_argument("--optim_train_epochs", type=int, default=None, help="epochs the schedule is made for")
    result.add_argument("--batch_size", type=int, default=None, help="overrides the task file's")
    result.add_argument("--eval_batch_size", type=int, default=None, help="overrides the task file's")
    result.add_argument("--lr", type=float, default=None, help="overrides the task file's")
    prior = "probability that the head's outputs start from; VOLTA starts at 0.5, rare answers learn faster from less"
    result.add_argument("--head_prior", type=float, default=0.5, help=prior)
    add_training_flags(result, weight_decay=1e-4, clip_grad_norm=1.0)
    return result


def _hyperparameters(args: argparse.Namespace, spec: TaskSpec) -> Hyperparameters:
    return Hyperparameters(
        epochs=spec.num_epoch if args.num_epoch is None else args.num_epoch,
        batch_size=spec.batch_size if args.batch_size is None else args.batch_size,
        learning_rate=spec.lr if args.lr is None else args.lr,
        warmup_proportion=args.warmup_proportion,
        warmup_steps=args.warmup_steps,
        schedule_epochs=args.optim_train_epochs,
        adam_betas=tuple(args.adam_betas),
        adam_epsilon=args.adam_epsilon,
        weight_decay=args.weight_decay,
        clip_grad_norm=args.clip_grad_norm,
        grad_acc_steps=args.grad_acc_steps,
        seed=args.seed,
        head_prior=args.head_prior,
    )


def _validate(task: Task, model: BertForVLTasks, batches: object, device: torch.device) -> Validation:
    evaluation = task.evaluate(model, batches, device)  # type: ignore[arg-type]
    return Validation(evaluation.score, evaluation.metrics)
