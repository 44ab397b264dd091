"""Records in, answers out, as a plain program computes them: fair-esm's own forward on padded batches.

It gets what this project has for the rest: the cutting, translating and tokenising, DNABERT-S without padding, and the
head. That favours the loops.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.forward import Proteins, padded_batches
from schemas import decode_record
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.pooling import mean_of_tokens
from virnucpro_core.scoring.model import preparer
from virnucpro_core.scoring.packing import pack
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord

TOKENS = {"cpu": 3072, "cuda": 16384}
"""Places of a padded batch, by device: as many as this project's batches have tokens."""


class PaddedModel:
    """A bundle's models on fair-esm's own forward.

    Args:
        path: the bundle.
        precision: fp32, or fp16 or bf16 where the device has it.
        by_length: sort the proteins of a batch by length, so that there is less padding.
    """

    def __init__(self, path: Path, precision: str, by_length: bool = False) -> None:
        self._by_length = by_length
        self._engine = Engine(Bundle.load(path), precision=precision, v1_attention=True, self_test=False)
        self._prepare = preparer(self._engine)
        self._device = self._engine.esm2.device
        self._most = TOKENS[self._device.type]

    def answers(self, values: Sequence[bytes]) -> list[bytes]:
        """One answer for each message, as JSON: id, verdict and the highest score of each class."""
        records = []
        for value in values:
            record = decode_record(value)
            records.append(self._prepare(record.id, record.sequence))
        frames = [frame for record in records for frame in record.frames]
        scores = iter(self.score(frames) if frames else ())
        return [_answer(record, scores) for record in records]

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        """float32 [frames, 2], others and virus."""
        with torch.inference_mode():
            features = torch.cat((self._nucleotides(frames), self._proteins(frames)), dim=1)
            scores: NDArray[np.float32] = torch.softmax(self._engine.head(features), dim=1).cpu().numpy()
        return scores

    def _proteins(self, frames: Sequence[PreparedFrame]) -> Tensor:
        """float32 [frames, dim]: padded to the longest of each batch, and put back in order."""
        proteins: Proteins = [frame.protein_ids for frame in frames]
        lengths = [len(protein) for protein in proteins]
        order = np.argsort(lengths, kind="stable") if self._by_length else np.arange(len(lengths))
        last, means = self._engine.esm2.num_layers, []
        for tokens in padded_batches(proteins, self._most, self._device.type, self._by_length):
            rows = self._engine.esm2(tokens, repr_layers=[last])["representations"][last].float()
            inner = tokens.gt(2)  # neither cls, padding nor eos
            means.append((rows * inner[..., None]).sum(1) / inner.sum(1, keepdim=True))
        back = torch.from_numpy(np.argsort(order)).to(self._device)
        return torch.cat(means)[back]

    def _nucleotides(self, frames: Sequence[PreparedFrame]) -> Tensor:
        """float32 [frames, dim]."""
        means = []
        for first in range(0, len(frames), 64):
            packed = pack([frame.dna_ids for frame in frames[first : first + 64]])
            layout = PackedLayout.build(packed.cu_seqlens, len(packed.ids), self._device)
            rows = self._engine.dnabert_s.forward_packed(
                torch.from_numpy(packed.ids), layout, packed.max_seqlen
            )
            means.append(mean_of_tokens(rows, layout))
        return torch.cat(means)


def _answer(record: PreparedRecord, scores: Iterator[NDArray[np.float32]]) -> bytes:
    own = [next(scores) for _ in record.frames]
    if not own:
        return json.dumps({"id": record.record_id, "verdict": "no_open_frame"}).encode()
    others, virus = np.max(own, axis=0).tolist()
    verdict = "others" if others > virus else "virus"
    return json.dumps({"id": record.record_id, "verdict": verdict, "virus": virus, "others": others}).encode()
