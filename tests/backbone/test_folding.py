import pytest
import torch
from torch import nn

pytest.importorskip("timm")
from timm.layers import BatchNormAct2d, BlurPool2d, Conv2dSame, SqueezeExcite
from timm.models._efficientnet_blocks import EdgeResidual, InvertedResidual

from anyclass.backbone.folding import fold_norm, folded_steps


def lively(module: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and scales of its own in every channel."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.running_mean, norm.weight.data, norm.bias.data):
                values.copy_(torch.randn_like(values))
            norm.running_var.uniform_(0.3, 3.0)
    return module.eval()


def outcome(steps: list, module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What comes out, and its gradients."""
    seen = x
    for step in steps:
        seen = step(seen)
    return [seen, *torch.autograd.grad(seen.pow(3).sum(), [x, *module.parameters()])]


BLOCKS = {
    "skip": InvertedResidual(4, 4, exp_ratio=2, act_layer=nn.ReLU6),
    "wider, in strides": InvertedResidual(4, 7, dw_kernel_size=5, stride=2, exp_ratio=3),
    "squeezed": InvertedResidual(4, 5, se_layer=SqueezeExcite),
    "padded on one side": InvertedResidual(4, 5, stride=2, pad_type="same"),
    "space to depth": InvertedResidual(4, 5, s2d=1),
    "blurred": InvertedResidual(4, 5, stride=2, aa_layer=BlurPool2d),
    "no skip": InvertedResidual(4, 4, noskip=True),
    "another block": EdgeResidual(4, 5),
    "several": nn.Sequential(InvertedResidual(4, 5), InvertedResidual(5, 5)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_folded_steps__give_the_same_numbers_and_gradients(name: str) -> None:
    block = lively(BLOCKS[name]).double()
    x = torch.randn(3, 4, 9, 11, dtype=torch.float64, requires_grad=True)
    found, wanted = outcome(folded_steps([block]), block, x), outcome([block], block, x)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_folded_steps__run_no_normalisation() -> None:
    block = lively(InvertedResidual(4, 5))
    for norm in (block.bn1, block.bn2, block.bn3):
        norm.register_forward_hook(lambda *_: pytest.fail("a normalisation was run"))
    (step,) = folded_steps([block])
    assert step(torch.randn(2, 4, 6, 7)).shape == (2, 5, 6, 7)


@pytest.mark.parametrize("bias", [False, True])
def test_folded__takes_in_a_bias_and_the_activation(bias: bool) -> None:
    pair = lively(nn.Sequential(nn.Conv2d(3, 6, 3, bias=bias), BatchNormAct2d(6)))
    (step,) = fold_norm(*pair)
    x = torch.randn(2, 3, 7, 8)
    assert torch.allclose(step(x), pair(x), atol=1e-5)
    assert (step(x) >= 0).all()


@pytest.mark.parametrize(
    ("convolution", "norm"),
    [
        (Conv2dSame(3, 6, 3, stride=2), BatchNormAct2d(6)),
        (nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"), BatchNormAct2d(6)),
        (nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6)),
        (nn.Conv2d(3, 6, 3), BatchNormAct2d(6, affine=False)),
        (nn.Conv2d(3, 6, 3), BatchNormAct2d(6, track_running_stats=False)),
    ],
)
def test_folded__leaves_what_it_cannot_fold(convolution: nn.Module, norm: nn.Module) -> None:
    assert fold_norm(convolution, norm) == [convolution, norm]
