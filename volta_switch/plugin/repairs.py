"""What stops VOLTA (62f78cd) on today's packages or on any, and what corrupts its numbers, each mended by one function.

A repair changes attributes of modules from outside; no file of the checkout is touched. ``@stops`` ones are applied
unless ``--without`` names them, ``@corrupts`` ones only where ``--fix`` does. The function's name, with hyphens, is the
repair's; its docstring says what is wrong; the decorator says where, and when it is applied: before VOLTA is imported
("packages"), before the script is ("volta"), or to the script itself ("script"). One that finds nothing to mend on this
machine, or in this script, returns False.

Legend: B batch, R regions, C classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler

from volta_switch.config import load_config
from volta_switch.errors import UserError
from volta_switch.plugin import pickles
from volta_switch.plugin.catalogue import corrupts, stops
from volta_switch.plugin.script import Script
from volta_switch.plugin.stand_ins import apex_parallel, installed, package, stand_in, to_cpu, version
from volta_switch.weights import find_bert, read_weights, volta_name

DATASETS = "datasets."  # VOLTA's modules that read tasks, below its package
BOXES = 36  # of every Conceptual Captions record, in VOLTA's code
RETRIEVAL, TASK, CONCAP, EVALUATE = "eval_retrieval.py", "train_task.py", "train_concap.py", "eval_task.py"


# --- What stops VOLTA: packages -------------------------------------------------------------------------------------


@stops("tools/refer/refer.py:36", "packages")
def refer_masks(script: Script) -> None:
    """tools/refer imports skimage and a C extension that builds only with Cython 0.29, for masks that are not used."""
    tools = script.home / "tools"
    reason = "segmentation masks are not needed for boxes; build tools/refer's C extension to use them"
    modules = {
        "tools": package("tools", tools),  # another package of that name would go before a folder
        "tools.refer": package("tools.refer", tools / "refer"),
    }
    if not list((tools / "refer" / "external").glob("_mask.*so")):
        functions = ("encode", "decode", "iou", "merge", "area", "toBbox", "frPyObjects")
        modules["tools.refer.external._mask"] = stand_in("tools.refer.external._mask", reason, *functions)
    if not installed("skimage"):
        modules["skimage"] = stand_in("skimage", reason)
        modules["skimage.io"] = stand_in("skimage.io", reason, "imread")
    for name, module in modules.items():
        script.patches.set_item(sys.modules, name, module)


@stops("volta/datasets/wikipedias_dataset.py:17", "packages", needed=lambda: not installed("datasets"))
def wikipedias(script: Script) -> None:
    """Hugging Face's datasets is imported by every script, for a data set that the four do not read."""
    reason = "Wikipedia's texts are read with Hugging Face's datasets; pip install datasets"
    script.patches.set_item(sys.modules, "datasets", stand_in("datasets", reason, "load_dataset"))


@stops(
    "volta/datasets/concept_cap_dataset.py:201", "packages", needed=lambda: not os.environ.get("TENSORPACK_SERIALIZE")
)
def serializer(script: Script) -> None:
    """tensorpack reads pickles by default since 0.9.9; Conceptual Captions' records are msgpack."""
    script.patches.set_item(os.environ, "TENSORPACK_SERIALIZE", "msgpack")


@stops("volta/datasets/concept_cap_dataset.py:216", "packages", needed=lambda: version("tensorpack") >= (0, 9, 9))
def reader_process(script: Script) -> None:
    """tensorpack starts the reader inside a worker that may not start one since 0.9.9: the first batch never comes."""
    import tensorpack.dataflow as td

    class StartedAtOnce(td.PrefetchData):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            super().reset_state()

        def reset_state(self) -> None:
            """Do nothing: the process runs."""

    script.patches.set(td, "PrefetchData", StartedAtOnce)


@stops("volta/datasets/concept_cap_dataset.py:203", "packages")
def reader_memory(script: Script) -> None:
    """The reader keeps 5,000 records of 0.6 MB, copies of each other where the data set has fewer, twice over."""
    import tensorpack.dataflow as td

    for name in ("LocallyShuffleData", "PrefetchData"):

        @script.wrap(td, name)
        def limited(original: Any, ds: Any, size: int, *args: Any, **options: Any) -> Any:
            return original(ds, max(3, min(size, len(ds))), *args, **options)


