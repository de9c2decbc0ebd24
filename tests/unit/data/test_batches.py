import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.data import batches


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", ["windows", "streams"])
def test_targets_are_the_characters_that_follow(kind):
    ids_N = torch.arange(1000)
    stream = batches.KINDS[kind](ids_N, 4, 8, generator())
    for _ in range(50):
        batch = next(stream)
        assert batch.inputs_BT.shape == batch.targets_BT.shape == (4, 8)
        assert torch.equal(batch.targets_BT, batch.inputs_BT + 1)
        assert torch.equal(batch.inputs_BT, batch.inputs_BT[:, :1] + torch.arange(8))


def test_every_block_is_as_many_examples_as_characters():
    """The document's expansion: a block of 8 holds contexts of 1 to 8 characters."""
    text = [18, 47, 56, 57, 58, 1, 15, 47, 58]
    batch = next(batches.windows(torch.tensor(text), 1, 8, generator()))
    examples = [
        (batch.inputs_BT[0, : t + 1].tolist(), batch.targets_BT[0, t].item()) for t in range(8)
    ]
    assert examples[0] == ([18], 47)
    assert examples[2] == ([18, 47, 56], 57)
    assert examples[7] == (text[:8], 58)


def test_windows_reach_the_first_and_the_last_character():
    starts = set()
    stream = batches.windows(torch.arange(12), 16, 8, generator())
    for _ in range(50):
        starts |= set(next(stream).inputs_BT[:, 0].tolist())
    assert starts == {0, 1, 2, 3}


@given(length=st.integers(25, 200), batch=st.integers(1, 4), block=st.integers(1, 5))
def test_a_pass_of_streams_goes_on_where_the_piece_before_ended(length, batch, block):
    stream = batches.streams(torch.arange(length), batch, block, generator())
    last = None
    seen = []
    for _ in range(30):
        piece = next(stream)
        if piece.fresh and seen:
            # A whole pass: no character twice, and at most the cut-off ends left out.
            assert len(seen) == len(set(seen))
            assert len(seen) > length - (batch + 1) * block - 1
            seen = []
        if not piece.fresh:
            assert torch.equal(piece.inputs_BT[:, 0], last + 1)
        last = piece.inputs_BT[:, -1]
        seen += piece.inputs_BT.flatten().tolist()


def test_streams_start_elsewhere_in_every_pass():
    stream = batches.streams(torch.arange(100), 2, 10, generator())
    starts = {p.inputs_BT[0, 0].item() for p in (next(stream) for _ in range(200)) if p.fresh}
    assert len(starts) > 5


@pytest.mark.parametrize("kind", ["windows", "streams"])
def test_a_seed_means_the_same_batches(kind):
    first, second = (batches.KINDS[kind](torch.arange(500), 3, 7, generator()) for _ in "ab")
    for _ in range(20):
        assert torch.equal(next(first).inputs_BT, next(second).inputs_BT)


def test_everything_is_every_window_once():
    batch = next(batches.everything(torch.arange(20), None, 1))
    assert batch.inputs_BT.flatten().tolist() == list(range(19))
    assert torch.equal(batch.targets_BT, batch.inputs_BT + 1)
    assert next(batches.everything(torch.arange(20), None, 4)).inputs_BT.shape == (16, 4)
