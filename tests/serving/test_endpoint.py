"""Health and metrics over HTTP."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from dsa_runtime import ServingError
from dsa_runtime.serving.endpoint import Endpoint


class Patient:
    """What the endpoint asks about."""

    ailment: str | None = None

    def diagnose(self) -> str | None:
        return self.ailment


@pytest.fixture
def patient() -> Patient:
    return Patient()


@pytest.fixture
def endpoint(patient: Patient) -> Iterator[Endpoint]:
    endpoint = Endpoint("0", lambda: ("text/x-test", b"ticks 3\n"), patient.diagnose)
    yield endpoint
    endpoint.close()


def get(endpoint: Endpoint, path: str) -> tuple[int, str, str]:
    """Status, content type, text."""
    try:
        with urllib.request.urlopen(f"http://{endpoint.address}{path}", timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_and_health(endpoint: Endpoint, patient: Patient) -> None:
    assert endpoint.address.startswith("127.0.0.1:")
    assert get(endpoint, "/metrics") == (200, "text/x-test", "ticks 3\n")
    assert get(endpoint, "/healthz?x=1") == (200, "text/plain; charset=utf-8", "ok\n")
    patient.ailment = "draining"
    assert get(endpoint, "/healthz")[::2] == (503, "draining\n")
    assert get(endpoint, "/metrics")[0] == 200
    assert get(endpoint, "/")[0] == 404


def test_a_visitor_that_says_nothing_holds_up_nobody(endpoint: Endpoint) -> None:
    host, _, port = endpoint.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        assert get(endpoint, "/healthz")[0] == 200


def test_closing_ends_it(patient: Patient) -> None:
    endpoint = Endpoint("localhost:0", lambda: ("", b""), patient.diagnose)
    endpoint.close()
    endpoint.close()
    with pytest.raises(urllib.error.URLError):
        get(endpoint, "/healthz")


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 on this machine")
def test_an_ipv6_address(patient: Patient) -> None:
    endpoint = Endpoint("[::1]:0", lambda: ("text/plain", b""), patient.diagnose)
    try:
        assert endpoint.address.startswith("[::1]:")
        assert get(endpoint, "/healthz")[0] == 200
    finally:
        endpoint.close()


@pytest.mark.parametrize(
    "address", ["", "localhost", "127.0.0.1:", "127.0.0.1:http", "example.org:80", "1:65536", "1:-1"]
)
def test_addresses_that_are_none(patient: Patient, address: str) -> None:
    with pytest.raises(ServingError, match="expected HOST:PORT"):
        Endpoint(address, lambda: ("", b""), patient.diagnose)


def test_a_port_in_use(endpoint: Endpoint, patient: Patient) -> None:
    with pytest.raises(ServingError, match=r"metrics address.*in use"):
        Endpoint(endpoint.address, lambda: ("", b""), patient.diagnose)
