"""``eval_task.py`` and ``eval_retrieval.py``: a trained model on a split, with the task's exact metrics."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from volta_switch import __version__
from volta_switch.checksums import Changed, is_there, record_json, recording
from volta_switch.config import load_config
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import folder_around, is_model_folder, refuse_other_labels, tasks_in
from volta_switch.data.files.json_files import read_object
from volta_switch.errors import UserError
from volta_switch.identities import described, differences
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks, switch_encoder
from volta_switch.tasks import Evaluation, Task, build_task, features_path
from volta_switch.tasks.retrieval import RetrievalTask
from volta_switch.tasks.retrieval_dataset import inputs_identity
from volta_switch.tasks.retrieval_pools import write_matrix
from volta_switch.tasks.retrieval_scores import ScoreParts
from volta_switch.tasks.task import Share
from volta_switch.tasks.task_file import UNREAD
from volta_switch.train.card_results import add_to_card, digest_beside_card
from volta_switch.train.device import autocast, prepare_device
from volta_switch.train.entry_points import read_flags
from volta_switch.train.flag_values import evaluated_spec, load_model_config, run_name
from volta_switch.train.ranks import Ranks, ranks
from volta_switch.train.run_data import (
    data_options,
    deciding_config,
    detector_of,
    load_tokenizer,
    task_fingerprints,
    vocabulary_fingerprint,
)
from volta_switch.weights import fingerprint, load_volta, read_weights

_OF_TRAINING = (
    *("initializer_range", "initial_scale", "image_bias_range", "visual_target_weights", "fusion_method"),
    *("anneal_rate", "anneal_share", "finetune_anneal_share"),
)


def is_of_training(field: str) -> bool:
    """Returns whether a field of a configuration decides nothing of an evaluation, or is the task's (the fusion)."""
    return field in _OF_TRAINING or field.endswith(("dropout_prob", "temperature"))


def main(argv: Sequence[str]) -> Evaluation:
    """Evaluates one model on one split; writes ``<split>_result.json`` and ``<split>_metrics.json``."""
    return evaluate_task(read_flags("eval_task", argv), argv)


def evaluate_task(args: argparse.Namespace, argv: Sequence[str]) -> Evaluation:
    """Does what ``main`` does, once the flags are read."""
    run = _with_identity(args, prepare(args))
    with _interruptible("interrupted; nothing was written"), run.autocast():
        result = run.task.test(run.model, run.split, args.batch_size, run.device)  # type: ignore[arg-type]
    run.write(result)
    return result


def main_retrieval(argv: Sequence[str]) -> Evaluation | None:
    """Evaluates retrieval over all pairs; ``--zero_shot`` reads a pre-training model's matching head.

    ``<split>_ranks.json`` tells the ranks in both directions, from 0, in the order of captions and images.

    None of a process that leaves the results to another one: of a shard, and of all ranks but the first.
    """
    return evaluate_retrieval(read_flags("eval_retrieval", argv), argv)


def evaluate_retrieval(args: argparse.Namespace, argv: Sequence[str]) -> Evaluation | None:
    """Does what ``main_retrieval`` does, once the flags are read."""
    with ranks() as rank:
        return evaluate_pairs(args, rank)


