"""Captioner that runs a multimodal language model in this process.

Any image-text-to-text model of the Hugging Face Hub: LLaVA-1.6, Qwen2.5-VL, SmolVLM.
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
from anyclass.captioning.collage import settings
from anyclass.captioning.cost import CostEstimate, estimated
from anyclass.captioning.dispatch import Failure, Outcome, answered, load_image
from anyclass.data import ImageDataset
from anyclass.data.image import one_line
from anyclass.errors import AnyclassError, ModelError, RequestError, out_of_memory
from anyclass.files import sha256
from anyclass.log import Log

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SECONDS = {"cuda": 1.2, "cpu": 60.0}
"""Time per answer of a model with 7 billion weights: LatteCLIP's on a V100, and a rough guess."""
WEIGHTS = "*.safetensors"
"""The only weights that are downloaded and read; pickled ones can run code."""
AROUND = ["*.json", "*.txt", "*.jinja", "*.model"]
"""Configuration, tokenizer and chat template."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Transformers:
    """Run a multimodal language model in this process: no image leaves the machine."""

    kind: Suppress[Literal["transformers"]] = "transformers"
    """Type of captioner in a saved configuration."""
    model: str = "llava-hf/llava-v1.6-mistral-7b-hf"
    """An image-text-to-text model of the Hugging Face Hub, or its folder (LatteCLIP: LLaVA 1.6)."""
    size: Annotated[int, Field(gt=0)] = 672
    """Longest side of an image in pixels."""
    max_tokens: Annotated[int, Field(gt=0)] = 77
    """Maximum length of an answer in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Sampling temperature of further texts of an image; the first text is decoded greedily."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Questions per batch; halved when memory runs out."""
    device: str = "auto"
    """Device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of the weights; auto: bf16 or else fp16 on a GPU, fp32 on a CPU."""
    four_bit: bool = False
    """Weights in 4 bits (NF4, as in LatteCLIP): 5 GB of GPU memory instead of 15 in fp16."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """Return one sentence per request, from the response cache or from the model.

        Raises:
            RequestError: the model is not available, or this machine does not support a setting.
            ModelError: its files are damaged, of another kind or not safetensors.
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

        earlier = [identity | settings(self.size)]
        return answered(requests, context, identity, ask, log, size=self.size, earlier=earlier)

    @property
    def answered_by(self) -> str:
        """Name of the model that answers."""
        return self.model

    def estimate(self, calls: int) -> CostEstimate:
        """Cost of `calls` answers: only time."""
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
        """Reject settings that this machine does not support, before any download."""
        if find_spec("transformers") is None:
            raise RequestError(
                "the captioner `transformers` needs a package: pip install 'anyclass[hf-lmm]'"
            )
        if not self.four_bit:
            return
        if not self._device.startswith("cuda"):
            raise RequestError(
                f"--captioner.four-bit needs a GPU, but the device is {self._device}: omit the flag"
            )
        missing = [name for name in ("accelerate", "bitsandbytes") if not find_spec(name)]
        if missing:
            raise RequestError(
                f"--captioner.four-bit needs packages: pip install {' '.join(missing)}"
            )

    def _loaded(self) -> "_Loaded":
        """Load the model to its device, from safetensors only and without remote code."""
        folder = _folder(self.model, [*AROUND, WEIGHTS])
        if not any(folder.glob(WEIGHTS)):
            raise ModelError(
                f"{self.model} has no {WEIGHTS} here, and pickled weights can run code: download "
                f"them (hf download {self.model}), or choose another model"
            )
        library: Any = import_module("transformers")
        options: dict[str, Any] = {"dtype": self._dtype}
        if self.four_bit:
            nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": self._dtype}
            options["quantization_config"] = library.BitsAndBytesConfig(load_in_4bit=True, **nf4)
            options["device_map"] = {"": self._device}
        try:
            processor = library.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            model = library.AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, **options
            )
            return _Loaded(processor, model if self.four_bit else model.to(self._device))
        except Exception as error:  # a damaged or foreign folder fails anywhere in this library
            raise ModelError(
                f"{self.model} is not a usable image-text-to-text model: {one_line(error)}"
            ) from error

    def _outcomes(
        self, model: "_Loaded", requests: Iterable[CaptionRequest], dataset: ImageDataset
    ) -> Generator[Outcome, None, None]:
        """Outcomes of the requests, in batches of one variant each."""
        size = self.batch_size
        by_variant = sorted(requests, key=lambda request: request.variant)
        for variant, same in groupby(by_variant, lambda request: request.variant):
            rest = list(same)
            while rest:
                batch = {r: load_image(r, dataset, self.size) for r in rest[:size]}
                failed = {r: image for r, image in batch.items() if isinstance(image, Failure)}
                loaded = {r: image for r, image in batch.items() if not isinstance(image, Failure)}
                try:
                    texts = self._texts(model, loaded, variant)
                except RuntimeError as error:
                    size = _halved(len(loaded), error)
                    continue
                yield from failed.items()
                yield from zip(loaded, texts, strict=True)
                rest = rest[len(batch) :]

    def _texts(
        self, model: "_Loaded", images: Mapping[CaptionRequest, Image], variant: int
    ) -> list[str]:
        """Answers to a batch: greedy for variant 0, else sampled with the variant as seed."""
        if not images:
            return []
        options: dict[str, Any] = {"max_new_tokens": self.max_tokens, "do_sample": variant > 0}
        options |= {"temperature": self.temperature} if variant else {}
        device = model.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(variant)
            return model.answer(list(images.values()), [r.question for r in images], options)


