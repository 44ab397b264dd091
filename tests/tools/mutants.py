"""Break the service on purpose, one mechanism at a time, and see which tests notice.

    python -m tests.tools.mutants                 # every mutant against the tests that are meant to catch it
    python -m tests.tools.mutants transactions    # one of them
    python -m tests.tools.mutants --write         # and write what was found into the table of docs/reliability.md

Works on a copy of the tree. A mutant that no test notices makes the exit status 1: then a promise of the service
(docs/reliability.md) hangs on nothing. Adding a mechanism means adding its mutant here, and `make mutants`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COPIED = ("consumer", "schemas", "virnucpro_client", "virnucpro_core", "tests", "docs", "pyproject.toml")
_TEST_S = 900
_OPTIONS = ("-p", "no:cacheprovider", "-p", "no:randomly")
_GUIDE = ROOT / "docs" / "reliability.md"
_BEGIN, _END = "<!-- mutants: written by make mutants -->\n", "<!-- /mutants -->\n"
_HEAD = "| mechanism taken out | first test that fails |\n| --- | --- |\n"


class MutantError(Exception):
    """A mutant cannot be made or judged; the message says why."""


@dataclass(frozen=True)
class Mutant:
    """One mechanism taken out: in `file`, `old` becomes `new`; `tests` are to notice.

    `mechanism` is what the table of docs/reliability.md calls it.
    """

    name: str
    mechanism: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = (
        "tests/unit/consumer/delivery/test_exactly_once.py",
        "tests/simulation/test_loop_properties.py",
    )

    @property
    def needs_gpu(self) -> bool:
        """Whether its tests are skipped without a GPU."""
        return all(test.startswith("tests/gpu/") for test in self.tests)


MUTANTS = (
    Mutant(
        "an outage of the registry",
        "the registry's own word that it has no such schema (any 404 counts)",
        "consumer/registry/confluent.py",
        "            if error.error_code in _NOT_FOUND:",
        "            if error.http_status_code == 404:",
        ("tests/unit/consumer/registry",),
    ),
    Mutant(
        "the input's schema id",
        "an answer without the header that names the schema of its input",
        "consumer/delivery/answers.py",
        "return name.startswith(OUR_HEADERS) or name == VALUE_SCHEMA_ID",
        "return name.startswith(OUR_HEADERS)",
        ("tests/unit/consumer/delivery/test_answers.py",),
    ),
    Mutant(
        "equal frames",
        "the nucleotides in the key of the frame cache (frames of one protein share their scores)",
        "virnucpro_core/scoring/frame_cache.py",
        "    digest.update(frame.dna_ids.astype(np.int32, copy=False).tobytes())\n",
        "",
        ("tests/unit/core/scoring/test_frame_cache.py",),
    ),
    Mutant(
        "the journal's checksums",
        "the checksum of a block in `predict`'s journal (what a crash of the machine left is believed)",
        "virnucpro_core/scoring/row_journal.py",
        "                or zlib.crc32(self._file.read(frames * _FRAME.itemsize)) != checksum\n",
        "                or not self._file.read(frames * _FRAME.itemsize)\n",
        ("tests/unit/core/scoring/test_row_journal.py",),
    ),
    Mutant(
        "the journal's run",
        "what run a journal is of (`predict --resume` takes the scores of another one)",
        "virnucpro_core/scoring/row_journal.py",
        "            if self._found != identity:",
        "            if not self._found:",
        ("tests/unit/core/scoring/test_row_journal.py",),
    ),
    Mutant(
        "transactions",
        "transactions (offsets committed beside them)",
        "consumer/delivery/exactly_once.py",
        "            result = self.transactions.send_offsets(held.offsets, self.consumer.consumer_group_metadata)\n",
        "            self.consumer.commit(offsets=held.offsets, asynchronous=False)\n"
        "            result = self.transactions.send_offsets([], self.consumer.consumer_group_metadata)\n",
    ),
    Mutant(
        "group metadata",
        "group metadata (fetched once and kept)",
        "consumer/delivery/transactions.py",
        "producer, group = self.producer, metadata()",
        "producer, group = self.producer, _KEPT.setdefault(id(self), metadata())",
    ),
    Mutant(
        "epoch check",
        "epoch check (a result of an earlier assignment counts for the present one)",
        "consumer/ledger.py",
        "return entry is not None and entry.message.source == source",
        "return entry is not None",
        ("tests/unit/consumer/test_ledger.py", "tests/property"),
    ),
    Mutant(
        "whole groups",
        "whole groups (members of a group are on both sides of a split)",
        "virnucpro_core/heads/splits.py",
        '(label.group, "") if label.group else ("", file.record_ids[record])',
        '("", file.record_ids[record])',
        ("tests/unit/core/heads/test_splits.py",),
    ),
    Mutant(
        "prefix rule",
        "prefix rule (what is finished is released past what is not)",
        "consumer/ledger.py",
        "            if entry.outcome is None:\n                return\n            yield entry",
        "            if entry.outcome is not None:\n                yield entry",
        ("tests/unit/consumer/test_ledger.py", "tests/property"),
    ),
    Mutant(
        "dead letter in the transaction",
        "dead letter in the transaction (in one of its own, without the offset of its input)",
        "consumer/delivery/exactly_once.py",
        "        self._transaction = _Transaction(release, answers, deque(answers))\n",
        "        if apart := [answer for answer in answers if isinstance(answer.outcome, Refused)]:\n"
        "            for answer in apart:\n"
        "                self.sender.send(answer, False, lambda _: None)\n"
        "            self.transactions.commit()\n"
        "            self.transactions.begin()\n"
        "        rest = deque(answer for answer in answers if answer not in apart)\n"
        "        self._transaction = _Transaction(release, answers, rest)\n",
    ),
    Mutant(
        "abort of what went away",
        "abort of a transaction whose partition went away",
        "consumer/delivery/exactly_once.py",
        "            held.aborting = True\n\n    def close",
        "            pass\n\n    def close",
    ),
    Mutant(
        "results kept until committed",
        "results kept until the commit (settled when they are handed to the client)",
        "consumer/delivery/exactly_once.py",
        "        if not held.offsets_sent:\n            result",
        "        self.ledger.settle(held.release)\n        if not held.offsets_sent:\n            result",
    ),
    Mutant(
        "pause taken back",
        "a pause that is taken back (a partition that comes back stays paused)",
        "consumer/service.py",
        "(consumer.pause if self._paused else consumer.resume)(topic_partitions)",
        "consumer.pause(topic_partitions) if self._paused else None",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "shares of a budget",
        "partitions share the budgets (the first to come may use all)",
        "consumer/intake/backpressure.py",
        "limit: fair_share((amounts[place] for amounts in held.values()), budget)",
        "limit: float(budget)",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "partitions paused alone",
        "a partition that holds its share is paused (it is read on)",
        "consumer/service.py",
        "            self._consumer.pause(_topic_partitions(held))\n",
        "            pass\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "reading goes on before the queue is empty",
        "reading goes on long before nothing waits for the device (it goes on when a twentieth is left)",
        "consumer/intake/backpressure.py",
        "_REOPEN = 0.5",
        "_REOPEN = 0.05",
        ("tests/simulation/test_full_batches.py",),
    ),
    Mutant(
        "a batch waits from the end of preparation",
        "a frame waits for company from the end of its preparation (under a backlog its time is over then)",
        "consumer/scoring/batcher.py",
        "        return self.slots[0].record.prepared_at\n",
        "        return -1.0\n",
        ("tests/simulation/test_full_batches.py",),
    ),
    Mutant(
        "turns in a batch",
        "partitions take turns in a batch (the first to come goes first)",
        "consumer/scoring/batcher.py",
        "            for partition, slots in list(waiting.items()):\n"
        "                if (slot := next(slots, None)) is None:\n"
        "                    del waiting[partition]\n"
        "                else:\n"
        "                    yield partition, slot\n",
        "            partition = next(iter(waiting))\n"
        "            for slot in waiting.pop(partition):\n"
        "                yield partition, slot\n",
        ("tests/unit/consumer/scoring/test_pipeline.py",),
    ),
    Mutant(
        "a thread for large messages",
        "large messages are prepared on a thread of their own (with all others)",
        "consumer/scoring/inbox.py",
        "        return self.size > LARGE_BYTES\n",
        "        return False\n",
        ("tests/unit/consumer/scoring/test_pipeline.py",),
    ),
    Mutant(
        "room behind the inbox",
        "a backlog of one partition waits as raw messages (all of it is prepared)",
        "consumer/scoring/inbox.py",
        "if waiting[0].is_large == large and self._has_room(partition):",
        "if waiting[0].is_large == large:",
        ("tests/unit/consumer/scoring/test_inbox.py",),
    ),
    Mutant(
        "a drain drops what has not started",
        "a drain leaves what has not started to the next owner (it is all finished first)",
        "consumer/service.py",
        "        self._intake.revoke(self._intake.assigned)\n"
        "        self._pipeline.discard()\n"
        "        self._pipeline.drain()\n",
        "        self._pipeline.drain()\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "a new client for a new topic",
        "an input topic that is made again is read by a new client (by the one that knew the old topic)",
        "consumer/service.py",
        "                self._renewing = True\n",
        "                pass\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "only what was of the old topic is set back",
        "a member that hears late of a topic that is made again leaves alone what another has begun (sets all back)",
        "consumer/service.py",
        "{each for each, since in self._assigned_at.items() if since <= self._known_at}",
        "set(self._assigned_at)",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "nothing read before the first offsets are committed",
        "nothing of a topic that is made again is answered before its first offsets are committed (it is)",
        "consumer/service.py",
        "        if self._renewing and not self._renew():\n            self._wait_to_renew()\n            return\n",
        "        if self._renewing:\n            self._renew()\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "first messages committed before leaving",
        "whoever gets a partition of a topic that is made again begins at its first message (at what is committed)",
        "consumer/service.py",
        "                self._consumer.commit(firsts, asynchronous=False)\n",
        "                pass\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "no commit in a revoke",
        "exactly once nothing is committed in a revoke (what has finished is)",
        "consumer/service.py",
        "        if self._delivery.commits_in_a_revoke:\n",
        "        if True:\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "where a partition begins",
        "the committed offset as the place to begin (the client's word for it instead)",
        "consumer/intake/intake.py",
        "        if not self._start_offsets.accepts(partition, offset):\n            return None\n",
        "",
        ("tests/kafka/test_positions.py",),
    ),
    Mutant(
        "input deleted unread",
        "input that is deleted unread is noticed (its gap taken for one without messages)",
        "consumer/intake/gaps.py",
        "        if log_start <= gap.first:\n",
        "        if log_start:\n",
        ("tests/unit/consumer/test_service.py", "tests/simulation/test_loop_properties.py"),
    ),
    Mutant(
        "nothing committed behind a gap",
        "nothing is committed behind a gap before its cause is known (it is committed meanwhile)",
        "consumer/service.py",
        "        if self._intake.settle():\n            self._delivery.turn()\n",
        "        self._intake.settle()\n        self._delivery.turn()\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "topic made again",
        "an input topic that is made again is read from its first message (it goes on where it was)",
        "consumer/service.py",
        "self._intake.begin_again(topic)",
        "0",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "producer renewed",
        "a producer that knew the topic before it was created again is replaced (it is kept)",
        "consumer/delivery/exactly_once.py",
        "            self.transactions.replace()\n",
        "",
        ("tests/unit/consumer/delivery/test_exactly_once.py",),
    ),
    Mutant(
        "which topic it is of",
        "nothing is delivered before it is known which topic it is of (it is delivered at once)",
        "consumer/ledger.py",
        "            if entry.message.received_at > read_by:\n                return\n",
        "",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "room of the embedded broker",
        "publish waits for the reader of the embedded broker (it sends on)",
        "consumer/cli/topics/publisher.py",
        "            self._room.wait()\n",
        "            self._room._sent = 0\n",
        ("tests/integration/test_cli_publish.py",),
    ),
    Mutant(
        "reports before offsets",
        "at least once: reports before offsets",
        "consumer/delivery/at_least_once.py",
        "if self._unit.waiting or self._unit.in_flight or self._unit.failed:",
        "if self._unit.waiting:",
        ("tests/unit/consumer/delivery/test_at_least_once.py", "tests/simulation/test_loop_properties.py"),
    ),
    Mutant(
        "content opens no breaker",
        "refused content opens no breaker (a record refused for its own content counts)",
        "consumer/intake/breaker.py",
        "says_nothing = reason is not None and reason not in TELLING",
        "says_nothing = False",
        ("tests/unit/consumer/intake/test_breaker.py", "tests/unit/consumer/test_service.py"),
    ),
    Mutant(
        "trial of its own records",
        "a trial is judged by its own records (by what was in flight when the breaker opened, too)",
        "consumer/intake/breaker.py",
        "            if source not in self._on_trial:\n                return\n",
        "            self._on_trial.add(source)\n",
        ("tests/unit/consumer/intake/test_breaker.py",),
    ),
    Mutant(
        "breaker by partition",
        "the breaker is judged by partition (by the share of all records alone)",
        "consumer/intake/breaker.py",
        "        return sum(shares.values()) > self._share * len(sound | shares.keys())\n",
        "        return True\n",
        ("tests/unit/consumer/intake/test_breaker.py", "tests/unit/consumer/test_service.py"),
    ),
    Mutant(
        "trial of each partition",
        "a trial reads of each partition its share (of whichever comes first)",
        "consumer/intake/intake.py",
        "        if not self._breaker.is_open:\n            return self._backpressure.blocked\n",
        "        if True:\n            return self._backpressure.blocked\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "bounds before decoding",
        "metadata is bounded before it is decoded (it is decoded whatever it holds)",
        "schemas/avro.py",
        "            writer.check(data, start)\n",
        "            pass\n",
        ("tests/unit/schemas/test_schemas.py",),
    ),
    Mutant(
        "bound on connections",
        "a bound on HTTP connections (as many as descriptors)",
        "consumer/ops/http_connections.py",
        "            oldest.abort()\n",
        "",
        ("tests/integration/test_http_port.py",),
    ),
    Mutant(
        "end of an exchange",
        "a time for an HTTP exchange (as long as the client likes)",
        "consumer/ops/http_connections.py",
        "        connection.abort()\n",
        "",
        ("tests/integration/test_http_port.py",),
    ),
    Mutant(
        "suspects run apart",
        "suspects run apart (alone on the device, beside what else is in flight)",
        "consumer/service.py",
        "            if not self._intake.sets_apart(raw):\n                self._pipeline.submit(raw)\n",
        "            self._pipeline.submit(raw)\n",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "alone in the process",
        "a death counts as alone only with nothing else in flight (whatever else was)",
        "consumer/scoring/quarantine.py",
        '        alone = len(jobs) == 1 and self.isolation(jobs[0]) == "run_alone"\n',
        "        alone = True\n",
        ("tests/unit/consumer/scoring/test_quarantine.py",),
    ),
    Mutant(
        "budgets before each message",
        "budgets looked at before each message (once a turn)",
        "consumer/service.py",
        " or not self._intake.reads_on(self._pipeline):",
        ":",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "a turn's time",
        "a turn's time to read",
        "consumer/service.py",
        " or until.expired",
        "",
        ("tests/unit/consumer/test_service.py",),
    ),
    Mutant(
        "header names of any bytes",
        "header names of any bytes (the client's error comes up in another line)",
        "consumer/kafka/headers.py",
        "    try:\n        return tuple(\n",
        "    try:\n        pairs = list(message.headers() or ())\n"
        "    except (SystemError, UnicodeDecodeError):\n        return None\n    return tuple(pairs)\n"
        "    try:\n        return tuple(\n",
        ("tests/integration/test_headers.py",),
    ),
    Mutant(
        "one source header",
        "one source header (an answer carries the vnp-source of its input beside its own)",
        "consumer/delivery/answers.py",
        "return name.startswith(OUR_HEADERS) or name == VALUE_SCHEMA_ID",
        "return name == VALUE_SCHEMA_ID",
        ("tests/unit/consumer/delivery/test_answers.py",),
    ),
    Mutant(
        "key of a cut dead letter",
        "the key of a dead letter that is cut (a compacted topic takes no message without one)",
        "consumer/delivery/answers.py",
        "    _Form(0, None, headers=False),\n",
        "    _Form(0, 0, headers=False),\n",
        ("tests/unit/consumer/delivery/test_answers.py",),
    ),
    Mutant(
        "suspects written before the batch",
        "suspects written down before the batch",
        "consumer/scoring/inference.py",
        "            self._suspects.entering([record[0].record for record in by_record(slots)])\n",
        "",
        ("tests/unit/consumer/scoring/test_quarantine.py",),
    ),
    Mutant(
        "suspects written before they are enqueued",
        "suspects of the next batch written down before that is enqueued",
        "consumer/scoring/pipeline.py",
        "                    self._suspects.announced([record[0].record for record in by_record(slots)])\n",
        "",
        ("tests/unit/consumer/scoring/test_pipeline.py",),
    ),
    Mutant(
        "suspects are not enqueued",
        "a batch with a suspect waits until the device is free (it is enqueued)",
        "consumer/scoring/inference.py",
        'record[0].record) != "run" for',
        'record[0].record) == "never" for',
        ("tests/unit/consumer/scoring/test_inference.py",),
    ),
    Mutant(
        "the batch behind is read first",
        "what is run again has the memory alone (the batch behind it is still on the device)",
        "consumer/scoring/inference.py",
        "                _await(self._behind)  # what runs now has the memory alone\n",
        "                pass\n",
        ("tests/unit/consumer/scoring/test_inference.py",),
    ),
    Mutant(
        "suspects of the next batch",
        "suspects of the next batch written before it runs (taken as written, though they never were)",
        "consumer/scoring/running_files.py",
        "        self._write(1 - self._current, running)\n",
        "",
        ("tests/unit/consumer/scoring/test_quarantine.py",),
    ),
    Mutant(
        "the next batch is enqueued ahead",
        "the next batch is on the device before the one ahead is read (it is taken when that has been read)",
        "consumer/scoring/pipeline.py",
        "            if tokens:\n                self._staging.begins(tokens)\n",
        "            tokens = 0\n",
        ("tests/unit/consumer/scoring/test_pipeline.py",),
    ),
    Mutant(
        "the next batch is taken late",
        "the next batch is taken late in the one that runs (when that begins)",
        "consumer/scoring/staging.py",
        "            self._due = self._clock() + expected - lead\n",
        "            self._due = self._clock()\n",
        ("tests/unit/consumer/scoring/test_pipeline.py",),
    ),
    Mutant(
        "records of a batch dropped",
        "records that waited for a batch are dropped when their partition goes away (they run all the same)",
        "consumer/scoring/pipeline.py",
        "                and (slot.record.source in self._started or self._is_wanted(slot.record.source))\n",
        "",
        ("tests/unit/consumer/scoring/test_pipeline.py",),
    ),
    Mutant(
        "a dependency that is down delays",
        "a dependency that is down delays (its records go to the dead-letter topic)",
        "consumer/scoring/preparation.py",
        'return NotNow(" ".join(str(error).split()))',
        'return Refused(Reason.MALFORMED, "decode", str(error))',
        ("tests/unit/consumer/scoring/test_preparation.py", "tests/integration/test_codec_outage.py"),
    ),
    Mutant(
        "halving of a batch",
        "halving of a batch too large for memory (the first record of the batch is given up instead)",
        "virnucpro_core/scoring/robust.py",
        'if failure.kind == "out_of_memory" and len(slots) > 1:',
        'if failure.kind == "out_of_memory" and len(slots) > 1_000_000:',
        ("tests/unit/core/scoring/test_stream.py", "tests/unit/consumer/scoring/test_inference.py"),
    ),
    Mutant(
        "kernel: epsilon",
        "epsilon of a fused norm",
        "virnucpro_core/models/kernels/add_norm_triton.py",
        "tl.sqrt_rn(variance + eps)",
        "tl.sqrt_rn(variance + 1e-12)",
        ("tests/gpu/test_kernels.py::test_add_norm_is_as_exact_as_torch",),
    ),
    Mutant(
        "kernel: residual",
        "a fused norm's sum, kept in the residual stream",
        "virnucpro_core/models/kernels/add_norm_triton.py",
        "        tl.store(x_ptr + a, xa)\n",
        "",
        ("tests/gpu/test_kernels.py::test_add_norm_is_as_exact_as_torch",),
    ),
    Mutant(
        "kernel: gelu",
        "digits of gelu's polynomial",
        "virnucpro_core/models/kernels/gelu_triton.py",
        "1.421413741",
        "1.421913741",
        ("tests/gpu/test_kernels.py::test_gelu_of_every_value_is_as_exact_as_torchs",),
    ),
    Mutant(
        "kernel: position",
        "positions of the rotary embedding alone",
        "virnucpro_core/models/kernels/rotation_triton.py",
        "place = position[:, None] * HALF",
        "place = (position[:, None] + 1) * HALF",
        ("tests/gpu/test_kernels.py::test_rotate_is_as_exact_as_torch_and_leaves_v_alone",),
    ),
    Mutant(
        "kernel: key position",
        "positions of keys in fused attention",
        "virnucpro_core/models/kernels/rotary_attention_triton.py",
        "cos_ptr, sin_ptr, key, half",
        "cos_ptr, sin_ptr, key + 1, half",
        ("tests/gpu/test_kernels.py::test_rotary_attention_is_as_exact_as_the_two_steps",),
    ),
    Mutant(
        "kernel: segment",
        "the end of a segment in fused attention",
        "virnucpro_core/models/kernels/rotary_attention_triton.py",
        'tl.where(is_key[None, :], scores * scale, float("-inf"))',
        "scores * scale",
        ("tests/gpu/test_kernels.py::test_rotary_attention_is_as_exact_as_the_two_steps",),
    ),
    Mutant(
        "kernel: mean",
        "the end of a segment in its mean",
        "virnucpro_core/models/kernels/segment_means_triton.py",
        ".to(tl.int64) - SKIP - first)",
        ".to(tl.int64) - first)",
        ("tests/gpu/test_kernels.py::test_segment_means_are_as_exact_as_torch",),
    ),
    Mutant(
        "fp8 scale",
        "the largest fp8 value in the scale of a row",
        "virnucpro_core/models/kernels/quantise.py",
        "LARGEST = 448.0",
        "LARGEST = 500.0",
        ("tests/unit/core/models/test_kernels.py",),
    ),
    Mutant(
        "kernel: fp8 scale",
        "half of a row in its fp8 scale",
        "virnucpro_core/models/kernels/quantise_triton.py",
        "tl.maximum(tl.max(tl.abs(a), 0), tl.max(tl.abs(b), 0))",
        "tl.max(tl.abs(a), 0)",
        ("tests/gpu/test_kernels.py::test_rows_in_fp8_are_as_exact_as_torchs",),
    ),
    Mutant(
        "kernel: small head",
        "the end of a head of fewer than 32 values in fused attention",
        "virnucpro_core/models/kernels/rotary_attention_triton.py",
        "        real = real & (column < HALF)[None, :]",
        "        real = real & (column < BLOCK)[None, :]",
        ("tests/gpu/test_kernels.py::test_rotary_attention_is_as_exact_as_the_two_steps",),
    ),
    Mutant(
        "fp8 products",
        "the feed-forward's second product in fp8",
        "virnucpro_core/models/esm2_flash.py",
        'Fp8Linear.of(layer.fc2) if "fc2" in self._fp8 else layer.fc2',
        "layer.fc2",
        ("tests/unit/core/models/test_precision.py",),
    ),
    Mutant(
        "fp8 memory",
        "the 16-bit copy of weights in fp8, given up",
        "virnucpro_core/models/engine.py",
        "            self.esm2.release_standard_path()\n",
        "",
        ("tests/unit/core/models/test_precision.py",),
    ),
    Mutant(
        "graph: padding",
        "the segment of a graph's padding rows, apart from the batch's",
        "virnucpro_core/models/graphs.py",
        "        segment_ids[:] = own\n",
        "        segment_ids[:] = 0\n",
        ("tests/unit/core/models/test_graphs.py",),
    ),
    Mutant(
        "graph: segments",
        "the room for segments in the choice of a graph",
        "virnucpro_core/models/graphs.py",
        " and layout.segments <= self.segments",
        "",
        ("tests/unit/core/models/test_graphs.py",),
    ),
    Mutant(
        "graph: result",
        "the copy of a graph's result, which the next batch overwrites",
        "virnucpro_core/models/graphs.py",
        "return chosen.out[: layout.total].clone()",
        "return chosen.out[: layout.total]",
        ("tests/unit/core/models/test_graphs.py",),
    ),
    Mutant(
        "graph: tiles",
        "the tiles of queries in a graph",
        "virnucpro_core/models/graphs.py",
        "        tiles[: len(real)] = real\n",
        "        tiles[: len(real) - 2] = real[:-2]\n",
        ("tests/unit/core/models/test_graphs.py",),
    ),
    Mutant(
        "token dropout",
        "ESM-2's scaling of the embeddings by 0.88",
        "virnucpro_core/models/esm2_flash.py",
        "_KEPT_IN_TRAINING = 1 - 0.15 * 0.8",
        "_KEPT_IN_TRAINING = 1.0",
        ("tests/unit/core/models/test_esm2_packed.py",),
    ),
    Mutant(
        "lag behind a marker",
        "the position in the lag (a transaction's marker at the end counts for ever)",
        "consumer/ops/lag.py",
        "offset = max(position, self._ledger.last_received(partition) + 1)",
        "offset = self._ledger.last_received(partition) + 1",
        ("tests/unit/consumer/ops/test_lag.py",),
    ),
    Mutant(
        "labels of a revoked partition",
        "partition labels that go with the partition (they stay)",
        "consumer/ops/metrics.py",
        "                self._forget_lag(self._with_lag - partitions.keys())\n",
        "",
        ("tests/unit/consumer/ops/test_lag.py",),
    ),
    Mutant(
        "stages of a thread",
        "the stage that a thread is in, in the time of its stages (it counts when it has ended)",
        "consumer/stage_times.py",
        "            seconds[self._stage] += self._clock() - self._since\n",
        "",
        ("tests/unit/consumer/test_stage_times.py",),
    ),
    Mutant(
        "replay's map",
        "map of replayed dead letters (the first open one alone is committed)",
        "consumer/kafka/offset_map.py",
        "        behind = [offset for offset in self._done if offset >= start]\n",
        "        behind: list[int] = []\n",
        ("tests/unit/consumer/kafka/test_offset_map.py", "tests/unit/consumer/cli/test_replay.py"),
    ),
    Mutant(
        "replays alone",
        "refused dead letters are sent apart (the whole batch stays open)",
        "consumer/cli/dlq/replay.py",
        "            self._progress[found.partition].done(found.offset)\n",
        "            continue\n",
        ("tests/unit/consumer/cli/test_replay.py",),
    ),
    Mutant(
        "replay's count",
        "count of replays (it is lost when the record fails again)",
        "consumer/delivery/answers.py",
        "                if replays := replays_of(message.headers):\n",
        "                if replays := 0:\n",
        ("tests/unit/consumer/delivery/test_answers.py",),
    ),
    Mutant(
        "awaited places",
        "answers are awaited by place (those that come before the confirmation are dropped)",
        "consumer/cli/topics/awaited.py",
        "            self._early[place] = answer\n",
        "            pass\n",
        ("tests/unit/consumer/cli/test_awaited.py",),
    ),
    Mutant(
        "cuts",
        "a part is cut as in the whole (where chunks overlap it is not)",
        "virnucpro_client/parts.py",
        "            behind = first + 1\n",
        "            pass\n",
        ("tests/unit/client/test_parts.py",),
    ),
    Mutant(
        "parts of one model",
        "parts that different models have scored are not joined (they are)",
        "virnucpro_client/joining.py",
        "    if len(made_by) > 1:\n",
        "    if len(made_by) > len(parts):\n",
        ("tests/unit/client/test_parts.py",),
    ),
)
_FUTURE = "from __future__ import annotations\n"
_IMPORTS = {
    "consumer/delivery/exactly_once.py": "from consumer.types import Refused\n",
    "consumer/delivery/transactions.py": "_KEPT: dict[int, object] = {}\n",
}


def patched(mutant: Mutant, root: Path = ROOT) -> str:
    """The text of the mutant's file without the mechanism.

    Raises:
        MutantError: the mutant does not fit the code in exactly one place.
    """
    text = (root / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise MutantError(f"the mutant {mutant.name!r} no longer fits {mutant.file}: bring it up to date")
    text = text.replace(mutant.old, mutant.new)
    # An import that the mutant uses goes behind the first one.
    return text.replace(_FUTURE, _FUTURE + _IMPORTS.get(mutant.file, ""), 1)


def broken(mutant: Mutant, folder: Path) -> None:
    """Copy the tree and take the mechanism out."""
    for name in _COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    (folder / mutant.file).write_text(patched(mutant))


def first_failure(mutant: Mutant) -> str | None:
    """The name of the first test that notices, None if none does."""
    with tempfile.TemporaryDirectory() as folder:
        broken(mutant, Path(folder))
        # Kernels run on the GPU that is there, or interpreted.
        interpreted = {} if shutil.which("nvidia-smi") else {"TRITON_INTERPRET": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *_OPTIONS, *mutant.tests],
            cwd=folder,
            env=os.environ | interpreted,
            capture_output=True,
            text=True,
            timeout=_TEST_S,
            check=False,
        )
        failed = re.search(r"^FAILED ([^\s\[]+)", done.stdout, re.MULTILINE)
        if done.returncode == 1 and failed:
            return failed.group(1)
        if done.returncode != 0:
            raise MutantError(
                f"the tests of {mutant.name!r} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return None


def table(guide: str) -> dict[str, str]:
    """The rows of a guide's table: the first test that fails, by mechanism.

    Raises:
        ValueError: the guide has not the two markers, or a line between them is not a row.
    """
    _, found, rest = guide.partition(_BEGIN)
    rows, closed, _ = rest.partition(_END)
    if not (found and closed and rows.startswith(_HEAD)):
        raise ValueError("the table of mutants is not between its markers")
    found_rows: dict[str, str] = {}
    for line in rows.removeprefix(_HEAD).splitlines():
        row = re.fullmatch(r"\| (.+) \| `(\S+)` \|", line)
        if row is None:
            raise ValueError(f"not a row of the table of mutants: {line}")
        found_rows[row[1]] = row[2]
    return found_rows


def with_results(guide: str, found: dict[str, str]) -> str:
    """The guide with these first failures, by mechanism, in its table; other rows stay, removed mutants go."""
    known = table(guide) | found
    rows = [f"| {m.mechanism} | `{known[m.mechanism]}` |\n" for m in MUTANTS if m.mechanism in known]
    before, _, rest = guide.partition(_BEGIN)
    return "".join((before, _BEGIN, _HEAD, *rows, _END, rest.partition(_END)[2]))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--write", action="store_true", help="write the table of docs/reliability.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no mutant named {', '.join(sorted(unknown))}")
    found: dict[str, str] = {}
    unnoticed = 0
    for mutant in MUTANTS:
        if arguments.names and mutant.name not in arguments.names:
            continue
        if mutant.needs_gpu and not _has_gpu():
            print(f"{mutant.name:35} skipped: its tests need a GPU", flush=True)
            continue
        try:
            failure = first_failure(mutant)
        except MutantError as error:
            raise SystemExit(str(error)) from None
        unnoticed += failure is None
        print(f"{mutant.name:35} {failure or 'NOT NOTICED'}", flush=True)
        if failure:
            found[mutant.mechanism] = failure
    if arguments.write:
        _GUIDE.write_text(with_results(_GUIDE.read_text(), found))
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
