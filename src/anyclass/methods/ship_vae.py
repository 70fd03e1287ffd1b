"""SHIP's generator: a variational autoencoder with the frozen text encoder as its decoder.

Wang et al., ICCV 2023, arXiv 2307.07397.

    mu, lambda = encoder(x)                                    x: unit image feature
    z    = mu + exp(lambda / 2) eps,  eps ~ N(0, I)            code of x
    p(z) = [p_1 + r(z), ..., p_L + r(z)]                       Eq. 3   context: shared + local
    x^   = T([p(z), name of c])                                        T: frozen text tower
    L    = |x - x^|^2 + KL( N(mu, e^lambda) || N(0, I) )       Eq. 2

Letters: n labelled images, K views, S batch, C classes, B of them labelled, D dimensions, Z
dimensions of a code, L context vectors of width W.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from anyclass.backbone import Backbone
from anyclass.classifier.prompt_learner import AT_ONCE, PromptLearner
from anyclass.data import Classes
from anyclass.errors import ModelError
from anyclass.files import write_tensors
from anyclass.log import Log
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.ship_equations import class_means_and_variance, normal_like
from anyclass.rng import seeded_rng

INIT_STD = 0.02
"""Standard deviation of initial weights (released code)."""

TINY = 1e-3
"""Lower bound of 1 - w in `Generator.fit_noise`."""

WEIGHTS_KEY = -4
"""Seed key of initial weights."""


def _current_name(decoder: Any) -> Any:
    """Name of a decoder; earlier versions wrote `text_tower` into the configuration of a run."""
    return "text_encoder" if decoder == "text_tower" else decoder


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Vae:
    """Architecture and training of the generator."""

    epochs: Annotated[int, Field(gt=0)] = 50
    """Epochs over the labelled images (released code: 50; ImageNet: 10)."""
    least_steps: Annotated[int, Field(ge=0)] = 0
    """Minimum number of steps: more epochs are added for small folders."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """S, batch size; all images if there are fewer (released code: 256)."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Constant learning rate of AdamW (paper: 1e-3)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW (released code: 0.01)."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the KL term of Eq. 2; lower it against posterior collapse (paper: 1)."""
    reconstruction: Literal["sum", "mean"] = "sum"
    """Reduction of the squared error over the D dimensions (paper: sum)."""
    length: Annotated[int, Field(gt=0)] = 4
    """L, context vectors before the class name (paper: 4)."""
    shared_words: bool = True
    """Train the shared vectors p (paper); without them the context is r(z) alone."""
    bias: Literal["identical", "sequential"] = "identical"
    """One r(z) for all context vectors (paper), or one for each."""
    latent: Annotated[int, Field(gt=0)] | None = None
    """Z, dimensions of the code; None: W (paper)."""
    encoder_width: Annotated[int, Field(gt=0)] = 4096
    """Hidden units of the encoder (paper: 4096; released code: 2048 on ten of eleven data sets)."""
    bias_width: Annotated[int, Field(gt=0)] = 4096
    """Hidden units of r (paper: 4096)."""
    slope: Annotated[float, Field(ge=0)] = 0.0
    """Negative slope of LeakyReLU; 0 is ReLU (paper: 0; released code for ImageNet: 0.2)."""
    sees_class: bool = False
    """Condition the encoder on the text feature of the class (paper: no)."""
    decoder: Annotated[Literal["text_encoder", "mlp"], BeforeValidator(_current_name)] = (
        "text_encoder"
    )
    """Frozen text encoder (paper), or an MLP of three layers on code and text feature
    (ablation)."""
    noise: bool = False
    """Add noise to synthetic features, to match the variance of real ones within classes (the
    project's own)."""


class Generator(nn.Module):
    """Encoder, local bias and shared context vectors; the text tower belongs to the model."""

    words: Tensor
    sigma: Tensor

    @torch.random.fork_rng(devices=[])  # nn.Linear draws weights, which are replaced
    def __init__(
        self, settings: Vae, clip: Backbone, classes: Classes, t: Float[Tensor, "C D"], seed: int
    ) -> None:
        """Initialise for classes with text features t, from the seed."""
        super().__init__()
        self.settings = settings
        self.t = t
        self._clip = (clip,)
        self.learner = PromptLearner(clip, classes.prompts, settings.length)
        self.metrics: dict[str, float] = {}
        d = t.shape[1]
        w = self.learner.width
        self.latent = settings.latent or w
        self.hidden = nn.Linear(d * (1 + settings.sees_class), settings.encoder_width)
        self.mu = nn.Linear(settings.encoder_width, self.latent)
        self.lambda_ = nn.Linear(settings.encoder_width, self.latent)
        self.r = self._bias_layers(d, w)
        self.register_buffer("sigma", torch.zeros(()))
        if settings.shared_words and settings.decoder != "mlp":
            self.words = nn.Parameter(torch.zeros(settings.length, w))
        else:
            self.register_buffer("words", torch.zeros(settings.length, w))
        rng = seeded_rng(seed, WEIGHTS_KEY)
        for name, parameter in self.named_parameters():
            drawn = INIT_STD * torch.randn(parameter.shape, generator=rng)
            parameter.data = torch.zeros_like(drawn) if name.endswith("bias") else drawn
        self.to(t.device)

    def _bias_layers(self, d: int, w: int) -> nn.Sequential:
        """r, or the MLP decoder: for D = d and W = w."""
        width = self.settings.bias_width
        mlp = self.settings.decoder == "mlp"
        activation = nn.LeakyReLU(self.settings.slope)
        biases = self.settings.length if self.settings.bias == "sequential" else 1
        first = nn.Linear(self.latent + d * mlp, width)
        middle = [nn.Linear(width, width), activation] if mlp else []
        last = nn.Linear(width, d if mlp else w * biases)
        return nn.Sequential(first, activation, *middle, last)

    def encode(
        self, x: Float[Tensor, "S D"], c: Int[Tensor, " S"]
    ) -> tuple[Float[Tensor, "S Z"], Float[Tensor, "S Z"]]:
        """mu and lambda: mean and log-variance of the codes of features of classes c."""
        inputs = torch.cat([x, self.t[c]], dim=1) if self.settings.sees_class else x
        hidden = leaky_relu(self.hidden(inputs), self.settings.slope)
        return self.mu(hidden), self.lambda_(hidden)

    def prompts(self, z: Float[Tensor, "S Z"]) -> Float[Tensor, "S L W"]:
        """p(z), the context vectors before the class name."""
        r: Tensor = self.r(z).reshape(len(z), -1, self.learner.width)  # (S, 1 or L, W)
        return self.words + r  # Eq. 3

    def decode(self, z: Float[Tensor, "S Z"], c: Int[Tensor, " S"]) -> Float[Tensor, "S D"]:
        """x^, synthetic unit features from codes and classes."""
        if self.settings.decoder == "mlp":
            return normalize(self.r(torch.cat([z, self.t[c]], dim=1)), dim=-1)
        return self._clip[0].prompts(self.learner.with_context(self.prompts(z), c))

    @torch.no_grad()
    def decode_batched(self, z: Float[Tensor, "m Z"], c: Int[Tensor, " m"]) -> Float[Tensor, "m D"]:
        """`decode` in batches, without gradients."""
        parts = zip(z.split(AT_ONCE), c.split(AT_ONCE), strict=True)
        return torch.cat([self.decode(*part) for part in parts])

    @torch.no_grad()
    def sample(self, c: Int[Tensor, " m"], rng: torch.Generator) -> Float[Tensor, "m D"]:
        """Synthetic features of classes c from random codes."""
        z = torch.randn(len(c), self.latent, generator=rng).to(self.words)
        x = self.decode_batched(z, c)
        if not self.settings.noise:
            return x
        return normalize(x + self.sigma * normal_like(x, rng), dim=-1)

    @torch.no_grad()
    def mean(self, c: Int[Tensor, " m"], _: torch.Generator | None = None) -> Float[Tensor, "m D"]:
        """Synthetic features of classes c from code 0."""
        return self.decode_batched(self.words.new_zeros(len(c), self.latent), c)

    def fit_noise(self, labelled: LabelledFeatures, log: Log) -> None:
        """Set sigma so that synthetic features get the variance of real ones within classes.

        Noise of total variance v and normalisation change the variance w of unit vectors to
        1 - (1 - w) / (1 + v).
        """
        real = class_means_and_variance(labelled.x, labelled.c)[1]
        if not real:
            log(warning="no class has two images to estimate a variance from: no noise is added")
            return
        synthetic = real * self.metrics.get("spread", 1.0)
        v = max(0.0, real - synthetic) / max(TINY, 1 - real)
        self.sigma.fill_((v / labelled.x.shape[2]) ** 0.5)

    def save(self, path: Path, context: Float[Tensor, "L W"] | None = None) -> None:
        """Write the generator and, if given, the context vectors that CoOp trained with it."""
        tensors = dict(self.state_dict())
        if context is not None:
            tensors["context"] = context
        settings = TypeAdapter(Vae).dump_json(self.settings).decode()
        model = self._clip[0].weights_sha256
        write_tensors(path, tensors, {"vae": settings, "model": model})

    @classmethod
    def load(
        cls, path: Path, clip: Backbone, classes: Classes, t: Float[Tensor, "C D"]
    ) -> tuple["Generator", Float[Tensor, "L W"] | None]:
        """Load a generator for a list of classes, and the context vectors saved with it.

        Raises:
            ModelError: the file is missing or damaged, or belongs to another model.
        """
        if not path.is_file():
            raise ModelError(
                f"{path} is missing; give the folder of a finished `anyclass fit ship`"
            )
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("model") != clip.weights_sha256:
                raise ModelError(f"{path} was trained with another model than {clip.model_id}")
            settings = TypeAdapter(Vae).validate_json(metadata["vae"])
            context = tensors.pop("context", None)
            _check(settings, tensors, context)
            generator = cls(settings, clip, classes, t, seed=0)
            generator.load_state_dict(tensors)
        except (SafetensorError, OSError, LookupError, RuntimeError, ValueError) as error:
            raise ModelError(f"{path} is not a generator of SHIP: {error!s:.200}") from error
        return generator, None if context is None else context.to(clip.device)


def _check(settings: Vae, tensors: Mapping[str, Tensor], context: Tensor | None) -> None:
    """Check the tensors of a file against its settings, before memory is allocated for them.

    Raises:
        ValueError: a tensor has a wrong size or is not finite.
        KeyError: a tensor is missing.
    """
    width = tensors["words"].shape[-1]
    sizes = {
        "hidden.bias": settings.encoder_width,
        "r.0.bias": settings.bias_width,
        "words": settings.length,
        "mu.bias": settings.latent or width,
    }
    wrong = [name for name, size in sizes.items() if tensors[name].shape[:1] != (size,)]
    if wrong:
        raise ValueError(f"size of {' and '.join(wrong)} differs from its settings")
    if context is not None and (context.ndim != 2 or context.shape[1] != width):
        raise ValueError("width of its context differs from that of its words")
    for name, tensor in [*tensors.items(), ("context", context)]:
        if tensor is not None and not torch.isfinite(tensor).all():
            raise ValueError(f"{name!r:.100} holds values that are not finite")
