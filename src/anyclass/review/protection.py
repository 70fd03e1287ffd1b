"""Protection of the server: Host, token, origin, size of requests, headers of answers.

Pure ASGI: a request is refused before any of its body is read.
"""

import secrets
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 128 * 2**20
"""Maximum number of bytes of a request with images."""

MOST_JSON = 2 * 2**20
"""Maximum number of bytes of any other request."""

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
"""Headers of every answer."""

NO_TOKEN = (
    "this needs the token: open the whole address that `anyclass serve` printed, or send the "
    "header Authorization: Bearer TOKEN"
)


def protected(app: ASGIApp, token: str, hosts: Sequence[str], uploads: Sequence[str]) -> ASGIApp:
    """The app behind all checks.

    Args:
        app: the app.
        token: what a request must know, as a cookie or a header.
        hosts: values of the Host header that are served.
        uploads: paths that take images.
    """
    app = _Limits(app, uploads)
    app = _Token(app, token)
    app = TrustedHostMiddleware(app, allowed_hosts=list(hosts), www_redirect=False)
    return _AnswerHeaders(app)


class _AnswerHeaders:
    """Adds `HEADERS` to every answer; nothing is kept by the browser unless the answer says so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers)


class _Token:
    """Answers only who knows the token; a page of another origin does not act with the cookie."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = self._answer(scope, Headers(scope=scope))
        await (answer or self.app)(scope, receive, send)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that goes no further; None: it may pass."""
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(bearer):
            return None
        if scope["path"] == "/":
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if self._is_token(query.get("token", [""])[0]):
                return self._welcome(scope)
        if not self._is_token(_cookie(headers, cookie_name(scope))):
            return JSONResponse({"detail": NO_TOKEN}, 401, {"WWW-Authenticate": "Bearer"})
        own = f"{scope['scheme']}://{headers.get('host', '')}"
        if scope["method"] not in SAFE and headers.get("origin", own) != own:
            return JSONResponse({"detail": "a page of another origin may not do this"}, 403)
        return None

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self.token.encode())

    def _welcome(self, scope: Scope) -> Response:
        """Set the cookie, and take the token out of the address bar."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(cookie_name(scope), self.token, httponly=True, samesite="strict")
        return answer


class _Limits:
    """Refuses a body that is too large, or of unknown size, before reading it."""

    def __init__(self, app: ASGIApp, uploads: Sequence[str]) -> None:
        self.app = app
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer(scope) if scope["type"] == "http" else None
        await (answer or self.app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:
            return JSONResponse({"detail": "send the body with its Content-Length"}, 411)
        most = MOST_BYTES if scope["path"] in self.uploads else MOST_JSON
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            return JSONResponse({"detail": f"a request has at most {most} bytes"}, 413)
        return None


def cookie_name(scope: Scope) -> str:
    """Name of the cookie: servers on several ports share the cookies of a host."""
    server = scope.get("server")
    return f"anyclass_{server[1] if server else 0}"


def _cookie(headers: Headers, name: str) -> str:
    """Value of a cookie, empty if there is none."""
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""
