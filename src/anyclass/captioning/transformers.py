"""The captioner that runs a language model that sees images in this process.

Any model of the Hugging Face Hub's kind image-text-to-text: LLaVA-1.6, Qwen2.5-VL, SmolVLM.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from hashlib import sha256 as checksum
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from PIL.Image import Image
from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import Suppress

from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.collage import preparation
from anyclass.captioning.cost import CostEstimate, estimated
from anyclass.captioning.dispatch import Failure, Outcome, answered, shown
from anyclass.data import ImageDataset
from anyclass.data.image import one_line
from anyclass.errors import AnyclassError, ModelError, RequestError
from anyclass.files import sha256
from anyclass.log import Log

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SECONDS = {"cuda": 1.2, "cpu": 60.0}
"""Of an answer by 7 thousand million weights: the paper's on a V100, and a guess."""
WEIGHTS = "*.safetensors"
"""The only weights that are fetched and read: pickled ones can run code."""
AROUND = ["*.json", "*.txt", "*.jinja", "*.model"]
"""Configuration, tokenizer and chat template."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Transformers:
    """Asks a language model that sees images, in this process: nothing leaves the machine."""

    kind: Suppress[Literal["transformers"]] = "transformers"
    """Tells captioners apart in a saved configuration."""
    model: str = "llava-hf/llava-v1.6-mistral-7b-hf"
    """An image-text-to-text model of the Hugging Face Hub, or its folder (default: the paper's)."""
    size: Annotated[int, Field(gt=0)] = 672
    """Longest side of an image that is shown, in pixels."""
    max_tokens: Annotated[int, Field(gt=0)] = 77
    """Longest answer, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Of further texts of one image; the first takes the likeliest token each time."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Questions at a time; halved when memory runs out."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the weights; auto: bf16 or else fp16 on a GPU, fp32 on a CPU."""
    four_bit: bool = False
    """Weights in 4 bits (NF4, the paper's): 5 GB of GPU memory where fp16 takes 15."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """One sentence for each request; what the journal knows is not asked again.

        Raises:
            RequestError: the model cannot be had, or a setting cannot be met on this machine.
            ModelError: its files are damaged, foreign or no safetensors.
            AnyclassError: there is no memory for a single question, or too many have failed.
        """
        if not requests:
            return []
        self._check()
        identity = {
            "kind": self.kind,
            "model": self.model,
            "weights": _fingerprint(self.model),
            "dtype": self.dtype,
            "four_bit": self.four_bit,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

        def ask(open_: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
            yield from self._outcomes(self._loaded(), open_, context.dataset)

        return answered(requests, context, identity | preparation(self.size), ask, log)

    def estimate(self, calls: int) -> CostEstimate:
        """What `calls` answers cost: time."""
        seconds = SECONDS["cuda" if self._device.startswith("cuda") else "cpu"]
        return estimated(calls, self.size, self.max_tokens, seconds)._replace(dollars=0.0)

    @property
    def _device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def _dtype(self) -> torch.dtype:
        if self.dtype != "auto":
            return DTYPES[self.dtype]
        if not self._device.startswith("cuda"):
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    def _check(self) -> None:
        """Refuse what this machine cannot do, before anything is fetched."""
        if find_spec("transformers") is None:
            raise RequestError(
                "the captioner `transformers` needs a package: pip install 'anyclass[hf-lmm]'"
            )
        if not self.four_bit:
            return
        if not self._device.startswith("cuda"):
            raise RequestError(
                f"--captioner.four-bit needs a GPU, and the device is {self._device}: leave it out"
            )
        if missing := [name for name in ("accelerate", "bitsandbytes") if not find_spec(name)]:
            raise RequestError(
                f"--captioner.four-bit needs packages: pip install {' '.join(missing)}"
            )

    def _loaded(self) -> "_Loaded":
        """The model on its device, out of safetensors alone and without code of its own."""
        folder = _folder(self.model, [*AROUND, WEIGHTS])
        if not any(folder.glob(WEIGHTS)):
            raise ModelError(
                f"{self.model} has no {WEIGHTS} here, and pickled weights can run code: fetch them "
                f"(hf download {self.model}), or take another model"
            )
        library: Any = import_module("transformers")
        how: dict[str, Any] = {"dtype": self._dtype}
        if self.four_bit:
            nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": self._dtype}
            how["quantization_config"] = library.BitsAndBytesConfig(load_in_4bit=True, **nf4)
            how["device_map"] = {"": self._device}
        try:
            processor = library.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            model = library.AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, **how
            )
            return _Loaded(processor, model if self.four_bit else model.to(self._device))
        except Exception as wrong:  # a damaged or foreign folder fails anywhere in this library
            raise ModelError(
                f"{self.model} is no image-text-to-text model that can be used: {one_line(wrong)}"
            ) from wrong

    def _outcomes(
        self, model: "_Loaded", requests: Iterable[CaptionRequest], dataset: ImageDataset
    ) -> Generator[Outcome, None, None]:
        """What comes of the requests, a batch at a time; a batch has one variant."""
        size, asked = self.batch_size, sorted(requests, key=lambda request: request.variant)
        for variant, same in groupby(asked, lambda request: request.variant):
            rest = list(same)
            while rest:
                batch = {request: shown(request, dataset, self.size) for request in rest[:size]}
                failed = {r: image for r, image in batch.items() if isinstance(image, Failure)}
                seen = {r: image for r, image in batch.items() if not isinstance(image, Failure)}
                try:
                    texts = self._texts(model, seen, variant)
                except RuntimeError as error:
                    size = _smaller(len(seen), error)
                    continue
                yield from failed.items()
                yield from zip(seen, texts, strict=True)
                rest = rest[len(batch) :]

    def _texts(
        self, model: "_Loaded", seen: Mapping[CaptionRequest, Image], variant: int
    ) -> list[str]:
        """The answers to a batch: the likeliest words; for a variant, words drawn by its number."""
        if not seen:
            return []
        how: dict[str, Any] = {"max_new_tokens": self.max_tokens, "do_sample": variant > 0}
        how |= {"temperature": self.temperature} if variant else {}
        device = model.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(variant)
            return model.answer(list(seen.values()), [r.question for r in seen], how)


class _Loaded(NamedTuple):
    """A language model that sees images."""

    processor: Any
    model: Any

    @torch.inference_mode()
    def answer(
        self, images: Sequence[Image], questions: Sequence[str], how: Mapping[str, Any]
    ) -> list[str]:
        """What it says of each image, shown before its question."""
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"  # answers begin where all questions end
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        talks = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        texts = self.processor.apply_chat_template(talks, add_generation_prompt=True)
        begun = bool(tokenizer.bos_token) and texts[0].startswith(tokenizer.bos_token)
        given = self.processor(
            text=texts,
            images=[[image] for image in images],
            padding=True,
            add_special_tokens=not begun,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        said = self.model.generate(**given, pad_token_id=tokenizer.pad_token_id, **how)
        answers = said[:, given["input_ids"].shape[1] :]
        return list(self.processor.batch_decode(answers, skip_special_tokens=True))


def _smaller(batch: int, error: RuntimeError) -> int:
    """Half the batch that memory was too short for; anything else is no matter of memory."""
    short = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
    if not short:
        raise error
    if batch == 1:
        raise AnyclassError(
            "there is no memory for a single question: take a smaller --captioner.model, "
            "--captioner.four-bit or a smaller --captioner.size. What was answered is kept."
        ) from error
    return batch // 2


def _fingerprint(model: str) -> str:
    """What stands for the weights: the commit of a model of the Hub, the checksum of a folder's."""
    folder = _folder(model, AROUND)
    if not Path(model).is_dir():
        return folder.name
    sums = [f"{path.name} {sha256(path)}" for path in sorted(folder.glob(WEIGHTS))]
    return checksum("\n".join(sums).encode()).hexdigest()


def _folder(model: str, names: Sequence[str]) -> Path:
    """Where the model's files lie; those of the Hub that are called like `names` are fetched once.

    Raises:
        RequestError: they are not here and cannot be fetched.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(names), ignore_patterns=["*/*"]))
    except Exception as wrong:  # no such model, no right to it, no network, no space
        raise RequestError(
            f"{model} is no folder and could not be fetched ({one_line(wrong)}). With a network: "
            f"hf download {model}; without one, copy its folder here and name that instead"
        ) from wrong
