"""What /status says of a service, and what it must not say."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from consumer.config.settings import load_settings
from consumer.delivery.answers import Answer
from consumer.ops.events import LagMeasured, ModelLoaded, PartitionLag, Rebalanced, Turned
from consumer.ops.http import application
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor
from consumer.ops.status import MAX_PARTITIONS, status
from consumer.scoring.batcher import Batch
from consumer.scoring.model import ServedModel
from consumer.stage_times import StageTimes
from consumer.types import Refused
from schemas import Reason, SequenceRecord, encode_record
from tests.support.factories import (
    INFO,
    ConstantScorer,
    FakeClock,
    message,
    partition,
    prepared_record,
    scored,
)

MODEL = ServedModel(ConstantScorer(), lambda record_id, _: prepared_record(10), INFO, 1000)
SEQUENCE = "ATGGCTAAAGGTCTGCCATTCGACGGTACC"
PASSWORD = "correct-horse-battery"


class Held:
    records, bytes, waiting, queued_tokens, delayed_records = 3, 400, 0, 50, 0
    assigned = tuple(map(partition, range(2 * MAX_PARTITIONS)))
    limit = None
    is_broken = False
    blocked = frozenset()


@pytest.fixture
def monitor() -> Monitor:
    """Of a service that has answered a few records."""
    clock = FakeClock()
    settings = load_settings(
        {
            "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
            "VIRNUCPRO_KAFKA_SASL_PASSWORD": PASSWORD,
            "VIRNUCPRO_KAFKA_SASL_USERNAME": "alice",
        }
    )
    monitor = Monitor(settings.masked(), clock, now=lambda: 1_700_000_000.0)
    times = StageTimes("inference", ("wait", "infer"), clock)
    monitor.watch(Held(), Held(), [times])
    monitor.happened(ModelLoaded(MODEL, 1000))
    monitor.happened(Rebalanced("assigned", Held.assigned))
    monitor.happened(LagMeasured({p: PartitionLag(p.number, 1.5) for p in Held.assigned}))
    value = encode_record(SequenceRecord("r1", SEQUENCE))
    monitor.delivered(Answer(message(1, value=value), scored(10, record_id="r1</script>")))
    monitor.delivered(Answer(message(2, value=value), Refused(Reason.INFERENCE_FAILED, "inference", "NaN")))
    monitor.batch_done(Batch((), 500, "full", 100), 2.0)
    clock.advance(10)
    monitor.happened(Turned(0.1, "open", 0.0))
    return monitor


def test_what_runs_and_how_it_does(monitor):
    said = json.loads(status(monitor.snapshot()))
    assert (said["stage"], said["ready"], said["not_ready"], said["uptime_s"]) == ("serving", True, None, 10)
    assert said["model"]["model_id"] == "nano"
    assert (said["model"]["precision"], said["model"]["attention"]) == ("fp32", "packed")
    assert said["software"].keys() >= {"virnucpro-stream", "python", "librdkafka"}
    assert said["lag"] == {"records": sum(range(2 * MAX_PARTITIONS)), "seconds": 1.5}
    assert said["totals"]["verdicts"] == {"virus": 1, "others": 0, "no_open_frame": 0}
    assert said["totals"]["dead_letters"] == {"inference_failed": 1}
    assert said["rates"]["batch_fill"] == 0.5
    assert said["threads"] == {"inference": {"wait": 10.0, "infer": 0.0}}
    assert said["predictions"][0]["id"] == "r1</script>"
    assert [error["event"] for error in said["errors"]] == ["inference_failed"]
    assert sum(said["history"]["records"]) == 2


def test_partitions_are_bounded_and_the_latest_come_first(monitor):
    said = json.loads(status(monitor.snapshot()))["intake"]
    assert said["assigned_partitions"] == 2 * MAX_PARTITIONS
    numbers = [each["partition"] for each in said["partitions"]]
    assert numbers == list(range(2 * MAX_PARTITIONS - 1, MAX_PARTITIONS - 1, -1))


def test_no_sequence_and_no_secret_is_shown(monitor):
    client = TestClient(application(Metrics(), monitor))
    for page in ("/", "/status", "/metrics", "/readyz?verbose"):
        text = client.get(page).text
        assert SEQUENCE not in text
        assert PASSWORD not in text
    assert client.get("/status").json()["settings"]["VIRNUCPRO_KAFKA_SASL_USERNAME"] == "alice"


def test_before_anything_is_there():
    said = json.loads(status(Monitor().snapshot()))
    assert (said["stage"], said["ready"], said["model"], said["predictions"]) == ("starting", False, None, [])
    assert said["lag"] == {"records": None, "seconds": None}
