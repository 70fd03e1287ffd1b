"""Heads: from features of an image to logits of the classes.

A head is a frozen dataclass that contains everything it needs, including the inverse temperature
and text features of the model. Letters: n images, C classes, D dimensions, f (n, D) unit features,
T (C, D) unit text features of the classes, s = 1 / tau.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.classifier.class_edits import ClassEdits
from anyclass.classifier.edited_probabilities import edited_probabilities, gate_logits
from anyclass.classifier.prompt_learner import AT_ONCE, PromptLearner
from anyclass.errors import ModelError
from anyclass.estimators.linear import Linear
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.estimators.whitening import WhitenedPCA


@dataclass(frozen=True)
class CosineHead:
    """Cosine classifier: class text features (zero-shot, CoOp) or prototypes (LatteCLIP)."""

    weights: Float[Tensor, "C E"]
    """Unit prototype of each class."""
    scale: Float[Tensor, ""] | float
    """s, of the model or of the method."""

    def logits(self, f: Float[Tensor, "n E"]) -> Float[Tensor, "n C"]:
        """Logits s cos(f, p_c)."""
        return self.scale * (f @ self.weights.T)


@dataclass(frozen=True)
class Adapter:
    """CLIP-Adapter: a residual bottleneck of two layers on the feature.

    Gao et al., IJCV 2023, arXiv 2110.04544: A(f) = relu(W2 relu(W1 f)), without bias.
    """

    w1: Float[Tensor, "H D"]
    """W1, down-projection."""
    w2: Float[Tensor, "D H"]
    """W2, up-projection."""
    ratio: float
    """rho, residual ratio: share of the adapted feature."""
    texts: Float[Tensor, "C D"]
    """T, text features of the classes."""
    scale: Float[Tensor, ""] | float
    """s, inverse temperature."""

    def logits(self, f: Float[Tensor, "n D"]) -> Float[Tensor, "n C"]:
        """Logits s cos(rho A(f) + (1 - rho) f, t_c)."""
        return self.scale * self.adapted(f) @ self.texts.T

    def adapted(self, f: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Unit vectors of rho A(f) + (1 - rho) f."""
        a = (self.w2 @ (self.w1 @ f.T).relu()).relu().T
        return normalize(self.ratio * a + (1 - self.ratio) * f, dim=-1)


@dataclass(frozen=True)
class CacheModel:
    """Tip-Adapter: cache model with features of labelled images as keys and labels as values.

    Zhang et al., ECCV 2022, arXiv 2207.09519.
    """

    keys: Float[Tensor, "k D"]
    """F, features of the labelled images; unit vectors, unless trained."""
    labels: Int[Tensor, " k"]
    """Class of each key: where its row of Y, the one-hot labels, is not zero."""
    weights: Float[Tensor, " k"]
    """What stands there: 1, or the weight of the class."""
    alpha: float
    """alpha, residual ratio: weight of the cache relative to text features."""
    beta: float
    """beta, sharpness of the affinity."""
    texts: Float[Tensor, "C D"]
    """T, text features of the classes."""
    scale: Float[Tensor, ""] | float
    """s, inverse temperature."""

    def logits(self, f: Float[Tensor, "n D"]) -> Float[Tensor, "n C"]:
        """Logits s f T^T + alpha exp(-beta (1 - f F^T)) Y."""
        return self.scale * f @ self.texts.T + self.alpha * self.cache_logits(f @ self.keys.T)

    def cache_logits(self, cosines: Float[Tensor, "n k"]) -> Float[Tensor, "n C"]:
        """exp(-beta (1 - f F^T)) Y for the cosines f F^T. Y is not built: it has k C numbers."""
        values = self.weights * (-self.beta * (1 - cosines)).exp()
        logits = values.new_zeros(len(self.texts), values.shape[0])  # ONNX: `len` would fix n
        return logits.index_add(0, self.labels, values.T).T


