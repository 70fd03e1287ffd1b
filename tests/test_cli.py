"""The command: results on standard output, all else on standard error, one or two lines to err."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from anyclass.cli import COMMANDS, main
from anyclass.commands.command_line import CommandLine, check_early
from anyclass.commands.fit import fit
from anyclass.commands.help import PAGES
from anyclass.commands.help_pages import render
from anyclass.files import check_manifest
from anyclass.methods import METHODS

ANYCLASS = Path(sys.executable).with_name("anyclass")
Screen = pytest.CaptureFixture[str]
OF_A_RUN = ("predict", "evaluate", "rename", "report", "serve", "export")


@pytest.fixture
def place(
    tmp_path: Path, images: Path, names: Path, fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder: `images`, `names.txt`, and some things to stumble over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anyclass.commands.emoji.IMAGES", {"car": "🚗"})
    Path("one.txt").write_text("cat\n")
    Path("other.txt").write_text("cat\ndog\n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    Path("stranger.csv").write_text("file_name,label\nred square/0.jpg,cat\n")
    Path("columns.csv").write_text("x,y\n1,2\n")
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("empty").mkdir()
    Path("run").symlink_to(fitted.run)
    return tmp_path


def request(fitted: Any) -> list[str]:
    given = ["--images", "images", "--classes", "names.txt", "--model", fitted.model]
    return [*given, "--device", "cpu", "--engine", "torch"]


def test_help__is_the_page_of_all_commands(capsys: Screen) -> None:
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert main(argv) == 0
        page = capsys.readouterr()
        assert page.err == ""
        assert all(f"  anyclass {command} " in page.out for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plan --help", "usage: anyclass plan METHOD --images PATH"),
        ("fit --help", "  open-world  "),
        ("plan auto --help", "--images PATH"),
        ("fit auto --help", "--overwrite"),
        ("fit latteclip --help", "--alpha FLOAT"),
        ("fit zero-shot --help", "--ensemble"),
        ("fit latteclip --help", "--captioner.most INT"),
        ("fit latteclip --captioner endpoint --help", "--captioner.url TEXT"),
        ("fit latteclip --captioner endpoint --help", "--allow-remote HOST"),
        ("fit --captioner=batch latteclip --help", "--captioner.folder DIR"),
        ("plan latteclip --help --captioner transformers", "--captioner.four-bit"),
        ("describe --help", "--captioner NAME        One of vocabulary, endpoint"),
        ("describe --captioner batch --help", "--captioner.folder DIR"),
        ("predict --help", "--max-rejected FLOAT"),
        ("evaluate --help", "--labels folders|FILE"),
        ("rename --help", "--accept"),
        ("rename --help", "--captioner NAME"),
        ("rename --captioner endpoint --help", "--captioner.url TEXT"),
        ("fit ship --then gda --help", "--then.neighbours INT"),
        ("report --help", "--run PATH"),
        ("demo --help", "--seed INT"),
        ("models --help", "--contains TEXT"),
    ],
)
def test_help__of_each_command(capsys: Screen, line: str, text: str) -> None:
    assert main(line.split()) == 0
    page = capsys.readouterr()
    assert text in page.out
    assert page.err == ""
    for word in ("Raises", "Returns", "callback", "kind {", "subcommand"):
        assert word not in page.out


MISTAKES = {
    "fly": "no command is called 'fly': use plan, fit",
    "predcit --run run": "no command is called 'predcit': did you mean predict?",
    "fit latteclip-plus": "latteclip-plus was replaced by open-world: use `anyclass fit open-w",
    "fit ship_plus {request}": "ship_plus was replaced by open-world",
    "plan get-plus {request}": "get-plus was replaced by open-world",
    "fit clip_adapter": "no method is called 'clip_adapter': did you mean clip-adapter?",
    "fit autoo": "no method is called 'autoo': did you mean auto?",
    "fit auto --imges images": "no option is called --imges: did you mean --images?",
    "predict --captioner batch": "no option is called --captioner: `anyclass predict --help`",
    "fit": "which method? anyclass fit METHOD --images DIR",
    "fit nothing {request}": "METHOD is one of auto, open-world, latteclip, reclip, flyp",
    "fit --images images auto": "which method?",
    "fit images --classes names.txt": "write --images images, behind the method; METHOD is one",
    "plan auto --images nowhere": "nowhere does not exist. Give the folder",
    "plan auto --images names.txt": "is a file, not a folder",
    "plan auto --images empty --labels folders": "there is no image in",
    "plan auto --images images": "--classes FILE, one per line",
    "plan autoo --images images": "no method is called 'autoo': did you mean auto?",
    "plan latteclip_pls --images images": "did you mean latteclip?",
    "plan auto --images images --lables folders": "did you mean --labels?",
    "plan auto --images images --classes gone.txt": "or the names: --classes daisy,rose,tulip",
    "plan auto --images images --classes bytes.txt": "is not a list of class names",
    "plan auto --images images --classes empty": "cannot be read",
    "plan auto --images images --classes other.txt --labels folders": "these labels are not in",
    "plan auto --images images --labels gone.csv": "gone.csv cannot be read",
    "plan auto --images images --labels folder": "folder cannot be read: it does not exist",
    "plan auto --images images --labels columns.csv": "no column 'file_name', see --file-column",
    "plan auto {request} --labels stranger.csv": "not in the list of classes: 'cat'",
    "plan flyp {request} --unknown 2": "flyp needs a name for every class, so it cannot be used",
    "plan auto {request} --unknown -2": "--unknown: input should be greater",
    "plan auto {request} --seed -1": "--seed: input should be greater",
    "plan auto {request} --max-rejected 2": "--max-rejected: input should be less",
    "plan auto {request} --device tpu": "--device tpu cannot be used here",
    "plan latteclip {request} --alpha 3": "--alpha: input should be less than or equal to 1",
    "fit latteclip {request} --captioner.most -1": "--captioner.most: input should be greater",
    "fit latteclip {request} --captioner gpt": "no captioner is called 'gpt': use vocabulary, end",
    "fit latteclip {request} --captioner": "no captioner is called ''",
    "fit latteclip {request} --captioner=": "no captioner is called ''",
    "fit auto {request} --captioner endpoint": "name: anyclass fit latteclip --captioner endpoint",
    "plan {request} --captioner=batch": "auto chooses by itself; --captioner belongs to a method",
    "fit zero-shot {request} --captioner endpoint": "zero-shot has no captioner",
    "plan latteclip {request} --captioner endpoint --captioner.url https://a.example/v1": (
        "--allow-remote a.example"
    ),
    "plan latteclip {request} --captioner endpoint --captioner.size 0": "--captioner.size: input",
    "describe --images nowhere": "nowhere does not exist",
    "describe --images images --out texts.csv": "the file name must end in .jsonl",
    "describe --images images --captioner gpt": "no captioner is called 'gpt'",
    "describe --images images --model unheard": "no model is called 'unheard'",
    "fit latteclip {request} --out new --tune head --classes one.txt": "two or more",
    "fit zero-shot {request} --out new --template {{c.__class__}}": "mark the place of the class",
    "fit auto {request} --out new --model unheard": "no model is called 'unheard'",
    "fit auto {request} --out new --model local-dir:mine": "mine holds no open_clip_config.json",
    "fit auto {request} --out mine": "mine contains other files (notes.txt ...)",
    "fit auto {request} --out mine --overwrite": "mine contains other files (notes.txt ...)",
    "fit auto {request} --out names.txt": "names.txt is a file; give a folder",
    "fit auto {request} --out run": "run belongs to another request: ",
    "predict --run mine --images images": "mine contains no run: `anyclass fit auto",
    "predict --run run --images empty": "there is no image in",
    "predict --run run --images images --out labels.txt": "must end in .csv or .parquet",
    "predict --run run --images images --out other.txt/a.csv": "no file can be written there",
    "predict --run run --images images --out stranger.csv": "exists already: choose another",
    "evaluate --run mine --images images": "mine contains no run",
    "evaluate --run run --images images --labels stranger.csv": "not in the list of classes",
    "rename --run mine": "mine contains no run",
    "rename --run run": "run has no discovered classes",
    "plan kmeans --images images --unknown 2 --names gone.txt": "gone.txt cannot be read",
    "report --run mine": "mine contains no run",
    "models --contains zzz": "no model has 'zzz' in its name",
    "demo --out mine": "mine contains other files",
    "demo --out run": "run belongs to another request",
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit auto --images nowhere", "nowhere does not exist. Give the folder with the images."),
        ("fit auto --images=names.txt", "names.txt is a file, not a folder."),
        ("fit auto --images images --labels gone.csv", "gone.csv cannot be read: it does not"),
        ("fit auto --classes=gone.txt --images images", "gone.txt cannot be read: No such file"),
        ("fit auto --images images --classes daisy", "or the names: --classes daisy,rose,tulip"),
        ("fit auto --images images --out new", "there is no information about the classes"),
        ("plan --images images", "there is no information about the classes"),
        ("fit auto images --classes a,b", "'images' follows no option: write --images images"),
        ("predict run --images images", "'run' follows no option: write --run run"),
        ("embed a.jpg", "'a.jpg' follows no option: `anyclass embed --help` shows all"),
        ("fit auto --from mine --labels mine.csv", "mine contains no run"),
        *((f"{command} --run mine", "mine contains no run") for command in OF_A_RUN),
    ],
)
def test_requests_that_cannot_work__are_refused_before_pytorch_is_loaded(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    line = words.split()
    monkeypatch.setitem(COMMANDS, line[0], lambda _: pytest.fail("it was run"))
    assert main(line) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit auto --classes a,b", "embed", "describe"])
def test_a_user_without_a_cache_folder__is_told_before_pytorch_is_loaded(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    line = command.split()
    monkeypatch.setitem(COMMANDS, line[0], lambda _: pytest.fail("it was run"))
    for name in ("ANYCLASS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("no home")))
    assert main([*line, "--images", "images"]) == 2
    assert "set ANYCLASS_CACHE to a folder that can be written to" in capsys.readouterr().err


def test_no_command_that_reads_a_run__loads_pytorch_to_say_that_there_is_none(place: Path) -> None:
    code = "import sys; from anyclass.cli import main; code = main(sys.argv[1:]); "
    code += "print(code, sorted({'torch', 'open_clip', 'sklearn'} & set(sys.modules)))"
    words = [sys.executable, "-c", code, "evaluate", "--run", "mine", "--images", "images"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True)
    assert shown.stdout == "2 []\n"
    assert shown.stderr.startswith("anyclass: mine contains no run: `anyclass fit auto")


@pytest.mark.parametrize(
    "flags",
    [
        "--images images --labels folders --classes names.txt",
        "--images images --labels stranger.csv --classes red,green",
        "--images=images --classes red green --out new",
        "--from run --features new.npz",
    ],
)
def test_check_early__lets_through_what_is_there(place: Path, flags: str) -> None:
    check_early(CommandLine("fit", "auto", {}, flags.split()))


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes__one_or_two_lines_and_exit_code_2(
    place: Path, fitted: Any, capsys: Screen, line: str
) -> None:
    argv = line.replace("{{", "{").replace("}}", "}").split()
    if "{request}" in argv:
        at = argv.index("{request}")
        argv[at : at + 1] = request(fitted)
    before = {p: p.stat().st_mtime_ns for p in place.iterdir() if not p.is_symlink()}
    assert main([*argv, "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err[said.err.index("anyclass: ") :]
    assert MISTAKES[line] in last
    assert last.count("\n") <= 2
    assert "Traceback" not in said.err
    assert "pydantic" not in said.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert list(Path("mine").iterdir()) == [Path("mine/notes.txt")]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("predict", "--run"),
        ("fit auto --imges images", "--imges"),
        ("fit auto --images", "--images"),
        ("fit auto --images images --classes a,b --seed many", "--seed"),
        (
            "fit auto --images images --classes a,b --seed many",
            "--seed: give a whole number, not 'many'. ",
        ),
        (
            "fit auto --images images --classes a,b --unknown few",
            "give a whole number or auto, not 'few'. ",
        ),
        (
            "fit reclip --images images --classes a,b --epochs 1.5",
            "--epochs: give a whole number, not '1.5'. ",
        ),
        (
            "fit auto --images images --classes a,b --max-rejected 9%",
            "--max-rejected: give a number, not '9%'. ",
        ),
        ("fit auto --images images --classes a,b --engine fast", "'fast'"),
        (
            "fit auto --images images --classes a,b --engine onxx",
            "Did you mean onnx? `anyclass fit auto --help`",
        ),
        ("models --contain x", "--contain"),
        ("describe --images images --captioner batch", "--captioner.model"),
        ("describe --images images --captioner.url x", "--captioner.url"),
    ],
)
def test_usage__a_wrong_flag_is_named(place: Path, capsys: Screen, line: str, text: str) -> None:
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert text in said.err
    assert "--help" in said.err
    assert "│" not in said.err
    assert "---" not in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_plan__says_what_a_fit_would_do(place: Path, fitted: Any, capsys: Screen) -> None:
    assert main(["plan", *request(fitted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images     14, 0 labelled"
    assert lines[1].startswith("classes    4: red square (named), blue disc (named)")
    assert lines[2] == "method     open-world"
    assert "time       not known" in lines
    assert lines[-2] == "questions  none to a language model"
    assert lines[-1].startswith("audit      nothing found in names, labels and files")
    assert sorted(Path().iterdir()) == sorted(place.relative_to(place).iterdir())
    flags = ["--tune", "head", "--views", "3", "--out", "never"]
    assert main(["plan", "latteclip", *request(fitted), *flags, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["method"], said["embeddings"]) == ("latteclip", 14 * 4)
    assert not Path("never").exists()


@pytest.mark.parametrize(
    "line",
    [
        "--captioner endpoint latteclip {request} --captioner.url {url} --groups 1",
        "latteclip --groups 1 --captioner.url {url} {request} --captioner=endpoint",
        "latteclip {request} --captioner endpoint --groups 1 --captioner.url={url}",
    ],
)
def test_plan__a_describer_anywhere_on_the_line(
    place: Path, fitted: Any, capsys: Screen, line: str
) -> None:
    argv = line.replace("{url}", "http://127.0.0.1:9/v1").split()
    at = argv.index("{request}")
    argv[at : at + 1] = request(fitted)
    assert main(["plan", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-6:-1] == [
        "questions  at most 18 to a language model, without those already in the response cache",
        "tokens     about 10908 in, at most 1386 out",
        "asking     about 1 min",
        "sent       nothing leaves this machine",
        "price      not known",
    ]


def test_plan__what_leaves_the_machine(place: Path, fitted: Any, capsys: Screen) -> None:
    away = ["--captioner.url", "https://a.example/v1", "--allow-remote", "a.example"]
    prices = ["--captioner.price-in", "10", "--captioner.price-out", "20"]
    argv = ["latteclip", *request(fitted), "--captioner", "endpoint", *away, *prices]
    assert main(["plan", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sent       about 4.2 MB to a.example" in lines
    assert lines[-2] == "price      about $0.21"
    batch = ["latteclip", *request(fitted), "--captioner", "batch", "--captioner.model", "m"]
    assert main(["plan", *batch]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "asking     not known" in lines
    assert "sent       about 4.2 MB to the service that you give the files in batch" in lines


def test_describe__people_see_where_the_texts_are(place: Path, fitted: Any, capsys: Screen) -> None:
    Path("images/yellow kite/1.png").write_bytes(b"torn")
    flags = ["--images", "images", "--model", fitted.model, "--device", "cpu"]
    flags += ["--engine", "torch", "--domain", "toy"]
    assert main(["describe", *flags, "--out", "texts.jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "14 images, 1 rejected"
    assert lines[1].startswith("blue disc/0.jpg: a")
    assert lines[-1] == "texts: texts.jsonl"
    assert Path("texts.jsonl").read_text().count("\n") == 13
    assert main(["describe", *flags, "--out", "texts.jsonl"]) == 2
    assert "texts.jsonl exists already" in capsys.readouterr().err


@pytest.mark.usefixtures("no_other_machine")
def test_describe__a_server_that_says_nothing(
    place: Path, fitted: Any, capsys: Screen, server: Any
) -> None:
    """It is not asked about every image, and later, when it answers, about each."""
    server.always = server.said(" \n")
    flags = ["--images", "images", "--model", fitted.model, "--device", "cpu", "--engine", "torch"]
    flags += ["--captioner", "endpoint", "--captioner.url", server.url]
    flags += ["--captioner.concurrency", "1"]
    assert main(["describe", *flags]) == 1
    said = capsys.readouterr()
    last = said.err[said.err.index("anyclass: ") :]
    assert last == (
        "anyclass: 12 consecutive questions had no answer; the last because it was empty (a model "
        "that thinks first needs a larger --captioner.max-tokens). No more questions are asked. "
        "The answers so far are kept: fix the cause and run the same command again.\n"
    )
    assert len(server.questions) == 12
    assert not Path("descriptions.jsonl").exists()
    server.always = None
    assert main(["describe", *flags]) == 0
    assert len(server.questions) == 12 + 14


def test_describe__answers_that_are_still_to_come(place: Path, fitted: Any, capsys: Screen) -> None:
    flags = ["--images", "images", "--model", fitted.model, "--device", "cpu"]
    flags += ["--engine", "torch", "--captioner", "batch", "--captioner.model", "m"]
    assert main(["describe", *flags]) == 2
    said = capsys.readouterr().err
    last = said[said.index("anyclass: ") :]
    assert last.startswith(
        "anyclass: 14 questions have no answer yet; they are in batch/requests-1"
    )
    assert last.count("\n") == 2
    rows = [json.loads(line) for line in Path("batch/requests-1.jsonl").read_text().splitlines()]
    body = {"choices": [{"message": {"content": "A toy."}}]}
    with Path("batch/answers.jsonl").open("w") as file:
        for row in rows:
            response = {"status_code": 200, "body": body}
            file.write(json.dumps({"custom_id": row["custom_id"], "response": response}) + "\n")
    assert main(["describe", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 14
    assert '"text": "A toy."' in Path("descriptions.jsonl").read_text()


@pytest.mark.usefixtures("no_other_machine")
def test_json__is_exactly_one_object(place: Path, fitted: Any, capsys: Screen) -> None:
    fit = ["--tune", "head", "--steps", "3", "--views", "1", "--labels", "folders"]
    lines = {
        "plan": ["auto", *request(fitted)],
        "fit": ["latteclip", *request(fitted), *fit, "--out", "new"],
        "predict": ["--run", "new", "--images", "images", "--out", "new.csv"],
        "evaluate": ["--run", "new", "--images", "images"],
        "describe": ["--images", "images", "--model", fitted.model, "--engine", "torch"],
        "report": ["--run", "new"],
        "models": ["--contains", "RN50"],
    }
    found = {}
    for command, argv in lines.items():
        assert main([command, "--json", *argv]) == 0
        said = capsys.readouterr()
        found[command] = json.loads(said.out)
        assert isinstance(found[command], dict)
        assert said.out.count("\n") == 1
    assert found["fit"] == json.loads(Path("new/metrics.json").read_text())
    assert found["predict"]["n"] == 14
    assert found["evaluate"]["accuracy"] == found["fit"]["adapted"]["accuracy"]
    assert found["report"] == {"report": "new/report.html"}
    assert "RN50/openai" in found["models"]["models"]


def test_fit__people_get_scores_and_the_next_step(place: Path, fitted: Any, capsys: Screen) -> None:
    given = [*request(fitted), "--out", "new"]
    assert main(["fit", "zero-shot", *given, "--labels", "folders"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    metrics = json.loads(Path("new/metrics.json").read_text())
    share = 100 * metrics["zero_shot"]["accuracy"]
    assert lines[0] == "14 images, 0 rejected"
    assert lines[1].startswith(f"zero-shot                  {share:4.1f} %   mean per class")
    assert lines[3].startswith("adapted ")
    assert lines[-1] == (
        "next      anyclass predict --run new --images NEW_IMAGES --out new_labels.csv"
    )
    assert main(["fit", "zero-shot", *given, "--overwrite"]) == 0
    assert "the accuracy is unknown" in capsys.readouterr().out


def test_predict_and_evaluate__for_people(place: Path, capsys: Screen) -> None:
    Path("images/yellow kite/1.png").write_bytes(b"torn")
    assert main(["predict", "--run", "run", "--images", "images", "--out", "new.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["      1  rejected", "table: new.csv"]
    assert sum(int(line.split()[0]) for line in lines[:-1]) == 14
    assert main(["evaluate", "--run", "run", "--images", "images"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(" %      13  all images, majority class")
    assert lines[-2].endswith(" %      13  all images, zero-shot")
    assert lines[-4].split() == ["1", "rejected"]


def test_report__is_written_again_and_the_manifest_stays_true(
    place: Path, fitted: Any, capsys: Screen
) -> None:
    from anyclass.files import check_manifest

    shutil.copytree(fitted.run, "copy")
    Path("copy/report.html").write_text("gone")
    assert main(["report", "--run", "copy"]) == 0
    assert capsys.readouterr().out == "copy/report.html\n"
    assert "red square" in Path("copy/report.html").read_text()
    assert check_manifest(Path("copy")) == []


def test_failures__exit_code_1(place: Path, fitted: Any, capsys: Screen) -> None:
    for path in Path("images").rglob("*.*"):
        path.write_bytes(b"torn")
    assert main(["fit", "auto", *request(fitted), "--out", "new"]) == 1
    assert capsys.readouterr().err.endswith(
        "anyclass: 14 of 14 images cannot be used, so there is nothing to learn from.\n"
        "The first is blue disc/0.jpg (not an image: none of JPEG, PNG, WEBP, BMP, TIFF, GIF, "
        "AVIF, HEIF): repair such files or leave them out\n"
    )


def test_failures__a_disk_that_says_no(
    place: Path, fitted: Any, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error", "the disk")

    monkeypatch.setattr("anyclass.commands.write_run.write_table", refuse)
    assert main(["fit", "zero-shot", *request(fitted), "--out", "new"]) == 1
    assert capsys.readouterr().err.endswith("anyclass: the disk: Input/output error\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_failures__memory_that_runs_out(
    capsys: Screen, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Outside of training and embedding, which say what to change or halve their batches."""
    monkeypatch.setitem(COMMANDS, "models", Mock(side_effect=error))
    assert main(["models"]) == 1
    assert capsys.readouterr().err == (
        "anyclass: there is not enough memory for models: end other programs, or give a smaller "
        "--model or fewer images\n"
    )
    monkeypatch.setitem(COMMANDS, "models", Mock(side_effect=RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["models"])


def test_command__warnings_of_libraries_are_not_for_its_user(
    capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(_: CommandLine) -> tuple[str, list[str]]:
        warnings.warn("sklearn: the number of distinct clusters is ...", RuntimeWarning, 2)
        return "done", ["done"]

    monkeypatch.setitem(COMMANDS, "models", warned)
    monkeypatch.setattr(sys, "argv", ["anyclass", "models"])
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings():
        assert main() == 0
    assert capsys.readouterr() == ("done\n", "")
    monkeypatch.setattr(sys, "warnoptions", ["error"])  # python -W error, as here
    with pytest.raises(RuntimeWarning, match="distinct clusters"):
        main()


def test_fit__says_first_that_adaptation_made_it_worse(
    place: Path, fitted: Any, capsys: Screen
) -> None:
    """The labels are those of zero-shot, and ReCLIP, which never reads them, is led astray."""
    with Path("run/predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["zero_shot_label"]]
    table = "".join(f"{row['file_name']},{row['zero_shot_label']}\n" for row in rows)
    Path("same.csv").write_text(f"file_name,label\n{table}")
    flags = [*request(fitted), "--labels", "same.csv", "--out", "new"]
    assert main(["fit", "reclip", *flags]) == 0
    said = capsys.readouterr().out
    warning = "adaptation lowers the accuracy ("
    assert f"warning: {warning}" in said.partition("14 images, 0 rejected")[0]
    for page in ("report.html", "model/README.md"):
        assert "Adaptation lowers the accuracy" in Path("new", page).read_text("utf-8"), page
    assert main(["evaluate", "--run", "new", "--images", "images", "--labels", "same.csv"]) == 0
    assert f"warning: {warning}" in capsys.readouterr().out.partition("zero-shot  ")[0]


def test_hostile_names__do_not_command_the_terminal(
    place: Path, fitted: Any, capsys: Screen
) -> None:
    shutil.copy("images/red square/0.jpg", "images/\x1b[2J\n<script>.jpg")
    Path("images/\x1b]0;x\x07.png").write_bytes(b"torn")
    assert main(["fit", "zero-shot", *request(fitted), "--out", "new"]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.err + said.out
    assert r"rejected \x1b]0;x\x07.png: not an image" in said.err
    assert "<script>.jpg" not in Path("new/report.html").read_text()
    assert main(["plan", "auto", "--images", "no\x1b[31mwhere"]) == 2
    assert capsys.readouterr().err.startswith(r"anyclass: no\x1b[31mwhere does not exist")


def test_arguments__that_are_not_utf8(capsys: Screen) -> None:
    assert main(["plan", "auto", "--images", "ph\udcffotos"]) == 2
    assert capsys.readouterr().err == (
        "anyclass: 'ph\\udcffotos' is not UTF-8: rename it, or give a link to it\n"
    )


def test_interrupt__exit_code_130(
    place: Path, fitted: Any, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("anyclass.commands.score.predict_all", stop)
        assert main(["fit", "zero-shot", *request(fitted), "--out", "new"]) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert main(["fit", "zero-shot", *request(fitted), "--out", "new"]) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fit auto", "run the same command again: it goes on from the features and steps so far"),
        ("embed", "run the same command again: what was computed so far is kept"),
        ("describe", "run the same command again: what was computed so far is kept"),
        ("predict", "no table was written yet: run the same command again, it goes on from there"),
        ("predict --on ray", "run the same command again: it computes the parts that are missing"),
        ("plan auto", "nothing was changed"),
        ("export", "nothing was changed"),
    ],
)
def test_interrupt__says_how_to_go_on(
    capsys: Screen, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    """That it is so, `test_killed` and the tests of each command show."""
    words = line.split()
    monkeypatch.setitem(COMMANDS, words[0], Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr("anyclass.commands.command_line.check_early", lambda line: None)
    assert main([*words, "--images", "x"] if words[0] != "export" else words) == 130
    assert capsys.readouterr().err.endswith(f"\nstopped; {said}\n")


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | more


LIGHT = (
    "--help",
    "--version",
    "plan --help",
    "plan auto --help",
    "fit --help",
    "fit latteclip --captioner endpoint --help",
    "fit ship --then gda --help",
    "describe --help",
    "predict --help",
    "evaluate --help",
    "rename --help",
    "report --help",
    "demo --help",
    "models --help",
    "fit auto --imges images",
    "fit gad --images images",
    "predcit",
)
"""Command lines that are answered from the help pages."""


def test_command__help_and_misspelt_options_import_nothing_heavy() -> None:
    code = f"""if True:
        import sys
        before = set(sys.modules)
        from anyclass.cli import main
        for line in {LIGHT!r}:
            main(line.split())
        print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = set(done.stdout.splitlines()[-1].split())
    assert packages - sys.stdlib_module_names == {"anyclass"}
    assert done.stdout.count("usage: anyclass") == 12
    assert done.stderr.count("did you mean") == 3


def test_command__report_of_open_world_loads_no_torch(
    shapes: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit("open-world", run, prompt_ensemble=False, **shapes)
    (run / "report.html").unlink()
    code = f"""if True:
        import sys
        from anyclass.cli import main
        main(["report", "--run", {str(run)!r}])
        print(*{{"torch", "open_clip", "sklearn", "scipy"}} & set(sys.modules), sep=",")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(run / "report.html"), ""]
    assert done.stderr == "", "there is no wait to be announced"
    assert check_manifest(run) == []


def test_help_pages__say_what_the_options_say() -> None:
    stored = json.loads(PAGES.read_text("utf-8"))
    assert render() == stored, "options have changed: make help-pages"
    assert {name.split()[1] for name in stored["pages"] if name.startswith("fit ")} == {
        "auto",
        *METHODS,
    }
    assert max(len(line) for section in stored["sections"].values() for line in section) <= 80


def test_command__python_m_anyclass() -> None:
    """Where no script is on the path, as often on Windows."""
    done = subprocess.run(
        [sys.executable, "-m", "anyclass", "fti"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("anyclass: no command is called 'fti': did you mean fit?")


def test_command__a_reader_that_leaves(tmp_path: Path) -> None:
    """`anyclass --help | true`: silence, no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:  # noqa: PTH123 (a file descriptor)
        done = subprocess.run(
            [ANYCLASS, "--help"], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_command__output_into_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [ANYCLASS, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "anyclass: No space left on device\n")


def test_output__on_a_terminal_that_knows_ascii_only(
    place: Path, fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("names.txt").write_text("日本\nKätzchen\n", encoding="utf-8")
    screen = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(screen, encoding="ascii"))
    assert main(["plan", *request(fitted)]) == 0
    assert rb"2: \u65e5\u672c (named), K\xe4tzchen (named)" in screen.getvalue()
    screen.seek(0)
    screen.truncate()
    assert main(["plan", *request(fitted), "--json"]) == 0
    assert json.loads(screen.getvalue())["classes"][1]["name"] == "Kätzchen"


def trained(log: Path) -> list[int]:
    """Steps that were trained, as far as whole lines say."""
    text = log.read_text() if log.exists() else ""
    lines = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return [line["done"] for line in lines if line.get("stage") == "fit"]


def until(running: subprocess.Popen[str], log: Path, steps: int) -> None:
    """Wait until so many steps were trained."""
    while len(trained(log)) < steps:
        assert running.poll() is None
        time.sleep(0.2)


@pytest.mark.slow
def test_command__interrupted_and_given_again(place: Path, fitted: Any) -> None:
    """The real thing: Ctrl-C in the middle of training, then the same line once more."""
    flags = [*request(fitted), "--out", "new", "--tune", "head", "--steps", "200000", "--json"]
    command, log = [ANYCLASS, "fit", "latteclip", *flags], Path("new/log.jsonl")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as running:
        try:
            until(running, log, 50)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, out) == (130, "")
    assert err.endswith(
        "run the same command again: it goes on from the features and steps so far\n"
    )
    assert "Traceback" not in err
    before = trained(log)
    with subprocess.Popen(command, env=environment(), **pipes) as running:
        try:
            until(running, log, len(before) + 3)
        finally:
            running.kill()
    after = trained(log)[len(before) :]
    assert after[0] in (before[-1], before[-1] + 1), "it goes on from the last step"
    assert after[:3] == list(range(after[0], after[0] + 3))


def test_fit_command__takes_the_flags_of_every_method() -> None:
    from anyclass.commands.flags import fit_command
    from anyclass.commands.parse import parse
    from anyclass.methods import METHODS

    for name, method in METHODS.items():
        flags = parse(fit_command(name), ["--images", "x", "--seed", "3"], f"anyclass fit {name}")
        assert flags.asked == method(), name
        assert flags.request.seed == 3
    assert parse(fit_command("auto"), ["--images", "x"], "anyclass fit auto").asked == "auto"
