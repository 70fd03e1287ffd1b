"""What every test shares: tiny random CLIP models, small images, one torch thread, no network.

The models are open_clip models like any other: `local-dir:` folders, seeded random weights.

    causal       plain CLIP: own ViT, causal text tower read at the end-of-text word
    siglip       bidirectional text tower without a pad mask, read at the last word; timm ViT
    huggingface  BERT text tower, masked mean; timm EfficientNet; the starter model in small
    coca         text and image towers that also hand out tokens; attentional pool
    timm         causal text tower as a module of its own; timm ConvNeXt with a linear projection
"""

import atexit
import base64
import gc
import hashlib
import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it: a test never downloads
os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # they would compile the package each time
if threading.current_thread() is threading.main_thread():
    # A background job of a shell ignores Ctrl-C, and so would the commands that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from torch import Tensor

    from anyclass.backbone import Backbone

LARGE = (
    "open_clip",
    "pyarrow.parquet",
    "sklearn.cluster",
    "sklearn.linear_model",
    "sklearn.mixture",
    "transformers",
    "tyro",
)
"""Libraries that take seconds to import."""


TOGETHER = {
    "source": ("tests/test_never.py", "tests/test_structure.py", "tests/test_words.py"),
    "review": ("tests/review/",),
    "onnx": ("tests/exporting/", "tests/backbone/test_engine.py", "tests/backbone/test_onnx"),
}
"""Files that share a run of a session, or libraries that nothing else imports."""

RUNS_TESTS = "PYTEST_XDIST_WORKER" in os.environ or not any(
    argument.startswith(("-n", "--numprocesses")) for argument in sys.argv
)
"""Whether this process runs tests: that of xdist which hands them out does not."""

PACKAGE = Path(__file__).parents[1] / "src" / "anyclass"


def check_types() -> None:
    """Check arguments and results, with their shapes, in each module that annotates arrays.

    The others have static types alone, which mypy checks: checked again in each call they took a
    third of the suite's time.
    """
    from jaxtyping import install_import_hook

    files = [file for file in PACKAGE.rglob("*.py") if "jaxtyping" in file.read_text("utf-8")]
    names = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    install_import_hook(names, "type_checks.checked")


sys.dont_write_bytecode = False  # every worker would check and compile the package anew

if RUNS_TESTS:
    gc.disable()  # until all tests are collected: what is imported is not garbage
    # Before the package: while jaxtyping's hook imports a module of it, Python looks for the
    # bytecode of everything imported meanwhile under another name, and compiles it again.
    for name in LARGE:
        import_module(name)
    import_module("torch").set_num_threads(1)
    check_types()


def pytest_collection_finish() -> None:
    """Leave libraries and collected tests out of each later search for garbage.

    pytest searches five times at its end. Libraries that count their objects at exit find them.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Check types in each test, also of functions that earlier ones have called often."""
    if RUNS_TESTS:
        import_module("type_checks").begin_test()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, and files that share what takes seconds."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            groups = [group for group, files in TOGETHER.items() if nodeid.startswith(files)]
            return groups[0] if groups else super()._split_scope(nodeid)

    return Scheduling(config, log)


VOCABULARY = 512
CONTEXT = 16
SEED = 7


class Tiny(NamedTuple):
    """One tiny model: its open_clip configuration and how its tokenizer marks a text."""

    embed_dim: int
    vision: dict[str, Any]
    text: dict[str, Any]
    more: Mapping[str, Any] = MappingProxyType({})
    pad: str = "<pad>"
    sentence: str = "<start> $A <end>"


