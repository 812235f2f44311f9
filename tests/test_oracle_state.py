"""Weights as plain arrays, from PyTorch and to it: the same names, the same shapes, the same outputs."""

import importlib.util

import numpy as np
import pytest
from conftest import tensor
from oracle import agree, torch
from test_oracle_training import MODELS

from minidl import nn, train

pytestmark = pytest.mark.oracle


def both(which, seed):
    """The network in both libraries; PyTorch's has running averages that are not the first ones."""
    make, shape = MODELS[which]
    torch.manual_seed(seed)
    ours, theirs = make(nn), make(torch.nn)
    x = np.random.default_rng(seed).normal(size=(16, *shape)).astype(np.float32)
    theirs(torch.from_numpy(x))
    return ours, theirs.eval(), x


@pytest.mark.parametrize("which", MODELS)
def test_a_state_dict_of_pytorch_loads_as_arrays_and_gives_its_outputs(which):
    ours, theirs, x = both(which, 1)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    agree(ours.eval()(tensor(x)), theirs(torch.from_numpy(x)), 1e-5)


@pytest.mark.parametrize("which", MODELS)
def test_a_state_dict_of_ours_loads_into_pytorch_and_gives_our_outputs(which):
    ours, theirs, x = both(which, 2)
    ours(tensor(x))  # running averages of our own
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
    agree(ours.eval()(tensor(x)), theirs(torch.from_numpy(x)), 1e-5)


def test_the_names_are_pytorchs_but_for_the_count_of_batches():
    ours, theirs, _ = both("normalized", 3)
    extra = set(theirs.state_dict()) - set(ours.state_dict())
    assert set(ours.state_dict()) <= set(theirs.state_dict())
    assert extra and all(name.endswith(".num_batches_tracked") for name in extra)


def test_weights_that_pytorch_keeps_channels_last_load_in_their_logical_order():
    ours, theirs, x = both("lenet5", 4)
    theirs = theirs.to(memory_format=torch.channels_last)
    assert not theirs[3].weight.is_contiguous()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    agree(ours.eval()(tensor(x)), theirs(torch.from_numpy(x)), 1e-5)


@pytest.mark.skipif(importlib.util.find_spec("safetensors") is None, reason="needs safetensors")
def test_a_safetensors_file_goes_both_ways(tmp_path):
    from safetensors.torch import load_file, save_file

    ours, theirs, x = both("normalized", 5)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    train.load(tmp_path / "theirs.safetensors", model=ours)
    agree(ours.eval()(tensor(x)), theirs(torch.from_numpy(x)), 1e-5)
    ours, theirs, x = both("normalized", 6)
    train.save(tmp_path / "ours.safetensors", model=ours)
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    agree(ours.eval()(tensor(x)), theirs(torch.from_numpy(x)), 1e-5)
