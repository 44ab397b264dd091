"""The engine: prepared frames in, VirNucPro's scores out, on one device in one precision."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.bundle.weights import fill
from virnucpro_core.errors import OutOfMemory
from virnucpro_core.models.attention import BackendUnavailable
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.device import EngineError, Placement, device_errors
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.enqueued import on_host, queue_of
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.esm2_weights import build_esm2
from virnucpro_core.models.kernels.choice import TORCH
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.pooling import frame_features, mean_of_residues, mean_of_tokens
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.models.self_test import run_self_test
from virnucpro_core.models.unfilled import unfilled
from virnucpro_core.options import AUTO
from virnucpro_core.scoring.model import CudaGraphs, EngineInfo, Enqueued, FloatArray
from virnucpro_core.scoring.packing import PackedBatch, PackedTokens, pack_frames
from virnucpro_core.scoring.verdicts import CLASSES
from virnucpro_core.sequence.prepare import PreparedFrame
from virnucpro_core.sequence.tokens import DnaTokenizer

_TOKEN_BUDGET_CPU = 3072
_TOKEN_BUDGET_GPU = 16384
_STANDARD = "fair-esm"
"""Stamped as ESM-2's attention back-end when its own forward computes."""


class _Inputs(NamedTuple):
    """A batch, and where its segments lie, on the device."""

    batch: PackedBatch
    dna: PackedLayout
    protein: PackedLayout


