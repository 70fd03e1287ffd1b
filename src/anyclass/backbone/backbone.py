"""`Backbone`: one open_clip model as functions of images and texts."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image
from torch import Tensor, nn

from anyclass.backbone.device import Precision, trains_in_bf16
from anyclass.backbone.folding import run
from anyclass.backbone.image_tower import take_apart
from anyclass.backbone.loading import STARTER, absolute_id, load_model
from anyclass.backbone.text_tower import TextTower, Words
from anyclass.data import Preprocessing
from anyclass.errors import RequestError
from anyclass.log import Log, silent

Part = Literal["head", "tail", "all"]
"""Trained part: the projections; also the image tower's last stage; or the whole model."""

MANY_BATCHES = 4
"""Batches of texts above which their progress is shown."""

EngineName = Literal["auto", "torch", "bf16", "onnx"]
"""Engine of a frozen image encoder on a CPU; auto: the fastest that agrees with torch."""

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d)
"""Normalisation layers; the running statistics of the last two are fixed in evaluation mode."""


class Backbone:
    """An open_clip model as functions; always in evaluation mode.

    Identities, all tested: `tail(trunk(x, part), part) == images(x)`,
    `text_tail(text_trunk(t, part), part) == texts(t)` and `prompts(words(t)) == texts(t)`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        model_id: str,
        engine: EngineName = "auto",
        precision: Precision = "auto",
    ) -> None:
        """Wrap an open_clip model and its tokenizer; `model_id` is saved in runs."""
        from open_clip import get_model_preprocess_cfg

        self.model = model.eval().to(memory_format=torch.channels_last)  # faster convolutions
        self.model_id = model_id
        self.engine: EngineName = engine
        self.precision: Precision = precision
        self.preprocessing = Preprocessing.of(get_model_preprocess_cfg(model))
        self._image = take_apart(model.visual)
        self._text = TextTower(model, tokenizer)
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        model_id: str,
        device: str = "cpu",
        allow_pickle: bool = False,
        engine: EngineName = "auto",
        precision: Precision = "auto",
    ) -> "Backbone":
        """Load a model by its name.

        Args:
            model_id: `starter`, `NAME/TAG` of open_clip (`ViT-B-32/laion2b_s34b_b79k`),
                `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
            device: torch device.
            allow_pickle: accept `.bin`, `.pt` and `.pth` weights from a folder (loaded with
                `weights_only`).
            engine: engine of the frozen image encoder on a CPU.
            precision: precision of the encoders while they are trained.

        Raises:
            RequestError: there is no such model; the message lists those available.
            ModelError: the weights are missing, damaged or in a format that is not allowed.
        """
        model, tokenizer = load_model(model_id, allow_pickle)
        return cls(model.to(device), tokenizer, absolute_id(model_id), engine, precision)

    def images(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit features of preprocessed images."""
        with self._autocast():
            return _unit(self.model.encode_image(pixels))

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
        return self._text.words(texts)

    def prompts(self, words: Words) -> Float[Tensor, "B D"]:
        """Unit features of texts that are given as embeddings."""
        return _unit(self._text.project(self._text.pooled(words.ids, words.embeddings)))

    def sentences(self, words: Float[Tensor, "B M W"]) -> Float[Tensor, "B D"]:
        """Features, not normalised, of texts of M words each that are given as embeddings.

        Raises:
            RequestError: the context of the text tower is shorter than M words.
        """
        sentences = self._text.sentences(words)
        with self._autocast():
            pooled = self._text.pooled(sentences.ids, sentences.embeddings)
            return self._text.project(pooled).float()

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
        before = run(self._image.trunk or [], pixels)
        return before if part == "tail" else run(self._image.last, before)

    def tail(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B D"]:
        """Unit features from the output of `trunk`."""
        return _unit(self.projected(hidden, part))

    def projected(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B D"]:
        """Features in the shared space, not normalised, from the output of `trunk`."""
        with self._autocast():
            if part == "all":
                features: Tensor = self.model.encode_image(hidden, normalize=False)
                return features.float()
            before = self._before_head(hidden, part)
            return (self._image.head(before) if self._image.head else before).float()

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
        return run(self._image.last, hidden) if part == "tail" else hidden

    def text_trunk(self, texts: Sequence[str], part: Part) -> Shaped[Tensor, "B L"]:
        """Pooled text features (B, H) for head and tail; token ids (B, L) for all."""
        ids: Int[Tensor, "B L"] = self._text.tokenize(texts)
        return ids if part == "all" else self._text.pooled(ids)

    def text_tail(self, hidden: Shaped[Tensor, "B L"], part: Part) -> Float[Tensor, "B D"]:
        """Unit features from the output of `text_trunk`."""
        with self._autocast():
            pooled = self._text.pooled(self._text.cut(hidden)) if part == "all" else hidden
            return _unit(self._text.project(pooled))

    def text_lengths(self, ids: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """Number of tokens of each text; the cost of `text_tail` depends on the longest."""
        return self._text.lengths(ids)

    def parameters(self, part: Part, texts: bool = True) -> dict[str, nn.Parameter]:
        """Parameters of `part` and the logit scale, by their name in the model.

        Args:
            part: trained part.
            texts: include those of the text tower (for head and tail its projection).
        """
        self._check(part)
        return self._belonging(part, texts)

    def _belonging(self, part: Part, texts: bool) -> dict[str, nn.Parameter]:
        text_tower = [] if not texts else self._text.head_parameters
        wanted = [self.model.logit_scale, *self._image.head_parameters, *text_tower]
        if part == "tail":
            wanted += self._image.last_parameters
        named = dict(self.model.named_parameters())
        if part == "all":
            return {
                n: p for n, p in named.items() if texts or n.startswith(("visual.", "logit_scale"))
            }
        chosen = {id(parameter) for parameter in wanted}
        return {name: parameter for name, parameter in named.items() if id(parameter) in chosen}

    def last_stage(self) -> dict[str, nn.Parameter]:
        """Parameters of the image tower's last stage, by their name in the model.

        In contrast to the tail, without a transformer's final norm, the pooling and the projection.
        """
        self._check("tail")
        chosen = {id(parameter) for parameter in self._image.stage_parameters}
        named = self.model.named_parameters()
        return {name: parameter for name, parameter in named if id(parameter) in chosen}

    def norms(self, tower: Literal["image", "text"]) -> dict[str, nn.Parameter]:
        """Scale and shift of all normalisation layers of a tower, by their name in the model."""
        modules = self.model.visual.modules() if tower == "image" else self._text.modules
        scales = {id(p) for m in modules if isinstance(m, NORMS) for p in m.parameters()}
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if id(parameter) in scales and name.startswith("visual.") == (tower == "image")
        }

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """1 / tau, the factor on cosine similarities, with gradient."""
        scale: Tensor = self.model.logit_scale.exp().squeeze()
        return scale

    @property
    def batch_normed(self) -> bool:
        """Whether the image tower has batch normalisation, like most convolutional towers."""
        modules = self.model.visual.modules()
        return any(isinstance(module, nn.BatchNorm2d) for module in modules)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = self.model.logit_scale.device
        return device

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the names and values of all weights and buffers at the first access."""
        return _digest(self.model.state_dict())

    def untrained_sha256(self, part: Part | None) -> str | None:
        """Digest of all weights and buffers that training of `part` leaves alone.

        None for the starter, which each machine assembles with its own rounding, and if all are
        trained.
        """
        if self.model_id == STARTER or part == "all":
            return None
        if part is None:
            return self.weights_sha256
        trained = set(self._belonging(part, texts=True))
        state = self.model.state_dict()
        return _digest({name: tensor for name, tensor in state.items() if name not in trained})

    def frozen_sha256(self, part: Part) -> str:
        """Digest of the image tower without `part`, which training does not change.

        It includes the printed modules, because equal weights with another activation are another
        tower.

        Raises:
            RequestError: the tower cannot be split there.
        """
        if part == "tail":
            self._check(part)
        trained = set() if part == "all" else set(self._belonging(part, texts=False))
        state = self.model.state_dict()
        weights = _digest(
            {n: t for n, t in state.items() if n.startswith("visual.") and n not in trained}
        )
        return hashlib.sha256(f"{weights} {self.model.visual}".encode()).hexdigest()

    @torch.no_grad()
    def fingerprint(self) -> Float[Tensor, "3 D"]:
        """Features of three synthetic images, to compare preprocessing and image towers.

        A changed mean or a changed weight changes the fingerprint.
        """
        return self.images(self.synthetic()).cpu()

    def synthetic(self) -> Float[Tensor, "3 3 H W"]:
        """Three synthetic images, preprocessed."""
        views = _synthetic_views(self.preprocessing)
        return self.preprocessing.normalise(views).to(self.device)

    def copy(self) -> "Backbone":
        """Independent copy for training."""
        return Backbone(
            copy.deepcopy(self.model), self._tokenizer, self.model_id, self.engine, self.precision
        )

    def _autocast(self) -> torch.autocast:
        """Mixed precision for training; the callers return float32."""
        on = torch.is_grad_enabled() and trains_in_bf16(self.device, self.precision)
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)

    def _check(self, part: Part) -> None:
        if part == "head" and self._image.head is None:
            raise RequestError(
                f"{self.model_id}: the image encoder has no projection; use --tune tail"
            )
        if part == "tail" and self._image.trunk is None:
            raise RequestError(
                f"{self.model_id}: stages of the image encoder are unknown; use --tune head or all"
            )


def _unit(features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    return nn.functional.normalize(features.float(), dim=-1)


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=8)
def _synthetic_views(preprocessing: Preprocessing) -> UInt8[Tensor, "3 3 H W"]:
    """The synthetic images as a model sees them, before `normalise`.

    They are kept: each load of a run needs them twice.
    """
    return torch.stack([preprocessing.view(image) for image in _synthetic_images()])


def _synthetic_images() -> list[Image.Image]:
    """A gradient, a chequerboard and fixed noise, none of them a square image."""
    rows, columns = np.mgrid[0:240, 0:320]
    gradient = np.stack([rows, columns, rows + columns], axis=-1) * 255 // 560
    chequers = np.stack(
        [(rows // 40 + columns // 40) % 2 * colour for colour in (250, 120, 30)], axis=-1
    )
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (200, 300, 3))
    return [Image.fromarray(array.astype(np.uint8)) for array in (gradient, chequers, noise)]
