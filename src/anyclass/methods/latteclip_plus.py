"""LatteCLIP-plus: class names and what the image tower sees by itself, brought to agree.

The project's own, after LatteCLIP (arXiv 2410.08211), TransCLIP (arXiv 2406.01837) and Gaussian
discriminant analysis on CLIP (arXiv 2402.04087).   Needs: a name for every class, no label at all.

    l_ic = x_i . p_c / tau                                   what class texts say of an image
    z_ic = softmax_c( l_ic + w g_c(h_i) + s log pi_c )       its classes, softly: `gaussian_em.py`
    argmax_c of the same, g and pi from all images         the classifier afterwards

Letters: N images, C classes, D dimensions, x (N, D) unit features, h (N, H) features of the image
tower before its projection, p (C, D) class texts. No step of gradient is taken and nothing of the
model changes.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.captioning import AnyCaptioner, CaptionContext, CaptionRequest, Vocabulary
from anyclass.captioning.captions import Answers
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.gaussian_em import GaussianEM
from anyclass.estimators.logit_adjustment import fixed_point, sinkhorn
from anyclass.features.extract import Embedding, embed, image_features, tower_features
from anyclass.features.text import PLAIN, Template, class_features, domain
from anyclass.log import Log


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class LatteClipPlus:
    """Fits a Gaussian per class to unlabelled images whose class names are known; in seconds."""

    template: Template = PLAIN
    """Class text; `{}` is the class."""
    correction: Literal["none", "sinkhorn", "fixed_point"] = "none"
    """Whether classes that zero-shot guesses too often are first taken back, and by what rule."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Of Sinkhorn, 0: all classes are equally frequent; 1: as frequent as they are guessed."""
    gaussians: Annotated[GaussianEM, arg(name="")] = GaussianEM()
    """How the two are brought to agree."""
    descriptions: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an image's description in what texts say of it while fitting; 0: none is asked."""
    captioner: AnyCaptioner = Vocabulary()
    """Who writes the descriptions."""
    domain: str = "object"
    """What the images show, for the captioner: a noun, or one of LatteCLIP's sets."""
    plural: str = ""
    """Of a noun in `domain` that does not take an s."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from the images; their labels are never read.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable, and the names of two classes or more.
            log: gets the share of images that leave their zero-shot class, for each round.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: fewer than two classes.
        """
        if len(dataset.classes) < 2:
            raise RequestError(
                "LatteCLIP-plus tells classes apart: it needs two names or more (--classes FILE)"
            )
        features = embed(clip, dataset, Embedding("head"), log)
        x = image_features(clip, features, "head")  # (N, D)
        h = tower_features(features).to(x)  # (N, H)
        p, scale = class_features(clip, dataset.classes.prompts, [self.template]), clip.logit_scale
        said, texts = self._said(CaptionContext(dataset, clip, x.cpu()), log)
        names_say = scale * x @ p.T  # l (N, C)
        share = self.descriptions * (said != 0).any(1, keepdim=True)
        logits = (1 - share) * names_say + share * (scale * said @ p.T)
        middle, taken_back = h.mean(0), self._taken_back(logits)
        no_label = torch.full((len(h),), -1, device=h.device)
        learned = self.gaussians.learn(logits + taken_back, h - middle, no_label, log)
        learned = learned._replace(bias=taken_back + learned.bias).uncentred(middle)
        c_zs, c = names_say.argmax(1), (names_say + h @ learned.v + learned.bias).argmax(1)
        facts = {
            "agreement_with_zero_shot": float((c == c_zs).float().mean()),
            "classes_without_images": int((c.bincount(minlength=len(p)) == 0).sum()),
        }
        record = {"facts": facts, "zero_shot_labels": c_zs.tolist(), "descriptions": texts}
        weights, about = learned.beside(p, scale), ("latteclip-plus", asdict(self), record)
        return Classifier(clip, None, dataset.classes, weights, *about, own=True)

    def _taken_back(self, logits: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
        """A bias against classes that are guessed too often."""
        match self.correction:
            case "sinkhorn":
                return sinkhorn(logits, self.gamma)
            case "fixed_point":
                return fixed_point(logits)
            case "none":
                return torch.zeros_like(logits[0])

    def questions(self, images: int, classes: int) -> int:
        """How many texts the captioner is asked for at most: one of each image, or none."""
        return images if self.descriptions else 0

    def _said(
        self, context: CaptionContext, log: Log
    ) -> tuple[Float[Tensor, "N D"], list[dict[str, str]]]:
        """Text features of the descriptions, zero where there is none; and what was written."""
        features = torch.zeros_like(context.features).to(context.clip.device)
        if self.descriptions == 0:
            return features, []
        about = domain(self.domain, self.plural)
        asked = [
            CaptionRequest((i,), about.ask_image(), about.noun) for i in range(len(context.dataset))
        ]
        known = Answers(self.captioner, context, log).to(asked)
        written = {i: text for i, r in enumerate(asked) if (text := known[r])}
        if written:
            features[list(written)] = context.clip.texts(list(written.values())).to(features)
        files = context.dataset.files
        rows = [{"kind": "image", "file_name": files[i], "text": t} for i, t in written.items()]
        return features, rows
