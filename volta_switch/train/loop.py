"""The training loop, shared by pre-training and fine-tuning.

One optimiser step learns from one global batch. Its samples are divided among the processes and, within each, among
accumulation steps; the losses of the parts are weighted so that their sum is the loss of the whole.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from volta_switch.command import StopRequest
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.loader import Loader, lost_workers_explained, start_epoch
from volta_switch.errors import Stopped, UserError
from volta_switch.model.bert import switch_encoder
from volta_switch.model.noise import sample_keys
from volta_switch.train.checkpoints import Checkpoint, CheckpointStore, TrainingProgress
from volta_switch.train.device import autocast, out_of_memory_explained
from volta_switch.train.optimisation import (
    Hyperparameters,
    LossCounts,
    SkippedSteps,
    Validation,
    build_optimizer,
    build_schedule,
    clipped_step,
)
from volta_switch.train.ranks import random_states, restore_random_states
from volta_switch.train.replicas import Replicas
from volta_switch.train.run_folder import BEST, FINISHED, RunFolder
from volta_switch.train.step_log import Meter, RouteLog
from volta_switch.train.switch_watch import SwitchWatch
from volta_switch.weights import write_weights

LOG_EVERY = 20  # optimiser steps, as VOLTA


@dataclass(frozen=True)
class SavingSchedule:
    """When checkpoints are written, beside those of every epoch's end and of a stop, and what is kept."""

    steps: int = 0  # every so many optimiser steps; 0: by the clock alone
    minutes: float = 0.0  # since the last one; 0: not by the clock
    epochs_weights: bool = True  # keeps each epoch's weights


