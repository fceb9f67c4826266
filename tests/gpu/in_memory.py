"""Pre-training through this project's own loader, learner, start and loop, on pairs that lie in memory.

    python tests/gpu/in_memory.py MODEL FOLDER [flags of train_concap.py]

Only the files are left out, for a machine without the packages that read them. The last line that the script prints is
a checksum of the final weights.
"""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
import torch

from volta_switch import BertForVLPreTraining, Config, load_config
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.loader import Loader, make_loader, start_epoch
from volta_switch.data.batches.pretraining_batch import (
    MaskingConfig,
    PairSample,
    RegionMasking,
    WordMasking,
    collate_pretraining,
)
from volta_switch.data.batches.sampling import SAMPLE, BatchSampler, KeyedRandom
from volta_switch.data.regions import Regions
from volta_switch.train import pretraining
from volta_switch.train.device import prepare_device
from volta_switch.train.flag_values import shared_hyperparameters
from volta_switch.train.flags import pretraining_flags
from volta_switch.train.loop import Trainer
from volta_switch.train.optimisation import Hyperparameters
from volta_switch.train.ranks import Ranks, ranks
from volta_switch.train.start import TrainingRun, start_run
from volta_switch.weights import fingerprint

MASK, CLS, SEP = 3, 1, 2  # token ids; words come after them
PAIRS, KINDS = 32, 8  # samples of an epoch, and of how many kinds they are
DROPOUT = tuple(f"{side}{kind}_dropout_prob=0.1" for side in ("", "v_") for kind in ("hidden", "attention_probs"))


class PairsInMemory:
    """Image-caption pairs of a few kinds, which a model can learn by heart; every other one is mismatched."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(3, 12, KINDS)
        self.texts = [np.array([CLS, *rng.integers(SEP + 2, config.vocab_size, n), SEP]) for n in lengths]
        self.images = [some_regions(config, rng, kind) for kind in range(KINDS)]
        self._streams, self._epoch = KeyedRandom(seed, SAMPLE), 0
        targets = config.visual_target_weights
        masking = MaskingConfig(
            words=WordMasking(MASK, config.vocab_size, rate=0.3),
            regions=RegionMasking(rate=0.3),
            objective=1,
            num_locs=config.num_locs,
            feature_targets=any(targets.get(target, 0) > 0 for target in pretraining.REGRESSED),
            volta_compat=False,
            path="in memory",
        )
        self.collate = partial(collate_pretraining, masking=masking)

    @property
    def text_lengths(self) -> np.ndarray:
        return np.array([len(self._text(index)) for index in range(PAIRS)])

    def __len__(self) -> int:
        return PAIRS

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __getitem__(self, index: int) -> PairSample:
        rng = self._streams.generator(self._epoch, index)
        text, regions = self._text(index), self.images[index % KINDS]
        draws = rng.random((len(text) - 2, 3)), rng.random((1, 2)), rng.random((len(regions), 2))
        return PairSample(index, text, index >= PAIRS // 2, regions, *draws)

    def stored_regions(self, place: int) -> Regions:
        return self.images[place % KINDS]

    def _text(self, index: int) -> np.ndarray:
        """A pair's own words, in the second half of the pairs the next kind's."""
        return self.texts[(index + (index >= PAIRS // 2)) % KINDS]


def some_regions(config: Config, rng: np.random.Generator, kind: int) -> Regions:
    """Six to nine regions of an image, at the configuration's widths."""
    n = 6 + kind % 4
    corner, size = rng.uniform(0, 60, (n, 2)), rng.uniform(5, 40, (n, 2))
    scores = rng.dirichlet(np.full(config.v_num_classes, 0.1), n).astype(np.float32)
    attributes = rng.random((n, config.v_num_attributes)).astype(np.float32)
    return Regions(
        image_id=f"image {kind}",
        features=rng.uniform(0, 1, (n, config.v_feature_size)).astype(np.float32),
        boxes=np.concatenate([corner, corner + size], 1).astype(np.float32),
        image_w=120,
        image_h=110,
        objects_id=scores[:, 1:].argmax(1),
        objects_conf=scores[:, 1:].max(1),
        attrs_id=attributes[:, 1:].argmax(1),
        attrs_conf=attributes.max(1),
        cls_prob=scores,
        attr_scores=attributes,
    )


def trainer(model: str, folder: Path, *flags: object, overrides: tuple[str, ...] = DROPOUT, rank: Ranks) -> Trainer:
    """A run that is ready to be trained, made as ``train_concap.py`` makes one of its data and flags."""
    argv = [*("--output_dir", folder, "--logdir", folder / "logs", "--train_batch_size", 8, "--log_every", 4), *flags]
    argv += ["--config_file", f"demo/{model}", "--from_pretrained", ""]
    args = pretraining_flags().parse_args([str(word) for word in argv])
    config = load_config(f"demo/{model}", overrides)
    device, precision = prepare_device(args, rank)
    hyper = Hyperparameters(
        epochs=args.num_train_epochs,
        batch_size=args.train_batch_size,
        learning_rate=args.learning_rate,
        **shared_hyperparameters(args),
    )
    loaders = [loader_of(config, hyper, args, device, rank, shuffle) for shuffle in (True, False)]
    torch.manual_seed(hyper.seed)
    learner = pretraining.Pretraining(BertForVLPreTraining(config), args.objective)
    run = TrainingRun(
        entry_point="in_memory",
        name=model,
        config=config,
        hyper=hyper,
        learner=learner,
        start="random initial weights",
        settings={},
        data={"annotations_path": str(folder)},
        fingerprints={},
        loader=loaders[0],
        val_loader=loaders[1],
        validate=lambda batches: pretraining.validate(learner, batches, device, rank),
    )
    return start_run(args, [], run, device, precision, rank)


def loader_of(
    config: Config, hyper: Hyperparameters, args: Any, device: torch.device, rank: Ranks, shuffle: bool
) -> Loader:
    """The batches of one process, pinned where there is a GPU."""
    data = PairsInMemory(config)
    parts = args.accumulate if shuffle else 1
    sampler = BatchSampler(
        data.text_lengths, hyper.batch_size, args.seed, shuffle=shuffle, rank=rank.number, ranks=rank.count, parts=parts
    )
    layout = BatchLayout(config.add_global_imgfeat, pad_id=config.pad_token_id)  # type: ignore[arg-type]
    collate = partial(data.collate, layout=layout)
    loader = make_loader(data, sampler, collate, args.num_workers, pin_memory=device.type == "cuda")
    start_epoch(loader, 0)
    return loader


def main(model: str, folder: str, *flags: str) -> None:
    """Trains to the end and says what the weights are."""
    with ranks() as rank:
        run = trainer(model, Path(folder), *flags, rank=rank)
        with closing(run.run):
            run.fit()
    print(fingerprint(run.learner.model))


if __name__ == "__main__":
    main(*sys.argv[1:])
