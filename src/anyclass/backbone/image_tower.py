"""Split an image tower into three pieces: `images(x) = unit(head(last(trunk(x))))`.

The *trunk* stays frozen and is run once per image; *last* is the last stage (a transformer block
with its norm, or the last stage of a convolutional tower), and *head* the projection into the space
shared with texts.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from anyclass.backbone.folding import Step, fold_norm, folded_steps, run
from anyclass.errors import ModelError


class ImageTower(NamedTuple):
    """An image tower in three pieces, each a sequence of steps."""

    trunk: Sequence[Step] | None
    """Pixels -> input of the last stage; None for a tower with unknown stages."""
    last: Sequence[Step]
    """Input of the last stage (pixels if `trunk` is None) -> pooled feature."""
    head: Step | None
    """Pooled feature (B, W) -> shared space (B, D), not normalised; None if there is none."""
    last_parameters: list[nn.Parameter]
    """Parameters of `last`."""
    stage_parameters: list[nn.Parameter]
    """Parameters of the last stage, without a transformer's final norm and the pooling."""
    head_parameters: list[nn.Parameter]
    """Parameters of the head."""


def split_tower(visual: Any) -> ImageTower:
    """Split an open_clip image tower: ViT, ModifiedResNet, or a timm tower.

    Raises:
        ModelError: the tower is of an unknown kind.
    """
    kind = type(visual).__name__
    if kind == "VisionTransformer":
        return _vision_transformer(visual)
    if kind == "ModifiedResNet":
        return _modified_resnet(visual)
    if kind == "TimmModel":
        return _timm(visual)
    raise ModelError(
        f"the image encoder is a {kind}; anyclass supports open_clip's ViT, ResNet and timm models"
    )


def _vision_transformer(visual: Any) -> ImageTower:
    *early, final = visual.transformer.resblocks
    plain = type(final).__name__ == "ResidualAttentionBlock" and visual.transformer.batch_first
    one_row = plain and visual.attn_pool is None and visual.pool_type == "tok"
    last_modules = [final, visual.ln_post, *([visual.attn_pool] if visual.attn_pool else [])]

    def blocks(steps: Sequence[Step]) -> Step:
        """Run transformer blocks in their layout (batch first or second)."""
        if visual.transformer.batch_first:
            return lambda x: run(steps, x)
        return lambda x: run(steps, x.transpose(0, 1).contiguous()).transpose(0, 1)

    return ImageTower(
        trunk=[visual._embeds, blocks(early)],
        last=[_class_row(final) if one_row else blocks([final]), lambda x: visual._pool(x)[0]],
        head=None if visual.proj is None else lambda x: x @ visual.proj,
        last_parameters=_parameters(last_modules),
        stage_parameters=_parameters([final]),
        head_parameters=[] if visual.proj is None else [visual.proj],
    )


def _class_row(block: Any) -> Step:
    """A transformer block for the class token only, if no other token is pooled.

    The same result at a sixth of the cost: keys and values come from all tokens, but query, output
    and MLP are needed for one.
    """

    def step(x: Tensor) -> Tensor:
        rows = block.ln_1(x)
        one = x[:, :1] + block.ls_1(block.attention(rows[:, :1], rows, rows))
        out: Tensor = one + block.ls_2(block.mlp(block.ln_2(one)))
        return out

    return step


def _modified_resnet(visual: Any) -> ImageTower:
    return ImageTower(
        trunk=[visual.stem, visual.layer1, visual.layer2, visual.layer3],
        last=[visual.layer4],
        head=visual.attnpool,
        last_parameters=_parameters([visual.layer4]),
        stage_parameters=_parameters([visual.layer4]),
        head_parameters=_parameters([visual.attnpool]),
    )


def _timm(visual: Any) -> ImageTower:
    tower = visual.trunk
    early, final = _timm_stages(tower)
    folds = type(tower).__name__ == "EfficientNet"
    steps = [*folded_steps(final[:1]), *fold_norm(*final[1:])] if folds else final
    has_head = len(list(visual.head.parameters())) > 0
    pool = [tower.forward_head] if early is not None else []
    leftover = [] if has_head else [visual.head]
    stage = [module for module in final if not isinstance(module, nn.LayerNorm)]
    return ImageTower(
        trunk=early,
        last=[*steps, *pool, *leftover],
        head=visual.head if has_head else None,
        last_parameters=_parameters(final) + ([] if early is None else _pool_parameters(tower)),
        stage_parameters=_parameters(stage),
        head_parameters=_parameters([visual.head]),
    )


def _timm_stages(tower: Any) -> tuple[list[Step] | None, list[nn.Module]]:
    """Steps before the last stage of a timm tower, and its modules; (None, [tower]) if unknown."""
    family = type(tower).__name__
    if family == "EfficientNet":
        *early, final = tower.blocks
        return [tower.conv_stem, tower.bn1, *early], [final, tower.conv_head, tower.bn2]
    if family == "VisionTransformer":
        *early, final = tower.blocks
        embed = [tower.patch_embed, tower._pos_embed, tower.patch_drop, tower.norm_pre]
        return [*embed, *early], [final, tower.norm]
    if family == "ConvNeXt":
        *early, final = tower.stages
        return [tower.stem, *early], [final, tower.norm_pre]
    if family == "ResNet":
        stem = [tower.conv1, tower.bn1, tower.act1, tower.maxpool]
        return [*stem, tower.layer1, tower.layer2, tower.layer3], [tower.layer4]
    return None, [tower]


def _pool_parameters(tower: Any) -> list[nn.Parameter]:
    """Parameters that a timm tower's `forward_head` uses: pool, norm after it, classifier."""
    names = ("attn_pool", "fc_norm", "head", "head_drop", "classifier", "fc")
    modules = [getattr(tower, name, None) for name in names]
    return _parameters([module for module in modules if isinstance(module, nn.Module)])


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]
