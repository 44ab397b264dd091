"""A message's headers, whatever their names hold: Kafka takes any bytes as a name, the Python client only UTF-8."""

from __future__ import annotations

from operator import methodcaller

from confluent_kafka import Message

from consumer.types import Headers

# confluent-kafka 2.16.1, `Message.headers()` on a name that is not UTF-8: the C function returns a list and leaves the
# UnicodeDecodeError set. The interpreter notices that for the first calls at one place in the code and raises
# SystemError there. Then CPython 3.11 has specialised the call and checks no more, and the error comes up in whatever
# line runs next, or ends the process. A call from C, which `methodcaller` makes, is checked each time. It can go when
# tests/integration/test_headers.py::test_the_client_itself_leaves_an_error_pending fails.
_headers = methodcaller("headers")


def headers_of(message: Message[bytes, bytes]) -> Headers | None:
    """All headers in their order; None when one name is not UTF-8, for the client gives all of them or none.

    To be called once for each message: a second call for such a one ends the process.
    """
    try:
        return tuple(
            (name, value.encode() if isinstance(value, str) else value)
            for name, value in _headers(message) or ()
        )
    except (SystemError, UnicodeDecodeError):
        return None
