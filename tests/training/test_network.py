"""The network that trains, over padded rows, computes what the service does over packed frames."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.models_fixture import relative_l2, shake
from tests.support.training_fixture import data, tiny_recipe
from training.data.batches import PROTEIN, hide
from training.data.corpus import TRAIN, VALIDATION
from training.data.frame_table import DNA_PAD, Frames
from training.data.make_tables import evaluated_part
from training.model.network import Network
from training.reports.evaluate import engine_margins
from training.runs.export import data_list, draft_manifest, export
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.models.engine import Engine
from virnucpro_core.sequence.prepare import prepare
from virnucpro_core.sequence.tokens import ESM2_MASK, ESM2_PAD

CPU = torch.device("cpu")
TEMPERATURE = 1.7


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> Network:
    """With weights large enough for attention to matter, the encoders' as fp16 holds them.

    A bundle stores encoders in fp16. That rounding is of no interest here, and at 1e-3 of the values it would hide
    faults as large; `test_what_is_stored_in_16_bits_is_close` looks at it.
    """
    torch.manual_seed(4)
    network = Network(tiny_recipe("shape.esm2_layers=2").shape, data().tokenizer.vocabulary_size).eval()
    shake(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(4 if parameter.ndim == 2 and name.startswith("encoders.") else 1)
        network.head.output.weight.normal_(std=2.0)
        network.head.norm.running_mean.normal_()
        for parameter in network.encoders.parameters():
            parameter.copy_(parameter.half().float())
    return network


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Rows of unequal lengths: of full chunks, of a short record's only chunk, and of frames with dropped codons."""
    corpus, tokenizer = data().corpus, data().tokenizer
    short = prepare("short", corpus.sequence(0, 0, 40), 500, tokenizer).frames
    table = evaluated_part(corpus, tokenizer, 300, corpus.records_of(VALIDATION)[:1], False)
    for row, frame in enumerate(short):
        table.protein[row] = np.pad(frame.protein_ids, (0, 200), constant_values=ESM2_PAD)[
            : table.protein.shape[1]
        ]
        table.dna[row] = np.pad(frame.dna_ids, (0, 200), constant_values=DNA_PAD)[: table.dna.shape[1]]
    lengths = (table.protein != ESM2_PAD).sum(axis=1)
    assert lengths.min() < 20 < 90 < lengths.max()
    return table


