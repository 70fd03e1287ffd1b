"""FLYP: fine-tune a CLIP model with its contrastive pre-training loss.

Goyal et al., CVPR 2023, arXiv 2212.00638.   Needs: a name for every class; labels only with
`learn_from` given. With pseudo-labels it is a baseline of LatteCLIP, with given labels its oracle.

    w_c = norm( g(t(c)) )                        text feature of class c, by the current text tower
    y_i = argmax_c f(x_i) . w_c                  pseudo-label of an image, or its given label
    L   = contrastive( F, W_y )                  both towers f and g are trained
    argmax_c cos( f(x), w_c )                    the classifier afterwards

Letters: N images, C classes, D dimensions, B batch, F (B, D) image features, W (C, D) text
features of the classes.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic.dataclasses import dataclass
from torch import Tensor
from tyro.conf import arg

from anyclass.backbone.checkpointing import checkpointed
from anyclass.captioning.captions import TextFeatures
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import cached_part
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, FilledTemplates, Template, class_features
from anyclass.log import Log
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import Workload, refuse_one_class
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.losses import Collisions, contrastive
from anyclass.training.tuning import Tuning


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Flyp:
    """Fine-tunes both encoders on images and class prompts, with pseudo-labels or given labels."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="FLYP",
        situations=(Situation.NAMES, Situation.NAMES_AND_LABELS),
        divisible=("tail", "all"),
        metrics={"flyp_loss": "contrastive loss of images and prompts"},
    )
    """Facts for lists, planning and the report."""
    tuning: Annotated[Tuning, arg(name="")] = Tuning()
    """Fine-tuning of the encoders (LatteCLIP's values; FLYP's paper: lr 1e-5, 500 steps of warm-up,
    batch size 256 to 512)."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name (FLYP's paper: drawn from a list)."""
    learn_from: Literal["pseudo", "given"] = "pseudo"
    """Train on pseudo-labels of the model, or on given labels and only the labelled images."""
    relabel: Literal["batch", "never"] = "batch"
    """Pseudo-labels by the current model in each batch (LatteCLIP's paper), or by the model before
    training (its code)."""
    collisions: Collisions = "ignore"
    """Treatment of image-text pairs of the same class in a batch (both papers: ignore)."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on the images; labels are read only if `learn_from` is given.

        Args:
            data: the model, which is not changed, readable images and two class names or more.
            log: receives the loss and the agreement of pseudo-labels with zero-shot.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, or no label with `learn_from` given.
        """
        dataset = self._training_images(data.dataset)
        data = data.of(dataset)
        given = self.learn_from == "given"
        tune = self.tuning.tune
        micro = self.tuning.micro_batch
        prompts = dataset.classes.all_prompts
        c_zs = self._zero_shot(data, log)
        y = torch.tensor(dataset.labels) if given else c_zs
        tuned = data.clip.copy()
        agreement = torch.tensor(float("nan"))
        batches = self.tuning.batches(tuned, data, log, seed)
        class_texts = FilledTemplates.of(prompts, [self.template])
        texts = TextFeatures(tuned, class_texts.texts, tune, frozen=False, micro_batch=micro)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            encode = partial(tuned.tail, part=tune)
            f = batch.gathered(checkpointed(encode, batch.hidden, micro))  # F (B, D)
            w = class_texts.mean(texts(torch.arange(len(class_texts.texts))))  # W (C, D)
            c = y[batch.index].to(f.device)
            if not given and self.relabel == "batch":
                c = (f @ w.T).argmax(1)
            agreement.copy_((c.cpu() == c_zs[batch.index]).float().mean())
            log(stage="flyp", step=batch.step, agreement_with_zero_shot=float(agreement))
            return {"flyp_loss": contrastive(f, w[c], tuned.logit_scale, c, self.collisions)}

        state = {"agreement": agreement}
        checkpoint = Checkpoint.at(scratch and scratch / "training.safetensors", state)
        schedule = self.tuning.schedule(len(dataset))
        parameters = tuned.parameters(tune)
        optimise(loss, parameters, batches, schedule, log, checkpoint, tuned.loss_scaler())
        with torch.no_grad():
            w = class_features(tuned, prompts, [self.template])
        metrics = {"agreement_with_zero_shot": float(agreement)} if len(batches) else {}
        trained_on = dataset.files if given else ()
        record = FitRecord(trained_on, metrics, zero_shot_labels=c_zs.tolist())
        representation = Representation((tuned,), tune)
        head = CosineHead(w, tuned.logit_scale.detach())
        return Classifier(representation, head, dataset.classes, "flyp", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        given = self.learn_from == "given"
        views = self.tuning.cached_views
        tune = self.tuning.tune
        return Workload(tune, tune != "head", views, needs_labels=given, least_names=2)

    def _training_images(self, dataset: ImageDataset) -> ImageDataset:
        """Select the images to train on."""
        refuse_one_class(dataset.classes, "FLYP")
        if self.learn_from == "pseudo":
            return dataset
        if not (dataset.labels >= 0).any():
            raise RequestError(
                "no image has a label: give labels (--labels folders|FILE), or train on "
                "pseudo-labels (--learn-from pseudo)"
            )
        return dataset.labelled

    @torch.no_grad()
    def _zero_shot(self, data: FeatureStore, log: Log) -> Int[Tensor, " N"]:
        """c_zs, pseudo-labels of the model before training."""
        f0 = data.image_features(cached_part(self.tuning.tune), log)
        w0 = data.class_features([self.template], log)
        return (f0 @ w0.T).argmax(1).cpu()
