"""Code and tables that the documentation quotes are those of the project."""

import runpy
from pathlib import Path

from benchmarks.sizes.__main__ import parser, tables_of
from benchmarks.sizes.replicated import Setting, bytes_an_item, full_catalogue, table

ROOT = Path(__file__).parent.parent


def test_the_table_of_sizes_is_what_the_formula_gives():
    assert table() in (ROOT / "docs" / "cluster.md").read_text()
    assert full_catalogue() in (ROOT / "docs" / "scale.md").read_text()
    # The example in docs/cluster.md: ZeRO 0, D 300, one modality, H 10 -> 24 D and about 260.
    assert bytes_an_item(300, 1, 10, Setting(1, 0)) == 24 * 300 + 12 * 11 * 2
    # ZeRO 3 on 4 workers: gathered weights, their share, that of Adam's state, and vectors.
    no_modality, one_modality = (bytes_an_item(64, m, 0, Setting(4, 3)) for m in (0, 1))
    assert no_modality == 4 * 64 * (1 + 1 / 4 + 2 / 4 + 2)
    assert one_modality - no_modality == 4 * 64 + 12 * 2
    # Gradients count where they are larger than the vectors; offloaded state does not count.
    assert bytes_an_item(64, 1, 0, Setting(4, 1, "optimizer")) == 4 * 64 * (1 + 3) + 24


def test_the_tables_of_a_catalogue_of_ranks_are_what_the_formulas_give():
    options = ["--items", "48.2e6", "--dim", "128", "--workers", "64"]
    memory, _, _, seconds = tables_of(parser().parse_args(options))
    page = (ROOT / "docs" / "scale.md").read_text()
    assert memory in page
    assert seconds in page


def test_the_configuration_reference_is_up_to_date():
    script = runpy.run_path(str(ROOT / "docs" / "configuration.py"))
    assert (ROOT / "docs" / "configuration.md").read_text() == script["page"](), "run `make docs`"
