"""Zero-shot CLIP: classify by the text features of the class names.

Radford et al., ICML 2021, arXiv 2103.00020.   Needs: a name for every class.

    w_c = norm( mean_k norm( g(t_k(c)) ) )        template k filled with the name of class c
    y   = argmax_c cos( f(x), w_c )

f and g are the frozen image and text towers; one template (k = 1), or an ensemble.
"""

from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.representation import Representation
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template
from anyclass.log import Log
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import Workload


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class ZeroShot:
    """Classifies images by the class names, without training."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="Zero-shot", situations=(Situation.NAMES,), uses_labels=False
    )
    """Facts for lists, planning and the report."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name."""
    ensemble: bool = False
    """Average OpenAI's 80 templates instead of using `template`: slower, often more accurate."""

    @torch.no_grad()
    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Compute the class text features; images are not used."""
        templates = OPENAI_TEMPLATES if self.ensemble else [self.template]
        clip = data.clip
        classes = data.dataset.classes
        texts = data.class_features(templates, log)
        head = CosineHead(texts, clip.logit_scale.detach())
        return Classifier(Representation((clip,)), head, classes, "zero-shot", asdict(self))

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return Workload()
