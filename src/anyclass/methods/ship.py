"""SHIP: synthesise image features for named classes without a labelled image.

Wang et al., ICCV 2023, arXiv 2307.07397.   Needs: labels for some classes, names for the rest.

    x^ = T([p(z), name of c]),  z ~ N(0, I)      synthetic feature of class c; p: see `ship_vae.py`
    L  = cross-entropy of [x, x^] over all C     new synthetic features in each step

A generator is trained on the labelled classes; then any few-shot method is fitted on real features
of the labelled classes and synthetic features of the named ones.
Letters: C classes, M of them named, D dimensions, L context vectors of width W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.data import Classes
from anyclass.errors import RequestError
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template
from anyclass.log import Log
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.coop import CoOp, context, warn_of_long_names
from anyclass.methods.few_shot import FewShot, FewShotTask
from anyclass.methods.gda import Gda
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.ship_training import frozen, train_generator
from anyclass.methods.ship_transfer import Transfer
from anyclass.methods.ship_vae import Generator, Vae
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.methods.workload import TextTraining, Workload, refuse_one_class
from anyclass.rng import seeded_rng

Then = CoOp | ClipAdapter | TipAdapter | Gda
"""Few-shot methods that can be fitted on real and synthetic features."""

Synthetic = Literal["generator", "mean", "text", "none"]
"""Features of named classes: from random codes | from code 0 | the text feature | none."""

CONTROLS: tuple[Synthetic, ...] = ("text", "none")
"""Baselines of SHIP: the same classifier without a generator."""

GENERATOR = "generator.safetensors"
"""File name in the model folder of a run."""

NOTHING_NAMED = (
    "every class has a labelled image: no feature is synthesised in this run; its generator is "
    "for the classes of a later one (--source RUN)"
)
"""Warning where all classes are labelled, as in the paper's experiments across data sets."""

