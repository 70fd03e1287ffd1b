"""Check where images may be sent: to this machine, and to one host that the user allows."""

import re
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

from anyclass.errors import RequestError

_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?(/[\w.~/-]*)?",
    re.ASCII | re.IGNORECASE,
)
"""No user name, password, query or fragment: they may be secrets, and parsers disagree on them."""


def remote_host(url: str, allowed: str) -> str:
    """The remote host that images are sent to; empty for this machine.

    Raises:
        RequestError: `url` is not an address, or is neither on this machine nor on `allowed`.
    """
    match = _ADDRESS.fullmatch(url)
    if not match:
        raise RequestError(
            f"{url!r} is not the address of a server. Give one such as http://127.0.0.1:11434/v1."
        )
    host = match["host"].strip("[]").lower()
    if _is_loopback(host):
        return ""
    if host != allowed.lower():
        raise RequestError(
            f"{url} is on another machine, so images would leave this one. "
            f"To allow it: --allow-remote {host}."
        )
    if match["scheme"].lower() != "https":
        raise RequestError(f"images are sent to {host} over https only, but {url} is plain http.")
    return host


def spellings(url: str) -> list[str]:
    """Ways to write one address: 127.0.0.1 or localhost, with or without a slash at the end."""
    bare = url.rstrip("/")
    hosts = ("://127.0.0.1", "://localhost")
    swapped = [bare.replace(one, other) for one in hosts for other in hosts if one in bare]
    urls = [way for one in (bare, *swapped) for way in (one, f"{one}/")]
    return list(dict.fromkeys([url, *urls]))


def proxy_for(host: str) -> str | None:
    """Proxy for a remote `host` according to the environment."""
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    """Whether `host` is 127.0.0.0/8, ::1 or localhost; other names may resolve to any machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
