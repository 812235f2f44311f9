"""The strict library does what CuPy does: each listed difference is shown, and the slips it is there for are caught."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict
from draw import Draw
from strict import DIFFERENCES, watch, xp
from test_nn import LAYER
from test_optim import KINDS

from minidl import backend, data, lab, nn, ops, optim, train
from minidl.tensor import OPS, Tensor, op
from minidl.train import loop

SHOWN: set[str] = set()


def shows(name: str) -> Callable[[Any], Any]:
    """This test shows the difference of that name."""
    SHOWN.add(name)
    return lambda test: test


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The strict library is "gpu" for these tests, whatever the others run on."""
    monkeypatch.setattr(backend, "_BY_TYPE", {np.ndarray: backend.NUMPY, strict.StrictArray: strict.LIBRARY})


def on_device(*values: Any, dtype: Any = "float32") -> Any:
    return xp.asarray(np.array(values, dtype))


# -------------------------------------------------------------------------------------------------- the differences


@pytest.mark.parametrize("name", "sum mean var std prod max min argmax argmin all any".split())
@shows("reductions give 0-d arrays")
def test_a_reduction_gives_a_0_d_array_and_waits_for_nothing(name):
    x = on_device(1, 2, 4)
    with watch() as seen:
        result = getattr(x, name)()
    assert type(result) is strict.StrictArray and result.shape == () and seen.syncs == 0
    assert result.get() == getattr(np.array([1, 2, 4], "float32"), name)()


@shows("reductions give 0-d arrays")
def test_picking_one_element_gives_a_0_d_view():
    x = on_device(1, 2)
    one = x[0]
    one[...] = 5
    assert one.shape == () and x.get()[0] == 5 and one.base is x


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x, h: x + h,
        lambda x, h: h + x,
        lambda x, h: x @ h,
        lambda x, h: h @ x,
        lambda x, h: x > h,
        lambda x, h: h == x,
        lambda x, h: x.__imul__(h),
        lambda x, h: xp.maximum(x, h),
        lambda x, h: xp.where(x > 0, x, h),
        lambda x, h: xp.where(h, x, x),
        lambda x, h: xp.clip(x, h, None),
        lambda x, h: xp.add.at(x, slice(0, 2), h),
        lambda x, h: xp.power([1.0, 2.0], 2),
        lambda x, h: [1.0, 2.0] * x,
        lambda x, h: xp.sum(h),
        lambda x, h: xp.exp(x, out=h),
        lambda x, h: x + np.array(3.0),
    ],
)
@shows("ufuncs take only arrays and scalars")
def test_a_host_array_beside_a_device_array_is_refused(mixed):
    with pytest.raises(TypeError):
        mixed(on_device(1, 2), np.ones(2, "float32"))


@shows("a host array of one number may be compared")
def test_a_host_array_of_one_number_may_be_compared_but_not_added():
    x = on_device(1, 5)
    assert (x < np.array(3.0)).get().tolist() == [True, False]
    with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
        x + np.array(3.0)


@pytest.mark.parametrize("convert", [np.asarray, np.array, lambda x: np.zeros(2).__setitem__(0, x), memoryview])
@shows("no implicit conversion")
def test_nothing_becomes_a_host_array_unasked(convert):
    with pytest.raises((TypeError, ValueError)):  # NumPy's item assignment turns the one into the other
        convert(on_device(1, 2))


@shows("no implicit conversion")
def test_a_host_array_is_not_indexed_by_a_device_array():
    with pytest.raises((TypeError, IndexError)):
        np.arange(3)[on_device(0, 2, dtype="int64")]


@pytest.mark.parametrize(
    "call", [np.tanh, np.sum, np.argmax, np.zeros_like, lambda x: np.where(x, 1, 0), lambda x: np.concatenate([x, x])]
)
@shows("np functions refuse device arrays")
def test_a_numpy_function_refuses_a_device_array(call):
    with pytest.raises(TypeError):
        call(on_device(1, 2))


