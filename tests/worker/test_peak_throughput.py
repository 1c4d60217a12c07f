"""The best rates of products and copies that a machine reaches."""

import torch

from cab.worker.peak_throughput import copy_rate, matmul_rate


def test_rates_are_of_the_fastest_call() -> None:
    assert 1e7 < matmul_rate(torch.float32, "cpu", sizes=(64, 128), seconds=0.01) < 1e13
    assert 1e6 < copy_rate("cpu", size=1 << 20, seconds=0.01) < 1e13
