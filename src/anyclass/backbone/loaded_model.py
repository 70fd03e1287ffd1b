"""A loaded open_clip model: its towers, the parameters of its parts, digests of its weights."""

import hashlib
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from anyclass.backbone.image_tower import ImageTower, split_tower
from anyclass.backbone.options import Part
from anyclass.backbone.text_tower import TextTower

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d)
"""Normalisation layers; the running statistics of the last two are fixed in evaluation mode."""


class LoadedModel(NamedTuple):
    """An open_clip model in evaluation mode."""

    model: Any
    """The open_clip model."""
    tokenizer: Any
    """Its tokenizer."""
    image: ImageTower
    """Its image tower in parts."""
    text: TextTower
    """Its text tower."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, device: torch.device) -> "LoadedModel":
        """Move a model to a device and split its towers."""
        model = model.to(device).eval()
        model = model.to(memory_format=torch.channels_last)  # faster convolutions
        return cls(model, tokenizer, split_tower(model.visual), TextTower(model, tokenizer))

    def parameters(self, part: Part, texts: bool = True) -> dict[str, nn.Parameter]:
        """Parameters of `part` and the logit scale, by name; see `Backbone.parameters`."""
        if part == "all":
            named = dict(self.model.named_parameters())
            own = ("visual.", "logit_scale")
            return {n: p for n, p in named.items() if texts or n.startswith(own)}
        wanted = [self.model.logit_scale, *self.image.head_parameters]
        if texts:
            wanted += self.text.head_parameters
        if part == "tail":
            wanted += self.image.last_parameters
        return self.named(wanted)

    def norms(self, tower: Literal["image", "text"]) -> dict[str, nn.Parameter]:
        """Scale and shift of all normalisation layers of a tower, by name."""
        modules = self.model.visual.modules() if tower == "image" else self.text.modules
        layers = [module for module in modules if isinstance(module, NORMS)]
        found = self.named(p for layer in layers for p in layer.parameters())
        is_image = tower == "image"
        return {n: p for n, p in found.items() if n.startswith("visual.") == is_image}

    def named(self, parameters: Iterable[nn.Parameter]) -> dict[str, nn.Parameter]:
        """Parameters by their name in the model, in the order of the model."""
        chosen = {id(parameter) for parameter in parameters}
        return {n: p for n, p in self.model.named_parameters() if id(p) in chosen}

    def digest(self, without: Collection[str] = (), prefix: str = "") -> str:
        """Digest of the names and values of weights and buffers.

        Args:
            without: names that are left out.
            prefix: beginning of the names that count.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if name in without or not name.startswith(prefix):
                continue
            array = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()
