"""Client for a server with the OpenAI protocol: Ollama, vLLM, llama.cpp, a hosted one."""

import json
import os
from contextlib import AbstractContextManager
from typing import Any

import httpx2
from openai import APIStatusError, DefaultHttpxClient, NotFoundError, OpenAI, OpenAIError
from pydantic import SecretStr

from anyclass.captioning.dispatch import Failure
from anyclass.captioning.messages import UNREADABLE, answer_text, question
from anyclass.captioning.transport import Transport
from anyclass.data.classes import listed
from anyclass.errors import AnyclassError, RequestError

KEY = "ANYCLASS_ENDPOINT_KEY"
"""Environment variable with the server's key; local servers usually need none."""
_CONNECT = 5.0


class Server(AbstractContextManager["Server"]):
    """Questions in, texts or failures out; safe for several threads."""

    def __init__(self, url: str, proxy: str | None, seconds: float, retries: int) -> None:
        """Create a client for `url`; nothing is sent yet.

        Args:
            url: address of the server.
            proxy: address of the proxy, if any.
            seconds: time limit of one attempt.
            retries: further attempts after the first.
        """
        self._url = url
        self._key = SecretStr(os.environ.get(KEY, "").strip())
        transport = Transport(_checked(self._key), seconds, proxy)
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
        """Name of the server's only model.

        Raises:
            RequestError: it has several or none.
        """
        names = self._models()
        if len(names) != 1:
            if not names:
                raise RequestError(f"{self._url} has no model: load one there first.")
            raise RequestError(
                f"{self._url} has several models: {listed(names, 20)}: "
                "choose one with --captioner.model."
            )
        return names[0]

    def answer(self, text: str, image: bytes, model: str, **generation: Any) -> str | Failure:
        """Answer of `model` to a question about a JPEG.

        Raises:
            AnyclassError: all questions would fail: no server, no permission or no such model.
        """
        body = question(text, image, model, **generation)
        try:
            response = self._client.chat.completions.with_raw_response.create(**body)
            return answer_text(json.loads(response.content))
        except NotFoundError:
            raise self._no_such(model) from None
        except OpenAIError as error:
            return Failure(self._reason(error))
        except UNREADABLE as error:
            return Failure(f"the answer cannot be read ({self._line(error)})")

    def _models(self) -> list[str]:
        """Names of the server's models."""
        try:
            response = json.loads(self._client.models.with_raw_response.list().content)
            return [str(model["id"]) for model in response["data"]]
        except OpenAIError as error:
            reason = self._reason(error)
        except UNREADABLE as error:
            reason = self._line(error)
        raise AnyclassError(
            f"{self._url} does not list its models ({reason}). Does its address end in /v1?"
        )

    def _no_such(self, model: str) -> RequestError:
        try:
            advice = f"It has {listed(self._models(), 20)}: choose one of these."
        except AnyclassError as error:
            advice = str(error)
        return RequestError(f"{self._url} has no model {model!r}. {advice}")

    def _reason(self, error: OpenAIError) -> str:
        """Why one question failed.

        Raises:
            AnyclassError: all other questions would fail as well.
        """
        cause = error.__cause__
        if isinstance(cause, httpx2.ConnectError):
            raise AnyclassError(
                f"no server answers at {self._url} ({self._line(cause)}). Start one (`ollama "
                "serve`, `vllm serve MODEL`), or give another address. Earlier answers are kept."
            ) from None
        if not isinstance(error, APIStatusError):
            return self._line(cause or error)
        if error.status_code in (401, 403):
            raise RequestError(
                f"{self._url} rejects the key (HTTP {error.status_code}): set the environment "
                f"variable {KEY} to a valid key."
            ) from None
        if target := error.response.headers.get("location"):
            return f"it redirects to {self._line(target)!r}, and redirects are not followed"
        return self._line(error)

    def _line(self, problem: str | BaseException) -> str:
        """One short line; the key is removed in case the server repeats it."""
        text = str(problem)
        if isinstance(problem, BaseException):
            text = f"{type(problem).__name__}: {text}"
        if key := self._key.get_secret_value():
            text = text.replace(key, f"<{KEY}>")
        return " ".join(text.split())[:200]


def _checked(key: SecretStr) -> SecretStr:
    """Return the key if it is valid in a header; libraries would print an invalid one in errors.

    Raises:
        RequestError: it is not valid.
    """
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise RequestError(f"{KEY} contains a character that no key has: set it again.")
    return key
