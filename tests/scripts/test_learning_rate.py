import pytest

from train import learning_rate
from utils.config import TrainConfig


def test_rate_is_constant_then_falls_to_zero():
    train = TrainConfig(epochs=20, lr=1e-3, cooldown=0.25)
    rates = [learning_rate(train, epochs) for epochs in (0, 15, 17.5, 19, 20)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2e-4, 0])
    assert learning_rate(TrainConfig(epochs=20, lr=1e-3, cooldown=0), 19.9) == 1e-3
