"""Small parts that stand between features and logits, learned from few images.

A head is a frozen dataclass of tensors and numbers; `Classifier` saves both. Letters: n images,
C classes, D dimensions, F (n, D) unit features, W (C, D) class texts, s = 1 / tau.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.prompt_learner import AT_ONCE, PromptLearner
from anyclass.errors import ModelError
from anyclass.estimators.whitening import WhitenedPCA


@dataclass(frozen=True)
class Adapter:
    """CLIP-Adapter: two thin layers beside the feature.

    Gao et al., IJCV 2023, arXiv 2110.04544: A(f) = relu(W2 relu(W1 f)), no biases.
    """

    kind: ClassVar = "adapter"
    w1: Float[Tensor, "H D"]
    """Down."""
    w2: Float[Tensor, "D H"]
    """Up again."""
    ratio: float
    """rho, share of the adapted feature."""

    def logits(
        self,
        clip: Backbone,
        prompts: tuple[str, ...],
        w: Float[Tensor, "C D"],
        f: Float[Tensor, "n D"],
    ) -> Float[Tensor, "n C"]:
        """S cos(rho A(f) + (1 - rho) f, t_c)."""
        return clip.logit_scale.to(f) * self.adapted(f) @ w.T

    def adapted(self, f: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Rho A(f) + (1 - rho) f, made unit."""
        a = (self.w2 @ (self.w1 @ f.T).relu()).relu().T
        return normalize(self.ratio * a + (1 - self.ratio) * f, dim=-1)


@dataclass(frozen=True)
class CacheModel:
    """Tip-Adapter: images that are remembered with their labels.

    Zhang et al., ECCV 2022, arXiv 2207.09519.
    """

    kind: ClassVar = "keys"
    keys: Float[Tensor, "k D"]
    """Features of the images; unit ones, unless they were trained."""
    values: Float[Tensor, "k C"]
    """Their labels, one-hot."""
    alpha: float
    """Weight of the memory beside the class texts (residual ratio)."""
    beta: float
    """How fast a key's say falls with distance (sharpness)."""

    def logits(
        self,
        clip: Backbone,
        prompts: tuple[str, ...],
        w: Float[Tensor, "C D"],
        f: Float[Tensor, "n D"],
    ) -> Float[Tensor, "n C"]:
        """S f W^T + alpha exp(-beta (1 - f F^T)) Y."""
        near = (-self.beta * (1 - f @ self.keys.T)).exp()
        return clip.logit_scale.to(f) * f @ w.T + self.alpha * near @ self.values


@dataclass(frozen=True)
class MetaNet:
    """CoCoOp: learned words that each image shifts.

    Zhou et al., CVPR 2022, arXiv 2203.05557: v_m + pi(f), pi(f) = U2 relu(U1 f + c1) + c2.
    """

    kind: ClassVar = "conditional"
    context: Float[Tensor, "L W"]
    """v, vectors before the class name."""
    u1: Float[Tensor, "H D"]
    """First layer of pi."""
    c1: Float[Tensor, " H"]
    """Its bias."""
    u2: Float[Tensor, "W H"]
    """Second layer of pi."""
    c2: Float[Tensor, " W"]
    """Its bias."""

    def logits(
        self,
        clip: Backbone,
        prompts: tuple[str, ...],
        w: Float[Tensor, "C D"],
        f: Float[Tensor, "n D"],
    ) -> Float[Tensor, "n C"]:
        """S cos(f, text of class c with the words of this image): n C texts."""
        return self.of(clip, PromptLearner(clip, prompts, len(self.context)), f)

    def of(
        self,
        clip: Backbone,
        prompts: PromptLearner,
        f: Float[Tensor, "n D"],
        at_once: int = AT_ONCE,
    ) -> Float[Tensor, "n C"]:
        """The same, of slots that are there already; so many texts are encoded at once.

        Raises:
            ModelError: words of this model have another width.
        """
        if prompts.width != self.context.shape[1]:
            raise ModelError(
                f"{clip.model_id}: its words are {prompts.width} wide, those that were learned "
                f"{self.context.shape[1]}; load the model it was fitted on"
            )
        shift = (f @ self.u1.T + self.c1).relu() @ self.u2.T + self.c2  # pi (n, W)
        pairs = torch.cartesian_prod(torch.arange(len(f)), torch.arange(len(prompts)))
        rows = []
        for pair in pairs.split(at_once):
            i, c = pair.T
            t = clip.prompts(prompts.filled(self.context + shift[i, None], c))
            rows.append(torch.einsum("pd,pd->p", f[i], t))
        return clip.logit_scale.to(f) * torch.cat(rows).reshape(len(f), len(prompts))


def fresh(rows: int, columns: int, drawing: torch.Generator) -> Float[Tensor, "rows columns"]:
    """A matrix as torch's `nn.Linear` starts it: uniform within 1 / sqrt(columns)."""
    bound = columns**-0.5
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=drawing)


Head = Adapter | CacheModel | MetaNet | WhitenedPCA
"""What a classifier may have between features and logits."""

HEADS: dict[str, type[Head]] = {
    kind.kind: kind for kind in (Adapter, CacheModel, MetaNet, WhitenedPCA)
}
"""By the name they are saved under."""


def parts(head: Head) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors and numbers of a head."""
    values = {field.name: getattr(head, field.name) for field in fields(head)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return tensors, {name: float(v) for name, v in values.items() if name not in tensors}


def assemble(
    kind: str,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, float],
    size: tuple[int, int],
) -> Head:
    """The head that `parts` took apart, for `size` = (C, D).

    Raises:
        ValueError: no such head, or its parts have other names or shapes or are no numbers.
    """
    if kind not in HEADS:
        raise ValueError(f"no head is called {kind!r:.50}")
    types: dict[str, Any] = {field.name: field.type for field in fields(HEADS[kind])}
    if {name for name in types if types[name] is float} != set(numbers):
        raise ValueError(f"the numbers of its head ({kind}) have other names")
    if not all(isfinite(number) for number in numbers.values()):
        raise ValueError(f"the numbers of its head ({kind}) are not finite")
    letters = {name: types[name].dim_str.split() for name in types if name not in numbers}
    if {name: len(dims) for name, dims in letters.items()} != {
        n: t.ndim for n, t in tensors.items()
    }:
        raise ValueError(f"the tensors of its head ({kind}) have other names or dimensions")
    sizes = dict(zip("CD", size, strict=True))
    for name, dims in letters.items():
        for letter, length in zip(dims, tensors[name].shape, strict=True):
            if sizes.setdefault(letter, length) != length:
                raise ValueError(f"{name} of its head ({kind}) has another shape")
    parts: dict[str, Any] = {**tensors, **numbers}
    return HEADS[kind](**parts)