@pytest.mark.parametrize(
    ("compute", "dtype"),
    [
        (lambda x: x * 2.0, "float32"),
        (lambda x: 2 * x, "float32"),
        (lambda x: x * np.float32(2), "float32"),
        (lambda x: x * np.float64(2), "float64"),
        (lambda x: np.float64(2) * x, "float64"),
        (lambda x: xp.where(x > 0, x, 0.0), "float32"),
        (lambda x: xp.where(x > 0, x, np.float64(0)), "float64"),
        (lambda x: x * x.astype("float64"), "float64"),
        (lambda x: x * x.astype("float64").sum(), "float64"),
        (lambda x: x.astype("int32") * 2.0, "float64"),
        (lambda x: x.astype("uint8") + 1, "uint8"),
        (lambda x: (x > 0) * 2.0, "float64"),
        (lambda x: x > 0, "bool"),
        (lambda x: (x > 0).sum(), "int64"),
    ],
)
@shows("scalars promote by NEP 50")
def test_python_numbers_are_weak_and_numpy_scalars_strong(compute, dtype):
    assert compute(on_device(1, 2)).dtype == dtype


@pytest.mark.parametrize(
    "widen",
    [
        lambda x: x * np.float64(2),
        lambda x: np.float64(2) - x,
        lambda x: x.__imul__(np.float64(2)),
        lambda x: (x > 0) * 2.0,
        lambda x: x * xp.asarray([0, 1]),
        lambda x: xp.maximum(x, np.float64(0)),
        lambda x: xp.where(x > 0, x, np.float64(0)),
    ],
)
@shows("scalars promote by NEP 50")
def test_float32_that_becomes_float64_unasked_is_counted(widen):
    x = on_device(1, 2)
    with watch() as seen:
        widen(x)
    assert seen.widened == 1 and "test_strict.py" in seen.places[-1]


@shows("scalars promote by NEP 50")
def test_what_stays_float32_or_is_asked_for_in_float64_is_no_widening():
    x = on_device(1, 2)
    with watch() as seen:
        (x * 2.0, x > 0, x * np.float32(2), x.sum(dtype="float64"), x.astype("float64") * x, xp.asarray([1]) / 2)
    assert seen.widened == 0


@shows("var and std square in the array's own type")
def test_a_variance_in_float64_squares_in_float32():
    x = on_device(1e20, -1e20)
    assert x.var(dtype="float64").get() == x.std(dtype="float64").get() == np.inf
    assert x.astype("float64").std().get() == x.get().std(dtype="float64")
    y = on_device([1, 2, 4], [3, 3, 9])
    assert y.std(dtype="float64").dtype == "float64" and y.std().dtype == "float32"
    for settings in ({}, {"axis": 0}, {"axis": (0, 1)}, {"axis": -1, "keepdims": True, "ddof": 1}):
        np.testing.assert_allclose(y.var(**settings).get(), y.get().var(**settings), rtol=1e-6)
        np.testing.assert_allclose(xp.std(y, **settings).get(), y.get().std(**settings), rtol=1e-6)


@shows("nothing warns of overflow")
def test_nothing_warns_of_overflow_or_raises_for_it():
    x = on_device(0, 1e30)
    with np.errstate(all="raise"):
        results = [x * 1e30, 1 / x, x / x, xp.log(x - 1), (x * x).sum(), x.astype("float16")]
        x *= x
    assert all(not np.isfinite(r.get()).all() for r in [*results, x])


@shows("casts from float to integer differ")
def test_a_float_outside_the_range_becomes_the_nearest_whole_number():
    x = on_device(-1, 3e9, np.inf, -np.inf, np.nan, 2.7)
    assert x.astype("uint32").get().tolist() == [0, 3_000_000_000, 2**32 - 1, 0, 0, 2]
    assert x.astype("int32").get().tolist() == [-1, 2**31 - 1, 2**31 - 1, -(2**31), 0, 2]
    assert x.astype("int64").get().tolist() == [-1, 3_000_000_000, 2**63 - 1, -(2**63), 0, 2]


@shows("einsum copies host arrays silently")
def test_einsum_copies_a_host_array_silently():
    x = on_device(1, 2)
    with watch() as seen:
        assert xp.einsum("i,i->", x, np.ones(2, "float32")).get() == 3
    assert seen.to_device == 1


@shows("filling with a device number waits")
def test_filling_with_a_device_number_waits():
    x, one = on_device(1, 2), on_device(3)[0]
    with watch() as seen:
        x.fill(2.0)
    assert seen.syncs == 0
    with watch() as seen:
        x.fill(one)
    assert seen.syncs == 1 and x.get().tolist() == [3, 3]


