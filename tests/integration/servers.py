"""Servers under load: the targets server_….py, and who asks them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import socket
import time
from typing import Iterator

from interpreters import Interpreter
from runner import TARGETS, TIMEOUT_S

KINDS = ("light", "heavy")
CONNECTIONS = 4
REQUESTS_OF_A_CONNECTION = 25


@dataclasses.dataclass(frozen=True)
class Server:
    target: str
    packages: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    has_tasks: bool = True  # of asyncio

    def command(self, python: Interpreter, listening: socket.socket) -> list[str]:
        script = str(TARGETS / f"{self.target}.py")
        return [python.path, script, str(listening.fileno()), *self.arguments]


SERVERS = {
    "aiohttp": Server("server_aiohttp", ("aiohttp",)),
    "starlette": Server("server_starlette", ("starlette", "uvicorn", "h11")),
    "starlette-uvloop": Server(
        "server_starlette", ("starlette", "uvicorn", "h11", "uvloop"), ("uvloop",)
    ),
    "gevent": Server("server_gevent", ("gevent",), has_tasks=False),
}


@contextlib.contextmanager
def make_socket() -> Iterator[socket.socket]:
    """A socket that listens, for a server that inherits it. Answers are not held back until what
    was sent before has arrived, which takes 40 ms where a server sends them in two parts."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listening


def ask(connection: http.client.HTTPConnection, kind: str, number: int) -> float:
    """Makes one request, which has to be answered rightly; returns how long it took, in seconds."""
    begin = time.perf_counter()
    connection.request("GET", f"/{kind}/{number}")
    response = connection.getresponse()
    body = response.read().decode()
    took = time.perf_counter() - begin
    assert (response.status, body) == (200, f"{kind} {number}")
    return took


def ask_once(listening: socket.socket, kind: str) -> None:
    connection = http.client.HTTPConnection(*listening.getsockname(), timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        ask(connection, kind, 0)


def ask_some(listening: socket.socket, first: int, count: int) -> list[float]:
    """Requests of all kinds by turns, of which some have a connection in common."""
    latencies = []
    for begin in range(first, first + count, REQUESTS_OF_A_CONNECTION):
        connection = http.client.HTTPConnection(*listening.getsockname(), timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            for number in range(begin, min(begin + REQUESTS_OF_A_CONNECTION, first + count)):
                latencies.append(ask(connection, KINDS[number % len(KINDS)], number))
    return latencies


def load(listening: socket.socket, count: int) -> list[float]:
    """So many requests, over several connections at a time; the seconds that each took."""
    share = count // CONNECTIONS
    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as clients:
        asked = [
            clients.submit(ask_some, listening, at * share, share) for at in range(CONNECTIONS)
        ]
        return [took for one in asked for took in one.result(TIMEOUT_S)]
