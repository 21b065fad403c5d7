"""ONNX files with their metadata and checksum; needs onnxruntime and NumPy alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.core.errors import CheckpointError, require_package

CHECKSUM = "metarl_sha256"
"""Metadata: SHA-256 of the file with NO_CHECKSUM in its place."""

NO_CHECKSUM = "0" * 64
"""Stands for the checksum while it is computed."""


def checksum(content: bytes) -> str:
    """Returns the SHA-256 of a file whose own checksum reads NO_CHECKSUM."""
    return hashlib.sha256(content).hexdigest()


def verify(content: bytes) -> bool:
    """Returns whether the checksum of a file is right, or there is none."""
    # as protocol buffers write it: a tag, the length 64, the text
    pattern = re.escape(CHECKSUM.encode()) + rb"\x12\x40([0-9a-f]{64})"
    found = list(re.finditer(pattern, content))
    if not found:
        return CHECKSUM.encode() not in content
    last = found[-1]
    blank = content[: last.start(1)] + NO_CHECKSUM.encode() + content[last.end(1) :]
    return checksum(blank) == last[1].decode()


class OnnxFile:
    """An ONNX file that onnxruntime runs on one thread.

    Args:
        path: The file.

    Attributes:
        inputs: Shapes of the required inputs by name; sizes that are no numbers are dynamic.
        outputs: Shapes of the outputs by name.
        defaults: Names of the inputs with default values.
        metadata: Texts by name.

    Raises:
        CheckpointError: The file is missing, damaged or no ONNX file.
        ResourceError: The package onnxruntime is missing.
    """

    def __init__(self, path: Path):
        self.path = path
        runtime = require_package("onnxruntime", "onnx", f"{path}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from error
        if not verify(content):
            raise CheckpointError(f"{path} is damaged: its checksum is wrong; export it again")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warnings of onnxruntime are no concern of the user
        try:
            cpu = ["CPUExecutionProvider"]
            self._session = runtime.InferenceSession(content, options, providers=cpu)
        except Exception as error:  # onnxruntime has a class of its own for every fault
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is no ONNX file that can be run: {reason}") from error
        self.inputs = {each.name: each.shape for each in self._session.get_inputs()}
        self.types = {each.name: each.type for each in self._session.get_inputs()}
        self.outputs = {each.name: each.shape for each in self._session.get_outputs()}
        self.defaults = [each.name for each in self._session.get_overridable_initializers()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[Any]:
        """Computes outputs, by name."""
        return self._session.run(list(outputs), dict(feeds))
