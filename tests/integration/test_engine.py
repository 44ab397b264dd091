"""The engine: scores that do not depend on the batch, an honest description of itself, and its refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.harness import ROOT
from tests.support.models_fixture import random_bundle, random_frames, relative_l2
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.bundle.manifest import BundleError
from virnucpro_core.bundle.weights import WeightsError
from virnucpro_core.errors import CoreError, DeviceLost, NotFinite, OutOfMemory
from virnucpro_core.models.attention import Attention, BackendUnavailable, Choice, Sdpa
from virnucpro_core.models.device import EngineError, device_errors
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.precision import FP32
from virnucpro_core.models.self_test import SelfTestFailed, compare_with_fair_esm, run_self_test
from virnucpro_core.sequence.prepare import PreparedFrame

CPU = torch.device("cpu")
VARIANTS = {
    "packed fp32": {},
    "v1 fp32": {"v1_attention": True},
    "packed bf16": {"precision": "bf16"},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, device="cpu")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """With three threads the work is cut at odd places."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frames_scores_are_bitwise_the_same_in_any_batch(
    bundle: Bundle, variant: str, threads: int
) -> None:
    engine = Engine(bundle, device="cpu", **VARIANTS[variant])  # type: ignore[arg-type]
    frames = random_frames(50)
    scores = engine.score(frames)
    assert scores.shape == (50, 2)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert len(np.unique(scores[:, 1])) == len(frames)
    order = np.random.default_rng(1).permutation(len(frames))
    np.testing.assert_array_equal(engine.score([frames[index] for index in order]), scores[order])
    for size in (1, 2, 7, 33):
        parts = [engine.score(frames[first : first + size]) for first in range(0, len(frames), size)]
        np.testing.assert_array_equal(np.concatenate(parts), scores)


def test_changing_one_frame_changes_its_scores_alone(engine: Engine) -> None:
    frames = random_frames(12)
    scores = engine.score(frames)
    frames[5] = random_frames(1, seed=9, longest=400)[0]
    changed = engine.score(frames)
    same = [index for index in range(12) if index != 5]
    np.testing.assert_array_equal(changed[same], scores[same])
    assert not np.array_equal(changed[5], scores[5])


def test_features_and_scores_belong_together(engine: Engine) -> None:
    frames = random_frames(5)
    features = torch.from_numpy(engine.features(frames))
    assert features.shape == (5, 64 + 96)
    with torch.inference_mode():
        scores = torch.softmax(engine.head(features), dim=1)
    np.testing.assert_array_equal(engine.score(frames), scores.numpy())


def test_both_paths_agree(bundle: Bundle, engine: Engine) -> None:
    frames = random_frames(20)
    standard = Engine(bundle, device="cpu", v1_attention=True)
    actual, expected = engine.features(frames), standard.features(frames)
    assert relative_l2(torch.from_numpy(actual), torch.from_numpy(expected)) < 1e-5


def test_no_frames_give_no_scores(engine: Engine) -> None:
    assert engine.score([]).shape == (0, 2)
    assert engine.features([]).shape == (0, 160)


