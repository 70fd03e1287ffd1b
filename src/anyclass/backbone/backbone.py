"""`Backbone`: one open_clip model as functions of images and texts."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from PIL import Image
from torch import Tensor, nn

from anyclass.backbone.folding import run
from anyclass.backbone.image_tower import take_apart
from anyclass.backbone.loading import load_model
from anyclass.backbone.text_tower import TextTower, Words
from anyclass.data import Preprocessing
from anyclass.errors import RequestError

Part = Literal["head", "tail", "all"]
"""What is trained: the projections; with the image tower's last stage; or everything."""

EngineName = Literal["auto", "torch", "bf16", "onnx"]
"""What runs a frozen image tower on a CPU; auto: the fastest that agrees with torch."""

Precision = Literal["float32", "bf16"]
"""In what the towers compute while they are trained on a CPU; a GPU always takes bfloat16. Weights,
losses and what comes out are float32 all the same. A processor with AMX is twice as fast in bf16,
any other one slower."""


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d)
"""Normalisation layers; in evaluation mode the running statistics of the last two stay."""


class Backbone:
    """An open_clip model seen as functions; always in evaluation mode.

    Identities, all tested: `tail(trunk(x, part), part) == images(x)`,
    `text_tail(text_trunk(t, part), part) == texts(t)` and `prompts(words(t)) == texts(t)`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        model_id: str,
        engine: EngineName = "auto",
        precision: Precision = "float32",
    ) -> None:
        """Wrap an open_clip model and its tokenizer; `model_id` is kept for the record."""
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
        precision: Precision = "float32",
    ) -> "Backbone":
        """Load a model by its name.

        Args:
            model_id: `starter`, `NAME/TAG` of open_clip (`ViT-B-32/laion2b_s34b_b79k`),
                `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
            device: torch device.
            allow_pickle: accept `.bin`, `.pt` and `.pth` weights from a folder (loaded with
                `weights_only`).
            engine: what runs the frozen image tower on a CPU.
            precision: in what the towers are trained on a CPU.

        Raises:
            RequestError: no such model; the message lists what there is.
            ModelError: the weights are missing, damaged or of a refused format.
        """
        model, tokenizer = load_model(model_id, allow_pickle)
        return cls(model.to(device), tokenizer, model_id, engine, precision)

    def images(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit features of preprocessed images."""
        with self._autocast():
            return _unit(self.model.encode_image(pixels))

    def texts(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "B D"]:
        """Unit features of texts; each distinct text is encoded once."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        parts = [distinct[i : i + batch_size] for i in range(0, len(distinct), batch_size)]
        features = torch.cat(
            [self.text_tail(self.text_trunk(part, "head"), "head") for part in parts]
        )
        row = {text: i for i, text in enumerate(distinct)}
        return features[[row[text] for text in texts]]

    def words(self, texts: Sequence[str]) -> Words:
        """Token numbers and embeddings of texts, to be altered and given to `prompts`."""
        return self._text.words(texts)

    def prompts(self, words: Words) -> Float[Tensor, "B D"]:
        """Unit features of texts given as embeddings."""
        return _unit(self._text.project(self._text.pooled(words.ids, words.embeddings)))

    def sentences(self, words: Float[Tensor, "B M W"]) -> Float[Tensor, "B D"]:
        """Features, not normalised, of texts of M words each, given as embeddings.

        Raises:
            RequestError: the text tower reads no text of M words.
        """
        read = self._text.sentences(words)
        with self._autocast():
            return self._text.project(self._text.pooled(read.ids, read.embeddings)).float()

    def trunk(self, pixels: Float[Tensor, "B 3 H W"], part: Part) -> Float[Tensor, "B ..."]:
        """What stays frozen when `part` is trained; pixels themselves for all.

        For the head (B, W), or a map (B, W, h, w) where the head is what pools (ModifiedResNet).

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
        """From the output of `trunk` to unit features."""
        return _unit(self.projected(hidden, part))

    def projected(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B D"]:
        """From the output of `trunk` to features in the shared space, not normalised."""
        with self._autocast():
            if part == "all":
                features: Tensor = self.model.encode_image(hidden, normalize=False)
                return features.float()
            before = self._before_head(hidden, part)
            return (self._image.head(before) if self._image.head else before).float()

    def pooled(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B H"]:
        """From the output of `trunk` to features before the projection, not normalised.

        Where the projection is what pools (ModifiedResNet) the mean over positions; of a tower that
        has none, what it ends with.
        """
        with self._autocast():
            if part == "all":
                hidden, part = self.trunk(hidden, "head"), "head"
            features = self._before_head(hidden, part).float()
            return features.flatten(2).mean(2) if features.ndim > 2 else features

    def _before_head(self, hidden: Float[Tensor, "B ..."], part: Part) -> Float[Tensor, "B ..."]:
        return run(self._image.last, hidden) if part == "tail" else hidden

    def text_trunk(self, texts: Sequence[str], part: Part) -> Shaped[Tensor, "B L"]:
        """Pooled text features (B, H) for head and tail; token numbers (B, L) for all."""
        ids: Int[Tensor, "B L"] = self._text.tokenize(texts)
        return ids if part == "all" else self._text.pooled(ids)

    def text_tail(self, hidden: Shaped[Tensor, "B L"], part: Part) -> Float[Tensor, "B D"]:
        """From the output of `text_trunk` to unit features."""
        with self._autocast():
            pooled = self._text.pooled(self._text.cut(hidden)) if part == "all" else hidden
            return _unit(self._text.project(pooled))

    def text_lengths(self, ids: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """Tokens of each text up to where it ends; `text_tail` takes as long as the longest."""
        return self._text.lengths(ids)

    def parameters(self, part: Part, texts: bool = True) -> dict[str, nn.Parameter]:
        """Parameters that belong to `part`, by their name in the model, the logit scale with them.

        Args:
            part: what is trained.
            texts: also those of the text tower (head and tail: its projection).
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
        """Parameters of the image tower's last stage alone, by their name in the model.

        Less than the tail: neither a transformer's final norm nor what pools or projects.
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
        """1 / tau, the factor on cosines, with gradient."""
        scale: Tensor = self.model.logit_scale.exp().squeeze()
        return scale

    @property
    def batch_normed(self) -> bool:
        """Whether the image tower has batch normalisation, as most convolutional towers do."""
        modules = self.model.visual.modules()
        return any(isinstance(module, nn.BatchNorm2d) for module in modules)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.model.logit_scale.device
        return device

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of all weights and buffers, as they were when first asked, names included."""
        return _digest(self.model.state_dict())

    def frozen_sha256(self, part: Part) -> str:
        """Digest of the image tower without `part`: the same before and after training.

        Also of the tower's modules as they print themselves: equal weights under another activation
        are another tower.

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
        """Features of three synthetic images, through preprocessing and image tower.

        Two models with equal fingerprints see images alike; a swapped mean or a changed weight
        shows.
        """
        return self.images(self.synthetic()).cpu()

    def synthetic(self) -> Float[Tensor, "3 3 H W"]:
        """Three synthetic images, preprocessed."""
        views = torch.stack([self.preprocessing.view(image) for image in _synthetic_images()])
        return self.preprocessing.normalise(views).to(self.device)

    def copy(self) -> "Backbone":
        """An independent copy, to be trained."""
        how = (self._tokenizer, self.model_id, self.engine, self.precision)
        return Backbone(copy.deepcopy(self.model), *how)

    def _autocast(self) -> torch.autocast:
        """Mixed precision while training, on a GPU or where it was asked for; float32 comes out."""
        on = torch.is_grad_enabled() and (self.device.type == "cuda" or self.precision == "bf16")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)

    def _check(self, part: Part) -> None:
        if part == "head" and self._image.head is None:
            raise RequestError(
                f"{self.model_id}: the image tower ends without a projection; use --tune tail"
            )
        if part == "tail" and self._image.trunk is None:
            raise RequestError(
                f"{self.model_id}: stages of the image tower are unknown; use --tune head or all"
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


def _synthetic_images() -> list[Image.Image]:
    """A gradient, a chequerboard and fixed noise, none of them square."""
    rows, columns = np.mgrid[0:240, 0:320]
    gradient = np.stack([rows, columns, rows + columns], axis=-1) * 255 // 560
    chequers = np.stack(
        [(rows // 40 + columns // 40) % 2 * colour for colour in (250, 120, 30)], axis=-1
    )
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (200, 300, 3))
    return [Image.fromarray(array.astype(np.uint8)) for array in (gradient, chequers, noise)]
