"""Push to a hub and load from it: a server on this machine stands for the hub."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from anyclass import Classifier
from anyclass.backbone import Backbone
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.representation import Representation
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError

TOKEN = "hf_" + "a" * 34
NAME = "someone/shapes-7"


class Hub:
    """Repositories as `{branch or commit: {path: content}}`, and what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.address = ""

    def create(self, body: bytes) -> dict[str, Any]:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else ""
        name = name or asked["name"]
        self.private.setdefault(
            name, bool(asked.get("private")) or asked.get("visibility") == "private"
        )
        self.repositories.setdefault(name, {"main": {}})
        return {"url": f"{self.address}/{name}", "id": name, "name": name}

    def commit(self, name: str, branch: str, body: bytes) -> dict[str, Any]:
        files = dict(self.repositories[name][branch])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
        commit = hashlib.sha1(body).hexdigest()
        self.repositories[name] |= {branch: files, commit: dict(files)}
        return {
            "success": True,
            "commitOid": commit,
            "commitUrl": f"{self.address}/{name}/commit/{commit}",
        }


class Handler(BaseHTTPRequestHandler):
    """The few addresses of the hub that are used."""

    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code: str) -> None:
        self.answer({"error": "not found"}, 404, X_Error_Code=code)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:  # noqa: N802
        body = self.body()
        token = self.headers.get("Authorization", "")
        self.hub.asked.append((self.command, self.path, token))
        path = self.path
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if TOKEN not in token:
            return self.answer({"error": "Unauthorized"}, 401)
        if path == "/api/repos/create":
            return self.answer(self.hub.create(body))
        if found := re.fullmatch(r"/api/models/(.+)/preupload/[^/]+", path):
            asked = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"]} | how for file in asked]})
        if found := re.fullmatch(r"/api/models/(.+)/branch/([^/]+)", path):
            branches = self.hub.repositories[found[1]]
            branches.setdefault(found[2], dict(branches["main"]))
            return self.answer({})
        if found := re.fullmatch(r"/api/models/(.+)/commit/([^/?]+)", path):
            return self.answer(self.hub.commit(found[1], found[2], body))
        return self.missing("RepoNotFound")

    def do_GET(self) -> None:  # noqa: N802
        self.hub.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        found = re.fullmatch(r"/(\w[^/]*/[^/]+)/resolve/([^/]+)/([^?]+)", self.path)
        if found is None or found[1] not in self.hub.repositories:
            return self.missing("RepoNotFound")
        repository = self.hub.repositories[found[1]]
        if found[2] not in repository:
            return self.missing("RevisionNotFound")
        files = repository[found[2]]
        if found[3] not in files:
            return self.missing("EntryNotFound")
        same = (name for name, other in repository.items() if other == files and len(name) == 40)
        tag = hashlib.sha256(files[found[3]]).hexdigest()
        return self.answer(files[found[3]], ETag=f'"{tag}"', X_Repo_Commit=next(same))

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    found = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Handler,), {"hub": found})) as server:
        found.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        yield found
        server.shutdown()


@pytest.fixture
def classifier(tiny_backbone: Callable[..., Backbone]) -> Classifier:
    draw = torch.Generator().manual_seed(0)
    weights = torch.nn.functional.normalize(torch.randn(5, 24, generator=draw), dim=1)
    classes = Classes.of(("zebra", "blue_jay", "Häher", "ant", "x, y"))
    head = CosineHead(weights, 7.0)
    return Classifier(Representation((tiny_backbone(),)), head, classes, "zero-shot")


def test_push_and_load__the_same_probabilities(
    hub: Hub, classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    url = classifier.push_to_hub(NAME)
    assert url.startswith(f"{hub.address}/{NAME}/commit/")
    assert hub.private == {NAME: True}
    stored = hub.repositories[NAME]["main"]
    assert set(stored) == {"classifier.json", "classifier.safetensors", "README.md"}
    card = stored["README.md"].decode()
    assert card.startswith("---\n")
    assert "library_name: anyclass" in card
    assert f'from_pretrained("{NAME}")' in card
    for loaded in (Classifier.from_pretrained(NAME), Classifier.load(f"hf-hub:{NAME}")):
        dataset = ImageDataset.read(images)
        assert (loaded.predict_proba(dataset) == classifier.predict_proba(dataset)).all()
        assert loaded.classes_ == classifier.classes_


def test_push__a_revision_is_its_own_branch(hub: Hub, classifier: Classifier) -> None:
    classifier.push_to_hub(NAME, private=False)
    renamed = Classes.of(("a", "b", "c", "d", "e"))
    other = Classifier(classifier.representation, classifier.head, renamed, "zero-shot")
    url = other.push_to_hub(NAME, revision="letters")
    assert hub.private == {NAME: False}
    assert Classifier.from_pretrained(NAME).classes_[0] == "zebra"
    assert Classifier.from_pretrained(NAME, revision="letters").classes_[0] == "a"
    assert Classifier.from_pretrained(NAME, revision=url.rpartition("/")[2]).classes_[0] == "a"


def test_push__the_token_is_in_no_file(hub: Hub, classifier: Classifier, tmp_path: Path) -> None:
    classifier.push_to_hub(NAME)
    Classifier.from_pretrained(NAME)
    assert any(TOKEN in token for _, _, token in hub.asked)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert not [
        c for files in hub.repositories[NAME].values() for c in files.values() if b"hf_" in c
    ]


def test_download__only_our_files(hub: Hub, classifier: Classifier, tmp_path: Path) -> None:
    classifier.push_to_hub(NAME)
    for files in hub.repositories[NAME].values():
        files["pytorch_model.bin"] = b"\x80\x04 a pickle"
    Classifier.from_pretrained(NAME)
    assert not [path for _, path, _ in hub.asked if path.endswith(".bin")]
    assert not list((tmp_path / "hub_cache").rglob("*.bin"))


def test_errors__one_line_that_says_what_to_do(
    hub: Hub, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="no such repository, or your token"):
        Classifier.from_pretrained("someone/nothing")
    classifier.push_to_hub(NAME)
    with pytest.raises(RequestError, match="there is no such revision"):
        Classifier.from_pretrained(NAME, revision="v9")
    with pytest.raises(RequestError, match="give OWNER/NAME"):
        classifier.push_to_hub("https://example.org/x")
    for files in hub.repositories[NAME].values():
        del files["classifier.json"]
    with pytest.raises(RequestError, match="it is no classifier of anyclass"):
        Classifier.from_pretrained(NAME, revision="main")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RequestError, match="cannot be uploaded: .* `hf auth login`") as refused:
        classifier.push_to_hub(NAME)
    assert "hf_wrong" not in str(refused.value)
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RequestError, match=r"http://127\.0\.0\.1:9 cannot be reached \(\S"):
        classifier.push_to_hub(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match="HF_HUB_OFFLINE is set"):
        classifier.push_to_hub(NAME)
