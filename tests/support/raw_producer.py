"""A producer for messages that confluent-kafka's own cannot make: header names of any bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from consumer.kafka.librdkafka import ERROR_BYTES, library

_PRODUCER = 0  # rd_kafka_type_t
_TOPIC, _PARTITION, _VALUE, _KEY, _MSGFLAGS, _HEADER, _END = 1, 3, 4, 5, 7, 9, 0  # rd_kafka_vtype_t
_COPY = 2  # RD_KAFKA_MSG_F_COPY


def produce_raw(
    bootstrap: str,
    topic: str,
    messages: Sequence[tuple[bytes, Sequence[bytes]]],
    partition: int = 0,
    key: bytes | None = None,
    wait_s: float = 10.0,
) -> None:
    """Send messages, each a value and the names of its headers, and wait until the broker has each of them once."""
    kafka = library()
    conf = kafka.rd_kafka_conf_new()
    kafka.rd_kafka_conf_set_log_cb(conf, None)
    reason = ctypes.create_string_buffer(ERROR_BYTES)
    for name, setting in (
        (b"bootstrap.servers", bootstrap.encode()),
        (b"enable.idempotence", b"true"),
        (b"message.timeout.ms", b"0"),
    ):
        assert kafka.rd_kafka_conf_set(conf, name, setting, reason, ERROR_BYTES) == 0, reason.value
    handle = kafka.rd_kafka_new(_PRODUCER, conf, reason, ERROR_BYTES)
    assert handle, reason.value
    producer = ctypes.c_void_p(handle)
    kafka.rd_kafka_producev.restype = kafka.rd_kafka_flush.restype = ctypes.c_int
    try:
        for value, names in messages:
            arguments: list[object] = [_TOPIC, topic.encode(), _PARTITION, partition]
            arguments += [_VALUE, value, ctypes.c_size_t(len(value)), _MSGFLAGS, _COPY]
            if key is not None:
                arguments += [_KEY, key, ctypes.c_size_t(len(key))]
            for name in names:
                arguments += [_HEADER, ctypes.c_char_p(name), b"1", ctypes.c_ssize_t(1)]
            assert kafka.rd_kafka_producev(producer, *arguments, _END) == 0
        assert kafka.rd_kafka_flush(producer, int(1000 * wait_s)) == 0
    finally:
        kafka.rd_kafka_destroy(producer)
