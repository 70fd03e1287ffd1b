"""What cannot be read is an item of its own; what is wrong with the storage is not."""

import io
import tarfile
from pathlib import Path

import pytest

from anyclass.bulk import archives as archives_of
from anyclass.bulk import storage
from anyclass.bulk.chunks import chunks
from anyclass.bulk.sources import read_source
from anyclass.data.image import Limits
from anyclass.errors import ImageError
from tests.bulk.conftest import Elsewhere


def test_chunks__are_small(
    images: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyclass.bulk.chunks.CHUNK", 5)
    source = read_source(f"file://{images}", 14)
    # `file://` is this machine: one data set of files, which a loader reads as it goes
    assert [len(chunk.names) for chunk in chunks(source, source.parts[0])] == [14]
    source = read_source(elsewhere(images), 14)
    found = list(chunks(source, source.parts[0]))
    assert [len(chunk.names) for chunk in found] == [5, 5, 4]
    assert found[2].dataset.files == ("0", "1", "2", "3")


def test_chunks__gone_since_the_listing(images: Path, elsewhere: Elsewhere) -> None:
    source = read_source(elsewhere(images), 14)
    filesystem, root = storage.opened(source.place)
    filesystem.delete_file(f"{root}/{source.parts[0].files[3]}")
    (chunk,) = chunks(source, source.parts[0])
    chunk.dataset.open(2)
    with pytest.raises(ImageError, match="missing"):
        chunk.dataset.open(3)


def test_chunks__storage_that_fails_is_no_image(
    images: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_source(elsewhere(images), 14)

    class Away:
        def open_input_stream(self, *_: object, **__: object) -> None:
            raise OSError("network is unreachable")

    monkeypatch.setattr(storage, "opened", lambda place: (Away(), "x"))
    with pytest.raises(OSError, match="network"):
        list(chunks(source, source.parts[0]))


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_items__only_images_and_not_too_large() -> None:
    members = {"a.jpg": b"1" * 9, "a.cls": b"3", "._b.jpg": b"2", "c/d.PNG": b"3" * 10}
    found = list(archives_of.items(io.BytesIO(archive(members)), "x.tar", Limits(bytes=9)))
    assert found[0] == ("x.tar/a.jpg", b"1" * 9)
    assert found[1][0] == "x.tar/c/d.PNG"
    assert isinstance(found[1][1], ImageError)
    assert found[1][1].reason == "too many bytes"
    assert len(found) == 2


@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_items__a_truncated_archive_keeps_its_beginning(keep: float) -> None:
    data = archive({f"{i}.jpg": bytes([i]) * 5000 for i in range(10)})
    found = list(archives_of.items(io.BytesIO(data[: int(len(data) * keep)]), "x.tar"))
    name, error = found[-1]
    assert name == "x.tar"
    assert isinstance(error, ImageError)
    assert error.reason == "truncated or damaged"
    assert 1 < len(found) < 10
    assert [content for _, content in found[:-1]] == [
        bytes([i]) * 5000 for i in range(len(found) - 1)
    ]


def test_items__links_out_of_an_archive_are_not_followed() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        info = tarfile.TarInfo("a.jpg")
        info.type = tarfile.SYMTYPE
        info.linkname = "/etc/passwd"
        file.addfile(info)
    assert list(archives_of.items(io.BytesIO(stream.getvalue()), "x.tar")) == []


def test_items__no_archive() -> None:
    ((name, error),) = archives_of.items(io.BytesIO(b"no archive" * 200), "x.tar")
    assert name == "x.tar"
    assert isinstance(error, ImageError)
