"""``volta-switch ablate``: reads a split of Flickr30k Entities, measures a model, prints and writes the losses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from volta_switch.ablation.masking import Texts
from volta_switch.ablation.measurement import Setting, measure, refuse_unfit
from volta_switch.ablation.report import loss_rows, per_phrase, table_text
from volta_switch.ablation.samples import SplitSamples
from volta_switch.ablation.settings import LANGUAGE, MASKINGS
from volta_switch.checksums import record_json
from volta_switch.config.model_folder import tasks_in
from volta_switch.data.entities import DATA_SET, load_entities
from volta_switch.data.feature_files import open_features
from volta_switch.data.tokenizer import check_vocab_size
from volta_switch.errors import UserError
from volta_switch.files import refuse_replacing
from volta_switch.hub_models import is_address, pinned, repository_name
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.tasks.task_file import TaskSpec, load_task, names_of_tasks
from volta_switch.train.device import autocast, out_of_memory_explained, prepare_device
from volta_switch.weights import fingerprint
from volta_switch.world.spec import ABLATION_FILE

FORMAT = 1


def run_ablation(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: flags contradict each other, or the model, the annotations or the features cannot be used.
    """
    settings = chosen_settings(args.direction, args.masking)
    if DATA_SET not in names_of_tasks(args.tasks_config_file):
        raise UserError(
            f"{args.tasks_config_file}: no task {DATA_SET}, Flickr30k Entities; give a file that has it: a world with "
            f"--data-sets entities writes {ABLATION_FILE}"
        )
    spec = load_task(args.tasks_config_file, args.task, args.data_root)
    if spec.name != DATA_SET:
        raise UserError(f"{args.tasks_config_file}: {spec.key} is {spec.name}, expected {DATA_SET}; name it (--task)")
    split = args.split or spec.val_split
    if "/" in split:
        raise UserError(f"--split {split}: expected the name of a list of images in the data set's folder, as val")
    source = pinned(args.model) if is_address(args.model) else args.model
    name = repository_name(source) if is_address(source) else Path(source).resolve().name
    out = Path(args.out or f"results/{name}/{split}_ablation.json")
    if out.is_dir():
        raise UserError(f"--out {out}: expected a file's name, for example ablation.json")
    refuse_replacing(out, args.overwrite)
    if tasks := tasks_in(source):
        raise UserError(
            f"{source}: fine-tuned on {', '.join(tasks)}, so that the heads of pre-training are gone; give the "
            "pre-trained model that it began from"
        )
    device, precision = prepare_device(args)
    model = BertForVLPreTraining.from_pretrained(source, overrides=args.set)
    refuse_unfit(model, settings)
    samples = _samples(args, spec, split, model, settings)
    model.to(device)
    with out_of_memory_explained(lambda: "give a smaller --batch-size"), autocast(device, precision):
        losses = measure(model, samples, settings, args.batch_size)
    rows = loss_rows(samples.phrases, losses)
    found: dict[str, Any] = {
        **{"format": FORMAT, "model": source, "weights": fingerprint(model), "split": split},
        **{"overlap_threshold": args.overlap_threshold, "max_seq_length": spec.max_seq_length},
        "losses": [row.to_dict() for row in rows],
        "per phrase": per_phrase(samples.phrases, losses),
    }
    record_json(out, found)
    print(table_text(rows), f"written to {out}", sep="\n")


def chosen_settings(direction: str, maskings: list[str]) -> tuple[Setting, ...]:
    """Returns the directions with their maskings that the flags name.

    Raises:
        UserError: one of the maskings is none of the direction's, or leaves it nothing.
    """
    directions = [name for name in MASKINGS if direction in (name, "both")]
    known = {masking for name in directions for masking in MASKINGS[name]}
    for masking in maskings:
        if masking not in known:
            other = next(name for name in MASKINGS if masking in MASKINGS[name])
            own = ", ".join(MASKINGS[directions[0]])
            raise UserError(f"--masking {masking}: is of --direction {other}; {direction} has {own}")
    return tuple((name, each) for name in directions for each in MASKINGS[name] if not maskings or each in maskings)


def _samples(
    args: argparse.Namespace, spec: TaskSpec, split: str, model: BertForVLPreTraining, settings: tuple[Setting, ...]
) -> SplitSamples:
    """Opens what is read of a split."""
    config = model.config
    check_vocab_size(model.tokenizer, config.vocab_size)
    if spec.max_seq_length > config.max_position_embeddings:
        raise UserError(
            f"{args.tasks_config_file}: max_seq_length is {spec.max_seq_length}, more than the model's "
            f"max_position_embeddings, {config.max_position_embeddings}; set it lower"
        )
    features = spec.given_path(args.features) if args.features else spec.path(spec.features_h5path1)
    needs_classes = any(direction == LANGUAGE for direction, _ in settings)
    store = open_features(features, config.v_feature_size, detections=needs_classes)
    phrases = load_entities(spec.path(spec.dataroot), split)
    texts = Texts(model.tokenizer, spec.max_seq_length)
    return SplitSamples(phrases, store, texts, args.overlap_threshold, spec.max_region_num)