SYNTHETIC_KEY = -7
"""Seed key of synthetic features."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Ship:
    """Trains a generator of image features, then fits a few-shot method on all classes."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="SHIP",
        situations=(Situation.NAMES_AND_LABELS,),
        shares={"agree": "synthetic features closest to their own class name"},
        metrics={
            "kl": "information in the image code (KL, in nats)",
            "reconstruction": "squared distance of synthetic and real image features",
            "active": "dimensions of the image code that are in use",
            "collapsed": "squared distance without the image code",
            "spread": "variance within a class, synthetic / real",
            "cos_mean": "cosine of the synthetic and the real class means",
            "cos_text": "cosine of the class prompts and the real class means",
            "transfer_steps": "training steps on synthetic features",
            "transfer_loss": "loss on synthetic features",
            "kl_loss": "loss of the image code (KL)",
            "reconstruction_loss": "loss of the synthetic image features",
        },
        baselines={
            "text": "Control: class prompts as features",
            "none": "Control: class names only",
        },
        settings={
            "kl_weight": "weight of the KL term",
            "least_steps": "minimum number of steps",
            "then": "followed by",
            "transfer_lr": "without labels: learning rate",
            "transfer_size": "without labels: features per step",
            "transfer_start": "without labels: initial context",
            "transfer_steps": "without labels: training steps",
        },
    )
    """Facts for lists, planning and the report."""
    then: Suppress[Annotated[Then, Field(discriminator="kind")]] = CoOp(
        data=FewShot(), recipe="ship"
    )
    """Few-shot method fitted on real and synthetic features (released code: CoOp). GDA here is
    experimental and this project's own: its means of named classes come from the text encoder, its
    covariance from images, and named classes are rarely predicted."""
    generator: Annotated[Vae, arg(name="")] = Vae()
    """Architecture and training of the generator."""
    synthetic: Synthetic = "generator"
    """Source of the features of named classes; all but `generator` are controls."""
    controls: bool = False
    """Also fit the baselines `text` and `none`, and report them with the result."""
    template: Template = PLAIN
    """Class prompt of the controls and of the logged metrics; `{}` is the class name."""
    ratio: Annotated[float, Field(gt=0)] | None = 1.0
    """Synthetic features per real feature in a step (released code: 1); None: the number of named
    classes divided by that of labelled ones."""
    pool: Annotated[int, Field(gt=0)] | None = None
    """Features per named class generated once and drawn from, to save time; None: new ones in each
    step (released code)."""
    source: Annotated[str | None, arg(metavar="RUN")] = None
    """Run folder of an earlier `ship` whose generator is reused with its settings; no label is
    needed then."""
    transfer_steps: Annotated[int, Field(ge=0)] = 800
    """Without labels: training steps of CoOp on synthetic features only."""
    transfer_start: Literal["source", "words"] = "source"
    """Without labels: initial context of CoOp, trained by the source run or from `--then.words`."""
    transfer_size: Annotated[int, Field(gt=0)] = 256
    """Without labels: synthetic features per step (released code: 256)."""
    transfer_lr: Annotated[float, Field(gt=0)] = 1e-3
    """Without labels: peak learning rate of AdamW (released code for ImageNet: 1e-3)."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled images and the names of all classes.

        Args:
            data: the model, which is not changed, and readable images; only the labelled ones
                are used.
            log: receives the losses, and after each epoch the metrics of the generator.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, no label and no source, no label and another
                method than CoOp, or `words` of CoOp that are not `length` words of the model.
            ModelError: the source has no generator for this model.
        """
        clip = data.clip
        classes = data.dataset.classes
        refuse_one_class(classes, "SHIP")
        labelled = set(data.dataset.labelled.labels.tolist())
        if self.source is not None and not labelled and not isinstance(self.then, CoOp):
            raise RequestError(
                f"no image has a label, and then SHIP trains CoOp alone: leave --then "
                f"{self.then.kind} out, or label images (--labels folders|FILE)"
            )
        if len(labelled) == len(classes):
            log(warning=NOTHING_NAMED)
        self._check_prompts(clip, classes, log)
        t = data.class_features([self.template], log)
        fitted: dict[str, Classifier] = {}
        generator = None
        if self.source is not None and not labelled:
            generator, start = self._of_source(clip, classes, t)
            named = torch.arange(len(classes))
            with frozen(clip):
                transfer = self._transfer(clip, classes, start, seed)
                for kind in self._variants:
                    checkpoint = _checkpoint(scratch, f"then-{kind}")
                    synthetic = self._synthetic_features(kind, generator, t, named, 1.0, seed)
                    fitted[kind] = transfer.learn(synthetic, log, checkpoint)
            return self._result(fitted[self.synthetic], generator, fitted)
        needed = self.synthetic not in CONTROLS
        if needed and self.source is not None:  # fails before images are embedded
            generator = self._of_source(clip, classes, t)[0]
        epochs = max(self.generator.epochs, self.then.epochs or 1)
        with frozen(clip):
            real = self.then.data.labelled_features(data, log, epochs, seed)
            if needed and generator is None:
                checkpoint = _checkpoint(scratch, "generator")
                generator = train_generator(
                    self.generator, clip, real, classes, t, log, checkpoint, seed
                )
            named = torch.tensor([c for c in range(len(classes)) if c not in labelled]).long()
            ratio = self.ratio or len(named) / len(real.classes)
            for kind in self._variants if len(named) else [self.synthetic]:
                checkpoint = _checkpoint(scratch, f"then-{kind}")
                synthetic = self._synthetic_features(kind, generator, t, named, ratio, seed)
                task = FewShotTask(clip, real, classes, synthetic, "all", seed)
                fitted[kind] = self.then.learn(task, log, checkpoint)
        return self._result(fitted[self.synthetic], generator, fitted)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        epochs = max(self.generator.epochs, self.then.epochs or 1)
        each = partial(TextTraining, batch_size=1, per="image", every_class=False)
        training = []
        if self.synthetic not in CONTROLS and self.source is None:
            training.append(each(self.generator.epochs))
        if self.synthetic == "generator" and self.pool is None and not isinstance(self.then, Gda):
            training.append(each(self.then.epochs))  # new synthetic features in each step
        if isinstance(self.then, CoOp):
            training += [self.then.text_training()] * len(self._variants)
        needs_labels = self.source is None
        return self.then.data.workload(epochs, *training, needs_labels=needs_labels)

    def _check_prompts(self, clip: Backbone, classes: Classes, log: Log) -> None:
        """Check class names and context before the generator is trained."""
        warn_of_long_names(PromptLearner(clip, classes.prompts, self.generator.length), log)
        if isinstance(self.then, CoOp):
            learner = PromptLearner(clip, classes.prompts, self.then.length)
            context(learner, self.then.words, self.then.deviation, seed=0)

    @property
    def _variants(self) -> Sequence[Synthetic]:
        """Classifiers to fit: the result, and the controls if they are asked for."""
        controls = CONTROLS if self.controls else ()
        return list(dict.fromkeys((self.synthetic, *controls)))

    def _synthetic_features(
        self,
        kind: Synthetic,
        generator: Generator | None,
        t: Float[Tensor, "C D"],
        named: Int[Tensor, " M"],
        ratio: float,
        seed: int,
    ) -> SyntheticFeatures | None:
        """Synthetic features of the named classes; None if there are none."""
        seed = seeded_rng(seed, SYNTHETIC_KEY).initial_seed()
        if not len(named):
            return None
        if kind == "text":
            return SyntheticFeatures(named, lambda c, _: t[c], seed, ratio)
        if kind == "none" or generator is None:
            return None
        if kind == "mean":
            return SyntheticFeatures(named, generator.mean, seed, ratio)
        return SyntheticFeatures(named, generator.sample, seed, ratio, self.pool)

    def _result(
        self, learned: Classifier, generator: Generator | None, fitted: Mapping[str, Classifier]
    ) -> Classifier:
        """Add the fields of SHIP, the baselines and the generator to the fitted classifier."""
        controls = CONTROLS if self.controls else ()
        baselines = {str(name): fitted[name] for name in controls if name in fitted}
        record = replace(learned.record, baselines=baselines)
        if generator is not None:
            artefact = TrainedGenerator(generator, learned.record.context)
            metrics = {**learned.record.metrics, **generator.metrics}
            record = replace(record, metrics=metrics, artefacts=(artefact,))
        return replace(learned, method="ship", fields=asdict(self), record=record)

    def _of_source(
        self, clip: Backbone, classes: Classes, t: Float[Tensor, "C D"]
    ) -> tuple[Generator, Float[Tensor, "L W"] | None]:
        """Load the generator of the source run for these classes, and its trained context."""
        return Generator.load(Path(str(self.source)) / "model" / GENERATOR, clip, classes, t)

    def _transfer(
        self, clip: Backbone, classes: Classes, trained: Float[Tensor, "L W"] | None, seed: int
    ) -> Transfer:
        """Training on synthetic features alone, from the trained context or from words."""
        coop = self.then if isinstance(self.then, CoOp) else CoOp()
        start = trained
        if start is None or self.transfer_start == "words":
            learner = PromptLearner(clip, classes.prompts, coop.length)
            start = context(learner, coop.words, coop.deviation, seed)
        return Transfer(
            clip,
            classes,
            start,
            steps=self.transfer_steps,
            size=self.transfer_size,
            lr=self.transfer_lr,
            at_once=coop.at_once,
        )


@plain_dataclass(frozen=True)
class TrainedGenerator:
    """The generator of a run, saved for `source` of a later run."""

    generator: Generator
    """The generator."""
    context: Float[Tensor, "L W"] | None
    """Context vectors that CoOp trained with it; None for other methods."""

    def save(self, folder: Path) -> None:
        """Write both as one file into the model folder of a run."""
        self.generator.save(folder / GENERATOR, self.context)


def _checkpoint(scratch: Path | None, name: str) -> Path | None:
    """Checkpoint file of a training loop."""
    return scratch and scratch / f"ship-{name}.safetensors"
