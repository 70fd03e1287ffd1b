"""A server that speaks the OpenAI protocol: Ollama, vLLM, llama.cpp, a hosted one."""

import json
import os
from contextlib import AbstractContextManager
from typing import Any

import httpx2
from openai import APIStatusError, DefaultHttpxClient, NotFoundError, OpenAI, OpenAIError
from pydantic import SecretStr

from anyclass.captioning.dispatch import Failure
from anyclass.captioning.messages import UNREADABLE, answer, question
from anyclass.captioning.transport import Transport
from anyclass.data.classes import listed
from anyclass.errors import AnyclassError, RequestError

KEY = "ANYCLASS_ENDPOINT_KEY"
"""The environment variable that holds the server's key; none is needed on this machine."""
_CONNECT = 5.0


class Server(AbstractContextManager["Server"]):
    """Questions in, texts or failures out; safe for several threads."""

    def __init__(self, url: str, proxy: str | None, seconds: float, retries: int) -> None:
        """Nothing is sent yet. A try may take `seconds`; `retries` more may follow the first."""
        self._url, self._key = url, SecretStr(os.environ.get(KEY, "").strip())
        transport = Transport(_sendable(self._key), seconds, proxy)
        http = DefaultHttpxClient(
            transport=transport,
            timeout=httpx2.Timeout(seconds, connect=min(seconds, _CONNECT)),
            follow_redirects=False,
            trust_env=False,
        )
        self._client = OpenAI(base_url=url, api_key="none", max_retries=retries, http_client=http)

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self._client.close()

    def only_model(self) -> str:
        """The one model that the server has.

        Raises:
            RequestError: it has several or none.
        """
        names = self._models()
        if len(names) != 1:
            has = f"several models: {listed(names, 20)}" if names else "no model"
            raise RequestError(f"{self._url} has {has}: name one as the captioner's model.")
        return names[0]

    def answer(self, text: str, image: bytes, model: str, **generation: Any) -> str | Failure:
        """What `model` says to a question about a JPEG.

        Raises:
            AnyclassError: every other question would fail as well: no server, no right, no model.
        """
        body = question(text, image, model, **generation)
        try:
            said = self._client.chat.completions.with_raw_response.create(**body)
            return answer(json.loads(said.content))
        except NotFoundError:
            raise self._no_such(model) from None
        except OpenAIError as error:
            return Failure(self._reason(error))
        except UNREADABLE as error:
            return Failure(f"the answer cannot be read ({self._line(error)})")

    def _models(self) -> list[str]:
        """The names of all its models."""
        try:
            listing = json.loads(self._client.models.with_raw_response.list().content)
            return [str(model["id"]) for model in listing["data"]]
        except OpenAIError as error:
            why = self._reason(error)
        except UNREADABLE as error:
            why = self._line(error)
        raise AnyclassError(
            f"{self._url} does not list its models ({why}). Does its address end in /v1?"
        )

    def _no_such(self, model: str) -> RequestError:
        try:
            has = f"It has {listed(self._models(), 20)}: name one of these."
        except AnyclassError as error:
            has = str(error)
        return RequestError(f"{self._url} has no model {model!r}. {has}")

    def _reason(self, error: OpenAIError) -> str:
        """Why one question failed; raises where all others would fail as well."""
        cause = error.__cause__
        if isinstance(cause, httpx2.ConnectError):
            raise AnyclassError(
                f"no server answers at {self._url} ({self._line(cause)}). Start one (`ollama "
                "serve`, `vllm serve MODEL`), or give another address. What was answered is kept."
            ) from None
        if not isinstance(error, APIStatusError):
            return self._line(cause or error)
        if error.status_code in (401, 403):
            raise RequestError(
                f"{self._url} refuses the key (HTTP {error.status_code}): set the environment "
                f"variable {KEY} to one that it takes."
            ) from None
        if target := error.response.headers.get("location"):
            return f"it redirects to {self._line(target)!r}, where nothing is sent"
        return self._line(error)

    def _line(self, said: str | BaseException) -> str:
        """One short line, without the key should the server repeat it."""
        text = said if isinstance(said, str) else f"{type(said).__name__}: {said}"
        if key := self._key.get_secret_value():
            text = text.replace(key, f"<{KEY}>")
        return " ".join(text.split())[:200]


def _sendable(key: SecretStr) -> SecretStr:
    """The key, if a header can hold it: otherwise libraries would spell it out in an error."""
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise RequestError(f"{KEY} holds a character that is in no key: set it anew.")
    return key
