"""How far an epoch is, as a bar on the driver's terminal; Ray carries it there."""

from ray.experimental import tqdm_ray

from training.data.sequences import EpochPosition


class Bar:
    """One bar an epoch."""

    def __init__(self) -> None:
        self._epoch = -1

    def show(self, epoch: int, place: EpochPosition) -> None:
        """The epoch's steps up to `place` are taken."""
        total = round(place.number / place.share)
        if epoch != self._epoch:
            self._epoch = epoch
            self._bar = tqdm_ray.tqdm(desc=f"epoch {epoch}", total=total, unit="step")
        self._bar.total, self._bar.n = total, place.number
        if place.share < 1:
            self._bar.refresh()
        else:
            self._bar.close()
