"""The start of a training run, the same for pre-training and fine-tuning: initial weights, a checkpoint, the folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.cards.origin import describe_configuration, describe_origin
from volta_switch.cards.record import write_run_record
from volta_switch.command import environment_number
from volta_switch.config import Config
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.loader import Loader
from volta_switch.data.fingerprints import Fingerprint
from volta_switch.errors import UserError
from volta_switch.hub import find_bert, is_weight_file
from volta_switch.identities import RESULTS_VERSION
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import SwitchEncoder, encoder_of
from volta_switch.model.noise import batch_dependent
from volta_switch.model.switch import samples_until_floor
from volta_switch.train.checkpoints import Checkpoint, CheckpointStore, TrainingProgress, check_identity
from volta_switch.train.device import compute_deterministically
from volta_switch.train.loop import SavingSchedule, Trainer
from volta_switch.train.optimisation import Hyperparameters, Learner, Validation
from volta_switch.train.ranks import Ranks, seed_process
from volta_switch.train.replicas import Replicas, compile_layers
from volta_switch.train.run_data import deciding_config, world_of
from volta_switch.train.run_folder import CHECKPOINTS, RunFolder
from volta_switch.weights import fingerprint, is_of_a_run, load_bert, load_volta, read_weights


@dataclass(frozen=True)
class TrainingRun:
    """What distinguishes one run: its name, its model and how that came about, its data and its settings."""

    entry_point: str  # "train_concap"
    name: str  # the run folder's
    config: Config
    hyper: Hyperparameters
    learner: Learner
    start: str  # where the model's weights come from, in words
    settings: dict[str, Any]  # beside the hyperparameters; must agree when the run is resumed
    data: dict[str, str]  # where the data lie
    fingerprints: dict[str, Fingerprint]  # what was read there; must agree when the run is resumed
    loader: Loader
    val_loader: Loader
    validate: Callable[[Iterable[Batch]], Validation]
    files: Mapping[str, bytes] = field(default_factory=dict)  # of its folder, beside configuration and weights
    anneal_share: float | None = None  # of the run, at which the temperature reaches its floor; None: by a rate

    @property
    def samples(self) -> int:
        """Training samples that the learning rate's schedule is made for, of all processes."""
        sampler: Any = self.loader.batch_sampler
        return sampler.samples_per_epoch * (self.hyper.schedule_epochs or self.hyper.epochs)

    @property
    def warmup_samples(self) -> float:
        """How many of these the learning rate rises for."""
        steps = self.hyper.warmup_steps
        return self.hyper.warmup_proportion * self.samples if steps is None else steps * self.hyper.batch_size


def start_run(
    args: argparse.Namespace,
    argv: Sequence[str],
    run: TrainingRun,
    device: torch.device,
    precision: torch.dtype,
    ranks: Ranks,
) -> Trainer:
    """Builds the trainer, resumes where asked, and only then writes the run folder's first files.

    Raises:
        UserError: the run cannot be resumed, or its folder cannot be made or holds another one's results, or the flags
            contradict each other; nothing is written.
    """
    _check_flags(args, run, precision, ranks)
    model = run.learner.model
    switched = switch_encoder(model)
    if switched is not None and run.anneal_share is not None:
        switched.anneal_within(run.anneal_share, run.samples)
    settings = {**run.settings, "deterministic": args.deterministic}
    identity = _identity(run, settings, precision)
    check_same_start(identity["start"], ranks)
    folder = RunFolder(Path(args.output_dir) / run.name, Path(args.logdir) / run.name, ranks)
    store = CheckpointStore(folder.path / CHECKPOINTS, args.keep_checkpoints)
    saved = _saved(args, store, identity, ranks)
    is_own = saved is not None and saved.path.resolve().parent == store.folder.resolve()
    if not is_own and not args.overwrite:
        folder.refuse_results(args.resume)
    if saved is not None:
        load_volta(model, saved.model, source=str(saved.path))
    model.to(device)
    described = _described(args, run, settings, precision, ranks)  # before the model is divided
    _prepare(args, model, device)
    seed_process(run.hyper.seed, ranks)
    replicas = Replicas(run.learner, ranks, device, args.fsdp, precision)
    trainer = _trainer(args, run, replicas, folder, store, device, precision, identity)
    if saved is not None:
        trainer.resume(saved)
        if trainer.has_ended:
            if ranks.first:
                print(f"{folder.path}: already finished, after step {saved.progress.step}", file=sys.stderr)
            return trainer
    step = trainer.progress.step
    lines = saved.plain["log_lines"] if saved is not None else 0
    described["steps"] = trainer.steps
    if not is_own:
        folder.discard()
    command = [f"{run.entry_point}.py", *argv]
    folder.start(run.config, command, described, saved is not None, step, lines, args.log_ids, run.files)
    ranks.wait()  # all have read what they go on from
    if ranks.first:
        store.clear_unfinished()
        store.abandon_after(step)
        where = f"on {device}" + (f", {ranks.count} processes" if ranks.count > 1 else "")
        goes_on = f", goes on from {saved.path}" if saved is not None else ""
        print(
            f"{folder.path}: {described['parameters'] / 1e6:.2f} M parameters, {run.start}, {where}{goes_on}",
            file=sys.stderr,
        )
        if switched is not None and saved is None:
            _warn_of_early_floor(run, switched)
    return trainer


