"""`--on ray`: the same rows as without it, in a folder that is continued; workers in this process.

`test_on_ray.py` has the tests with Ray itself.
"""

import json
import os
import shlex
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from anyclass.bulk import Bulk, cluster
from anyclass.bulk.results import part_name
from anyclass.bulk.sources import read_source
from anyclass.bulk.storage import opened
from anyclass.captioning import CaptionFile, Endpoint, Vocabulary
from anyclass.cli import COMMANDS, main
from anyclass.commands import command_line
from anyclass.commands import help as help_of
from anyclass.commands.bulk import leaving
from anyclass.commands.bulk_jobs import DescribeJob
from anyclass.commands.describe import describe
from anyclass.commands.embed import embed
from anyclass.commands.predict import predict
from anyclass.data.feature_tables import read_features
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import lock
from tests.bulk.conftest import Elsewhere

FEW = Bulk(on="ray", part_size=5)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of all parts, in their order."""
    names = sorted(path for path in folder.glob("part-*.parquet"))
    return pa.concat_tables([parquet.read_table(name) for name in names]).to_pylist()


def check_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same rows, numbers within rounding; a part does not know the ranks among all images."""
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        assert row.pop("rank") is None
        for key, value in row.items():
            wanted = pytest.approx(other[key], abs=1e-5) if key in ("score", "margin") else None
            assert value == (other[key] if wanted is None else wanted), key


@pytest.fixture
def asked(fitted: Any) -> dict[str, Any]:
    return {"run": fitted.run, "engine": "torch", "device": "cpu"}


