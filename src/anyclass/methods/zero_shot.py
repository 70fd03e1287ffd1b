"""Zero-shot CLIP: a class is the text feature of its name.

Radford et al., ICML 2021, arXiv 2103.00020.   Needs: a name for every class.

    w_c = norm( mean_k norm( g(t_k(c)) ) )        template k filled with the name of class c
    y   = argmax_c cos( f(x), w_c )

f and g are the image and the text tower, never trained; one template, or an ensemble.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.text import PLAIN, Template, class_features, openai_templates
from anyclass.log import Log


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class ZeroShot:
    """Labels images by the names alone."""

    template: Template = PLAIN
    """How a class is put into words; `{}` is its name."""
    ensemble: bool = False
    """Use OpenAI's 80 templates instead of `template`."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Put the class names into words; no image is looked at."""
        templates = openai_templates() if self.ensemble else [self.template]
        weights = class_features(clip, dataset.classes.prompts, templates)
        return Classifier(clip, None, dataset.classes, weights, "zero-shot", asdict(self))