@stops("volta/datasets/concept_cap_dataset.py:553", "packages", needed=lambda: version("transformers") >= (5,))
def special_tokens(script: Script) -> None:
    """Tokenizers have no build_inputs_with_special_tokens since transformers 5."""
    from transformers import PreTrainedTokenizerBase

    def build_inputs_with_special_tokens(self: Any, token_ids: list[int]) -> list[int]:
        return [self.cls_token_id, *token_ids, self.sep_token_id]

    script.patches.set(PreTrainedTokenizerBase, "build_inputs_with_special_tokens", build_inputs_with_special_tokens)


@stops("train_concap.py:240", "packages", needed=lambda: not torch.cuda.is_available())
def cpu(script: Script) -> None:
    """.cuda() is called on models and batches whether or not there is a GPU."""
    script.patches.set(Tensor, "cuda", to_cpu)
    script.patches.set(nn.Module, "cuda", to_cpu)


@stops("train_concap.py:247", "packages", needed=lambda: not installed("apex.parallel"))
def apex_ddp(script: Script) -> None:
    """Several processes need apex; the index's package of that name is another project. PyTorch's own stands in."""
    script.patches.set_item(sys.modules, "apex.parallel", apex_parallel())
    if "apex" not in sys.modules and not installed("apex"):
        script.patches.set_item(sys.modules, "apex", stand_in("apex", ""))


@stops("train_concap.py:83", "packages", needed=lambda: "LOCAL_RANK" in os.environ)
def local_rank(script: Script) -> None:
    """torchrun passes no --local_rank: every process would train a run of its own."""
    if not torch.cuda.is_available():
        raise UserError("several processes of VOLTA need one GPU each; start one process, without torchrun")
    path, *argv = sys.argv  # one that is given goes after it, and counts
    script.patches.set(sys, "argv", [path, f"--local_rank={os.environ['LOCAL_RANK']}", *argv])


@stops(
    "volta/datasets/_image_features_reader.py:49",
    "packages",
    needed=lambda: multiprocessing.get_start_method() != "fork",
)
def forked_workers(script: Script) -> None:
    """Loader processes are not forked on macOS and since Python 3.14, and an open LMDB cannot be sent to them."""
    multiprocessing.set_start_method("fork", force=True)


# --- What stops VOLTA: its own errors -------------------------------------------------------------------------------


@stops("train_concap.py:347", scripts=(CONCAP,))
def validation_log(script: Script) -> None:
    """The first validation passes one argument too many to the logger; the epoch's checkpoint is lost."""
    logger = script.volta("train_utils").tbLogger

    @script.wrap(logger, "step_val_CC")
    def step_val_CC(original: Any, self: Any, *args: Any) -> None:
        original(self, *args[-7:])


@stops("volta/task_utils.py:326")
def task_format(script: Script) -> None:
    """KeyError 'format' with every task file of the controlled models."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDataset")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str, *rest: Any) -> Any:
        task_cfg[f"TASK{task_id}"].setdefault("format", "")
        return original(args, config, task_cfg, task_id, *rest)


@stops("volta/task_utils.py:469")
def evaluation_annotations(script: Script) -> None:
    """val_annotations_jsonpath is not defined: every evaluation crashes."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str) -> Any:
        path = args.val_annotations_jsonpath or task_cfg[f"TASK{task_id}"].get("val_annotations_jsonpath", "")
        script.patches.set(task_utils, "val_annotations_jsonpath", path)
        return original(args, config, task_cfg, task_id)


