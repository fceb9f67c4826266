"""What the data sets of tasks have in common: files that are looked for, fields of annotations, texts and images.

A ``Choice`` is one file that is needed, by the places where it may lie; the first is where it belongs. Nothing here is
imported at the top that takes time, so that a command that lacks a file says so at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from volta_switch.checksums import is_there
from volta_switch.data.files.json_files import read_json
from volta_switch.data.image_ids import id_text, plain_id, shown
from volta_switch.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from volta_switch.data.files.stores import FeatureStore
    from volta_switch.data.regions import Regions
    from volta_switch.data.tokenizer import Tokenizer

Choice = tuple[Path, ...]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Entry = TypeVar("Entry")
WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError)  # what an entry of another form leads to


# --- Files ------------------------------------------------------------------------------------------------------------


def chosen(choice: Choice) -> Path:
    """Returns the first place where a file is, or where it belongs; refuses one that was written there and is gone."""
    return next((place for place in choice if is_there(place)), choice[0])


def check_split(dataroot: Path, data_set: str, split: str, splits: Sequence[str]) -> None:
    """Raises UserError for a split that a data set does not have."""
    if split not in splits:
        raise UserError(f"{dataroot}: {data_set} has no split {split!r}; expected {', '.join(splits)}")


# --- Fields of annotations --------------------------------------------------------------------------------------------


def text_field(entry: Any, *names: str) -> str:
    """Returns a text by the first of its names that the entry has.

    Raises:
        ValueError: the entry has none of these names.
        TypeError: the value is null, a number, a list or whatever else is no text.
    """
    name, value = _found(entry, names)
    if not isinstance(value, str):
        raise TypeError(f"{name} is {shown(value)}, expected a text")
    return value


def id_field(entry: Any, *names: str) -> str:
    """Returns an id, a text or a whole number, as text; raises as ``text_field`` does."""
    name, value = _found(entry, names)
    try:
        return id_text(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {shown(value)}, expected an id: a text or a whole number") from None


def read_entries(
    path: str | Path, items: Iterable[Any], read: Callable[[Any, int], Entry], expected: str, what: str = "entry"
) -> list[Entry]:
    """Reads the entries of a file, each with its place from 0.

    Raises:
        UserError: names the first entry that is wrong.
    """
    entries = []
    for number, item in enumerate(items):
        try:
            entries.append(read(item, number))
        except WRONG as error:
            raise UserError(
                f"{path}, {what} {number + 1}: expected {expected} ({reason(error)}); mend or remove it"
            ) from error
    return entries


def refuse_twice(path: str | Path, ids: Iterable[str], what: str) -> None:
    """Raises UserError where an id stands twice: results could not tell the two apart."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise UserError(f"{path}: {what} {name} stands there twice; expected one entry for each, remove the others")
        seen.add(name)


def reason(error: BaseException) -> str:
    """Returns in words what an entry of another form has led to."""
    return f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _found(entry: Any, names: tuple[str, ...]) -> tuple[str, Any]:
    if not isinstance(entry, Mapping):
        raise TypeError(f"{shown(entry)} instead of an object with {names[0]}")
    for name in names:
        if name in entry:
            return name, entry[name]
    raise ValueError(f"no {' or '.join(names)} among its {', '.join(map(str, entry)):.200}")


# --- COCO's files, which several tasks read ---------------------------------------------------------------------------


def coco_test_ids(dataroot: Path) -> Path:
    """Returns the file of COCO's images that other tasks are tested on, which split "mteval" is made of."""
    return dataroot / "cache" / "coco_test_ids.npy"


def load_coco_test_ids(dataroot: str | Path) -> set[str]:
    """Reads the image ids of ``<dataroot>/cache/coco_test_ids.npy``, as ``plain_id`` gives them.

    Multi-task training leaves these images out.

    Raises:
        UserError: the file is no list of ids.
    """
    import numpy as np

    path = coco_test_ids(Path(dataroot))
    try:
        return {plain_id(id_text(image_id)) for image_id in np.load(path, allow_pickle=False).tolist()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); split mteval needs it, choose another") from error
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(
            f"{path}: expected an array of image ids ({type(error).__name__}: {str(error)[:200]}); "
            "save it again as plain integers"
        ) from error


