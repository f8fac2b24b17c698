"""Reading files of tensors from any source: tensors and plain data only, never code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError


def read_plain(file: Path) -> Any:
    """Return the contents of a PyTorch or safetensors file on the CPU; None if it cannot be read.

    That is if it is damaged, holds code or is no regular file.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if file.exists() and not file.is_file():  # opening a FIFO would wait for somebody to write
        return None
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception:  # the readers raise errors of any kind on damaged files
        return None


def read_weights(file: Path, setting: str = "") -> dict[str, Tensor]:
    """Return the tensors of a PyTorch or safetensors file by name.

    Args:
        file: the file.
        setting: the setting that names it, for the error; "" if none does.

    Raises:
        UserError: if the file is missing, is damaged, or holds anything else or values that are
            not finite.
    """
    source = f"{setting}={file}" if setting else str(file)
    try:
        state = read_plain(file)
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such file") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{source} is damaged or holds no tensors by name")
    for name, tensor in state.items():
        # Of a training that diverged; every score would be nan.
        if not tensor.isfinite().all():
            raise UserError(f"{source} holds values in {name} that are not finite")
    return state
