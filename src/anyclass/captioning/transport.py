"""HTTP transport of the OpenAI client, with limits on what is sent and what is received.

An httpx timeout counts from byte to byte, so a slow drip never reaches it. Here each attempt has
its own connection and a timer that closes it; with `seconds` for both, an attempt ends after twice
that at the latest.
"""

from contextlib import suppress
from functools import cached_property
from ssl import SSLContext
from threading import Timer
from time import monotonic

import httpx2
from pydantic import SecretStr

LARGEST = 2**20
"""Maximum number of bytes of an answer without its headers; a sentence needs a thousandth of it."""
LONGEST_WAIT = 60.0
"""Longest wait in seconds that a server can ask for before a retry."""
_SENT = ("accept", "content-type")
_KEPT = ("content-type", "location")


class Transport(httpx2.BaseTransport):
    """One attempt: our own headers only, one connection, limits on time and size.

    The client's headers are not sent: they would reveal the operating system, and organisation or
    keys that the environment holds for another server.
    """

    def __init__(self, key: SecretStr, seconds: float, proxy: str | None) -> None:
        """Authenticate with `key`; an attempt may take `seconds` in total."""
        self._key = key
        self._seconds = seconds
        self._proxy = proxy

    @cached_property
    def _tls(self) -> SSLContext:
        """Certificates to trust, which take 20 ms to read."""
        return httpx2.create_ssl_context()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request.

        Raises:
            httpx2.TransportError: it failed, took too long, or its answer was too large.
        """
        verify = request.url.scheme == "https" and self._tls
        with httpx2.HTTPTransport(verify=verify, proxy=self._proxy, trust_env=False) as inner:
            end = monotonic() + self._seconds
            alarm = Timer(self._seconds, inner.close)
            alarm.daemon = True
            alarm.start()
            try:
                return _read(inner.handle_request(self._stripped(request)))
            except Exception as error:  # a closed connection raises any kind of exception
                if monotonic() < end:
                    raise
                text = f"no complete answer within {self._seconds:g} seconds"
                raise httpx2.ReadTimeout(text, request=request) from error
            finally:
                alarm.cancel()

    def _stripped(self, request: httpx2.Request) -> httpx2.Request:
        """The same request with only the headers that the answer depends on."""
        headers = {name: request.headers[name] for name in _SENT if name in request.headers}
        headers |= {"accept-encoding": "identity", "user-agent": "anyclass"}
        headers["authorization"] = f"Bearer {self._key.get_secret_value() or 'none'}"
        return httpx2.Request(
            request.method,
            request.url,
            headers=headers,
            content=request.read(),
            extensions=request.extensions,
        )


def _read(response: httpx2.Response) -> httpx2.Response:
    """Read the answer to its end and drop its other headers."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("the answer is compressed, which was not requested")
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > LARGEST:
            raise httpx2.ReadError(f"the answer is longer than {LARGEST} bytes")
    headers = {name: response.headers[name] for name in _KEPT if name in response.headers}
    with suppress(ValueError, KeyError):  # missing, or a date: the client uses its own waits
        headers["retry-after"] = str(min(float(response.headers["retry-after"]), LONGEST_WAIT))
    return httpx2.Response(response.status_code, headers=headers, content=bytes(body))
