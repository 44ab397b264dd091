"""What the functions that build the service refuse, before anything runs."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from consumer.config.settings import ServiceSettings
from consumer.errors import ServiceError
from consumer.runtime import Telemetry, build_scoring
from consumer.scoring.model import ServedModel
from consumer.types import Partition
from schemas.codecs import AvroCodec
from tests.support.factories import INFO, ConstantScorer, prepared_record, record_message

MODEL = ServedModel(ConstantScorer(), lambda record_id, _: prepared_record(10), INFO, 1000)


@pytest.mark.parametrize(("budget", "batch"), [(None, 1000), (5000, 5000)])
def test_tokens_in_flight_that_are_less_than_one_batch_are_refused(tmp_path, budget, batch):
    settings = ServiceSettings(max_inflight_tokens=batch - 1, token_budget=budget, state_dir=str(tmp_path))
    with (
        ExitStack() as stack,
        pytest.raises(ServiceError, match=rf"VIRNUCPRO_MAX_INFLIGHT_TOKENS={batch - 1} .* {batch} tokens"),
    ):
        build_scoring(settings, MODEL, AvroCodec(), Telemetry(settings).listeners, stack)


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    settings = ServiceSettings(state_dir=str(tmp_path / "file" / "state"))
    with ExitStack() as stack, pytest.raises(ServiceError, match="VIRNUCPRO_STATE_DIR"):
        build_scoring(settings, MODEL, AvroCodec(), Telemetry(settings).listeners, stack)


@pytest.mark.parametrize(("entries", "computed"), [(100, 2), (0, 4)])
def test_equal_frames_are_scored_once_and_counted_unless_the_cache_is_off(tmp_path, entries, computed):
    scorer = ConstantScorer()
    model = ServedModel(scorer, lambda record_id, _: prepared_record(10, 11, record_id=record_id), INFO, 1000)
    settings = ServiceSettings(frame_cache=entries, state_dir=str(tmp_path))
    telemetry = Telemetry(settings)
    with ExitStack() as stack:
        scoring = build_scoring(settings, model, AvroCodec(), telemetry.listeners, stack)
        scoring.ledger.assign([Partition("sequences", 0)])
        for offset in range(2):
            record = record_message(offset, "ACCC", f"r{offset}")
            scoring.ledger.receive(record)
            scoring.pipeline.submit(record)
        done = []
        while len(done) < 2:
            done += scoring.pipeline.finished(10)
    assert sum(scorer.batches) == computed
    assert done[0].outcome.result.chunks[0].frames == done[1].outcome.result.chunks[0].frames
    hits = telemetry.metrics.registry.get_sample_value("vnp_frame_cache_hits_total")
    assert hits == 4 - computed
