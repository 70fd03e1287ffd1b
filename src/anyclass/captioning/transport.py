"""What leaves for a server, and what may come back: limits below the OpenAI client.

An httpx timeout counts from byte to byte, so a server that drips never meets it. Here each try has
a connection of its own and a timer that closes it, whatever it is doing: with `seconds` for both, a
try ends after twice that at the latest.
"""

from contextlib import suppress
from threading import Timer
from time import monotonic

import httpx2
from pydantic import SecretStr

LARGEST = 2**20
"""Bytes of an answer, head not counted: one sentence needs a thousandth of it."""
LONGEST_WAIT = 60.0
"""Seconds that a server can ask for, before a question is put again."""
_SENT = ("accept", "content-type")
_KEPT = ("content-type", "location")


class Transport(httpx2.BaseTransport):
    """Sends one try: our headers alone, one connection, and an answer within time and size.

    No header of the client's own goes out: it would add the machine's system, and organisation or
    keys that stand in the environment for another server.
    """

    def __init__(self, key: SecretStr, seconds: float, proxy: str | None) -> None:
        """Identify with `key`; a try may take `seconds` from its connection to its last byte."""
        self._key, self._seconds, self._proxy = key, seconds, proxy
        self._tls = httpx2.create_ssl_context()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One try.

        Raises:
            httpx2.TransportError: it failed, took too long or was too large.
        """
        with httpx2.HTTPTransport(verify=self._tls, proxy=self._proxy, trust_env=False) as inner:
            end = monotonic() + self._seconds
            alarm = Timer(self._seconds, inner.close)
            alarm.daemon = True
            alarm.start()
            try:
                return _whole(inner.handle_request(self._bare(request)))
            except Exception as error:  # of whatever kind a connection raises that is closed
                if monotonic() < end:
                    raise
                text = f"no whole answer within {self._seconds:g} seconds"
                raise httpx2.ReadTimeout(text, request=request) from error
            finally:
                alarm.cancel()

    def _bare(self, request: httpx2.Request) -> httpx2.Request:
        """The same request with only those headers that the answer depends on."""
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


def _whole(response: httpx2.Response) -> httpx2.Response:
    """The answer, read to its end; its other headers are dropped."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("the answer is compressed, which was not asked for")
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > LARGEST:
            raise httpx2.ReadError(f"the answer is longer than {LARGEST} bytes")
    headers = {name: response.headers[name] for name in _KEPT if name in response.headers}
    with suppress(ValueError, KeyError):  # none, or a date: then the client has its own waits
        headers["retry-after"] = str(min(float(response.headers["retry-after"]), LONGEST_WAIT))
    return httpx2.Response(response.status_code, headers=headers, content=bytes(body))
