"""Folds share no family and no genus; what is trained on without a fold has no relative in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.training_fixture import (
    DEV_SHARE,
    data,
    data_with_extra,
    row,
    tiny_recipe,
    write_data,
    write_extra,
)
from tests.training.test_make_tables import equal
from training.data import folds, prepare_data
from training.data.corpus import DEV, EXTRA, TRAIN, VALIDATION, Corpus
from training.data.folds import (
    EXTRA_PER_GENUS,
    FAMILY,
    FOLDS,
    GENUS,
    Folds,
    draw,
    key_of,
    training_rows,
)
from training.data.prepare_data import NOT_A_FAMILY, name_of
from training.runs.export import data_list
from training.runs.workspace import EVERYTHING, FINAL, TRIAL, Workspace, fold_phase
from virnucpro_core.evaluation.labels import LABELS

GENOMES = Path(__file__).parents[3] / "shared" / "genomes"
"""Those that the bundled models are trained on; they lie beside the repository."""
beside = pytest.mark.skipif(
    not (GENOMES / "extra_manifest.tsv").is_file(),
    reason="the training genomes do not lie beside the repository",
)


def assert_nothing_in_common(rows: list[dict[str, str]], found: Folds) -> None:
    """No family, genus or species of a label is in two folds, and what is in none is not known."""
    seen = defaultdict(set)
    for one in rows:
        key = key_of(one["label"], one["group"], name_of(one, "genus"))
        if key is None:
            assert not name_of(one, "genus")
            assert one["label"] != "virus" or one["group"] in NOT_A_FAMILY
            continue
        for rank in ("family", "genus", "species"):
            if name := one[rank].strip().lower():
                seen[one["label"], rank, name].add(found.fold[key])
        if one["label"] == "virus" and one["group"] not in NOT_A_FAMILY:
            seen["virus", "group", one["group"]].add(found.fold[key])
    assert all(len(places) == 1 for places in seen.values())


def work(phase: str, extra_weight: float) -> Workspace:
    recipe = tiny_recipe(f"data.extra_weight={extra_weight}")
    out = data_with_extra().folder / "out"
    return Workspace(data_with_extra().folder, out, phase, recipe, 1, torch.device("cpu"), out)


def names(corpus: Corpus, records: np.ndarray) -> list[str]:
    return [str(name) for name in corpus.ids[records]]


ROWS = st.builds(
    lambda label, family, genus, species, length: row(
        "r",
        label,
        TRAIN,
        length,
        group=(family or NOT_A_FAMILY[0]) if label == "virus" else "bacteria",
        family=family if label == "virus" else "",
        genus=genus,
        species=species,
    ),
    st.sampled_from(["virus", "others"]),
    st.sampled_from(["", *(f"Family{n}" for n in range(9))]),
    st.sampled_from(["", *(f"Genus{n}" for n in range(30))]),
    st.sampled_from(["", *(f"species {n}" for n in range(60))]),
    st.integers(100, 9000),
)


class TestDraw:
    @given(st.lists(ROWS, min_size=10, max_size=60), st.integers(1, 3))
    def test_folds_share_no_family_genus_or_species(self, rows: list[dict[str, str]], seed: int) -> None:
        try:
            found = draw(rows, 3, seed)
        except ValueError as error:
            assert "for 3 folds" in str(error)  # noqa: PT017 - chance draws too few at times
            return
        assert {(key[0], fold) for key, fold in found.fold.items()} == set(product(LABELS, (1, 2, 3)))
        assert_nothing_in_common(rows, found)

    def test_families_and_groups_are_balanced(self) -> None:
        rows = [
            row(f"{label}{n}", label, TRAIN, 3000, genus=f"g{n}", **kinds(n))
            for n in range(40)
            for label, kinds in (
                ("virus", lambda n: {"group": f"F{n}", "family": f"F{n}", "realm": "AB"[n % 2]}),
                ("others", lambda n: {"group": ("plant", "fungi")[n % 2]}),
            )
        ]
        found = draw(rows)
        for label, kind in (("virus", "realm"), ("others", "group")):
            of_fold = Counter(
                (found.fold[key], one[kind])
                for one in rows
                if one["label"] == label and (key := key_of(label, one["group"], one["genus"]))
            )
            assert set(of_fold.values()) == {4}
            assert len(of_fold) == 2 * FOLDS

    def test_a_genus_or_species_in_two_families_joins_them(self) -> None:
        rows = [row(f"v{n}", "virus", TRAIN, group=f"F{n}", family=f"F{n}", genus=f"g{n}") for n in range(6)]
        rows.append(row("joins", "virus", TRAIN, group="F1", family="F1", genus="G0 "))
        rows.append(row("a", "virus", TRAIN, group=NOT_A_FAMILY[0], genus="loose", species="S"))
        rows.append(row("b", "virus", TRAIN, group="F5", family="F5", genus="other", species="s"))
        rows += [row(f"o{n}", "others", TRAIN, group="plant", genus=f"g{n}") for n in range(3)]
        found = draw(rows, 3).fold
        assert found["virus", FAMILY, "F0"] == found["virus", FAMILY, "F1"]
        assert found["virus", GENUS, "loose"] == found["virus", FAMILY, "F5"]

    @beside
    def test_the_committed_table_is_what_the_command_makes_of_the_real_manifests(
        self, tmp_path: Path
    ) -> None:
        manifests = ["--manifest", str(GENOMES / "manifest.tsv")]
        manifests += ["--extra-manifest", str(GENOMES / "extra_manifest.tsv")]
        assert folds.main([*manifests, "--out", str(tmp_path / "folds.tsv")]) == 0
        assert (tmp_path / "folds.tsv").read_bytes() == folds.DEFAULT.read_bytes()

    @beside
    def test_the_real_folds_share_no_family_genus_or_species(self) -> None:
        rows = training_rows(GENOMES / "manifest.tsv", GENOMES / "extra_manifest.tsv")
        assert {one["split"] for one in rows} == {TRAIN, EXTRA}
        assert_nothing_in_common(rows, Folds.read(folds.DEFAULT))

    def test_too_few_families_are_named_in_one_line(self, tmp_path: Path, capsys) -> None:
        _, manifest = write_data(tmp_path)
        with pytest.raises(SystemExit, match="1"):
            folds.main(["--manifest", str(manifest), "--out", str(tmp_path / "f.tsv"), "--folds", "50"])
        assert "without common members for 50 folds" in capsys.readouterr().err
        assert not (tmp_path / "f.tsv").exists()


class TestTable:
    def test_the_committed_table_has_five_folds_of_viruses_and_others(self) -> None:
        found = Folds.read(folds.DEFAULT)
        assert found.count == FOLDS
        for label in ("virus", "others"):
            assert {fold for key, fold in found.fold.items() if key[0] == label} == set(range(1, FOLDS + 1))
        assert {found.realm[key] for key in found.fold if key[1] == FAMILY} > {"Riboviria", "Monodnaviria"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id\tfold\n", "does not have the columns label, rank"),
            ("label\trank\tname\trealm\tfold\n", "has no row"),
            (
                "label\trank\tname\trealm\tfold\na\tgenus\tb\t\t1\na\tgenus\tb\t\t2\n",
                "a genus b is there a second",
            ),
            (
                "label\trank\tname\trealm\tfold\na\tgenus\tb\t\t0\n",
                "the fold of a genus b is '0', not 1 or more",
            ),
            ("label\trank\tname\trealm\tfold\na\tgenus\tb\n", "the fold of a genus b is None"),
        ],
    )
    def test_a_wrong_table_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "folds.tsv").write_text(text)
        with pytest.raises(ValueError, match=message):
            Folds.read(tmp_path / "folds.tsv")

    def test_a_genus_that_the_table_lacks_is_named_with_the_command(self) -> None:
        with pytest.raises(ValueError, match=r"do not have the genus .* python -m training\.data\.folds"):
            Folds({("virus", FAMILY, "F"): 1}, {("virus", FAMILY, "F"): ""}).of(data().corpus)


class TestPhases:
    @pytest.mark.parametrize("extra_weight", [0.0, 0.3])
    def test_what_is_trained_on_has_no_relative_in_the_fold_that_judges(self, extra_weight: float) -> None:
        corpus, judged = data_with_extra().corpus, []
        for number in (1, 2):
            one = work(fold_phase(number), extra_weight)
            trained, left_out = one.trained_on, one.folds.judged(corpus, number)
            for label in (0, 1):
                a, b = (records[corpus.labels[records] == label] for records in (trained, left_out))
                assert len(a)
                assert len(b)
                assert not set(corpus.genera[a]) & set(corpus.genera[b])
                assert label == 0 or not set(corpus.groups[a]) & set(corpus.groups[b])
            assert "" not in corpus.genera[trained]
            assert (EXTRA in corpus.splits[trained]) == (extra_weight > 0)
            assert VALIDATION not in corpus.splits[[*trained, *left_out]]
            judged += names(corpus, left_out)
        # Each record judges once, but for what is of no known genus and for more than two of an extra genus.
        assert len(judged) == len(set(judged))
        everyone = names(corpus, corpus.records_of(TRAIN, DEV, EXTRA))
        assert set(everyone) - set(judged) == {"extra2", "extra6"}
        assert EXTRA_PER_GENUS == 2

    def test_a_table_is_of_the_records_of_its_phase_and_what_judges_is_not_in_it(self) -> None:
        one = work(fold_phase(1), 0.3)
        corpus, table, left_out = one.corpus, one.training(500), one.left_out(500)
        assert left_out is not None
        assert set(table.chunk_record.tolist()) <= set(one.trained_on.tolist())
        everything = work(EVERYTHING, 0.3).training(500)
        part = np.isin(everything.chunk_record, one.trained_on)
        assert table.chunk_record.tolist() == everything.chunk_record[part].tolist()
        assert np.unique(table.frame_chunk).tolist() == list(range(int(part.sum())))
        rows = part[everything.frame_chunk]
        assert np.array_equal(table.protein, everything.protein[rows])
        assert np.array_equal(table.dna, everything.dna[rows])
        assert set(left_out.chunk_record.tolist()) == set(one.folds.judged(corpus, 1).tolist())
        assert EXTRA in corpus.splits[table.chunk_record]
        assert one.dev(500) is None

    def test_a_trial_sees_no_extra_record_of_a_genus_of_dev(self) -> None:
        one = work(TRIAL, 0.3)
        corpus, trained = one.corpus, one.trained_on
        of_dev = corpus.genera[corpus.records_of(DEV)]
        in_dev = np.isin(corpus.genera, of_dev) & (corpus.splits == EXTRA)
        assert set(names(corpus, np.flatnonzero(in_dev))) <= {"extra5"}
        assert set(corpus.splits[trained]) == {TRAIN, EXTRA}
        assert not set(corpus.genera[trained]) & set(of_dev)

    def test_everything_is_the_final_phase_and_validation(self) -> None:
        corpus = data_with_extra().corpus
        for weight, splits in ((0.0, ()), (0.3, (EXTRA,))):
            assert set(corpus.splits[work(FINAL, weight).trained_on]) == {TRAIN, DEV, *splits}
            everything = work(EVERYTHING, weight)
            assert everything.splits == (TRAIN, DEV, VALIDATION, *splits)
            assert everything.trained_on.tolist() == corpus.records_of(*everything.splits).tolist()

    def test_encoders_and_tables_of_phases_have_other_names(self) -> None:
        from training.runs.pretrain import encoders_file

        phases = (TRIAL, FINAL, EVERYTHING, fold_phase(1), fold_phase(2))
        trial, final, *others = (encoders_file(work(phase, 0.3)).path for phase in phases)
        assert trial == final
        assert len({trial, *others}) == 4


class TestExtraSources:
    def test_with_weight_zero_the_same_table_is_drawn_as_without_them(self) -> None:
        without = Workspace(
            data().folder,
            data().folder / "out",
            TRIAL,
            tiny_recipe(),
            1,
            torch.device("cpu"),
            data().folder / "out",
        )
        assert equal(work(TRIAL, 0.0).training(500), without.training(500))
        assert not equal(work(TRIAL, 0.3).training(500), without.training(500))

    def test_a_manifest_lists_them_only_if_they_were_trained_on(self) -> None:
        corpus = data_with_extra().corpus
        listed = data_list(corpus, with_extra=True)
        assert listed[EXTRA]["others"] == {"records": 7, "bases": 7 * 1600}
        assert data_list(corpus, with_extra=False) == {k: v for k, v in listed.items() if k != EXTRA}

    def test_the_command_puts_them_behind_all_others(self, tmp_path: Path, capsys) -> None:
        (fasta, manifest), (extra, extra_manifest) = write_data(tmp_path), write_extra(tmp_path)
        given = [str(fasta), str(extra), "--manifest", str(manifest), "--dev-share", str(DEV_SHARE)]
        assert (
            prepare_data.main([*given, "--extra-manifest", str(extra_manifest), "--out", str(tmp_path)]) == 0
        )
        corpus, before = Corpus.load(tmp_path / "genomes.npz"), data().corpus
        assert corpus.ids[: len(before.ids)].tolist() == before.ids.tolist()
        assert corpus.splits[: len(before.ids)].tolist() == before.splits.tolist()
        assert corpus.codes[: len(before.codes)].tobytes() == before.codes.tobytes()
        assert set(corpus.splits[len(before.ids) :]) == {EXTRA}
        assert len(corpus.records_of(EXTRA)) == 7
        assert "extra      others     7 records     11200 bp" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            ("extra1\tothers", "extra1\tvirus", "extra1 is of virus, train; extra records are others, train"),
            ("\ttrain\t", "\tvalidation\t", "extra0 is of others, validation"),
            ("extra1\t", "virus01\t", "virus01 is in the other manifest too"),
        ],
    )
    def test_a_wrong_manifest_ends_the_command_with_one_line(
        self, tmp_path: Path, capsys, before: str, after: str, message: str
    ) -> None:
        (fasta, manifest), (extra, extra_manifest) = write_data(tmp_path), write_extra(tmp_path)
        extra_manifest.write_text(extra_manifest.read_text().replace(before, after, 1))
        given = [str(fasta), str(extra), "--manifest", str(manifest), "--extra-manifest", str(extra_manifest)]
        with pytest.raises(SystemExit):
            prepare_data.main([*given, "--out", str(tmp_path / "data")])
        assert message in capsys.readouterr().err
