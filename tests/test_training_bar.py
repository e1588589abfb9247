"""An epoch's bar says its steps, and the next epoch starts another."""

import pytest

from training.bar import Bar
from training.data.sequences import EpochPosition


def test_a_bar_an_epoch_is_drawn_to_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    for epoch in (3, 4):
        for number, share in [(1, 0.25), (2, 0.5), (3, 0.7), (4, 1.0)]:
            bar.show(epoch, EpochPosition(0, number, number, share))
    drawn = capfd.readouterr().err
    assert "epoch 3: 100%" in drawn and "epoch 4: 100%" in drawn
