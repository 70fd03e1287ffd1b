"""An open_clip model as functions: image and text features, with separate trunk and tail.

Names that need PyTorch are imported when they are first used: lists of models and options are read
by commands that do without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyclass.backbone.options import EngineName, Part, Precision

if TYPE_CHECKING:
    from anyclass.backbone.backbone import Backbone
    from anyclass.backbone.text_tower import Words

__all__ = ["Backbone", "EngineName", "Part", "Precision", "Words"]

_HOMES = {"Backbone": "backbone", "Words": "text_tower"}


def __getattr__(name: str) -> Any:
    """A name of the package, out of the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'anyclass.backbone' has no attribute {name!r}")
    return getattr(import_module(f"anyclass.backbone.{_HOMES[name]}"), name)
