"""What scoring asks of a model, as protocols, and what a model says of itself. No torch.

`virnucpro_core.models.engine.Engine` has all of it; the tests and the benchmarks bring stand-ins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.scoring.calibration import Calibration
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord, prepare
from virnucpro_core.sequence.tokens import DnaTokenizer

FloatArray = NDArray[np.float32]

Compute = Callable[[Sequence[PreparedFrame]], FloatArray]
"""A batch of frames -> float32 [frames, columns]: `Scorer.score` or `Embedder.features`."""

PrepareSequence = Callable[[str, str], PreparedRecord]
"""(record id, valid sequence) -> its frames, cut and tokenised for one model; safe from any thread."""


class Preparer(Protocol):
    """What a model says about the preparation of its frames."""

    @property
    def expected_length(self) -> int:
        """Bases in a full chunk."""

    @property
    def tokenizer(self) -> DnaTokenizer:
        """The nucleotide tokenizer that belongs to the weights."""


class Scorer(Protocol):
    """The classifier's answer."""

    def score(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        """Softmax scores, float32 [frames, 2]: others, virus.

        Raises:
            OutOfMemory: the frames did not fit; fewer may.
            DeviceLost: only a restart of the process helps.
            NotFinite: a score is NaN or infinite.
        """


class Enqueued(Protocol):
    """A batch on its way through a device."""

    def read(self) -> FloatArray:
        """Wait for its scores, as `Scorer.score` gives them, with its errors. Once, and in the order of `enqueue`."""


@runtime_checkable
class QueueingScorer(Protocol):
    """A scorer that takes a batch before the one ahead of it has been read."""

    def enqueue(self, frames: Sequence[PreparedFrame]) -> Enqueued:
        """Take a batch behind those enqueued before; waits for none of them. On another thread than `read`, if at all.

        Raises:
            OutOfMemory, DeviceLost, ValueError: as `Scorer.score`; or else `read` raises it.
        """


@dataclass(frozen=True, slots=True)
class WhenRead:
    """A batch that is computed when it is read, on the thread that reads it."""

    compute: Callable[[], FloatArray]

    def read(self) -> FloatArray:
        return self.compute()


class InTurn:
    """Makes a `QueueingScorer` of any scorer: a batch is computed when it is read."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def enqueue(self, frames: Sequence[PreparedFrame]) -> Enqueued:
        return WhenRead(partial(self._scorer.score, frames))


def queueing(scorer: Scorer) -> QueueingScorer:
    """The scorer's own queue, if it has one."""
    return scorer if isinstance(scorer, QueueingScorer) else InTurn(scorer)


class Embedder(Protocol):
    """The classifier's input."""

    def features(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        """Features, float32 [frames, dim]; raises as `Scorer.score`."""


class Evaluator(Protocol):
    """Both, from one forward."""

    def features_and_scores(self, frames: Sequence[PreparedFrame]) -> tuple[FloatArray, FloatArray]:
        """Features [frames, dim] and scores [frames, 2], float32, of at least one frame; raises as `Scorer.score`."""


class PreparingScorer(Preparer, Scorer, Protocol):
    """A model that records can be scored with from their sequence on."""


class VerifiableModel(Preparer, Scorer, Embedder, Protocol):
    """A model that can be compared with the original."""


def preparer(model: Preparer, keep_u: bool = False) -> PrepareSequence:
    """Splits and tokenises sequences for this model; `keep_u` as of `virnucpro_core.sequence.prepare.prepare`."""

    def prepare_sequence(record_id: str, sequence: str) -> PreparedRecord:
        return prepare(record_id, sequence, model.expected_length, model.tokenizer, keep_u)

    return prepare_sequence


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """Largest relative L2 distance of a token, and of a protein's pooled vector; the limits of the latter and of the
    former."""

    per_token: float
    pooled: float
    tolerance: float
    token_tolerance: float

    @property
    def passed(self) -> bool:
        """Written so that NaN fails."""
        return self.per_token <= self.token_tolerance and self.pooled <= self.tolerance


@dataclass(frozen=True, slots=True)
class CudaGraphs:
    """For which numbers of rows the forwards of both models are recorded, rising; () if not at all. In what time.

    A larger batch is launched kernel by kernel, with the same results.
    """

    esm2: tuple[int, ...]
    dnabert_s: tuple[int, ...]
    seconds: float

    def __str__(self) -> str:
        """For people."""
        models = {"ESM-2": self.esm2, "DNABERT-S": self.dnabert_s}
        recorded = [f"{name} up to {sizes[-1]:,} tokens" for name, sizes in models.items() if sizes]
        return f"{', '.join(recorded)}, {len(self.esm2) + len(self.dnabert_s)} in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What computes the predictions; stamped on each of them.

    Attributes:
        model_id, model_sha256: of the bundle.
        expected_length: bases in a chunk.
        attention: "v1" on the standard path, else "packed".
        attention_backend, dna_attention_backend: what serves ESM-2 and DNABERT-S.
        kernels: what computes ESM-2's packed path, "triton" or "torch"; Triton's also attend in segments of up to
            384 tokens unless `refusals` says why not.
        precision: "fp32", "fp16", "bf16", "fp8-ffn" or "fp8" (docs/numerics.md).
        device: as torch names it, with its product name on a GPU.
        refusals: attention back-ends, kernels and graphs that would come first and why they do not serve, by
            "model: name", "kernels: name" and "cuda graphs: model".
        self_test: the figures of the start-up self-test, None if it was off.
        graphs: the CUDA graphs of small and of full batches, None if there are none.
        calibration: of the probability of a record, None if the bundle has none.
        flops_per_token: floating-point operations of the matrix products of one token, attention itself not counted:
            "protein" of ESM-2, "nucleotide" of DNABERT-S; empty where that is not known.
    """

    model_id: str
    model_sha256: str
    expected_length: int
    attention: Literal["packed", "v1"]
    attention_backend: str
    dna_attention_backend: str
    precision: str
    device: str
    kernels: str = "torch"
    refusals: dict[str, str] = field(default_factory=dict)
    self_test: SelfTestResult | None = None
    graphs: CudaGraphs | None = None
    calibration: Calibration | None = None
    flops_per_token: Mapping[str, int] = field(default_factory=dict)

    @property
    def kind_of_device(self) -> str:
        """The device, or each of several, without its number: those of one kind compute the same, bit for bit."""
        kinds = (re.sub(r"^cuda:[0-9]+", "cuda", each) for each in self.device.split(", "))
        return ", ".join(dict.fromkeys(kinds))

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a frame's row is the same, bit for bit, in a batch of any size (docs/numerics.md)."""
        return self.precision != "fp32" or self.device.startswith("cpu")

    def as_dict(self) -> dict[str, Any]:
        """What identifies the computation, by attribute: all but `refusals`, `self_test`, `graphs`, `calibration` and
        `flops_per_token`, for which `model_sha256` stands."""
        return {
            "model_id": self.model_id,
            "model_sha256": self.model_sha256,
            "expected_length": self.expected_length,
            "attention": self.attention,
            "attention_backend": self.attention_backend,
            "dna_attention_backend": self.dna_attention_backend,
            "precision": self.precision,
            "device": self.device,
        }
