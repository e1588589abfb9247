"""The section [transitions]: how the memory of transitions is counted, spread and scored."""

from typing import Annotated

from pydantic import Field

from mdsrec.config.section import Count, NonNegativeFloat, Positive, PositiveFloat, Section

PositiveShare = Annotated[float, Field(strict=True, gt=0, le=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class TransitionsConfig(Section):
    """Transitions: how often an item follows another in training. They are counted, not learned."""

    decay: PositiveShare = 0.7
    """Weight of two events at distance d: decay^(d-1)."""
    max_distance: Positive = 20
    """Leave out pairs of events that are further apart."""
    reverse: Share = 0.5
    """Share of its weight that a pair also counts in the reverse direction, from the later item to
    the earlier one.
    """
    mu: NonNegativeFloat = 1.0
    """mu^m of the graphs whose neighbors the counts are spread over, for every modality."""
    num_neighbors: Count = 10
    """Neighbors per item and modality that the counts are spread over, weighted by similarity; 0
    leaves the counts as they are.
    """
    spread: NonNegativeFloat = 0.3
    """Weight of the counts of an item's neighbors beside its own."""
    similarity: NonNegativeFloat = 10.0
    """Weight of the neighbors themselves, as if an item led to them that often."""
    max_entries: Positive = 1000
    """Heaviest entries kept per item, of the counts and of the result."""
    recency: PositiveShare = 0.6
    """Weight of the k-th last event of a history: recency^(k-1)."""
    max_events: Positive = 15
    """Last events of a history that score items."""
    tau: PositiveFloat = 60000.0
    """An event adds log(1 + M X / tau) to the score of an item: M its entry, X items in all."""
