"""The data command."""

import re


def test_data_lists_what_is_there(said):
    lines = said("data").splitlines()
    assert any(re.match(r"digits +intact ", line) for line in lines)
    lines = said("data", "--data-dir", "nowhere").splitlines()
    assert len(lines) >= 5 and all("missing" in line for line in lines)


def test_data_fetch_wants_a_name(refused):
    assert "cifar10" in refused("data", "fetch")
    assert "cifar10" in refused("data", "fetch", "imagenet", "--data-dir", "data")
