"""The simulated accelerator itself: it computes what the CPU computes, refuses mixed devices and
sees every wait."""

import pytest
import torch
from simulated_device import DeviceTensor, MixedDevices, accelerator, host
from torch import nn


def test_values_gradients_and_views_are_those_of_the_cpu():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    net.eval()
    x = torch.rand(2, 3, 8, 8)

    def slope(module, images):
        images = images.clone().requires_grad_()
        value = module(images)[:, 1:].flatten(1).square().sum(1)
        (grad,) = torch.autograd.grad(value.sum(), images)
        return value.detach(), grad

    expected = slope(net, x)
    with accelerator():
        there = net.to("cuda:0")
        assert isinstance(next(there.parameters()), DeviceTensor)
        found = slope(there, x.to("cuda:0"))
        assert all(part.device == torch.device("cuda:0") for part in found)
        found = host(found)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "put-by-mask": lambda x: x.clone().index_put_((x > 0,), x[:1].expand(int(x.shape[0]))),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "equal": lambda x: torch.equal(x, x),
    "to-the-device": lambda x: torch.zeros(3).to(x.device),
    "index-from-the-host": lambda x: x[torch.tensor([0, 1])],
}
RUNS_ON = {
    "arithmetic": lambda x: (x * 2 + 1).sum(),
    "where": lambda x: torch.where(x > 0, x, -x),
    "gather": lambda x: x[torch.arange(2, device=x.device)],
    "fill-by-mask": lambda x: x.clone().masked_fill_(x > 0, 0),
    "index-add": lambda x: x.index_add(0, torch.arange(3, device=x.device), x),
    "sort": lambda x: x.sort().values.cumsum(0),
    "without-blocking": lambda x: torch.zeros(3).to(x.device, non_blocking=True),
    "scalar-put": lambda x: x.clone().__setitem__(0, 5.0),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_the_host_waits_for_is_counted_by_line(name):
    with accelerator() as device:
        x = torch.tensor([0.0, 1.0, 2.0]).to("cuda:0")
        device.reset()
        if name == "put-by-mask":
            x = x + 1  # all chosen: as many values as places
        WAITS[name](x)
        assert device.total >= 1
        assert all(place.startswith("tests/device/test_simulated") for place in device.waits)


@pytest.mark.parametrize("name", RUNS_ON)
def test_what_only_queues_work_is_not(name):
    with accelerator() as device:
        x = torch.tensor([0.0, 1.0, 2.0]).to("cuda:0")
        device.reset()
        RUNS_ON[name](x)
        assert device.waits == {}
        assert device.calls > 0


def test_devices_do_not_mix():
    with accelerator(2):
        here, there = torch.ones(2).to("cuda:0"), torch.ones(2).to("cuda:1")
        with pytest.raises(MixedDevices, match="cuda:0 and cuda:1"):
            here + there
        with pytest.raises(MixedDevices, match="cpu and cuda:0"):
            here + torch.ones(2)
        assert float((here + there.to("cuda:0")).sum()) == 4
        assert float((here + torch.tensor(1.0)).sum()) == 4  # numbers may come from the host
        with pytest.raises(RuntimeError, match="cuda:2"):
            torch.zeros(1, device="cuda:2")


def test_outside_it_there_is_no_device():
    with accelerator():
        x = torch.ones(2).to("cuda:0")
    with pytest.raises(RuntimeError, match="outside"):
        x + 1
    assert torch.ones(2).device.type == "cpu"