@shows("a @= b makes a new array")
def test_a_matrix_product_in_place_makes_a_new_array():
    x = alias = on_device([0, 1], [1, 0])
    x @= on_device([1, 2], [3, 4])
    assert alias is not x and alias.get().tolist() == [[0, 1], [1, 0]] and x.get().tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize(
    "read",
    [
        float,
        int,
        bool,
        complex,
        repr,
        str,
        pickle.dumps,
        "{:.2f}".format,
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: x.get(),
        lambda x: xp.asnumpy(x),
        lambda x: x in [x + 1],  # membership compares values
        backend.to_host,
        lambda x: Tensor(x).item(),
    ],
)
@shows("reading a value waits")
def test_reading_a_value_is_counted_as_one_wait_and_one_copy(read):
    x = on_device(3).sum()
    with watch() as seen:
        read(x)
    assert (seen.syncs, seen.to_host) == (1, 1)
    assert "test_strict.py" in seen.places[0]


@shows("reading a value waits")
def test_shapes_types_and_copies_on_the_device_are_read_without_waiting():
    x = on_device(1, 2)
    with watch() as seen:
        assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2,), "float32", 1, 2, 2)
        copy.deepcopy(x)
        list(x)
    assert seen.syncs == seen.to_host == seen.to_device == 0


@pytest.mark.parametrize("use", [range, [1, 2, 3].__getitem__, lambda n: on_device(1, 2)[: n[...]], np.zeros])
@shows("a 0-d array is no index for Python")
def test_a_device_number_is_no_index(use):
    with pytest.raises(TypeError):
        use(on_device(1, dtype="int64").sum())


@shows("indices wrap around")
def test_an_index_array_out_of_bounds_wraps_around():
    x = on_device(10, 11, 12)
    assert x[[1, 3]].get().tolist() == [11, 10]
    assert x.take(xp.asarray([4, -1])).get().tolist() == [11, 12]
    assert xp.take_along_axis(x, xp.asarray([5]), axis=0).get().tolist() == [12]
    assert x[None, ..., xp.asarray([3])].get().tolist() == [[10]]
    with pytest.raises(IndexError):
        x[3]  # a plain number is checked


@shows("one place named twice keeps an undefined value")
def test_of_two_values_for_one_place_not_the_last_is_kept():
    x = on_device(0, 0)
    x[xp.asarray([1, 1, 0])] = on_device(5, 6, 7)
    assert x.get().tolist() == [7, 5]


@shows("one boolean array per index")
def test_two_boolean_arrays_in_an_index_are_not_supported():
    x = xp.zeros((2, 2))
    with pytest.raises(NotImplementedError):
        x[on_device(1, 0, dtype=bool), on_device(1, 0, dtype=bool)]


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x[x > 1],
        lambda x: x.__setitem__(x > 1, 0),
        lambda x: x.nonzero(),
        lambda x: xp.where(x > 1),
        lambda x: xp.argwhere(x),
    ],
)
@shows("a boolean mask waits")
def test_a_boolean_mask_waits_for_the_device(use):
    with watch() as seen:
        use(on_device(1, 2, 3))
    assert seen.syncs == 1


@pytest.mark.parametrize("index", [[0, 2], np.array([0, 2]), np.array([True, False, True]), (np.array([0, 2]),)])
@shows("host arrays as indices are copied silently")
def test_a_host_array_as_index_works_and_is_counted_as_a_copy(index):
    x = on_device(1, 2, 3)
    with watch() as seen:
        assert x[index].get().tolist() == [1, 3]
    assert seen.to_device == 1


@shows("a host array cannot be assigned")
def test_a_host_array_cannot_be_assigned_to_a_slice():
    x = xp.zeros(3)
    for index in (..., slice(None), slice(0, 3)):
        with pytest.raises(ValueError, match="cannot be used for fill"):
            x[index] = np.ones(3)
    with watch() as seen:
        x[xp.asarray(np.arange(3))] = np.ones(3)
    assert seen.to_device == 2 and x.get().tolist() == [1, 1, 1]


@pytest.mark.parametrize("join", [xp.concatenate, xp.stack])
@shows("only device arrays are joined")
def test_only_device_arrays_are_joined(join):
    with pytest.raises(TypeError, match="Only cupy arrays can be concatenated"):
        join([on_device(1), np.ones(1)])


