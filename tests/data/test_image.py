"""One way in for images: what is good comes out upright and RGB, what is not is a ImageError.

All hostile files are made here, by code.
"""

import io
import os
import socket
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from anyclass.data import Limits, open_bytes, open_image, read_bytes
from anyclass.data.decode_limits import MOST_READS, MOST_SCANS, scans
from anyclass.data.image import FORMATS, longer_side, readable_formats
from anyclass.errors import ImageError

WHITE = (255, 255, 255)
ORIENTATION = 0x0112
LOSS = 25
"""What JPEG of quality 95 may change; another image or orientation differs by 200 and more."""


def pattern(width: int = 14, height: int = 10, side: int = 6) -> Image.Image:
    """Coloured squares: not square itself, different in every corner."""
    squares = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(squares.repeat(side, 0).repeat(side, 1))


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def rotated() -> Image.Exif:
    """Says that the image lies on its side, and a few things of other types."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010E] = "a description"
    exif[0x011A] = 72.5
    return exif


def png(header: bytes, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from its 13 header bytes and its filtered rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def tiff(order: str, size: tuple[int, int], bits: int, pixels: bytes, kind: int = 1) -> bytes:
    """A grey TIFF of one strip; `order` is < or >, `kind` its sample format (1: unsigned)."""
    width, height = size
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
        (339, 3, kind),
    ]
    pixels += b"\0" * (len(pixels) % 2)
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    out += pixels + struct.pack(order + "H", len(tags))
    for tag, type_, value in tags:
        packed = struct.pack(order + ("I" if type_ == 4 else "H"), value)
        out += struct.pack(order + "HHI", tag, type_, 1) + packed.ljust(4, b"\0")
    return out + b"\0" * 4


def difference(one: Image.Image, two: Image.Image) -> int:
    """Largest difference of two images of the same size."""
    assert one.size == two.size
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16)).max())


def reason(data: bytes, limits: Limits = Limits()) -> str:
    with pytest.raises(ImageError) as caught:
        open_bytes(data, limits)
    assert "\n" not in caught.value.detail
    return caught.value.reason


WHOLE = {
    "jpeg": encode(pattern(), "JPEG", quality=95, subsampling=0),
    "progressive": encode(pattern(), "JPEG", quality=95, subsampling=0, progressive=True),
    "png": encode(pattern(), "PNG"),
    "gif": encode(pattern(), "GIF"),
    "bmp": encode(pattern(), "BMP"),
    "tiff": encode(pattern(), "TIFF"),
    "lzw": encode(pattern(), "TIFF", compression="tiff_lzw"),
    "webp": encode(pattern(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_open_image__content_decides_not_the_ending(name: str, tmp_path: Path) -> None:
    (tmp_path / "image.txt").write_bytes(WHOLE[name])
    image = open_image(tmp_path / "image.txt", tmp_path)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert difference(image, pattern()) <= (LOSS if name in ("jpeg", "progressive") else 0)


@pytest.mark.parametrize("name", WHOLE)
def test_open_bytes__cut_anywhere_is_rejected_or_whole(name: str) -> None:
    data = WHOLE[name]
    full = open_bytes(data)
    accepted = 0
    for end in [*range(0, len(data), 23), *range(len(data) - 30, len(data))]:
        try:
            image = open_bytes(data[:end])
        except ImageError as error:
            assert error.reason in ("truncated or damaged", "not an image")
        else:
            assert difference(image, full) == 0
            accepted += 1
    assert accepted <= 24  # a PNG without its end chunk, a GIF without its last two bytes


@pytest.mark.parametrize("name", ["jpeg", "gif", "bmp", "tiff"])
def test_open_bytes__half_a_file_that_pillow_opens_is_rejected(name: str) -> None:
    half = WHOLE[name][: len(WHOLE[name]) * 3 // 4]
    Image.open(io.BytesIO(half)).verify()
    assert reason(half) == "truncated or damaged"


@pytest.mark.parametrize("format", ["EPS", "PDF", "PPM", "ICO", "PCX", "TGA", "JPEG2000", "DDS"])
def test_open_image__other_formats_called_jpg_are_no_images(format: str, tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(encode(pattern(), format))
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "image.jpg", tmp_path)
    assert caught.value.reason == "not an image"
    assert caught.value.detail.startswith("none of JPEG, PNG, WEBP, BMP, TIFF, GIF")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"<svg/>", b"GIF89a", b"\xff\xd8\xff", b"BM"])
def test_open_bytes__no_image_at_all(data: bytes) -> None:
    assert reason(data) in ("not an image", "truncated or damaged")


def bomb(width: int, height: int) -> bytes:
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"\0")


@pytest.mark.parametrize(
    "size", [(8000, 10001), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)]
)
def test_open_bytes__bombs_are_rejected_by_their_header(size: tuple[int, int]) -> None:
    assert reason(bomb(*size)) == "too many pixels"


def test_open_bytes__more_bombs() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0x80) + b"\0" * 6 + b"\x02\x02D\x01\0;"
    assert reason(screen + frame) == "too many pixels"
    side = (16382).to_bytes(3, "little")
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + side + side + WHOLE["webp"][12:]
    webp = b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP" + canvas
    assert reason(webp) == "too many pixels"
    assert reason(tiff("<", (40_000, 40_000), 8, b"\0" * 9)) == "too many pixels"


def test_open_bytes__the_limit_is_inclusive() -> None:
    image = pattern(2, 3, 1)
    assert open_bytes(encode(image, "PNG"), Limits(pixels=6)).size == (2, 3)
    assert reason(encode(image, "PNG"), Limits(pixels=5)) == "too many pixels"
    assert reason(bomb(10_000, 10_000), Limits(pixels=10**10)) == "too many pixels"  # Pillow's own


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_open_bytes__exif_rotation_is_applied(format: str) -> None:
    turns = ("", "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE")
    turns = (*turns, "ROTATE_90", "TRANSVERSE", "ROTATE_270")  # how it was stored
    for orientation, turn in enumerate(turns, 1):
        stored = pattern().transpose(Image.Transpose[turn]) if turn else pattern()
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
        data = encode(stored, format, exif=exif, **options.get(format, {}))
        found = difference(open_bytes(data), pattern())
        assert found <= (LOSS if format == "JPEG" else 0), orientation


@pytest.mark.parametrize(
    ("shorter_side", "part"),
    [(0, 1), (641, 1), (640, 1), (321, 1), (320, 2), (161, 2), (160, 4), (80, 8), (1, 8)],
)
def test_open_bytes__a_jpeg_at_the_smallest_size_that_leaves_enough(
    shorter_side: int, part: int
) -> None:
    image = pattern(14, 10, 64)  # whole blocks of a JPEG, so that each part has exact colours
    data = encode(image, "JPEG", quality=95, subsampling=0)
    assert difference(open_bytes(data, shorter_side=shorter_side), image.reduce(part)) <= LOSS
    if part == 1:
        assert difference(open_bytes(data, shorter_side=shorter_side), open_bytes(data)) == 0


def test_open_bytes__a_reduced_jpeg_is_turned_and_checked_as_a_whole_one() -> None:
    turned = encode(pattern(14, 10, 64), "JPEG", exif=rotated())
    assert open_bytes(turned, shorter_side=320).size == (320, 448)
    assert open_bytes(encode(pattern(), "PNG"), shorter_side=1).size == pattern().size
    several = encode(pattern(14, 10, 64), "MPO", save_all=True, append_images=[pattern()])
    assert open_bytes(several, shorter_side=320).size == (448, 320)
    with pytest.raises(ImageError, match="truncated"):
        open_bytes(turned[: len(turned) // 2], shorter_side=320)


def test_open_bytes__damaged_exif() -> None:
    garbage = b"Exif\0\0garbage garbage"
    assert open_bytes(encode(pattern(), "JPEG", exif=garbage)).size == pattern().size
    half = rotated().tobytes()[:30]  # Pillow warns about it
    assert open_bytes(encode(pattern(), "PNG", exif=half)).size == pattern().size
    assert open_bytes(encode(pattern(), "PNG", exif=garbage)).size == pattern().size


def test_open_bytes__metadata_is_gone() -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    options = {"exif": exif, "comment": "SECRET comment", "xmp": b"SECRET xmp", "dpi": (72, 72)}
    image = open_bytes(encode(pattern(), "JPEG", icc_profile=b"SECRET profile", **options))
    assert image.info == {}
    assert not image.getexif()
    assert b"SECRET" not in encode(image, "JPEG")
    text = PngInfo()
    text.add_text("Comment", "SECRET")
    image = open_bytes(encode(pattern(), "PNG", pnginfo=text))
    assert image.info == {}
    assert b"SECRET" not in encode(image, "PNG")


GREY = np.array([[0, 257, 1000], [32768, 65407, 65535]], np.uint16)
EIGHT = [[0, 1, 4], [128, 255, 255]]  # value / 257, rounded


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(GREY), "PNG"),
        encode(Image.fromarray(GREY), "TIFF"),
        tiff("<", (3, 2), 16, GREY.astype("<u2").tobytes()),
        tiff(">", (3, 2), 16, GREY.astype(">u2").tobytes()),
    ],
)
def test_open_bytes__sixteen_bits_are_scaled_by_their_full_range(data: bytes) -> None:
    pixels = np.asarray(open_bytes(data))
    assert pixels[..., 0].tolist() == EIGHT
    assert (pixels == pixels[..., :1]).all()


def test_open_bytes__twelve_bits_are_scaled_by_their_full_range() -> None:
    row = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0])  # 0x000, 0x800, 0xFFF and padding
    pixels = np.asarray(open_bytes(tiff("<", (3, 1), 12, row)))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_open_bytes__sixteen_bits_of_colour() -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    colours = struct.pack(">6H", 0, 32768, 65535, 65535, 256 * 7, 0)
    pixels = np.asarray(open_bytes(png(header, b"\0" + colours)))
    assert pixels.tolist() == [[[0, 128, 255], [255, 7, 0]]]


def transparent() -> Image.Image:
    """Red that is hidden, blue at half strength, green that is seen."""
    image = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    image.paste((0, 0, 255, 128), (1, 0, 2, 2))
    image.paste((0, 255, 0, 255), (2, 0, 3, 2))
    return image


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_open_bytes__alpha_is_composited_on_white(format: str) -> None:
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    image = open_bytes(encode(transparent(), format, **options))
    assert image.getpixel((0, 1)) == WHITE
    assert image.getpixel((1, 1)) == (127, 127, 255)
    assert image.getpixel((2, 1)) == (0, 255, 0)


def test_open_bytes__grey_with_alpha() -> None:
    image = Image.new("LA", (3, 1), (0, 0))
    image.putpixel((1, 0), (0, 128))
    image.putpixel((2, 0), (90, 255))
    for format in ("PNG", "TIFF"):
        grey = open_bytes(encode(image, format))
        assert [grey.getpixel((x, 0)) for x in range(3)] == [WHITE, (127,) * 3, (90,) * 3]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
@pytest.mark.parametrize("several", [False, True])
def test_open_bytes__transparent_palettes(format: str, several: bool) -> None:
    image = Image.new("P", (3, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.putpixel((2, 0), 2)
    alpha = b"\0\xff\x80" if several and format == "PNG" else 0
    opened = open_bytes(encode(image, format, transparency=alpha))
    blue = (127, 127, 255) if alpha else (0, 0, 255)
    assert [opened.getpixel((x, 0)) for x in range(3)] == [WHITE, (0, 255, 0), blue]


@pytest.mark.parametrize(
    ("mode", "hidden", "seen"),
    [("L", 7, 8), ("RGB", (1, 2, 3), (1, 2, 4)), ("1", 0, 255), ("I;16", 256, 65535)],
)
def test_open_bytes__a_png_colour_that_means_transparent(mode: str, hidden, seen) -> None:
    image = Image.new(mode, (2, 1), hidden)
    image.putpixel((1, 0), seen)
    opened = open_bytes(encode(image, "PNG", transparency=hidden))
    features = {"L": (8,) * 3, "RGB": (1, 2, 4), "1": WHITE, "I;16": WHITE}[mode]
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [WHITE, features]


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_open_bytes__cmyk(format: str) -> None:
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    assert difference(open_bytes(encode(image, format)), Image.new("RGB", (16, 8), "red")) <= 2


def test_open_bytes__lab_and_ycbcr() -> None:
    colours = pattern(3, 2, 8)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    as_lab = ImageCms.profileToProfile(colours, srgb, lab, outputMode="LAB")
    assert as_lab is not None
    assert open_bytes(encode(as_lab, "TIFF")).mode == "RGB"
    assert difference(open_bytes(encode(as_lab, "TIFF")), as_lab.convert("RGB")) == 0
    assert difference(open_bytes(encode(as_lab, "TIFF")), colours) < 60  # 8 bits per axis
    assert difference(open_bytes(encode(colours.convert("YCbCr"), "TIFF")), colours) <= 3


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_open_bytes__grey_and_bilevel(format: str) -> None:
    grey = pattern().convert("L")
    assert difference(open_bytes(encode(grey, format)), grey.convert("RGB")) == 0
    bits = pattern().convert("1")
    assert difference(open_bytes(encode(bits, format)), bits.convert("RGB")) == 0


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.new("F", (3, 2), 0.5), "TIFF"),
        encode(Image.new("I", (3, 2), 70_000), "TIFF"),
        tiff("<", (3, 2), 16, GREY.tobytes(), kind=2),
    ],
)
def test_open_bytes__modes_without_a_full_range_are_rejected(data: bytes) -> None:
    assert reason(data) == "unsupported mode"


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_open_bytes__first_frame_only(format: str) -> None:
    first, second = Image.new("RGB", (16, 8), "lime"), Image.new("RGB", (16, 8), "red")
    data = encode(first, format, save_all=True, append_images=[second])
    assert difference(open_bytes(data), first) <= 2


def test_read_bytes__hands_out_the_content(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("deep/a")
    (tmp_path / "same").symlink_to(tmp_path)
    assert read_bytes(tmp_path / "link", tmp_path) == b"12345"
    assert read_bytes(tmp_path / "same" / "link", tmp_path / "same") == b"12345"
    assert read_bytes(tmp_path / "deep" / "a", limits=Limits(bytes=5)) == b"12345"


def test_read_bytes__rejects_what_is_no_file_in_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "outside.jpg").write_bytes(b"1")
    (tmp_path / "images2").mkdir()
    (tmp_path / "images2" / "a").write_bytes(b"1")
    (root / "file").write_bytes(b"123456")
    (root / "out").symlink_to("../outside.jpg")
    (root / "sibling").symlink_to("../images2/a")
    (root / "device").symlink_to("/dev/zero")
    (root / "broken").symlink_to("gone")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    expected = {
        "folder": "not a regular file",
        "fifo": "not a regular file",
        "socket": "not a regular file",
        "device": "outside the folder",
        "out": "outside the folder",
        "sibling": "outside the folder",
        "../outside.jpg": "outside the folder",
        "folder/../../outside.jpg": "outside the folder",
        "gone": "missing",
        "broken": "missing",
        "file/below": "missing",
        "loop": "unreadable",
        "nul\0byte": "unreadable",
        "x" * 300: "unreadable",
        "file": "too many bytes",
    }
    for name, why in expected.items():
        with pytest.raises(ImageError) as caught:
            read_bytes(root / name, root, Limits(bytes=5))
        assert (name, caught.value.reason) == (name, why)
    with pytest.raises(ImageError, match="not a regular file"):
        read_bytes(Path("/dev/zero"))


def test_read_bytes__a_file_that_becomes_a_fifo_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr("stat.S_ISREG", lambda mode: True)
    assert read_bytes(tmp_path / "a", tmp_path) == b""


def test_read_bytes__never_reads_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**42)
    with pytest.raises(ImageError, match="too many bytes: more than 1000"):
        read_bytes(tmp_path / "huge", tmp_path, Limits(bytes=1000))


def test_read_bytes__forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a").write_bytes(b"1")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageError, match="unreadable: PermissionError"):
        read_bytes(tmp_path / "a", tmp_path)


def test_open_bytes__leaves_warnings_as_they_were() -> None:
    before = list(warnings.filters)
    assert reason(bomb(10_000, 10_000)) == "too many pixels"
    assert open_bytes(WHOLE["png"]).size == pattern().size
    assert warnings.filters == before


def test_open_bytes__one_thread_decodes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warning filters belong to the process: two threads would restore each other's."""
    inside: list[int] = []
    most = []
    real = Image.open

    def counting(*arguments, **options):
        inside.append(1)
        most.append(len(inside))
        for _ in range(200):
            image = real(*arguments, **options)
        inside.pop()
        return image

    monkeypatch.setattr(Image, "open", counting)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            images = list(threads.map(open_bytes, [WHOLE["png"]] * 12))
    finally:
        sys.setswitchinterval(interval)
    assert max(most) == 1
    assert all(difference(image, pattern()) == 0 for image in images)


