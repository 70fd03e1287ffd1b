"""Models in the format of transformers that open_clip has under another name."""

import re

CLIP = {
    "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16-quickgelu/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14-quickgelu/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336-quickgelu/openai",
}
"""OpenAI's models: repository of the hub -> name in open_clip."""

SIGLIP = re.compile(
    r"google/siglip(?P<two>2?)-(?P<size>base|large|so400m|giant-opt)-patch(?P<patch>\d+)-"
    r"(?P<pixels>\d+)(?P<languages>-multilingual|-i18n)?"
)
"""Google's names of SigLIP and SigLIP 2."""

SIZES = {"base": "B", "large": "L", "so400m": "SO400M", "giant-opt": "gopt"}
"""Size in these names -> size in open_clip's."""


def open_clip_name(model_id: str) -> str | None:
    """The name in open_clip of a model that was asked for by its name in transformers.

    Args:
        model_id: `OWNER/NAME` or `hf-hub:OWNER/NAME`.

    Returns:
        `NAME/TAG`; None for any other model.
    """
    repository = model_id.removeprefix("hf-hub:")
    if repository in CLIP:
        return CLIP[repository]
    found = SIGLIP.fullmatch(repository)
    if found is None:
        return None
    pixels = found["pixels"]
    if found["two"] and found["patch"] == "14" and pixels == "384":
        pixels = "378"  # a multiple of 14
    name = f"ViT-{SIZES[found['size']]}-{found['patch']}-SigLIP{found['two']}"
    name += "-i18n" if found["languages"] else ""
    return f"{name}/webli" if pixels == "224" else f"{name}-{pixels}/webli"
