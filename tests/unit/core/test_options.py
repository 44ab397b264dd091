"""The names that can be asked for are those of the objects behind them, wherever a name is checked."""

from __future__ import annotations

import re

import pytest
import torch

from virnucpro_core.bundle.bundle import find_bundle, read_manifest
from virnucpro_core.models.attention import BACKENDS
from virnucpro_core.models.device import EngineError, Placement
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.options import AUTO, BACKEND_CHOICES, DEVICE_PATTERN, PRECISION_CHOICES, one_of


def test_each_precision_that_can_be_asked_for_is_there_and_no_other():
    assert (AUTO, *PRECISIONS) == PRECISION_CHOICES
    assert all(precision.name == name for name, precision in PRECISIONS.items())


def test_each_attention_back_end_that_can_be_asked_for_is_there_and_no_other():
    assert (AUTO, *(backend.name for backend in BACKENDS)) == BACKEND_CHOICES


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:3"])
def test_the_pattern_takes_devices_that_torch_knows(name):
    assert re.fullmatch(DEVICE_PATTERN, name)
    assert str(torch.device(name)) == name


@pytest.mark.parametrize(
    "name", ["gpu", "", "cuda:", "cuda:-1", "cpu:0 ", "meta", "cuda:\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_another_device_is_refused_before_anything_is_loaded(name):
    manifest, _ = read_manifest(find_bundle("nano"))
    with pytest.raises(EngineError, match=re.escape(f"{name!r}: use auto, cpu, cuda or cuda:N")):
        Placement.resolve(name, AUTO, AUTO, manifest)


def test_choices_read_as_a_sentence():
    assert one_of(("a", "b", "c")) == "a, b or c"
