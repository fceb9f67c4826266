"""What corrupts numbers of pre-training.

Legend: B batch, R regions, F feature width, C classes.
"""

from __future__ import annotations

import io
import json
import os
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from volta_switch.config import load_config
from volta_switch.hub import find_bert
from volta_switch.plugin.repairs.stopping import lists_weights
from volta_switch.plugin.script import CONCAP, Script, corrupts
from volta_switch.weights import read_weights, volta_name


@corrupts("volta/datasets/concept_cap_dataset.py:203", scripts=(CONCAP,))
def seeds(script: Script) -> None:
    """--seed fixes neither order nor masks, which depend on time, process and workers; fixed, one process reads."""
    import tensorpack.dataflow as td
    from tensorpack.utils import utils as tensorpack_utils

    script.patches.set(td, "PrefetchData", lambda ds, *sizes: ds)
    script.patches.set(td, "PrefetchDataZMQ", lambda ds, workers: td.FixedSizeData(ds, len(ds), keep_state=True))
    concap = script.volta("datasets.concept_cap_dataset")

    @script.wrap(concap.ConceptCapLoaderTrain, "__init__")
    def init_loader(original: Any, self: Any, *args: Any, **options: Any) -> None:
        script.patches.set(tensorpack_utils, "_RNG_SEED", script.args.seed)  # which its fix_rng_seed sets, for good
        original(self, *args, **options)

    @script.wrap(concap.BertPreprocessBatch, "__init__")
    def init(original: Any, self: Any, caption_path: str, *args: Any, **options: Any) -> None:
        original(self, caption_path, *args, **options)
        self.read, self.same_every_epoch = 0, caption_path.endswith("caption_valid.json")

    @script.wrap(concap.BertPreprocessBatch, "__call__")
    def preprocess(original: Any, self: Any, record: Any) -> Any:
        number = self.read % self.num_caps if self.same_every_epoch else self.read
        self.read += 1
        key = zlib.crc32(f"{script.args.seed} {self.same_every_epoch} {number}".encode())
        random.seed(key)
        np.random.seed(key)
        return original(self, record)


# Where VOLTA's Conceptual Captions batches have what.
WORD_LABELS, MISMATCHED, FEATURES, LOCATIONS, REGION_LABELS, REGION_MASK = 3, 4, 5, 6, 13, 14
Batch = list[Any]


def _change_batches(script: Script, loaders: Sequence[str], change: Callable[[Any, Batch], None]) -> None:
    for name in loaders:
        loader = getattr(script.volta("datasets.concept_cap_dataset"), name)

        @script.wrap(loader, "__iter__")
        def batches(original: Any, self: Any) -> Iterator[tuple[Any, ...]]:
            for batch in original(self):
                changed = list(batch)
                change(self, changed)
                yield tuple(changed)


@corrupts("volta/datasets/concept_cap_dataset.py:360", scripts=(CONCAP,))
def global_last(script: Script) -> None:
    """Validation puts the global region first even where the model has it last."""

    def move(loader: Any, batch: Batch) -> None:
        if loader.add_global_imgfeat == "last":
            for field in (FEATURES, LOCATIONS, REGION_MASK):
                batch[field] = torch.roll(batch[field], -1, dims=1)

    _change_batches(script, ("ConceptCapLoaderVal",), move)


@corrupts("volta/datasets/concept_cap_dataset.py:236", scripts=(CONCAP,))
def global_mean(script: Script) -> None:
    """The global feature is a sum over all boxes, divided by those that overlap no masked one; fixed, the mean of the
    boxes that are not masked."""

    def average(loader: Any, batch: Batch) -> None:
        place = loader.add_global_imgfeat
        if place is None:
            return
        validation_first = type(loader).__name__ == "ConceptCapLoaderVal" and "global-last" not in script.applied
        last = place == "last" and not validation_first
        boxes = batch[FEATURES][:, :-1] if last else batch[FEATURES][:, 1:]  # (B, 36, F)
        real = (batch[REGION_MASK][:, :-1] if last else batch[REGION_MASK][:, 1:]).bool()
        free = real & (batch[REGION_LABELS] != 1)
        counted = torch.where(free.any(1, keepdim=True), free, real)[..., None]
        batch[FEATURES][:, -1 if last else 0] = (boxes * counted).sum(1) / counted.sum(1).clamp(min=1)

    _change_batches(script, ("ConceptCapLoaderTrain", "ConceptCapLoaderVal"), average)


