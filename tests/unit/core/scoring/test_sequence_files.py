"""Viral records as FASTA, and the records that got no score."""

from __future__ import annotations

import io

from tests.support.results import left_out, of_virus_scores, scored
from virnucpro_core.scoring.sequence_files import Rejected, VirusFasta


def test_viral_records_keep_id_description_and_letters():
    stream = io.StringIO()
    writer = VirusFasta(stream, lambda found: found.record_id != "no")
    letters = "acgtNNRY" * 21
    for outcome in (
        scored(of_virus_scores("yes", 0.9), "some  words", letters),
        scored(of_virus_scores("no", 0.9)),
        left_out("yes"),
        scored(of_virus_scores("bare", 0.9), None, "UUU"),
    ):
        writer.add(outcome)
    writer.finish()
    assert stream.getvalue() == (
        f">yes some  words\n{letters[:80]}\n{letters[80:160]}\n{letters[160:]}\n>bare\nUUU\n"
    )


def test_records_without_a_score_have_a_row_with_the_reason():
    stream = io.StringIO()
    writer = Rejected(stream)
    for outcome in (
        scored(of_virus_scores("fine", 0.9)),
        scored(of_virus_scores("closed", None)),
        left_out("b\ta", "5A"),
    ):
        writer.add(outcome)
    writer.finish()
    assert stream.getvalue() == (
        "id\tlength\treason\tdetail\n"
        "closed\t10\tno_open_frame\tno reading frame of any chunk is free of stop codons\n"
        "b\\ta\t2\tinvalid_nucleotides\t'5' at position 1 is not a nucleotide code\n"
    )
