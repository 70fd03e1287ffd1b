"""ReCLIP's pseudo-labels: labels on which both towers agree, and the centroids of V.

Letters as in `reclip.py`: N images, C classes, D dimensions, B batch.
"""

from math import isnan
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.features.stream import current_features
from anyclass.features.text import FilledTemplates, class_features
from anyclass.log import Log
from anyclass.methods.reclip_equations import NONE, centroids

if TYPE_CHECKING:
    import anyclass.methods.reclip

METRICS = ("agreement_of_towers", "agreement_with_zero_shot", "residual")
"""Share of images with the same label by T and V; share of these in their zero-shot class; largest
residual of label propagation."""


class PseudoLabels:
    """Labels on which T and V agree, and the centroids of V, which change in each epoch."""

    def __init__(
        self,
        settings: "anyclass.methods.reclip.Reclip",
        data: FeatureStore,
        class_texts: FilledTemplates,
        log: Log,
    ) -> None:
        """Start without labels, and with text features as centroids."""
        part = cached_part(settings.tune)
        self.settings = settings
        self.dataset = data.dataset
        self.test_views = data.embed(Embedding(part), log)
        self.x_t = data.image_features(part, log)  # X_T (N, D)
        self.anchors = data.class_features(settings.templates, log)  # constant for V
        with torch.no_grad():
            w0 = class_texts.mean(data.clip.texts(class_texts.texts))
            self.c_zs = (self.x_t @ w0.T).argmax(1).cpu()
        self.y = torch.full((len(data),), NONE)  # (N,)
        self.q = self.anchors.clone()  # Q (C, D)
        self._metrics = torch.full((len(METRICS),), torch.nan)

    @property
    def state(self) -> dict[str, Tensor]:
        """What changes in training."""
        return {"y": self.y, "q": self.q, "facts": self._metrics}

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last epoch; empty before the first one."""
        values = zip(METRICS, self._metrics.tolist(), strict=True)
        return {name: value for name, value in values if not isnan(value)}

    @torch.no_grad()
    def propagate(self, t: Backbone, v: Backbone) -> None:
        """Label the images by both towers, and compute the centroids of V."""
        settings = self.settings
        prompts = self.dataset.classes.all_prompts
        x_v = current_features(v, self.dataset, settings.tune, self.test_views).to(self.q)
        w = class_features(t, prompts, settings.templates)
        y_t, error_t = settings.label_nodes(w, self.x_t)
        y_v, error_v = settings.label_nodes(self.anchors, x_v)
        self.q.copy_(centroids(torch.cat([self.anchors, x_v]), y_v, self.q))
        images_t = y_t[len(self.q) :]
        images_v = y_v[len(self.q) :]
        self.y.copy_(torch.where(images_t == images_v, images_v, NONE))
        agreement = (self.y != NONE).float().mean()
        with_zero_shot = (self.c_zs == self.y)[self.y != NONE].float().mean()
        self._metrics.copy_(torch.stack([agreement, with_zero_shot, error_t.maximum(error_v)]))