def test_what_it_says_of_itself(bundle: Bundle, engine: Engine) -> None:
    info = engine.info
    assert (info.model_id, info.model_sha256, info.expected_length) == ("random-0", bundle.sha256, 500)
    assert (info.attention, info.attention_backend, info.dna_attention_backend) == ("packed", "sdpa", "sdpa")
    assert (info.precision, info.device) == ("fp32", "cpu")
    assert info.refusals["esm2: flash_attn"] == "needs a CUDA device, not cpu"
    assert info.refusals["dnabert_s: varlen"] == "torch's varlen_attn has no ALiBi"
    assert info.self_test is not None
    assert 0 < info.self_test.per_token < info.self_test.tolerance == 1e-5
    assert engine.default_token_budget == 3072
    assert engine.expected_length == 500
    assert engine.tokenizer.vocabulary_size == 15
    standard = Engine(bundle, device="cpu", v1_attention=True, self_test=False).info
    assert (standard.attention, standard.attention_backend, standard.self_test) == ("v1", "fair-esm", None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "abacus"}, EngineError, "unknown device 'abacus': use auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, EngineError, r"device 'cuda:99' is not there: torch sees \d+ CUDA devices"),
        (
            {"device": "cpu", "precision": "fp4"},
            EngineError,
            "unknown precision 'fp4': use auto, fp32, fp16, bf16, fp8-ffn or fp8",
        ),
        ({"device": "cpu", "precision": "fp16"}, EngineError, "fp16 needs a GPU: on a CPU use fp32 or bf16"),
        ({"device": "cpu", "attention_backend": "varlen"}, BackendUnavailable, "varlen: needs a CUDA device"),
        ({"device": "cpu", "attention_backend": "magic"}, ValueError, "'magic'; known: auto, flash_attn"),
    ],
)
def test_what_cannot_be_had_is_refused(
    bundle: Bundle, options: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Engine(bundle, **options)  # type: ignore[arg-type]


def test_weights_of_another_shape_are_refused(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, esm2=replace(bundle.manifest.esm2, layers=2))
    with pytest.raises(BundleError, match="esm2: weights that the model does not have: layers"):
        Engine(Bundle(bundle.path, manifest, bundle.sha256), device="cpu")


class TestDamage:
    def test_not_a_number_in_the_weights_is_refused(self, tmp_path: Path) -> None:
        bundle = random_bundle(tmp_path / "bad")
        weights = load_file(bundle.file("esm2"))
        weights["layers.1.fc1.weight"][3, 3] = torch.nan

        class Damaged(Bundle):
            def tensors(self, role: str, device: str = "cpu") -> dict[str, Tensor]:
                return weights if role == "esm2" else super().tensors(role, device)

        damaged = Damaged(bundle.path, bundle.manifest, bundle.sha256)
        with pytest.raises(WeightsError, match=r"NaN or infinite in float32: layers\.1\.fc1\.weight"):
            Engine(damaged, device="cpu", self_test=False)

    def test_not_a_number_that_comes_up_later_fails_the_self_test_and_is_no_score(
        self, bundle: Bundle
    ) -> None:
        engine = Engine(bundle, device="cpu", self_test=False)
        with torch.no_grad():
            engine.esm2.model.layers[1].fc1.weight[3, 3] = torch.nan
        with pytest.raises(
            SelfTestFailed, match=r"off fair-esm's own forward by nan per token and nan pooled"
        ):
            run_self_test(engine.esm2, FP32)
        with pytest.raises(NotFinite, match="scores of 4 of 4 frames are not finite, the first is frame 0"):
            engine.score(random_frames(4))
        with pytest.raises(NotFinite, match="features of 4 of 4"):
            engine.features(random_frames(4))

    def test_attention_that_sees_the_neighbours_fails_the_self_test(self, bundle: Bundle) -> None:
        class Leaking(Sdpa):
            """Takes the whole batch for one segment."""

            def bind(
                self, layout: PackedLayout, dtype: torch.dtype, slopes: Tensor | None = None
            ) -> Attention:
                bounds = np.array([0, layout.rows], dtype=np.int32)
                return super().bind(PackedLayout.build(bounds, layout.rows, layout.device), dtype, slopes)

        engine = Engine(bundle, device="cpu")
        assert compare_with_fair_esm(engine.esm2, FP32).passed
        engine.esm2._choices[CPU, torch.float32] = Choice(Leaking(), {})
        with pytest.raises(
            SelfTestFailed, match=r"off fair-esm's own forward by 0\.\d+ per token and 0\.\d+ pooled"
        ):
            run_self_test(engine.esm2, FP32)

    def test_only_the_poisoned_frame_is_named(self, bundle: Bundle) -> None:
        engine = Engine(bundle, device="cpu", self_test=False)
        engine.dnabert_s.embeddings.word_embeddings.weight[14] = torch.inf
        frames = random_frames(6)
        clean = [
            PreparedFrame(0, "F1", frame.protein_ids, np.where(frame.dna_ids == 14, 6, frame.dna_ids))
            for frame in frames
        ]
        assert np.isfinite(engine.score(clean)).all()
        clean[3] = PreparedFrame(0, "F1", clean[3].protein_ids, np.array([1, 14, 6], dtype=np.int32))
        with pytest.raises(NotFinite, match="scores of 1 of 6 frames are not finite, the first is frame 3"):
            engine.score(clean)

    def test_an_infinite_feature_never_gives_a_score(self, bundle: Bundle) -> None:
        engine = Engine(bundle, device="cpu", self_test=False)
        features = engine._features
        engine._features = lambda frames: features(frames).index_fill(  # type: ignore[method-assign]
            0, torch.tensor([1]), -torch.inf
        )
        engine.head.hidden.weight.abs_()  # minus infinity everywhere, which ReLU would turn into a plain zero
        with pytest.raises(NotFinite, match="the first is frame 1"):
            engine.score(random_frames(2))

    def test_an_id_outside_the_vocabulary_is_a_value_error(self, engine: Engine) -> None:
        frame = random_frames(1)[0]
        bad = PreparedFrame(0, "F1", frame.protein_ids, np.array([15], dtype=np.int32))
        with pytest.raises(ValueError, match="outside the vocabulary of 15"):
            engine.score([frame, bad])


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
            OutOfMemory,
        ),
        (RuntimeError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."), DeviceLost),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), DeviceLost),
    ],
)
def test_device_failures_get_their_type(raised: RuntimeError, expected: type[CoreError]) -> None:
    with pytest.raises(expected) as caught, device_errors(CPU):
        raise raised
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is raised