def assert_harmless(data: bytes) -> None:
    """An RGB image or a ImageError of one line, nothing else."""
    try:
        image = open_bytes(data, Limits(pixels=100_000))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert (image.mode, image.info) == ("RGB", {})
        assert 0 < image.width * image.height <= 100_000


SMALL = {
    name: encode(pattern(5, 3, 2), format, **options)
    for name, format, options in [
        ("jpeg", "JPEG", {"exif": rotated()}),
        ("progressive", "JPEG", {"progressive": True}),
        ("png", "PNG", {}),
        ("gif", "GIF", {}),
        ("bmp", "BMP", {}),
        ("tiff", "TIFF", {}),
        ("lzw", "TIFF", {"compression": "tiff_lzw"}),
        ("deflate", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("webp", "WEBP", {}),
    ]
}
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", SMALL)
@given(draw=st.data())
@FUZZ
def test_open_bytes__flipped_bytes(name: str, draw: st.DataObject) -> None:
    data = bytearray(SMALL[name])
    early = st.integers(0, min(len(data), 200) - 1)
    places = draw.draw(st.lists(st.integers(0, len(data) - 1) | early, min_size=1, max_size=6))
    for place in places:
        data[place] = draw.draw(st.integers(0, 255))
    assert_harmless(bytes(data))


@pytest.mark.parametrize("name", SMALL)
@given(tail=st.binary(max_size=200))
@FUZZ
def test_open_bytes__a_good_beginning_and_nonsense(name: str, tail: bytes) -> None:
    assert_harmless(SMALL[name][:16] + tail)
    assert_harmless(SMALL[name][: len(SMALL[name]) // 2] + tail)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_open_bytes__heic_and_avif(format: str) -> None:
    if format not in readable_formats():
        pytest.skip(f"no decoder of {format} is installed")
    full_colour = {"chroma": 444} if format == "HEIF" else {"subsampling": "4:4:4"}
    data = encode(pattern(), format, quality=100, **full_colour)
    image = open_bytes(data)
    assert image.mode == "RGB"
    assert difference(image, pattern()) <= LOSS
    assert reason(data[: len(data) // 2]) in ("truncated or damaged", "not an image")
    assert reason(data, Limits(pixels=14 * 10 * 36 - 1)) == "too many pixels"
    stored = pattern().transpose(Image.Transpose.ROTATE_90)
    stored.info["exif"] = rotated().tobytes()
    turned = encode(stored, format, quality=100, exif=stored.info["exif"], **full_colour)
    assert difference(open_bytes(turned), pattern()) <= LOSS


def test_open_bytes__heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyclass.data.image.readable_formats", lambda: FORMATS)
    data = struct.pack(">I", 24) + b"ftypheic" + b"\0" * 90
    with pytest.raises(ImageError, match=r"not an image: it is HEIC: pip install 'anyclass\[heif"):
        open_bytes(data)


def test_open_bytes__an_odd_exif_value_does_not_reject_a_rotated_photo() -> None:
    stored = pattern().transpose(Image.Transpose.ROTATE_90)
    data = bytearray(encode(stored, "JPEG", exif=rotated(), quality=95, subsampling=0))
    place = data.index(struct.pack(">HH", 0x011A, 5))  # a rational number ...
    data[place + 2 : place + 4] = struct.pack(">H", 7)  # ... becomes bytes, which nobody can write
    assert difference(open_bytes(bytes(data)), pattern()) <= LOSS


def test_open_bytes__a_large_scan_is_told_in_megapixels() -> None:
    for side, words in ((10_392, "10392 x 10392, 108 million; at most 80"), (20_000, "more than")):
        with pytest.raises(ImageError) as caught:
            open_bytes(bomb(side, side))
        assert words in caught.value.detail
        assert "DOS" not in caught.value.detail


@pytest.mark.parametrize(("brightest", "full"), [(200, 255), (900, 1023), (4000, 4095)])
def test_open_bytes__fewer_bits_in_a_16_bit_file_are_not_dark(brightest: int, full: int) -> None:
    grey = np.array([[0, brightest // 2, brightest]], np.uint16)
    pixels = np.asarray(open_bytes(encode(Image.fromarray(grey), "PNG")))[0, :, 0]
    assert pixels.tolist() == [round(255 * int(value) / full) for value in grey[0]]


def repeated_scans(count: int, size: tuple[int, int] = (640, 480)) -> bytes:
    """A progressive JPEG whose last scan is there `count` times more."""
    data = encode(Image.new("RGB", size, (90, 120, 30)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + b"\xff\xd9"


def test_open_bytes__a_jpeg_of_many_scans_is_rejected_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = scans(WHOLE["progressive"])
    assert 2 < usual < 20
    assert scans(WHOLE["jpeg"]) == 1
    assert open_bytes(repeated_scans(MOST_SCANS - usual)).size == (640, 480)
    monkeypatch.setattr(JpegImageFile, "load", lambda image: pytest.fail("decoded"))
    assert reason(repeated_scans(MOST_SCANS - usual + 1)) == "too many scans"
    assert reason(repeated_scans(10_000)) == "too many scans"
    turned = repeated_scans(500).replace(b"\xff\xda", b"\xff" * 9 + b"\xda")  # fill bytes
    assert reason(turned) == "too many scans"


def test_open_bytes__a_large_jpeg_may_have_fewer_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyclass.data.decode_limits.MOST_SCANNED", 640 * 480 * 20)
    usual = scans(WHOLE["progressive"])
    assert open_bytes(repeated_scans(20 - usual)).size == (640, 480)
    assert reason(repeated_scans(21 - usual)) == "too many scans"


def segment(marker: int, data: bytes = b"") -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


def with_parts(format: str, part: bytes, count: int, place: int) -> bytes:
    """An image with the same part many times at a place."""
    data = encode(Image.new("RGB", (32, 24), (200, 30, 40)), format)
    return data[:place] + part * count + data[place:]


EMPTY_CHUNK = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
PARTS = {
    "pieces of EXIF": ("JPEG", segment(0xE1, b"Exif\0\0" + b"x" * 9), 2),
    "empty segments": ("JPEG", segment(0xE2), 2),
    "bytes between segments": ("JPEG", b"\xff", 2),
    "segments behind the pixels": ("JPEG", segment(0xFE), -2),
    "comments": ("GIF", b"!\xfe\1x\0", 13 + 3 * 2),
    "chunks before the pixels": ("PNG", EMPTY_CHUNK, 33),
    "chunks behind the pixels": ("PNG", EMPTY_CHUNK, -12),
}
"""What Pillow handles in Python, some with all that came before: format, part, place."""


@pytest.mark.parametrize("name", PARTS)
def test_open_bytes__metadata_in_thousands_of_parts_is_rejected(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """2 MB took 2 CPU seconds, 4 MB 7; 8 MB of empty segments took 4 and 300 MB of memory."""
    format, part, place = PARTS[name]
    for limit in ("MOST_HEADER_READS", "MOST_READS"):
        monkeypatch.setattr(f"anyclass.data.decode_limits.{limit}", 1000)
    assert open_bytes(with_parts(format, part, 100, place)).size == (32, 24)
    many = with_parts(format, part, 1001, place)
    assert reason(many) == "too many parts"
    if place > 0:
        (tmp_path / "many").write_bytes(many)
        with pytest.raises(ImageError, match="too many parts"):
            longer_side(tmp_path / "many")


def test_open_bytes__long_pieces_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is copied together with all before it."""
    monkeypatch.setattr("anyclass.data.decode_limits.MOST_HEADER_READS", 1000)
    short, long = (segment(0xE1, b"Exif\0\0" + b"x" * size) for size in (10, 60_000))
    assert open_bytes(with_parts("JPEG", short, 100, 2)).size == (32, 24)
    assert reason(with_parts("JPEG", long, 100, 2)) == "too many parts"


def test_open_bytes__a_png_in_small_chunks_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 kB, as most programs write them, with its share of the reads for 128 MiB."""
    noise = np.random.default_rng(1).integers(0, 256, (200, 1200, 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in noise)
    packed = zlib.compress(rows, 0)
    reads = MOST_READS * len(packed) // Limits().bytes
    monkeypatch.setattr("anyclass.data.decode_limits.MOST_READS", reads)
    pieces = [(b"IDAT", packed[i : i + 8192]) for i in range(0, len(packed), 8192)]
    header = struct.pack(">IIBBBBB", 1200, 200, 8, 2, 0, 0, 0)
    data = png(header, b"", *pieces)
    place = data.index(zlib.compress(b"")) - 8
    assert np.array_equal(np.asarray(open_bytes(data[:place] + data[-12:])), noise)


def test_scans__counts_those_of_the_first_image_alone() -> None:
    """A photo with a thumbnail in its EXIF and a film behind its end is as good as any."""
    film = np.random.default_rng(2).integers(0, 256, 10**6, np.uint8).tobytes() + b"\xff\xda" * 999
    thumbnail = b"Exif\0\0" + b"\xff\xda" * 999
    data = encode(pattern(), "JPEG", quality=95, subsampling=0, exif=thumbnail) + film
    assert scans(data) == 1
    assert difference(open_bytes(data), pattern()) <= LOSS


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_open_bytes__many_flipped_bytes(name: str) -> None:
    """The quick test above draws 25 examples, this one 4000: flips, cuts, doubles, losses."""
    draw = np.random.default_rng(list(name.encode()))
    for _ in range(4000):
        data = bytearray(SMALL[name])
        for place in draw.integers(0, len(data), draw.integers(1, 9)):
            data[place] = draw.integers(0, 256)
        start, end = np.sort(draw.integers(0, len(data), 2))
        changed = bytes(data)
        match draw.integers(0, 4):
            case 0:
                changed = changed[:end]
            case 1:
                changed = changed[:start] + changed[end:]
            case 2:
                changed = changed[:end] + changed[start:]
        assert_harmless(changed)


@pytest.mark.parametrize("broken", [False, True])
def test_readable_formats__without_a_pillow_heif_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """It is not installed; or it is, and the library it wraps cannot be loaded."""
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    if broken:
        (tmp_path / "pillow_heif.py").write_text("raise ImportError('libheif.so.1: cannot open')")
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "HEIF" not in readable_formats.__wrapped__()
