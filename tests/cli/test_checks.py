"""The data command."""

import re


def test_data_lists_what_is_there(said):
    assert re.search(r"^digits +intact ", said("data"), re.MULTILINE)
    lines = said("data", "--data-dir", "nowhere").splitlines()
    sets = [line for line in lines if not line.startswith(" ")]
    assert len(sets) >= 5 and all("missing" in line for line in sets) and max(map(len, lines)) <= 80


def test_data_fetch_wants_a_name(refused):
    assert "cifar10" in refused("data", "fetch")
    assert "cifar10" in refused("data", "fetch", "imagenet", "--data-dir", "data")