@stops("eval_retrieval.py:254", scripts=(RETRIEVAL,))
def retrieval_split(script: Script) -> None:
    """Without --split the results have no name: KeyError, the task's number for its key."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str) -> Any:
        args.split = args.split or task_cfg[f"TASK{task_id}"]["val_split"]
        return original(args, config, task_cfg, task_id)


@stops("eval_retrieval.py:259", scripts=(RETRIEVAL,))
def retrieval_images(script: Script) -> None:
    """args.num_images does not exist: text retrieval is never reported."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, *rest: Any) -> Any:
        loaded = original(args, *rest)
        args.num_images = loaded[2].num_images
        return loaded


@stops("volta/task_utils.py:454", scripts=(RETRIEVAL,))
def retrieval_batch(script: Script) -> None:
    """Retrieval is evaluated one caption at a time; a task file's eval_batch_size makes it crash."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str) -> Any:
        task_cfg[f"TASK{task_id}"]["eval_batch_size"] = 1
        return original(args, config, task_cfg, task_id)


@stops("eval_retrieval.py:191", scripts=(RETRIEVAL,))
def zero_shot(script: Script) -> None:
    """--zero_shot expects five values of a model that gives six."""

    @script.wrap(script.volta("encoders").BertForVLPreTraining, "forward")
    def forward(original: Any, *args: Any, **options: Any) -> Any:
        words, regions, match, _answers, *rest = original(*args, **options)
        return (words, regions, match, *rest)


@stops("volta/train_utils.py:330")
def checkpoint_logger(script: Script) -> None:
    """torch refuses the pickled logger in VOLTA's checkpoints since 2.6. Its counts go on in this run's log."""
    train_utils = script.volta("train_utils")

    class Counts:
        """Takes what a checkpoint says of its logger, and opens no file that it names."""

        def __setstate__(self, state: dict[str, Any]) -> None:
            self.state = state

    @script.wrap(train_utils, "resume")
    def resume(original: Any, path: str, model: Any, optimizer: Any, scheduler: Any, tb_logger: Any) -> Any:
        with torch.serialization.safe_globals([(Counts, "volta.train_utils.tbLogger")]):
            *start, logger, score = original(path, model, optimizer, scheduler, tb_logger)
        if isinstance(logger, Counts) and tb_logger is not None:
            own = ("log_dir", "txt_dir", "save_logger")
            tb_logger.__dict__.update({name: value for name, value in logger.state.items() if name not in own})
        return (*start, tb_logger, score)


@stops("volta/train_utils.py:29")
def kept_log(script: Script) -> None:
    """A resumed run first empties its out.txt."""

    @script.wrap(script.volta("train_utils"), "open")
    def opened(original: Any, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        resumed = os.path.exists(getattr(script.args, "resume_file", ""))
        return original(file, "a" if resumed and mode == "w" else mode, *args, **options)


@stops("volta/utils.py:499")
def lxmert_model(script: Script) -> None:
    """ctrl_lxmert.json has no key model: no weights can be loaded."""
    script.patches.set(script.volta("config").BertConfig, "model", "bert")


@stops("volta/encoders.py:25")
def hub_weights(script: Script) -> None:
    """BERT's weights are asked for where they were in 2019; they are on the Hub, and in its cache where it was used."""
    addresses = {address: name for name, address in script.volta("encoders").BERT_PRETRAINED_MODEL_ARCHIVE_MAP.items()}

    @script.wrap(script.volta("utils"), "cached_path")
    def cached_path(original: Any, address: str, *args: Any, **options: Any) -> str:
        if address in addresses:
            with contextlib.suppress(Exception):  # of many kinds: then as before
                return hf_hub_download(addresses[address], "pytorch_model.bin")
        return original(address, *args, **options)


@stops("volta/utils.py:444")
def missing_weights(script: Script) -> None:
    """A wrong --from_pretrained gives None in place of a model."""
    pretrained = script.volta("utils").PreTrainedModel
    original = pretrained.from_pretrained.__func__

    def from_pretrained(cls: Any, name: str, *args: Any, **options: Any) -> Any:
        loaded = original(cls, name, *args, **options)
        if loaded is None:
            raise UserError(f"--from_pretrained {name}: no such file, nor a folder with pytorch_model.bin")
        return loaded

    script.patches.set(pretrained, "from_pretrained", classmethod(from_pretrained))