@dataclass(frozen=True)
class EvaluationRun:
    """One evaluation: a task, a model with its weights, where they run and where the results go."""

    task: Task
    split: str
    model: BertForVLTasks | BertForVLPreTraining
    device: torch.device
    precision: torch.dtype
    weights: str  # the file, or an address on the hub
    folder: Path
    # What decides the results; what a user is likely to have changed stands first.
    identity: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""  # of the file, before it was read; "": it lies beside no ``training.json``

    @property
    def other_settings(self) -> list[tuple[str, Any, Any]]:
        """Settings that shapes do not show and that the model's folder, in which its weights lie, has otherwise.

        Each with both values. Dropout and initial values count in training alone; a task may set the fusion itself.
        """
        folder, spec = folder_around(self.weights), self.task.spec
        trained, here = _of_folder(folder), deciding_config(self.task.config)
        found = [] if trained is None else list(differences(trained, here))
        found = [each for each in found if not any(map(is_of_training, each[0].split(".")))]
        entry = tasks_in(folder).get(spec.key) if trained is not None else None
        if entry is None:
            return found
        return [*found, *differences({name: value for name, value in entry.items() if name not in UNREAD}, spec.kept())]

    def autocast(self) -> torch.autocast:
        """Returns a block in the forward pass's precision."""
        return autocast(self.device, self.precision)

    def refuse_other_results(self) -> None:
        """Raises UserError where the folder holds damaged results, or those of other weights, data or settings."""
        path = self.folder / f"{self.split}_metrics.json"
        if not is_there(path):
            return
        found = read_object(path)
        if "of" in found:
            there, here = found["of"], json.loads(json.dumps(self.identity))
        else:  # of an earlier version, which told the weights' file
            there, here = {"weights": found.get("weights")}, {"weights": self.weights}
        different = described(there, here)
        if different:
            raise UserError(
                f"{path}: holds results of another evaluation, which differs in {different}; discard them with "
                "--overwrite, or give another --save_name"
            )

    def write(self, result: Evaluation) -> None:
        """Writes results and metrics, and says the metrics."""
        spec = self.task.spec
        record_json(self.folder / f"{self.split}_result.json", result.results)
        if result.submission:
            with recording(self.folder / f"{self.split}_submission.csv") as temporary:
                temporary.write_text(result.submission, encoding="utf-8")
        if result.ranks:
            record_json(self.folder / f"{self.split}_ranks.json", result.ranks)
        record_json(
            self.folder / f"{self.split}_metrics.json",
            {
                "task": spec.key,
                "name": spec.name,
                "split": self.split,
                "weights": self.weights,
                **result.notes,
                **result.metrics,
                "of": self.identity,
            },
        )
        for name, trained, tested in self.other_settings:
            print(f"{self.weights}: trained with {name} = {trained}, evaluated with {tested}", file=sys.stderr)
        shown = "  ".join(f"{name} {value:.2f}" for name, value in result.metrics.items())
        shown += "".join(f"  {name}: {value}" for name, value in result.notes.items())
        print(f"{spec.name} {self.split}: {shown}", file=sys.stderr)
        print(f"written to {self.folder}", file=sys.stderr)
        add_to_card(self, result)


def _of_folder(folder: Path) -> dict[str, Any] | None:
    """Returns what decides of the configuration that a model's folder has; None where there is none, or another's."""
    try:
        return deciding_config(load_config(folder / CONFIG)) if is_model_folder(folder) else None
    except Changed:
        raise
    except UserError:  # of another version
        return None


def prepare(args: argparse.Namespace, ranks_of_pairs: Ranks | None = None) -> EvaluationRun:
    """Builds the task and the model that the flags describe; nothing is written.

    Args:
        args: the flags.
        ranks_of_pairs: for retrieval over all pairs, the processes that share them.

    Raises:
        UserError: the flags name something that is not there, or is not meant for this script.
    """
    spec, split = evaluated_spec(args)
    config = load_model_config(args, spec.fusion_method)
    device, precision = prepare_device(args, ranks_of_pairs)
    options = data_options(args, device, args.val_features_lmdbpath, args.num_val_workers)
    task = build_task(spec, config, load_tokenizer(config, spec.max_seq_length), options)
    if ranks_of_pairs is not None and not isinstance(task, RetrievalTask):
        raise UserError(f"{spec.key} ({spec.name}) is no retrieval task; evaluate it with eval_task.py")
    if not args.from_pretrained:
        raise UserError("--from_pretrained: name the model to evaluate, for example a run's folder")
    digest = digest_beside_card(args.from_pretrained)
    state = read_weights(args.from_pretrained)
    stores = [features_path(spec, split, args.val_features_lmdbpath, args.boxes)]
    detector_of(stores, args.from_pretrained, ranks_of_pairs is None or ranks_of_pairs.first)
    model: BertForVLTasks | BertForVLPreTraining
    if args.zero_shot:
        model = BertForVLPreTraining(config)
        load_volta(model, state, source=args.from_pretrained)
    else:
        refuse_other_labels(args.from_pretrained, spec.key, task.labels(spec))
        model = BertForVLTasks(config, {spec.key: spec.head()})
        load_volta(model, state, unused=("cls.", "clfs_dict"), source=args.from_pretrained)
    model.to(device)
    switched = switch_encoder(model)
    if switched is not None:
        switched.routing = args.routing
    folder = Path(args.output_dir) / run_name(args, f"{spec.name}_")
    return EvaluationRun(task, split, model, device, precision, args.from_pretrained, folder, weights_sha256=digest)


