"""The engine: prepared frames in, VirNucPro's scores out, on one device in one precision."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.bundle.weights import fill
from virnucpro_core.errors import NotFinite
from virnucpro_core.models.attention import BackendUnavailable
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.device import Placement, device_errors
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.esm2_weights import build_esm2
from virnucpro_core.models.kernels.choice import TORCH
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.pooling import frame_features, mean_of_residues, mean_of_tokens
from virnucpro_core.models.self_test import run_self_test
from virnucpro_core.models.unfilled import unfilled
from virnucpro_core.options import AUTO
from virnucpro_core.scoring.model import EngineInfo
from virnucpro_core.scoring.packing import PackedTokens, pack_frames
from virnucpro_core.scoring.verdicts import CLASSES
from virnucpro_core.sequence.prepare import PreparedFrame
from virnucpro_core.sequence.tokens import DnaTokenizer

_TOKEN_BUDGET_CPU = 3072
_TOKEN_BUDGET_GPU = 16384
_STANDARD = "fair-esm"
"""Stamped as ESM-2's attention back-end when its own forward computes."""


class Engine:
    """Scores frames with a bundle's models. For one thread at a time.

    Args:
        bundle: a checked bundle.
        device: "auto" (a CUDA device if there is one), or as torch names it.
        precision: "auto" (fp16 on a GPU, fp32 on a CPU), "fp32", "fp16" or "bf16".
        attention_backend: "auto", or the name of the only one that may serve ESM-2. DNABERT-S uses the same
            one unless that cannot do ALiBi; then the first that can, see `EngineInfo.refusals`.
        v1_attention: True takes the standard path for ESM-2, False or None the packed one.
        self_test: compare the chosen path with fair-esm's own forward first.

    Raises:
        BundleError: the weights do not fit the manifest.
        EngineError: this machine does not have the device, or the device cannot serve the precision.
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
    ) -> None:
        manifest = bundle.manifest
        place = Placement.resolve(device, precision, attention_backend, manifest)
        self._device, dtype = place.device, place.precision.dtype
        self.precision = place.precision
        self.tokenizer: DnaTokenizer = bundle.tokenizer()
        with device_errors(place.device), torch.inference_mode(False), torch.no_grad():
            model = build_esm2(manifest.esm2, bundle.tensors("esm2"), place.device, dtype)
            self.esm2 = ESM2WithFlashAttention(model, attention_backend, v1_attention, place.precision.linear)
            with unfilled():
                dnabert_s = DnabertS(manifest.dnabert_s, place.dna_backend)
                head = Head(manifest.feature_dim, manifest.head.hidden, temperature=manifest.temperature)
            self.dnabert_s = fill("dnabert_s", dnabert_s, bundle.tensors("dnabert_s"), place.device, dtype)
            self.dnabert_s.use_linear(place.precision.linear)
            self.head = fill("head", head, bundle.tensors("head"), place.device, torch.float32)
            result = run_self_test(self.esm2, place.precision) if self_test else None
        v1 = self.esm2.takes_v1_path() or place.esm2_backend is None
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
            refusals=place.refusals | {f"kernels: {name}": why for name, why in kernels.refusals.items()},
            self_test=result,
            calibration=manifest.calibration,
        )

    @property
    def expected_length(self) -> int:
        """Bases in a full chunk."""
        return self.info.expected_length

    @property
    def default_token_budget(self) -> int:
        """Tokens of a batch, for either model, that suit the device."""
        return _TOKEN_BUDGET_CPU if self._device.type == "cpu" else _TOKEN_BUDGET_GPU

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
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
        with device_errors(self._device), torch.inference_mode():
            return self._scores(self._features(frames))

    def features(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        """The classifier's input, float32 [frames, DNABERT-S dim + ESM-2 dim]; raises as `score` does."""
        if not frames:
            return np.empty((0, self.head.hidden.in_features), dtype=np.float32)
        with device_errors(self._device), torch.inference_mode():
            return _finite(self._features(frames), "features")

    def features_and_scores(
        self, frames: Sequence[PreparedFrame]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What `features` and `score` give, from one forward; for at least one frame."""
        with device_errors(self._device), torch.inference_mode():
            features = self._features(frames)
            return _finite(features, "features"), self._scores(features)

    def on_path(self, v1: bool) -> Engine:
        """This engine on the standard path (True) or the packed one; the weights are shared, not copied.

        Raises:
            BackendUnavailable: there is no packed path here.
        """
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
        )
        return twin

    def _scores(self, features: Tensor) -> NDArray[np.float32]:
        scores = torch.softmax(self.head(features), dim=1)
        # An infinite feature can still give finite scores, and they would mean nothing.
        usable = features.isfinite().all(dim=1, keepdim=True)
        return _finite(scores.masked_fill(~usable, torch.nan), "scores")

    def _features(self, frames: Sequence[PreparedFrame]) -> Tensor:
        batch = pack_frames(frames)
        dna = self._layout(batch.dna)
        dna_states = self.dnabert_s.forward_packed(torch.from_numpy(batch.dna.ids), dna, batch.dna.max_seqlen)
        protein = self._layout(batch.protein)
        protein_states = self.esm2.forward_packed(
            torch.from_numpy(batch.protein.ids), protein, batch.protein.max_seqlen
        )["representations"][self.esm2.num_layers]
        return frame_features(mean_of_tokens(dna_states, dna), mean_of_residues(protein_states, protein))

    def _layout(self, tokens: PackedTokens) -> PackedLayout:
        return PackedLayout.build(tokens.cu_seqlens, len(tokens.ids), self._device)


def _finite(values: Tensor, what: str) -> NDArray[np.float32]:
    result: NDArray[np.float32] = values.float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(result).all(axis=1))
    if bad.size:
        raise NotFinite(
            f"{what} of {bad.size} of {len(result)} frames are not finite, the first is frame {bad[0]}"
        )
    return result
