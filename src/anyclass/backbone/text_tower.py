"""Text tower that accepts embeddings and skips the padding after the longest text.

It uses open_clip's own forward pass for every family (CLIP's causal tower, SigLIP-like, CoCa,
Hugging Face) with other inputs: embeddings are inserted by a hook on the token embedding; a shorter
context by shorter positional embeddings and attention mask, and a missing projection by the
identity matrix, through `torch.func.functional_call`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from anyclass.errors import RequestError

_SHORT_WORDS = ("a", "i")
"""Two words of one token in every vocabulary; they locate the words of a tokenised text."""


@dataclass(frozen=True)
class Words:
    """Tokenised texts with their embeddings, which can be replaced."""

    ids: Int[Tensor, "B L"]
    """Token ids; they determine padding, end of text and positions."""
    embeddings: Float[Tensor, "B L W"]
    """Token embeddings without positions."""


class TextTower:
    """The text side of an open_clip model: `pooled(ids)`, then `project(pooled)`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Wrap `model`, an open_clip CLIP, CustomTextCLIP or CoCa, and its tokenizer."""
        self._encode = _EncodeText(model)
        self._prefix = "model.text." if hasattr(model, "text") else "model."
        self._tower: Any = model.text if hasattr(model, "text") else model
        self._hugging_face = hasattr(self._tower, "pooler")
        self._tokenizer = tokenizer

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "B L"]:
        """Token ids of `texts`, cut after the longest text if that is exact."""
        return self.cut(self._tokenizer(list(texts)).to(self._embedding.weight.device))

    def cut(self, ids: Int[Tensor, "B L"]) -> Int[Tensor, "B l"]:
        """Cut token ids after the longest text, or return them unchanged if that is not exact."""
        return ids[:, : int(self._used(ids).sum(1).max())] if self.can_be_cut else ids

    def lengths(self, ids: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """Number of tokens of each text; the context length if texts cannot be cut."""
        used: Tensor = self._used(ids).sum(1) if self.can_be_cut else (ids >= 0).sum(1)
        return used

    def words(self, texts: Sequence[str]) -> Words:
        """Token ids and token embeddings of `texts`."""
        ids = self.tokenize(texts)
        return Words(ids, self._embedding(ids))

    def sentences(self, words: Float[Tensor, "B M W"]) -> Words:
        """Texts of M words given as embeddings, with the tower's special tokens and padding.

        Raises:
            RequestError: the context of the tower is shorter than M words.
        """
        count = words.shape[1]
        one, other = (self.tokenize([" ".join([word] * count)]) for word in _SHORT_WORDS)
        positions = (one != other)[0].nonzero()[:, 0] if one.shape == other.shape else one[:0, 0]
        if len(positions) != count:
            raise RequestError(f"the text encoder cannot read {count} words; use fewer")
        first = int(positions[0])
        template = self._embedding(one).expand(len(words), -1, -1)
        parts = [template[:, :first], words.to(template), template[:, first + count :]]
        return Words(one.expand(len(words), -1), torch.cat(parts, dim=1))

    def pooled(
        self, ids: Int[Tensor, "B L"], embeddings: Float[Tensor, "B L W"] | None = None
    ) -> Float[Tensor, "B H"]:
        """Features before the projection; `embeddings` replace those of the token ids."""
        replaced = self._shortened(ids.shape[1]) | self._unprojected()
        with self._embedded_as(embeddings):
            features: Tensor = functional_call(self._encode, replaced, (ids,), tie_weights=False)
        return features

    def project(self, pooled: Float[Tensor, "B H"]) -> Float[Tensor, "B D"]:
        """Project to the shared space; the identity if the projection is not a single matrix."""
        head = self._head
        if isinstance(head, nn.Linear):
            features: Tensor = head(pooled)
            return features
        return pooled if head is None else pooled @ head

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters of the projection."""
        head = self._head
        if isinstance(head, nn.Linear):
            return list(head.parameters())
        return [] if head is None else [head]

    @property
    def modules(self) -> Iterator[nn.Module]:
        """All layers; for a plain CLIP, which is its own text tower, including the image tower."""
        return iter(self._tower.modules())

    @cached_property
    def can_be_cut(self) -> bool:
        """Whether the features do not depend on tokens after the end of text.

        True for causal towers that pool at the end of text and for towers that mask padding; false
        for SigLIP-like towers (bidirectional, pooled at the last position) and for CoCa, whose
        class token comes after the padding.
        """
        if self._hugging_face:
            return True
        if getattr(self._tower, "cls_emb", None) is not None:
            return False
        at_end_of_text = self._pool_type in ("argmax", "eos")
        if getattr(self._tower, "use_pad_mask", False):
            return at_end_of_text or self._pool_type == "first"
        return self._tower.attn_mask is not None and at_end_of_text

    def _used(self, ids: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Mask of the positions up to the last one that is pooled or attended to."""
        last = torch.zeros_like(ids[:, 0])
        if not self._hugging_face and self._pool_type == "eos":
            last = (ids == self._eos_id).int().argmax(1)
        elif not self._hugging_face and self._pool_type == "argmax":
            last = ids.argmax(1)
        if self._masked is not None:
            last = last.maximum((ids != self._masked).int().cumsum(1).argmax(1))
        used: Tensor = torch.arange(ids.shape[1], device=ids.device)[None] <= last[:, None]
        return used

    @property
    def _masked(self) -> int | None:
        """Id of the token that is masked in attention; None if padding is not masked."""
        if self._hugging_face:
            return int(self._tower.config.pad_token_id)
        return int(self._tower.pad_id) if getattr(self._tower, "use_pad_mask", False) else None

    @property
    def _pool_type(self) -> str:
        return str(getattr(self._tower, "text_pool_type", None) or self._tower.pool_type)

    @property
    def _eos_id(self) -> int:
        return int(getattr(self._tower, "text_eos_id", None) or self._tower.eos_id)

    @property
    def _embedding(self) -> Any:
        tower = self._tower
        return (
            tower.transformer.get_input_embeddings()
            if self._hugging_face
            else tower.token_embedding
        )

    @property
    def _head(self) -> nn.Linear | nn.Parameter | None:
        head = self._tower.proj if self._hugging_face else self._tower.text_projection
        return head if isinstance(head, nn.Linear | nn.Parameter) else None

    def _shortened(self, length: int) -> dict[str, Tensor]:
        """Positional embeddings and causal mask for texts of `length` tokens."""
        if self._hugging_face or not self.can_be_cut:
            return {}
        replaced = {"positional_embedding": self._tower.positional_embedding[:length]}
        if self._tower.attn_mask is not None:
            replaced["attn_mask"] = self._tower.attn_mask[:length, :length]
        return {self._prefix + name: tensor for name, tensor in replaced.items()}

    def _unprojected(self) -> dict[str, Tensor]:
        """Identity in place of the projection."""
        name = self._prefix + ("proj" if self._hugging_face else "text_projection")
        head = self._head
        if head is None:
            return {}
        weight = head.weight if isinstance(head, nn.Linear) else head
        width = weight.shape[1] if isinstance(head, nn.Linear) else weight.shape[0]
        eye = torch.eye(width, dtype=weight.dtype, device=weight.device)
        if isinstance(head, nn.Parameter):
            return {name: eye}
        bias = {} if head.bias is None else {name + ".bias": weight.new_zeros(width)}
        return {name + ".weight": eye, **bias}

    @contextmanager
    def _embedded_as(self, embeddings: Tensor | None) -> Iterator[None]:
        """Make the token embedding return `embeddings` for any input."""
        if embeddings is None:
            yield
            return
        handle = self._embedding.register_forward_hook(lambda *_: embeddings)
        try:
            yield
        finally:
            handle.remove()


class _EncodeText(nn.Module):
    """`model.encode_text` as a module, as needed by `functional_call`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(ids, normalize=False)
        return features
