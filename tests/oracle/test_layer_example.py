"""The example in wtref/oracle/README.md, of the feedback layer in a PyTorch network."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

README = Path(__file__).parents[2] / "wtref/oracle/README.md"
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_the_feedback_layer_trains_in_a_pytorch_network(capsys, learns):
    """B becomes W^T where it learns, and stays what it was where it does not."""
    code = EXAMPLE if learns else EXAMPLE.replace(".requires_grad_()  #", "  #").replace(", net[2].B]", "]")
    assert (code == EXAMPLE) is learns
    exec(code, {})
    loss, cosine = map(float, re.fullmatch(r"loss (.+), cosine of W and B (.+)\n", capsys.readouterr().out).groups())
    assert loss < 1.9  # of 2.3 at the beginning
    assert (cosine > 0.999) is learns