@stops("volta/datasets/nlvr2_dataset.py:157")
def nlvr2_cache(script: Script) -> None:
    """NLVR2's folder cache/ must exist already."""

    @script.wrap(script.volta(DATASETS + "nlvr2_dataset").NLVR2Dataset, "__init__")
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        Path(options["dataroot"], "cache").mkdir(exist_ok=True)
        original(self, *args, **options)


@stops("volta/datasets/concept_cap_dataset.py:436")
def box_count(script: Script) -> None:
    """A Conceptual Captions record with fewer or more than 36 boxes is a ValueError."""
    concap = script.volta(DATASETS + "concept_cap_dataset")

    @script.wrap(concap, "iou")
    def iou(original: Any, *boxes: Any) -> np.ndarray:
        overlaps = original(*boxes)
        return np.pad(overlaps, ((0, 0), (0, BOXES - overlaps.shape[1])))

    @script.wrap(concap.BertPreprocessBatch, "__call__")
    def preprocess(original: Any, self: Any, record: Sequence[Any]) -> Any:
        rows, count = [value[:BOXES] for value in record[:8]], min(int(record[8]), BOXES)
        *sample, image_id = original(self, [*rows, count, *record[9:]])
        for field in range(8, 12):  # classes, attributes and their confidences, (R,)
            sample[field] = np.pad(sample[field], (0, BOXES - len(sample[field])))
        return (*sample, image_id)


@stops("volta/datasets/_image_features_reader.py:75")
def image_index(script: Script) -> None:
    """An image without features is a ValueError without its name; every image is searched for in a list (0.6 ms)."""

    class Names(list):
        def __init__(self, names: Sequence[bytes], path: str) -> None:
            super().__init__(names)
            self._path, self._places = path, {name: place for place, name in enumerate(names)}

        def index(self, name: bytes, *_range: Any) -> int:  # type: ignore[override]
            """Where an image stands."""
            if name not in self._places:
                raise UserError(f"{self._path}: holds no features of image {name.decode()}, which the annotations name")
            return self._places[name]

    @script.wrap(script.volta(DATASETS + "_image_features_reader").ImageFeaturesH5Reader, "__init__")
    def init(original: Any, self: Any, features_path: str, *args: Any, **options: Any) -> None:
        original(self, features_path, *args, **options)
        self._image_ids = Names(self._image_ids, features_path)


@stops("volta/datasets/_image_features_reader.py:59")
def safe_pickles(script: Script) -> None:
    """Pickles of features, annotations and caches are loaded without restriction: a downloaded file may run code."""
    script.volta("task_utils")  # imports every module of data sets
    for name, module in list(sys.modules.items()):
        if name.startswith(("volta.datasets.", "tools.refer.refer")):
            for pickler in {"pickle", "cPickle"} & set(vars(module)):
                script.patches.set(module, pickler, pickles.SAFE)


@stops("volta/encoders.py:1142")
def feature_targets(script: Script) -> None:
    """Visual targets 1 and 5 compare the regions' predictions with the regions and the global one."""
    encoders = script.volta("encoders")
    place = None  # of the global region, among the features that the model is given

    @script.wrap(encoders.BertForVLPreTraining, "__init__")
    def init(original: Any, self: Any, config: Any, *args: Any) -> None:
        nonlocal place
        place = config.add_global_imgfeat
        original(self, config, *args)

    for target in ("1", "5"):
        criterion = encoders.pre_vis_criterions[target]

        def without_global(  # as VOLTA calls it
            scores: Tensor, weight: float, label: Tensor, classes: Any, features: Any, *rest: Any, of: Any = criterion
        ) -> Any:
            if features is not None and place is not None:
                features = features[:, 1:] if place == "first" else features[:, :-1]
            return of(scores, weight, label, classes, features, *rest)

        script.patches.set_item(encoders.pre_vis_criterions, target, without_global)


