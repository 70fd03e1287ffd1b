"""The one place where ONNX Runtime is imported."""

from importlib.util import find_spec
from typing import Any

from anyclass.errors import RequestError


def onnx_runtime(wanted_by: str = "the onnx engine") -> Any:
    """Import ONNX Runtime; the package has switched its telemetry off.

    Raises:
        RequestError: it, or what exports a model for it, is not installed.
    """
    if not find_spec("onnxruntime") or not find_spec("onnxscript"):
        raise RequestError(f"{wanted_by} is not installed: pip install 'anyclass[onnx]'")
    import onnxruntime

    return onnxruntime
