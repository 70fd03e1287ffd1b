"""Limits on the work of decoding an image, which a small file can make endless."""

import re
from typing import Any, BinaryIO

from anyclass.errors import ImageError

MOST_SCANS = 100
"""Maximum number of scans of a JPEG: a progressive one has about 10, libtiff stops at 100. A scan
of a few bytes may refine all pixels again, so that the time to decode grows with their number."""

MOST_SCANNED = 2_000_000_000
"""Maximum number of scans times pixels, some two CPU seconds: 25 scans of 80 million pixels."""

MOST_HEADER_READS = 10_000
"""Maximum number of reads before the pixels, where 4 kB count as one more. Pillow makes about five
for a segment of a JPEG and two for a block of a GIF, in Python, and may copy all earlier ones: 2 MB
of EXIF in pieces took 2 CPU seconds, 4 MB 7. A photo takes some forty."""

MOST_READS = 200_000
"""The same of the rest: a PNG of 128 MiB in chunks of 8 kB takes 80,000."""

_JPEG_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
"""A marker between compressed pixels, other than a restart: these hold ff only before 00."""
_WITHOUT_LENGTH = {0x01, 0xD8}
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA


class LimitedReads:
    """A file that can be read so many times and no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = MOST_HEADER_READS

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            ImageError: the file was read too often.
        """
        self.left -= 1 + max(size, 0) // 4096
        if self.left < 0:
            raise ImageError("too many parts", "its metadata is in thousands of pieces")
        return self._file.read(size)

    def header_ends(self) -> None:
        """What follows are the pixels, which may take `MOST_READS`."""
        self.left = MOST_READS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check_scans(data: bytes, pixels: int) -> None:
    """Refuse a JPEG of so many scans that it takes seconds.

    Raises:
        ImageError: there are too many scans, or too many other segments.
    """
    most = min(MOST_SCANS, MOST_SCANNED // pixels)
    if scans(data) > most:
        raise ImageError("too many scans", f"more than {most}")


def scans(data: bytes) -> int:
    """Number of scans of the first image in a JPEG, counted up to one more than `MOST_SCANS`.

    Raises:
        ImageError: there are too many other segments.
    """
    count = 0
    place = 2  # after the start of the image
    segments = 0
    while count <= MOST_SCANS and (found := _JPEG_MARKER.search(data, place)):
        segments += 1
        if segments > MOST_HEADER_READS:
            raise ImageError("too many parts", "it has thousands of segments")
        marker = data[found.end() - 1]
        place = found.end()
        if marker == _END_OF_IMAGE:
            break
        count += marker == _START_OF_SCAN
        if marker not in _WITHOUT_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return count