@stops("train_concap.py:133, train_task.py:176", "script", (CONCAP, TASK))
def config_name(script: Script) -> None:
    """The run's name is the second part of --config_file: an IndexError, or a folder's, unless that is config/X."""

    class ConfigPath(str):
        def split(self, *_at: Any, **_options: Any) -> list[str]:  # type: ignore[override]
            """What VOLTA takes the name from."""
            return ["config", Path(self).name]

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        args.config_file = ConfigPath(args.config_file)
        return args


@stops("train_concap.py:201", "script", (CONCAP,))
def weight_names(script: Script) -> None:
    """Expects config/X_weight_name.json of every --from_pretrained X, in the working directory, even of none."""

    @script.wrap(script.module, "open")
    def opened(original: Any, file: Any, *args: Any, **options: Any) -> Any:
        if not _is_list_of_weights(file) or os.path.exists(file):
            return original(file, *args, **options)
        inside = script.home / file
        return original(inside, *args, **options) if inside.is_file() else io.StringIO("[]")


# --- What corrupts numbers: pre-training ----------------------------------------------------------------------------


@corrupts("volta/datasets/concept_cap_dataset.py:203", scripts=(CONCAP,))
def seeds(script: Script) -> None:
    """--seed fixes neither order nor masks, which depend on time, process and workers; fixed, one process reads."""
    import tensorpack.dataflow as td
    from tensorpack.utils import utils as tensorpack_utils

    script.patches.set(td, "PrefetchData", lambda ds, *sizes: ds)
    script.patches.set(td, "PrefetchDataZMQ", lambda ds, workers: td.FixedSizeData(ds, len(ds), keep_state=True))
    concap = script.volta(DATASETS + "concept_cap_dataset")

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
        loader = getattr(script.volta(DATASETS + "concept_cap_dataset"), name)

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
        if not _is_list_of_weights(file):
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


# --- What corrupts numbers: tasks -----------------------------------------------------------------------------------


@corrupts("volta/datasets/retrieval_dataset.py:49")
def negatives(script: Script) -> None:
    """A caption's number within its image is taken for its index: all negative captions are the first image's."""

    @script.wrap(script.volta(DATASETS + "retrieval_dataset").RetrievalDataset, "__init__")
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        for captions in self.imgid2entry.values():
            captions.clear()
        for index, entry in enumerate(self._entries):
            self.imgid2entry[entry["image_id"]].append(index)


@corrupts("volta/datasets/retrieval_dataset.py:108")
def token_caches(script: Script) -> None:
    """Tokenised texts are cached by the tokenizer's name: changed annotations or vocabularies are not seen."""
    datasets = script.volta("datasets")
    for kind in {*datasets.DatasetMapTrain.values(), *datasets.DatasetMapEval.values()}:

        @script.wrap(kind, "__init__")
        def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
            sources = _annotation_files(options["dataroot"], options["annotations_jsonpath"])
            state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sources]
            words = sorted(options["tokenizer"].get_vocab().items())
            digest = hashlib.sha256(repr((state, words)).encode()).hexdigest()[:12]
            original(self, *args, **{**options, "bert_model": f"{options['bert_model']}-{digest}"})


@corrupts("train_task.py:255", "script", (TASK,))
def schedule(script: Script) -> None:
    """The learning rate falls over --optim_train_epochs (20), not over the epochs that are trained."""

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        args.optim_train_epochs = args.num_epoch or _task(args)["num_epoch"]
        return args


@corrupts("train_task.py:334", "script", (TASK,))
def evaluation_steps(script: Script) -> None:
    """--eval_steps N evaluates every N-1 steps, and what is saved then goes on, when resumed, at epoch N."""

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        args.eval_steps = min(args.eval_steps, sys.maxsize - 1) + 1
        return args

    @script.wrap(script.module, "resume")
    def resume(original: Any, *given: Any) -> Any:
        iteration, steps, epoch, tb_logger, score = original(*given)
        in_the_middle = steps > 0 and epoch != tb_logger.epochId + 1
        return iteration, steps, tb_logger.epochId if in_the_middle else epoch, tb_logger, score


