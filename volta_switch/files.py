"""Files written whole or not at all, and YAML read with one clear line where it cannot be."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from volta_switch.errors import UserError

UNFINISHED = ".unfinished"


class CannotWrite(UserError, OSError):
    """A file could not be written: the disk is full, a quota is spent, or a permission is missing.

    It is the system's error, for callers that have a better word, and a line for the user where none has.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        reason = error.strerror or str(error)
        super().__init__(
            f"{path}: cannot be written ({reason}); what stood there is unharmed; make room or change the permissions, "
            "then give the same command again (a training run: with --resume)"
        )
        self.errno, self.strerror, self.filename = error.errno, reason, str(path)

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends without an error.

    Raises:
        CannotWrite: the system refused to write; ``path`` is what it was and the temporary file is gone.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # what open() would have given; mkstemp's files are private
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, UserError) or not _concerns(error, path, temporary):
            raise
        raise CannotWrite(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # it is gone already, or the disk has become read-only; the first error counts
                temporary.unlink()


def _concerns(error: OSError, path: Path, temporary: Path | None) -> bool:
    """Whether an error is one of writing; a block may also read other files, whose errors name them."""
    return error.filename is None or temporary is None or str(error.filename) in (str(path), str(temporary))


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left behind under unfinished names; only where no other process writes there."""
    for left in folder.glob(f".*{UNFINISHED}"):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing where nothing is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Send a folder's entries to the disk: names given and taken away before will survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know nothing of it
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, indented, keys in the order given."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_yaml(path: Path, missing: str) -> Any:
    """What a YAML file holds.

    Raises:
        UserError: the file is not there (``missing`` says what to do), is no YAML, or has a key twice in one section.
    """
    if not path.is_file():
        raise UserError(f"{path}: {missing}")
    import yaml  # here, not above: most who write files read no YAML

    class Loader(yaml.SafeLoader):
        """YAML's own keeps the last of two values of a key, in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, int] = {}  # of keys as they are written: 10 and "10" name one task
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
                line = key.start_mark.line + 1
                if key.value in lines:
                    where = f"lines {lines[key.value]} and {line}"
                    raise UserError(
                        f"{path}: {key.value} stands there twice in one section ({where}); keep one of them"
                    )
                lines[key.value] = line
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
