import pytest

from train import learning_rate
from utils.config import load_config


def test_rate_is_constant_then_falls_to_zero():
    train = load_config().train.model_copy(update={"epochs": 20, "lr": 1e-3, "cooldown": 0.25})
    rates = [learning_rate(train, epochs) for epochs in (0, 15, 17.5, 19, 20)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2e-4, 0])
    assert learning_rate(train.model_copy(update={"cooldown": 0}), 19.9) == 1e-3
