"""Image-caption pairs by index, whatever file they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from volta_switch.data.files.compact_record import RecordLayout
from volta_switch.data.regions import Regions


class PairStore(ABC):
    """Pairs of `Regions` and caption. Can be handed to forked and spawned workers.

    in_memory: keep every decoded pair (585 kB each at VOLTA's size: for small files only). Otherwise arrays are views
    into the file: copy what outlives it. check: False leaves `Regions.check` to the caller, but for its shapes.
    Making one raises UserError where the file is missing, damaged or of another format; reading a pair raises
    BadRecord where it is damaged or holds numbers that are not finite.
    layout: the widths of all records, where the file says them. blocks: the sizes of the runs of pairs that lie in one
    file each, (runs,), where going from one to another has its price.
    """

    layout: RecordLayout | None = None
    blocks: np.ndarray | None = None

    def __init__(self, path: str | Path, in_memory: bool = False, check: bool = True) -> None:
        self.path: Path | str = Path(path)  # an address is none
        self._decoded: dict[int, tuple[Regions, str]] | None = {} if in_memory else None
        self._check = Regions.check if check else Regions.check_shapes

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, index: int) -> tuple[Regions, str]:
        """Decode and `_check` a pair; raises BadRecord."""

    def __getitem__(self, index: int) -> tuple[Regions, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._decoded is None:
            return self._read(index)
        if index not in self._decoded:
            regions, caption = self._read(index)
            self._decoded[index] = regions.copied(), caption
        return self._decoded[index]
