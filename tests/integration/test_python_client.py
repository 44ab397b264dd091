"""The Python client against the service, on the embedded broker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from examples.python_client import main
from schemas import DeadLetter, Prediction, Reason
from tests.support.harness import ROOT, NoopServe, produce, serving
from virnucpro_client import Client, Limits, Topics, Unanswered

UNIT = "ATGGCTAAAGGTCTGCCATTCGACGGTACCGAATGG"
NO_PORT = "127.0.0.1:1"


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running service's embedded broker."""
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    with serving(log, kind=NoopServe) as serve:
        yield serve.bootstrap


def test_every_record_of_a_run_is_answered_once_in_its_order(bootstrap):
    records = [(f"r{number}", UNIT * (1 + number % 7)) for number in range(50)]
    records[7] = ("bad", "not a sequence")
    records[8] = ("r0", UNIT)  # an id that is there already
    with Client(bootstrap) as client:
        run = client.publish(iter(records))
        answers = client.wait(run, timeout_s=60)
    assert [answer.id for answer in answers] == [record_id for record_id, _ in records]
    assert len({answer.source for answer in answers}) == len(records)
    letters = [answer.content for answer in answers if isinstance(answer.content, DeadLetter)]
    assert [letter.reason for letter in letters] == [Reason.INVALID_NUCLEOTIDES]


def test_a_run_sees_no_answer_of_another(bootstrap):
    with Client(bootstrap) as client:
        one = client.publish([("a", UNIT)])
        two = client.publish([("a", UNIT * 2), ("b", UNIT)])
        lengths = [
            [
                answer.content.length
                for answer in client.wait(run, 60)
                if isinstance(answer.content, Prediction)
            ]
            for run in (two, one)
        ]
    assert lengths == [[len(UNIT) * 2, len(UNIT)], [len(UNIT)]]


def test_the_topics_are_read_from_their_beginning_and_iterators_may_be_left(bootstrap):
    with Client(bootstrap) as client:
        run = client.publish([("read", UNIT), ("", UNIT)])
        client.wait(run, 60)
        assert "read" in [answer.id for answer in client.predictions(idle_s=3)]
        reasons = [letter.content.reason for letter in client.dead_letters(idle_s=3)]
        assert Reason.EMPTY_ID in reasons
        left = client.predictions(idle_s=3)
        next(left)
    left.close()
    with Client(bootstrap) as client:
        assert list(client.predictions(idle_s=0.5, start="now")) == []


def test_the_deadline_names_what_is_missing(bootstrap):
    produce(bootstrap, [{"value": b"the first message makes the topic"}], "unserved")
    with Client(bootstrap, Topics(input="unserved")) as client:
        run = client.publish([("a", UNIT), ("b", UNIT)])
        with pytest.raises(Unanswered, match=r"2 of 2 records have no answer after 0\.5 s") as caught:
            client.wait(run, timeout_s=0.5)
    assert caught.value.missing == ("a", "b")


def test_a_record_over_the_limits_comes_back_whole(bootstrap):
    sequence = UNIT * 100  # 3,600 bases
    with Client(bootstrap, limits=Limits(sequence_bases=1000)) as client:
        run = client.publish([("big", sequence), ("small", UNIT), ("bad", "!" * 3600)])
        big, small, bad = client.wait(run, 60)
    assert (big.id, small.id, bad.id) == ("big", "small", "bad")
    assert isinstance(big.content, Prediction)
    assert (big.content.length, big.content.verdict) == (3600, "virus")
    assert [chunk.name for chunk in big.content.chunks] == [f"big_chunk_{n}" for n in range(1, 9)]
    offsets = [int(place.rpartition("/")[2]) for place, number in run.sources.items() if number == 0]
    assert len(offsets) == 8
    assert int(big.source.rpartition("/")[2]) == min(offsets)
    assert isinstance(bad.content, DeadLetter)
    assert bad.content.reason is Reason.INVALID_NUCLEOTIDES


def test_an_empty_run_is_answered_at_once(bootstrap):
    with Client(bootstrap) as client:
        assert client.wait(client.publish([]), timeout_s=60) == []


def test_the_example_prints_a_line_for_each_record(bootstrap, tmp_path, capsys):
    path = tmp_path / "reads.fasta"
    path.write_text(f">one of two\n{UNIT}\n{UNIT}\n>two\nAC-GT\n")
    assert main(bootstrap, str(path), timeout_s=60) == 0
    lines = sorted(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert lines[0] == ["one", "virus", "0.75"]
    assert lines[1][:3] == ["two", "refused:", "invalid_nucleotides"]


def test_a_broker_that_is_not_there_is_named_with_the_cure(tmp_path, capsys):
    path = tmp_path / "reads.fasta"
    path.write_text(f">one\n{UNIT}\n")
    assert main(NO_PORT, str(path)) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"{NO_PORT} gives no answer")
    assert "check the address" in line


def test_the_example_names_a_file_that_is_not_there(bootstrap, tmp_path, capsys):
    assert main(bootstrap, str(tmp_path / "no.fasta")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no.fasta" in line


def test_the_example_without_arguments_says_how_it_is_called():
    example = [sys.executable, "-m", "examples.python_client"]
    done = subprocess.run(example, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python examples/python_client.py localhost:9092 reads.fasta" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_starts_without_torch_and_the_service():
    code = (
        "import sys, virnucpro_client; "
        "print([name for name in ('torch', 'numpy', 'pydantic', 'consumer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
