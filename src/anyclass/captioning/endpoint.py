"""Captioner that asks a multimodal language model over HTTP: on this machine, or a hosted one."""

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import Suppress, arg

from anyclass.captioning.address import proxy_for, remote_host, spellings
from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.collage import jpeg, settings
from anyclass.captioning.cost import CostEstimate, estimated
from anyclass.captioning.dispatch import (
    MAX_FAILURES,
    Failure,
    Outcome,
    answered,
    load_image,
    side_by_side,
)
from anyclass.captioning.response_cache import ResponseCache
from anyclass.errors import AnyclassError, RequestError
from anyclass.log import Log, silent

if TYPE_CHECKING:
    from anyclass.captioning.server import Server

SECONDS = 1.2
"""Time per answer: LLaVA 1.6 7B on a V100, as measured by LatteCLIP's authors."""

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Endpoint:
    """Ask a multimodal language model through the OpenAI protocol.

    Ollama, vLLM, SGLang, llama.cpp and hosted services support it. Images are sent to this machine
    or to the host in `allow_remote` only. The server's key is read from $ANYCLASS_ENDPOINT_KEY and
    never saved.
    """

    kind: Suppress[Literal["endpoint"]] = "endpoint"
    """Type of captioner in a saved configuration."""
    url: str = "http://127.0.0.1:11434/v1"
    """Address of the server, up to `/v1`, such as Ollama's on this machine."""
    model: str = ""
    """Name of the model; may be empty if the server has only one."""
    allow_remote: Annotated[str, arg(prefix_name=False, metavar="HOST")] = ""
    """Name of the one other machine that images may be sent to."""
    size: Count = 672
    """Longer side of a single image in pixels; smaller images are not enlarged."""
    max_tokens: Count = 77
    """Maximum length of an answer in tokens (LatteCLIP: 77)."""
    temperature: NotNegative = 0.0
    """Sampling temperature; 0 is greedy decoding (LatteCLIP's)."""
    concurrency: Annotated[int, Field(gt=0, le=64)] = 4
    """Number of questions in flight at once."""
    timeout: Positive = 60.0
    """Seconds per attempt, from the connection to the last byte of the answer."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Further attempts after a server error; the server may ask for up to a minute's wait each."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = MAX_FAILURES
    """Share of the questions that may have no answer."""
    price_in: NotNegative = 0.0
    """Dollars per million input tokens (images and questions); 0 if not known."""
    price_out: NotNegative = 0.0
    """Dollars per million output tokens; 0 if not known."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """Return one sentence per request, from the response cache or from the server.

        Raises:
            RequestError: images may not be sent to this address, or key or model are wrong.
            AnyclassError: there is no server, or too many questions failed.
        """
        if not requests:
            return []
        host = remote_host(self.url, self.allow_remote)
        generation = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        with _server(self, host) as server:
            model = self.model or self._only_model(server, log)

            def answer(request: CaptionRequest) -> str | Failure:
                image = load_image(request, context.dataset, self.size)
                if isinstance(image, Failure):
                    return image
                return server.answer(request.question, jpeg(image), model, **generation)

            def ask(missing: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
                if host:
                    log(warning=self._leaving(missing))
                yield from side_by_side(answer, missing, self.concurrency)

            identity = {"model": model, **generation}
            keyed_by_url = identity | {"kind": self.kind, "picture": settings(self.size)}
            earlier = [keyed_by_url | {"url": url} for url in spellings(self.url)]
            most = self.max_failures
            return answered(requests, context, identity, ask, log, most, self.size, earlier)

    @property
    def answered_by(self) -> str:
        """Name of the model that answers; the one that the server had, if none is given."""
        if self.model:
            return self.model
        with ResponseCache(silent) as cache:
            return cache.model_at(self.url) or ""

    def estimate(self, calls: int) -> CostEstimate:
        """Cost of `calls` answers of `SECONDS` each.

        Raises:
            RequestError: images may not be sent to this address.
        """
        host = remote_host(self.url, self.allow_remote)
        seconds = SECONDS / self.concurrency
        prices = (self.price_in, self.price_out)
        return estimated(calls, self.size, self.max_tokens, seconds, prices, host)

    def _only_model(self, server: "Server", log: Log) -> str:
        """The server's only model; while no server answers, the one that answered there before."""
        with ResponseCache(log) as cache:
            try:
                model = server.only_model()
            except RequestError:
                raise
            except AnyclassError as error:
                if known := cache.model_at(self.url):
                    log(warning=f"{error} Until then answers of {known}, which was there, count.")
                    return known
                raise
            cache.remember(self.url, model)
            return model

    def _leaving(self, missing: Collection[CaptionRequest]) -> str:
        """Message about the images that will leave this machine."""
        images = len({row for request in missing for row in request.rows})
        cost = self.estimate(len(missing))
        price = "at an unknown price" if cost.dollars is None else f"for ${cost.dollars:.2f}"
        return (
            f"sending {images} images to {cost.sent_to}, in {len(missing)} questions of about "
            f"{cost.megabytes_sent:.1f} MB in total, {price}."
        )


@contextmanager
def _server(endpoint: Endpoint, host: str) -> Generator["Server", None, None]:
    """Open the server; its libraries are imported only now."""
    try:
        from anyclass.captioning.server import Server
    except ImportError as error:
        raise RequestError(
            f"the captioner `endpoint` needs the package {error.name}: pip install 'anyclass[lmm]'"
        ) from error
    proxy = proxy_for(host) if host else None
    with Server(endpoint.url, proxy, endpoint.timeout, endpoint.retries) as server:
        yield server
