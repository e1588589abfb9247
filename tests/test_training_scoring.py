"""Counts over tiles of items equal a plain comparison of all scores, for any width of the tiles."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.layers.queries import Queries
from training.layers.scoring import Tiles, count_channels

SMALL = st.integers(-3, 3)  # products and sums of these are exact in float32


@st.composite
def inputs(draw):
    """Draw queries [B, C, D], items [C, X, D], weights [C], targets [B], block and seen pairs."""
    B, C, X, D = (draw(st.integers(1, most)) for most in (6, 3, 200, 3))

    def numbers(*shape):
        count = torch.Size(shape).numel()
        values = draw(st.lists(SMALL, min_size=count, max_size=count))
        return torch.tensor(values, dtype=torch.float32).view(shape)

    targets = draw(st.lists(st.integers(0, X - 1), min_size=B, max_size=B))
    pairs = st.tuples(st.integers(0, B - 1), st.integers(0, X - 1))
    seen = sorted(draw(st.sets(pairs, max_size=12)))
    return (
        numbers(B, C, D),
        numbers(C, 7, D)[:, torch.arange(X) * X % 7],
        numbers(C),
        torch.tensor(targets),
        draw(st.integers(1, 150)),
        torch.tensor(seen, dtype=torch.int64).view(-1, 2),
    )


def plain_counts(queries, items, weights, targets, seen):
    """Return the same counts from the whole matrix of scores, in float64."""
    channels = torch.einsum("bcd,cxd->bcx", queries.double(), items.double())
    whole = torch.einsum("bcx,c->bx", channels, weights.double())
    scores = torch.cat([whole[:, None], channels], dim=1)
    own = scores.gather(2, targets[:, None, None].expand(-1, scores.shape[1], 1))
    competes = torch.ones(len(targets), items.shape[1], dtype=torch.bool)
    competes[seen[:, 0], seen[:, 1]] = False
    competes[torch.arange(len(targets)), targets] = False
    return ((scores > own) & competes[:, None]).sum(2), ((scores == own) & competes[:, None]).sum(2)


@given(inputs())
def test_counts_equal_a_comparison_of_all_scores(drawn):
    queries, items, weights, targets, block, seen = drawn
    for pairs in (None, seen):
        counts = count_channels(Queries(queries, items), weights[None], targets, block, pairs)
        excluded = seen[:0] if pairs is None else seen
        expected = plain_counts(queries, items, weights, targets, excluded)
        assert all(map(torch.equal, counts, expected))


@given(inputs())
def test_wrongly_expected_scores_do_not_change_the_counts(drawn):
    queries, items, weights, targets, block, _ = drawn
    expected = count_channels(Queries(queries, items), weights[None], targets, block)
    with pytest.MonkeyPatch.context() as patched:
        wrong = torch.full((1 + len(weights), len(targets)), 0.5)
        patched.setattr(Tiles, "expected_scores", lambda *_: wrong)
        counts = count_channels(Queries(queries, items), weights[None], targets, block)
        assert all(map(torch.equal, counts, expected))


@pytest.mark.parametrize("num_targets", [1, 2, 37])
@pytest.mark.parametrize("block", [7, 64, 130, 1000])
def test_equal_items_tie_exactly_at_any_index(block, num_targets):
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(2, 67, 300, generator=generator).repeat(1, 3, 1)
    queries = torch.randn(num_targets, 2, 300, generator=generator)
    targets = torch.randint(0, 201, (num_targets,), generator=generator)
    _, ties = count_channels(Queries(queries, items), torch.tensor([[1.0, 0.3]]), targets, block)
    assert (ties == 2).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["vectors", "items"])
def test_a_score_that_is_not_finite_is_an_error(name, value):
    vectors = {"vectors": torch.ones(4, 2, 3), "items": torch.ones(2, 9, 3)}
    vectors[name][1, 1, 2] = value
    with pytest.raises(ValueError, match="a score is not finite"):
        count_channels(Queries(**vectors), torch.ones(1, 2), torch.zeros(4).long(), 2)
