"""What the functions that build the service refuse, before anything runs."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from consumer.config.settings import ServiceSettings
from consumer.errors import ServiceError
from consumer.runtime import Telemetry, build_scoring
from consumer.scoring.model import ServedModel
from schemas.codecs import AvroCodec
from tests.support.factories import INFO, ConstantScorer, prepared_record

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