@dataclass
class Trainer:
    """One run: descend a learner's losses, validate after every epoch, keep the best, and be able to go on.

    ``validate`` is called in evaluation mode with the batches of validation, for Switch-BERT with hard and with soft
    routes. ``identity`` must agree when a run is resumed. All processes call the same methods in the same order.
    """

    replicas: Replicas
    loader: Loader
    validation: Iterable[Batch]
    validate: Callable[[Iterable[Batch]], Validation]
    hyper: Hyperparameters
    run: RunFolder
    store: CheckpointStore
    device: torch.device
    precision: torch.dtype
    identity: dict[str, Any]
    accumulate: int = 1  # parts of a process's share of a step
    deterministic: bool = False  # dropout and Gumbel noise by sample
    max_skipped: int = 10  # steps left out for numbers that are not finite, before the run is stopped
    saving: SavingSchedule = field(default_factory=SavingSchedule)
    log_every: int = LOG_EVERY  # optimiser steps
    max_steps: int = 0  # ends after so many optimiser steps, in the middle of an epoch, too; 0: with the last epoch

    def __post_init__(self) -> None:
        self.learner, self.ranks = self.replicas.learner, self.replicas.ranks
        self.switch = switch_encoder(self.learner.model)
        self.optimizer = build_optimizer(self.learner.model, self.hyper)
        sampler: Any = self.loader.batch_sampler
        self.steps_per_epoch: int = sampler.batches_per_epoch
        self.scheduler = build_schedule(self.optimizer, self.hyper, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.progress = TrainingProgress()
        self.meter, self.routes = Meter(self.device, self.ranks), RouteLog(self.learner, self.ranks)
        self.watch = SwitchWatch(self.switch, self.run)
        self.stop = StopRequest()
        self.skipped = SkippedSteps(self.run, self.ranks, self.max_skipped)
        self.saved_at = time.monotonic()
        self.validated_step = -1

    def resume(self, saved: Checkpoint) -> None:
        """Goes on where a checkpoint was written; the model has its weights already."""
        self.progress = saved.progress
        optimizer = {name: value for name, value in saved.training.items() if not name.startswith("rng/")}
        self.replicas.restore_optimizer(self.optimizer, optimizer)
        self.scheduler.last_epoch = self.progress.step
        factors = (schedule(self.progress.step) for schedule in self.scheduler.lr_lambdas)
        for group, base, factor in zip(self.optimizer.param_groups, self.scheduler.base_lrs, factors, strict=True):
            group["lr"] = base * factor
        self.validated_step = saved.plain.get("validated_step", -1)
        self.meter.restore(saved.plain["meter"])
        self.routes.restore(saved.plain.get("routes"))
        self.watch.restore(saved.plain.get("switchers"))
        if self.scaler.is_enabled() and saved.plain["loss_scale"]:
            self.scaler.load_state_dict(saved.plain["loss_scale"])
        restore_random_states(saved.training, self.hyper.seed, self.progress.step, self.ranks)

    def fit(self) -> TrainingProgress:
        """Trains to the last epoch, or for ``max_steps`` steps; returns where the run stands.

        Raises:
            Stopped: somebody asked for it, and a checkpoint was written.
            UserError: of the data, the memory, the disk, another process, or numbers that are not finite.
        """
        with self.stop.listening(), self.ranks.together(), lost_workers_explained():
            while not self.has_ended:
                if not self._has_its_steps(0):  # else it was stopped before they were validated
                    self._epoch()
                self._finish_epoch()
        self.routes.record_means(self.run)
        self.run.record(FINISHED, self.progress.step)
        return self.progress

    @property
    def has_ended(self) -> bool:
        """Returns whether all epochs or ``max_steps`` are done, and what they made is validated and written."""
        early = self._has_its_steps(0) and self.validated_step == self.progress.step
        return early or self.progress.epoch >= self.hyper.epochs

    @property
    def steps(self) -> int:
        """Returns the optimiser steps of the whole run."""
        steps = self.steps_per_epoch * self.hyper.epochs
        return min(steps, self.max_steps or steps)

    def _epoch(self) -> None:
        """Trains the rest of the epoch under way."""
        progress = self.progress
        start_epoch(self.loader, progress.epoch, progress.batch)
        self.learner.train()
        label = f"epoch {progress.epoch + 1}/{self.hyper.epochs}"
        shown = None if self.ranks.first else True
        batches = iter(self.loader)
        self.meter.start_clock()
        with (
            tqdm(total=self.steps_per_epoch, initial=progress.batch, desc=label, unit="step", disable=shown) as bar,
            contextlib.closing(batches),
        ):  # type: ignore[type-var]
            while progress.batch < self.steps_per_epoch and not self._has_its_steps(0):
                with self.meter.waiting():
                    parts = self._parts(batches)
                due = progress.batch + 1 == self.steps_per_epoch or (progress.step + 1) % self.log_every == 0
                due = due or self._has_its_steps(1)
                with out_of_memory_explained(lambda: self._memory_advice(parts)), self.routes.watching(due):  # noqa: B023
                    self._step(parts)
                if due:
                    self._log(bar)
                if self.saving.steps and progress.step % self.saving.steps == 0:
                    self._save()
                bar.update()

    def _parts(self, batches: Iterator[Batch]) -> list[Batch]:
        """Returns this process's parts of the next step; none where it was asked to stop while it waited for them."""
        try:
            return list(itertools.islice(batches, self.accumulate))
        except (UserError, RuntimeError):
            if self.stop.signal:  # which may have reached the loader's processes, too
                return []
            raise

    def _step(self, parts: list[Batch]) -> None:
        """Takes one optimiser step over all parts of all processes."""
        progress, own = self.progress, [self.learner.counts(batch) for batch in parts]
        samples, total = self._agreed(parts, own)
        with self.replicas.step([name for name, count in total.items() if count]):
            for number, (batch, counts) in enumerate(zip(parts, own, strict=True)):
                if batch.inputs:  # else all its records were passed over
                    with self.replicas.accumulating(last=number == len(parts) - 1):
                        self._backward(batch, counts, total)
        self.replicas.update_statistics()
        own_fault = self._own_fault()
        left_out = self._update()
        progress.step += 1
        progress.batch += 1
        progress.samples += samples
        self.meter.step_done(samples)
        self.run.log_ids(progress.epoch, progress.step, [batch.ids for batch in parts])
        ids = [name for batch in parts for name in batch.ids]
        self.skipped.suspect(progress.step, ids, left_out if own_fault is None else left_out * own_fault)
        if self.device.type == "cpu":
            self.skipped.look(progress)

    def _agreed(self, parts: list[Batch], own: list[LossCounts]) -> tuple[int, LossCounts]:
        """Returns samples and counts of the whole step, over all processes; here they stop and save together."""
        names = self.learner.losses
        due = self.saving.minutes and time.monotonic() - self.saved_at > 60 * self.saving.minutes
        asked = [float(self.stop.signal), float(bool(due) and self.ranks.first)]
        sums = self.ranks.sums([*asked, sum(map(len, parts)), *(sum(each[name] for each in own) for name in names)])
        self._stop_if(sums[0])
        if sums[1]:
            self._save()
        return int(sums[2]), {name: int(count) for name, count in zip(names, sums[3:], strict=True)}

    def _backward(self, batch: Batch, counts: LossCounts, total: LossCounts) -> None:
        """Adds the gradients of one part, and its share of the step's losses."""
        if self.switch is not None:
            self.switch.switch_samples.fill_(self.progress.samples)
        batch = batch.to(self.device)
        if self.deterministic:
            rows = len(batch.inputs["input_ids"])
            ids = batch.ids or [""]  # a stand-in's noise changes nothing
            # They stay on the host: the model sends them, as it sends all that its rows are planned from.
            batch.inputs["noise_keys"] = sample_keys(self.hyper.seed, self.progress.epoch, ids, rows)
        with autocast(self.device, self.precision):
            losses = self.replicas(batch)
        shares = {name: loss * (counts[name] / max(total[name], 1)) for name, loss in losses.items()}
        loss = torch.stack(list(shares.values())).sum()
        self.scaler.scale(loss * self.ranks.count).backward()  # the processes' gradients are averaged
        self.meter.add({name: share.detach() for name, share in shares.items()})

    def _own_fault(self) -> Tensor | None:
        """Returns whether gradients that are not finite are the batch's fault, 0 or 1 on the device; None: always.

        An overflow of gradients that are scaled up is not. The scale is compared on the device: to read it would wait
        for all that is queued there.
        """
        if not self.scaler.is_enabled():
            return None
        return (self.scaler.scale(torch.ones((), device=self.device)) <= 1).float()

    def _update(self) -> Tensor:
        """Takes the optimiser's step with the gradients of all parts; returns whether it was left out."""
        scaled = self.scaler.is_enabled() and any(parameter.grad is not None for parameter in self.learner.parameters())
        if scaled:
            self.scaler.unscale_(self.optimizer)
        left_out = clipped_step(self.optimizer, self.hyper.clip_grad_norm)
        if scaled:
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        return left_out

    def _log(self, bar: tqdm) -> None:
        self.skipped.look(self.progress)
        values = self.meter.read() | self.routes.read()
        values |= {"epoch": self.progress.epoch, "samples": self.progress.samples}
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        rate = f"{values['samples_per_second']:.0f}"
        wait = f"{values['data_wait']:.0%}"
        bar.set_postfix(
            {"loss": f"{values['loss']:.3f}", "lr": f"{values['lr']:.1e}", "samples/s": rate, "data wait": wait}
        )
        if self.switch is not None:
            values["temperature"] = float(self.switch.temperature)
        if self.scaler.is_enabled():
            values["loss_scale"] = self.scaler.get_scale()
        self.run.log("train", self.progress.step, values)

    def _has_its_steps(self, more: int) -> bool:
        """Returns whether ``max_steps`` are done after so many more."""
        return 0 < self.max_steps <= self.progress.step + more

    def _finish_epoch(self) -> None:
        """Validates, keeps what is to be kept, and moves on; stays in an epoch that ``max_steps`` cut short.

        All is written before anything is said of it: standard output may be full, or nobody may read it.
        """
        progress = self.progress
        validation = self._validation()
        self.skipped.refuse_idle(progress)
        validation.refuse_broken(self.run.path, progress.step)
        values = {"epoch": progress.epoch, "samples": progress.samples, "score": validation.score, **validation.metrics}
        values |= self.watch.found
        self.run.log("valid", progress.step, values)
        warnings = self.watch.collapse(progress.step, progress.step / self.steps)
        improved = validation.score > progress.best_score
        if improved:
            progress.best_score, progress.best_epoch = validation.score, progress.epoch
        if improved or self.saving.epochs_weights:
            weights = self.replicas.weights()
            if improved and self.ranks.first:
                write_weights(self.run.path / BEST, weights, recorded=True)
                self.run.record("best_validation", values)
            if self.saving.epochs_weights and self.ranks.first:
                write_weights(self.run.path / f"pytorch_model_{progress.epoch}.bin", weights, recorded=True)
        self.run.record("last_validation", values)
        self.validated_step = progress.step
        said = f"validation after epoch {progress.epoch + 1}: {validation.shown}"
        if progress.batch == self.steps_per_epoch:
            progress.epoch += 1
            progress.batch = 0
        self._save()
        if self.ranks.first:
            tqdm.write("\n".join([said, *warnings]), sys.stderr)

    def _validation(self) -> Validation:
        """Validates once, as ``SwitchWatch.validated`` says."""
        self.learner.eval()
        with autocast(self.device, self.precision):  # what evaluation computes afterwards
            return self.watch.validated(lambda: self.validate(self._until_stopped()))

    def _until_stopped(self) -> Iterator[Batch]:
        """Yields the batches of validation; a stop leaves the epoch to be validated when the run goes on."""
        for batch in self.watch.noting(self.validation):
            self._stop_if(self.ranks.sums([float(self.stop.signal)])[0])
            yield batch

    def _stop_if(self, asked: float) -> None:
        """Stops the run where asked; ``asked``: the signals that all processes got, added up."""
        if asked:
            path, step = self._save(), self.progress.step
            goes_on = f"stopped after step {step}; {path} is written: the same command with --resume goes on"
            by = self.stop.signal or signal.SIGTERM  # 0: another process was asked
            raise Stopped(goes_on if self.ranks.first else "", by)

    def _save(self) -> Any:
        """Writes a checkpoint; returns its path, on the first process."""
        self.skipped.look(self.progress)
        plain = {
            "processes": self.ranks.count,
            "loss_scale": self.scaler.state_dict(),
            "meter": self.meter.state(),
            "routes": self.routes.state(),
            "switchers": self.watch.state(),
            "log_lines": self.run.log_lines,
            "validated_step": self.validated_step,
        }
        training = self.replicas.optimizer_state(self.optimizer) | random_states(self.ranks)
        weights = self.replicas.weights()
        self.saved_at = time.monotonic()
        if not self.ranks.first:
            return self.store.folder
        return self.store.save(self.progress, self.identity, plain, weights, training)

    def _memory_advice(self, parts: list[Batch]) -> str:
        samples, more = max(map(len, parts)), 2 * self.accumulate
        return (
            f"{samples} samples at once are too many for {self.device}; --gradient_accumulation_steps {more} halves "
            f"them and keeps the global batch of {self.hyper.batch_size} (with --resume the run goes on from its last "
            "checkpoint), --gradient_checkpointing takes less memory and more time"
        )