@pytest.mark.parametrize(("dtype", "known"), [("float32", True), ("float64", True), ("int64", False), ("int16", False)])
@shows("add.at knows few types")
def test_add_at_an_index_array_knows_the_types_of_atomics(dtype, known):
    x, places = xp.zeros(3, dtype), xp.asarray([0, 2, 0])
    if known:
        xp.add.at(x, places, xp.ones(3, dtype))
        assert x.get().tolist() == [2, 0, 1]
    else:
        with pytest.raises(TypeError, match="only supports"):
            xp.add.at(x, places, xp.ones(3, dtype))


@shows("cupy.scatter_add is gone")
def test_scatter_add_is_gone_from_the_namespace():
    with pytest.raises(AttributeError, match="has no cupy.scatter_add"):
        xp.scatter_add  # noqa: B018


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum(where=x > 0),
        lambda x: xp.sum(x, initial=1.0),
        lambda x: x.max(initial=0.0),
        lambda x: xp.exp(x, where=x > 0),
        lambda x: xp.add(x, x, order="F"),
        lambda x: x.astype("float64", casting="safe"),
        lambda x: xp.einsum("i,i->", x, x, out=x),
        lambda x: x.item(0),
        lambda x: xp.clip(x, min=0, max=1),
        lambda x: x.var(correction=1),
        lambda x: xp.mean(x, where=x > 0),
        lambda x: xp.zeros(3, like=x),
        lambda x: xp.sort(x, order="a"),
    ],
)
@shows("fewer keyword arguments")
def test_an_argument_that_cupy_lacks_is_refused(call):
    with pytest.raises(TypeError):
        call(on_device(1))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (xp, "nested_iters"),
        (xp, "busday_count"),
        (xp, "nanquantile"),
        (xp.random.default_rng(0), "normal"),
        (xp.random.default_rng(0), "permutation"),
        (xp.random.default_rng(0), "choice"),
        (xp.zeros(1), "resize"),
        (xp.zeros(1), "setflags"),
        (xp.zeros(1), "__array_interface__"),
        (xp.add, "resolve_dtypes"),
    ],
)
@shows("fewer functions")
def test_a_name_that_cupy_lacks_is_missing_and_named(owner, name):
    with pytest.raises(AttributeError, match=rf"CuPy .* has no .*{name}"):
        getattr(owner, name)


def test_a_name_that_cupy_has_and_the_strict_library_lacks_says_so():
    with pytest.raises(AttributeError, match=r"has cupy\.fft, but the strict library does not yet"):
        xp.fft  # noqa: B018


@shows("no order is carried over")
def test_an_elementwise_result_is_c_ordered():
    x = xp.ones((3, 4)).T
    assert x.flags.f_contiguous and not x.flags.c_contiguous
    for y in (x + x, xp.exp(x), -x, x > 0):
        assert y.flags.c_contiguous and y.base is None


@shows("generators draw other numbers")
def test_a_device_generator_is_repeatable_typed_and_not_numpys():
    first, again = (xp.random.default_rng(3).random((4,), dtype="float32") for _ in range(2))
    assert type(first) is strict.StrictArray and first.dtype == "float32"
    assert first.get().tolist() == again.get().tolist()
    assert first.get().tolist() != np.random.default_rng(3).random((4,), dtype="float32").tolist()
    with pytest.raises(AttributeError):
        xp.random.default_rng(3).bit_generator.state  # noqa: B018


@pytest.mark.parametrize("data", [["a"], [None], [{}]])
@shows("only numbers")
def test_only_numbers_are_elements(data):
    with pytest.raises(ValueError, match="Unsupported dtype"):
        xp.asarray(data)


@shows("argmax takes keepdims")
def test_argmax_takes_keepdims():
    assert xp.ones((2, 3)).argmax(axis=1, keepdims=True).shape == (2, 1)


@shows("padding takes host settings")
def test_padding_by_a_device_value_is_refused():
    x = on_device(1)
    with pytest.raises(TypeError):
        xp.pad(x, ((1, 1),), constant_values=x)


@shows("allclose gives a 0-d array")
def test_allclose_gives_a_0_d_array():
    with watch() as seen:
        same = xp.allclose(on_device(1), on_device(1))
    assert same.shape == () and seen.syncs == 0