def test_predict__same_rows_as_in_one_process(
    asked: dict[str, Any],
    images: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    (images / "yellow kite" / "0.jpg").write_bytes(b"torn")
    plain = predict(**asked, images=images, out=tmp_path / "a.parquet")
    bulk = predict(**asked, images=images, out=tmp_path / "bulk", bulk=FEW)
    assert workers_here == [0, 1, 2]
    check_same(rows(tmp_path / "bulk"), parquet.read_table(tmp_path / "a.parquet").to_pylist())
    assert bulk == plain | {"out": str(tmp_path / "bulk")}
    assert plain["rejected"] == 1
    manifest = json.loads((tmp_path / "bulk" / "_manifest.json").read_text())
    assert manifest["result"] == {"rows": 14, "rejected": 1, "unsure": 0}


def test_predict__tables_and_archives(
    asked: dict[str, Any],
    images: Path,
    table: Path,
    archives: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    predict(**asked, images=images, out=tmp_path / "a.parquet")
    expected = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    out = tmp_path / "of archives"
    result = predict(**asked, images=archives, out=out, bulk=FEW)
    assert result["n"] == 14
    check_same(
        [row | {"file_name": ""} for row in rows(out)],
        [row | {"file_name": ""} for row in expected],
    )
    out = tmp_path / "of tables"
    result = predict(**asked, images=table, out=out, bulk=FEW)
    assert (result["n"], result["rejected"]) == (14, 1)
    *found, last = rows(out)
    check_same(found, expected[:-1])
    assert (last["status"], last["reason"]) == ("rejected", "missing: the cell is empty")
    assert last["file_name"] == expected[-1]["file_name"]


@pytest.mark.slow
def test_predict__processes_decode_beside_a_worker_with_several_cores(
    asked: dict[str, Any], images: Path, tmp_path: Path, workers_here: list[int]
) -> None:
    predict(**asked, images=images, out=tmp_path / "one", bulk=FEW)
    more = Bulk(on="ray", part_size=5, cpus=2)
    try:
        predict(**asked, images=images, out=tmp_path / "two", bulk=more)
    finally:
        torch.set_num_threads(1)
    check_same(rows(tmp_path / "one"), rows(tmp_path / "two"))


def test_predict__names_that_occur_twice_are_two_rows(
    asked: dict[str, Any],
    table: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    content = parquet.read_table(table / "a.parquet")
    content = content.set_column(0, "id", pa.array(["same"] * 9))
    parquet.write_table(content, table / "a.parquet")
    out = tmp_path / "bulk"
    predict(**asked, images=table / "a.parquet", out=out, bulk=FEW)
    assert [row["file_name"] for row in rows(out)] == ["same"] * 9
    assert len({row["score"] for row in rows(out)}) > 1


def test_predict__goes_on_with_the_missing_parts(
    asked: dict[str, Any],
    images: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    out = tmp_path / "bulk"
    first = predict(**asked, images=images, out=out, bulk=FEW)
    expected = rows(out)
    kept = (out / part_name(0)).stat().st_mtime_ns
    (out / part_name(1)).unlink()
    damaged = (out / part_name(2)).read_bytes()
    (out / part_name(2)).write_bytes(damaged[: len(damaged) // 2])
    workers_here.clear()
    assert predict(**asked, images=images, out=out, bulk=FEW) == first
    assert workers_here == [1, 2]
    assert rows(out) == expected
    assert (out / part_name(0)).stat().st_mtime_ns == kept
    workers_here.clear()
    assert predict(**asked, images=images, out=out, bulk=FEW) == first
    assert workers_here == []


def test_predict__a_part_of_another_request_does_not_count(
    asked: dict[str, Any],
    images: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    predict(**asked, images=images, out=tmp_path / "a", bulk=FEW)
    predict(**asked, images=images, out=tmp_path / "b", bulk=FEW, min_score=1.0)
    shutil.copy(tmp_path / "b" / part_name(1), tmp_path / "a" / part_name(1))
    workers_here.clear()
    predict(**asked, images=images, out=tmp_path / "a", bulk=FEW)
    assert workers_here == [1]


def test_predict__another_request_is_refused(
    asked: dict[str, Any],
    images: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    out = tmp_path / "bulk"
    predict(**asked, images=images, out=out, bulk=FEW)
    (out / "mine.txt").write_text("mine")
    before = rows(out)
    with pytest.raises(RequestError, match=r"min-score was 0.0, now 0.5"):
        predict(**asked, images=images, out=out, bulk=FEW, min_score=0.5)
    with pytest.raises(RequestError, match="part-size was 5, now 6"):
        predict(**asked, images=images, out=out, bulk=Bulk(on="ray", part_size=6))
    (images / "red square" / "0.jpg").unlink()
    with pytest.raises(RequestError, match="the files of the images have changed"):
        predict(**asked, images=images, out=out, bulk=FEW)
    assert rows(out) == before
    result = predict(**asked, images=images, out=out, bulk=FEW, overwrite=True)
    assert result["n"] == 13
    assert (out / "mine.txt").read_text() == "mine"


def test_predict__is_refused_before_anything_is_computed(
    asked: dict[str, Any],
    images: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    with pytest.raises(RequestError, match="a folder of Parquet files"):
        predict(**asked, images=images, bulk=FEW)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="is no result of this command"):
        predict(**asked, images=images, out=foreign, bulk=FEW)
    (foreign / "_manifest.json").write_text("{}")
    with pytest.raises(AnyclassError, match=r"_manifest\.json is damaged"):
        predict(**asked, images=images, out=foreign, bulk=FEW, overwrite=True)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(RequestError, match="is a file"):
        predict(**asked, images=images, out=file, bulk=FEW)
    with pytest.raises(RequestError, match="from a folder or an address"):
        predict(**asked, images=[b"x"], out=tmp_path / "bulk", bulk=FEW)
    with pytest.raises(RequestError, match="contains no run"):
        predict(tmp_path, images, tmp_path / "bulk", bulk=FEW)
    assert workers_here == []
    assert not (tmp_path / "bulk").exists()


def test_predict__too_many_torn_images(
    asked: dict[str, Any],
    images: Path,
    tmp_path: Path,
    workers_here: list[int],
) -> None:
    for path in (images / "blue disc").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(AnyclassError, match="3 of 14 images could not be read"):
        predict(**asked, images=images, out=tmp_path / "bulk", bulk=FEW)
    assert len(rows(tmp_path / "bulk")) == 14


def test_predict__an_address_survives_the_command_line(
    asked: dict[str, Any],
    images: Path,
    tmp_path: Path,
    elsewhere: Elsewhere,
    workers_here: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = "memory://labels of/bulk"
    place = elsewhere(images)
    words = ["predict", "--run", str(asked["run"]), "--images", place, "--out", out]
    words += ["--engine", "torch", "--device", "cpu", "--on", "ray", "--part-size", "9"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == out
    assert workers_here == [0, 1]
    filesystem, root = opened(out)
    with filesystem.open_input_file(f"{root}/{part_name(1)}") as file:
        assert parquet.read_table(file).num_rows == 5
    assert not (tmp_path / "bulk").exists()
    assert main([*words, "--workers", "0"]) == 2
    assert main([word.replace(place, str(tmp_path / "gone")) for word in words]) == 2
    assert "does not exist" in capsys.readouterr().err


def vectors(folder: Path) -> Any:
    """Names, features and further features of all readable images."""
    found = [row for row in rows(folder) if row["status"] == "ok"]
    features = np.array([row["features"] for row in found])
    return [row["file_name"] for row in found], features, [row.get("extra") for row in found]


@pytest.mark.parametrize("half", [False, True])
def test_embed__same_features_as_in_one_process(
    tiny_clip: Any, images: Path, tmp_path: Path, workers_here: list[int], half: bool
) -> None:
    (images / "yellow kite" / "0.jpg").write_bytes(b"torn")
    asked = {"model": tiny_clip(), "engine": "torch", "device": "cpu", "half": half}
    asked |= {"images": images, "extra": True}
    plain = embed(**asked, out=tmp_path / "a.npz")
    out = tmp_path / "bulk"
    bulk = embed(**asked, out=out, bulk=Bulk(on="ray", part_size=1))
    assert len(workers_here) == 14, "one part is the torn image alone"
    assert bulk == plain | {"n": 14, "files": [str(out)]}
    names, x, extra = vectors(out)
    expected = np.load(tmp_path / "a.npz")
    assert names == expected["names"].tolist()
    assert x == pytest.approx(expected["x"], abs=1e-3 if half else 1e-6)
    assert np.array(extra) == pytest.approx(expected["extra"], abs=2e-3 if half else 1e-5)
    (torn,) = [row for row in rows(out) if row["status"] == "rejected"]
    assert torn["file_name"] == "yellow kite/0.jpg"
    assert torn["reason"].startswith("not an image")
    assert torn["features"] is torn["extra"] is None

    table = read_features(out)
    assert list(table.names) == names
    assert np.asarray(table.x) == pytest.approx(x)
    (out / "_manifest.json").write_text('{"request": {}, "result": null}')
    with pytest.raises(RequestError, match="parts are missing"):
        read_features(out)


def test_embed__parts_of_other_weights_are_not_kept(
    tiny_clip: Any, images: Path, tmp_path: Path, workers_here: list[int]
) -> None:
    folder = Path(shutil.copytree(tiny_clip().removeprefix("local-dir:"), tmp_path / "model"))
    asked = {"model": f"local-dir:{folder}", "engine": "torch", "device": "cpu", "images": images}
    asked |= {"out": tmp_path / "bulk", "bulk": FEW}
    embed(**asked)
    computed = len(workers_here)
    embed(**asked)
    assert len(workers_here) == computed
    os.utime(folder / "open_clip_model.safetensors", ns=(1, 1))
    with pytest.raises(RequestError, match="the files of the model have changed"):
        embed(**asked)


def test_embed__parts_of_another_decoding_are_not_kept(
    tiny_clip: Any, tmp_path: Path, workers_here: list[int]
) -> None:
    (tmp_path / "photographs").mkdir()
    small = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    Image.fromarray(small).resize((400, 300)).save(tmp_path / "photographs" / "a.jpg")
    asked = {"images": tmp_path / "photographs", "model": tiny_clip(), "engine": "torch"}
    asked |= {"device": "cpu", "decoding": "reduced"}
    embed(**asked, out=tmp_path / "a.npz")
    embed(**asked, out=tmp_path / "bulk", bulk=FEW)
    reduced = np.load(tmp_path / "a.npz")["x"]
    assert vectors(tmp_path / "bulk")[1] == pytest.approx(reduced, abs=1e-6)
    embed(**asked | {"decoding": "full"}, out=tmp_path / "full", bulk=FEW)
    assert vectors(tmp_path / "full")[1] != pytest.approx(reduced, abs=1e-4)
    with pytest.raises(RequestError, match="decoding"):
        embed(**asked | {"decoding": "full"}, out=tmp_path / "bulk", bulk=FEW)


def test_embed__refuses_what_parts_do_not_hold(images: Path, tmp_path: Path) -> None:
    for more in ({"classes": ("a", "b")}, {"labels": "folders"}):
        with pytest.raises(RequestError, match="features of images alone"):
            embed(images, out=tmp_path / "bulk", bulk=FEW, **more)
    with pytest.raises(RequestError, match="contains|without part"):
        read_features(tmp_path)


def test_describe__same_texts_as_in_one_process(
    server: Any,
    tiny_clip: Any,
    images: Path,
    tmp_path: Path,
    workers_here: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (images / "yellow kite" / "0.jpg").write_bytes(b"torn")
    asked = {"model": tiny_clip(), "engine": "torch", "device": "cpu", "images": images}
    asked |= {"captioner": Endpoint(url=server.url, model="m"), "domain": "sign"}
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "one"))
    plain = describe(**asked, out=tmp_path / "a.jsonl")
    expected = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "two"))
    out = tmp_path / "bulk"
    bulk = describe(**asked, out=out, bulk=FEW)
    assert bulk == plain | {"out": str(out)}
    found = rows(out)
    assert [row["file_name"] for row in found if row["status"] == "rejected"] == [
        "yellow kite/0.jpg"
    ]
    keys = ("file_name", "text", "captioner", "model", "question")
    assert [{key: row[key] for key in keys} for row in found if row["status"] == "ok"] == expected

    asked_before = len(server.questions)
    (out / part_name(1)).unlink()
    asked["captioner"] = Endpoint(url=server.url, model="m", concurrency=1)
    describe(**asked, out=out, bulk=FEW)
    assert rows(out) == found
    assert len(server.questions) == asked_before, "answers are never paid twice"
    asked["captioner"] = Endpoint(url=server.url, model="other")
    with pytest.raises(RequestError, match="captioner was"):
        describe(**asked, out=out, bulk=FEW)


def test_describe__says_what_leaves_before_it_does(
    tiny_clip: Any, images: Path, tmp_path: Path, workers_here: list[int], capsys: Any
) -> None:
    captioner = Endpoint(url="https://far.example/v1", model="m")
    with pytest.raises(RequestError, match="far.example"):
        describe(images, captioner, out=tmp_path / "a", bulk=FEW)
    assert workers_here == []
    far = replace(captioner, allow_remote="far.example")
    job = DescribeJob(far, "object", "", tiny_clip(), "cpu", False, "torch")
    (said,) = leaving(job, read_source(images, 5))
    assert said.startswith("sending up to 14 images to far.example, of about ")


@pytest.mark.parametrize("captioner", [Vocabulary(), CaptionFile(path="x")])
def test_describe__captioners_that_need_all_images(
    images: Path, tmp_path: Path, captioner: Any
) -> None:
    with pytest.raises(RequestError, match="needs all images of the folder at once"):
        describe(images, captioner, out=tmp_path / "bulk", bulk=FEW)


def test_predict__an_archive_without_images(
    asked: dict[str, Any], archives: Path, tmp_path: Path, workers_here: list[int]
) -> None:
    with tarfile.open(archives / "0.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("readme.txt"))
    out = tmp_path / "bulk"
    assert predict(**asked, images=archives, out=out, bulk=FEW)["n"] == 6
    assert parquet.read_table(out / part_name(0)).num_rows == 0
    assert parquet.read_table(out).num_rows == 6


def test_guide__has_options_that_exist() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "many_machines.md"
    lines = [line for line in guide.read_text("utf-8").splitlines() if line.startswith("anyclass ")]
    assert len(lines) == 5
    for words in map(shlex.split, lines):
        line = command_line.parse_words(words[1:], tuple(COMMANDS), help_of.methods())
        known = help_of.page(line)
        assert known is not None
        help_of.check_flags(line, known)


def test_predict__is_refused_while_another_process_writes_there(
    asked: dict[str, Any], images: Path, tmp_path: Path, workers_here: list[int]
) -> None:
    with lock(tmp_path / "bulk"), pytest.raises(RequestError, match="is in use by process"):
        predict(**asked, images=images, out=tmp_path / "bulk", bulk=FEW)
    assert workers_here == []


def test_predict__does_not_end_with_a_part_or_an_image_missing(
    asked: dict[str, Any],
    images: Path,
    table: Path,
    tmp_path: Path,
    workers_here: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = cluster.compute
    monkeypatch.setattr(cluster, "compute", lambda *given: list(real(*given))[1:])
    with pytest.raises(AnyclassError, match=r"1 of 3 parts are missing, the first of blue disc/0"):
        predict(**asked, images=images, out=tmp_path / "bulk", bulk=FEW)
    monkeypatch.setattr(cluster, "compute", real)
    monkeypatch.setattr("anyclass.bulk.tables._cells", lambda batch, columns: iter([]))
    with pytest.raises(AnyclassError, match="0 rows for 14 images"):
        predict(**asked, images=table, out=tmp_path / "of tables", bulk=FEW)
    for name in ("bulk", "of tables"):
        text = (tmp_path / name / "_manifest.json").read_text()
        assert json.loads(text)["result"] is None
