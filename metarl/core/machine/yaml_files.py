"""YAML files: read within limits, and written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from metarl.core.errors import ConfigError
from metarl.core.machine.files import DEEPEST, Unreadable, read_file

LARGEST_YAML = 500_000
"""Size of the largest YAML file that is read [bytes]; settings have a few thousand."""

MOST_NODES = 50_000
"""Values of a YAML file, counted after its aliases are replaced by what they stand for."""

MOST_DIGITS = 100
"""Digits of a whole number in a YAML file."""

_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
"""Numbers such as 1e-3, which YAML 1.2 and Python's messages have, and PyYAML takes for texts."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that rejects duplicate keys, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds one mapping of the document."""
        keys = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # its keys are defaults, which the others may replace
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {key} is given twice")
            keys.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: Any) -> int:
        """Builds a whole number of MOST_DIGITS digits at most."""
        if len(node.value) > MOST_DIGITS:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: a number has more than {MOST_DIGITS} digits")
        return super().construct_yaml_int(node)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the texts that `_StrictLoader` would read as numbers."""


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
for _kind in (_StrictLoader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))

_PYYAML_ERRORS = (
    yaml.YAMLError,
    RecursionError,
    ValueError,  # of a date such as 2001-99-99, of a number, or of UTF-8
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
)
"""Errors of PyYAML for values that do not fit their tag, such as `!!int abc`."""


def load_yaml(path: Path, largest: int = LARGEST_YAML) -> dict[str, Any]:
    """Reads a YAML file of `largest` bytes at most, whose document is a mapping.

    Raises:
        ConfigError: The file is missing, is no such YAML, gives a key twice, or is beyond the
            limits above; the message names the file.
    """
    try:
        content = read_file(path, largest)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except Unreadable as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_yaml(content, f"{path}: ")


def parse_yaml(content: str | bytes, where: str) -> dict[str, Any]:
    """Parses YAML whose document is a mapping.

    Args:
        content: The document.
        where: Prefix of a message: the name of the document.

    Raises:
        ConfigError: It is no such YAML, gives a key twice, or is beyond the limits above.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        _check_nodes(text)
        loader = _StrictLoader(text)
        try:
            tree = loader.get_single_data()
        finally:
            loader.dispose()
    except _PYYAML_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where}{reason:.500}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}must hold a group of keys")
    return tree


def dump_yaml(tree: Any, **options: Any) -> str:
    """Returns YAML that `parse_yaml` reads as it was, with the keys in their order.

    Args:
        tree: Mappings, lists, texts and numbers.
        options: Those of `yaml.dump`.
    """
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, **options)


def _check_nodes(text: str) -> None:
    """Refuses documents that are too deep, or too large once their aliases are replaced.

    Reads the events of the parser, which builds nothing and does not recurse.
    """
    sizes, anchors, open_anchors = [0], {}, []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            open_anchors.append(event.anchor)
            if len(sizes) > DEEPEST:
                raise yaml.YAMLError(f"has more than {DEEPEST} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop(), open_anchors.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor = 1, event.anchor
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in open_anchors:
                raise yaml.YAMLError(f"*{event.anchor} is within itself")
            size, anchor = anchors.get(event.anchor, 1), None
        else:
            continue
        sizes[-1] += size
        if anchor is not None:
            anchors[anchor] = size
        if sizes[-1] > MOST_NODES:
            raise yaml.YAMLError(f"has more than {MOST_NODES:,} values")
