"""The tests of this folder are skipped without a GPU, with the reason."""

from pathlib import Path

import pytest

from wtref.device import _cuda_obstacle


def pytest_collection_modifyitems(items):
    obstacle = _cuda_obstacle()
    for item in items:
        if obstacle and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=obstacle))
