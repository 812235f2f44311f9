"""Where CuPy 14 differs from NumPy, each with its source. ``tests/test_strict.py`` shows every one of them.

Sources: "Differences" is the page docs.cupy.dev/en/stable/user_guide/difference.html, by section; "docstring" the one
in the installed CuPy 14.2; "source" CuPy's own code where no page says it; "stricter" marks what CuPy would let pass
and the strict library refuses, because in minidl it is always a slip.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DIFFERENCES", "Difference"]


class Difference(NamedTuple):
    """One difference: its name, what CuPy does, and who says so."""

    name: str
    cupy: str
    source: str


DIFFERENCES = [
    Difference(
        "reductions give 0-d arrays",
        "sum, mean, max, argmax, all, ... return a 0-d array on the device, never a scalar",
        "Differences: Zero-dimensional array, Reduction methods",
    ),
    Difference(
        "ufuncs take only arrays and scalars",
        "a list or a numpy.ndarray in a ufunc or an operator: TypeError, Unsupported type",
        "Differences: Universal Functions only work with CuPy array or scalar",
    ),
    Difference(
        "a host array of one number may be compared",
        "x < np.array(3.0) is allowed (the number is taken), x + np.array(3.0) is refused",
        "source: cupy/_core/core.pyx, __richcmp__",
    ),
    Difference(
        "no implicit conversion",
        "np.asarray(x) raises TypeError; .get() or cupy.asnumpy(x) convert",
        "docstring and message of cupy.ndarray.__array__; Interoperability; issue cupy/cupy#589",
    ),
    Difference(
        "np functions refuse device arrays",
        "np.tanh(x) and np.sum(x) raise. CuPy forwards them to its own functions, and refuses them only beside host "
        "arrays or without a twin of its own; in minidl `np.` on an array is always a slip",
        "stricter than the User Guide: Interoperability, NumPy",
    ),
    Difference(
        "scalars promote by NEP 50",
        "Python numbers are weak (float32 * 2.0 is float32), NumPy scalars strong (float32 * np.float64(2) is float64)",
        "NEP 50 in CuPy: cupy/cupy#8323, #8754; source: cupy/_core/_scalar.pyx, CScalar",
    ),
    Difference(
        "var and std square in the array's own type",
        "x.var(dtype='float64') of a float32 array sums in float64, but mean, differences and squares are in float32: "
        "1e20 squares to infinity. NumPy computes all of it in float64",
        "source: cupy/_core/_routines_statistics.pyx, _var and _var_core_float64",
    ),
    Difference(
        "nothing warns of overflow",
        "a kernel reports no division by zero, overflow or NaN: np.errstate and warnings do not reach it",
        "source: cupyx/_ufunc_config.py, seterr raises NotImplementedError for divide, over, under and invalid",
    ),
    Difference(
        "casts from float to integer differ",
        "a value outside the range becomes the nearest (undefined in C++; NumPy: depends on the processor)",
        "Differences: Cast behavior from float to integer",
    ),
    Difference(
        "reading a value waits",
        "float, int, bool, item, tolist, get, repr and format copy to the host and synchronise",
        "source: cupy/_core/core.pyx, each calls .get(); docstring of ndarray.get; syncdetect.py",
    ),
    Difference(
        "a 0-d array is no index for Python",
        "cupy.ndarray has no __index__: range(n), a list, and slice(0, n) refuse it",
        "dir(cupy.ndarray) of 14.2 against numpy.ndarray",
    ),
    Difference(
        "indices wrap around",
        "x[[1, 3]] on three elements reads the elements 1 and 0, no IndexError; so take and take_along_axis",
        "Differences: Out-of-bounds indices; docstring of ndarray.__getitem__",
    ),
    Difference(
        "one place named twice keeps an undefined value",
        "x[i] = v with repeated i stores any of the values (here: the first; NumPy: the last)",
        "Differences: Duplicate values in indices; docstring of ndarray.__setitem__",
    ),
    Difference(
        "one boolean array per index",
        "x[mask_a, mask_b] is not supported",
        "docstrings of ndarray.__getitem__ and __setitem__",
    ),
    Difference(
        "a boolean mask waits",
        "x[mask] and x[mask] = v count the hits on the host; so do nonzero, where(c), argwhere",
        "docstring of ndarray.nonzero and compress; source: _routines_indexing.pyx, _prepare_mask_indexing_single",
    ),
    Difference(
        "host arrays as indices are copied silently",
        "x[np.array([0, 2])] and x[[0, 2]] work, by a hidden copy to the device",
        "source: _routines_indexing.pyx, _prepare_slice_list",
    ),
    Difference(
        "einsum copies host arrays silently",
        "every operand goes through cupy.asarray: no TypeError, but a hidden copy",
        "source: cupy/linalg/_einsum.py, _parse_einsum_input",
    ),
    Difference(
        "filling with a device number waits",
        "x.fill(y) asks whether y is 0 on the host",
        "source: core.pyx, fill",
    ),
    Difference(
        "a @= b makes a new array",
        "cupy.ndarray has no __imatmul__, so an alias keeps the old values",
        "dir(cupy.ndarray) of 14.2 against numpy.ndarray",
    ),
    Difference(
        "a host array cannot be assigned",
        "x[...] = np.ones(3) raises ValueError; x[i] = np.ones(3) with an index array copies silently",
        "source: _routines_indexing.pyx, _scatter_op; core.pyx, fill",
    ),
    Difference(
        "only device arrays are joined",
        "concatenate and stack of host arrays: TypeError, Only cupy arrays can be concatenated",
        "source: _routines_manipulation.pyx, concatenate_method",
    ),
    Difference(
        "add.at knows few types",
        "add.at with an index array knows float16/32/64, int32, uint32, uint64, the types of CUDA's atomics; not int64",
        "docstring of cupyx.scatter_add; source: _routines_indexing.pyx, _scatter_op_single",
    ),
    Difference(
        "cupy.scatter_add is gone",
        "cupyx.scatter_add or cupy.add.at",
        "Upgrade Guide: CuPy v8, API Changes",
    ),
    Difference(
        "fewer keyword arguments",
        "sum(where=), sum(initial=), ufunc(where=), astype(casting=), einsum(out=), item(0) do not exist",
        "signatures and docstrings of CuPy 14.2, kept in cupy_names.json; einsum: docstring, note",
    ),
    Difference(
        "fewer functions",
        "what CuPy lacks raises AttributeError: Generator.normal and permutation, ndarray.resize, cupy.nested_iters",
        "dir(cupy) and its parts in 14.2, kept in cupy_names.json",
    ),
    Difference(
        "no order is carried over",
        "the result of an elementwise function is C-ordered, whatever the operands are",
        "Differences: Contiguity / Strides",
    ),
    Difference(
        "generators draw other numbers",
        "cupy.random.default_rng(seed) gives another stream than NumPy's, with dtype=, and its state cannot be read",
        "docstring of cupy.random.default_rng and Generator.random; source: random/_bit_generator.pyx",
    ),
    Difference(
        "only numbers",
        "strings and objects cannot be elements: ValueError, Unsupported dtype",
        "Differences: Data types",
    ),
    Difference(
        "argmax takes keepdims",
        "argmax and argmin have dtype and keepdims; code that uses them must not meet an older NumPy",
        "docstring of cupy.ndarray.argmax",
    ),
    Difference(
        "padding takes host settings",
        "widths and values of cupy.pad cannot be device arrays",
        "docstring of cupy.pad",
    ),
    Difference(
        "allclose gives a 0-d array",
        "cupy.allclose returns a 0-d array, to avoid a synchronisation",
        "Upgrade Guide: CuPy v8, API Changes",
    ),
    Difference(
        "arrays hold three flags",
        "flags has c_contiguous, f_contiguous, owndata; no writeable",
        "docstring of cupy.ndarray.flags",
    ),
    Difference(
        "transposing a vector gives the vector",
        "x.T is x itself below two axes",
        "docstring of cupy.ndarray.T",
    ),
    Difference(
        "fresh memory is not zero",
        "stricter: empty holds NaN or the largest whole number, so that reading it shows",
        "stricter: CuPy's memory pool hands out used blocks (User Guide: Memory Management)",
    ),
]
