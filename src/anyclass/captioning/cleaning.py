"""Clean machine-written texts: one line of visible characters, limited in length."""

import unicodedata

LONGEST = 500
"""Characters of a text that are kept; a text encoder reads about 77 tokens."""
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "‘": "’", "«": "»"}


def cleaned(text: str | None) -> str | None:
    """Convert `text` to one line in Unicode NFC without surrounding quotes; None if empty.

    Control, bidi and zero-width characters are removed: they could command a terminal, or show a
    reader another text than the model reads. So are the thoughts of a model that thinks first.
    """
    said = _without_thoughts(text or "")
    spaced = "".join(" " if letter.isspace() else letter for letter in said)
    visible = "".join(letter for letter in spaced if unicodedata.category(letter)[0] != "C")
    line = " ".join(unicodedata.normalize("NFC", visible).split())
    return _unquoted(line)[:LONGEST].rstrip() or None


def _without_thoughts(text: str) -> str:
    """What a model says after `</think>`; nothing if its thoughts do not end."""
    said = text.rpartition("</think>")[2]
    return "" if said.lstrip().startswith("<think>") else said


def _unquoted(line: str) -> str:
    """Remove quotes around the whole line; those in `"a" or "b"` stay."""
    while len(line) > 1 and _QUOTES.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
        line = line[1:-1].strip()
    return line
