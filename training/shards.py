"""Frames for training and evaluation, prepared by numpy worker processes.

A shard is one batch: chunks drawn anew with the balanced sampler at random offsets, of mixed lengths, with all
their open frames tokenised. A shard depends on (seed, its number) alone, so a run can be repeated however many
workers there are. The reverse strand needs no augmentation of its own: a chunk and its reverse complement have
the same six frames.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from training.corpus import TRAIN, BalancedSampler, Corpus
from training.metrics import Layout
from virnucpro_core.frames import open_frames
from virnucpro_core.prepare import PreparedFrame, prepare
from virnucpro_core.tokens import DnaTokenizer, esm2_token_ids

WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Shard:
    """One batch of frames.

    protein uint8 [residues], protein_lengths int64 [frames]; dna uint16 [tokens], dna_lengths int64 [frames]:
    the ids of all frames one after the other, special tokens included; frame_chunk int64 [frames], sorted,
    without gaps; chunk_label uint8 [chunks].
    """

    protein: npt.NDArray[np.uint8]
    protein_lengths: npt.NDArray[np.int64]
    dna: npt.NDArray[np.uint16]
    dna_lengths: npt.NDArray[np.int64]
    frame_chunk: npt.NDArray[np.int64]
    chunk_label: npt.NDArray[np.uint8]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.frame_chunk)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How training chunks are drawn: chunks per shard, their lengths, the balance between groups."""

    seed: int
    chunks: int = 512
    chunk_size: int = 500
    shortest: int = 300
    full_share: float = 0.7
    balance: float = 0.5


def training_shard(
    corpus: Corpus, sampler: BalancedSampler, tokenizer: DnaTokenizer, sampling: Sampling, number: int
) -> Shard:
    """Shard `number`: chunks of chunk_size letters (a share of them shorter) from anywhere in a record."""
    rng = np.random.default_rng([sampling.seed, number])
    proteins: list[npt.NDArray[np.int64]] = []
    nucleotides: list[str] = []
    frame_chunk: list[int] = []
    labels: list[int] = []
    while len(labels) < sampling.chunks:
        record = int(sampler.draw(rng, 1)[0])
        size = sampling.chunk_size
        if rng.random() >= sampling.full_share:
            size = int(rng.integers(sampling.shortest, sampling.chunk_size + 1))
        start = int(rng.integers(max(int(corpus.lengths[record]) - size, 0) + 1))
        frames = open_frames(corpus.sequence(record, start, start + size))
        if not frames:
            continue
        for frame in frames:
            proteins.append(esm2_token_ids(frame.protein))
            nucleotides.append(frame.nucleotides)
            frame_chunk.append(len(labels))
        labels.append(int(corpus.labels[record]))
    dna = tokenizer.encode(nucleotides)
    return Shard(
        protein=np.concatenate(proteins).astype(np.uint8),
        protein_lengths=np.array([len(ids) for ids in proteins], dtype=np.int64),
        dna=np.concatenate(dna).astype(np.uint16),
        dna_lengths=np.array([len(ids) for ids in dna], dtype=np.int64),
        frame_chunk=np.array(frame_chunk, dtype=np.int64),
        chunk_label=np.array(labels, dtype=np.uint8),
    )


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """All chunks of some records, cut as the service cuts them.

    frames: their open frames, in order; layout: whose they are (layout.chunk_record indexes the corpus);
    chunks: how many chunks there were, those without an open frame included.
    """

    frames: list[PreparedFrame]
    layout: Layout
    chunks: int


def evaluation_part(
    corpus: Corpus, tokenizer: DnaTokenizer, chunk_size: int, records: npt.NDArray[np.int64]
) -> EvaluationSet:
    """The frames of `records`, by the preparation that the service uses."""
    frames: list[PreparedFrame] = []
    frame_chunk: list[int] = []
    chunk_record: list[int] = []
    chunks = 0
    for record in records:
        prepared = prepare(str(corpus.ids[record]), corpus.sequence(int(record)), chunk_size, tokenizer)
        chunks += len(prepared.spans)
        last = -1
        for frame in prepared.frames:
            if frame.chunk != last:
                chunk_record.append(int(record))
                last = frame.chunk
            frame_chunk.append(len(chunk_record) - 1)
            frames.append(frame)
    layout = Layout(np.array(frame_chunk, dtype=np.int64), np.array(chunk_record, dtype=np.int64))
    return EvaluationSet(frames, layout, chunks)


def join(parts: list[EvaluationSet]) -> EvaluationSet:
    """Evaluation sets one after the other as one."""
    shifts = np.cumsum([0] + [len(part.layout.chunk_record) for part in parts])
    return EvaluationSet(
        [frame for part in parts for frame in part.frames],
        Layout(
            np.concatenate([part.layout.frame_chunk + shift for part, shift in zip(parts, shifts, strict=False)]),
            np.concatenate([part.layout.chunk_record for part in parts]),
        ),
        sum(part.chunks for part in parts),
    )


class _Worker:
    """What a worker process keeps between tasks."""

    corpus: Corpus
    sampler: BalancedSampler
    tokenizer: DnaTokenizer
    sampling: Sampling


def _start(data: Path, sampling: Sampling) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    corpus = Corpus.load(data / "genomes.npz")
    _Worker.corpus = corpus
    _Worker.sampler = BalancedSampler(
        corpus.records_of(TRAIN), corpus.labels, corpus.groups, corpus.lengths, sampling.balance
    )
    _Worker.tokenizer = DnaTokenizer(data / "tokenizer.json")
    _Worker.sampling = sampling


def _shard(number: int) -> Shard:
    return training_shard(_Worker.corpus, _Worker.sampler, _Worker.tokenizer, _Worker.sampling, number)


def _evaluation(records: npt.NDArray[np.int64]) -> EvaluationSet:
    return evaluation_part(_Worker.corpus, _Worker.tokenizer, _Worker.sampling.chunk_size, records)


class Workers:
    """A pool of preparing processes with a bounded number of shards ahead; a context manager."""

    def __init__(self, data: Path, sampling: Sampling, processes: int) -> None:
        self._ahead = 3 * processes
        self._pool = ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=_start, initargs=(data, sampling)
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def shards(self) -> Iterator[Shard]:
        """Shards 0, 1, 2, ... without end, in order."""
        pending: collections.deque[Future[Shard]] = collections.deque()
        number = 0
        while True:
            while len(pending) < self._ahead:
                pending.append(self._pool.submit(_shard, number))
                number += 1
            yield pending.popleft().result(timeout=WAIT_SECONDS)

    def evaluation_set(self, records: npt.NDArray[np.int64]) -> EvaluationSet:
        """All chunks of `records`, prepared in parallel, in the order of `records`."""
        pieces = [records[i : i + 8] for i in range(0, len(records), 8)]
        return join(list(self._pool.map(_evaluation, pieces, timeout=WAIT_SECONDS)))
