"""LatteCLIP-plus: a Gaussian mixture with text priors, on unlabelled images.

The project's own, after LatteCLIP (arXiv 2410.08211), TransCLIP (arXiv 2406.01837) and Gaussian
discriminant analysis on CLIP (arXiv 2402.04087).   Needs: a name for every class, no label.

    l_ic = x_i . p_c / tau                                   logits by class prompts
    z_ic = softmax_c( l_ic + w g_c(h_i) + s log pi_c )       class probabilities: `gaussian_em.py`
    argmax_c of the same, g and pi from all images         the classifier

Letters: N images, C classes, D dimensions, x (N, D) unit features, h (N, H) features of the image
tower before its projection, p (C, D) text features of the classes. Nothing is trained by
gradient.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from tyro.conf import Suppress, arg

from anyclass.captioning import AnyCaptioner, CaptionContext, CaptionRequest, Vocabulary
from anyclass.captioning.captions import Answers
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.errors import RequestError
from anyclass.estimators.gaussian_em import GaussianEM
from anyclass.estimators.linear import Linear
from anyclass.estimators.logit_adjustment import fixed_point, sinkhorn
from anyclass.features.cache import Embedding
from anyclass.features.extract import tower_features
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template, domain
from anyclass.log import Log
from anyclass.methods.workload import Workload


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class LatteClipPlus:
    """Fits a Gaussian per class to unlabelled images, given the class names, in seconds."""

    discovers: ClassVar[bool] = False
    """Whether the method discovers classes without a name."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name."""
    correction: Literal["none", "sinkhorn", "fixed_point"] = "none"
    """Class-prior correction of the zero-shot logits before EM; try it if zero-shot predicts some
    classes far too often."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Interpolates the Sinkhorn target between uniform (0) and predicted class frequencies (1)."""
    gaussians: Annotated[GaussianEM, arg(name="")] = GaussianEM()
    """Gaussian mixture with text priors."""
    descriptions: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of the caption of an image in its text logits during EM; 0: no captions."""
    captioner: Suppress[AnyCaptioner] = Vocabulary()
    """Captioner, used if `descriptions` is positive."""
    domain: str = "object"
    """Noun for what the images show, used in the questions to the captioner; or a data set of
    LatteCLIP's paper, for its questions."""
    plural: str = ""
    """Plural of `domain`, if irregular."""

    @torch.no_grad()
    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on the images without reading any label.

        Args:
            data: the model, which is not changed, readable images and two class names or more.
            log: receives the share of images that leave their zero-shot class, for each round.
            scratch: not used; features are cached.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes.
        """
        clip = data.clip
        dataset = data.dataset
        if len(dataset.classes) < 2:
            raise RequestError("LatteCLIP-plus needs two or more class names (--classes FILE)")
        x = data.image_features("head", log)  # (N, D)
        h = tower_features(data.embed(Embedding("head"), log)).to(x)  # (N, H)
        p = data.class_features([self.template])
        scale = clip.logit_scale
        captions, rows = self._captions(CaptionContext(dataset, clip, x.cpu()), log)
        zero_shot = scale * x @ p.T  # l (N, C)
        share = self.descriptions * (captions != 0).any(1, keepdim=True)
        logits = (1 - share) * zero_shot + share * (scale * captions @ p.T)
        mean = h.mean(0)
        bias = self._prior_correction(logits)
        unlabelled = torch.full((len(h),), -1, device=h.device)
        learned = self.gaussians.learn(logits + bias, h - mean, unlabelled, log, seed)
        learned = replace(learned, bias=bias + learned.intercept).uncentred(mean)
        adapted = zero_shot + h @ learned.weights.T + learned.intercept
        c_zs = zero_shot.argmax(1)
        c = adapted.argmax(1)
        facts = {
            "agreement_with_zero_shot": float((c == c_zs).float().mean()),
            "classes_without_images": int((c.bincount(minlength=len(p)) == 0).sum()),
        }
        record = FitRecord(facts=facts, descriptions=rows, zero_shot_labels=c_zs.tolist())
        head = Linear(learned.with_text_logits(p, scale), scale=scale.detach())
        representation = Representation((clip,), space="both")
        classes = dataset.classes
        return Classifier(representation, head, classes, "latteclip-plus", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return Workload(captions=self.captioner.estimate(self.questions(images, classes)))

    def _prior_correction(self, logits: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
        """Bias that corrects the class prior of the logits."""
        match self.correction:
            case "sinkhorn":
                return sinkhorn(logits, self.gamma)
            case "fixed_point":
                return fixed_point(logits)
            case "none":
                return torch.zeros_like(logits[0])

    def questions(self, images: int, classes: int) -> int:
        """Maximum number of captions to request: one per image, or none."""
        return images if self.descriptions else 0

    def _captions(
        self, context: CaptionContext, log: Log
    ) -> tuple[Float[Tensor, "N D"], list[dict[str, str]]]:
        """Text features of the captions, zero if there is none, and the captions as rows."""
        features = torch.zeros_like(context.features).to(context.clip.device)
        if self.descriptions == 0:
            return features, []
        topic = domain(self.domain, self.plural)
        images = range(len(context.dataset))
        requests = [CaptionRequest((i,), topic.ask_image(), topic.noun) for i in images]
        answers = Answers(self.captioner, context, log).to(requests)
        captions = {i: text for i, r in enumerate(requests) if (text := answers[r])}
        if captions:
            features[list(captions)] = context.clip.texts(list(captions.values())).to(features)
        files = context.dataset.files
        rows = [{"kind": "image", "file_name": files[i], "text": t} for i, t in captions.items()]
        return features, rows