def train_to_end(trainer: Trainer) -> TrainingProgress:
    """Trains, closes the run's logs, and writes what its folder says of its model; returns where the run stands.

    Raises:
        Stopped, UserError: as ``Trainer.fit``; and where what the run wrote is damaged.
    """
    with closing(trainer.run):
        progress = trainer.fit()
        if trainer.ranks.first:
            write_run_record(trainer.run.path)
    return progress


def _warn_of_early_floor(run: TrainingRun, switched: SwitchEncoder) -> None:
    """Says on standard error where the temperature reaches its floor before the learning rate is whole."""
    start, given = float(switched.switch_start_temperature), int(switched.switch_floor_samples)
    until = given or samples_until_floor(switched.switch, start)
    if until < run.warmup_samples:
        share = "anneal_share" if run.entry_point == "train_concap" else "finetune_anneal_share"
        print(
            f"note: the temperature reaches its floor of {switched.switch.min_temperature:g} after {until:,.0f} of "
            f"{run.samples:,} samples, inside the learning rate's warm-up of {run.warmup_samples:,.0f}: routes are "
            f"fixed before the switchers have learnt; --set switch.{share}=1 anneals over the whole run "
            "(docs/routes.md)",
            file=sys.stderr,
        )


def _identity(run: TrainingRun, settings: dict[str, Any], precision: torch.dtype) -> dict[str, Any]:
    """Returns what must agree when a run is resumed; what a user is likely to have changed stands first."""
    return {
        "config": deciding_config(run.config),
        "hyperparameters": run.hyper.to_dict(),
        **settings,
        "precision": str(precision).removeprefix("torch."),
        "data": run.fingerprints,
        "start": fingerprint(run.learner.model),
    }


def _trainer(
    args: argparse.Namespace,
    run: TrainingRun,
    replicas: Replicas,
    folder: RunFolder,
    store: CheckpointStore,
    device: torch.device,
    precision: torch.dtype,
    identity: dict[str, Any],
) -> Trainer:
    steps, minutes = args.save_every
    return Trainer(
        replicas=replicas,
        loader=run.loader,
        validation=run.val_loader,
        validate=run.validate,
        hyper=run.hyper,
        run=folder,
        store=store,
        device=device,
        precision=precision,
        identity=identity,
        accumulate=args.accumulate,
        deterministic=args.deterministic,
        max_skipped=args.max_skipped_steps,
        saving=SavingSchedule(steps, minutes, not args.save_best_only),
        log_every=args.log_every,
        max_steps=args.max_steps,
    )


def _described(
    args: argparse.Namespace, run: TrainingRun, settings: dict[str, Any], precision: torch.dtype, ranks: Ranks
) -> dict[str, Any]:
    """Returns what ``run.json`` says beside the command and the environment."""
    return {
        "entry_point": run.entry_point,
        "start": run.start,
        "results_version": RESULTS_VERSION,
        "origin": describe_origin(args.from_pretrained, run.start) if ranks.first else {},
        "configuration": describe_configuration(args.config_file, run.config),
        "synthetic_world": world_of(run.data.get("dataroot") or run.data["annotations_path"]),
        "hyperparameters": run.hyper.to_dict(),
        "settings": settings | ({"max_steps": args.max_steps} if args.max_steps else {}),
        "data": {**run.data, "fingerprints": run.fingerprints},
        "precision": str(precision).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in run.learner.model.parameters()),
        "processes": ranks.count,
        "accumulation_steps": args.accumulate,
    }


