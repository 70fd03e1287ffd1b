"""anyclass: a folder of images becomes a classifier, with whatever is known of its classes.

A name is imported when it is first used, so that `import anyclass` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyclass.backbone import Backbone
    from anyclass.classifier.classifier import Classifier
    from anyclass.commands.audit import audit
    from anyclass.commands.embed import embed
    from anyclass.commands.evaluate import evaluate
    from anyclass.commands.export import export
    from anyclass.commands.fit import fit
    from anyclass.commands.plan import plan
    from anyclass.commands.predict import predict
    from anyclass.commands.serve import serve
    from anyclass.data import Classes, ImageDataset
    from anyclass.errors import AnyclassError
    from anyclass.estimators.open_world import OpenWorldClassifier

__version__ = "0.1.0"

__all__ = [
    "AnyclassError",
    "Backbone",
    "Classes",
    "Classifier",
    "ImageDataset",
    "OpenWorldClassifier",
    "__version__",
    "audit",
    "embed",
    "evaluate",
    "export",
    "fit",
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
    "audit": "commands.audit",
    "embed": "commands.embed",
    "evaluate": "commands.evaluate",
    "export": "commands.export",
    "fit": "commands.fit",
    "plan": "commands.plan",
    "predict": "commands.predict",
    "serve": "commands.serve",
}


def __getattr__(name: str) -> Any:
    """The public name, out of the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'anyclass' has no attribute {name!r}")
    return getattr(import_module(f"anyclass.{_HOMES[name]}"), name)
