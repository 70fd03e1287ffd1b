"""Files of a folder that may be images, and what is left out: other formats, hidden, linked."""

import os
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from anyclass.data.classes import listed, normal
from anyclass.data.image import INSTALL_HEIF, readable_formats
from anyclass.data.links import FOLLOW, LinkedFolders

_DOCUMENTS = (
    ".txt .csv .tsv .json .jsonl .geojson .md .py .ipynb .html .htm .parquet .pdf .xml .yaml .yml "
    ".toml .ini .cfg .log .db .sqlite .doc .docx .odt .rtf .xls .xlsx .xlsm .ods .ppt .pptx .url "
    ".lnk .exe .npy .npz .safetensors .onnx .pt .pth .pkl .h5 .bak .md5 .sha256"
)
_SIDECARS = ".xmp .aae .thm .lrv .lrf .pp3 .dop .cos .on1 .gpx .kml .kmz .fit .lrcat .lrdata"
_VIDEO_AND_SOUND = (
    ".mov .mp4 .m4v .avi .mkv .webm .mpg .mpeg .3gp .mts .m2ts .wmv .insv .mp3 .wav .m4a .aac "
    ".flac .ogg .opus .amr"
)
_ARCHIVES = ".zip .tar .gz .tgz .bz2 .xz .7z .rar .iso .dmg"
_DRAWINGS = ".svg .eps .ai .psd .psb .xcf .kra .cdr .indd .afphoto"
_RAW = (
    ".nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .dng .raf .orf .rw2 .rwl .pef .srw .x3f .3fr .fff "
    ".iiq .mef .mos .mrw .kdc .dcr .erf .raw .gpr"
)
RAW = frozenset(_RAW.split())
"""Endings of camera RAW files: nothing here develops them."""

OTHER = RAW.union(
    *(names.split() for names in (_DOCUMENTS, _SIDECARS, _VIDEO_AND_SOUND, _ARCHIVES, _DRAWINGS))
)
"""Endings of other formats, which lie beside images: skipped. The content decides all others."""

_NEEDS = {
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".avif": "AVIF",
}
"""Ending -> format that not every installation reads."""

_SYSTEM = {
    "@eadir",
    "__macosx",
    "$recycle.bin",
    "lost+found",
    "node_modules",
    "system volume information",
}
"""Folders, in lower case, that a system or a tool makes, often with copies of images in it."""

_SPLITS = {"train", "val", "valid", "validation", "test"}
_LIKE_SPLITS = re.compile(r"(train|test|val)(ing|idation)?([ _-]?(data|set|images|split))?")


class Listing(NamedTuple):
    """Files and folders below the root; all paths POSIX, relative and sorted by code point."""

    files: tuple[str, ...]
    """Files that may be images."""

    empty: tuple[str, ...]
    """Folders without images and folders."""

    splits: bool
    """Whether the top-level folders with images are train/val/test only."""

    skipped: tuple[str, ...]
    """Messages about skipped files and folders."""

    def parent(self, path: str) -> str | None:
        """Label of `path` by its parent folder; None directly in the root or in a split."""
        folder = path.rpartition("/")[0]
        if not folder or (self.splits and "/" not in folder):
            return None
        return normal(folder.rpartition("/")[2])

    def without_test(self) -> "Listing":
        """The listing without the test split, if there is one."""
        if not self.splits:
            return self
        files = tuple(file for file in self.files if _top(file) != "test")
        empty = tuple(folder for folder in self.empty if _top(folder) != "test")
        removed = len(self.files) - len(files)
        messages = (f"skipped images of the test split ({removed}).",) if removed else ()
        return Listing(files, empty, self.splits, self.skipped + messages)


