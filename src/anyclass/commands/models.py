"""`models`: list the models that can be used."""

from anyclass.errors import RequestError


def models(contains: str = "") -> dict[str, list[str]]:
    """List the models that can be used: the embedded starter and open_clip's, as NAME/TAG.

    Args:
        contains: list only models with this text in their name.
    """
    import open_clip

    names = ["starter", *(f"{name}/{tag}" for name, tag in open_clip.list_pretrained())]
    forms = ["hf-hub:OWNER/NAME", "local-dir:FOLDER"]
    found = [name for name in [*names, *forms] if contains.lower() in name.lower()]
    if not found:
        raise RequestError(f"no model has {contains!r} in its name; `anyclass models` lists all")
    return {"models": found}
