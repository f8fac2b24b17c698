"""Reading files of tensors from strangers: tensors and plain data only, none of their code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError


def read_plain(file: Path) -> Any:
    """What a PyTorch or safetensors file holds, on the CPU; None if it is damaged or holds code.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception:  # readers raise whatever they stumble over
        return None


def read_weights(file: Path, setting: str = "") -> dict[str, Tensor]:
    """Tensors by name from a PyTorch or safetensors file.

    Args:
        file: the file.
        setting: the setting that names it, for the error; "" if none does.

    Raises:
        UserError: if the file is missing, is damaged or holds anything else.
    """
    try:
        state = read_plain(file)
    except FileNotFoundError:
        named = f", which {setting} names" if setting else ""
        raise UserError(f"no weights at {file}{named}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{file} is damaged or holds no tensors by name")
    return state
