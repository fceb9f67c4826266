"""One file out of an archive. Nothing else in it is unpacked, and an archive that would write elsewhere is refused."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from volta_switch.errors import UserError

_PIECE = 1 << 20
_MOST_BYTES = 1 << 37  # of the file that is taken out
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError, OSError),
)


class _Member(NamedTuple):
    name: str
    regular: bool
    folder: bool
    size: int


def take_member(archive: Path, member: str, to: Path) -> None:
    """Copies one file of a zip or tar archive, the latter compressed or not, to a new file.

    Raises:
        UserError: it is no archive, is damaged, lacks the file, or holds a link, a device, or a name that leads out of
            its folder; ``to`` is removed.
        OSError: ``to`` cannot be written.
    """
    try:
        with _opened(archive) as (members, opened):
            for each in members:
                path = PurePosixPath(each.name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in each.name or "\0" in each.name:
                    raise UserError(f"{archive}: refused: {each.name!r:.100} in it leads out of its folder")
                if not (each.regular or each.folder):
                    raise UserError(f"{archive}: refused: {each.name!r:.100} in it is a link or a device, no file")
            found = [each for each in members if each.regular and PurePosixPath(each.name) == PurePosixPath(member)]
            if len(found) != 1:
                raise UserError(f"{archive}: holds {len(found)} files called {member}, expected one")
            if found[0].size > _MOST_BYTES:
                raise UserError(f"{archive}: refused: {member} in it has {found[0].size:,} bytes")
            with opened(found[0].name) as source, to.open("wb") as target:
                left = found[0].size
                while piece := source.read(min(_PIECE, left)):
                    target.write(piece)
                    left -= len(piece)
                if left:
                    raise UserError(f"{archive}: damaged, {member} in it ends too early; fetch it again")
    except _BROKEN as error:
        to.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 raise it without a number
            raise
        raise UserError(f"{archive}: no zip or tar archive, or a damaged one ({error}); fetch it again") from None
    except BaseException:
        to.unlink(missing_ok=True)
        raise


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[_Member], Callable[[str], IO[bytes]]]]:
    """Yields an archive's members, and a function that opens one by its name; then compares an archive's checksum."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [_zip_member(each) for each in zipped.infolist()], zipped.open
        return
    with tarfile.open(archive) as tar:

        def opened(name: str) -> IO[bytes]:
            file = tar.extractfile(name)
            assert file is not None  # of a regular file
            return file

        yield [_Member(each.name, each.isreg(), each.isdir(), each.size) for each in tar.getmembers()], opened
        assert tar.fileobj is not None
        while tar.fileobj.read(_PIECE):  # a compressed file's checksum stands at its end
            pass


def _zip_member(each: zipfile.ZipInfo) -> _Member:
    mode = stat.S_IFMT(each.external_attr >> 16)  # 0 where the program that wrote it knows no kinds
    return _Member(each.filename, not each.is_dir() and mode in (0, stat.S_IFREG), each.is_dir(), each.file_size)
