"""Which records are trained on and which judge: no genus of the one is among the other."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.training_fixture import bare_corpus, data, row, rows, write_data
from training.data.corpus import DEV, TRAIN, VALIDATION
from training.data.prepare_data import assign_splits, build, corpus_of, domain, main, read_manifest

MANIFEST = Path(__file__).parents[3] / "shared" / "genomes" / "manifest.tsv"
"""Of the genomes that the bundled models are trained on; they lie beside the repository."""


def unseen_ids(rows: list[dict[str, str]], *trained_on: str) -> set[str]:
    corpus = bare_corpus(rows)
    return {str(i) for i in corpus.ids[corpus.unseen(VALIDATION, *trained_on)]}


class TestUnseen:
    TRAINED = (
        row("t1", "virus", TRAIN, group="Fluviridae", genus="Fluvirus", species="Flu A"),
        row("t2", "virus", TRAIN, group="Coviridae", genus="", species="Nameless virus"),
        row("t3", "others", TRAIN, group="bacteria", genus="Bacillus", species="Bacillus subtilis"),
        row("d1", "others", TRAIN, group="plant", genus="Zea", species="Zea mays"),
    )

    @pytest.mark.parametrize(
        ("genus", "species", "group", "unseen"),
        [
            ("Newvirus", "New virus", "Fluviridae", True),
            ("Fluvirus", "Flu B", "Newviridae", False),
            ("FLUvirus ", "Flu B", "Newviridae", False),  # whatever the case
            ("zea", "Zea diploperennis", "plant", False),
            ("Newvirus", "flu a", "Fluviridae", False),  # the same species under another genus
            ("", "New virus", "Newviridae", True),  # no genus, but nothing of its family was trained on
            ("", "New virus", "Fluviridae", False),  # may be a Fluvirus
            ("", "New virus", "Coviridae", False),  # may be of the genus of t2, whichever that is
            ("", "nameless virus", "Newviridae", False),
            ("", "", "Newviridae", False),  # nothing is known of it
        ],
    )
    def test_a_record_counts_only_if_its_genus_is_known_not_to_be_trained_on(
        self, genus: str, species: str, group: str, unseen: bool
    ) -> None:
        judged = row("v", "virus", VALIDATION, genus=genus, species=species, group=group)
        assert unseen_ids([*self.TRAINED, judged], TRAIN) == ({"v"} if unseen else set())

    def test_an_unknown_genus_in_training_makes_no_known_one_seen(self) -> None:
        judged = row("v", "virus", VALIDATION, genus="Othervirus", species="", group="Coviridae")
        assert unseen_ids([*self.TRAINED, judged], TRAIN) == {"v"}

    def test_all_splits_trained_on_count(self) -> None:
        given = [*self.TRAINED, row("v", "others", VALIDATION, genus="zea", species="x", group="plant")]
        corpus = corpus_of({r["id"]: r for r in given}, {r["id"]: b"" for r in given}, 0.0, 1, ("ZEA",))
        assert corpus.splits.tolist() == [DEV, TRAIN, TRAIN, TRAIN, VALIDATION]
        assert corpus.unseen(VALIDATION, TRAIN).tolist() == [False] * 4 + [True]
        assert not corpus.unseen(VALIDATION, TRAIN, DEV).any()

    def test_what_was_trained_on_is_never_unseen(self) -> None:
        corpus = data().corpus
        assert not corpus.unseen(TRAIN, TRAIN, DEV).any()
        assert not corpus.unseen(DEV, TRAIN, DEV).any()


@pytest.mark.skipif(not MANIFEST.is_file(), reason="the training genomes do not lie beside the repository")
def test_no_training_genus_is_in_the_validation_records_of_the_headline() -> None:
    with MANIFEST.open(encoding="utf-8", newline="") as file:
        real = {one["id"]: one for one in csv.DictReader(file, delimiter="\t")}
    read = read_manifest(MANIFEST)
    corpus = corpus_of(read, dict.fromkeys(read, b""), share=0.12, seed=1)
    judged = {str(i) for i in corpus.ids[corpus.unseen(VALIDATION, TRAIN, DEV)]}
    trained = {str(i) for i in corpus.ids[corpus.records_of(TRAIN, DEV)]}
    # A record is in one split, and those of the manifest are kept.
    assert all(real[i]["split"] == "validation" for i in judged)
    assert trained == {i for i, one in real.items() if one["split"] == "train"}
    genera = {real[i]["genus"].strip().lower() for i in trained} - {""}
    groups = {real[i]["group"] for i in trained}
    species = {real[i]["species"].strip().lower() for i in trained}
    for one in (real[i] for i in judged):
        assert one["genus"].strip().lower() not in genera, one
        assert one["species"].strip().lower() not in species, one
        assert one["genus"] or one["group"] not in groups, one
    # The headline metric is not empty, and the records that it leaves out exist, by the manifest's own column.
    assert {real[i]["label"] for i in judged} == {"virus", "others"}
    assert len(judged) > 500
    left_out = {real[i]["novelty"] for i in real if real[i]["split"] == "validation"} - {
        real[i]["novelty"] for i in judged
    }
    assert {"seen_genus", "seen_species_new_region"} <= left_out


class TestAssignSplits:
    def test_whole_families_and_genera_go_to_dev_and_validation_stays(self) -> None:
        given = [
            row(f"{label}{i}", label, TRAIN if i < 60 else VALIDATION, 100, **{rank: f"k{i % 20}"}, group="g")
            for label, rank in (("virus", "family"), ("others", "genus"))
            for i in range(80)
        ]
        splits = assign_splits(given, share=0.3, seed=1)
        of_key = defaultdict(set)
        for one, split in zip(given, splits, strict=True):
            assert (split == VALIDATION) == (one["split"] == VALIDATION)
            if split != VALIDATION:
                of_key[one["label"], one["family"] or one["genus"]].add(split)
        assert all(len(found) == 1 for found in of_key.values())
        for label in ("virus", "others"):
            assert sum(found == {DEV} for (of, _), found in of_key.items() if of == label) == 6

    def test_chosen_genera_go_to_dev_whatever_the_share(self) -> None:
        given = [row("a", "others", TRAIN, genus="Mus"), row("b", "others", VALIDATION, genus="Mus")]
        given += [row("c", "virus", TRAIN, genus="Mus"), row("d", "others", TRAIN, genus="Rattus")]
        assert assign_splits(given, 0.0, 1, ("mus",)) == [DEV, VALIDATION, TRAIN, TRAIN]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"label": "others", "group": "archaea"}, "prokaryotes"),
        ({"label": "others", "group": "plant"}, "eukaryotes"),
        ({"label": "virus", "host": "bacteria"}, "prokaryotes"),
        ({"label": "virus", "class": "Caudoviricetes"}, "prokaryotes"),
        ({"label": "virus", "host": "vertebrates"}, "eukaryotes"),
        ({"label": "virus"}, "eukaryotes"),
    ],
)
def test_domains(given: dict[str, str], expected: str) -> None:
    assert domain(row("r", split=TRAIN, **given)) == expected


class TestBuild:
    def test_the_corpus_holds_the_manifest_in_upper_case(self) -> None:
        corpus = data().corpus
        wanted = {one["id"]: one for one in rows()}
        assert corpus.ids.tolist() == sorted(wanted)
        for record, record_id in enumerate(corpus.ids.tolist()):
            letters = corpus.sequence(record)
            assert len(letters) == int(wanted[record_id]["length"])
            assert set(letters) <= set("ACGTNR")
            assert corpus.labels[record] == (wanted[record_id]["label"] == "virus")
            assert corpus.genera[record] == wanted[record_id]["genus"].lower()

    def test_records_of_other_splits_are_left_out(self, tmp_path: Path) -> None:
        fasta, manifest = write_data(tmp_path)
        manifest.write_text(manifest.read_text().replace("\ttrain\t", "\tkept aside\t", 3))
        assert len(build([fasta], manifest, 0.0, 1).ids) == len(rows()) - 3

    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            ("species\t", "kind\t", "has no column species"),
            ("virus03\tvirus", "virus03\tviral", "the label of virus03 is 'viral', not others or virus"),
            ("virus03\t", "virus04\t", "virus04 is there a second time"),
            (
                "virus03\t",
                "virus99\t",
                "1 records of .* are in none of the files, or empty there, e.g. virus99",
            ),
        ],
    )
    def test_a_wrong_manifest_ends_the_command_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, message: str
    ) -> None:
        fasta, manifest = write_data(tmp_path)
        manifest.write_text(manifest.read_text().replace(before, after, 1))
        with pytest.raises(SystemExit) as ended:
            main([str(fasta), "--manifest", str(manifest), "--out", str(tmp_path / "data")])
        assert ended.value.code == 1
        with pytest.raises(ValueError, match=message):
            build([fasta], manifest, 0.0, 1)
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert not (tmp_path / "data").exists()
