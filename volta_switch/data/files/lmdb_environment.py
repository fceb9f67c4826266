"""Opening and writing LMDB files: one environment per file and process, whole files or none.

LMDB allows a file to be open once per process, and an environment must not cross a fork: ``environment`` keeps one per
file and opens anew in a forked or spawned process. It is for files of one's own, since the library trusts what it
reads; files of others are read by ``LmdbPages``. The library is imported where a file is opened: who opens none, as on
a machine that trains from memory, does without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from volta_switch.errors import UserError

if TYPE_CHECKING:
    import lmdb

_environments: dict[tuple[int, int], lmdb.Environment] = {}  # (device, inode) -> environment of this process
_owner = os.getpid()


def environment(path: str | Path, what: str) -> lmdb.Environment:
    """Returns the read-only environment of an LMDB file or directory, opened once per process.

    ``what`` says in errors what the file holds.

    Raises:
        UserError: it is missing, damaged or cut short, or the installed lmdb reads another format.
    """
    global _owner
    require_lmdb_0_9()
    if _owner != os.getpid():  # inherited through a fork: unusable here, and the lock on "open once" came along
        for inherited in _environments.values():
            inherited.close()
        _environments.clear()
        _owner = os.getpid()
    path = Path(path)
    data = path / "data.mdb" if path.is_dir() else path
    try:
        stat = data.stat()
    except OSError as error:
        raise UserError(
            f"{path}: {what} not found ({error.strerror}); check the path, or write the file first"
        ) from error
    key = (stat.st_dev, stat.st_ino)
    if key not in _environments:
        _environments[key] = _open(data, stat.st_size, what)
    return _environments[key]


def require_lmdb_0_9() -> None:
    """Raises UserError unless the installed lmdb reads and writes the 0.9 format, which VOLTA's files have."""
    import lmdb

    version = lmdb.version()
    if version[:2] != (0, 9):
        found = ".".join(map(str, version))
        raise UserError(f"lmdb library {found} cannot read LMDB 0.9 files: pip install an lmdb package built on 0.9")


def _open(data: Path, size: int, what: str) -> lmdb.Environment:
    import lmdb

    try:
        env = lmdb.open(str(data), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise UserError(f"{data}: {what} is not a readable LMDB file ({error}); copy or write it again") from error
    expected = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < expected:  # reading past the end would kill the process
        env.close()
        raise UserError(f"{data}: {what} is cut short ({size} bytes, {expected} expected); copy or write it again")
    return env


@contextmanager
def writing(path: str | Path, *, directory: bool) -> Iterator[Callable[[bytes, bytes], None]]:
    """Yields ``put(key, value)`` into an LMDB that appears at ``path`` when the block ends without an error.

    Args:
        path: where it appears; what stood there is replaced.
        directory: whether to write ``path/data.mdb`` rather than the single file ``path``.
    """
    require_lmdb_0_9()
    path = Path(path)
    final = path / "data.mdb" if directory else path
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(f"{final.name}.unfinished-{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    try:
        writer = Writer(unfinished)
        try:
            yield writer.put
            writer.commit()
        finally:
            writer.env.close()
        os.replace(unfinished, final)
    finally:
        unfinished.unlink(missing_ok=True)


class Writer:
    """Puts records into an LMDB file, making its map larger as they come.

    Args:
        path: the file.
        durable: whether nothing is written before ``commit``, which writes everything since the last one or, if the
            process or the machine stops, nothing. Else records are written every few megabytes.
    """

    _TRANSACTION = 32 << 20  # bytes

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        import lmdb

        require_lmdb_0_9()
        self._durable = durable
        try:
            self.env = lmdb.open(str(path), subdir=False, lock=False, map_size=self._TRANSACTION, sync=durable)
        except lmdb.Error as error:
            raise UserError(f"{path}: not a readable LMDB file ({error}); delete it to write it anew") from error
        self._pending: dict[bytes, bytes] = {}
        self._bytes = 0

    def put(self, key: bytes, value: bytes) -> None:
        """Adds a record, or replaces it."""
        self._pending[key] = value
        self._bytes += len(key) + len(value)
        if self._bytes >= self._TRANSACTION and not self._durable:
            self.commit()

    def get(self, key: bytes) -> bytes | None:
        """Returns a record, written or not yet."""
        if key in self._pending:
            return self._pending[key]
        with self.env.begin() as transaction:
            return transaction.get(key)

    def commit(self) -> None:
        """Writes what was put."""
        import lmdb

        while True:
            try:
                with self.env.begin(write=True) as transaction:
                    for key, value in self._pending.items():
                        transaction.put(key, value)
                break
            except lmdb.MapFullError:  # the transaction was rolled back: repeat it in a larger map
                self.env.set_mapsize(self.env.info()["map_size"] * 2)
            except lmdb.Error as error:
                raise UserError(f"{self.env.path()}: cannot be written ({error}); make room on the disk") from error
        self.env.sync(True)
        self._pending.clear()
        self._bytes = 0
