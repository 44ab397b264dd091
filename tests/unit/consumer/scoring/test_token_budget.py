"""VIRNUCPRO_TOKEN_BUDGET=auto: measured once, kept, and measured again when what was kept is of no use."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from consumer.config.settings import ModelSettings, ServiceSettings, SettingsError, load_settings
from consumer.scoring import loading, token_budget
from consumer.scoring.token_budget import FILE, cache_folder, find_budget
from tests.support.models_fixture import random_bundle
from virnucpro_core.models.engine import Engine

NO_TIME = 0.2  # seconds from one look at the clock to the next: a round is over after two batches


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture
def engine(bundle: Path) -> Engine:
    engine = loading.load_engine(ModelSettings(model=str(bundle), device="cpu", self_test=False))
    engine.default_token_budget = 128  # so that 512 and 1,024 are all that is tried
    return engine


@pytest.fixture
def timer():
    ticks = count()
    return lambda: NO_TIME * next(ticks)


def test_it_is_measured_once(engine: Engine, tmp_path: Path, timer) -> None:
    first = find_budget(engine, tmp_path, timer)
    assert [rate.token_budget for rate in first.rates] == [512, 1024]
    assert first.token_budget == 1024, "by this timer a batch takes as long whatever is in it"
    again = find_budget(engine, tmp_path, timer)
    assert (again.token_budget, again.rates) == (1024, ())


def test_another_precision_is_measured_separately(
    engine: Engine, bundle: Path, tmp_path: Path, timer
) -> None:
    find_budget(engine, tmp_path, timer)
    other = loading.load_engine(
        ModelSettings(model=str(bundle), device="cpu", precision="bf16", self_test=False)
    )
    other.default_token_budget = 128
    assert find_budget(other, tmp_path, timer).rates
    assert not find_budget(engine, tmp_path, timer).rates, "the first is still known"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": "1"}', b"\xff", b"null"])
def test_a_damaged_file_is_measured_again_and_replaced(
    engine: Engine, tmp_path: Path, timer, content
) -> None:
    (tmp_path / FILE).write_bytes(content)
    found = find_budget(engine, tmp_path, timer)
    assert found.rates
    assert found.discarded
    assert "\n" not in found.discarded
    again = find_budget(engine, tmp_path, timer)
    assert (again.rates, again.discarded) == ((), "")


def test_a_budget_that_holds_no_frame_is_measured_again(engine: Engine, tmp_path: Path, timer) -> None:
    find_budget(engine, tmp_path, timer)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace("1024", "7"))
    assert find_budget(engine, tmp_path, timer).token_budget == 1024


def test_a_folder_that_takes_nothing_costs_the_next_start_its_time(
    engine: Engine, tmp_path: Path, timer
) -> None:
    (tmp_path / "file").write_text("in the way")
    found = find_budget(engine, tmp_path / "file", timer)
    assert found.token_budget == 1024
    assert found.not_kept


def test_the_service_logs_it_and_takes_it(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / FILE).write_text("{")
    monkeypatch.setattr(token_budget, "_LARGEST", 0)  # the smallest alone
    settings = ServiceSettings(
        model=str(bundle), device="cpu", token_budget="auto", self_test=False, state_dir=str(tmp_path)
    )
    with capture_logs() as lines:
        model = loading.load_model(settings, lambda _: None)
    assert model.default_token_budget == 1024
    assert [line["event"] for line in lines] == ["state_file_discarded", "token_budget_found"]
    assert lines[1]["measured"]
    assert settings.fixed_token_budget is None


def test_commands_for_files_keep_it_with_the_users_caches(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(token_budget, "_LARGEST", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = ModelSettings(model=str(bundle), device="cpu", token_budget="auto", self_test=False)
    assert loading.load_engine(settings).default_token_budget == 1024
    assert (tmp_path / "virnucpro" / FILE).stat().st_size
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/virnucpro")


def test_a_word_that_is_not_auto_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"VIRNUCPRO_TOKEN_BUDGET": "much"})
    assert str(refused.value) == (
        "VIRNUCPRO_TOKEN_BUDGET=much is refused: it takes a whole number of tokens in a batch, 1 or more; or auto"
    )
    assert load_settings({"VIRNUCPRO_TOKEN_BUDGET": "4096"}).fixed_token_budget == 4096
