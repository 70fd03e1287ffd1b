"""anyclass: a folder of images becomes a classifier, with whatever is known of its classes.

A name is imported when it is first used, so that `import anyclass` costs nothing. Before anything
else is imported, usage statistics of the libraries below are switched off, here and nowhere else.
"""

import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyclass.api.fit import fit
    from anyclass.api.predictions import Predictions
    from anyclass.api.run import Run, load
    from anyclass.backbone import Backbone
    from anyclass.classifier.classifier import Classifier
    from anyclass.commands.audit import audit
    from anyclass.commands.embed import embed
    from anyclass.commands.evaluate import evaluate
    from anyclass.commands.export import export
    from anyclass.commands.plan import plan
    from anyclass.commands.predict import predict
    from anyclass.commands.serve import serve
    from anyclass.data import Classes, ImageDataset
    from anyclass.errors import AnyclassError
    from anyclass.estimators.open_world import OpenWorldClassifier

__version__ = "0.1.0"

NO_TELEMETRY = ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY")
"""Environment variables that a library reads when it is imported: send no usage statistics.

The second is of huggingface_hub, hf_xet, transformers and datasets, the third of ONNX Runtime.
"""

os.environ.update(dict.fromkeys(NO_TELEMETRY, "1"))

__all__ = [
    "AnyclassError",
    "Backbone",
    "Classes",
    "Classifier",
    "ImageDataset",
    "OpenWorldClassifier",
    "Predictions",
    "Run",
    "__version__",
    "audit",
    "embed",
    "evaluate",
    "export",
    "fit",
    "load",
    "plan",
    "predict",
    "serve",
]

_HOMES = {
    "AnyclassError": "errors",
    "Backbone": "backbone",
    "Classes": "data",
    "Classifier": "classifier.classifier",
    "ImageDataset": "data",
    "OpenWorldClassifier": "estimators.open_world",
    "Predictions": "api.predictions",
    "Run": "api.run",
    "audit": "commands.audit",
    "embed": "commands.embed",
    "evaluate": "commands.evaluate",
    "export": "commands.export",
    "fit": "api.fit",
    "load": "api.run",
    "plan": "commands.plan",
    "predict": "commands.predict",
    "serve": "commands.serve",
}


def __getattr__(name: str) -> Any:
    """The public name, out of the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'anyclass' has no attribute {name!r}")
    return _imported(name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__


@cache
def _imported(name: str) -> Any:
    """A public name; the errors of a command name arguments, not flags."""
    value = getattr(import_module(f"anyclass.{_HOMES[name]}"), name)
    if not _HOMES[name].startswith("commands."):
        return value
    from anyclass.api.words import names_arguments

    return names_arguments(value)
