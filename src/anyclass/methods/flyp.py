"""FLYP: fine-tune a CLIP model with the very loss that it was trained with.

Goyal et al., CVPR 2023, arXiv 2212.00638.   Needs: a name for every class; labels only if told to
learn from given ones. With labels of its own it is a baseline of LatteCLIP, with given its oracle.

    w_c = norm( g(t(c)) )                        text of class c, by the text tower of now
    y_i = argmax_c f(x_i) . w_c                  label of an image, unless it is given
    L   = contrastive( F, W_y )                  f and g, both towers, learn
    argmax_c cos( f(x), w_c )                    the classifier afterwards

Letters: N images, C classes, D dimensions, B batch, F (B, D) image features, W (C, D) class
texts.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic.dataclasses import dataclass
from torch import Tensor
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.backbone.checkpointing import checkpointed
from anyclass.captioning.captions import TextFeatures
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import Embedding, cached_part, embed, image_features
from anyclass.features.text import PLAIN, Template, class_features, fill
from anyclass.log import Log
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.losses import Collisions, contrastive
from anyclass.training.tuning import Tuning


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Flyp:
    """Fine-tunes both towers on images and their class texts, by its own labels or yours."""

    tuning: Annotated[Tuning, arg(name="")] = Tuning()
    """What of the towers is trained, and how (LatteCLIP's values; FLYP's own: lr 1e-5, 500 steps
    of warm-up, batch 256 to 512)."""
    template: Template = PLAIN
    """Class text; `{}` is the class (FLYP itself draws one of a list)."""
    learn_from: Literal["pseudo", "given"] = "pseudo"
    """Labels of the model's own; or yours, and then only the images that have one."""
    relabel: Literal["batch", "never"] = "batch"
    """Labels by the model of now (LatteCLIP's paper), or by the untrained one (its code)."""
    collisions: Collisions = "ignore"
    """What two images of one class in a batch are to each other (both papers: ignore)."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from the images; labels are read only if `learn_from` is given.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable, and the names of two classes or more.
            log: gets the loss and how far the labels have moved.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: fewer than two classes, or no label where they should be given.
        """
        dataset = self._used(dataset)
        seed, tune, prompts = torch.initial_seed(), self.tuning.tune, dataset.classes.prompts
        c_zs = self._zero_shot(clip, dataset, log)
        known = torch.tensor(dataset.labels) if self.learn_from == "given" else c_zs
        tuned, agreement = clip.copy(), torch.tensor(float("nan"))
        batches = self.tuning.batches(tuned, dataset, log, seed)
        class_texts, micro = [fill(self.template, p) for p in prompts], self.tuning.micro_batch
        texts = TextFeatures(tuned, class_texts, tune, frozen=False, micro_batch=micro)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f = checkpointed(partial(tuned.tail, part=tune), batch.hidden, micro)  # F (B, D)
            w = texts(torch.arange(len(prompts)))  # W (C, D): each text once, for labels and loss
            c = known[batch.index].to(f.device)
            if self.learn_from == "pseudo" and self.relabel == "batch":
                c = (f @ w.T).argmax(1)
            agreement.copy_((c.cpu() == c_zs[batch.index]).float().mean())
            log(stage="flyp", step=batch.step, agreement_with_zero_shot=float(agreement))
            return {"flyp_loss": contrastive(f, w[c], tuned.logit_scale, c, self.collisions)}

        state = {"agreement": agreement}
        keep = Checkpoint(scratch / "training.safetensors", state) if scratch else None
        trained, schedule = tuned.parameters(tune), self.tuning.schedule(len(dataset))
        optimise(loss, trained, batches, schedule, log, keep)
        with torch.no_grad():
            w = class_features(tuned, prompts, [self.template])
        facts = {"agreement_with_zero_shot": float(agreement)} if len(batches) else {}
        learned_from = dataset.files if self.learn_from == "given" else ()
        record = {"facts": facts, "zero_shot_labels": c_zs.tolist(), "learned_from": learned_from}
        return Classifier(tuned, tune, dataset.classes, w, "flyp", asdict(self), record)

    def _used(self, dataset: ImageDataset) -> ImageDataset:
        """The images that are learned from."""
        if len(dataset.classes) < 2:
            raise RequestError(
                "FLYP tells classes apart: it needs the names of two (--classes FILE)"
            )
        if self.learn_from == "pseudo":
            return dataset
        if not (dataset.labels >= 0).any():
            raise RequestError(
                "no image has a label to learn from: give some (--labels folders|FILE), or let "
                "the model label them itself (--learn-from pseudo)"
            )
        return dataset.labelled

    @torch.no_grad()
    def _zero_shot(self, clip: Backbone, dataset: ImageDataset, log: Log) -> Int[Tensor, " N"]:
        """c_zs, the labels of the untrained model."""
        part = cached_part(self.tuning.tune)
        f0 = image_features(clip, embed(clip, dataset, Embedding(part), log), part)
        w0 = class_features(clip, dataset.classes.prompts, [self.template])
        return (f0 @ w0.T).argmax(1).cpu()
