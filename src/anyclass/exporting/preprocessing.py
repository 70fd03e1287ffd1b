"""The preprocessing of a model as an ONNX graph that gives Pillow's pixels, bit for bit.

ONNX's own Resize differs from Pillow's, which computes in fixed point and rounds after each axis.
The graph is `preprocessing.onnxtxt`.
"""

from collections.abc import Iterable
from importlib.resources import files
from string import Template
from typing import Any

import PIL

from anyclass.data import Preprocessing

REACH = {"bicubic": 2.0, "bilinear": 1.0}
"""Interpolation -> radius of Pillow's filter, in pixels of the smaller image."""

VERTICAL_FIRST = 13
"""First version of Pillow that may begin with the vertical axis."""


def preprocessing_graph(preprocessing: Preprocessing, opset: int, ir_version: int) -> Any:
    """ONNX model from `images`, uint8 (n, h, w, 3), to `pixels`, float32 (n, 3, H, W).

    Args:
        preprocessing: what the image encoder needs.
        opset: version of the operators.
        ir_version: version of the file format.
    """
    from onnx.parser import parse_model

    height, width = preprocessing.size
    mode: str = preprocessing.resize_mode
    interpolation: str = preprocessing.interpolation
    if mode == "shortest" and height != width:
        mode, interpolation = "covering", "bicubic"  # as open_clip does
    newer = int(PIL.__version__.split(".")[0]) >= VERTICAL_FIRST
    text = files("anyclass.exporting").joinpath("preprocessing.onnxtxt").read_text("utf-8")
    filled = Template(text).substitute(
        ir_version=ir_version,
        opset=opset,
        height=height,
        width=width,
        mode=mode,
        interpolation=interpolation,
        reach=REACH[interpolation],
        vertical_first=int(newer),
        fill=preprocessing.fill,
        mean=_numbers(preprocessing.mean),
        std=_numbers(preprocessing.std),
    )
    return parse_model(filled)


def _numbers(values: Iterable[float]) -> str:
    """Numbers as the text format writes them."""
    return ", ".join(f"{value:.9f}" for value in values)
