"""Which dead letters are replayed: not those that would fail again, nor those that were replayed often enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from consumer.cli.dlq.letters import FoundLetter
from consumer.cli.error_messages import UserError
from consumer.config.settings import ServiceSettings
from consumer.delivery.answers import REPLAYS_HEADER, Outgoing, input_headers
from consumer.scoring.preparation import read_record
from consumer.types import NotNow, Refused
from schemas import Reason, SequenceRecord
from schemas.codecs import RecordDecoder

TRUNCATED, OTHER_TOPIC = "truncated", "other_topic"
"""Why a dead letter is skipped, beside the reasons of the service."""
DEFAULT_REPLAYS = 3


class Judgement(NamedTuple):
    """What is done with a dead letter; `cause` is a reason of the service, `truncated` or `other_topic` where it is
    skipped."""

    action: Literal["replay", "skip", "exhausted"]
    cause: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReplayRule:
    """Decides by the settings that the service has now.

    Attributes:
        topic: where records are replayed to.
        any_source: dead letters of other input topics are replayed as well.
        partitions: of that topic.
        most_replays: how often one record is replayed.
        force: records that would fail again are replayed as well.
    """

    settings: ServiceSettings
    decoder: RecordDecoder
    topic: str
    any_source: bool
    partitions: int
    most_replays: int
    force: bool

    def judge(self, found: FoundLetter) -> Judgement:
        """What to do with a dead letter.

        Raises:
            UserError: a dependency of the decoder does not answer, so that it cannot be told.
        """
        letter = found.letter
        if letter.source_topic != self.topic and not self.any_source:
            return Judgement(
                "skip", OTHER_TOPIC, f"it is of {letter.source_topic}: name --topic to replay it"
            )
        if letter.truncated:
            return Judgement("skip", TRUNCATED, "the dead letter does not hold the whole record")
        if found.replays >= self.most_replays:
            return Judgement("exhausted", letter.reason.value, f"replayed {found.replays} times")
        if letter.value is None:
            # A tombstone stays one.
            again: SequenceRecord | Refused | NotNow = Refused(Reason.NULL_VALUE, "decode", "no value")
        else:
            again = self.decode(found)
        if isinstance(again, NotNow):
            raise UserError(f"it cannot be told what would fail again: {again.detail}")
        if isinstance(again, Refused) and not self.force:
            return Judgement("skip", again.reason.value, again.detail)
        return Judgement("replay")

    def decode(self, found: FoundLetter) -> SequenceRecord | Refused | NotNow:
        """The record as the service would take it now."""
        limits = self.settings.max_message_bytes, self.settings.max_sequence_bases
        return read_record(self.decoder, found.letter.value, input_headers(found.headers), *limits)

    def outgoing(self, found: FoundLetter) -> Outgoing:
        """The message to publish again: key, value and headers of the first one, and how often it was replayed.

        Its timestamp is that of the replay: with the old one a topic's retention might delete it at once.
        """
        letter = found.letter
        same = letter.source_topic == self.topic and letter.source_partition < self.partitions
        return Outgoing(
            topic=self.topic,
            partition=letter.source_partition if same else None,
            key=letter.key,
            value=letter.value,
            headers=(*input_headers(found.headers), (REPLAYS_HEADER, str(found.replays + 1).encode())),
            timestamp_ms=None,
        )
