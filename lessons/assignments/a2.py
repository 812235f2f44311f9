"""A2: initialization schemes.

You write the schemes that every deep-learning library has, with NumPy alone, and one thing that no library gives you:
the right gain for an activation that was drawn for you.

* A function that draws weights gets a ``shape``, the two fans of the layer and a generator ``rng``. Draw from that
  generator and from nothing else: whoever passes the same ``rng`` must get the same weights.
* ``fan_in`` is the number of terms in the sum that makes one output value, ``fan_out`` the number of output values
  that one input value goes into. They are passed to you and can differ from what the shape suggests: use them.
* Weights come back as an array of ``dtype``, or of float32 where there is no such argument.
* Your schemes work in minidl as they are: ``minidl.init.apply(model, a2.he_normal)``.
* Only NumPy and the standard library are there when this file is graded, and it can open no files.

Every function is graded by what it returns, on shapes, fans and seeds that you do not see.
"""

import math

import numpy as np


def conv_fans(in_channels, out_channels, kernel_size, *, groups=1, stride=1, transposed=False):
    """``(fan_in, fan_out)`` of a convolution.

    Each of the ``groups`` connects its own share of the input channels with its own share of the output channels. The
    stride of an ordinary convolution is left out of both fans, by convention. A *transposed* convolution with stride s
    lays one stamp of ``kh × kw`` weights for every input value, s pixels apart along both axes: count how many terms
    one output value gets on average.

    Args:
        in_channels: number of input channels, a multiple of ``groups``.
        out_channels: number of output channels, a multiple of ``groups``.
        kernel_size: the pair ``(kh, kw)``.
        groups: number of groups.
        stride: s, the same along both axes.
        transposed: whether it is a transposed convolution.

    Returns:
        Two numbers. The ``fan_in`` of a transposed convolution need not be a whole one.
    """
    ### BEGIN SOLUTION
    ### HINT: how many weights does one output value touch, in how many channels?
    taps = kernel_size[0] * kernel_size[1]
    inward = in_channels // groups * taps
    outward = out_channels // groups * taps
    if transposed:
        inward = inward / stride**2
    return inward, outward
    ### END SOLUTION


def glorot_normal(shape, *, fan_in, fan_out, rng, dtype=np.float32):
    """Normal weights with mean 0 and variance ``2/(fan_in + fan_out)`` (Glorot & Bengio 2010)."""
    ### BEGIN SOLUTION
    ### HINT: does NumPy ask for a variance or for a standard deviation?
    glorot_std = math.sqrt(2 / (fan_in + fan_out))
    return rng.normal(0.0, glorot_std, shape).astype(dtype)
    ### END SOLUTION


def glorot_uniform(shape, *, fan_in, fan_out, rng, dtype=np.float32):
    """Uniform weights on ``(-limit, limit)`` with the variance of ``glorot_normal``: you find the limit."""
    ### BEGIN SOLUTION
    ### HINT: what is the variance of a uniform law on (-1, 1)?
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape).astype(dtype)
    ### END SOLUTION


def he_normal(shape, *, fan_in, fan_out, rng, a=0.0, mode="fan_in", dtype=np.float32):
    """Normal weights that keep the second moment through a leaky ReLU (He et al. 2015).

    The variance is ``2/((1 + a²) fan)``.

    Args:
        shape: the shape of the weights.
        fan_in: terms in the sum that makes one output value.
        fan_out: output values that one input value goes into.
        rng: a ``numpy.random.Generator``.
        a: the slope of the activation for negative inputs; 0 is ReLU.
        mode: which fan it is: "fan_in" keeps the signal, "fan_out" the gradient.
        dtype: of the weights.
    """
    ### BEGIN SOLUTION
    chosen = {"fan_in": fan_in, "fan_out": fan_out}[mode]
    he_std = math.sqrt(2 / ((1 + a**2) * chosen))
    return rng.normal(0.0, he_std, shape).astype(dtype)
    ### END SOLUTION


def he_uniform(shape, *, fan_in, fan_out, rng, a=0.0, mode="fan_in", dtype=np.float32):
    """Uniform weights on ``(-limit, limit)`` with the variance of ``he_normal``; the arguments are the same."""
    ### BEGIN SOLUTION
    fan = fan_in if mode == "fan_in" else fan_out
    bound = math.sqrt(6 / ((1 + a * a) * fan))
    return rng.uniform(-bound, bound, shape).astype(dtype)
    ### END SOLUTION


def truncated_normal(shape, *, std, rng):
    """Normal weights cut at two standard deviations *of the uncut law*, whose own standard deviation is ``std``.

    A value outside is drawn again (not moved to the border). The cut takes variance away: the uncut law has to be so
    much wider that what is left has the standard deviation ``std``. Returns float32.
    """
    ### BEGIN SOLUTION
    ### HINT: the variance of a standard normal law cut at ±c is 1 - 2 c φ(c) / (2 Φ(c) - 1).
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    kept = math.erf(2 / math.sqrt(2))
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    return (values * std / math.sqrt(1 - 4 * density / kept)).astype(np.float32)
    ### END SOLUTION


def orthogonal(shape, *, rng, gain=1.0):
    """Weights whose rows, or columns where these are fewer, are orthogonal and of length ``gain`` (Saxe et al. 2013).

    Weights with more than two axes (a convolution) count as the matrix ``(shape[0], everything else)``. All such
    matrices have to be equally likely: what a QR factorization returns is not, until you have mended its signs.
    Returns float32.
    """
    ### BEGIN SOLUTION
    ### HINT: multiply column i of Q by the sign of R[i, i].
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    matrix = q if rows >= columns else q.T
    return (gain * matrix).reshape(shape).astype(np.float32)
    ### END SOLUTION


def activation_gain(phi, q):
    """The gain g that keeps the pre-activations of a wide network at the second moment ``q``, layer after layer.

    With weights of variance ``g²/fan_in`` a pre-activation z ~ N(0, q) becomes one with second moment ``g² E φ(z)²``.
    φ is any function of an array, elementwise, bounded by a straight line, with kinks at places you do not know.

    Args:
        phi: the activation φ, drawn for you.
        q: the second moment to be kept, a positive number.

    Returns:
        The gain as a number, to four digits: random sampling gives two or three.
    """
    ### BEGIN SOLUTION
    ### HINT: E f(z) is an integral with the weight exp(-z²/2q); what is E φ(z)² with z = √q ξ?
    ### HINT: many equally spaced points do not mind a kink.
    xi = np.linspace(-10, 10, 100_001)
    weight = np.exp(-(xi**2) / 2)
    second_moment = np.sum(weight * phi(math.sqrt(q) * xi) ** 2) / np.sum(weight)
    return math.sqrt(q / second_moment)
    ### END SOLUTION
