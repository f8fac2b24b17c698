from types import SimpleNamespace

import pytest
import torch

from training.loop import learning_rate, refuse_diverged
from utils.config import load_config
from utils.errors import UserError


def test_rate_is_constant_then_falls_to_zero():
    train = load_config().train.model_copy(update={"epochs": 20, "lr": 1e-3})
    rates = [learning_rate(train, epochs) for epochs in (0, 14, 17, 18.5, 20)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4, 0])


@pytest.mark.parametrize(
    ("first", "loss", "variance", "words"),
    [
        (6.0, 6.5, 1.0, None),
        (-0.01, 50.0, 1.0, None),  # a likelihood may start anywhere near zero
        (6.0, 700.0, 1.0, "rose from 6 to 700"),
        (6.0, 1.0, torch.inf, "running_var"),  # enters no loss in training
    ],
)
def test_a_training_that_diverged_is_refused_though_its_loss_is_finite(
    first, loss, variance, words
):
    model = torch.nn.BatchNorm1d(2)
    model.running_var.fill_(variance)
    run = SimpleNamespace(config=load_config(), progress=SimpleNamespace(first_loss=first))
    if words is None:
        refuse_diverged(run, model, loss)
        return
    with pytest.raises(UserError, match=f"training diverged: .*{words}.*lower train.lr"):
        refuse_diverged(run, model, loss)
