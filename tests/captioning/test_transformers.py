"""A tiny LLaVA-1.6 and a tiny Idefics3 (SmolVLM's ancestor), saved to disk and asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from anyclass.captioning import CaptionContext, CaptionRequest, image
from anyclass.captioning.transformers import Transformers
from anyclass.errors import AnyclassError, ModelError, RequestError

MARKS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>"]
MARKS += ["<end_of_utterance>", "<global-img>"]
WORDS = [*MARKS, "What", "is", "it?", "are", "they?", "User:", "Assistant:"]
WORDS += [f"word{i}" for i in range(50)]
CHAT = (
    "{% for message in messages %}User: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
TEXT = {"model_type": "llama", "vocab_size": len(WORDS), "hidden_size": 32, "pad_token_id": 0}
TEXT |= {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
SEES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "image_size": 28}
SEES |= {"num_attention_heads": 2}
GRID = [[28, 56], [56, 28], [56, 56]]


def tokenizer() -> Any:
    ids = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=MARKS[4:], **marks
    )


def llava(folder: Path) -> None:
    sees = {**SEES, "model_type": "clip_vision_model", "patch_size": 14, "projection_dim": 16}
    config = transformers.LlavaNextConfig(
        text_config=TEXT, vision_config=sees, image_token_index=4, image_grid_pinpoints=GRID
    )
    transformers.LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    pixels = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=GRID,
    )
    transformers.LlavaNextProcessor(
        pixels,
        tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)


def idefics(folder: Path) -> None:
    config = transformers.Idefics3Config(
        text_config=TEXT,
        vision_config={**SEES, "patch_size": 7},
        image_token_id=4,
        scale_factor=2,
        pad_token_id=0,
    )
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    pixels = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    transformers.Idefics3Processor(
        pixels, tokenizer(), image_seq_len=4, chat_template=CHAT
    ).save_pretrained(folder)


def built(make: Callable[[Path], None], folder: Path) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        make(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(idefics, tmp_path_factory.mktemp("idefics"))


@pytest.fixture(scope="module", params=["idefics", "llava"])
def every_model(
    request: pytest.FixtureRequest, model: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    if request.param == "idefics":
        return model
    return built(llava, tmp_path_factory.mktemp("llava"))


def ask(model: str, **fields: Any) -> Transformers:
    return Transformers(**{"model": model, "max_tokens": 9, "device": "cpu", "size": 64} | fields)


def by_hand(model: str, request: CaptionRequest, context: CaptionContext) -> str:
    """The same answer, one token after the other: the likeliest next one, until the end."""
    processor = transformers.AutoProcessor.from_pretrained(model)
    network = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    text = f"User: <image> {request.question} Assistant:"
    shown = image(request, context.dataset, 64)
    given = processor(text=[text], images=[[shown]], return_tensors="pt")
    more = {k: v for k, v in given.items() if k not in ("input_ids", "attention_mask")}
    ids, said = given["input_ids"], list[int]()
    while len(said) < 9 and (not said or said[-1] != 2):
        with torch.no_grad():
            said.append(int(network(input_ids=ids, **more).logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([[said[-1]]])], 1)
    return " ".join(WORDS[i] for i in said if WORDS[i] not in MARKS)


def test_describe__says_the_likeliest_words(
    every_model: str, context: CaptionContext, requests: list[CaptionRequest], log: Any
) -> None:
    some = [requests[i] for i in (0, 7, 11, 12)]
    texts = ask(every_model).describe(some, context, log)
    assert texts == [by_hand(every_model, request, context) for request in some]
    assert len(set(texts)) == 4, "the images are seen"


def test_describe__batches_change_nothing(
    every_model: str,
    context: CaptionContext,
    requests: list[CaptionRequest],
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Questions of other lengths and images of other sizes in one batch, or each alone."""
    one = ask(every_model, batch_size=1).describe(requests, context, log)
    monkeypatch.setenv("ANYCLASS_CACHE", str(context.dataset.root / "another cache"))
    assert ask(every_model, batch_size=5).describe(requests, context, log) == one
    assert None not in one


