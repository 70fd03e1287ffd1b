"""Fold batch normalisation with fixed statistics into the preceding convolution.

With mean m, variance s^2 (including epsilon), scale g and shift b of each output channel,
g (w * x - m) / s + b is

    (g w / s) * x  +  b - g m / s

which saves two passes over the largest maps in each training step. Outputs and gradients of w, g
and b are the same (in bfloat16 within its rounding); the parameters are not changed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d

Step = Callable[[Tensor], Tensor]


def run(steps: Iterable[Step], x: Tensor) -> Tensor:
    """Apply `steps` to x in sequence."""
    for step in steps:
        x = step(x)
    return x


def folded_steps(stages: Iterable[nn.Module]) -> list[Step]:
    """The steps of an EfficientNet's modules, folded where that is exact."""
    return [step for module in stages for step in _steps(module)]


def fold_norm(convolution: Any, norm: Any) -> list[Step]:
    """Fold convolution, norm and timm's activation into one step, or return both if impossible."""
    plain = type(convolution) is nn.Conv2d and convolution.padding_mode == "zeros"
    kept = type(norm).__name__ == "BatchNormAct2d" and norm.affine and norm.running_var is not None
    if not (plain and kept):
        return [convolution, norm]

    def step(x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C H W"]:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if convolution.bias is not None:
            shift = shift + convolution.bias * scale
        weight = convolution.weight * scale[:, None, None, None]
        y = conv2d(
            x,
            weight,
            shift,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )
        activated: Tensor = norm.act(y)
        return activated

    return [step]


def _steps(module: Any) -> list[Step]:
    if isinstance(module, nn.Sequential):
        return folded_steps(module)
    if type(module).__name__ == "InvertedResidual" and module.conv_s2d is None:
        return [_inverted_residual(module)]
    return [module]


def _inverted_residual(block: Any) -> Step:
    """timm's inverted residual block in evaluation mode: expand, depthwise convolution, project."""
    path = [
        *fold_norm(block.conv_pw, block.bn1),
        *fold_norm(block.conv_dw, block.bn2),
        *(block.aa, block.se),
        *fold_norm(block.conv_pwl, block.bn3),
    ]

    def step(x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C H W"]:
        y = run(path, x)
        return y + x if block.has_skip else y

    return step
