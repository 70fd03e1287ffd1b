"""The identities of a backbone: every piece together is what open_clip computes by itself."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from anyclass.backbone import Backbone, Part, Words
from anyclass.errors import ModelError, RequestError

CONTEXT = 16
PARTS: tuple[Part, ...] = ("head", "tail", "all")
TEXTS = [
    "a photo of a red square.",
    "blue",
    "a clean drawing of the three small yellow stars on water.",
    "art",
    "a photo of a red square.",
]


@pytest.fixture
def clip(every_backbone: Backbone) -> Backbone:
    """Each of the tiny models, not to be changed."""
    return every_backbone


@pytest.fixture
def causal(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    """A model to be changed."""
    return tiny_backbone().copy()


def noise(clip: Backbone, count: int = 3) -> Tensor:
    """Pixels that no image has."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, *clip.preprocessing.size, generator=generator)


def full_length(clip: Backbone, texts: list[str]) -> Tensor:
    """Token numbers as open_clip's own tokenizer gives them, never cut."""
    ids: Tensor = clip._open.tokenizer(texts)
    assert ids.shape == (len(texts), CONTEXT)
    return ids


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=atol)


@torch.no_grad()
def test_images__are_unit_features_of_open_clip(clip: Backbone) -> None:
    pixels = noise(clip)
    features = clip.images(pixels)
    assert close(features, normalize(clip.model.encode_image(pixels), dim=-1), 1e-6)
    assert close(features.norm(dim=1), torch.ones(3), 1e-6)


@torch.no_grad()
def test_texts__are_unit_features_of_open_clip_at_full_length(clip: Backbone) -> None:
    wanted = normalize(clip.model.encode_text(full_length(clip, TEXTS)), dim=-1)
    assert close(clip.texts(TEXTS), wanted, 1e-6)
    assert close(clip.texts(TEXTS, batch_size=2), wanted, 1e-6)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3


@torch.no_grad()
def test_tail__of_the_trunk_is_images(clip: Backbone) -> None:
    pixels = noise(clip)
    for part in PARTS:
        assert close(clip.tail(clip.trunk(pixels, part), part), clip.images(pixels), 1e-6), part


@torch.no_grad()
def test_text_tail__of_the_text_trunk_is_texts(clip: Backbone) -> None:
    for part in PARTS:
        hidden = clip.text_trunk(TEXTS, part)
        assert hidden.is_floating_point() == (part != "all")
        assert close(clip.text_tail(hidden, part), clip.texts(TEXTS), 1e-6), part
        assert close(clip.text_tail(hidden[1:2], part), clip.texts(TEXTS[1:2]), 1e-6), part


@torch.no_grad()
def test_prompts__of_words_are_texts(clip: Backbone) -> None:
    assert close(clip.prompts(clip.words(TEXTS)), clip.texts(TEXTS), 1e-6)


def test_prompts__hear_what_is_spliced_in(clip: Backbone) -> None:
    clip = clip.copy()
    words = clip.words(TEXTS)
    spoken = words.embeddings.detach().clone()
    spoken[:, 1] = torch.linspace(-2, 2, spoken.shape[2])
    spoken.requires_grad_()
    features = clip.prompts(Words(words.ids, spoken))
    assert cosine_similarity(features, clip.prompts(words)).max() < 0.999
    features[0].pow(2).mul(torch.arange(features.shape[1])).sum().backward()
    assert spoken.grad is not None
    assert spoken.grad[0, 1].norm() > 0
    assert spoken.grad[1:].abs().max() == 0  # texts of a batch do not hear each other


@torch.no_grad()
def test_prompts__leave_the_model_as_it_was(clip: Backbone) -> None:
    before, digest = clip.texts(TEXTS), clip.weights_sha256
    words = clip.words(TEXTS)
    clip.prompts(Words(words.ids, torch.zeros_like(words.embeddings)))
    assert torch.equal(clip.texts(TEXTS), before)
    assert Backbone.of(clip.model, clip._open.tokenizer, "same").weights_sha256 == digest


