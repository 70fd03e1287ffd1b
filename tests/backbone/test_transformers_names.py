"""Names of transformers, each with open_clip's name of the same model."""

import open_clip
import pytest

from anyclass.backbone.transformers_names import open_clip_name


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("google/siglip-base-patch16-224", "ViT-B-16-SigLIP/webli"),
        ("google/siglip-base-patch16-256-multilingual", "ViT-B-16-SigLIP-i18n-256/webli"),
        ("google/siglip-so400m-patch14-384", "ViT-SO400M-14-SigLIP-384/webli"),
        ("google/siglip2-base-patch32-256", "ViT-B-32-SigLIP2-256/webli"),
        ("google/siglip2-large-patch16-512", "ViT-L-16-SigLIP2-512/webli"),
        ("google/siglip2-so400m-patch14-224", "ViT-SO400M-14-SigLIP2/webli"),
        ("google/siglip2-so400m-patch14-384", "ViT-SO400M-14-SigLIP2-378/webli"),
        ("google/siglip2-giant-opt-patch16-384", "ViT-gopt-16-SigLIP2-384/webli"),
        ("openai/clip-vit-large-patch14-336", "ViT-L-14-336-quickgelu/openai"),
    ],
)
def test_open_clip_name__of_a_model_of_transformers(name: str, same: str) -> None:
    assert open_clip_name(name) == same
    assert tuple(same.split("/")) in open_clip.list_pretrained()
    assert open_clip_name(f"hf-hub:{name}") == same
    assert open_clip_name(same) is None
