"""The progress bar counts the steps of an epoch; the next epoch starts another bar."""

import pytest

from training.data.sequences import EpochPosition
from training.reporting import EpochBar


def test_each_epoch_has_a_bar_that_reaches_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    bar = EpochBar()
    for epoch in (3, 4):
        for number, share in [(1, 0.25), (2, 0.5), (3, 0.7), (4, 1.0)]:
            bar.report_step(epoch, EpochPosition(0, number, number, share))
    drawn = capfd.readouterr().err
    assert "epoch 3: 100%" in drawn and "epoch 4: 100%" in drawn