@corrupts("volta/train_utils.py:81")
def accumulated_loss(script: Script) -> None:
    """With gradient accumulation, logged losses, scores and rates are divided by the number of parts twice."""
    logger = script.volta("train_utils").tbLogger

    @script.wrap(logger, "step_train")
    def step_train(original: Any, self: Any, epoch: int, step: int, loss: float, *rest: Any) -> None:
        original(self, epoch, step, loss * self.gradient_accumulation_steps, *rest)

    for name in ("showLossTrain", "showLossTrainCC"):

        @script.wrap(logger, name)
        def show(original: Any, self: Any) -> None:
            self.task_step_tmp = {
                task: steps // self.gradient_accumulation_steps for task, steps in self.task_step_tmp.items()
            }
            original(self)


@corrupts("volta/task_utils.py:667")
def referred_region(script: Script) -> None:
    """The global region and padding, which are no boxes, may be the answer to a referring expression."""
    task_utils = script.volta("task_utils")

    def hiding(criterion: Any, config: Any, mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        hidden = mask == 0  # (B, R)
        if config.add_global_imgfeat == "first":
            hidden[:, 0] = True
        elif config.add_global_imgfeat == "last":  # after the boxes, before padding
            hidden[torch.arange(len(mask)), mask.sum(1) - 1] = True

        def then_hide(scores: Tensor, target: Tensor) -> Tensor:
            """The loss of scores (B, R, 1), from which the answer is chosen after it."""
            loss = criterion(scores, target)
            scores[hidden.to(scores.device)] = -torch.inf
            return loss

        return then_hide

    for name, before in (("ForwardModelsVal", 6), ("EvaluatingModel", 7)):  # arguments before the criterion

        @script.wrap(task_utils, name)
        def forward(original: Any, *args: Any, before: int = before) -> Any:
            config, task_cfg, _device, task_id, batch = args[:5]
            if task_cfg[task_id]["type"] != "V-logit":
                return original(*args)
            criterion = hiding(args[before], config, batch[2])
            return original(*args[:before], criterion, *args[before + 1 :])


@corrupts("volta/task_utils.py:674")
def referred_ids(script: Script) -> None:
    """Results of referring expressions carry the image's id, which several expressions share, not the sentence's."""

    @script.wrap(script.volta(DATASETS + "refer_expression_dataset").ReferExpressionDataset, "__getitem__")
    def getitem(original: Any, self: Any, index: int) -> tuple[Any, ...]:
        *item, _image_id, number = original(self, index)
        return (*item, self.entries[index]["sent_id"], number)


@corrupts("volta/task_utils.py:401", scripts=(TASK,))
def sampler_epochs(script: Script) -> None:
    """On several GPUs every epoch has the same order."""

    class NewOrderEachEpoch(DistributedSampler):
        def __iter__(self) -> Iterator[int]:
            order = super().__iter__()
            self.set_epoch(self.epoch + 1)
            return order

    script.patches.set(script.volta("task_utils"), "DistributedSampler", NewOrderEachEpoch)


@corrupts("eval_task.py:128", "script", (EVALUATE, RETRIEVAL))
def results_folder(script: Script) -> None:
    """Results of all tasks and models are written to one folder, the later over the earlier."""

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        run = Path(args.from_pretrained).resolve().parent.name
        args.output_dir = str(Path(args.output_dir, _task(args)["name"], run))
        return args


def _task(args: Any) -> dict[str, Any]:
    return yaml.safe_load(Path(args.tasks_config_file).read_text(encoding="utf-8"))[f"TASK{args.task.strip()}"]


def _is_list_of_weights(file: Any) -> bool:
    return str(file).endswith("_weight_name.json")


def _annotation_files(dataroot: str, annotations: str) -> list[Path]:
    """The files that a data set's texts and answers come from; VQA's targets lie among VOLTA's own caches."""
    if annotations:
        return [Path(annotations)]
    root = Path(dataroot)
    files = (file for pattern in ("*", "*/*") for file in root.glob(pattern) if file.is_file())
    sources = (file for file in files if file.parent.name != "cache" or file.name.endswith(("_target.pkl", ".npy")))
    return sorted(file for file in sources if file.suffix not in (".lmdb", ".mdb"))
