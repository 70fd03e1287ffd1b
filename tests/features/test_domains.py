"""Names of the paper's data sets, however they are written, and what they bring."""

import pytest

from anyclass.errors import RequestError
from anyclass.features.domains import DOMAINS, domain, domain_name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Flowers102", "flowers102"),
        ("flowers", "flowers102"),
        ("Oxford Pets", "oxford_pets"),
        ("pets", "oxford_pets"),
        ("Stanford-Cars", "stanford_cars"),
        ("cars", "stanford_cars"),
        ("FGVC", "fgvc_aircraft"),
        ("aircraft", "fgvc_aircraft"),
        ("SUN", "sun397"),
        ("UCF-101", "ucf101"),
        ("ucf", "ucf101"),
        ("food", "food101"),
        ("caltech", "caltech101"),
        ("textures", "dtd"),
        ("DTD", "dtd"),
        ("EuroSAT", "eurosat"),
    ],
)
def test_domain_name__of_a_data_set_however_it_is_written(written: str, name: str) -> None:
    assert domain_name(written) == name
    assert domain(written) == DOMAINS[name]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("flower102", "flowers102"),
        ("Flowers 101", "flowers102"),
        ("sun39", "sun397"),
        ("food10", "food101"),
        ("eurosatt", "eurosat"),
        ("stanford car", "stanford_cars"),
        ("caltech100", "caltech101"),
    ],
)
def test_domain_name__a_near_miss_is_named(written: str, meant: str) -> None:
    with pytest.raises(RequestError, match=f"is no data set .*: did you mean {meant}\\?"):
        domain_name(written)


@pytest.mark.parametrize(
    "noun", ["bird", "flower", "car", "pet", "Texture", "3D model", "cat food"]
)
def test_domain_name__a_noun_stays(noun: str) -> None:
    assert domain_name(noun) == noun
    assert domain(noun).ask_image() == (
        f"Describe the {noun} in the photo concisely, less than 20 words."
    )
    assert (domain(noun).lr, domain(noun).class_in_prompt) == (None, False)


def test_domain_name__a_blank_is_none() -> None:
    with pytest.raises(RequestError, match="--domain is empty: give a noun"):
        domain_name(" ")
