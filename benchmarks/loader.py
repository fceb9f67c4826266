"""Samples per second of the pre-training loader: VOLTA's format, a compact store, shards, and VOLTA's own loader.

    [VOLTA_HOME=...] python benchmarks/loader.py [--records 2048] [--workers 1 2] [--rounds 5]

All loaders read the same records, made at VOLTA's sizes (36 regions, 2048 features, 1601 classes, 401 attributes), with
the same number of worker processes, each measurement in processes of its own, in turn (A B C A B C ...). Medians over
the rounds. VOLTA's loader needs VOLTA_HOME, tensorpack and msgpack-numpy; it is used as it is, but for one repair:
tensorpack from 0.9.9 on starts the inner reader in a process that may not start one, so that it is started before.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tokenizers import BertWordPieceTokenizer

from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.batches.loader import make_loader, start_epoch
from volta_switch.data.batches.sampling import BatchSampler, ChosenSamples
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.shards import WINDOW
from volta_switch.data.regions import Regions
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.data_tools.repack import repack, shard
from volta_switch.plugin.checkout import find_checkout
from volta_switch.plugin.repairs import REPAIRS
from volta_switch.plugin.script import Script

REGIONS, FEATURES, CLASSES, ATTRIBUTES = 36, 2048, 1601, 401
WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u", "an", "el", "or")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = {
    "volta": "VOLTA's loader",
    "format": "ours, VOLTA's format",
    "compact": "ours, compact store",
    "shards": "ours, shards in a folder",
    "expanded": "the same, float32 on the CPU",
}
CACHE = 500  # samples that VOLTA's loader shuffles among each other; its default, 10,000, only costs it memory
SHARD = 8 << 20  # bytes: few pairs here, but more shards than one window
WARM_UP = 8  # batches before the clock starts


def main() -> None:
    """Make the data, measure in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="", help="where the records are, or are made; default: a temporary folder")
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)  # one measurement, in this process
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, Path(args.data), args.batch, args.workers[0])), flush=True)
        os.killpg(0, signal.SIGKILL)  # VOLTA's worker processes have no end of their own
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(args.data or scratch)
        make_data(data, args.records)
        names = [name for name in NAMES if name != "volta" or os.environ.get("VOLTA_HOME")]
        for workers in args.workers:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(args.rounds):
                for name in names:
                    found[name].append(measured_apart(name, data, args.batch, workers))
            print(f"\n{workers} worker(s), batches of {args.batch}, {args.rounds} rounds of each in turn, medians:\n")
            print(table(found, bytes_per_record(data, args.records)))


def make_data(folder: Path, records: int) -> None:
    """Write the records in VOLTA's format, the same as a compact store, the captions and a vocabulary."""
    if (folder / "shards" / "training").exists():
        return
    (folder / "compact").mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    captions: dict[str, str] = {}
    write_concap(folder / "training_feat_all.lmdb", some_pairs(records, captions))
    (folder / "shards").mkdir(exist_ok=True)
    for place in (folder, folder / "compact", folder / "shards"):
        (place / "caption_train.json").write_text(json.dumps(captions), encoding="utf-8")
    repack([folder / "training_feat_all.lmdb"], folder / "compact" / "training_feat_all.lmdb")
    shard([folder / "training_feat_all.lmdb"], folder / "shards", "train", shard_size=SHARD)


