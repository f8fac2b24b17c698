"""Packages that only some commands need; requirements-deploy.txt installs them."""

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType

from utils.errors import UserError

DISTRIBUTIONS = {"cv2": "opencv-python-headless", "paho.mqtt.client": "paho-mqtt"}
"""Name of a package to pip, where it is not the name to import it by."""


def need(package: str) -> ModuleType:
    """Import a package, by the name to import it by.

    Raises:
        UserError: if it is not installed, with the command that installs it, or does not load.
    """
    name = DISTRIBUTIONS.get(package, package)
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if not f"{package}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"this needs the package {name}; install it with: "
            "pip install -r requirements-deploy.txt"
        ) from None
    except ImportError as error:  # such as opencv-python in place of the headless one, without GL
        reason = str(error).splitlines()[0]
        raise UserError(f"the package {name} does not load here: {reason}") from None


def opencv() -> ModuleType:
    """OpenCV, which reads and writes videos; raises `UserError` as `need` does.

    It and the FFmpeg in it print to stderr by themselves; what a user has to know is said by the
    caller, in one line. They read these variables when they start.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return need("cv2")


def opencv_name(path: str | Path) -> str:
    """Return a path as OpenCV takes it: UTF-8, whatever the locale.

    Raises:
        UserError: if it is no UTF-8, of which OpenCV would crash.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise UserError(f"OpenCV needs names in UTF-8; rename {path}") from None