def generations(monkeypatch: pytest.MonkeyPatch, model: str, most: int) -> list[int]:
    """How many questions each call of `generate` gets; more than `most` are too many for it."""
    kind = type(transformers.AutoModelForImageTextToText.from_pretrained(model))
    real, sizes = kind.generate, list[int]()

    def generate(self: Any, **given: Any) -> Any:
        sizes.append(len(given["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, **given)

    monkeypatch.setattr(kind, "generate", generate)
    return sizes


def test_describe__half_the_batch_when_memory_runs_out(
    model: str,
    context: CaptionContext,
    requests: list[CaptionRequest],
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = generations(monkeypatch, model, most=3)
    texts = ask(model, batch_size=8).describe(requests, context, log)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 1]
    assert None not in texts
    monkeypatch.undo()
    assert [texts[4], texts[12]] == [by_hand(model, requests[i], context) for i in (4, 12)]


def test_describe__no_memory_at_all(
    model: str,
    context: CaptionContext,
    requests: list[CaptionRequest],
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generations(monkeypatch, model, most=0)
    with pytest.raises(AnyclassError, match="no memory for a single question"):
        ask(model, batch_size=2).describe(requests, context, log)


def test_describe__another_error_is_no_matter_of_memory(
    model: str,
    context: CaptionContext,
    requests: list[CaptionRequest],
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a kernel is wrong")

    kind = type(transformers.AutoModelForImageTextToText.from_pretrained(model))
    monkeypatch.setattr(kind, "generate", fail)
    with pytest.raises(RuntimeError, match="a kernel is wrong"):
        ask(model).describe(requests, context, log)


def test_describe__asked_once(
    model: str,
    context: CaptionContext,
    requests: list[CaptionRequest],
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = generations(monkeypatch, model, most=99)
    first = ask(model).describe(requests[:5], context, log)
    assert ask(model, batch_size=2).describe(requests, context, log)[:5] == first
    assert sum(sizes) == 13
    ask(model, max_tokens=3).describe(requests[:1], context, log)
    assert sum(sizes) == 14, "another setting is another question"


def test_describe__other_weights_are_asked_anew(
    model: str, context: CaptionContext, requests: list[CaptionRequest], log: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    before = ask(str(copy)).describe(requests, context, log)
    weights = load_file(copy / "model.safetensors")
    for name, value in weights.items():
        if "lm_head" in name:
            weights[name] = value.flip(0).contiguous()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert ask(str(copy)).describe(requests, context, log) != before


def test_describe__variants_are_drawn_by_their_number(
    model: str,
    context: CaptionContext,
    requests: list[CaptionRequest],
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [request._replace(variant=v) for request in requests[:3] for v in range(3)]
    hot = ask(model, temperature=50.0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    texts = hot.describe(asked, context, log)
    assert torch.equal(torch.get_rng_state(), state), "the run's own draws are left alone"
    assert len(set(texts)) == 9
    assert texts[::3] == ask(model).describe(requests[:3], context, log)
    monkeypatch.setenv("ANYCLASS_CACHE", str(context.dataset.root / "cache"))
    assert hot.describe(asked, context, log) == texts


def test_describe__a_image_that_cannot_be_used(
    model: str, context: CaptionContext, requests: list[CaptionRequest], log: Any
) -> None:
    context.dataset.path(2).write_bytes(b"torn")
    texts = ask(model, batch_size=4).describe(requests, context, log)
    assert [i for i, text in enumerate(texts) if text is None] == [2]
    assert "1 of 13 questions have no answer" in log.warnings[0]


def test_describe__nothing_asked_needs_no_model(context: CaptionContext, log: Any) -> None:
    assert ask("nowhere").describe([], context, log) == []


def failing(error: type[AnyclassError], context: CaptionContext, **fields: Any) -> str:
    """What is said of a captioner that cannot be asked."""
    with pytest.raises(error) as caught:
        Transformers(**{"device": "cpu"} | fields).describe(
            [CaptionRequest((0,), "What is it?", "object")], context, lambda **_: None
        )
    return str(caught.value)


def test_describe__weights_that_are_not_here(
    context: CaptionContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = failing(RequestError, context)
    assert "llava-hf/llava-v1.6-mistral-7b-hf is not a folder and could not be downloaded" in said
    assert "hf download llava-hf/llava-v1.6-mistral-7b-hf" in said
    assert "hf download ../x" in failing(RequestError, context, model="../x")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no *.safetensors here" in failing(ModelError, context, model=str(empty))


def test_describe__weights_that_could_run_code(
    model: str, context: CaptionContext, tmp_path: Path
) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(model, copy)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert "has no *.safetensors here" in failing(ModelError, context, model=str(copy))


def test_describe__code_of_its_own(model: str, context: CaptionContext, tmp_path: Path) -> None:
    copy = tmp_path / "coded"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "not a usable image-text-to-text model" in failing(ModelError, context, model=str(copy))
    assert not (tmp_path / "ran").exists()


def test_describe__damaged_weights(model: str, context: CaptionContext, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(model, copy)
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "not a usable" in failing(ModelError, context, model=str(copy))


def test_describe__four_bits_need_a_gpu_and_packages(
    context: CaptionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "needs a GPU, but the device is cpu" in failing(RequestError, context, four_bit=True)
    monkeypatch.setattr("anyclass.captioning.transformers.find_spec", lambda name: name[0] == "t")
    said = failing(RequestError, context, four_bit=True, device="cuda")
    assert said.endswith("pip install accelerate bitsandbytes")
    monkeypatch.setattr("anyclass.captioning.transformers.find_spec", lambda name: None)
    assert failing(RequestError, context).endswith("pip install 'anyclass[hf-lmm]'")


def test_estimate__time_alone() -> None:
    cost = Transformers(device="cuda", size=280, max_tokens=7).estimate(100)
    assert cost == (100 * (10 * 10 + 30), 700, 2.0, 0.0, "", 0.0, 100)
    assert Transformers(device="cpu").estimate(3).minutes == 3.0
