"""The roles of a table's columns: as configured, or recognized by a usual name."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from mdsrec.config import ColumnsConfig
from mdsrec.errors import InputError

NAMES = {  # usual names by role, in lower case, without accents, _ - and spaces
    "user": (
        *("user", "userid", "uid", "customer", "customerid", "reviewer", "reviewerid", "member"),
        *("memberid", "visitor", "visitorid", "account", "accountid", "session", "sessionid"),
        *("kunde", "kundeid", "kundenid", "kundennr", "kundennummer", "nutzer", "nutzerid"),
        *("client", "clientid", "idclient", "utilisateur", "cliente", "idcliente", "usuario"),
    ),
    "item": (
        *("item", "itemid", "iid", "product", "productid", "sku", "asin", "parentasin", "movieid"),
        *("bookid", "isbn", "article", "articleid", "songid", "trackid", "businessid", "gameid"),
        *("artikel", "artikelid", "artikelnr", "artikelnummer", "produkt", "produktid"),
        *("produktnr", "produit", "idproduit", "articulo", "producto", "idproducto"),
    ),
    "time": (
        *("time", "timestamp", "ts", "datetime", "date", "unixtime", "unixreviewtime", "eventtime"),
        *("createdat", "orderdate", "purchasedate", "orderedat", "purchasedat", "tdat"),
        *("datum", "zeit", "zeitpunkt", "zeitstempel", "bestelldatum", "kaufdatum"),
        *("dateachat", "datecommande", "fecha", "fechacompra", "fechapedido"),
    ),
    "title": (
        *("title", "name", "itemname", "productname", "producttitle", "prodname", "itemtitle"),
        *("titel", "bezeichnung", "artikelname", "produktname", "titre", "nom", "titulo", "nombre"),
    ),
    "text": (
        *("text", "description", "desc", "detaildesc", "summary", "abstract", "overview", "genres"),
        *("category", "categories", "brand", "features"),
        *("beschreibung", "kategorie", "kategorien", "marke", "categorie", "marque"),
        *("descripcion", "categoria", "marca"),
    ),
    "image": (
        *("image", "imageurl", "imagepath", "img", "imgurl", "imgpath", "picture", "photo"),
        *("pictureurl", "photourl", "poster", "posterurl", "thumbnail", "imageaddress"),
        *("bild", "bildurl", "foto", "fotourl", "imagen"),
    ),
}
MOST_LISTED = 20
ITEM_KEY = "id"  # also usual for the id in a table of items


@dataclass(frozen=True)
class EventColumns:
    """The columns of a table of interactions."""

    user: str
    item: str
    time: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, self.item, self.time)

    def __str__(self) -> str:
        return f"user = {self.user!r}, item = {self.item!r}, time = {self.time!r}"


@dataclass(frozen=True)
class ItemColumns:
    """The columns of a table of items; None where it has none."""

    item: str
    title: str | None
    text: tuple[str, ...]
    image: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns to read, each once."""
        found = (self.item, self.title, *self.text, self.image)
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def __str__(self) -> str:
        found = {"item": self.item, "title": self.title, "text": list(self.text)}
        found |= {"image": self.image}
        return ", ".join(
            f"{role} = {name!r}" if name else f"no {role}" for role, name in found.items()
        )


def recognized(role: str, names: Sequence[str]) -> list[str]:
    """Return the columns that have a usual name of this role."""
    return [name for name in names if _plain(name) in NAMES[role]]


def _plain(name: str) -> str:
    """Return a name in the spelling of NAMES; decomposed, an accent is a sign of its own."""
    return re.sub(r"[\s_.-]|[\u0300-\u036f]", "", unicodedata.normalize("NFD", name.lower()))


def event_columns(config: ColumnsConfig, uri: str, names: Sequence[str]) -> EventColumns:
    """Return the columns of interactions, of a file with the columns `names`."""
    mapped = {role: getattr(config, role) for role in ("user", "item", "time")}
    rest = [name for name in names if name not in mapped.values()]
    found = {role: name or _recognize(role, uri, rest) for role, name in mapped.items()}
    for role, name in found.items():
        check_present(f"input.columns.{role}", name, uri, names)
    return EventColumns(**found)


def item_columns(config: ColumnsConfig, uri: str, names: Sequence[str]) -> ItemColumns:
    """Return the columns of items, of a file with the columns `names`."""
    title = config.title or _single(recognized("title", names))
    image = config.image or _single(recognized("image", names))
    text = config.text
    if text is None:
        text = tuple(dict.fromkeys([*([title] if title else []), *recognized("text", names)]))
    found = ItemColumns(_item_key(config, uri, names), title, text, image)
    roles = [("title", title), ("image", image), *(("text", name) for name in text)]
    for role, name in roles:
        if name is not None:
            check_present(f"input.columns.{role}", name, uri, names)
    return found


def _item_key(config: ColumnsConfig, uri: str, names: Sequence[str]) -> str:
    """Return the column of the item id in a table of items."""
    if config.item_key is not None:
        check_present("input.columns.item_key", config.item_key, uri, names)
        return config.item_key
    if config.item in names:
        return str(config.item)
    if found := _single(recognized("item", names) or [n for n in names if n.lower() == ITEM_KEY]):
        return found
    raise InputError(
        f"{uri}: no column {config.item or 'of item ids'}: name the items' column in "
        f"input.columns.item_key; there are {listed(names)}"
    )


def _single(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _recognize(role: str, uri: str, names: Sequence[str]) -> str:
    found = recognized(role, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{uri}: each of the columns {listed(found)} may be the {role}: name one in "
            f"input.columns.{role}"
        )
    raise InputError(
        f"{uri}: no column of the {role} is recognized: name it in input.columns.{role}; there are "
        f"{listed(names)}"
    )


def check_present(key: str, name: str, uri: str, names: Sequence[str]) -> None:
    """Raise InputError if the column that a key of the configuration names does not exist."""
    if name in names:
        return
    lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    nearest = f"the nearest is {lower[near[0]]!r}, " if near else ""
    raise InputError(f"{uri}: no column {name!r} ({key}); {nearest}there are {listed(names)}")


def listed(names: Sequence[str]) -> str:
    """Return the names of columns for a message, the first MOST_LISTED of them."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(map(repr, names[:MOST_LISTED])) + more