def load_boxes(path: Path) -> dict[str, Box]:
    """Reads COCO's annotations: the box of each, as corners, by its id."""
    content = read_json(path)
    expected = "id and bbox: x, y, width, height"
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise UserError(
            f"{path}: expected COCO's object with a list of 'annotations', each with {expected}; take its release"
        )

    def box(item: Any, _: int) -> tuple[str, Box]:
        return id_field(item, "id"), corners(item["bbox"])

    return dict(read_entries(path, content["annotations"], box, expected, "annotation"))


def boxes_of_images(path: Path) -> Counter[str]:
    """Counts COCO's annotations by their images, as ``plain_id`` calls them."""
    try:
        return Counter(plain_id(id_field(item, "image_id")) for item in read_json(path)["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected COCO's annotations with image_id ({error!r})") from None


def corners(bbox: Any) -> Box:
    """Returns x, y, width, height as x1, y1, x2, y2; raises one of ``WRONG`` for what is no box."""
    x, y, width, height = map(float, bbox)
    if not math.isfinite(x + y + width + height):
        raise ValueError(f"bbox is {bbox!r:.60}")
    return x, y, x + width, y + height


# --- Texts and images -------------------------------------------------------------------------------------------------


class TaskDataset:
    """Samples with one text each, the same in every epoch; images are looked up by their ids.

    Subclasses give ``text``, ``sample_images``, ``__getitem__`` and a static ``collate(samples, layout)`` that makes a
    ``Batch``.

    Args:
        entries: the annotation of each sample.
        store: the image features.
        tokenizer: of the texts.
        num_locs: values of a region's location.
        max_seq_length: tokens with [CLS] and [SEP]; None: VOLTA's, ``longest_text``.
        max_regions: only the first ones of each image; None: all.

    Attributes:
        texts: (len,) of each sample.
        text_lengths: (len,) int64, tokens of each sample.
    """

    longest_text: ClassVar[int] = 40

    def __init__(
        self,
        entries: Sequence[Any],
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        max_seq_length: int | None = None,
        max_regions: int | None = None,
    ) -> None:
        self.entries = entries
        self.texts = [self.text(entry) for entry in entries]
        self._images = TaskImages(store, num_locs, max_regions)
        self._tokens = tokenizer.encode_all(self.texts, max_seq_length or self.longest_text)
        self.text_lengths = self._tokens.lengths

    def text(self, entry: Any) -> str:
        """The text of an annotation."""
        raise NotImplementedError

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """Each sample's id and the name of what it shows, (len,); samples of one name are not independent."""
        raise NotImplementedError

    @property
    def sample_rows(self) -> dict[str, list[tuple[str, str]]]:
        """The image and the text of each of a sample's rows, by the sample's id; of one row, where not said here."""
        shows = zip(self.sample_images, self.texts, strict=True)
        return {name: [(image, text)] for (name, image), text in shows}

    def __len__(self) -> int:
        return len(self._tokens)

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: samples are the same in every epoch."""


@dataclass(frozen=True, eq=False)
class TaskImage:
    """What a task's samples hold about one image.

    Attributes:
        regions: those that samples hold.
        inputs: image_feat (n, F), as the store holds it, image_loc (n, num_locs), global_feat (F,), both float32; not
            to be written into.
    """

    regions: Regions
    inputs: Mapping[str, np.ndarray]


class TaskImages:
    """Images by their id.

    Unlike in pre-training nothing is masked, so that an image is prepared once where the store keeps its images in
    memory.

    Args:
        store: the image features.
        num_locs: values of a region's location.
        max_regions: only the first ones; the global feature is the mean of all, as in VOLTA.
    """

    def __init__(self, store: FeatureStore, num_locs: int, max_regions: int | None = None) -> None:
        self._store = store
        self._num_locs = num_locs
        self._max_regions = max_regions
        self._prepared: dict[str, TaskImage] = {}

    def __getitem__(self, image_id: str | int) -> TaskImage:
        from volta_switch.data.regions import image_sample

        image_id = str(image_id)
        if image_id in self._prepared:
            return self._prepared[image_id]
        everything = self._store[image_id]
        inputs = image_sample(everything, self._num_locs, self._max_regions)
        image = TaskImage(everything.first(self._max_regions), inputs)
        if self._store.in_memory:
            self._prepared[image_id] = image
        return image
