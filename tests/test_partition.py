"""Requests in sub-batches: what each policy promises."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.workloads import catalog, lower
from gemvane.workloads.partition import PARTITIONS, balanced, dealt, greedy, halves, lightest_first, nearest_half
from gemvane.workloads.scenario import Scenario

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=11).map(lambda lengths: np.array(lengths, np.int64))


def sums(lengths: np.ndarray, part: np.ndarray, parts: int) -> list[int]:
    return [int(lengths[part == p].sum()) for p in range(parts)]


@given(st.sampled_from(sorted(PARTITIONS)), LENGTHS, st.integers(1, 4), st.integers(1, 5))
def test_every_request_is_in_one_part_and_no_part_is_empty(policy: str, lengths: np.ndarray, parts: int, channels: int) -> None:
    parts = min(parts, lengths.size)
    part = PARTITIONS[policy](lengths, parts, channels)
    assert set(part.tolist()) == set(range(parts))


@given(st.sampled_from(["dealt", "greedy", "balanced"]), LENGTHS, st.integers(0, 99))
def test_requests_in_another_order_come_to_the_same_parts(policy: str, lengths: np.ndarray, seed: int) -> None:
    parts = min(2, lengths.size)
    other = np.random.default_rng(seed).permutation(lengths)
    first, second = ([sorted(s[part == p].tolist()) for p in range(parts)]
                     for s, part in ((lengths, PARTITIONS[policy](lengths, parts, 3)), (other, PARTITIONS[policy](other, parts, 3))))
    assert first == second


@settings(max_examples=60)
@given(LENGTHS.filter(lambda lengths: lengths.size > 1))
def test_balanced_halves_differ_by_as_little_as_any_two(lengths: np.ndarray) -> None:
    least = min(abs(int((lengths * sides).sum())) for sides in product((-1, 1), repeat=lengths.size))
    first, second = sums(lengths, balanced(lengths, 2), 2)
    assert abs(first - second) == least


def test_balanced_halves_have_equal_counts_where_that_costs_nothing() -> None:
    lengths = np.random.default_rng(0).integers(20, 2000, 256)
    part = balanced(lengths, 2)
    assert np.bincount(part).tolist() == [128, 128]
    first, second = sums(lengths, part, 2)
    assert abs(first - second) <= 1
    dealt_apart = np.diff(sums(lengths, dealt(lengths, 2), 2))
    assert abs(int(dealt_apart[0])) > 100


def test_a_long_request_is_balanced_by_many_short_ones() -> None:
    lengths = np.array([100, *[1] * 20])
    assert sums(lengths, balanced(lengths, 2), 2) == [20, 100]
    assert sorted(sums(lengths, dealt(lengths, 2), 2)) == [10, 110]


def test_halves_cut_the_list_of_each_channel_and_odd_ones_alternate() -> None:
    """Six alike requests on three channels: two each, one to either side. With three a channel odd ones take turns."""
    assert np.bincount(halves(np.full(6, 9), 2, 3)).tolist() == [3, 3]
    lengths = np.full(9, 9)
    channel, part = lightest_first(lengths, 3), halves(lengths, 2, 3)
    assert [np.bincount(part[channel == c], minlength=2).tolist() for c in range(3)] == [[2, 1], [1, 2], [2, 1]]


def test_greedy_gives_the_longest_first_to_the_part_with_the_fewest_tokens() -> None:
    assert greedy(np.array([7, 6, 5, 4, 3]), 2).tolist() == [0, 1, 1, 0, 0]
    assert greedy(np.array([7, 6, 5, 4, 3]), 3).tolist() == [0, 1, 2, 2, 1]


@given(LENGTHS)
def test_the_nearest_half_is_the_largest_sum_up_to_it(weights: np.ndarray) -> None:
    reached = {0}
    for weight in weights.tolist():
        reached |= {sum_ + weight for sum_ in reached}
    assert int(weights[nearest_half(weights)].sum()) == max(s for s in reached if s <= int(weights.sum()) // 2)


@pytest.mark.parametrize("policy", ["dealt", "greedy", "balanced"])
def test_more_parts_than_two_are_alike_in_tokens(policy: str) -> None:
    lengths = np.random.default_rng(1).integers(100, 200, 64)
    loads = sums(lengths, PARTITIONS[policy](lengths, 4, 4), 4)
    assert max(loads) - min(loads) <= lengths.max()


def test_an_unknown_partition_is_named() -> None:
    with pytest.raises(ValueError, match=r"partition is 'half'\. Expected one of dealt, halves, greedy, balanced\."):
        lower.decode_step(catalog.load("gpt2"), Scenario(batch=4), sub_batches=2, partition="half")
