"""The one place where ONNX Runtime is imported, with its telemetry switched off."""

import os
from importlib.util import find_spec
from typing import Any

from anyclass.errors import RequestError

SWITCH = "ORT_DISABLE_TELEMETRY"
"""Environment variable that ONNX Runtime reads when it is imported."""


def onnx_runtime(wanted_by: str = "the onnx engine") -> Any:
    """Import ONNX Runtime, which must not send usage data.

    Raises:
        RequestError: it, or what exports a model for it, is not installed.
    """
    if not find_spec("onnxruntime") or not find_spec("onnxscript"):
        raise RequestError(f"{wanted_by} is not installed: pip install 'anyclass[onnx]'")
    os.environ[SWITCH] = "1"
    import onnxruntime

    return onnxruntime
