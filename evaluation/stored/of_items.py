"""Tables with rows of items, as long as they were made for the items that are read."""

from mdsrec import tables


def table_of_items(root: str, name: str) -> tables.Manifest | None:
    """Return the manifest of a table; None if it does not exist or was made for other items."""
    items = tables.read_manifest(tables.table_uri(root, "items"))
    found = tables.read_manifest(tables.table_uri(root, name))
    if items is None or found is None:
        return None
    return found if found.inputs.get("items", items.fingerprint) == items.fingerprint else None
