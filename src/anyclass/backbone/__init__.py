"""An open_clip model seen as functions: features out, trunk and tail apart."""

from anyclass.backbone.backbone import Backbone, EngineName, Part, Precision
from anyclass.backbone.text_tower import Words

__all__ = ["Backbone", "EngineName", "Part", "Precision", "Words"]
