"""Where images may go: this machine, and the one host that is named."""

import pytest

from anyclass.captioning.address import proxy_for, remote_host
from anyclass.errors import RequestError


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434/v1",
        "http://127.8.9.1:8000",
        "https://localhost/v1",
        "HTTP://LocalHost:80/v1/",
        "http://[::1]:8000/v1",
    ],
)
def test_remote_host__this_machine_is_not_remote(url: str) -> None:
    assert remote_host(url, "") == ""


REMOTE = [
    "https://api.example.com/v1",
    "https://192.168.0.9:8000/v1",
    "https://0.0.0.0:8000/v1",
    "https://127.1/v1",
    "https://2130706433/v1",
    "https://localhost.example.com/v1",
    "https://localhost./v1",
    "https://[::2]/v1",
    "https://127.0.0.1.nip.io/v1",
]


def test_remote_host__elsewhere_needs_its_name() -> None:
    for url in REMOTE:
        with pytest.raises(RequestError, match="another machine") as refused:
            remote_host(url, "")
        name = str(refused.value).split("--allow-remote ")[1].rstrip(".")
        assert remote_host(url, name if not url.endswith("localhost./v1") else "localhost.") != ""
        with pytest.raises(RequestError, match="another machine"):
            remote_host(url, "example.com")


def test_remote_host__capitals_are_the_same_host() -> None:
    assert remote_host("https://API.example.com/v1", "api.EXAMPLE.com") == "api.example.com"


def test_remote_host__never_in_the_clear() -> None:
    with pytest.raises(RequestError, match="over https only"):
        remote_host("http://api.example.com/v1", "api.example.com")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:11434",
        "ftp://127.0.0.1/v1",
        "file:///etc/passwd",
        "http://user:word@127.0.0.1/v1",
        "http://127.0.0.1\\@example.com/v1",
        "http://127.0.0.1#@example.com/v1",
        "http://127.0.0.1/v1?key=secret",
        "http://127.0.0.1 /v1",
        "http://127.0.0.1/v1\n",
        "http://ⓛocalhost/v1",
    ],
)
def test_remote_host__what_parsers_read_differently_is_no_address(url: str) -> None:
    with pytest.raises(RequestError, match="not the address of a server"):
        remote_host(url, "example.com")


def test_proxy_for__the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("api.example.com") is None
    monkeypatch.setenv("https_proxy", "proxy.example.com:3128")
    assert proxy_for("api.example.com") == "http://proxy.example.com:3128"
    monkeypatch.setenv("https_proxy", "http://other.example.com")
    assert proxy_for("api.example.com") == "http://other.example.com"
    monkeypatch.setenv("no_proxy", "api.example.com")
    assert proxy_for("api.example.com") is None
