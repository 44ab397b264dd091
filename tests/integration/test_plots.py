"""Pictures of a report: which are drawn, that they are pictures, that either all are written or none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.evaluation_cases import random_cases, report_on
from virnucpro_core.evaluation import plots
from virnucpro_core.evaluation.labels import Label

ALL = ["by_group.png", "by_length.png", "calibration.png", "roc.png", "scores.png"]
MODEL = {"model": {"id": "a model of $2 with $ in its name"}}


@pytest.fixture(scope="module")
def whole():
    return MODEL | report_on(*random_cases(60))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pixels(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def test_every_picture_is_a_whole_png_of_150_dots_an_inch(whole, tmp_path):
    written = plots.write_plots(whole, tmp_path / "new" / "folder")
    assert sorted(path.name for path in written) == names(tmp_path / "new" / "folder") == ALL
    sizes = {path.name: pixels(path) for path in written}
    assert sizes["scores.png"] == (960, 660)  # 6.4 x 4.4 inches
    assert all(width >= 800 and height >= 500 for width, height in sizes.values())


def test_a_picture_shows_the_figures(whole, tmp_path):
    """Another report gives other pictures, the same report the same ones."""
    (first, again, other) = (tmp_path / name for name in ("first", "again", "other"))
    plots.write_plots(whole, first)
    plots.write_plots(whole, again)
    plots.write_plots(MODEL | report_on(*random_cases(60, seed=4)), other)
    for name in ALL:
        assert (first / name).read_bytes() == (again / name).read_bytes()
        assert (first / name).read_bytes() != (other / name).read_bytes()


def test_no_roc_curve_of_one_class_and_no_groups_where_there_are_none(whole, tmp_path):
    """And what an earlier report left under these names goes."""
    plots.write_plots(whole, tmp_path)
    (tmp_path / "mine.png").write_bytes(b"not ours")
    viruses = [(result, Label(True)) for result, _ in random_cases(20)]
    plots.write_plots(MODEL | report_on(*viruses), tmp_path)
    assert names(tmp_path) == ["by_length.png", "calibration.png", "mine.png", "scores.png"]


def test_curves_alone_are_enough(whole, tmp_path):
    """What the training's report has."""
    plots.write_plots(MODEL | {"curves": whole["curves"]}, tmp_path)
    assert names(tmp_path) == ["calibration.png", "roc.png", "scores.png"]


def test_many_groups_are_cut_to_the_largest(whole, tmp_path):
    group = {"records": 1, "right": 0.5, "auroc": None}
    groups = {f"family {n} ({'virus' if n % 2 else 'others'})": group | {"chunks": n} for n in range(300)}
    plots.write_plots(whole | {"by_group": groups}, tmp_path)
    assert pixels(tmp_path / "by_group.png")[1] < 2000


def test_of_a_set_that_fails_half_way_nothing_is_written(whole, tmp_path):
    """The last file cannot be written: there is a folder of its name. The set of before stays as it was."""
    plots.write_plots(MODEL | report_on(*random_cases(60, seed=4)), tmp_path)
    (tmp_path / "by_group.png").unlink()
    (tmp_path / "by_group.png").mkdir()
    before = {name: (tmp_path / name).read_bytes() for name in ALL[1:]}
    with pytest.raises(OSError, match=r"by_group\.png"):
        plots.write_plots(whole, tmp_path)
    assert names(tmp_path) == ALL
    assert {name: (tmp_path / name).read_bytes() for name in ALL[1:]} == before
