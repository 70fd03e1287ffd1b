"""SHIP: synthesise image features for classes that have a name but no labelled image.

Wang et al., ICCV 2023, arXiv 2307.07397.   Needs: labels for some classes, names for the rest.

    x^ = T([p(z), name of c]),  z ~ N(0, I)      made feature of class c; `ship_vae.py` learns p
    L  = cross-entropy of [x, x^] over all C     as many made features as real ones, always fresh

A generator learns from the labelled classes what surrounds a name when images are meant; then any
few-shot method learns from real features of the labelled and made features of the named classes.
Letters: C classes, M of them named, D dimensions, L words of width W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.backbone.checkpointing import checkpointed
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.data import Classes, ImageDataset
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.coop import CoOp, context, warn_of_long_names
from anyclass.methods.few_shot import FewShot, SyntheticFeatures, refuse_one_class
from anyclass.methods.gda import Gda
from anyclass.methods.ship_vae import Generator, Vae, frozen
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch, Steps
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate

Then = CoOp | ClipAdapter | TipAdapter | Gda
"""What learns from real and made features."""

Synthetic = Literal["generator", "mean", "text", "none"]
"""Features of named classes: made from drawn codes | from code 0 | the class text | none."""

CONTROLS: tuple[Synthetic, ...] = ("text", "none")
"""What SHIP has to beat: the same classifier without a generator."""

GENERATOR = "generator.safetensors"
"""File in the model folder of a run."""

MADE = -7
"""Sets the draws of made features apart from others by one seed."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Ship:
    """Learns to make image features from class names, then fits a classifier of all classes."""

    then: Suppress[Annotated[Then, Field(discriminator="kind")]] = CoOp(
        data=FewShot(), recipe="ship"
    )
    """What learns from real and made features, and from which images (released code: CoOp)."""
    generator: Annotated[Vae, arg(name="")] = Vae()
    """How features are made."""
    synthetic: Synthetic = "generator"
    """Where features of named classes come from; all but the first are controls."""
    controls: bool = False
    """Also fit the classifiers that SHIP has to beat; they stand beside the result."""
    template: Template = PLAIN
    """Class text of the controls and of the log; `{}` is the class."""
    ratio: Annotated[float, Field(gt=0)] | None = 1.0
    """Made features beside each real one (released code: 1); None: named over labelled classes."""
    pool: Annotated[int, Field(gt=0)] | None = None
    """Features of each named class that are made once and drawn from; None: always fresh ones."""
    source: Annotated[str | None, arg(metavar="RUN")] = None
    """Run folder of an earlier `ship` whose generator is taken; then no label is needed, and
    settings of the generator are those of that run."""
    transfer_steps: Annotated[int, Field(ge=0)] = 800
    """Without labels: steps of CoOp on made features alone."""
    transfer_start: Literal["source", "words"] = "source"
    """Without labels: words CoOp starts from, those that the source learned or its usual ones."""
    transfer_size: Annotated[int, Field(gt=0)] = 256
    """Made features of such a step (released code: its batch)."""
    transfer_lr: Annotated[float, Field(gt=0)] = 1e-3
    """AdamW's highest learning rate then (released code for ImageNet)."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled images and from the names of all classes.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; those without a label are not looked at.
            log: gets the losses, and after each epoch how far the code has collapsed.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: fewer than two classes, no image with a label and no source, or `words`
                of CoOp that are not `length` words of the model.
            ModelError: the source has no generator for this model.
        """
        refuse_one_class(dataset.classes, "SHIP")
        labelled = set(dataset.labels[dataset.labels >= 0].tolist())
        named = [c for c in range(len(dataset.classes)) if c not in labelled]
        if not named:
            log(warning="every class has a labelled image: there is nothing to make up")
            return self._signed(self.then.fit(clip, dataset, log, scratch), None, {})
        self._check(clip, dataset.classes, log)
        with torch.no_grad():
            t = class_features(clip, dataset.classes.prompts, [self.template])
        with frozen(clip):
            if self.source is not None and not labelled:
                return self._transferred(clip, dataset.classes, t, log, scratch)
            return self._joint(clip, dataset, t, log, scratch)

    def _check(self, clip: Backbone, classes: Classes, log: Log) -> None:
        """Say and refuse what need not wait for the generator."""
        warn_of_long_names(PromptLearner(clip, classes.prompts, self.generator.length), log)
        if isinstance(self.then, CoOp):
            learner = PromptLearner(clip, classes.prompts, self.then.length)
            context(learner, self.then.words, self.then.deviation, seed=0)

    def _joint(
        self,
        clip: Backbone,
        dataset: ImageDataset,
        t: Float[Tensor, "C D"],
        log: Log,
        scratch: Path | None,
    ) -> Classifier:
        """Real features of labelled classes and made ones of the others, learned together."""
        classes, maker = dataset.classes, None
        needed = self.synthetic not in CONTROLS
        if needed and self.source is not None:  # refuses before images are embedded
            maker = self._source(clip, classes, t)[0]
        epochs = max(self.generator.epochs, getattr(self.then, "epochs", None) or 1)
        labelled = self.then.data.show(clip, dataset, log, epochs)
        if needed and maker is None:
            keep = _in(scratch, "generator")
            maker = self.generator.learn(clip, labelled, classes, t, log, keep)
        everything = torch.arange(len(classes))
        named = everything[~torch.isin(everything, labelled.classes)]
        ratio = self.ratio or len(named) / len(labelled.classes)
        found: dict[str, Classifier] = {}
        for kind in self._all:
            keep = _in(scratch, f"then-{kind}")
            synthetic = self._made(kind, maker, t, named, ratio)
            found[kind] = self.then.learn(clip, labelled, classes, log, synthetic, "all", keep)
        return self._signed(found[self.synthetic], maker, found)

    @property
    def _all(self) -> Sequence[Synthetic]:
        """What is fitted: the result, and what it has to beat."""
        return list(dict.fromkeys((self.synthetic, *(CONTROLS if self.controls else ()))))

    def _made(
        self,
        kind: Synthetic,
        maker: Generator | None,
        t: Float[Tensor, "C D"],
        named: Int[Tensor, " M"],
        ratio: float,
    ) -> SyntheticFeatures | None:
        """Features of the named classes, as many as the ratio says; None: none."""
        seed = seeded_rng(torch.initial_seed(), MADE).initial_seed()
        if kind == "text":
            return SyntheticFeatures(named, lambda c, _: t[c], seed, ratio)
        if kind == "none" or maker is None:
            return None
        if kind == "mean":
            return SyntheticFeatures(named, maker.mean, seed, ratio)
        return SyntheticFeatures(named, maker.sample, seed, ratio, self.pool)

    def _signed(
        self, learned: Classifier, maker: Generator | None, found: Mapping[str, Classifier]
    ) -> Classifier:
        """The classifier as one of SHIP, with generator and controls in its record."""
        controls = {str(name): found[name] for name in CONTROLS if self.controls and name in found}
        record = dict(learned.record) | {"controls": controls}
        if maker is not None:
            save = partial(maker.save, context=learned.record.get("context"))
            record |= {"files": {GENERATOR: save}}
            record["facts"] = {**learned.record.get("facts", {}), **maker.facts}
        return replace(learned, method="ship", fields=asdict(self), record=record)

    def _source(
        self, clip: Backbone, classes: Classes, t: Float[Tensor, "C D"]
    ) -> tuple[Generator, Float[Tensor, "L W"] | None]:
        """The generator of an earlier run for these classes, and its learned words."""
        return Generator.load(Path(str(self.source)) / "model" / GENERATOR, clip, classes, t)

    def _transferred(
        self,
        clip: Backbone,
        classes: Classes,
        t: Float[Tensor, "C D"],
        log: Log,
        scratch: Path | None,
    ) -> Classifier:
        """CoOp of the source goes on, with features of other names and no image at all."""
        maker, start = self._source(clip, classes, t)
        coop = self.then if isinstance(self.then, CoOp) else CoOp()
        if start is None or self.transfer_start == "words":
            learner = PromptLearner(clip, classes.prompts, coop.length)
            start = context(learner, coop.words, coop.deviation, torch.initial_seed())
        learner, named = (
            PromptLearner(clip, classes.prompts, len(start)),
            torch.arange(len(classes)),
        )
        found: dict[str, Classifier] = {}
        for kind in self._all:
            keep = _in(scratch, f"then-{kind}")
            synthetic = self._made(kind, maker, t, named, 1.0)
            words = (
                start
                if synthetic is None
                else self._gone_on(clip, learner, start, synthetic, log, keep)
            )
            record = {"context": words, "facts": {"transfer_steps": self.transfer_steps}}
            weights = learner.all_features(words)
            found[kind] = Classifier(clip, None, classes, weights, "ship", record=record)
        return self._signed(found[self.synthetic], maker, found)

    def _gone_on(
        self,
        clip: Backbone,
        learner: PromptLearner,
        start: Float[Tensor, "L W"],
        synthetic: SyntheticFeatures,
        log: Log,
        keep: Path | None,
    ) -> Float[Tensor, "L W"]:
        """Words before the name, learned from made features alone."""
        v, everything = nn.Parameter(start.clone()), torch.arange(len(learner))
        at_once = self.then.at_once if isinstance(self.then, CoOp) else None

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            x, c = synthetic.batch(batch.step, self.transfer_size)
            t = checkpointed(lambda some: learner.features(v, some), everything, at_once)
            logits = clip.logit_scale.detach() * x @ t.T
            return {"transfer_loss": cross_entropy(logits, c.to(logits.device))}

        adam, steps = AdamW(LearningRate(self.transfer_lr), eps=1e-4), Steps(self.transfer_steps)
        optimise(loss, {"context": v}, steps, adam, log, Checkpoint.at(keep))
        return v.detach()


def _in(scratch: Path | None, name: str) -> Path | None:
    """Where a loop keeps itself."""
    return scratch and scratch / f"ship-{name}.safetensors"