class Engine:
    """Scores frames with a bundle's models. Several threads may enqueue and read; they compute one after the other.

    Args:
        bundle: a checked bundle.
        device: "auto" (a CUDA device if there is one), or as torch names it.
        precision: "auto" (fp16 on a GPU, fp32 on a CPU), or one of `virnucpro_core.options.PRECISION_CHOICES`.
        attention_backend: "auto", or the name of the only one that may serve ESM-2. DNABERT-S uses the same
            one unless that cannot do ALiBi; then the first that can, see `EngineInfo.refusals`.
        v1_attention: True takes the standard path for ESM-2, False or None the packed one.
        self_test: compare the chosen path with fair-esm's own forward first.
        cuda_graphs: record the forwards of small and of full batches as CUDA graphs, where they can be and there is
            memory for them.

    Attributes:
        default_token_budget: tokens of a batch, for either model, that suit the device.

    Raises:
        BundleError: the weights do not fit the manifest.
        EngineError: this machine does not have the device, or the device or the standard path cannot serve the
            precision.
        BackendUnavailable: no attention back-end can serve, or not the one asked for by name.
        SelfTestFailed: with the distances.
        OutOfMemory, DeviceLost: the device failed while loading.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = AUTO,
        precision: str = AUTO,
        attention_backend: str = AUTO,
        v1_attention: bool | None = None,
        self_test: bool = True,
        cuda_graphs: bool = False,
    ) -> None:
        manifest = bundle.manifest
        place = Placement.resolve(device, precision, attention_backend, manifest)
        if place.precision.fp8 and (v1_attention or place.esm2_backend is None):
            raise EngineError(
                f"precision {place.precision.name} is of the packed attention, not of the standard one (v1): use "
                "fp16, or leave the standard attention off"
            )
        self._bundle = bundle
        self._device, dtype = place.device, place.precision.dtype
        self._queue = queue_of(place.device)
        self.default_token_budget = _TOKEN_BUDGET_CPU if place.device.type == "cpu" else _TOKEN_BUDGET_GPU
        self.precision = place.precision
        self.tokenizer: DnaTokenizer = bundle.tokenizer()
        with device_errors(place.device), torch.inference_mode(False), torch.no_grad():
            model = build_esm2(manifest.esm2, bundle.tensors("esm2"), place.device, dtype)
            self.esm2 = ESM2WithFlashAttention(model, attention_backend, v1_attention, place.precision.fp8)
            with unfilled():
                dnabert_s = DnabertS(manifest.dnabert_s, place.dna_backend)
                head = Head(manifest.feature_dim, manifest.head.hidden, temperature=manifest.temperature)
            self.dnabert_s = fill("dnabert_s", dnabert_s, bundle.tensors("dnabert_s"), place.device, dtype)
            self.head = fill("head", head, bundle.tensors("head"), place.device, torch.float32)
            v1 = self.esm2.takes_v1_path() or place.esm2_backend is None
            recorded = place.device.type == "cuda" and cuda_graphs
            graphs, no_graphs = self._record_graphs(v1) if recorded else (None, {})
            result = run_self_test(self.esm2, place.precision) if self_test else None
            self.esm2.release_standard_path()
        kernels = self.esm2.kernels(place.device, dtype)
        self.info = EngineInfo(
            model_id=manifest.id,
            model_sha256=bundle.sha256,
            expected_length=manifest.expected_length,
            attention="v1" if v1 else "packed",
            attention_backend=_STANDARD if v1 or place.esm2_backend is None else place.esm2_backend,
            dna_attention_backend=place.dna_backend,
            precision=place.precision.name,
            device=place.device_name,
            kernels=TORCH if v1 else kernels.name,
            refusals=place.refusals
            | {f"kernels: {name}": why for name, why in kernels.refusals.items()}
            | {f"cuda graphs: {name}": why for name, why in no_graphs.items()},
            self_test=result,
            graphs=graphs,
            calibration=manifest.calibration,
            flops_per_token={
                "protein": manifest.esm2.flops_per_token,
                "nucleotide": manifest.dnabert_s.flops_per_token,
            },
        )

    @property
    def expected_length(self) -> int:
        """Bases in a full chunk."""
        return self.info.expected_length

    def score(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        """The classifier's softmax scores, float32 [frames, 2], in the order others, virus.

        A frame's scores are the same, bit for bit, whatever frames go with it.

        Raises:
            OutOfMemory: the frames did not fit; fewer may.
            DeviceLost: this process has lost the device.
            NotFinite: a score is NaN or infinite.
            ValueError: a token id is outside its vocabulary, or a protein is empty.
        """
        if not frames:
            return np.empty((0, len(CLASSES)), dtype=np.float32)
        return self.enqueue(frames).read()

    def enqueue(self, frames: Sequence[PreparedFrame]) -> Enqueued:
        """Lay out at least one frame and have it computed: at once on a GPU, where this returns while it computes, and
        on a CPU when the scores are read. Both may be called on threads of their own; errors are those of `score`,
        from here or from `read`.
        """
        with device_errors(self._device), torch.inference_mode():
            inputs = self._lay_out(frames)
        return self._queue.enqueue(lambda: self._scores(self._features(inputs)))

    def features(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        """The classifier's input, float32 [frames, DNABERT-S dim + ESM-2 dim]; raises as `score` does."""
        if not frames:
            return np.empty((0, self.head.hidden.in_features), dtype=np.float32)
        with self._queue.computing():
            return on_host(self._features(self._lay_out(frames)), "features")

    def features_and_scores(self, frames: Sequence[PreparedFrame]) -> tuple[FloatArray, FloatArray]:
        """What `features` and `score` give, from one forward; for at least one frame."""
        with self._queue.computing():
            features = self._features(self._lay_out(frames))
            return on_host(features, "features"), on_host(self._scores(features), "scores")

    def on_path(self, v1: bool) -> Engine:
        """This engine on the standard path (True) or the packed one; the weights are shared, not copied.

        But for a precision with products in fp8: the standard path then has weights of its own, in 16 bits, which are
        loaded by this call; its `info` says that precision.

        Raises:
            BackendUnavailable: there is no packed path here.
            OutOfMemory, DeviceLost: the device failed while loading.
        """
        if v1 and self.precision.fp8:
            return self._standard_beside_fp8()
        choice = self.esm2.choice(self._device, self.precision.dtype)
        if choice is None and not v1:
            raise BackendUnavailable("no attention back-end can serve the packed path here")
        twin = copy.copy(self)
        twin.esm2 = self.esm2.on_path(v1)
        twin.info = replace(
            self.info,
            attention="v1" if v1 else "packed",
            attention_backend=_STANDARD if v1 or choice is None else choice.backend.name,
            kernels=TORCH if v1 else self.esm2.kernels(self._device, self.precision.dtype).name,
            graphs=None if v1 else self.info.graphs,
        )
        return twin

    def _standard_beside_fp8(self) -> Engine:
        """This engine with ESM-2's standard path in the type that stands beside fp8."""
        dtype, esm2 = self.precision.dtype, self._bundle.manifest.esm2
        twin = copy.copy(self)
        twin.precision = next(each for each in PRECISIONS.values() if each.dtype == dtype and not each.fp8)
        with device_errors(self._device), torch.inference_mode(False), torch.no_grad():
            model = build_esm2(esm2, self._bundle.tensors("esm2"), self._device, dtype)
            twin.esm2 = ESM2WithFlashAttention(model, v1_attention=True)
        twin.info = replace(
            self.info,
            attention="v1",
            attention_backend=_STANDARD,
            precision=twin.precision.name,
            kernels=TORCH,
            graphs=None,
        )
        return twin

    def _record_graphs(self, v1: bool) -> tuple[CudaGraphs | None, dict[str, str]]:
        """Record the forwards of both models, of ESM-2 only if it takes the packed path; None if neither can be.

        Returns:
            the graphs, and why a model has none, by its name.
        """
        begun = time.perf_counter()
        rows: dict[str, tuple[int, ...]] = {"esm2": (), "dnabert_s": ()}
        whys: dict[str, str] = {}
        for name, model in (("esm2", self.esm2), ("dnabert_s", self.dnabert_s)):
            on_standard_path = v1 and model is self.esm2
            why = "is on the standard path" if on_standard_path else model.graphs_refusal()
            if why is not None:
                whys[name] = why
                continue
            try:
                with device_errors(self._device):
                    rows[name] = model.record_graphs()
            except OutOfMemory:
                # Each forward alone may fit, and one that does not is made smaller.
                whys[name] = "does not fit into the device's memory beside the models"
        seconds = time.perf_counter() - begun
        return CudaGraphs(**rows, seconds=seconds) if any(rows.values()) else None, whys

    def _scores(self, features: Tensor) -> Tensor:
        scores = torch.softmax(self.head(features), dim=1)
        # An infinite feature can still give finite scores, and they would mean nothing.
        usable = features.isfinite().all(dim=1, keepdim=True)
        return scores.masked_fill(~usable, torch.nan)

    def _lay_out(self, frames: Sequence[PreparedFrame]) -> _Inputs:
        batch = pack_frames(frames)
        return _Inputs(batch, self._layout(batch.dna), self._layout(batch.protein))

    def _features(self, inputs: _Inputs) -> Tensor:
        batch, dna, protein = inputs
        dna_states = self.dnabert_s.forward_packed(torch.from_numpy(batch.dna.ids), dna, batch.dna.max_seqlen)
        protein_states = self.esm2.forward_packed(
            torch.from_numpy(batch.protein.ids), protein, batch.protein.max_seqlen
        )["representations"][self.esm2.num_layers]
        return frame_features(mean_of_tokens(dna_states, dna), mean_of_residues(protein_states, protein))

    def _layout(self, tokens: PackedTokens) -> PackedLayout:
        return PackedLayout.build(tokens.cu_seqlens, len(tokens.ids), self._device)
