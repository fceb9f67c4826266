"""VOLTA's H5 files of region features: one group per image, one data set per field.

h5py is an optional package (``pip install 'volta-switch[h5]'``) and is imported when a file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from volta_switch.data.feature_files import Candidate, Format, Target
from volta_switch.data.files.feature_records import decode_record, encode_h5, h5_names
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.image_ids import image_key
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError
from volta_switch.files import replacing

_BOTTOM_UP = {"image_features", "image_bb", "spatial_features", "pos_boxes"}
_LOOKED_AT = 16  # groups that show the layout of a file
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LARGEST = 1 << 30  # bytes of one data set; a damaged or hostile header may promise any size


def write_h5(path: str | Path, regions: Iterable[Regions]) -> None:
    """Writes an H5 file as VOLTA's extraction scripts do, whole or not at all.

    Detector fields that are None are left out.

    Raises:
        ValueError: an image id stands twice, is empty or holds "/", which H5 takes for a path.
    """
    h5py = _h5py(path)
    with replacing(Path(path)) as unfinished, h5py.File(unfinished, "w") as file:
        for image in regions:
            group = file.create_group(h5_name(image.image_id))
            for name, value in encode_h5(image).items():
                if name != "img_id":  # the group's name
                    group[name] = value


def h5_name(image_id: str) -> str:
    """Returns an image id as the name of a group; raises ValueError where it cannot be one."""
    if not image_id or "/" in image_id or image_id == ".":
        raise ValueError(f"an H5 file cannot hold the image id {image_id!r}: its groups are named by ids without '/'")
    return image_id


class H5Features(FeatureStore):
    """An H5 file of VOLTA's, by image id, or by the name of its group (see ``image_key``).

    Opened once per process. The HDF5 library reads the file: one that was damaged or written to do harm can make the
    library itself hang (as seen with one in 5,000 damaged files) or worse, which cannot be told from here.

    Raises:
        UserError: h5py is not installed, or groups have names of one image.
    """

    def __init__(
        self, path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
    ) -> None:
        super().__init__(path, feature_size, detections=detections, in_memory=in_memory)
        self._file: Any = None
        self._pid = -1
        self._fields = frozenset(h5_names(detections))
        self._groups: dict[str, str] = {}  # image id -> name of its group
        for name in self._names():
            other = self._groups.setdefault(image_key(name), name)
            if other != name:
                raise UserError(f"{self.path}: groups {other!r} and {name!r} are one image; keep one of them")

    def keys(self) -> list[str]:
        """Returns the image ids, in the order of the groups' names."""
        return list(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def _holds(self, image_id: str) -> bool:
        return image_id in self._groups

    def _read(self, image_id: str) -> Regions:
        group = self._open()[self._groups[image_id]]
        record = {name: _values(group, name) for name in group if name in self._fields}
        return decode_record(image_id, record, self.detections, self.feature_size)

    def _names(self) -> list[str]:
        file = self._open()
        try:
            names = list(file)
            if not all(isinstance(name, str) for name in names):
                raise ValueError("a name that is not UTF-8")
            self._refuse_other_layouts(file, names)
            return names
        except UserError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            raise UserError(f"{self.path}: its groups cannot be listed ({error}); copy or write it again") from error

    def _refuse_other_layouts(self, file: Any, names: list[str]) -> None:
        """Raises UserError for H5 files that hold all images in a few arrays."""
        arrays = [name for name in names[:_LOOKED_AT] if not hasattr(file.get(name), "keys")]
        if _BOTTOM_UP & {*arrays}:
            raise UserError(
                f"{self.path}: the H5 file of bottom-up-attention-vqa ({', '.join(arrays)}), in which all images share "
                "an array; neither the images' ids nor their sizes are in it, and it is not read: give the TSV file "
                "that it was made of"
            )
        if arrays and len(arrays) == len(names[:_LOOKED_AT]):  # a stray one among groups is no image
            raise UserError(
                f"{self.path}: {arrays[0]!r} is an array at the root of the file; expected a group for each image, "
                "named by its id, with features, boxes, img_w and img_h: write it so"
            )

    def _open(self) -> Any:
        # A file that a fork inherited is left alone and opened anew: HDF5's state is this process's own copy, and it
        # reads at given places (pread), so that sharing the descriptor beneath does no harm.
        if self._file is None or self._pid != os.getpid():
            h5py = _h5py(self.path)
            try:
                self._file = h5py.File(self.path, "r", locking=False)  # locks fail on read-only network disks
            except Exception as error:  # a damaged file can fail in any way
                reason = str(error).split("\n")[0]
                raise UserError(f"{self.path}: not a readable H5 file ({reason}); copy or write it again") from error
            self._pid = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": -1}


def _values(group: Any, name: str) -> Any:
    dataset = group[name]
    if dataset.size * dataset.dtype.itemsize > _LARGEST:
        raise ValueError(f"{name} has shape {dataset.shape}")
    return dataset[()]


def _h5py(path: str | Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path}: H5 files need h5py; pip install 'volta-switch[h5]'") from None
    return h5py


def _fits(candidate: Candidate) -> bool:
    return any(candidate.head[place:].startswith(_SIGNATURE) for place in (0, 512, 1024, 2048))  # after a user's block


FORMAT = Format(
    "h5",
    "features of a task (H5)",
    "H5 file",
    _fits,
    images=H5Features,
    targets=(Target("h5", write_h5, h5_name),),
    suffixes=(".h5", ".hdf5"),
    order=42,
)