@shows("arrays hold three flags")
def test_flags_know_nothing_of_writing():
    assert not hasattr(xp.zeros(2).flags, "writeable")
    assert xp.zeros(2).flags.owndata and not xp.zeros(2)[:1].flags.owndata


@shows("transposing a vector gives the vector")
def test_transposing_a_vector_gives_the_vector_itself():
    x = on_device(1, 2)
    assert x.T is x and xp.zeros((2, 3)).T.base is not None


@shows("fresh memory is not zero")
def test_fresh_memory_shows_when_it_is_read():
    assert np.isnan(xp.empty(2, "float32").get()).all()
    assert xp.empty(2, "int16").get().tolist() == [32767, 32767]
    assert np.isnan(xp.empty_like(on_device(1)).get()).all()


def test_every_listed_difference_is_shown_and_none_is_shown_unlisted():
    assert {d.name for d in DIFFERENCES} == SHOWN
    assert len({d.name for d in DIFFERENCES}) == len(DIFFERENCES)
    assert all(d.cupy and d.source for d in DIFFERENCES)


# ------------------------------------------------------------------------------------------- memory, as in both


def test_slices_reshapes_and_transposes_share_memory_with_the_owner():
    x = xp.zeros((2, 3))
    for view in (x[1:], x[::-1], x[None, :, 0], x.reshape(3, 2), x.T, x.swapaxes(0, 1), xp.moveaxis(x, 0, 1), x[1:][0]):
        before = x.get()
        view[...] = view + 1.0
        assert view.base is x and (x.get() != before).any()
    assert x.copy().base is None and x.T.reshape(6).base is None


def test_an_operation_in_place_writes_into_the_array_and_keeps_its_type():
    x = on_device(1, 2)
    alias = x
    x += xp.ones(2, "float64")
    x *= 2
    assert alias is x and x.dtype == "float32" and x.get().tolist() == [4, 6]
    with pytest.raises(TypeError):  # NumPy's rule and CuPy's: same kind only
        xp.zeros(2, "int64").__iadd__(1.5)


def test_single_numbers_travel_without_a_copy():
    with watch() as seen:
        xp.asarray(-xp.inf, "float32")
        xp.full((2, 2), xp.asarray(3.0), "float32")
        xp.arange(4)
    assert seen.to_device == seen.to_host == seen.syncs == 0


# ------------------------------------------------------------------------------------------------ planted faults


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def small_conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Residual(nn.Conv2d(4, 4, 3, padding=1), activation="gelu"),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(16),
        nn.Linear(16, 3),
    )