def _with_identity(args: argparse.Namespace, run: EvaluationRun) -> EvaluationRun:
    """Returns the run with its identity, by which its results are told from another one's.

    Raises:
        UserError: the folder holds others, and ``--overwrite`` is not given.
    """
    spec, config = run.task.spec, run.task.config
    identity = {
        "task": f"{spec.key} ({spec.name})",
        "split": run.split,
        "zero_shot": args.zero_shot,
        "weights": fingerprint(run.model),
        "routing": args.routing,
        "precision": str(run.precision).removeprefix("torch."),
        "boxes": args.boxes,
        "volta_compat": args.volta_compat,
        "entry": spec.deciding(),
        **({} if spec.pool_images is None else {"pool_images": spec.pool_images}),
        "config": deciding_config(config),
        "data": vocabulary_fingerprint(config)
        | task_fingerprints(spec, args.boxes, [(run.split, False, args.val_features_lmdbpath)]),
    }
    run = replace(run, identity=identity)
    if not args.overwrite:
        run.refuse_other_results()
    return run


def evaluate_pairs(args: argparse.Namespace, rank: Ranks) -> Evaluation | None:
    """Scores all pairs, or this process's share of them, part by part, and ranks them when all are there.

    Raises:
        UserError: the flags contradict each other, or the parts that are there belong to another computation.
    """
    if args.shard and rank.count > 1:
        raise UserError("--shard: torchrun divides the pairs among its processes; give one or the other")
    run = _with_identity(args, prepare(args, rank))
    task, folder = run.task, run.folder / f"{run.split}_scores"
    assert isinstance(task, RetrievalTask)
    if args.shard and args.restart:
        raise UserError(f"--restart would discard the other shards' scores, too; delete {folder} instead, once")
    task.check_model(run.model)
    pairs = task.pairs(run.split)
    decided = {name: value for name, value in run.identity.items() if name != "data"}  # what is read of them follows
    identity = {"volta_switch": __version__, **decided, **inputs_identity(pairs, task.layout)}
    parts = ScoreParts(folder, identity, pairs.pools)
    with closing(parts):
        if rank.first:
            parts.open(args.restart)
        rank.wait()
        if not rank.first:
            parts.open()
        scorer = task.scorer(run.model, pairs, args.batch_size, run.device)
        share = args.shard or Share(rank.number, rank.count)
        kept = f"interrupted; finished parts are kept in {folder}, and the same command goes on"
        with _interruptible(kept), run.autocast():
            parts.fill(scorer, share, _name(share), shown=rank.first)
            if not rank.first:
                parts.close()  # before the first process takes the folder for itself
            rank.wait()
        if args.shard:
            print(_after_shard(parts, share), file=sys.stderr)
        if args.shard or not rank.first:
            return None
        scores = parts.matrix()
        if args.keep_scores:
            write_matrix(run.folder / f"{run.split}_scores.npy", scores)
        result = task.ranked(scores, pairs.caption_image)
        run.write(result)
        parts.remove()
    return result


def _after_shard(parts: ScoreParts, share: Share) -> str:
    missing, shard = len(parts.missing()), f"{_name(share)} is finished"
    if missing:
        return f"{shard}; {missing} of all {len(parts.parts)} parts are still missing: run the other shards"
    return f"{shard}, and so are all others; the same command without --shard writes the results"


def _name(share: Share) -> str:
    return "all pairs" if share.count == 1 else f"shard {share.number + 1}/{share.count}"


@contextmanager
def _interruptible(message: str) -> Iterator[None]:
    """Gives Ctrl-C inside the block the line that `run_command` prints."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(message) from None