class _Loaded(NamedTuple):
    """A multimodal language model and its processor."""

    processor: Any
    model: Any

    @torch.inference_mode()
    def answer(
        self, images: Sequence[Image], questions: Sequence[str], options: Mapping[str, Any]
    ) -> list[str]:
        """Answer one question about each image; the image precedes the question."""
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"  # answers begin where all questions end
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        conversations = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        texts = self.processor.apply_chat_template(conversations, add_generation_prompt=True)
        has_bos = bool(tokenizer.bos_token) and texts[0].startswith(tokenizer.bos_token)
        inputs = self.processor(
            text=texts,
            images=[[image] for image in images],
            padding=True,
            add_special_tokens=not has_bos,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        output = self.model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, **options)
        answers = output[:, inputs["input_ids"].shape[1] :]
        return list(self.processor.batch_decode(answers, skip_special_tokens=True))


def _halved(batch: int, error: RuntimeError) -> int:
    """Half of a batch size that ran out of memory; other errors are raised again."""
    if not out_of_memory(error):
        raise error
    if batch == 1:
        raise AnyclassError(
            "there is no memory for a single question: use a smaller --captioner.model, "
            "--captioner.four-bit or a smaller --captioner.size. Earlier answers are kept."
        ) from error
    return batch // 2


def _fingerprint(model: str) -> str:
    """Identity of the weights: the commit of a Hub model, or the checksum of a folder's files."""
    folder = _folder(model, AROUND)
    if not Path(model).is_dir():
        return folder.name
    sums = [f"{path.name} {sha256(path)}" for path in sorted(folder.glob(WEIGHTS))]
    return checksum("\n".join(sums).encode()).hexdigest()


def _folder(model: str, names: Sequence[str]) -> Path:
    """Folder with the model's files; those of a Hub model that match `names` are downloaded once.

    Raises:
        RequestError: they are not here and cannot be downloaded.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(names), ignore_patterns=["*/*"]))
    except Exception as error:  # no such model, no permission, no network, no space
        raise RequestError(
            f"{model} is not a folder and could not be downloaded ({one_line(error)}). With a "
            f"network: hf download {model}; without one, copy its folder here and give its path"
        ) from error