def train_one_step(model: nn.Module, optimizer: optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    loss = ops.cross_entropy(model(x), y, label_smoothing=0.1)
    loss.backward()
    optim.clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def case(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    shape = (5, 6) if make is mlp else (5, 1, 8, 8)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    return make().to("gpu"), Tensor(x).to("gpu"), Tensor(np.array([0, 1, 2, 0, 1])).to("gpu")


OPTIMIZERS = {kind.__name__: functools.partial(kind, lr=0.001) for kind in KINDS} | {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
}


@pytest.mark.parametrize("make", [mlp, small_conv_net])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_step_neither_waits_nor_copies_and_stays_float32(make, optimizer):
    model, x, y = case(make)
    stepper = OPTIMIZERS[optimizer](model.parameters())
    for _ in range(2):  # the first step makes the optimizer's memory, the second uses it
        with watch() as seen:
            loss = train_one_step(model, stepper, x, y)
        assert (seen.syncs, seen.to_host, seen.to_device, seen.widened) == (0, 0, 0, 0), seen.places
    arrays = [loss.data, *(p.data for p in model.parameters()), *(b for _, b in model.named_buffers())]
    assert {type(a) for a in arrays} == {strict.StrictArray} and {str(a.dtype) for a in arrays} == {"float32"}
    moments = [v for state in stepper.state for v in state.values() if hasattr(v, "shape")]
    assert {str(v.dtype) for v in moments} == {"float32"}


@pytest.mark.parametrize("make", [mlp, small_conv_net])
def test_evaluation_neither_waits_nor_copies(make):
    model, x, _ = case(make)
    model.eval()
    with watch() as seen:
        model(x)
    assert (seen.syncs, seen.to_host, seen.to_device, seen.widened) == (0, 0, 0, 0), seen.places


def on_gpu(value: Any) -> Any:
    """The arrays of an example on the device, floats in float32; what is copied stays there."""
    if isinstance(value, dict):
        return {name: "gpu" if name == "device" else on_gpu(setting) for name, setting in value.items()}
    if isinstance(value, tuple):
        return tuple(map(on_gpu, value))
    if not isinstance(value, np.ndarray):
        return value
    return xp.asarray(value.astype("float32") if value.dtype.kind == "f" else value)


@pytest.mark.parametrize("name", sorted(OPS))
def test_no_operation_and_no_rule_of_it_waits_copies_or_widens(name):
    for seed, example in enumerate(OPS[name].examples * 3):
        args, static = map(on_gpu, example(Draw(np.random.default_rng(seed))))
        tensors = [Tensor(a, requires_grad=a.dtype.kind == "f") if hasattr(a, "shape") else a for a in args]
        with watch() as seen:
            y = OPS[name](*tensors, **static)
            if y.requires_grad:
                y.backward(xp.ones_like(y.data))
        assert (seen.syncs, seen.to_host, seen.to_device, seen.widened) == (0, 0, 0, 0), seen.places


@pytest.mark.parametrize("name", sorted(LAYER))
def test_no_layer_waits_copies_or_widens_in_training_or_evaluation(name):
    make, shape, _ = LAYER[name]
    layer = make().to("gpu")
    x = Tensor(np.random.default_rng(0).normal(size=shape).astype("float32")).to("gpu")
    x.requires_grad = True
    with watch() as seen:
        layer(x).sum().backward()
        layer.eval()(x).sum().backward()
    assert (seen.syncs, seen.to_host, seen.to_device, seen.widened) == (0, 0, 0, 0), seen.places


class Spy(nn.Module):
    """Passes x on, and writes down how often the host has waited when signal and gradient come by."""

    def __init__(self, write: Callable[[int], None]) -> None:
        self.write = write  # not the list itself: the probe would put it back

    def forward(self, x: Any) -> Any:
        self.write(strict.total.syncs)
        y = x * 1.0
        y.register_hook(lambda _g: self.write(strict.total.syncs))
        return y


def test_the_probe_waits_for_nothing_between_its_first_layer_and_its_last_gradient():
    waits: list[int] = []
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)]
    model = nn.Sequential(Spy(waits.append), *layers, Spy(waits.append)).to("gpu")
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    report = lab.probe(model, x, np.arange(5) % 3, optimizer=optim.Adam(model.parameters()))
    assert len(waits) == 4 and len(set(waits)) == 1
    assert report.records[1]["weight_std"] > 0


def clouds() -> data.Split:
    """20 examples for training, in five batches of four, and 6 for the test."""
    rng = np.random.default_rng(0)
    y = np.arange(26) % 3
    x = rng.normal(size=(26, 1, 8, 8)).astype("float32")
    parts = [data.Dataset(x[a:b], y[a:b], classes="abc") for a, b in ((0, 20), (20, 20), (20, 26))]
    return data.Split("clouds", *parts, mean=np.zeros(1), std=np.ones(1))


@pytest.mark.parametrize(("every", "readings"), [(2, 3), (5, 1), (50, 1)])  # steps 6, 8, 10; 10; 10
def test_an_epoch_of_fit_copies_its_batches_and_waits_at_every_kth_step_alone(every, readings, monkeypatch):
    """Two epochs against one: what an epoch costs, without what the start costs."""
    monkeypatch.setattr(loop, "EVERY_ON_GPU", every)

    def cost(epochs: int) -> strict.Counts:
        model = nn.Sequential(small_conv_net(), nn.Dropout(0.2)).to("gpu")
        optimizer = optim.Adam(model.parameters())
        settings = {"epochs": epochs, "batch_size": 4, "clip": 1.0, "schedule": optim.cosine(10), "quiet": True}
        with watch() as seen:
            train.fit(model, clouds(), optimizer=optimizer, **settings)
        return seen

    one, two = cost(1), cost(2)
    sums = 2 + 2  # loss and accuracy of the training part, and of the test part
    assert two.syncs - one.syncs == two.to_host - one.to_host == sums + readings, two.places
    assert two.to_device - one.to_device == 2 * (5 + 1) + 1, two.places  # batches; the empty array of a new loader


