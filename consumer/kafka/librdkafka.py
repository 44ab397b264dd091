"""What the service needs of librdkafka's C interface: the parts that confluent-kafka does not pass on."""

from __future__ import annotations

import ctypes
from functools import cache

from confluent_kafka import cimpl

from consumer.errors import ServiceError

ERROR_BYTES = 512
_CONF_OK = 0

_TEXT, _POINTER, _NUMBER, _SIZE = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_SIGNATURES = {
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_conf_destroy": (None, [_POINTER]),
    "rd_kafka_conf_set": (_NUMBER, [_POINTER, _TEXT, _TEXT, _TEXT, _SIZE]),
    "rd_kafka_conf_set_log_cb": (None, [_POINTER, _POINTER]),
    "rd_kafka_new": (_POINTER, [_NUMBER, _POINTER, _TEXT, _SIZE]),
    "rd_kafka_destroy": (None, [_POINTER]),
    "rd_kafka_err2str": (_TEXT, [_NUMBER]),
    "rd_kafka_mock_cluster_new": (_POINTER, [_POINTER, _NUMBER]),
    "rd_kafka_mock_cluster_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_bootstraps": (_TEXT, [_POINTER]),
    "rd_kafka_mock_topic_create": (_NUMBER, [_POINTER, _TEXT, _NUMBER, _NUMBER]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_POINTER, ctypes.c_int32]),
}


@cache
def library() -> ctypes.CDLL:
    """The librdkafka that confluent-kafka itself uses, with the types of the functions above.

    Opening the extension module finds it wherever a wheel put it, or on the system for a build from source:
    a symbol is looked up in a library's dependencies too.

    Raises:
        ServiceError: it lacks one of the functions.
    """
    loaded = ctypes.CDLL(cimpl.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise ServiceError(
                f"this build of confluent-kafka hides librdkafka's {name}: install its wheel instead "
                "(pip install --only-binary :all: confluent-kafka)"
            ) from error
        function.restype, function.argtypes = result, arguments
    return loaded


def option_problem(option: str, value: str) -> str | None:
    """What librdkafka has against an option of its clients, one line; None when it takes it."""
    kafka = library()
    conf = kafka.rd_kafka_conf_new()
    reason = ctypes.create_string_buffer(ERROR_BYTES)
    try:
        taken = kafka.rd_kafka_conf_set(conf, option.encode(), value.encode(), reason, ERROR_BYTES)
    finally:
        kafka.rd_kafka_conf_destroy(conf)
    return None if taken == _CONF_OK else reason.value.decode(errors="replace")
