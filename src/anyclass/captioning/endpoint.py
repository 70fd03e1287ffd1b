"""The captioner that asks a language model behind an address: on this machine, or a hosted one."""

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import Suppress, arg

from anyclass.captioning.address import proxy_for, remote_host
from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.collage import jpeg, preparation
from anyclass.captioning.cost import CostEstimate, estimated
from anyclass.captioning.dispatch import (
    MAX_FAILURES,
    Failure,
    Outcome,
    answered,
    shown,
    side_by_side,
)
from anyclass.errors import RequestError
from anyclass.log import Log

if TYPE_CHECKING:
    from anyclass.captioning.server import Server

SECONDS = 1.2
"""For an answer: LLaVA 1.6 7B on a V100, as LatteCLIP's authors measured."""

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Endpoint:
    """Asks a language model that sees images, through the OpenAI protocol.

    Ollama, vLLM, SGLang, llama.cpp and hosted services speak it. Images leave this machine only
    for the host in `allow_remote`. The server's key stands in $ANYCLASS_ENDPOINT_KEY, nowhere else.
    """

    kind: Suppress[Literal["endpoint"]] = "endpoint"
    """Tells captioners apart in a saved configuration."""
    url: str = "http://127.0.0.1:11434/v1"
    """Address of the server, up to `/v1` (Ollama's on this machine)."""
    model: str = ""
    """Which of its models; empty takes the only one it has."""
    allow_remote: Annotated[str, arg(prefix_name=False, metavar="HOST")] = ""
    """Name of the one other machine that images may be sent to."""
    size: Count = 672
    """Longer side of a single image that is sent, in pixels; a smaller one stays as it is."""
    max_tokens: Count = 77
    """Longest answer (LatteCLIP's)."""
    temperature: NotNegative = 0.0
    """0 always says the likeliest (LatteCLIP's)."""
    concurrency: Annotated[int, Field(gt=0, le=64)] = 4
    """Questions under way at once."""
    timeout: Positive = 60.0
    """Seconds for a try, from its connection to the last byte of the answer."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Further tries when the server is busy or stumbles; it may ask for a minute's wait each."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = MAX_FAILURES
    """Share of the questions that may stay without an answer."""
    price_in: NotNegative = 0.0
    """Dollars for a million tokens of images and questions; 0 where not known."""
    price_out: NotNegative = 0.0
    """Dollars for a million tokens of answers; 0 where not known."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """One sentence for each request, from the journal where it knows one.

        Raises:
            RequestError: images would go where they may not, or key or model are wrong.
            AnyclassError: there is no server, or too many questions failed.
        """
        if not requests:
            return []
        host = remote_host(self.url, self.allow_remote)
        generation = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        with _server(self, host) as server:
            model = self.model or server.only_model()

            def answer(request: CaptionRequest) -> str | Failure:
                image = shown(request, context.dataset, self.size)
                if isinstance(image, Failure):
                    return image
                return server.answer(request.question, jpeg(image), model, **generation)

            def ask(missing: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
                if host:
                    log(warning=self._leaving(missing))
                yield from side_by_side(answer, missing, self.concurrency)

            asked = {"kind": self.kind, "url": self.url, "model": model, **generation}
            identity = asked | {"picture": preparation(self.size)}
            return answered(requests, context, identity, ask, log, self.max_failures)

    def estimate(self, calls: int) -> CostEstimate:
        """What `calls` answers cost; time as if each took `SECONDS`.

        Raises:
            RequestError: images would go where they may not.
        """
        host = remote_host(self.url, self.allow_remote)
        seconds, prices = SECONDS / self.concurrency, (self.price_in, self.price_out)
        return estimated(calls, self.size, self.max_tokens, seconds, prices, host)

    def _leaving(self, missing: Collection[CaptionRequest]) -> str:
        """What is about to leave this machine, said before it does."""
        images = len({row for request in missing for row in request.rows})
        cost = self.estimate(len(missing))
        price = "at a price not known" if cost.dollars is None else f"for ${cost.dollars:.2f}"
        return (
            f"{images} images leave this machine for {cost.sent_to}, in {len(missing)} "
            f"questions of about {cost.megabytes_sent:.1f} MB altogether, {price}."
        )


@contextmanager
def _server(endpoint: Endpoint, host: str) -> Generator["Server", None, None]:
    """The server; its libraries are imported now, not before."""
    try:
        from anyclass.captioning.server import Server
    except ImportError as error:
        raise RequestError(
            f"the captioner `endpoint` needs the package {error.name}: pip install 'anyclass[lmm]'"
        ) from error
    proxy = proxy_for(host) if host else None
    with Server(endpoint.url, proxy, endpoint.timeout, endpoint.retries) as server:
        yield server