def test_planted_reading_the_loss_inside_the_step_is_counted_with_its_place():
    model, x, y = case(mlp)
    with watch() as seen:
        float(train_one_step(model, optim.Adam(model.parameters()), x, y))
    assert seen.syncs == 1 and "test_strict.py" not in seen.places[0].partition(" at ")[0]


def test_planted_a_condition_on_the_gradient_norm_is_counted():
    model, x, y = case(mlp)
    ops.cross_entropy(model(x), y).backward()
    with watch() as seen:
        bool(optim.clip_grad_norm(model.parameters(), 1.0) > 0)
    assert seen.syncs == 1


@pytest.fixture
def planted():
    """Makes an operation that does not stay behind."""
    before = set(OPS)

    def make(function: Callable[..., Any], rule: Callable[..., Any]) -> Any:
        made = op(method=False)(function)
        made.derivative(rule)
        return made

    yield make
    for name in set(OPS) - before:
        del OPS[name]


def good(x: Any) -> Any:
    return x * 2


def test_planted_a_host_array_in_a_rule_is_caught(planted):
    doubled = planted(good, lambda g, _y, _x: g * np.full(g.shape, 2, "float32"))
    x = Tensor(on_device(1, 2), requires_grad=True)
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy\.ndarray'>"):
        doubled(x).sum().backward()


def test_planted_np_in_place_of_the_arrays_module_is_caught(planted):
    def wrong(x: Any) -> Any:
        return np.tanh(x)

    with pytest.raises(TypeError, match="ufunc"):
        planted(wrong, lambda g, _y, _x: g)(Tensor(on_device(1, 2)))


def test_planted_a_mask_made_on_the_host_is_caught(planted):
    def masked(x: Any) -> Any:
        return x * (np.random.default_rng(0).random(x.shape) > 0.5)

    with pytest.raises(TypeError, match="Unsupported type"):
        planted(masked, lambda g, _y, _x: g)(Tensor(on_device(1, 2)))


def test_planted_a_host_mask_as_index_is_counted_as_a_copy(planted):
    def picked(x: Any) -> Any:
        return x[np.array([True, False])]

    x = Tensor(on_device(1, 2))
    with watch() as seen:
        planted(picked, lambda g, _y, _x: g)(x)
    assert seen.to_device == 1 and seen.syncs == 1


def test_planted_a_numpy_scalar_that_widens_float32_shows_in_the_dtype(planted):
    def scaled(x: Any) -> Any:
        return x / np.sqrt(x.shape[0])

    assert planted(scaled, lambda g, _y, _x: g)(Tensor(on_device(1, 2))).dtype == "float64"
    assert (Tensor(on_device(1, 2)) / np.sqrt(2)).dtype == "float32"  # as an operand of an operation it is a number


def test_planted_reading_unset_memory_shows(planted):
    def forgotten(x: Any) -> Any:
        y = backend.array_module(x).empty(x.shape, x.dtype)
        y[:1] = x[:1]
        return y

    assert np.isnan(planted(forgotten, lambda g, _y, _x: g)(Tensor(on_device(1, 2))).numpy()[1])


def test_a_device_number_flows_through_operations_and_the_walk_back_without_waiting():
    x = Tensor(on_device(1, 2, 3), requires_grad=True)
    with watch() as seen:
        scale = (x.data * x.data).sum()  # a plain 0-d array
        loss = ((x * scale).sum() / scale + x.max() * 2.0).tanh()
        loss.backward(xp.ones_like(loss.data) * scale)
        x.grad /= scale
    assert (seen.syncs, seen.to_host, seen.to_device) == (0, 0, 0), seen.places
    assert x.grad.dtype == loss.dtype == "float32"


def test_a_host_array_in_an_operation_on_device_tensors_is_named():
    with pytest.raises(TypeError, match="arrays on gpu and cpu"):
        Tensor(on_device(1, 2)) + Tensor(np.ones(2, "float32"))


def test_a_gradient_crosses_from_device_to_device():
    x = Tensor(np.array([1.0, 2.0], "float32"), requires_grad=True)
    (x.to("gpu") * 3.0).to("cpu").sum().backward()
    assert type(x.grad) is np.ndarray and x.grad.tolist() == [3, 3]
    y = Tensor(on_device(1, 2), requires_grad=True)
    (y.to("cpu") * 3.0).to("gpu").sum().backward()
    assert type(y.grad) is strict.StrictArray and y.grad.get().tolist() == [3, 3]
