"""Images of WebDataset archives, member by member: nothing is extracted to the disk."""

import tarfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile
from pathlib import PurePosixPath
from typing import Any

from anyclass.bulk.tables import Item
from anyclass.data.image import Limits, one_line
from anyclass.errors import ImageError

IMAGES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .heic .heif .hif .avif".split()
)
"""Endings of images in an archive; they also tell a folder of images from one of tables."""

DAMAGED = (tarfile.TarError, EOFError, zlib.error, BadGzipFile)
"""What says that an archive is damaged, and not that storage cannot be reached."""


def items(stream: Any, file: str, limits: Limits = Limits()) -> Iterator[Item]:
    """Images of an archive, in its order; one more item without an image where it is damaged.

    Args:
        stream: the archive, a file of Python or of PyArrow.
        file: its name, which comes before the name of a member.
        limits: size limits of an image.

    Raises:
        OSError: the storage cannot be reached.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                if member.isreg() and is_image(member.name):
                    yield f"{file}/{member.name}", _content(archive, member, limits)
    except DAMAGED as error:
        yield file, ImageError("truncated or damaged", f"the archive ends here: {one_line(error)}")


def is_image(name: str) -> bool:
    """Whether a name has the ending of an image, and is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGES and not path.name.startswith(".")


def _content(
    archive: tarfile.TarFile, member: tarfile.TarInfo, limits: Limits
) -> bytes | ImageError:
    """A member, if it is not too large."""
    if member.size > limits.bytes:
        return ImageError("too many bytes", f"more than {limits.bytes}")
    file = archive.extractfile(member)
    return ImageError("not a regular file") if file is None else file.read()
