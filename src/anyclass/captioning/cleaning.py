"""A machine-written text is data: one line of visible characters, not too long."""

import unicodedata

LONGEST = 500
"""Characters of a text that are kept: a text tower reads some 77 words' worth."""
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "‘": "’", "«": "»"}


def cleaned(text: str | None) -> str | None:
    """`text` as one line in Unicode NFC without quotes around it; None where nothing is left.

    Control, bidi and zero-width characters go: they could command a terminal, or say something
    else to a reader than to the model.
    """
    spaced = "".join(" " if letter.isspace() else letter for letter in text or "")
    visible = "".join(letter for letter in spaced if unicodedata.category(letter)[0] != "C")
    line = " ".join(unicodedata.normalize("NFC", visible).split())
    return _unquoted(line)[:LONGEST].rstrip() or None


def _unquoted(line: str) -> str:
    """Without quotes around all of it; those of `"a" or "b"` stay."""
    while len(line) > 1 and _QUOTES.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
        line = line[1:-1].strip()
    return line
