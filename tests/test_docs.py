"""What the documentation shows of the code is the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_worked_example_of_a_model_is_the_model():
    shown = (ROOT / "docs" / "adding-a-model.md").read_text()
    section, model = re.findall(r"```python\n(.*?)```", shown, flags=re.DOTALL)
    assert section in (ROOT / "mdsrec" / "model_config.py").read_text()
    assert model in (ROOT / "training" / "models" / "gru4rec.py").read_text()
