"""Packages that only some commands need; requirements-<extra>.txt installs them."""

from importlib import import_module
from types import ModuleType

from utils.errors import UserError


def need(package: str, extra: str) -> ModuleType:
    """Import a package of an extra.

    Args:
        package: name to import it by.
        extra: which requirements file names it, such as "deploy" for requirements-deploy.txt.

    Raises:
        UserError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise UserError(
            f"this needs the package {package}; install it with: "
            f"pip install -r requirements-{extra}.txt"
        ) from None
