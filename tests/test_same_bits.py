"""Weights are drawn on the host and copied: one seed gives the same bits on every array library."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import DEVICE, fetch

from minidl import init, nn
from minidl.backend import device_of


def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, groups=2),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def values(network: nn.Module) -> dict[str, np.ndarray]:
    return {path: fetch(p) for path, p in network.named_parameters()} | {
        path: fetch(array) for path, array in network.named_buffers()
    }


@pytest.mark.parametrize("scheme", init.names())
def test_a_scheme_draws_the_same_bits_for_a_model_on_the_device(scheme):
    try:
        init.get(scheme)
    except TypeError as needs:
        pytest.skip(f"has no default: {needs}")
    on_host, on_device = model(), model().to(DEVICE)
    for network in (on_host, on_device):
        init.apply(network, scheme, seed=3)
    assert {device_of(p.data) for p in on_device.parameters()} == {DEVICE}
    expected = values(on_host)
    for path, array in values(on_device).items():
        assert array.dtype == expected[path].dtype and array.tobytes() == expected[path].tobytes(), path


def test_moving_a_model_there_and_back_keeps_every_bit():
    network = model()
    init.apply(network, seed=1)
    before = {path: array.copy() for path, array in values(network).items()}
    after = values(network.to(DEVICE).to("cpu"))
    assert before.keys() == after.keys() and all(before[k].tobytes() == after[k].tobytes() for k in before)