@dataclass(frozen=True)
class MetaNet:
    """CoCoOp: a learned context, shifted for each image by a meta-net.

    Zhou et al., CVPR 2022, arXiv 2203.05557: v_m + pi(f), pi(f) = U2 relu(U1 f + c1) + c2.
    """

    context: Float[Tensor, "L W"]
    """v, context vectors before the class name."""
    u1: Float[Tensor, "H D"]
    """U1, first layer of the meta-net pi."""
    c1: Float[Tensor, " H"]
    """Bias of the first layer."""
    u2: Float[Tensor, "W H"]
    """U2, second layer of the meta-net pi."""
    c2: Float[Tensor, " W"]
    """Bias of the second layer."""
    learner: PromptLearner
    """Class prompts, and the text tower that encodes them."""
    scale: Float[Tensor, ""] | float
    """s, inverse temperature."""
    at_once: int = AT_ONCE
    """Batch size of the text encoder."""

    def __post_init__(self) -> None:
        """Check the width of the context.

        Raises:
            ModelError: token embeddings of this model have another width.
        """
        if self.learner.width != self.context.shape[1]:
            raise ModelError(
                f"token embeddings of this model have width {self.learner.width}, the learned "
                f"context {self.context.shape[1]}; load the model it was fitted on"
            )

    def logits(self, f: Float[Tensor, "n D"]) -> Float[Tensor, "n C"]:
        """Logits s cos(f, t_c(f)) with the context of each image: n C texts are encoded."""
        shift = (f @ self.u1.T + self.c1).relu() @ self.u2.T + self.c2  # pi (n, W)
        pairs = torch.cartesian_prod(torch.arange(len(f)), torch.arange(len(self.learner)))
        cosines = []
        for pair in pairs.split(self.at_once):
            i, c = pair.T
            t = self.learner.encode(self.context + shift[i, None], c)
            cosines.append(torch.einsum("pd,pd->p", f[i], t))
        return self.scale * torch.cat(cosines).reshape(len(f), len(self.learner))

    @property
    def texts(self) -> Float[Tensor, "C D"]:
        """T with the context before the shift."""
        return self.learner.all_features(self.context)


@dataclass(frozen=True)
class WhitenedLinear:
    """get-plus of version 0.1: whitening of rows [x | h | 1] to u, then a linear layer."""

    whitening: WhitenedPCA
    """Whitening and PCA to u (n, R)."""
    weights: Float[Tensor, "C E"]
    """Rows [w_c | bias_c], E = R + 1."""

    def logits(self, f: Float[Tensor, "n F"]) -> Float[Tensor, "n C"]:
        """Logits u . w_c + bias_c."""
        return self.whitening.transform(f) @ self.weights[:, :-1].T + self.weights[:, -1]


FittedHead = CosineHead | Linear | Adapter | CacheModel | MetaNet | WhitenedLinear | OpenWorldModel
"""Any of the heads that methods fit."""


@dataclass(frozen=True)
class EditedHead:
    """A fitted head whose classes were merged or split afterwards."""

    fitted: FittedHead
    """The head as it was fitted."""
    edits: ClassEdits
    """Parts of each class."""

    def logits(self, f: Float[Tensor, "n E"]) -> Float[Tensor, "n C"]:
        """log p of the classes; minus infinity where a probability is 0."""
        fitted = self.fitted.logits(f).softmax(dim=1)
        return edited_probabilities(self.edits, fitted, gate_logits(self.edits, f)).log()


Head = FittedHead | EditedHead
"""Any of the heads."""


def fitted_head(head: Head) -> FittedHead:
    """The head as it was fitted, without edits of its classes."""
    return head.fitted if isinstance(head, EditedHead) else head


def edits_of(head: Head, classes: int) -> ClassEdits:
    """Edits of the C classes of a head."""
    return head.edits if isinstance(head, EditedHead) else ClassEdits.none(classes)


def edited(head: FittedHead, edits: ClassEdits) -> Head:
    """A head with these edits of its classes."""
    return head if edits.changes_nothing else EditedHead(head, edits)


def with_temperature(head: Head, t: float) -> Head:
    """A head of discovered classes with logits divided by T, so that no prediction changes.

    Args:
        head: as it was fitted.
        t: T.
    """
    if isinstance(head, OpenWorldModel):
        return replace(head, temperature=head.temperature * t)
    if isinstance(head, Linear | CosineHead):
        return replace(head, scale=head.scale / t)
    return head


def init_linear(rows: int, columns: int, drawing: torch.Generator) -> Float[Tensor, "rows columns"]:
    """Matrix with the initialisation of `nn.Linear`: uniform within 1 / sqrt(columns)."""
    bound = columns**-0.5
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=drawing)
