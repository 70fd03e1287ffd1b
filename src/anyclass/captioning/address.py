"""Where images may be sent: this machine, and the one host that the user names."""

import re
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

from anyclass.errors import RequestError

_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?(/[\w.~/-]*)?",
    re.ASCII | re.IGNORECASE,
)
"""No name, password, query or fragment: they hold secrets, and parsers differ on them."""


def remote_host(url: str, allowed: str) -> str:
    """The host that images leave this machine for; nothing when they stay.

    Raises:
        RequestError: `url` is none, or leads elsewhere than to this machine or to `allowed`.
    """
    if not (match := _ADDRESS.fullmatch(url)):
        raise RequestError(
            f"{url!r} is no address of a server. Give one such as http://127.0.0.1:11434/v1."
        )
    host = match["host"].strip("[]").lower()
    if _is_loopback(host):
        return ""
    if host != allowed.lower():
        raise RequestError(
            f"{url} is on another machine, and images would leave this one. "
            f"If they may, say so by its name: --allow-remote {host}."
        )
    if match["scheme"].lower() != "https":
        raise RequestError(f"images go to {host} over https only, and {url} is plain http.")
    return host


def proxy_for(host: str) -> str | None:
    """The proxy on the way to a remote `host` that the environment names."""
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    """127.0.0.0/8, ::1 or localhost; any other name may lead anywhere."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