def _check_flags(args: argparse.Namespace, run: TrainingRun, precision: torch.dtype, ranks: Ranks) -> None:
    if args.resume and args.overwrite:
        raise UserError("--resume goes on with what the folder holds, --overwrite discards it; give one of them")
    parts = args.accumulate * ranks.count
    if parts > run.hyper.batch_size:
        raise UserError(
            f"a batch of {run.hyper.batch_size} cannot be divided into {parts} parts ({ranks.count} processes times "
            f"--gradient_accumulation_steps {args.accumulate}); lower one of these or raise the batch size"
        )
    if args.fsdp and precision == torch.float16:
        raise UserError("--fsdp with --precision fp16: a divided model's loss cannot be scaled here; take bf16")
    reason = batch_dependent(run.config) if args.deterministic and parts > 1 else ""
    if reason:
        raise UserError(f"--deterministic with {parts} parts: {reason}; give one process and one accumulation step")


def check_same_start(start: str, ranks: Ranks) -> None:
    """Compares what the processes start from: each reads its weights, and nothing sends them to the others.

    Args:
        start: the fingerprint of this process's weights.
        ranks: all processes; each calls it.

    Raises:
        UserError: they differ, as where a branch on the hub moved while the processes looked it up.
    """
    if len(set(ranks.gathered(start))) > 1:
        raise UserError(
            "--from_pretrained: the processes were given different weights; name a commit (hf://owner/name@commit), or "
            "a file that is the same for all"
        )


def _saved(
    args: argparse.Namespace, store: CheckpointStore, identity: dict[str, Any], ranks: Ranks
) -> Checkpoint | None:
    """Returns the checkpoint that the flags ask to go on from, read and checked; the first process chooses it."""
    restarted = environment_number("TORCHELASTIC_RESTART_COUNT", 0) > 0  # by torchrun, after a process had ended
    newest = store.newest() if args.resume or restarted else None
    chosen = ranks.gathered(args.resume_file or (str(newest) if newest else ""))[0]
    if not chosen:
        return None
    saved = store.load(Path(chosen))
    check_identity(saved, identity)
    return saved


def _prepare(args: argparse.Namespace, model: torch.nn.Module, device: torch.device) -> None:
    """Sets what the flags say of how layers are computed."""
    if args.deterministic:
        compute_deterministically(device)
    if args.gradient_checkpointing:
        encoder_of(model).checkpointing = True
    if args.compile:
        compile_layers(model)


def initial_weights(model: nn.Module, config: Config, source: str, allow_deeper_bert: bool = False) -> str:
    """Sets a model's start: from nothing (``""``), another run's weights, or a Hugging Face BERT.

    Args:
        model: any model of this project.
        config: its configuration.
        source: a file of weights, a folder with ``model.safetensors`` or ``pytorch_model.bin``, a hub name, or an
            address on the hub.
        allow_deeper_bert: whether layers of a BERT may be left out (``load_bert``).

    Returns:
        What was done, in words for the log: where the weights come from, what of them was left out, and what of the
        model stays fresh.

    Raises:
        UserError: the weights are not there, are another project's, or do not fit.
    """
    if not source:
        return "random initial weights"
    state = read_weights(source if is_weight_file(source) else find_bert(source))
    if is_of_a_run(state):
        return _from_run(model, state, source)
    return f"text side from {source}{load_bert(model, config, state, source, allow_deeper_bert).described}"


def _from_run(model: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    # A head that is there in part is no fresh one: what it lacks is missing.
    tasks = [f"clfs_dict.{task}." for task in getattr(model, "clfs_dict", ())]
    heads = [head for head in tasks if not any(name.startswith(head) for name in state)]
    switched = switch_encoder(model)
    if switched is not None and not any("switch" in name for name in state):
        heads.append("switch")
    left = ("cls.", "clfs_dict.") if tasks else ("clfs_dict.",)
    kept = load_volta(model, state, fresh=heads, unused=left, source=source)
    if switched is not None:  # another run's weights: the temperature starts anew, lower
        switched.start_annealing(switched.switch.finetune_temperature)
    fresh = sorted({name.split(".")[0] if "switch" not in name else "switchers" for name in kept})
    unused = [name.split(".") for name in state if name not in model.state_dict()]
    heads = sorted({parts[0] if parts[0] == "cls" else ".".join(parts[:2]) for parts in unused})
    told = f"weights from {source}" + (f"; left out: {', '.join(heads)}" if heads else "")
    return told + (f"; fresh: {', '.join(fresh)}" if fresh else "")
