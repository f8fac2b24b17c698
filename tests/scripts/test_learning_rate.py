import pytest

from training.loop import learning_rate
from utils.config import load_config


def test_rate_is_constant_then_falls_to_zero():
    train = load_config().train.model_copy(update={"epochs": 20, "lr": 1e-3})
    rates = [learning_rate(train, epochs) for epochs in (0, 14, 17, 18.5, 20)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4, 0])
