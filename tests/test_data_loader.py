"""The loader: every example once an epoch, in an order that can be repeated and re-entered."""

from functools import partial

import numpy as np
import pytest
from conftest import DEVICE, fetch

from minidl import data
from minidl.backend import device_of

DataLoader = partial(data.DataLoader, device=DEVICE)


def dataset(n=23):
    """Vectors whose only value is their own index."""
    return data.Dataset(np.arange(n, dtype=np.float32)[:, None], np.arange(n) % 3)


def fetched(loader):
    """The batches of one epoch, on the host."""
    return [(fetch(x), fetch(y)) for x, y in loader]


def epoch(loader):
    return [x[:, 0].astype(int).tolist() for x, _ in fetched(loader)]


def flat(batches):
    return [i for batch in batches for i in batch]


def jitter(x, rng):
    return x + rng.normal(size=x.shape).astype(np.float32)


def test_without_shuffling_batches_follow_the_data_set():
    assert epoch(DataLoader(dataset(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_epoch_holds_every_example_once():
    loader = DataLoader(dataset(), 4, shuffle=True)
    assert sorted(flat(epoch(loader))) == list(range(23))


def test_labels_travel_with_their_images():
    for x, y in fetched(DataLoader(dataset(), 4, shuffle=True)):
        np.testing.assert_array_equal(y, x[:, 0].astype(int) % 3)


def test_batches_are_standardized_float32_and_int64():
    split = data.load("digits")
    x, y = next(iter(DataLoader(split.train, 64)))
    assert x.dtype == np.float32 and y.dtype == np.int64
    np.testing.assert_array_equal(fetch(x), split.train.x[:64])


def test_batches_are_handed_out_where_they_are_wanted():
    """The transform works on the host, before the copy."""
    seen = []
    loader = DataLoader(dataset(), 4, transform=lambda x, rng: seen.append(type(x)) or x)
    assert {(device_of(x), device_of(y)) for x, y in loader} == {(DEVICE, DEVICE)}
    assert set(seen) == {np.ndarray}
    assert {device_of(x) for x, _ in data.DataLoader(dataset(), 4)} == {"cpu"}


def test_each_epoch_has_an_order_of_its_own():
    loader = DataLoader(dataset(), 4, shuffle=True)
    assert flat(epoch(loader)) != flat(epoch(loader))


def test_the_same_seed_repeats_all_epochs_and_another_does_not():
    a, b, c = (DataLoader(dataset(), 4, shuffle=True, seed=s) for s in (1, 1, 2))
    first = [epoch(a), epoch(a)]
    assert first == [epoch(b), epoch(b)]
    assert first != [epoch(c), epoch(c)]


def test_the_global_random_state_is_neither_used_nor_touched():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    a = epoch(DataLoader(dataset(), 4, shuffle=True, transform=jitter))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    assert epoch(DataLoader(dataset(), 4, shuffle=True, transform=jitter)) == a


def test_all_orders_of_three_examples_are_equally_frequent():
    loader = DataLoader(dataset(3), 3, shuffle=True)
    orders = [tuple(flat(epoch(loader))) for _ in range(1200)]
    counts = np.array([orders.count(order) for order in set(orders)])
    # chi-square with 5 degrees of freedom, false alarm 1e-4 at 25.7 (one fixed seed)
    assert len(counts) == 6 and ((counts - 200) ** 2 / 200).sum() < 25.7


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [10, 10, 3]), (True, [10, 10])])
def test_a_short_last_batch_is_kept_or_dropped(drop_last, sizes):
    loader = DataLoader(dataset(), 10, drop_last=drop_last)
    assert [len(batch) for batch in epoch(loader)] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_a_restored_loader_continues_bit_for_bit(cut):
    def new():
        return DataLoader(dataset(), 4, shuffle=True, seed=7, transform=jitter)

    original = new()
    list(original)  # one whole epoch first
    iterator = iter(original)
    for _ in range(cut):
        next(iterator)
    state = original.state_dict()
    rest = [*fetched(iterator), *fetched(original)]

    restored = new()
    restored.load_state_dict(state)
    again = [*fetched(restored), *fetched(restored)]
    assert len(again) == len(rest)
    for (x, y), (x2, y2) in zip(rest, again, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_after_the_last_batch_a_restored_loader_ends_its_epoch_without_a_batch():
    loader = DataLoader(dataset(), 4, shuffle=True)
    states = [loader.state_dict() for _ in loader]
    other = DataLoader(dataset(), 4, shuffle=True)
    other.load_state_dict(states[-1])
    assert epoch(other) == []
    assert epoch(other) == epoch(loader)


def test_a_loop_that_was_left_early_ends_its_epoch():
    a, b = (DataLoader(dataset(), 4, shuffle=True) for _ in range(2))
    next(iter(a))
    list(b)
    assert epoch(a) == epoch(b)


def test_a_transform_sees_standardized_float32_batches_and_changes_them():
    seen = []

    def double(x, rng):
        seen.append(x.dtype)
        return 2 * x

    part = data.load("digits").train
    x, _ = next(iter(DataLoader(part, 8, transform=double)))
    np.testing.assert_array_equal(fetch(x), 2 * part.x[:8])
    assert seen == [np.float32]


def test_every_batch_of_every_epoch_is_transformed_with_draws_of_its_own():
    first_draws = []
    loader = DataLoader(dataset(), 4, transform=lambda x, rng: first_draws.append(rng.random()) or x)
    assert [*loader, *loader]
    assert len(set(first_draws)) == 12


def test_a_transform_that_returns_float64_is_named():
    loader = DataLoader(dataset(), 4, transform=lambda x, rng: x.astype(np.float64))
    with pytest.raises(ValueError, match=r"transform returned float64 of shape \(4, 1\), expected float32"):
        next(iter(loader))


@pytest.mark.host("refused before there is a batch")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": -4}, ValueError, "at least 1, got -4"),
        ({"batch_size": 2.5}, TypeError, "whole number, got 2.5"),
        ({"batch_size": True}, TypeError, "whole number, got True"),
        ({"batch_size": 24, "drop_last": True}, ValueError, "leaves no batch of 23 examples"),
        ({"batch_size": 4, "seed": -1}, ValueError, "seed must not be negative"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DataLoader(dataset(), **arguments)


@pytest.mark.host("refused before there is a batch")
def test_an_empty_part_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="pass val=0.1|Pass val=0.1"):
        DataLoader(data.load("digits").val, 4)


@pytest.mark.host("refused before there is a batch")
@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), [1, 2], None])
def test_what_is_no_data_set_is_refused(wrong):
    with pytest.raises(TypeError, match="DataLoader needs a data set, got"):
        DataLoader(wrong, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "saved with seed=3, this loader has 0"),
        ({"batch_size": 5}, "saved with batch_size=5, this loader has 4"),
        ({"shuffle": True}, "saved with shuffle=True, this loader has False"),
        ({"examples": 24}, "saved with examples=24, this loader has 23"),
        ({"batch": 7}, "outside this loader's epochs of 6 batches"),
        ({"epoch": -1}, "outside this loader's epochs"),
        ({"extra": 1}, "has the keys epoch, batch, seed, batch_size"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    loader = DataLoader(dataset(), 4)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(loader.state_dict() | change)