def walk(root: Path) -> Listing:
    """List the files that may be images, and the skipped files with the reason.

    Raises:
        RequestError: `$ANYCLASS_LINKS` is no folder.
    """
    files: list[str] = []
    empty: list[str] = []
    skipped: dict[str, list[str]] = {}
    top: list[str] = []
    linked = LinkedFolders(root)

    def denied(error: OSError) -> None:
        skipped.setdefault("unreadable folders", []).append(os.path.relpath(error.filename, root))

    def keep(names: list[str], prefix: str, why_not: Callable[[Path], str]) -> list[str]:
        reasons = {name: why_not(root / prefix / name) for name in names}
        for name in filter(reasons.get, names):
            skipped.setdefault(reasons[name], []).append(prefix + name)
        return [name for name in names if not reasons[name]]

    for folder, folders, names in os.walk(root, onerror=denied, followlinks=True):
        prefix = Path(folder).relative_to(root).as_posix() + "/" if Path(folder) != root else ""
        folders[:] = keep(sorted(folders), prefix, partial(_why_no_folder, linked))
        images = keep(names, prefix, _why_no_image)
        files += [prefix + name for name in images]
        if prefix and not folders and not images:
            empty.append(prefix[:-1])
        if not prefix:
            top += folders
    with_images = {_top(file) for file in files if "/" in file}
    splits = "train" in {name.casefold() for name in top} and with_images <= _SPLITS
    messages = [_skipped(why, sorted(paths)) for why, paths in skipped.items()]
    messages += _undeveloped(files, skipped.get(_OTHER_FILES, []))
    messages += [] if splits else _almost_splits(with_images)
    return Listing(tuple(sorted(files)), tuple(sorted(empty)), splits, tuple(sorted(messages)))


def utf8(path: str) -> str:
    """Escape the bytes in `path` that are not UTF-8, so that every table can store it."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


_OTHER_FILES = "files that are not images"
_LINKED = "linked folders"


def _why_no_folder(linked: LinkedFolders, path: Path) -> str:
    """Reason for skipping a folder; empty if it is read."""
    if path.name.startswith("."):
        return "hidden folders"
    if path.name.casefold() in _SYSTEM:
        return "folders of the system"
    if utf8(path.name) != path.name:
        return "folders whose names are not UTF-8"
    skips = os.path.islink(path) and not linked.enter(path)  # noqa: PTH114 (never raises)
    return _LINKED if skips else ""


def _why_no_image(path: Path) -> str:
    """Reason for skipping a file by its name; empty if its content must decide."""
    if path.name.startswith("."):
        return "hidden files"
    if utf8(path.name) != path.name:
        return "files whose names are not UTF-8"
    bare = not path.suffix and os.path.isfile(path)  # noqa: PTH113 (never raises)
    ending = path.suffix.lower()
    if ending in OTHER or (bare and path.stat().st_size == 0):
        return _OTHER_FILES
    needed = _NEEDS.get(ending)
    if needed is None or needed in readable_formats():
        return ""
    if needed == "HEIF":
        return f"HEIC images, which need {INSTALL_HEIF}"
    return "AVIF images, which this Pillow cannot read: pip install --upgrade pillow"


def _skipped(why: str, paths: list[str]) -> str:
    """Message about skipped paths: a few by name, many by ending."""
    if why == _LINKED:
        return f"skipped {why} ({len(paths)}): {listed(paths, 3)}; {FOLLOW}."
    if why != _OTHER_FILES or len(paths) <= 3:
        return f"skipped {why} ({len(paths)}): {listed(paths, 3)}."
    endings = Counter(PurePosixPath(path).suffix.lower() or "no ending" for path in paths)
    by_number = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    counted = ", ".join(f"{number} {ending}" for ending, number in by_number[:6])
    more = f" and {len(by_number) - 6} more endings" if len(by_number) > 6 else ""
    return f"skipped {why} ({len(paths)}): {counted}{more}."


def _undeveloped(files: list[str], others: list[str]) -> list[str]:
    """Message about RAW files without an image of the same name beside them."""
    raw = [path for path in others if PurePosixPath(path).suffix.lower() in RAW]
    with_image = {str(PurePosixPath(file).with_suffix("")) for file in files}
    alone = [path for path in raw if str(PurePosixPath(path).with_suffix("")) not in with_image]
    if not alone:
        return []
    few = listed(sorted(alone), 3)
    return [f"camera RAW without a JPEG beside it ({len(alone)}): {few}; export JPEGs to use them."]


def _almost_splits(folders: set[str]) -> list[str]:
    """Message about folders that are called much like the splits."""
    like = sorted(name for name in folders if _LIKE_SPLITS.fullmatch(name))
    if len(like) < 2 or set(like) != folders:
        return []
    return [
        f"folders {listed(like)} are not taken as splits, so all their images are used: call them "
        "train and test to keep those of test out."
    ]


def _top(path: str) -> str:
    return path.split("/")[0].casefold()