def some_pairs(count: int, captions: dict[str, str]) -> Iterator[tuple[Regions, str]]:
    """Make records as a detector would, and note their captions (12 +- 4 words)."""
    rng = np.random.default_rng(0)
    for index in range(count):
        classes, attributes = (_softmax(2.5 * rng.standard_normal((REGIONS, C))) for C in (CLASSES, ATTRIBUTES))
        corner, size = rng.uniform(0, 300, (REGIONS, 2)), rng.uniform(10, 200, (REGIONS, 2))
        name = str(1_000_000 + index)
        captions[name] = " ".join(rng.choice(WORDS, int(np.clip(rng.normal(12, 4), 3, 36))))
        regions = Regions(
            image_id=name,
            features=np.maximum(rng.standard_normal((REGIONS, FEATURES), dtype=np.float32), 0),
            boxes=np.concatenate([corner, corner + size], axis=1).astype(np.float32),
            image_w=640,
            image_h=480,
            objects_id=classes[:, 1:].argmax(axis=1),
            objects_conf=classes[:, 1:].max(axis=1),
            attrs_id=attributes[:, 1:].argmax(axis=1),
            attrs_conf=attributes[:, 1:].max(axis=1),
            cls_prob=classes,
            attr_scores=attributes,
        )
        yield regions, captions[name]


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def measured_apart(name: str, data: Path, batch: int, workers: int) -> dict[str, float]:
    """Run one measurement in a session of its own."""
    command = [sys.executable, __file__, "--measure", name, "--data", str(data)]
    command += ["--batch", str(batch), "--workers", str(workers)]
    environment = {**os.environ, "TENSORPACK_SERIALIZE": "msgpack"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if line.startswith("{"):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return json.loads(line)
    raise SystemExit(f"{NAMES[name]} could not be measured:\n{process.stderr.read()}")


def measure(name: str, data: Path, batch: int, workers: int) -> dict[str, float]:
    """Iterate a loader for one epoch, and say how fast and how large it was.

    A batch counts when its tensors are in this process's memory, ready to be sent to a device; "expanded": when what a
    compact store holds in short is float32, too, which a GPU would do.
    """
    if name == "volta":
        batches: Iterable[Any] = volta_batches(data, batch, workers)
    else:
        folder = {"format": data, "shards": data / "shards"}.get(name, data / "compact")
        batches = our_batches(folder, batch, workers)
    samples, started, first, since = 0, time.perf_counter(), 0.0, 0.0
    last = len(json.loads((data / "caption_train.json").read_text())) // batch - 1
    for number, loaded in enumerate(batches):
        if name == "expanded":
            loaded.to("cpu")
        samples += len(loaded[0]) if name == "volta" else len(loaded)
        if number == 0:
            first = time.perf_counter() - started
        if number == WARM_UP:
            since, samples = time.perf_counter(), 0
        if number == last - 2:  # before the workers end
            memory = memory_of_workers()
        if number == last:
            break
    return {"rate": samples / (time.perf_counter() - since), "first": first, "memory": memory}


def our_batches(folder: Path, batch: int, workers: int, repeats: int = 1, pinned: bool = False) -> Iterator[Any]:
    """Go through an epoch of our loader, all records so many times in it; pinned: into page-locked memory."""
    tokenizer = Tokenizer(folder / "vocab.txt" if (folder / "vocab.txt").exists() else folder.parent / "vocab.txt")
    dataset = ConcapDataset(
        folder, folder, "train", tokenizer, num_locs=5, objective=1, max_seq_length=38, feature_targets=False
    )
    samples = ChosenSamples(dataset, np.tile(np.arange(len(dataset)), repeats))
    blocks = dataset.pairs.blocks if repeats == 1 else None
    sampler = BatchSampler(samples.text_lengths, batch, 0, blocks=blocks, window=WINDOW)
    loader = make_loader(samples, sampler, partial(dataset.collate, layout=BatchLayout("first")), workers, pinned)
    start_epoch(loader, 0)
    return iter(loader)


def volta_batches(folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """Make VOLTA's own training loader from its module, the package around which imports much more."""
    path = Path(os.environ["VOLTA_HOME"]) / "volta" / "datasets" / "concept_cap_dataset.py"
    spec = importlib.util.spec_from_file_location("volta_concept_cap_dataset", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    script = Script(find_checkout(), "train_concap.py")
    for repair in REPAIRS:
        if repair.name == "reader-process" and repair.concerns(script):
            repair.mend(script)
    return module.ConceptCapLoaderTrain(
        str(folder),
        str(folder),
        VoltaTokenizer(folder / "vocab.txt"),
        38,
        batch_size=batch,
        num_workers=workers,
        cache=CACHE,
        objective=1,
        num_locs=5,
        add_global_imgfeat="first",
    )


class VoltaTokenizer:
    """What VOLTA asks of a tokenizer, over the same library as ours."""

    mask_token = "[MASK]"

    def __init__(self, vocab: Path) -> None:
        self._wordpiece = BertWordPieceTokenizer(str(vocab))
        self._ends = [self.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]")]

    def __len__(self) -> int:
        return self._wordpiece.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return token ids."""
        return self._wordpiece.encode(text, add_special_tokens=add_special_tokens).ids

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return a token's id."""
        return self._wordpiece.token_to_id(token)

    def build_inputs_with_special_tokens(self, ids: list[int]) -> list[int]:
        """Put [CLS] and [SEP] around ids."""
        return [self._ends[0], *ids, self._ends[1]]


def memory_of_workers() -> float:
    """Return the largest resident memory of a process started from this one, in GiB, mapped pages of files included."""
    largest = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if os.getpgid(int(fields["Pid"])) == os.getpgid(0) and int(fields["Pid"]) != os.getpid():
                largest = max(largest, int(fields["VmRSS"].split()[0]))
        except (OSError, KeyError):
            continue  # it has ended
    return largest / 2**20


def bytes_per_record(data: Path, records: int) -> dict[str, float]:
    """Return the size of each file per record."""
    volta = (data / "training_feat_all.lmdb").stat().st_size / records
    compact = (data / "compact" / "training_feat_all.lmdb" / "data.mdb").stat().st_size / records
    shards = sum(path.stat().st_size for path in (data / "shards" / "training").iterdir()) / records
    return {"volta": volta, "format": volta, "compact": compact, "shards": shards, "expanded": compact}


def table(found: dict[str, list[dict[str, float]]], sizes: dict[str, float]) -> str:
    """Lay out medians, and ratios to VOLTA's loader where it was measured."""
    median = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    rows = []
    for name, values in median.items():
        ratio = f"{values['rate'] / median['volta']['rate']:.1f}" if "volta" in median else ""
        rates = [one["rate"] for one in found[name]]
        rows.append(
            [
                NAMES[name],
                f"{values['rate']:.0f}",
                f"{min(rates):.0f} to {max(rates):.0f}",
                ratio,
                f"{values['first']:.1f}",
                f"{values['memory']:.2f}",
                f"{sizes[name]:.0f}",
                f"{sizes[name] / sizes['format']:.3f}",
            ]
        )
    heads = ["loader", "samples/s", "range", "x VOLTA", "first batch, s", "GiB per worker", "bytes/sample", "share"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