def test_words__end_with_the_longest_text_where_that_is_exact(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    lengths = {"causal": 8, "huggingface": 8, "timm": 8, "siglip": CONTEXT, "coca": CONTEXT}
    for kind, length in lengths.items():
        words = tiny_backbone(kind).words(["blue", "a photo of a blue disc"])  # 6 + 2 marks
        assert words.ids.shape == (2, length), kind
        assert words.embeddings.shape[:2] == (2, length), kind


class Numbers:
    """A tokenizer that returns the rows it was made with, one for each text."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = torch.tensor(rows)

    def __call__(self, texts: list[str]) -> Tensor:
        return self.rows[: len(texts)]


def build(vision: dict[str, Any], text: dict[str, Any], rows: list[list[int]]) -> Backbone:
    """A random open_clip model of any kind, without a folder."""
    import open_clip
    from open_clip.transformer import TextTransformer

    small = {"context_length": 9, "vocab_size": 50, "width": 20, "heads": 2, "layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = open_clip.CustomTextCLIP(12, vision, small)
        model.text = TextTransformer(output_dim=12, **small, **text)
        for name, parameter in model.named_parameters():
            if "norm" in name or ".ln" in name or "bn" in name:
                nn.init.normal_(parameter, 1.0, 0.2)
    model.visual.image_mean, model.visual.image_std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return Backbone.of(model, Numbers(rows), "built")


VIT = {"image_size": 32, "patch_size": 16, "layers": 2, "width": 32, "head_width": 16}
PADDED = [[7, 3, 49, 0, 0, 0, 0, 0, 0], [9, 5, 6, 8, 49, 0, 0, 0, 0], [49, 0, 0, 0, 0, 0, 0, 0, 0]]


@torch.no_grad()
@pytest.mark.parametrize(
    ("text", "rows", "length"),
    [
        ({}, PADDED, 5),  # causal, argmax
        ({"pool_type": "eos", "eos_id": 49}, PADDED, 5),
        ({"pool_type": "eos", "eos_id": 3}, [[7, 3, 1, 2, 8, 9, 9, 9, 9]], 2),
        ({"no_causal_mask": True, "use_pad_mask": True}, PADDED, 5),
        ({"no_causal_mask": True, "use_pad_mask": True, "pool_type": "first"}, PADDED, 5),
        # bidirectional, and words after the end of text that are no padding: they are seen
        (
            {"no_causal_mask": True, "use_pad_mask": True, "pool_type": "eos", "eos_id": 3},
            [[7, 3, 1, 2, 8, 9, 0, 0, 0], [4, 5, 3, 0, 0, 0, 0, 0, 0]],
            6,
        ),
        # the end of text is its own padding: it is pooled, and masked
        (
            {
                **{"no_causal_mask": True, "use_pad_mask": True, "pool_type": "eos"},
                **{"eos_id": 49, "pad_id": 49},
            },
            [[7, 3, 1, 49, 49, 49, 49, 49, 49], [4, 5, 49, 49, 49, 49, 49, 49, 49]],
            4,
        ),
        ({"pool_type": "last"}, PADDED, 9),
        ({"no_causal_mask": True}, PADDED, 9),
        ({"no_causal_mask": True, "pool_type": "first"}, PADDED, 9),
        ({"no_causal_mask": True, "use_pad_mask": True, "pool_type": "last"}, PADDED, 9),
        ({"embed_cls": True}, PADDED, 9),
    ],
)
def test_texts__cutting_is_exact(text: dict[str, Any], rows: list[list[int]], length: int) -> None:
    clip = build(VIT, text, rows)
    assert clip.text_trunk(["x"] * len(rows), "all").shape == (len(rows), length)
    wanted = normalize(clip.model.encode_text(torch.tensor(rows)), dim=-1)
    for part in ("head", "tail", "all"):
        hidden = clip.text_trunk(["x"] * len(rows), part)
        assert close(clip.text_tail(hidden, part), wanted, 1e-6)


TOWERS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "vit": (VIT, [2, 5, 32]),
    "vit that pools the mean": (
        {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
        [2, 5, 32],
    ),
    "vit with attentional pool": (
        {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4},
        [2, 5, 32],
    ),
    "resnet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, [2, 128, 4, 4]),
    "timm vit": ({"image_size": 160, "timm_model_name": "test_vit"}, [2, 101, 64]),
    "timm efficientnet": (
        {"image_size": 64, "timm_model_name": "test_efficientnet"},
        [2, 48, 4, 4],
    ),
    "timm convnext": ({"image_size": 64, "timm_model_name": "test_convnext"}, [2, 48, 4, 4]),
    "timm resnet": ({"image_size": 64, "timm_model_name": "test_resnet"}, [2, 192, 4, 4]),
}


@cache
def tower(name: str) -> Backbone:
    """One of `TOWERS`, built once."""
    timm = {"timm_pool": "avg", "timm_proj": "linear"} if "timm" in name else {}
    return build(TOWERS[name][0] | timm, {}, PADDED)


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_trunk__of_every_known_tower(name: str) -> None:
    clip, shape = tower(name), TOWERS[name][1]
    pixels = noise(clip, 2)
    wanted = normalize(clip.model.encode_image(pixels), dim=-1)
    assert list(clip.trunk(pixels, "tail").shape) == shape
    for part in ("head", "tail", "all"):
        assert close(clip.tail(clip.trunk(pixels, part), part), wanted, 1e-6)


@pytest.mark.parametrize("name", TOWERS)
def test_parameters__of_the_tail_are_all_that_the_tail_uses(name: str) -> None:
    clip = tower(name)
    for part in ("head", "tail"):
        with torch.no_grad():
            hidden = clip.trunk(noise(clip, 2), part)
        used = reached(clip, clip.tail(hidden, part))
        assert used == set(clip.parameters(part, texts=False)) - {"logit_scale"}


def reached(clip: Backbone, features: Tensor) -> set[str]:
    """Names of the parameters that `features` depend on."""
    named = dict(clip.model.named_parameters())
    total = features.pow(2).mul(torch.arange(features.shape[1])).sum()
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name for name, grad in zip(named, found, strict=True) if grad is not None}


@torch.no_grad()
def test_trunk__of_a_convnext_that_norms_before_it_pools() -> None:
    vision = {"image_size": 64, "timm_model_name": "test_convnext"}
    model = build(vision | {"timm_pool": "avg", "timm_proj": "linear"}, {}, PADDED).model
    model.visual.trunk.norm_pre = nn.GroupNorm(4, 64)
    nn.init.normal_(model.visual.trunk.norm_pre.weight)
    clip = Backbone.of(model, Numbers(PADDED), "built")
    pixels = noise(clip, 2)
    wanted = normalize(clip.model.encode_image(pixels), dim=-1)
    assert close(clip.tail(clip.trunk(pixels, "tail"), "tail"), wanted, 1e-6)
    assert "visual.trunk.norm_pre.weight" in clip.parameters("tail")


def test_trunk__of_an_unknown_timm_tower() -> None:
    vision = {"image_size": 64, "timm_model_name": "test_byobnet"}
    clip = build(vision | {"timm_pool": "avg", "timm_proj": "linear"}, {}, PADDED)
    pixels = noise(clip, 2)
    hidden = clip.trunk(pixels, "head")
    assert hidden.ndim == 2
    assert close(clip.tail(hidden, "head"), clip.images(pixels), 1e-6)
    for attempt in (lambda: clip.trunk(pixels, "tail"), lambda: clip.parameters("tail")):
        with pytest.raises(RequestError, match=r"built: stages .* unknown; use --tune head or all"):
            attempt()
    with pytest.raises(RequestError, match="use --tune head or all"):
        clip.frozen_sha256("tail")


def test_visual__refuses_a_tower_of_another_kind(causal: Backbone) -> None:
    causal.model.visual = nn.Flatten()
    causal.model.visual.preprocess_cfg = {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(ModelError, match="the image encoder is a Flatten; anyclass supports"):
        _ = causal.copy().visual


def test_parameters__of_each_part(causal: Backbone) -> None:
    block = "visual.transformer.resblocks.2."
    head = {"visual.proj", "text_projection", "logit_scale"}
    tail = set(causal.parameters("tail"))
    assert set(causal.parameters("head")) == head
    assert set(causal.parameters("head", texts=False)) == head - {"text_projection"}
    assert {name for name in tail - head if not name.startswith(block)} == {
        "visual.ln_post.weight",
        "visual.ln_post.bias",
    }
    assert len([name for name in tail if name.startswith(block)]) == 12
    everything = dict(causal.model.named_parameters())
    assert set(causal.parameters("all")) == set(everything)
    without = set(causal.parameters("all", texts=False))
    assert without == {n for n in everything if n.startswith("visual.")} | {"logit_scale"}
    assert all(causal.parameters("all")[n] is p for n, p in everything.items())


def test_norms__of_each_tower(causal: Backbone) -> None:
    image, text = causal.norms("image"), causal.norms("text")
    blocks = [f"transformer.resblocks.{i}.ln_{k}" for i in range(3) for k in (1, 2)]
    wanted = {"ln_pre", "ln_post", *blocks}
    parts = ("weight", "bias")
    assert set(image) == {f"visual.{name}.{part}" for name in wanted for part in parts}
    wanted = {"ln_final", *blocks[:4]}
    assert set(text) == {f"{name}.{part}" for name in wanted for part in parts}
    named = dict(causal.model.named_parameters())
    assert all(named[name] is norm for name, norm in (image | text).items())


@pytest.mark.parametrize("kind", ["huggingface", "timm", "siglip", "coca"])
def test_norms__are_those_layers_that_are_called_so(
    tiny_backbone: Callable[..., Backbone], kind: str
) -> None:
    clip = tiny_backbone(kind)
    for tower, prefix in (("image", "visual."), ("text", "text.")):  # CoCa's decoder is neither
        layers = {
            name: module
            for name, module in clip.model.named_modules()
            if name.startswith(prefix) and "Norm" in type(module).__name__
        }
        wanted = {f"{n}.{part}" for n, m in layers.items() for part, _ in m.named_parameters()}
        assert set(clip.norms(tower)) == wanted
        assert len(wanted) > 5


def test_parameters__of_a_head_that_is_none(tiny_backbone: Callable[..., Backbone]) -> None:
    clip = tiny_backbone("siglip")
    with pytest.raises(RequestError, match=r"has no projection; use --tune tail"):
        clip.parameters("head")
    assert "text_projection.weight" in {n.removeprefix("text.") for n in clip.parameters("tail")}
    assert len(clip.frozen_sha256("head")) == 64  # images can still be seen by it


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2e-2), ("fp16", 2e-3)])
def test_precision__rounds_while_towers_are_trained(
    tiny_clip: Callable[..., str], precision: Any, error: float
) -> None:
    """bfloat16 has 8 bits, float16 has 11, and its losses are scaled."""
    full, half = (
        Backbone.load(tiny_clip("causal"), engine="torch", precision=how)
        for how in ("float32", precision)
    )
    assert half.copy().precision == precision
    assert half.loss_scaler().get_scale() == (2**16 if precision == "fp16" else 1)
    hidden = full.trunk(noise(full), "tail")
    exact, rounded = full.projected(hidden, "tail"), half.projected(hidden, "tail")
    assert rounded.dtype == torch.float32
    near = (exact - rounded).norm() / exact.norm()
    assert error / 200 < near < error
    weight = next(iter(half.last_stage().values()))
    (gradient,) = torch.autograd.grad(rounded.sum(), weight)
    assert gradient.dtype == weight.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(half.projected(hidden, "tail"), exact)


def test_logit_scale__is_one_over_tau(causal: Backbone) -> None:
    causal.model.logit_scale.data.fill_(torch.tensor(25.0).log())
    assert causal.logit_scale.shape == ()
    assert causal.logit_scale.item() == pytest.approx(25, rel=1e-6)
    (gradient,) = torch.autograd.grad(causal.logit_scale, causal.model.logit_scale)
    assert gradient.item() == pytest.approx(25, rel=1e-6)


@torch.no_grad()
def test_copy__is_independent(clip: Backbone) -> None:
    pixels, before, texts = noise(clip), clip.images(noise(clip)), clip.texts(TEXTS)
    twin = clip.copy()
    assert torch.equal(twin.images(pixels), before)
    for parameter in twin.model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    assert torch.equal(clip.images(pixels), before)
    assert torch.equal(clip.texts(TEXTS), texts)
    for part in ("tail", "all"):  # also its pieces are its own
        assert close(twin.tail(twin.trunk(pixels, part), part), twin.images(pixels), 1e-6)
    assert not close(twin.images(pixels), before, 1e-3)
    assert not close(twin.texts(TEXTS), texts, 1e-3)


def test_copy__stays_in_evaluation_mode(causal: Backbone) -> None:
    causal.model.train()
    assert not any(module.training for module in causal.copy().model.modules())


def test_fingerprint__tells_images_seen_in_another_way(causal: Backbone) -> None:
    fingerprint = causal.fingerprint()
    assert fingerprint.shape == (3, 24)
    assert torch.equal(fingerprint, causal.copy().fingerprint())
    config = causal.model.visual.preprocess_cfg
    swapped = {**config, "mean": config["std"], "std": config["mean"]}
    other = causal.copy()
    other.model.visual.preprocess_cfg = swapped
    assert not close(other.copy().fingerprint(), fingerprint, 1e-3)
    other = causal.copy()
    other.model.visual.conv1.weight.data[3, 1] *= 1.5
    assert not close(other.fingerprint(), fingerprint, 1e-4)


def test_weights_sha256__tells_one_changed_number(causal: Backbone) -> None:
    assert causal.weights_sha256 == causal.copy().weights_sha256
    other = causal.copy()
    other.model.token_embedding.weight.data[500, 39] += 1e-6
    assert other.weights_sha256 != causal.weights_sha256


@pytest.mark.parametrize(
    ("kind", "part"), [("causal", "head"), ("causal", "tail"), ("huggingface", "tail")]
)
def test_frozen_sha256__is_what_training_the_part_leaves(
    tiny_backbone: Callable[..., Backbone], kind: str, part: Part
) -> None:
    clip = tiny_backbone(kind).copy()
    before, whole = clip.frozen_sha256(part), clip.frozen_sha256("all")
    for parameter in clip.parameters(part).values():
        parameter.data.add_(0.01)
    for parameter in clip.model.parameters():
        parameter.requires_grad_(False)
    assert clip.frozen_sha256(part) == before
    assert clip.frozen_sha256("all") != whole
    frozen = next(
        p
        for n, p in clip.model.named_parameters()
        if n.startswith("visual.") and n not in clip.parameters(part)
    )
    frozen.data.mul_(1.001)
    assert clip.frozen_sha256(part) != before


def test_frozen_sha256__differs_under_another_activation() -> None:
    plain, quick = build(VIT, {}, PADDED), build(VIT, {}, PADDED)
    assert plain.frozen_sha256("head") == quick.frozen_sha256("head")
    for block in quick.model.visual.transformer.resblocks:
        block.mlp.gelu = nn.SiLU()
    assert plain.weights_sha256 == quick.weights_sha256
    assert plain.frozen_sha256("head") != quick.frozen_sha256("head")


@torch.no_grad()
def test_projected__is_what_images_make_unit(clip: Backbone) -> None:
    pixels = noise(clip)
    wanted = clip.model.encode_image(pixels, normalize=False)
    for part in PARTS:
        z = clip.projected(clip.trunk(pixels, part), part)
        assert close(z, wanted, 1e-5), part
        assert (z.norm(dim=1) - 1).abs().max() > 1e-2


@torch.no_grad()
def test_pooled__is_what_the_projection_gets(clip: Backbone) -> None:
    pixels, head = noise(clip), clip._open.image.head
    wanted = clip.model.encode_image(pixels, normalize=False)
    for part in PARTS:
        v = clip.pooled(clip.trunk(pixels, part), part)
        assert close(v, clip.trunk(pixels, "head"), 1e-5), part
        assert close(head(v) if head else v, wanted, 1e-5), part


@torch.no_grad()
def test_pooled__of_a_tower_whose_projection_pools() -> None:
    clip = build({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, {}, PADDED)
    hidden = clip.trunk(noise(clip, 2), "head")
    assert hidden.shape == (2, 256, 2, 2)
    wanted = torch.stack([hidden[:, :, y, x] for y in range(2) for x in range(2)]).mean(0)
    assert close(clip.pooled(hidden, "head"), wanted)


@torch.no_grad()
def test_sentences__of_the_words_of_a_text_are_that_text(clip: Backbone) -> None:
    for length in (1, 7):
        check_sentences(clip, length)


def check_sentences(clip: Backbone, length: int) -> None:
    text = " ".join(["blue", "kite", "on", "water", "with", "yellow", "wood"][:length])
    read = clip.words([text, "art " * length])
    blue = clip.words(["blue kite on water with yellow wood"])
    first = int((blue.ids[0] != clip.words(["i kite on water with yellow wood"]).ids[0]).nonzero())
    words = read.embeddings[:, first : first + length]
    found = clip.sentences(words)
    assert close(normalize(found, dim=-1), clip.texts([text, "art " * length]), 1e-5)
    wanted = clip.model.encode_text(full_length(clip, [text]), normalize=False)
    assert close(found[:1], wanted, 1e-5)


def test_sentences__carry_the_gradient_to_their_words_alone(clip: Backbone) -> None:
    words = torch.randn(3, 7, clip.words(["a"]).embeddings.shape[2], requires_grad=True)
    clip.sentences(words)[1].square().sum().backward(inputs=[words])
    assert words.grad is not None
    assert words.grad[1].norm(dim=1).min() > 0
    assert not words.grad[[0, 2]].any()
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def test_sentences__longer_than_the_context_are_refused(causal: Backbone) -> None:
    with pytest.raises(RequestError, match="cannot read 17 words"):
        causal.sentences(torch.zeros(2, 17, causal.words(["a"]).embeddings.shape[2]))


STAGES = {
    "vit": {"transformer.resblocks.1."},
    "vit that pools the mean": {"transformer.resblocks.1."},
    "vit with attentional pool": {"transformer.resblocks.1."},
    "resnet": {"layer4."},
    "timm vit": {"trunk.blocks.5."},
    "timm efficientnet": {"trunk.blocks.4.", "trunk.conv_head.", "trunk.bn2."},
    "timm convnext": {"trunk.stages.3."},
    "timm resnet": {"trunk.layer4."},
}


@pytest.mark.parametrize("name", TOWERS)
def test_last_stage__is_without_norm_pool_and_projection(name: str) -> None:
    clip = tower(name)
    stage, prefixes = set(clip.last_stage()), tuple(f"visual.{p}" for p in STAGES[name])
    assert stage == {n for n, _ in clip.model.named_parameters() if n.startswith(prefixes)}
    assert stage < set(clip.parameters("tail"))
    assert {prefix for prefix in prefixes if any(n.startswith(prefix) for n in stage)} == set(
        prefixes
    )


def test_last_stage__of_an_unknown_tower_is_refused() -> None:
    vision = {"image_size": 64, "timm_model_name": "test_byobnet"}
    clip = build(vision | {"timm_pool": "avg", "timm_proj": "linear"}, {}, PADDED)
    with pytest.raises(RequestError, match="stages of the image encoder are unknown"):
        clip.last_stage()


def test_last_block__of_the_class_row_alone_gives_the_same_gradients() -> None:
    clip = build({**VIT, "ls_init_value": 0.3}, {}, PADDED)
    block = clip.model.visual.transformer.resblocks[-1]
    hidden = clip.trunk(noise(clip, 2), "tail").detach()
    whole = clip.model.visual._pool(block(hidden))[0]
    found = clip.pooled(hidden, "tail")
    assert close(found, whole, 1e-6)
    slopes = [torch.autograd.grad(f.pow(3).sum(), list(block.parameters())) for f in (found, whole)]
    assert len(slopes[0]) == 14
    assert all(close(a, b, 1e-5) for a, b in zip(*slopes, strict=True))
    calls: list[torch.Size] = []
    block.mlp.register_forward_hook(lambda _, given, __: calls.append(given[0].shape))
    clip.pooled(hidden, "tail")
    assert calls == [(2, 1, 32)]
