"""`Backbone`: one open_clip model as functions of images and texts."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from anyclass.backbone.device import training_dtype
from anyclass.backbone.folding import run
from anyclass.backbone.loaded_model import LoadedModel
from anyclass.backbone.loading import STARTER, absolute_id, cached_metadata, load_model, located
from anyclass.backbone.model_metadata import ModelMetadata
from anyclass.backbone.options import EngineName, Part, Precision
from anyclass.backbone.synthetic import synthetic_views
from anyclass.backbone.text_tower import Words
from anyclass.data import Preprocessing
from anyclass.data.image import Decoding
from anyclass.errors import ModelError, RequestError
from anyclass.log import Log, silent

MANY_BATCHES = 4
"""Batches of texts above which their progress is shown."""


class Backbone:
    """An open_clip model as functions; always in evaluation mode.

    Identities, all tested: `tail(trunk(x, part), part) == images(x)`,
    `text_tail(text_trunk(t, part), part) == texts(t)` and `prompts(words(t)) == texts(t)`.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Any, Any]],
        model_id: str,
        device: str = "cpu",
        engine: EngineName = "auto",
        precision: Precision = "auto",
        metadata: ModelMetadata | None = None,
        decoding: Decoding = "full",
    ) -> None:
        """Store the arguments; nothing is loaded yet.

        Args:
            load: returns an open_clip model and its tokenizer; called at the first use of either.
            model_id: name of the model, saved in runs.
            device: torch device of the model.
            engine: engine of the frozen image encoder.
            precision: precision of training.
            metadata: what is known of the model before it is loaded.
            decoding: how JPEGs are decoded for it.
        """
        self.model_id = model_id
        self.device = torch.empty(0, device=device).device
        self.engine: EngineName = engine
        self.precision: Precision = precision
        self.decoding: Decoding = decoding
        self._load = load
        self.metadata = metadata or ModelMetadata()
        """What is known of the unchanged model."""

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        model_id: str,
        engine: EngineName = "auto",
        precision: Precision = "auto",
        decoding: Decoding = "full",
    ) -> "Backbone":
        """Wrap an open_clip model and its tokenizer; `model_id` is saved in runs."""
        device = str(model.logit_scale.device)
        return cls(
            lambda: (model, tokenizer), model_id, device, engine, precision, decoding=decoding
        )

    @classmethod
    def load(
        cls,
        model_id: str,
        device: str = "cpu",
        allow_pickle: bool = False,
        engine: EngineName = "auto",
        precision: Precision = "auto",
        decoding: Decoding = "full",
    ) -> "Backbone":
        """Load a model by its name.

        A model in a folder that was loaded before is loaded when its weights are first used: a run
        whose features are cached does without.

        Args:
            model_id: `starter`, `NAME/TAG` of open_clip (`ViT-B-32/laion2b_s34b_b79k`),
                `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
            device: torch device.
            allow_pickle: accept `.bin`, `.pt` and `.pth` weights from a folder (loaded with
                `weights_only`).
            engine: engine of the frozen image encoder.
            precision: precision of the encoders while they are trained.
            decoding: how JPEGs are decoded; features of one decoding are not those of the other.

        Raises:
            RequestError: there is no such model; the message lists those available.
            ModelError: the weights are missing, damaged or in a format that is not allowed.
        """
        place = located(model_id)
        metadata = cached_metadata(place, allow_pickle)
        load = partial(load_model, place, allow_pickle)
        clip = cls(load, absolute_id(model_id), device, engine, precision, metadata, decoding)
        _ = clip.preprocessing  # loads a model of which nothing is known yet
        return clip

    @cached_property
    def _open(self) -> LoadedModel:
        """The model, loaded at the first use.

        Raises:
            ModelError: its files have changed since the metadata was read.
        """
        opened = LoadedModel.of(*self._load(), self.device)
        known = self.metadata.known("weights_sha256")
        if known is not None and opened.digest() != known:
            raise ModelError(f"{self.model_id} was changed while it was in use: start again")
        return opened

    @property
    def model(self) -> Any:
        """The open_clip model, which may be changed: what was known of it is dropped."""
        self.metadata = ModelMetadata()
        return self._open.model

    @property
    def visual(self) -> Any:
        """The image tower of the open_clip model, which must not be changed."""
        return self._open.model.visual

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of images, with how they are decoded."""

        def read() -> dict[str, Any]:
            from open_clip import get_model_preprocess_cfg

            return Preprocessing.of(get_model_preprocess_cfg(self._open.model)).to_json()

        known = Preprocessing.from_json(self.metadata.get("preprocessing", read))
        return replace(known, decoding=self.decoding)

    def images(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit features of preprocessed images."""
        with self._autocast():
            return _unit(self._open.model.encode_image(pixels))

    def texts(
        self, texts: Sequence[str], batch_size: int = 256, log: Log = silent
    ) -> Float[Tensor, "B D"]:
        """Unit features of texts; each distinct text is encoded once.

        Args:
            texts: B texts.
            batch_size: texts that are encoded together.
            log: gets `stage="texts"`, `done` and `total` where there are many batches.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        parts = [distinct[i : i + batch_size] for i in range(0, len(distinct), batch_size)]
        if len(parts) <= MANY_BATCHES:
            log = silent
        log(stage="texts", done=0, total=len(distinct))
        encoded = []
        for part in parts:
            encoded.append(self.text_tail(self.text_trunk(part, "head"), "head"))
            done = min(len(encoded) * batch_size, len(distinct))
            log(stage="texts", done=done, total=len(distinct))
        features = torch.cat(encoded)
        row = {text: i for i, text in enumerate(distinct)}
        return features[[row[text] for text in texts]]

    def words(self, texts: Sequence[str]) -> Words:
        """Token ids and embeddings of texts, which can be modified and passed to `prompts`."""
        return self._open.text.words(texts)

    def prompts(self, words: Words) -> Float[Tensor, "B D"]:
        """Unit features of texts that are given as embeddings."""
        return _unit(self._open.text.project(self._open.text.pooled(words.ids, words.embeddings)))

    def sentences(self, words: Float[Tensor, "B M W"]) -> Float[Tensor, "B D"]:
        """Features, not normalised, of texts of M words each that are given as embeddings.

        Raises:
            RequestError: the context of the text tower is shorter than M words.
        """
        sentences = self._open.text.sentences(words)
        with self._autocast():
            pooled = self._open.text.pooled(sentences.ids, sentences.embeddings)
            return self._open.text.project(pooled).float()

    def trunk(self, pixels: Float[Tensor, "B 3 H W"], part: Part) -> Float[Tensor, "B ..."]:
        """Output of the frozen layers when `part` is trained; the pixels for "all".

        For the head (B, W), or a map (B, W, h, w) if the head does the pooling (ModifiedResNet).

        Raises:
            RequestError: the tower cannot be split there.
        """
        if part == "all":
            return pixels
        if part == "tail":
            self._check(part)
        before = run(self._open.image.trunk or [], pixels)
        return before if part == "tail" else run(self._open.image.last, before)

    def tail(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B D"]:
        """Unit features from the output of `trunk`."""
        return _unit(self.projected(hidden, part))

    def projected(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B D"]:
        """Features in the shared space, not normalised, from the output of `trunk`."""
        with self._autocast():
            if part == "all":
                features: Tensor = self._open.model.encode_image(hidden, normalize=False)
                return features.float()
            before = self._before_head(hidden, part)
            return (self._open.image.head(before) if self._open.image.head else before).float()

    def pooled(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B H"]:
        """Backbone features (before the projection), not normalised, from the output of `trunk`.

        If the projection includes the pooling (ModifiedResNet), the mean over positions; without a
        projection, the output of the tower.
        """
        with self._autocast():
            if part == "all":
                hidden = self.trunk(hidden, "head")
                part = "head"
            features = self._before_head(hidden, part).float()
            return features.flatten(2).mean(2) if features.ndim > 2 else features

    def _before_head(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B ..."]:
        return run(self._open.image.last, hidden) if part == "tail" else hidden

    def text_trunk(self, texts: Sequence[str], part: Part) -> Shaped[Tensor, "B L"]:
        """Pooled text features (B, H) for head and tail; token ids (B, L) for all."""
        ids: Int[Tensor, "B L"] = self._open.text.tokenize(texts)
        return ids if part == "all" else self._open.text.pooled(ids)

    def text_tail(self, hidden: Shaped[Tensor, "B L"], part: Part) -> Float[Tensor, "B D"]:
        """Unit features from the output of `text_trunk`."""
        with self._autocast():
            text = self._open.text
            pooled = text.pooled(text.cut(hidden)) if part == "all" else hidden
            return _unit(text.project(pooled))

    def text_lengths(self, ids: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """Number of tokens of each text; the cost of `text_tail` depends on the longest."""
        return self._open.text.lengths(ids)

    def parameters(self, part: Part, texts: bool = True) -> dict[str, nn.Parameter]:
        """Parameters of `part` and the logit scale, by their name in the model.

        Args:
            part: trained part.
            texts: include those of the text tower (for head and tail its projection).
        """
        self._check(part)
        self.metadata = ModelMetadata()
        return self._open.parameters(part, texts)

    def last_stage(self) -> dict[str, nn.Parameter]:
        """Parameters of the image tower's last stage, by their name in the model.

        In contrast to the tail, without a transformer's final norm, the pooling and the projection.
        """
        self._check("tail")
        self.metadata = ModelMetadata()
        return self._open.named(self._open.image.stage_parameters)

    def norms(self, tower: Literal["image", "text"]) -> dict[str, nn.Parameter]:
        """Scale and shift of all normalisation layers of a tower, by their name in the model."""
        self.metadata = ModelMetadata()
        return self._open.norms(tower)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """1 / tau, the factor on cosine similarities, with gradient if the model is loaded."""
        known = self.metadata.known("logit_scale")
        if known is not None and "_open" not in vars(self):
            return torch.tensor(float(known), device=self.device)
        scale: Tensor = self._open.model.logit_scale.exp().squeeze()
        self.metadata.get("logit_scale", lambda: float(scale.detach()))
        return scale

    @property
    def batch_normed(self) -> bool:
        """Whether the image tower has batch normalisation, like most convolutional towers."""

        def look() -> bool:
            return any(isinstance(module, nn.BatchNorm2d) for module in self.visual.modules())

        return bool(self.metadata.get("batch_normed", look))

    @property
    def context_length(self) -> int:
        """Number of tokens that the text tower reads of a text."""
        return int(self.metadata.get("context_length", lambda: self._open.tokenizer([""]).shape[1]))

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the names and values of all weights and buffers at the first access."""
        return str(self.metadata.get("weights_sha256", lambda: self._open.digest()))

    def untrained_sha256(self, part: Part | None) -> str | None:
        """Digest of all weights and buffers that training of `part` leaves alone.

        None for the starter, which each machine assembles with its own rounding, and if all are
        trained.
        """
        if self.model_id == STARTER or part == "all":
            return None
        if part is None:
            return self.weights_sha256
        return self._open.digest(without=self._open.parameters(part))

    def frozen_sha256(self, part: Part) -> str:
        """Digest of the image tower without `part`, which training does not change.

        It includes the printed modules, because equal weights with another activation are another
        tower.

        Raises:
            RequestError: the tower cannot be split there.
        """
        return str(self.metadata.get(f"frozen_sha256 {part}", lambda: self._frozen_sha256(part)))

    def _frozen_sha256(self, part: Part) -> str:
        if part == "tail":
            self._check(part)
        trained = {} if part == "all" else self._open.parameters(part, texts=False)
        weights = self._open.digest(without=trained, prefix="visual.")
        return hashlib.sha256(f"{weights} {self.visual}".encode()).hexdigest()

    def fingerprint(self) -> Float[Tensor, "3 D"]:
        """Features of three synthetic images, to compare preprocessing and image towers.

        A changed mean or a changed weight changes the fingerprint.
        """
        return torch.tensor(self.metadata.get("fingerprint", self._fingerprint))

    @torch.no_grad()
    def _fingerprint(self) -> list[list[float]]:
        features: list[list[float]] = self.images(self.synthetic()).cpu().tolist()
        return features

    def loss_scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for training in fp16, whose small gradients would be 0; else none."""
        on = training_dtype(self.device, self.precision) == torch.float16
        return torch.amp.GradScaler(self.device.type, enabled=on)

    def synthetic(self) -> Float[Tensor, "3 3 H W"]:
        """Three synthetic images, preprocessed."""
        views = synthetic_views(self.preprocessing)
        return self.preprocessing.normalise(views).to(self.device)

    def copy(self) -> "Backbone":
        """Independent copy for training."""
        model = copy.deepcopy(self._open.model)
        tokenizer = self._open.tokenizer
        return Backbone.of(
            model, tokenizer, self.model_id, self.engine, self.precision, self.decoding
        )

    def _autocast(self) -> torch.autocast:
        """Mixed precision for training; the callers return float32."""
        dtype = training_dtype(self.device, self.precision)
        on = torch.is_grad_enabled() and dtype != torch.float32
        return torch.autocast(self.device.type, dtype=dtype, enabled=on)

    def _check(self, part: Part) -> None:
        if part == "head" and self._open.image.head is None:
            raise RequestError(
                f"{self.model_id}: the image encoder has no projection; use --tune tail"
            )
        if part == "tail" and self._open.image.trunk is None:
            raise RequestError(
                f"{self.model_id}: stages of the image encoder are unknown; use --tune head or all"
            )


def _unit(features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    return nn.functional.normalize(features.float(), dim=-1)
