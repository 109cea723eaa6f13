"""Reading OpenECG's detector from its TFLite file, a flatbuffer; nothing is executed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from enecg.errors import UserError, one_line

_LARGEST = 64 * 2**20
_CONVS, _LAYERS = 4, 4


def read_detector(path: Path) -> dict[str, Tensor]:
    """Return the detector's tensors, by the names of `enecg.experts.openecg.Detector`.

    They are taken in the order in which the file's operators use them; int8 tensors times their
    scales. Those of the two output layers are left out: features come from before them.

    Raises
    ------
    ImportError
        tflite or flatbuffers is not installed.
    UserError
        The file cannot be read, or is not this network.
    """
    try:
        import flatbuffers  # noqa: F401  (tflite needs it and does not say so)
        import tflite
    except ImportError as error:
        raise ImportError(
            "expert openecg needs tflite and flatbuffers: pip install tflite flatbuffers"
        ) from error
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large for this network")
        content = path.read_bytes()
        return _named(_File(tflite, content))
    except (OSError, ValueError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise UserError(
            f"weights {path}: not the detector of openecg (boundary_int8.tflite): {one_line(error)}"
        ) from None


class _File:
    """A TFLite file's operators and constant tensors."""

    def __init__(self, tflite: Any, content: bytes) -> None:
        if content[4:8] != b"TFL3":
            raise ValueError("no TFLite file")
        self.tflite, self.content = tflite, content
        self.model = tflite.Model.GetRootAs(content, 0)
        self.graph = self.model.Subgraphs(0)
        operators = [self.graph.Operators(n) for n in range(self.graph.OperatorsLength())]
        self.inputs = [operator.InputsAsNumpy().tolist() for operator in operators]
        self.outputs = [operator.OutputsAsNumpy().tolist() for operator in operators]
        codes = [self.model.OperatorCodes(operator.OpcodeIndex()) for operator in operators]
        self.codes = [max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes]
        self.made_by = {made[0]: n for n, made in enumerate(self.outputs)}

    def weighted(self) -> list[tuple[list[int], int]]:
        """Return inputs and output of every fully connected layer and convolution, in order."""
        operator = self.tflite.BuiltinOperator
        wanted = (operator.FULLY_CONNECTED, operator.CONV_2D)
        return [
            (self.inputs[n], self.outputs[n][0])
            for n, code in enumerate(self.codes)
            if code in wanted
        ]

    def weight(self, number: int) -> npt.NDArray[np.float32]:
        """Return a constant; one that an operator makes float from int8, as float32."""
        if number in self.made_by:
            number = self.inputs[self.made_by[number]][0]
        tensor = self.graph.Tensors(number)
        shape = tensor.ShapeAsNumpy()
        kind = self.tflite.TensorType
        raw = self._bytes(tensor.Buffer())
        if tensor.Type() == kind.FLOAT32:
            return np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)
        if tensor.Type() != kind.INT8:
            raise ValueError(f"tensor {number} is neither float32 nor int8")
        values = np.frombuffer(raw, np.int8).reshape(shape).astype(np.float32)
        how = tensor.Quantization()
        if np.any(how.ZeroPointAsNumpy()):
            raise ValueError(f"tensor {number} is not quantised around 0")
        across = [1] * values.ndim
        across[how.QuantizedDimension()] = -1
        return np.asarray(values * how.ScaleAsNumpy().astype(np.float32).reshape(across))

    def constants_added_or_multiplied(self, shape: tuple[int, ...]) -> list[int]:
        """Return the constant operands of additions and products that have a shape, in order."""
        operator = self.tflite.BuiltinOperator
        found = []
        for code, inputs in zip(self.codes, self.inputs, strict=True):
            if code not in (operator.ADD, operator.MUL) or len(inputs) != 2:
                continue
            for number in inputs:
                is_constant = number >= 0 and number not in self.made_by
                if is_constant and tuple(self.graph.Tensors(number).ShapeAsNumpy()) == shape:
                    found.append(number)
        return found

    def _bytes(self, number: int) -> bytes:
        buffer = self.model.Buffers(number)
        if buffer.DataLength():
            return bytes(buffer.DataAsNumpy().tobytes())
        # Large buffers lie behind the flatbuffer.
        start, size = buffer.Offset(), buffer.Size()
        if start + size > len(self.content):
            raise ValueError("it ends too early")
        return self.content[start : start + size]


def _named(file: _File) -> dict[str, Tensor]:
    layers = file.weighted()
    if len(layers) != 1 + _CONVS + 4 * _LAYERS + 2:
        raise ValueError(f"{len(layers)} layers with weights")
    named = {"patch.weight": file.weight(layers[0][0][1])}
    [position] = file.constants_added_or_multiplied((1, 500, 128))
    named["position"] = file.weight(position)[0]
    # A convolution's own bias is 0; the real one is added behind it.
    biases = file.constants_added_or_multiplied((1, 1, 128))
    scales = file.constants_added_or_multiplied((128,))
    if (len(biases), len(scales)) != (_CONVS, 2 * _CONVS):
        raise ValueError(f"{len(biases)} biases and {len(scales)} scales of convolutions")
    for n in range(_CONVS):
        inputs, _ = layers[1 + n]
        if np.any(file.weight(inputs[2])):
            raise ValueError("a convolution has two biases")
        named[f"convs.{n}.weight"] = file.weight(inputs[1])[:, :, 0].transpose(0, 2, 1)
        named[f"convs.{n}.bias"] = file.weight(biases[n]).reshape(-1)
        named[f"norms.{n}.weight"] = file.weight(scales[2 * n])
        named[f"norms.{n}.bias"] = file.weight(scales[2 * n + 1])
    for n in range(_LAYERS):
        for part, (inputs, _) in zip(
            ("qkv", "out", "widen", "narrow"), layers[1 + _CONVS + 4 * n :], strict=False
        ):
            named[f"layers.{n}.{part}.weight"] = file.weight(inputs[1])
            named[f"layers.{n}.{part}.bias"] = file.weight(inputs[2])
    return {name: torch.from_numpy(np.array(value)) for name, value in named.items()}
