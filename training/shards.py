"""Frames for training and evaluation, prepared by numpy worker processes.

A shard is one batch: chunks drawn anew with the balanced sampler at random offsets, of mixed lengths, with
all their open frames tokenised and some of the tokens masked. A shard depends on (seed, its number) alone, so
the data of a run can be repeated however many workers there are. The reverse strand needs no augmentation of
its own: a chunk and its reverse complement have the same six frames.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from training.corpus import TRAIN, BalancedSampler, Corpus
from training.metrics import Layout
from training.noise import Masked, MaskRule, mask_tokens, mutate
from training.train_tokenizer import SPECIALS
from virnucpro_core.frames import open_frames
from virnucpro_core.prepare import PreparedFrame, prepare
from virnucpro_core.tokens import ESM2_MASK, DnaTokenizer, esm2_token_ids

WAIT_SECONDS = 300.0
CLEAN_FROM = 1 << 40  # clean shards are numbered from here, so that none repeats the draws of another shard
DNA_MASK = SPECIALS.index("[MASK]")
AMINO_ACIDS = (4, 24)  # first and last (exclusive) of ESM-2's ids of the twenty amino acids


@dataclass(frozen=True, slots=True)
class Shard:
    """One batch of frames.

    protein int32 [residues] and protein_lengths int64 [frames], dna int32 [tokens] and dna_lengths int64
    [frames]: the ids of all frames one after the other, special tokens included, some of them masked;
    frame_chunk int64 [frames], sorted, without gaps; chunk_label uint8 [chunks].
    """

    protein: Masked
    protein_lengths: npt.NDArray[np.int64]
    dna: Masked
    dna_lengths: npt.NDArray[np.int64]
    frame_chunk: npt.NDArray[np.int64]
    chunk_label: npt.NDArray[np.uint8]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.frame_chunk)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How training chunks are drawn and disturbed.

    chunks: of a shard; chunk_size: letters of a full chunk, which a share `full_share` of them is, while the
    others have `shortest` letters or more; balance: see BalancedSampler; mutation: the highest rate at which
    the nucleotides of a frame (not its protein) are redrawn, each frame's rate being uniform below it;
    masked, mask_rate: see MaskRule.
    """

    seed: int
    chunks: int = 512
    chunk_size: int = 500
    shortest: int = 300
    full_share: float = 0.7
    balance: float = 0.5
    mutation: float = 0.1
    masked: float = 0.5
    mask_rate: float = 0.15

    def clean(self) -> Sampling:
        """The same draws, undisturbed."""
        return replace(self, mutation=0.0, masked=0.0)


def training_shard(
    corpus: Corpus, sampler: BalancedSampler, tokenizer: DnaTokenizer, sampling: Sampling, number: int
) -> Shard:
    """Shard `number`: chunks of chunk_size letters (a share of them shorter) from anywhere in a record."""
    rng = np.random.default_rng([sampling.seed, number])
    proteins: list[npt.NDArray[np.int32]] = []
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
            nucleotides.append(mutate(frame.nucleotides, sampling.mutation * rng.random(), rng))
            frame_chunk.append(len(labels))
        labels.append(int(corpus.labels[record]))
    dna = tokenizer.encode(nucleotides)
    protein_lengths = np.array([len(ids) for ids in proteins], dtype=np.int64)
    dna_lengths = np.array([len(ids) for ids in dna], dtype=np.int64)
    share, rate = sampling.masked, sampling.mask_rate
    protein_rule = MaskRule(ESM2_MASK, *AMINO_ACIDS, share, rate)
    dna_rule = MaskRule(DNA_MASK, len(SPECIALS), tokenizer.vocabulary_size, share, rate)
    return Shard(
        protein=mask_tokens(np.concatenate(proteins), protein_lengths, protein_rule, rng),
        protein_lengths=protein_lengths,
        dna=mask_tokens(np.concatenate(dna), dna_lengths, dna_rule, rng),
        dna_lengths=dna_lengths,
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
            np.concatenate(
                [part.layout.frame_chunk + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
            ),
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


def _clean_shard(number: int) -> Shard:
    sampling = _Worker.sampling.clean()
    return training_shard(_Worker.corpus, _Worker.sampler, _Worker.tokenizer, sampling, CLEAN_FROM + number)


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

    def clean_shards(self, count: int) -> list[Shard]:
        """`count` shards of undisturbed training chunks."""
        return list(self._pool.map(_clean_shard, range(count), timeout=WAIT_SECONDS))

    def evaluation_set(self, records: npt.NDArray[np.int64]) -> EvaluationSet:
        """All chunks of `records`, prepared in parallel, in the order of `records`."""
        pieces = [records[i : i + 8] for i in range(0, len(records), 8)]
        return join(list(self._pool.map(_evaluation, pieces, timeout=WAIT_SECONDS)))
