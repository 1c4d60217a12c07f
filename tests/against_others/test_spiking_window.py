"""The neurons of our `spiking_window` and spikingjelly 2.0.0's: spikes, and gradients by the sigmoid in their place."""

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


@pytest.mark.parametrize("tau", [2.0, 1.5])
def test_the_neurons_fire_as_spikingjelly_s_do(tau: float) -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
    slot = Slot(Pattern.NS, heads=1, dim=6, max_len=40, raster=(5, 2, 4))
    mechanism = registry.load("mechanism", "spiking_window")(slot, tau=tau)
    mechanism._current = lambda tokens, which: tokens
    current = (3 * torch.randn(2, 40, 6, dtype=torch.float64)).requires_grad_()
    spikes = mechanism._features(current, 0, None)[:, 0] - 1
    theirs = neuron.LIFNode(tau=tau, surrogate_function=surrogate.Sigmoid(), step_mode="m")
    expected = theirs(current.unflatten(1, (5, 8)).transpose(0, 1)).transpose(0, 1).flatten(1, 2)
    assert 0.1 < expected.mean() < 0.9 and torch.equal(spikes, expected)
    weight = torch.randn_like(spikes)
    gradients = [torch.autograd.grad((t * weight).sum(), current)[0] for t in (spikes, expected)]
    torch.testing.assert_close(*gradients)
