"""Which image comes at which step, and the random numbers of each place: functions of seed, step and position alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_core.training.data_order import DataOrder, some, spread, stream


@settings(deadline=None)
@given(num_rows=st.integers(1, 40), batch_size=st.integers(1, 17), num_epochs=st.integers(1, 4))
def test_given_any_sizes_every_epoch_shows_each_image_once(num_rows: int, batch_size: int, num_epochs: int) -> None:
    order = DataOrder(num_rows, batch_size, seed=3)
    num_steps = math.ceil(num_epochs * num_rows / batch_size)
    shown = np.concatenate([order.batch(step) for step in range(num_steps)])
    for epoch in range(num_epochs):
        assert sorted(shown[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


@settings(deadline=None)
@given(num_rows=st.integers(1, 30), batch_size=st.integers(1, 17), steps=st.integers(0, 9))
def test_given_a_number_of_steps_rows_are_counted_as_they_come(num_rows: int, batch_size: int, steps: int) -> None:
    order = DataOrder(num_rows, batch_size, seed=3)
    came = np.concatenate([np.zeros(0, int), *(order.batch(step) for step in range(steps))])
    assert order.counts(steps).tolist() == np.bincount(came, minlength=num_rows).tolist()


def test_given_any_step_the_batch_does_not_depend_on_what_was_asked_before() -> None:
    in_order, backwards = DataOrder(10, 4, seed=1), DataOrder(10, 4, seed=1)
    forward = [in_order.batch(step).tolist() for step in range(9)]
    assert [backwards.batch(step).tolist() for step in reversed(range(9))] == forward[::-1]
    assert forward[:3] != [DataOrder(10, 4, seed=2).batch(step).tolist() for step in range(3)]


def test_given_a_seed_the_order_is_the_one_that_runs_of_before_had() -> None:
    order = DataOrder(7, 4, seed=1)
    assert [order.batch(step).tolist() for step in range(2)] == [[0, 5, 2, 4], [6, 3, 1, 5]]
    assert order.rows(0, 14).tolist() == [0, 5, 2, 4, 6, 3, 1, 5, 0, 6, 1, 4, 2, 3]
    assert order.rows(3, 3).tolist() == []
    assert order.counts(3).tolist() == [2, 2, 1, 1, 2, 2, 2]
    assert some(10, 4, seed=3).tolist() == [1, 0, 2, 5]


def test_given_seed_step_and_position_the_numbers_are_fixed_and_no_two_places_share_any() -> None:
    def draw(*place: int) -> tuple[float, ...]:
        return tuple(stream(*place).standard_normal(1000))

    assert draw(5, 2, 1) == draw(5, 2, 1)
    places = [(seed, step, position) for seed in (5, 6) for step in range(4) for position in range(4)]
    assert len({value for place in places for value in draw(*place)}) == 1000 * len(places)


def test_given_a_place_its_numbers_are_those_that_runs_of_before_drew() -> None:
    assert stream(5, 2, 1).integers(0, 2**63, 2).tolist() == [8806854151091364705, 6927098904102679063]
    assert stream(5, 1, 2).integers(0, 2**63, 2).tolist() == [1727232904343365707, 6435836221013138656]


def test_given_fewer_rows_than_asked_for_some_gives_all_of_them() -> None:
    assert sorted(some(3, 8, seed=0)) == [0, 1, 2]
    assert some(100, 5, seed=0).tolist() == some(100, 7, seed=0).tolist()[:5]


@pytest.mark.parametrize(
    ("num", "share", "places"),
    [(10, 0.3, [3, 6, 9]), (8, 0.5, [1, 3, 5, 7]), (3, 1, [0, 1, 2]), (5, 0, []), (0, 0.5, [])],
)
def test_given_a_share_its_positions_are_spread_evenly(num: int, share: float, places: list[int]) -> None:
    assert np.flatnonzero(spread(num, share)).tolist() == places
    assert len(spread(num, share)) == num
