"""The figures of the load test: what its questions and answers say, without a service."""

from __future__ import annotations

import socket
from contextlib import closing

from benchmarks.delivery import Stream
from benchmarks.load import Overload, _is_open, complaints, latency
from schemas import decode_record


class Kept(Stream):
    """Keeps what is published."""

    def __init__(self) -> None:
        super().__init__("localhost:1")
        self.values: list[bytes] = []

    def send(self, partition: int, key: str, value: bytes) -> None:
        self.values.append(value)


def report(**changed: object) -> dict[str, object]:
    row = {"page": "/livez", "failed": 0, "p99_s": 0.1}
    behind = {"published": 1000, "behind_at_the_end": 900}
    return {"lost": 0, "twice": 0, "exit_code": 0, "loaded": [row]} | behind | changed


def test_the_slowest_of_a_hundred_is_the_longest_and_hardly_the_p99():
    found = latency("/", [0.01] * 99 + [2.0], failed=1)
    assert (found.asked, found.failed, found.p50_s, found.longest_s) == (100, 1, 0.01, 2.0)
    assert 0.01 < found.p99_s < 0.1


def test_what_is_not_as_it_should_be_is_named():
    assert complaints(report()) == []
    assert complaints(report(lost=2, twice=1, exit_code=4)) == ["lost: 2", "twice: 1", "exit_code: 4"]
    slow = {"page": "/", "failed": 3, "p99_s": 0.2004}
    assert complaints(report(loaded=[slow])) == ["/: p99 200 ms", "/: 3 failed"]


def test_a_service_that_keeps_up_was_not_overloaded():
    found = complaints(report(behind_at_the_end=499))
    assert found == ["no overload: of 1,000 records 501 were answered in time"]


def test_no_two_records_of_the_overload_have_one_sequence():
    stream = Kept()
    overload = Overload(stream, rate=1.0)
    for number in range(2500):
        overload.send(number)
    assert overload.published == 2500
    assert len({decode_record(value).sequence for value in stream.values}) == 2500


def test_a_connection_that_the_server_has_closed_is_seen():
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        theirs.send(b"an answer")
        assert _is_open(ours, b"a")
        assert theirs.recv(10) == b"a"
        theirs.close()
        assert not _is_open(ours, b"")
