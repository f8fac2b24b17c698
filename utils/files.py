"""Files that appear whole or not at all; reading YAML, and tensors without running their code."""

import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CSV_ENCODING = "utf-8-sig"
"""Of tables for people: without the mark at the start Excel takes UTF-8 for another encoding."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; on success it takes the place of `path`."""
    # Hidden, and named by the process: a user's file may be called X.tmp.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file; a kill on the way leaves the old one."""
    with replacing(path) as file:
        file.write(text.encode())


class LineFile:
    """A new file of lines, each of which is written at once, whole or not at all.

    A context manager.

    Raises:
        FileExistsError: if the file is there.
    """

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.path, self.encoding = path, encoding
        self._file = path.open("xb", buffering=0)
        self._start = 0  # of the last line

    def __enter__(self) -> "LineFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self._file.tell()

    def write(self, line: str) -> None:
        """Write a line that ends in a newline; raises `OSError` if it cannot be written."""
        self._start = self.size
        encoding = self.encoding if self._start == 0 else "utf-8"  # utf-8-sig begins with a mark
        data = line.encode(encoding, "backslashreplace")  # the name of a file need not be UTF-8
        try:
            if self._file.write(data) < len(data):  # as much as a full disk had space for
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            self.remove_last()
            raise

    def remove_last(self) -> None:
        """Remove what the last `write` has written."""
        self._file.truncate(self._start)
        self._file.seek(self._start)


class Disk:
    """Lets a program go on where files cannot be written, as on a full disk.

    Attributes:
        failed: if anything could not be written so far.
    """

    def __init__(self) -> None:
        self.failed = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Leave the block at an `OSError`, and print the first one."""
        try:
            yield
        except OSError as error:
            if not self.failed:
                where = f" to {error.filename}" if error.filename else ""
                reason = f"{error.strerror or error}; inspecting goes on"
                with suppress(OSError):  # stderr may lie on that disk, too
                    print(f"FAILED  cannot write{where}: {reason}", file=sys.stderr)
            self.failed = True


def new_file(path: Path) -> Path:
    """Create an empty file, and the folders above it; raises `OSError` where that cannot be.

    Returns:
        `path`, or where that exists `name-2.suffix` beside it, or -3, and so on.
    """
    return _create(path, path.suffix, lambda fresh: fresh.touch(exist_ok=False))


def new_folder(path: Path) -> Path:
    """Create a folder, and those above it, named as by `new_file`."""
    return _create(path, "", Path.mkdir)


def _create(path: Path, suffix: str, create: Callable[[Path], None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        name = path.name.removesuffix(suffix) + (f"-{number}" if number > 1 else "") + suffix
        try:
            create(path.with_name(name))
        except FileExistsError:
            continue
        return path.with_name(name)


def empty_folder(path: Path) -> None:
    """Create a folder, and those above it, or take it as it is if nothing lies in it.

    Raises:
        UserError: if something does, or it is no folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is no empty folder, and nothing is overwritten; name a new one")
    path.mkdir(parents=True, exist_ok=True)


def printable(name: str) -> str:
    """A file's name as text: bytes in it that are not UTF-8 are spelt out."""
    return name.encode("utf-8", "backslashreplace").decode()


class _Loader(yaml.SafeLoader):
    """PyYAML's, but that a key which stands twice is an error, not the end of the first one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if str(key_node.value) in seen:
                mark = key_node.start_mark
                raise UserError(
                    f"{mark.name} names {key_node.value} a second time in line {mark.line + 1}; "
                    "leave one of them"
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; raises `UserError` if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    content = read_value(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings as 'key: value' lines")
    return content


def read_value(text: str, name: str) -> Any:
    """Return the value of YAML text; raises `UserError`, which begins with its name, for others."""
    try:
        loader = _Loader(text)  # raises for characters that no YAML file holds, such as zero bytes
        loader.name = name
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {_reason(error)}") from None
    except UserError:  # a key that stands twice
        raise
    except Exception as error:  # of any kind: a date with a 13th month, or !!bool and no such word
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{name} is not valid YAML: {reason}") from None


def _reason(error: yaml.YAMLError) -> str:
    """The error and its position in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"


def read_plain(file: Path) -> Any:
    """Return the contents of a PyTorch or safetensors file on the CPU; None if it cannot be read.

    That is if it is damaged, holds code or is no regular file.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if file.exists() and not file.is_file():  # opening a FIFO would wait for somebody to write
        return None
    try:
        import torch  # late: most files hold no tensors

        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception:  # the readers raise errors of any kind on damaged files
        return None


def read_weights(file: Path, setting: str = "") -> dict[str, "Tensor"]:
    """Return the tensors of a PyTorch or safetensors file by name.

    Args:
        file: the file.
        setting: the setting that names it, for the error; "" if none does.

    Raises:
        UserError: if the file is missing, is damaged, or holds anything else or values that are
            not finite.
    """
    from torch import Tensor

    source = f"{setting}={file}" if setting else str(file)
    try:
        state = read_plain(file)
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such file") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{source} is damaged or holds no tensors by name")
    if name := name_of_not_finite(state):  # every score would be nan
        raise UserError(f"{source} holds values in {name} that are not finite")
    return state


def name_of_not_finite(state: Mapping[str, "Tensor"]) -> str | None:
    """Return the name of the first tensor with a value that is not finite, as divergence leaves."""
    return next((name for name, tensor in state.items() if not tensor.isfinite().all()), None)
