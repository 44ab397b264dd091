"""How found topics differ from wanted ones, and what mends each difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.config.settings import ServiceSettings
from consumer.config.wanted_topics import wanted_topics
from consumer.kafka.topic_plan import DEFAULT_PARTITIONS, FoundTopic, WantedTopic, differences, partitions_of

SETTINGS = ServiceSettings(
    topic_partitions=6,
    topic_replication=3,
    topic_retention_hours=24,
    topic_min_insync_replicas=2,
    max_message_bytes=1_000_000,
)
NAMES = (SETTINGS.input_topic, SETTINGS.output_topic, SETTINGS.dlq_topic)
RIGHT = {
    "retention.ms": "86400000",
    "max.message.bytes": "9000000",
    "min.insync.replicas": "2",
    "cleanup.policy": "delete",
}


def cluster(partitions: int = 6, replication: int = 3, **config: str) -> dict[str, FoundTopic]:
    changed = RIGHT | {name.replace("_", "."): value for name, value in config.items()}
    return {name: FoundTopic(name, partitions, replication, changed) for name in NAMES}


def test_topics_as_they_are_wanted_have_no_difference():
    assert differences(wanted_topics(SETTINGS), cluster()) == []


def test_missing_topics_are_created_and_nothing_else_is_said_of_them():
    found = differences(wanted_topics(SETTINGS), {})
    assert [(each.topic, each.change, each.wanted) for each in found] == [
        (name, "create", "6 partitions") for name in NAMES
    ]


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({"retention_ms": "1000"}, "retention.ms"),
        ({"min_insync_replicas": "1"}, "min.insync.replicas"),
        ({"max_message_bytes": "1000"}, "max.message.bytes"),
    ],
)
def test_each_setting_that_differs_is_altered(config, setting):
    found = differences(wanted_topics(SETTINGS), cluster(**config))
    assert [(each.topic, each.setting, each.change) for each in found] == [
        (n, setting, "config") for n in NAMES
    ]


def test_only_what_is_read_may_be_compacted():
    found = differences(wanted_topics(SETTINGS), cluster(cleanup_policy="compact"))
    assert [(each.topic, each.setting, each.wanted) for each in found] == [
        (name, "cleanup.policy", "delete") for name in NAMES[1:]
    ]


def test_what_no_client_can_alter_is_named_with_its_cure():
    found = differences(wanted_topics(SETTINGS), cluster(partitions=8, replication=1))
    assert {(each.setting, each.change) for each in found} == {("partitions", None), ("replication", None)}
    assert all(each.cure and each.cure in str(each) for each in found)


def test_what_is_not_set_is_not_compared():
    wanted = wanted_topics(ServiceSettings(max_message_bytes=1_000_000))
    assert differences(wanted, cluster(replication=1, retention_ms="1", min_insync_replicas="1")) == []


def test_the_topics_for_answers_follow_the_input():
    wanted = wanted_topics(ServiceSettings(max_message_bytes=1_000_000))
    found = cluster()
    found[NAMES[1]] = FoundTopic(NAMES[1], 2, 3, RIGHT)
    del found[NAMES[2]]
    assert [(each.topic, each.change, each.wanted) for each in differences(wanted, found)] == [
        (NAMES[1], "partitions", "6"),
        (NAMES[2], "create", "6 partitions"),
    ]
    assert partitions_of(wanted[1], wanted, {}) == DEFAULT_PARTITIONS


def test_settings_that_the_broker_does_not_show_are_not_compared():
    hidden = {name: FoundTopic(name, 6, 3, None) for name in NAMES}
    assert differences(wanted_topics(SETTINGS), hidden) == []


@given(st.integers(1, 9), st.integers(1, 9), st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 99)))
def test_mending_every_difference_leaves_none_but_those_that_cannot_be_altered(there, count, least):
    wanted = [WantedTopic("t", "T", partitions=count, at_least=least)]
    before = {"t": FoundTopic("t", there, 1, {"a": "50"})}
    changed = differences(wanted, before)
    after = FoundTopic(
        "t",
        max(there, count) if any(each.change == "partitions" for each in changed) else there,
        1,
        {"a": "50"}
        | {each.setting: wanted[0].config[each.setting] for each in changed if each.change == "config"},
    )
    assert [each.change for each in differences(wanted, {"t": after})] == ([None] if there > count else [])