CAUSAL_TEXT = {
    "context_length": CONTEXT,
    "vocab_size": VOCABULARY,
    "width": 40,
    "heads": 4,
    "layers": 2,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "max_position_embeddings": CONTEXT + 4,
    "pad_token_id": 0,
}
MODELS = {
    "causal": Tiny(
        embed_dim=24,
        vision={"image_size": 48, "patch_size": 16, "layers": 3, "width": 32, "head_width": 16},
        text=CAUSAL_TEXT,
    ),
    "siglip": Tiny(
        embed_dim=64,
        vision={
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        text={
            **CAUSAL_TEXT,
            "heads": 5,
            "no_causal_mask": True,
            "pool_type": "last",
            "proj_bias": True,
            "tokenizer_kwargs": {"clean": "canonicalize"},
        },
        more={"custom_text": True, "init_logit_bias": -10.0},
        pad="<end>",
        sentence="$A <end>",
    ),
    "huggingface": Tiny(
        embed_dim=28,
        vision={
            "image_size": 64,
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": "mlp",
        },
        text={
            "context_length": CONTEXT,
            "vocab_size": VOCABULARY,
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
            "hf_model_pretrained": False,
        },
        more={"custom_text": True},
    ),
    "coca": Tiny(
        embed_dim=20,
        vision={
            "image_size": 48,
            "patch_size": 16,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "attn_pooler_queries": 6,
            "output_tokens": True,
        },
        text={**CAUSAL_TEXT, "embed_cls": True, "output_tokens": True},
        more={
            "custom_text": True,
            "multimodal_cfg": {**CAUSAL_TEXT, "width": 20, "attn_pooler_heads": 2},
        },
    ),
    "timm": Tiny(
        embed_dim=22,
        vision={
            "image_size": 96,
            "timm_model_name": "test_convnext",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        text=CAUSAL_TEXT,
        more={"custom_text": True},
    ),
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`tiny_clip("siglip")` -> the `--model` of that tiny model, built once per session."""
    built: dict[str, str] = {}

    def model(kind: str = "causal") -> str:
        if kind not in built:
            folder = tmp_path_factory.mktemp(f"tiny_{kind}")
            write_model(MODELS[kind], folder)
            built[kind] = f"local-dir:{folder}"
        return built[kind]

    return model


@pytest.fixture(scope="session")
def tiny_backbone(tiny_clip: Callable[..., str]) -> "Callable[..., Backbone]":
    """`tiny_backbone("siglip")` -> that tiny model, loaded once; not to be changed."""
    from anyclass.backbone import Backbone

    loaded: dict[str, Backbone] = {}

    def backbone(kind: str = "causal") -> Backbone:
        if kind not in loaded:
            loaded[kind] = Backbone.load(tiny_clip(kind), engine="torch")
        return loaded[kind]

    return backbone


@pytest.fixture(scope="session", params=sorted(MODELS))
def every_clip(request: pytest.FixtureRequest, tiny_clip: Callable[..., str]) -> str:
    """Each of the tiny models in turn, as the value of `--model`."""
    return tiny_clip(request.param)


@pytest.fixture(scope="session", params=sorted(MODELS))
def every_backbone(
    request: pytest.FixtureRequest, tiny_backbone: "Callable[..., Backbone]"
) -> "Backbone":
    """Each of the tiny models in turn, loaded once; not to be changed."""
    return tiny_backbone(request.param)


def write_model(tiny: Tiny, folder: Path) -> None:
    """A `local-dir:` folder that open_clip loads: configuration, tokenizer, random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    text = {**tiny.text, "hf_tokenizer_name": str(folder)}
    if "hf_proj_type" in text:
        text["hf_model_name"] = str(folder)
        write_json(folder / "config.json", BERT)
    model = {"embed_dim": tiny.embed_dim, "vision_cfg": tiny.vision, "text_cfg": text, **tiny.more}
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
    write_json(
        folder / "open_clip_config.json",
        {"model_cfg": model, "preprocess_cfg": {**pixels, "resize_mode": "shortest"}},
    )
    write_tokenizer(tiny, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        clip = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def write_tokenizer(tiny: Tiny, folder: Path) -> None:
    """A WordPiece tokenizer over `words()`; the tokenizer files of a Hugging Face folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = [(mark, ids[mark]) for mark in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=tiny.sentence, special_tokens=marks
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tiny.pad,
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    ).save_pretrained(folder)


def words() -> list[str]:
    """The 512 words: whole words of prompts, then syllables and letters that spell anything else.

    `<pad>` is 0 and `<end>` is 511, the largest: a causal CLIP finds the end of a text by argmax.
    """
    whole = (
        "a an and are art at background bad big black blue brown class clean close clear colour "
        "dark dirty disc dog drawing fruit good green grey hand house image in is it kite large "
        "light many of old on one orange painting paper photo picture pink plain purple red "
        "ring round shape sharp shiny sketch small soft square star stripes texture the these "
        "thing this three toy triangle two type warm water which white with wood yellow"
    ).split()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    syllables = [c + v for c in "bcdfghjklmnprstvwxyz" for v in "aeiou"]
    pieces = [*letters[1:], *"!'(),-./:;?_", *syllables, *syllables]
    inside = [f"##{piece}" for piece in [*letters, *syllables]]
    known = list(dict.fromkeys([*whole, *inside, *pieces]))
    filler = [f"word{i}" for i in range(VOCABULARY - 4 - len(known))]
    return ["<pad>", "<unk>", *known, *filler, "<start>", "<end>"]


class Shape(NamedTuple):
    """One class of the toy images: how many, which colour, which `ImageDraw` call."""

    count: int
    colour: tuple[int, int, int]
    draw: str


SHAPES = {  # in the order of the names file, which is not the alphabet's
    "red square": Shape(5, (210, 30, 40), "rectangle"),
    "blue disc": Shape(3, (30, 60, 220), "ellipse"),
    "yellow kite": Shape(2, (240, 210, 20), "polygon"),
    "green ring": Shape(4, (20, 170, 70), "arc"),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """`tmp_path/images/<class>/<number>.png|jpg`: 14 coloured shapes in 4 uneven classes."""
    return draw_shapes(tmp_path / "images")


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """`tmp_path/names.txt`: the classes of `images`, one a line, not in alphabetical order."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(SHAPES) + "\n", encoding="utf-8")
    return path


class Killed(BaseException):
    """What a kill looks like from inside: nothing gets to clean up after it."""


@pytest.fixture
def save_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of training leaves a checkpoint, every batch of features a cache file."""
    monkeypatch.setattr("anyclass.files.pace.SHARE", float("inf"))


@pytest.fixture
def dies(save_every_step: None) -> Callable[..., None]:
    """`dies(work, when)`: `work(log)` is killed at the first row of its log with `when(row)`."""

    def run(work: Callable[..., object], when: Callable[[dict[str, Any]], bool]) -> None:
        def log(**row: Any) -> None:
            if when(row):
                raise Killed

        with pytest.raises(Killed):
            work(log)

    return run


class Fitted(NamedTuple):
    """A finished run and what it was asked for; not to be changed."""

    run: Path
    images: Path
    model: str
    metrics: dict[str, Any]


@pytest.fixture(scope="session")
def fitted(
    tiny_clip: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, own_cache: Path
) -> Fitted:
    """LatteCLIP on the labelled shapes, one of them damaged, fitted once per session."""
    from anyclass.commands.fit import fit
    from anyclass.methods import METHODS
    from anyclass.training.tuning import Tuning

    folder = tmp_path_factory.mktemp("fitted")
    images = draw_shapes(folder / "images")
    (images / "blue disc" / "1.png").write_bytes(b"no image")
    method = METHODS["latteclip"](tuning=Tuning("head"))
    metrics = fit(method, folder / "run", **request_for(images, tiny_clip())).metrics
    return Fitted(folder / "run", images, tiny_clip(), metrics)


@pytest.fixture
def shapes(images: Path, tiny_clip: Callable[..., str]) -> dict[str, Any]:
    """What `fit` is asked for by most tests: `images`, labelled, and a tiny model."""
    return request_for(images, tiny_clip())


def request_for(images: Path, model: str) -> dict[str, Any]:
    """Labelled shapes, classes in the order of `SHAPES`, the engine that starts at once."""
    known = {"classes": tuple(SHAPES), "labels": "folders"}
    return {"images": images, "model": model, "device": "cpu", "engine": "torch", **known}


def draw_shapes(root: Path) -> Path:
    """The 14 images of `SHAPES` in class folders below `root`, which is returned."""
    for name, shape in SHAPES.items():
        (root / name).mkdir(parents=True)
        for i in range(shape.count):
            kind = "png" if i % 2 else "jpg"
            (root / name / f"{i}.{kind}").write_bytes(encoded_shape(shape, i, kind))
    return root


@cache
def encoded_shape(shape: Shape, i: int, kind: str) -> bytes:
    """The i-th image of a class as the bytes of a file."""
    file = io.BytesIO()
    draw_shape(shape, i).save(file, {"png": "PNG", "jpg": "JPEG"}[kind])
    return file.getvalue()


def draw_shape(shape: Shape, i: int) -> Image.Image:
    """The i-th image of a class: never square; its size and the place of the shape vary."""
    width, height = (64 + 6 * i, 44) if i % 2 else (40, 58 + 4 * i)
    image = Image.new("RGB", (width, height), (250 - 12 * i, 245, 235 + 3 * i))
    draw = ImageDraw.Draw(image)
    left, top, side = 4 + i, 6 + 2 * i, 26
    right, bottom = left + side, top + side
    middle = (left + right) // 2
    if shape.draw == "polygon":
        draw.polygon(
            [(middle, top), (right, top + 9), (middle, bottom), (left, top + 9)], shape.colour
        )
    elif shape.draw == "arc":
        draw.arc((left, top, right, bottom), 0, 360, fill=shape.colour, width=5)
    else:
        getattr(draw, shape.draw)((left, top, right, bottom), fill=shape.colour)
    return image


@pytest.fixture
def loud_blobs() -> "Callable[[int], tuple[Tensor, Tensor, Tensor]]":
    """`loud_blobs(seed)`: rows [x | h | 1], classes, labels of half of the first three of these.

    5 classes, 40 rows each, apart in 12 and in 17 dimensions, and very noisy in one of each.
    """
    import torch

    def make(seed: int) -> "tuple[Tensor, Tensor, Tensor]":
        draw = torch.Generator().manual_seed(seed)
        truth = torch.arange(5).repeat_interleave(40)
        x, h = (
            torch.randn(5, width, generator=draw)[truth]
            + 0.4 * torch.randn(200, width, generator=draw)
            + 6 * torch.randn(200, 1, generator=draw) * torch.randn(1, width, generator=draw)
            for width in (12, 17)
        )
        labels = torch.where((truth < 3) & (torch.rand(200, generator=draw) < 0.5), truth, -1)
        return torch.cat([x, h, torch.ones(200, 1)], dim=1), truth, labels

    return make


@pytest.fixture(scope="session", autouse=True)
def no_wait() -> Iterator[None]:
    """The engine "auto" is PyTorch, which starts at once, and nobody waits for the disk.

    `test_engine` looks for the fastest engine, `test_embedding_map` computes whole maps. The few
    texts of the tests are cleaned and tokenised once for each tokenizer.
    """
    from open_clip import tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyclass.backbone.engine._fastest", lambda clip: "torch")
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(tokenizer, "basic_clean", cache(tokenizer.basic_clean))
        patch.setattr(tokenizer.HFTokenizer, "__call__", _tokenised_once())
        steps_of_maps(patch, 20, 20)
        yield


def steps_of_maps(patch: pytest.MonkeyPatch, early: int, steps: int) -> None:
    """Set how many steps t-SNE takes, and how many of them with early exaggeration."""
    from sklearn.manifold import TSNE

    patch.setattr("anyclass.run.embedding_map.STEPS", steps)
    patch.setattr(TSNE, "_EXPLORATION_MAX_ITER", early)
    patch.setitem(TSNE._parameter_constraints, "max_iter", [int])


def _tokenised_once() -> "Callable[..., Tensor]":
    """A tokenizer's call, which remembers its answers as long as the tokenizer lives."""
    from open_clip.tokenizer import HFTokenizer

    call, known = HFTokenizer.__call__, WeakKeyDictionary[Any, dict[Any, Any]]()

    def tokenised(self: Any, texts: str | Sequence[str], *length: int) -> "Tensor":
        answers = known.setdefault(self, {})
        question = (texts if isinstance(texts, str) else tuple(texts)), length
        if question not in answers:
            answers[question] = call(self, texts, *length)
        return answers[question].clone()

    return tokenised


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`$ANYCLASS_CACHE`: a folder of this test run (of all its processes), never the user's."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "anyclass_cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYCLASS_CACHE", os.environ.get("ANYCLASS_CACHE", str(folder)))
        yield Path(os.environ["ANYCLASS_CACHE"])


HERE = ("127.0.0.1", "::1", "localhost", None, "")
"""Hosts that are this machine."""


@pytest.fixture
def no_other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks up another machine, or connects to it, fails the test.

    `test_network` looks at whole processes, native code included.
    """
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def checked(host: str | None) -> None:
        if host not in HERE:
            pytest.fail(f"it speaks to {host}")

    def connected(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple):
            checked(address[0])
        connect(self, address)

    def looked_up(host: Any, *more: Any, **how: Any) -> Any:
        checked(host)
        return look_up(host, *more, **how)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)


def write_json(path: Path, value: object) -> None:
    """JSON text, written plainly: tests do not use the code under test for their inputs."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


Reply = Callable[[BaseHTTPRequestHandler], None]
"""Answers a request, well or badly."""


@dataclass
class Call:
    """What a server received."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def image(self) -> bytes:
        """The bytes of the image that was sent."""
        url = self.body["messages"][0]["content"][0]["image_url"]["url"]
        kind, _, data = url.partition(",")
        assert kind == "data:image/jpeg;base64"
        return base64.b64decode(data, validate=True)

    @property
    def question(self) -> str:
        """What was asked about it."""
        return self.body["messages"][0]["content"][1]["text"]


def sentence(image: bytes, question: str) -> str:
    """What the server says of an image: another sentence for each image and question."""
    return f"Seen {hashlib.sha256(image + question.encode()).hexdigest()[:16]}."


def json_reply(value: Any, status: int = 200, **headers: str) -> Reply:
    """A whole answer; an underscore in a header's name is a hyphen."""
    return body_reply(json.dumps(value).encode(), status, **headers)


def body_reply(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Reply:
    """An answer that may promise another length than it has."""
    headers = {"Content_Type": "application/json", **headers}

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def said(content: Any) -> Reply:
    """An answer with this content."""
    return json_reply({"choices": [{"message": {"role": "assistant", "content": content}}]})


@dataclass
class FakeServer:
    """Speaks the OpenAI protocol at `url`; `replies` come first, one a question, then good ones."""

    url: str = ""
    models: list[str] | None = field(default_factory=lambda: ["llava"])
    replies: list[Reply] = field(default_factory=list)
    always: Reply | None = None
    """Instead of a good reply."""
    seconds: float = 0.0
    """How long a good reply takes."""
    calls: list[Call] = field(default_factory=list)
    """All requests, `/models` as well."""
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    body, json, said = map(staticmethod, (body_reply, json_reply, said))
    sentence = staticmethod(sentence)

    @property
    def questions(self) -> list[Call]:
        """Those that ask about an image."""
        return [call for call in self.calls if call.method == "POST"]

    @property
    def listing(self) -> Any:
        """What `/models` says; without a list of models it says nothing that can be read."""
        names = self.models
        return None if names is None else {"data": [{"id": name} for name in names]}

    def enter(self, call: Call) -> Reply:
        """Note a request, and say how to answer it."""
        with self.lock:
            self.calls.append(call)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            if not call.path.startswith("/v1/"):
                return json_reply({}, 404)
            if call.method == "GET":
                return json_reply(self.listing)
            if self.replies:
                return self.replies.pop(0)
        return self.always or self._good(call)

    def _good(self, call: Call) -> Reply:
        time.sleep(self.seconds)
        return said(sentence(call.image, call.question))


@pytest.fixture
def start_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], FakeServer]]:
    """`start_server()` -> a server of its own; the client's waits between tries are short."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.delenv("ANYCLASS_ENDPOINT_KEY", raising=False)
    started: list[ThreadingHTTPServer] = []

    def start() -> FakeServer:
        fake = FakeServer()
        started.append(_Quiet(("127.0.0.1", 0), _handler(fake)))
        fake.url = f"http://127.0.0.1:{started[-1].server_address[1]}/v1"
        threading.Thread(target=started[-1].serve_forever, args=(0.01,), daemon=True).start()
        return fake

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(start_server: Callable[[], FakeServer]) -> FakeServer:
    """A server with one model, `llava`, that answers at once."""
    return start_server()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """The client hung up, as it should have."""


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = fake.enter(Call(self.command, self.path, headers, body))
            try:
                reply(self)
            finally:
                with fake.lock:
                    fake.under_way -= 1

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    return Handler