def graphs_and_refusals(engine: Engine, v1: bool) -> tuple[tuple[tuple[int, ...], ...], dict[str, str]]:
    graphs, whys = engine._record_graphs(v1)
    return (() if graphs is None else (graphs.esm2, graphs.dnabert_s)), whys


def test_graphs_that_do_not_fit_beside_the_models_are_done_without(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are recorded unasked: a device that has memory for the models alone serves as it did without them."""

    def fails(_: object) -> tuple[int, ...]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    engine = Engine(bundle, device="cpu", self_test=False)
    for kind in (ESM2WithFlashAttention, DnabertS):
        monkeypatch.setattr(kind, "graphs_refusal", lambda _: None)
    monkeypatch.setattr(DnabertS, "record_graphs", lambda _: (256, 512))
    monkeypatch.setattr(ESM2WithFlashAttention, "record_graphs", fails)
    no_memory = "does not fit into the device's memory beside the models"
    assert graphs_and_refusals(engine, v1=False) == (((), (256, 512)), {"esm2": no_memory})
    assert graphs_and_refusals(engine, v1=True) == (((), (256, 512)), {"esm2": "is on the standard path"})
    monkeypatch.setattr(DnabertS, "record_graphs", fails)
    assert graphs_and_refusals(engine, v1=False) == ((), {"esm2": no_memory, "dnabert_s": no_memory})


def test_other_failures_pass_through() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$") as caught, device_errors(CPU):
        raise RuntimeError("shapes differ")
    assert not isinstance(caught.value, CoreError)


def test_running_out_of_memory_on_the_cpu_is_told_apart() -> None:
    with pytest.raises(OutOfMemory), device_errors(CPU):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_a_model_loads_without_torchs_compiler():
    """Which torch loads for the first weights of modules on the device meta, at 190 MB and some seconds."""
    program = (
        "import sys; from virnucpro_core.bundle.bundle import Bundle, find_bundle; "
        "from virnucpro_core.models.engine import Engine; "
        "Engine(Bundle.load(find_bundle('nano')), device='cpu', self_test=False); "
        "print(sorted({'sympy', 'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout == "[]\n"
