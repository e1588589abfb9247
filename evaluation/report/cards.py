"""Users of a case study as strips of cards: picture and title of each item, the target marked."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from evaluation.cases import Case, Item


class Strip(NamedTuple):
    """A labelled row of items."""

    label: str
    note: str
    items: Sequence[int]


class Cards:
    """Cards of items. `pictures` are data: URIs by item id; other items show a letter."""

    def __init__(self, items: Mapping[int, Item], pictures: Mapping[str, str]) -> None:
        self._items, self._pictures = items, pictures

    def case_panel(self, heading: str, case: Case, strips: Sequence[Strip]) -> str:
        """Return a panel with the user's history and target, then `strips`."""
        shown, events = len(case.history), case.num_events
        extent = f"all {events}" if shown == events else f"the last {shown} of {events}"
        note = f"{extent} events, then the target"
        history = Strip("history", note, [*case.history, case.target])
        first = self._strip(history, case.target, "wide")
        others = "".join(self._strip(strip, case.target) for strip in strips)
        return (
            f'<div class="panel case"><h3>{escape(heading)}</h3>'
            f'<div class="strips">{first}{others}</div></div>'
        )

    def _strip(self, strip: Strip, target: int, width: str = "") -> str:
        cards = "".join(self._card(item, item == target) for item in strip.items)
        return (
            f'<div class="strip {width}"><div class="label">{escape(strip.label)}'
            f'<span>{escape(strip.note)}</span></div><ol class="cards">{cards}</ol></div>'
        )

    def _card(self, item: int, is_target: bool) -> str:
        title = self._items[item].title or self._items[item].item_id
        badge = '<span class="badge">target</span>' if is_target else ""
        return (
            f'<li class="card{" target" if is_target else ""}" title="{escape(title)}">'
            f"{self._picture(self._items[item].item_id, title)}{badge}<p>{escape(title)}</p></li>"
        )

    def _picture(self, item_id: str, title: str) -> str:
        if item_id in self._pictures:
            return f'<img src="{escape(self._pictures[item_id])}" alt="">'
        letter = next((c.upper() for c in title if c.isalnum()), "·")
        return (
            '<svg class="letter" viewBox="0 0 96 96" aria-hidden="true">'
            f'<text x="48" y="62" text-anchor="middle">{escape(letter)}</text></svg>'
        )


def format_rank(rank: float) -> str:
    """Return the rank as text. Ties give half ranks such as 2.5."""
    return f"{rank:,.1f}".removesuffix(".0")
