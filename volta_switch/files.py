"""Files written whole or not at all; settings in JSON and YAML, read or refused with one clear line; shipped files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import site
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from volta_switch.errors import UserError

UNFINISHED = ".unfinished"
MOST_VALUES = 100_000  # of a YAML file; the largest shipped one has some hundred
_PACKAGE = Path(__file__).resolve().parents[1]
# Where the shipped configurations, task files and studies are: in a checkout, beside the package. A wheel puts them
# below share/: of the environment, of the user's folder (pip install --user), or of the package's folder (--target).
SHIPPED_FOLDERS = (
    _PACKAGE,
    *(Path(prefix) / "share" / "volta_switch" for prefix in (sys.prefix, site.getuserbase(), _PACKAGE)),
)


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
    """Yields a temporary name beside ``path`` that takes its place when the block ends without an error.

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
        temporary.chmod(0o666 & ~umask())  # what open() would have given; mkstemp's files are private
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, UserError) or not _concerns(error, path, temporary):
            raise
        raise CannotWrite(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # it is gone already, or the disk has become read-only; the first error counts
                temporary.unlink()


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder beside ``folder``, which takes its place, whole, when the block ends without an error.

    Raises:
        UserError: ``folder`` is there and not empty.
        OSError: the system refused to write; nothing is left.
    """
    folder = Path(os.path.realpath(folder))
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        unfinished.chmod(0o777 & ~umask())
        yield unfinished
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def refuse_replacing(out: Path, overwrite: bool) -> None:
    """Raises UserError where a command's --out is there, unless --overwrite says that it may be replaced."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: is there already; give another --out, or replace it with --overwrite")


def lock_alone(file: IO[Any] | int, told: str) -> None:
    """Takes the lock of an open file or folder, which goes when it is closed, however its process ends.

    Raises:
        UserError: another process has it; ``told`` says so.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(told) from None


def umask() -> int:
    """Returns the permissions that this process keeps from what it makes; mkstemp and mkdtemp ask nothing of it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _concerns(error: OSError, path: Path, temporary: Path | None) -> bool:
    """Returns whether an error is one of writing; a block may read other files, too, whose errors name them."""
    return error.filename is None or temporary is None or str(error.filename) in (str(path), str(temporary))


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left under unfinished names; only where no other process writes there."""
    for left in folder.glob(f".*{UNFINISHED}"):
        remove(left)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder; nothing where nothing is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Sends a folder's entries to the disk: names given and taken away before will survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know nothing of it
            raise
    finally:
        os.close(handle)


def user_cache() -> Path:
    """Returns this project's folder below $XDG_CACHE_HOME, else below ~/.cache."""
    above = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(above) / "volta-switch"


def here_or_shipped(name: str | Path) -> Path:
    """Returns the file of this name if it is there; else the shipped one, as ``studies/demo.yaml`` is in any folder.

    Where there is neither, it returns the name as it was given, for the reader to refuse.
    """
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    return next((folder / path for folder in SHIPPED_FOLDERS if (folder / path).is_file()), path)


def first_there(folder: str | Path, names: Iterable[str]) -> Path | None:
    """Returns the first of these files that a folder holds; None without one."""
    return next((Path(folder, name) for name in names if os.path.isfile(Path(folder, name))), None)


def require_file(path: Path, what: str, advice: str) -> None:
    """Raises UserError unless a regular file is there and within reach: who opens a pipe waits for ever.

    ``what``: what it should be, as "weight file"; ``advice``: what to do.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such {what}; {advice}") from None
    except (OSError, ValueError) as error:  # a folder without permission, a name that is too long or holds a zero
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be looked up ({reason}); {advice}") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a folder, no {what}; {advice}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: a pipe or device, no {what}; {advice}")


def measured(path: Path) -> dict[str, Any]:
    """Returns a file's size in bytes and its sha256.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, indented, keys in the order given."""
    with replacing(path) as temporary:
        temporary.write_bytes(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON as this project writes it, indented, keys in the order given."""
    try:
        content = json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # the name of a file that is not UTF-8, which JSON can hold as \\udc..
        content = json.dumps(value, indent=2).encode("ascii")
    return content + b"\n"


def find_object(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file of this program's; None where there is no file, or no object in it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return object_in(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def object_in(content: bytes) -> dict[str, Any] | None:
    """Returns the JSON object that a file of this program's holds; None where it holds none."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def parse_json(text: str) -> Any:
    """Returns what a JSON text of settings holds.

    Raises:
        ValueError: it is no JSON, a key stands twice in one object, or it is nested too deeply; one line says which.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0]) from None  # what follows is advice for programmers


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"{twice} stands there twice, leave one out")
    return found


def parse_yaml(text: str) -> Any:
    """Returns what a YAML text of settings holds.

    Raises:
        ValueError: it is no YAML, a key stands twice in one section, a value cannot be (a date in a 13th month, a
            number of 5,000 digits), it is nested too deeply, or its aliases stand for more values than ``MOST_VALUES``.
    """
    import yaml  # here, not above: most who write files read no YAML

    try:
        loader = yaml.SafeLoader(text)  # its constructors make plain values alone
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, loader)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{where}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:  # as its constructors fail
        raise ValueError(str(error).splitlines()[0].partition(";")[0]) from None


def _check_nodes(root: Any, loader: Any) -> None:
    """Refuses what YAML's own constructors would take: keys that stand twice, and aliases without bound.

    An alias is its anchor's node, once more. Values are counted as often as they are reached, and every node once.
    """
    import yaml

    counts: dict[int, int] = {}
    open_nodes: set[int] = set()

    def count(node: Any) -> int:
        if id(node) in open_nodes:
            raise ValueError("an alias stands inside what it stands for")
        if id(node) not in counts:
            open_nodes.add(id(node))
            if isinstance(node, yaml.MappingNode):
                _refuse_duplicates(node, loader)
                inner = [part for pair in node.value for part in pair]
            else:
                inner = node.value if isinstance(node, yaml.SequenceNode) else []
            counts[id(node)] = 1 + sum(map(count, inner))
            open_nodes.remove(id(node))
        if counts[id(node)] > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, aliases counted where they stand")
        return counts[id(node)]

    count(root)


def _refuse_duplicates(node: Any, loader: Any) -> None:
    """Refuses a section in which two keys are the same text; keys of merged sections (``<<``) may be overridden."""
    import yaml

    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            name = key.value if key.tag.endswith(":merge") else str(loader.construct_object(key))
            line = key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"{name} stands there twice, in lines {lines[name]} and {line}, leave one out")
            lines[name] = line


def read_yaml(path: Path, what: str, advice: str = "check the path") -> Any:
    """Returns what a YAML file of settings holds; ``what`` and ``advice`` as ``require_file`` takes them.

    Raises:
        UserError: the file is not there, or is no YAML, or says a thing twice (``parse_yaml``).
    """
    require_file(path, what, advice)
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a YAML file of settings ({error})") from None