@corrupts("train_concap.py:327", scripts=(CONCAP,))
def validation_objective(script: Script) -> None:
    """Validation keeps the masked losses of mismatched pairs under objective 1."""

    def ignore(loader: Any, batch: Batch) -> None:
        if script.args.objective == 1:
            for field in (WORD_LABELS, REGION_LABELS):
                batch[field] = batch[field].masked_fill(batch[MISMATCHED][:, None] != 0, -1)

    _change_batches(script, ("ConceptCapLoaderVal",), ignore)


@corrupts("train_concap.py:214", "script", (CONCAP,))
def bert_rate(script: Script) -> None:
    """BERT's weights are meant to train at a tenth of the rate; the names compared are cut so that none matches."""

    @script.wrap(script.module, "open")
    def opened(original: Any, file: Any, *args: Any, **options: Any) -> Any:
        if not lists_weights(file):
            return original(file, *args, **options)
        with original(file, *args, **options) as listed:
            names = [f"bert.{name}" for name in json.load(listed)]
        names = names or list(read_weights(find_bert(script.args.from_pretrained)))
        names = [name.replace("gamma", "weight").replace("beta", "bias") for name in names]  # as VOLTA's loader does
        config = load_config(script.args.config_file)
        cut = [name[12:] for name in (volta_name(name, config) for name in names) if name]  # as VOLTA cuts its own
        return io.StringIO(json.dumps(cut))


@corrupts("train_concap.py:257", scripts=(CONCAP,))
def resume_epoch(script: Script) -> None:
    """A resumed run first overwrites its checkpoint with epoch -1: resumed again, it starts at epoch 0."""

    @script.wrap(script.volta("train_utils"), "save")
    def save(original: Any, path: str, logger: Any, epoch_id: int, *args: Any, **options: Any) -> None:
        if epoch_id != -1 or not os.path.exists(script.args.resume_file):
            original(path, logger, epoch_id, *args, **options)


@corrupts("volta/encoders.py:974")
def embeddings_from_scratch(script: Script) -> None:
    """Embeddings shared by both modalities are made after the initialisation: a deviation of 1.0, not 0.02."""

    @script.wrap(script.volta("encoders").BertModel, "__init__")
    def init(original: Any, self: Any, config: Any, *args: Any) -> None:
        original(self, config, *args)
        if self.shared_embeddings:
            for kind in ("word", "position", "token_type", "new_token_type", "image_token_type"):
                if hasattr(self.embeddings, f"{kind}_embeddings"):
                    self.init_weights(getattr(self.embeddings, f"{kind}_embeddings"))
            if hasattr(self.embeddings, "end_embedding"):  # VL-BERT's
                self.init_weights(self.embeddings.end_embedding)
            if hasattr(self.embeddings, "special_initialize"):  # VisualBERT's visual ones begin as copies
                self.embeddings.special_initialize()


class _MaskedCrossEntropy(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Scores (N, C) and labels (N,); 0 where every label is ignored."""
        return input.sum() * 0 if bool((target == self.ignore_index).all()) else super().forward(input, target)


@corrupts("volta/encoders.py:1154")
def empty_words(script: Script) -> None:
    """A batch without a masked word has a loss that is not a number; fixed, 0."""

    @script.wrap(script.volta("encoders").BertForVLPreTraining, "__init__")
    def init(original: Any, self: Any, *args: Any) -> None:
        original(self, *args)
        self.loss_fct = _MaskedCrossEntropy(ignore_index=-1)


@corrupts("volta/losses.py:122")
def object_labels(script: Script) -> None:
    """Visual target 6 has 1601 classes, the first one background, but its labels count from 0 without it."""
    criterions = script.volta("encoders").pre_vis_criterions
    criterion = criterions["6"]

    def shifted(scores: Any, weight: Any, label: Any, classes: Any, features: Any, objects: Any, *rest: Any) -> Any:
        return criterion(scores, weight, label, classes, features, None if objects is None else objects + 1, *rest)

    script.patches.set_item(criterions, "6", shifted)


@corrupts("volta/embeddings.py:278")
def vlbert_inputs(script: Script) -> None:
    """VL-BERT's embeddings write into the features that they are given, which are also the targets 1, 2 and 5."""

    @script.wrap(script.volta("embeddings").VLBertEmbeddings, "forward")
    def forward(original: Any, self: Any, words: Tensor, features: Tensor, *args: Any, **options: Any) -> Any:
        return original(self, words, features.clone(), *args, **options)
