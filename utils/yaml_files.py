"""Reading YAML, so that no key gets lost."""

from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError


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
    """The mapping that a YAML file holds; raises `UserError` if there is none."""
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
    """What YAML text says; raises `UserError`, which begins with its name, if it is no YAML."""
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {_reason(error)}") from None
    except (RecursionError, ValueError) as error:  # such as a date with a 13th month
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{name} is not valid YAML: {reason}") from None


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong, and where, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
