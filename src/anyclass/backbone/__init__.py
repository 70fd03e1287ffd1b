"""An open_clip model as functions: image and text features, with separate trunk and tail."""

from anyclass.backbone.backbone import Backbone, EngineName, Part
from anyclass.backbone.device import Precision
from anyclass.backbone.text_tower import Words

__all__ = ["Backbone", "EngineName", "Part", "Precision", "Words"]
