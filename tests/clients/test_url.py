from __future__ import annotations

import pytest

from sonic_client.core.url import ServerUrl, parse, resolve
from sonic_client.errors import ConfigurationError


def test_the_form_that_coffea_users_write() -> None:
    url = parse("triton+grpc://triton.example.org:8001/top_tagger/2")
    assert (url.server, url.model, url.version) == (ServerUrl("grpc", "triton.example.org", 8001), "top_tagger", "2")
    assert str(url) == "triton+grpc://triton.example.org:8001/top_tagger/2"


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("localhost:8001", ServerUrl("grpc", "localhost", 8001)),
        ("http://localhost", ServerUrl("http", "localhost", 8000)),
        ("https://proxy.example.org/m", ServerUrl("http", "proxy.example.org", 8000, tls=True)),
        ("triton+grpcs://[::1]:443/m", ServerUrl("grpc", "::1", 443, tls=True)),
    ],
)
def test_short_forms(text: str, server: ServerUrl) -> None:
    assert parse(text).server == server


@pytest.mark.parametrize(
    "text",
    [
        "ftp://h:1/m",
        "grpc://h:port/m",
        "grpc:///m",
        "grpc://h/m/v1",
        "grpc://h/m/1/x",
        "grpc://u@h/m",
        "",
        "grpc://h/m?x",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse(text)


def test_several_servers_of_one_model() -> None:
    servers, model, version = resolve("grpc://a:1/m, grpc://b:2/m/3,grpc://a:1")
    assert [server.host for server in servers] == ["a", "b"]
    assert (model, version) == ("m", "3")


@pytest.mark.parametrize(
    "arguments",
    [
        ("grpc://a/m,grpc://b/n",),
        ("grpc://a/m", "n"),
        ("grpc://a",),
        ("grpc://a/m/1,grpc://b/m/2",),
        ([],),
        (None,),
        (3,),
        ([3],),
    ],
)  # fmt: skip
def test_contradictions_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError):
        resolve(*arguments)


def test_only_this_machine_is_loopback() -> None:
    assert parse("localhost:1").server.is_loopback
    assert parse("127.0.0.2:1").server.is_loopback
    assert parse("[::1]:1").server.is_loopback
    assert not parse("10.0.0.1:1").server.is_loopback
    assert not parse("localhost.example.org:1").server.is_loopback
