"""Made-up raw data: every source reads what `made_up` writes, whole and reproducibly."""

import pytest

from usermirrorer.builders.raw.made_up import PUBLISHED, Size, write
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source

SMALL = Size(users=30, items=60, interactions=300)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_made_source_is_read_without_losing_a_row(name, tmp_path):
    report = Report(strict=True)
    tables = get_source(name).read(write(name, tmp_path, SMALL), report)
    assert tables.users.height == SMALL.users
    assert tables.items.height == SMALL.items
    if name == "mind":
        assert tables.impressions.height == SMALL.interactions
    else:
        assert tables.interactions.height == SMALL.interactions


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_seed_alone_decides_what_is_made(name, tmp_path):
    read = get_source(name).read
    one, same, other = (
        read(write(name, tmp_path / str(n), SMALL, seed), Report()).interactions
        for n, seed in enumerate((1, 1, 2))
    )
    assert one.equals(same)
    assert not one.equals(other)