@pytest.fixture(scope="module")
def bundle(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "nano"
    return write(network, path)


def write(network: Network, path: Path) -> Bundle:
    draft = draft_manifest(
        network, "nano-300", 300, TEMPERATURE, {"data": data_list(data().corpus, with_extra=False)}
    )
    return export(network, path, draft, data().tokenizer_file)


def test_padded_rows_get_the_margins_of_the_packed_engine(
    network: Network, frames: Frames, bundle: Bundle
) -> None:
    of_network = network.score(frames, CPU)
    of_engine = engine_margins(Engine(bundle, "cpu", "fp32"), frames)
    assert of_network.std() > 0.1
    assert np.abs(of_network / TEMPERATURE - of_engine).max() < 1e-4


def test_a_row_s_margin_depends_neither_on_its_padding_nor_on_other_rows(
    network: Network, frames: Frames
) -> None:
    whole = network.score(frames, CPU)
    wider = Frames(
        np.pad(frames.protein[3:9], ((0, 0), (0, 24)), constant_values=ESM2_PAD),
        np.pad(frames.dna[3:9], ((0, 0), (0, 24)), constant_values=DNA_PAD),
        *(getattr(frames, name) for name in Frames.__slots__[2:]),
    )
    wider = Frames(wider.protein, wider.dna, np.arange(6), *(getattr(wider, n) for n in Frames.__slots__[3:]))
    assert np.abs(network.score(wider, CPU) - whole[3:9]).max() < 1e-5


def test_what_is_stored_in_16_bits_is_close(network: Network, frames: Frames, tmp_path: Path) -> None:
    torch.manual_seed(5)
    fine = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in fine.encoders.parameters():
            parameter.mul_(1 + 3e-4 * torch.rand_like(parameter))  # within a step of fp16
    engine = Engine(write(fine, tmp_path / "fine"), "cpu", "fp32")
    difference = np.abs(fine.score(frames, CPU) / TEMPERATURE - engine_margins(engine, frames)).max()
    # A margin is a sum over all features, each off by a few units of fp16's 2 ** -11.
    assert 1e-6 < difference < 0.02


def test_hidden_residues_act_as_in_fair_esm(network: Network, frames: Frames) -> None:
    ids = torch.from_numpy(frames.protein.astype(np.int64))
    ids = hide(ids, 0.3, 0.7, 0.8, PROTEIN, torch.Generator().manual_seed(1)).ids
    assert (ids == ESM2_MASK).any(dim=1).float().mean() < 1
    esm2 = network.encoders.esm2
    with torch.no_grad():
        expected = esm2(ids, repr_layers=[esm2.num_layers])["representations"][esm2.num_layers]
        found = network.encoders.of_protein(ids)
    there = ids != ESM2_PAD
    assert relative_l2(found[there], expected[there]) < 1e-4


def test_gradients_of_esm2_are_fair_esms(network: Network, frames: Frames) -> None:
    ids = torch.from_numpy(frames.protein[:6].astype(np.int64))
    there = (ids != ESM2_PAD)[..., None]
    ours, theirs = copy.deepcopy(network.encoders), copy.deepcopy(network.encoders.esm2)
    weights = torch.randn((*ids.shape, theirs.embed_dim), generator=torch.Generator().manual_seed(2)) * there
    (ours.of_protein(ids) * weights).sum().backward()
    (
        theirs(ids, repr_layers=[theirs.num_layers])["representations"][theirs.num_layers] * weights
    ).sum().backward()
    compared = 0
    for (name, found), expected in zip(ours.esm2.named_parameters(), theirs.parameters(), strict=True):
        if expected.grad is None:
            assert found.grad is None, name
        elif not name.endswith("k_proj.bias"):  # softmax does not see it: its gradient is rounding noise
            assert found.grad is not None, name
            assert relative_l2(found.grad.flatten(), expected.grad.flatten()) < 1e-4, name
            compared += 1
    assert compared > 14 * theirs.num_layers


def test_the_encoders_compile_into_one_graph(network: Network, frames: Frames) -> None:
    protein, dna = (torch.from_numpy(part[:2].astype(np.int64)) for part in (frames.protein, frames.dna))
    compiled = copy.deepcopy(network.encoders)
    compiled.compile(dynamic=False, fullgraph=True, backend="eager")  # raises where the graph would break
    with torch.no_grad():
        found, expected = compiled(protein, dna), network.encoders(protein, dna)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected, strict=True))


def test_hidden_tokens_are_predicted_from_their_own_places(network: Network, frames: Frames) -> None:
    protein, dna = (torch.from_numpy(part.astype(np.int64)) for part in (frames.protein, frames.dna))
    places = torch.tensor([1, 5, protein.shape[1] + 2])
    with torch.no_grad():
        hidden = network.encode(protein, dna)
        amino, words = network.predict_tokens(*hidden, places, places)
        whole, _ = network.predict_tokens(*hidden, torch.arange(protein.numel()), places)
    assert amino.shape == (3, 33)
    assert words.shape == (3, data().tokenizer.vocabulary_size)
    assert torch.allclose(amino, whole[places], atol=1e-5)


def test_the_manifest_names_the_records_of_each_split(bundle: Bundle) -> None:
    listed, corpus = bundle.manifest.training["data"], data().corpus
    train = corpus.records_of(TRAIN)
    assert listed[TRAIN]["ids"].split() == sorted(corpus.ids[train].tolist())
    virus = train[corpus.labels[train] == 1]
    assert listed[TRAIN]["virus"] == {"records": len(virus), "bases": int(corpus.lengths[virus].sum())}
    assert bundle.manifest.temperature == TEMPERATURE
