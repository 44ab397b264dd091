"""Makes tables of frames: of chunks drawn for training, and of all chunks of a split for an evaluation.

They are made once, by numpy worker processes, and then fit into a GPU's memory. A table depends on its seed
and settings alone, however many processes make it. The reverse strand needs no separate augmentation: a
chunk and its reverse complement have the same six frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data.augment import mutate, recode, stitch
from training.data.corpus import DOMAINS, BalancedSampler, Corpus
from training.data.frame_table import Frames, padded, widths
from training.progress import tracked
from training.recipe import Data
from virnucpro_core.sequence.frames import OpenFrame, open_frames
from virnucpro_core.sequence.prepare import prepare
from virnucpro_core.sequence.tokens import DnaTokenizer, esm2_token_ids

PART = 500  # chunks that a worker draws at a time
RECORDS_PART = 8  # records that a worker cuts at a time
EUKARYOTES = DOMAINS[1]
PIECE = 5000  # bases of a piece of which all chunks are judged together


def _chunk(
    corpus: Corpus, record: int, length: int, stitched: float, recipe: Data, rng: np.random.Generator
) -> str:
    """The letters of one training chunk, "" if the attempt failed."""
    size = length
    if rng.random() >= recipe.full:
        size = int(rng.integers(int(recipe.shortest * length), length + 1))
    if rng.random() < stitched:
        return stitch(corpus, record, size, rng)
    start = int(rng.integers(max(int(corpus.lengths[record]) - size, 0) + 1))
    return corpus.sequence(record, start, start + size)


def _augmented(frame: OpenFrame, recoded: float, recipe: Data, rng: np.random.Generator) -> tuple[str, str]:
    """Nucleotides and protein of a frame as training sees them."""
    nucleotides, protein = frame.nucleotides, frame.protein
    if rng.random() < recoded:
        nucleotides = recode(nucleotides, rng)
    if rng.random() < recipe.mutated:
        nucleotides, protein = mutate(nucleotides, protein, recipe.mutation * rng.random(), rng)
    return nucleotides, protein


def drawn_part(
    corpus: Corpus,
    sampler: BalancedSampler,
    tokenizer: DnaTokenizer,
    recipe: Data,
    length: int,
    number: int,
    chunks: int,
) -> Frames:
    """Part `number` of a training table: `chunks` chunks with an open frame from anywhere in the records.

    Raises:
        ValueError: no such chunk is found.
    """
    rng = np.random.default_rng([recipe.seed, length, number])
    proteins: list[npt.NDArray[np.int32]] = []
    dna: list[npt.NDArray[np.int32]] = []
    frame_chunk: list[int] = []
    chunk_record: list[int] = []
    size = widths(length)
    record, failures = int(sampler.draw(rng, 1)[0]), 0
    while len(chunk_record) < chunks:
        eukaryotic = corpus.domains[record] == EUKARYOTES
        recoded = recipe.recoded if eukaryotic else recipe.recoded_prokaryotes
        chunk = _chunk(corpus, record, length, recipe.stitched if eukaryotic else 0.0, recipe, rng)
        found = [_augmented(frame, recoded, recipe, rng) for frame in open_frames(chunk)]
        ids = tokenizer.encode([nucleotides for nucleotides, _ in found])
        fitting = [(p, i) for (_, p), i in zip(found, ids, strict=True) if len(i) <= size[1]]
        for protein, tokens in fitting:
            proteins.append(esm2_token_ids(protein))
            dna.append(tokens)
            frame_chunk.append(len(chunk_record))
        if fitting:
            chunk_record.append(record)
            record, failures = int(sampler.draw(rng, 1)[0]), 0
        else:
            failures += 1
            record = sampler.again(record, failures, rng)
    return Frames(
        *padded(proteins, dna, size),
        np.array(frame_chunk, dtype=np.int64),
        np.array(chunk_record, dtype=np.int64),
        np.full((chunks, 2), -1),
        np.full(chunks, -1),
        np.zeros(1, np.int64),
    )


def evaluated_part(
    corpus: Corpus, tokenizer: DnaTokenizer, length: int, records: npt.NDArray[np.int64], pieces: bool
) -> Frames:
    """All chunks of `records`, cut and prepared as the service does: of the whole records, or of their full
    pieces of 5 kb."""
    frames = []
    frame_chunk: list[int] = []
    chunk_record: list[int] = []
    chunk_span: list[tuple[int, int]] = []
    chunk_piece: list[int] = []
    chunks = piece = 0
    for record in records.tolist():
        whole = int(corpus.lengths[record])
        cut = [(i, i + PIECE) for i in range(0, whole - PIECE + 1, PIECE)] if pieces else [(0, whole)]
        for first, end in cut:
            prepared = prepare(
                str(corpus.ids[record]), corpus.sequence(record, first, end), length, tokenizer
            )
            chunks += len(prepared.spans)
            last = -1
            for frame in prepared.frames:
                if frame.chunk != last:
                    chunk_record.append(record)
                    start, stop = prepared.spans[frame.chunk]
                    chunk_span.append((first + start, first + stop))
                    chunk_piece.append(piece if pieces else -1)
                    last = frame.chunk
                frame_chunk.append(len(chunk_record) - 1)
                frames.append(frame)
            piece += 1
    size = (
        max((len(frame.protein_ids) for frame in frames), default=1),
        max((len(frame.dna_ids) for frame in frames), default=1),
    )
    return Frames(
        *padded([frame.protein_ids for frame in frames], [frame.dna_ids for frame in frames], size),
        np.array(frame_chunk, dtype=np.int64),
        np.array(chunk_record, dtype=np.int64),
        np.array(chunk_span, dtype=np.int64).reshape(-1, 2),
        np.array(chunk_piece, dtype=np.int64),
        np.array([chunks - len(chunk_record)]),
    )


class _Worker:
    """What a worker process keeps between tasks."""

    corpus: Corpus
    tokenizer: DnaTokenizer
    sampler: BalancedSampler


Initial = tuple[Path, Path, npt.NDArray[np.int64], float, float]
"""What a worker begins with: genomes, tokenizer, the records that it draws from, and how: see BalancedSampler."""


def _start(
    genomes: Path, tokenizer: Path, records: npt.NDArray[np.int64], balance: float, extra_weight: float
) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # of the processes there are enough
    corpus = _Worker.corpus = Corpus.load(genomes)
    _Worker.tokenizer = DnaTokenizer(tokenizer)
    _Worker.sampler = BalancedSampler(corpus, records, balance, extra_weight)


def _drawn(task: tuple[Data, int, int, int]) -> Frames:
    recipe, length, number, chunks = task
    return drawn_part(_Worker.corpus, _Worker.sampler, _Worker.tokenizer, recipe, length, number, chunks)


def _evaluated(task: tuple[int, npt.NDArray[np.int64], bool]) -> Frames:
    length, records, pieces = task
    return evaluated_part(_Worker.corpus, _Worker.tokenizer, length, records, pieces)


def _run(
    function: Callable[..., Frames],
    tasks: Sequence[object],
    initial: Initial,
    processes: int,
    what: str,
) -> Frames:
    def gathered(parts: Iterable[Frames]) -> Frames:
        return Frames.join(list(tracked(parts, what, len(tasks))))

    if processes <= 1:
        _start(*initial)
        return gathered(map(function, tasks))
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, initial) as pool:
        return gathered(pool.map(function, tasks))


def training_table(
    genomes: Path,
    tokenizer: Path,
    records: npt.NDArray[np.int64],
    recipe: Data,
    length: int,
    processes: int,
) -> Frames:
    """Chunks of `length` bases or less drawn from `records`, half of them viral.

    genomes, tokenizer: files; records: int64 [records]; processes: how many make the table.

    Raises:
        ValueError: there are no records, or none with an open frame.
    """
    counts = [min(PART, recipe.chunks - first) for first in range(0, recipe.chunks, PART)]
    tasks = [(recipe, length, number, count) for number, count in enumerate(counts)]
    initial = (genomes, tokenizer, records, recipe.balance, recipe.extra_weight)
    return _run(_drawn, tasks, initial, processes, f"drawing chunks of {length}")


def evaluation_table(
    genomes: Path,
    tokenizer: Path,
    records: npt.NDArray[np.int64],
    length: int,
    pieces: bool,
    processes: int,
) -> Frames:
    """All chunks of `records`, or of their pieces of 5 kb, in the order of the records.

    genomes, tokenizer: files; records: int64 [records], ascending; processes: how many make the table.

    Raises:
        ValueError: there are no records.
    """
    if len(records) == 0:
        raise ValueError("there are no records to measure on")
    parts = [records[i : i + RECORDS_PART] for i in range(0, len(records), RECORDS_PART)]
    tasks = [(length, part, pieces) for part in parts]
    return _run(_evaluated, tasks, (genomes, tokenizer, records, 0.5, 1.0), processes, "cutting records")
