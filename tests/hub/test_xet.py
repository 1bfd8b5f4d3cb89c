"""Promises of clients with Xet: they need no setting, what they send is stored whole or refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usermirrorer.hub.server import objects, xet
from usermirrorer.hub.server.objects import WrongContent

UPLOAD = """
import hashlib, random
import numpy as np
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
api.create_repo("usermirrorer/m")
random.seed(1)
noise = random.randbytes(700_000)
contents = {
    "noise.bin": noise,
    "text.bin": b"".join(b"%d little\\n" % n for n in range(200_000)),
    "floats.safetensors": np.linspace(0, 1, 300_000, dtype="float32").tobytes(),
    "again.bin": noise[:500_000] + b"other" + noise,
    "byte.bin": b"\\0",
}
for name, data in contents.items():
    api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id="usermirrorer/m")
for name, data in contents.items():
    with open(hf_hub_download("usermirrorer/m", name), "rb") as file:
        assert file.read() == data, name
info = api.get_paths_info("usermirrorer/m", "again.bin", expand=True)[0]
assert info.lfs.sha256 == hashlib.sha256(contents["again.bin"]).hexdigest()
assert info.xet_hash is None
listed = api.list_repo_tree("usermirrorer/m")
assert all(file.xet_hash is None for file in listed)  # else clients download by Xet
"""


DELETED = """
import random
from huggingface_hub import HfApi, hf_hub_download
api, data = HfApi(), random.randbytes(700_000)
for name in ("usermirrorer/m", "usermirrorer/n"):
    api.create_repo(name)
    api.upload_file(path_or_fileobj=data, path_in_repo="noise.bin", repo_id=name)
    with open(hf_hub_download(name, "noise.bin"), "rb") as file:
        assert file.read() == data, name
    api.delete_repo(name)
"""


def test_clients_with_xet_need_no_setting(run):
    run(UPLOAD)


def test_what_went_to_a_deleted_repository_is_sent_again(run):
    run(DELETED)


def chunk(data: bytes, scheme: int = 0, claimed: int | None = None) -> bytes:
    size = len(data) if claimed is None else claimed
    packed = lz4.frame.compress(data) if scheme else data
    return (
        b"\0"
        + len(packed).to_bytes(3, "little")
        + bytes([scheme])
        + size.to_bytes(3, "little")
        + packed
    )


@pytest.fixture
def place(tmp_path):
    for name in ("incoming", "lfs", "spool"):
        (tmp_path / name).mkdir()
    return tmp_path


def segments(*parts: tuple[int, int, int]) -> list[xet.Segment]:
    return [xet.Segment("x" * 64, size, start, end) for size, start, end in parts]


def test_files_are_put_together_from_ranges(place):
    (place / "spool" / ("x" * 64)).write_bytes(chunk(b"one") + chunk(b"two!", 1) + chunk(b"3"))
    oid = hashlib.sha256(b"two!3one").hexdigest()
    xet.assemble(place, place / "spool", oid, segments((5, 1, 3), (3, 0, 1)))
    assert objects.path_of(place, oid).read_bytes() == b"two!3one"


@pytest.mark.parametrize(
    ("xorb", "error"),
    [
        (chunk(b"onf"), WrongContent),
        (chunk(b"four"), WrongContent),
        (chunk(b"on"), WrongContent),
        (chunk(b"one", 1, claimed=2), ValueError),
        (chunk(b"one", 1, claimed=9), ValueError),
        (chunk(bytes(10_000_000), 1, claimed=3), ValueError),  # a bomb is not unpacked
        (chunk(b"one", 3), ValueError),
        (b"\0\3\0\0\1\3\0\0bad", ValueError),
        (b"\1" + chunk(b"one")[1:], ValueError),
        (chunk(b"one")[:5], ValueError),
        (b"", ValueError),
    ],
)
def test_broken_xorbs_store_nothing(place, xorb, error):
    (place / "spool" / ("x" * 64)).write_bytes(xorb)
    oid = hashlib.sha256(b"one").hexdigest()
    with pytest.raises(error):
        xet.assemble(place, place / "spool", oid, segments((3, 0, 1)))
    assert objects.size_of(place, oid) is None
    assert not list((place / "incoming").iterdir())


@given(st.binary(max_size=400))
def test_garbage_shards_are_refused_cleanly(data):
    with contextlib.suppress(ValueError, struct.error):
        list(xet.parse_shard(data))


@given(st.binary(max_size=100))
def test_grouped_bytes_come_back_in_order(data):
    assert xet._ungroup(b"".join(data[first::4] for first in range(4))) == data


def shard_of(*parts: tuple[int, int, int], count: int | None = None) -> bytes:
    head = b"f" * 32 + struct.pack("<IIQ", 1 << 30, len(parts) if count is None else count, 0)
    rows = b"".join(b"x" * 32 + struct.pack("<IIII", 0, *part) for part in parts)
    return bytes(48) + head + rows + b"s" * 48 + b"\xff" * 32


@pytest.mark.parametrize(
    "shard",
    [
        shard_of(*[(0, 0, 0)] * 9000),
        shard_of((3, 0, 1), count=1 << 31),
        shard_of((3, 5, 4)),
        shard_of((1 << 31, 0, 1)),
        shard_of((3, 0, (1 << 32) - 1)),
        shard_of(*[(3, 9000, 9001)] * 9000),
    ],
)
def test_hostile_shards_are_refused_at_once(shard):
    with pytest.raises((ValueError, struct.error)):
        list(xet.parse_shard(shard))


def test_a_truncated_or_changed_xorb_is_not_whole(tmp_path):
    whole = chunk(b"one") + chunk(b"two!", 1)
    path = tmp_path / "x"
    path.write_bytes(whole)
    with path.open("rb") as file:
        name = xet.xorb_hash(file)
    assert xet.is_whole(path, name)
    for broken in (whole[:-1], chunk(b"one"), chunk(b"onf") + chunk(b"two!", 1), b""):
        path.write_bytes(broken)
        assert not xet.is_whole(path, name)


def test_a_xorb_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Its bytes first, then its name, then the folder that holds the name."""
    path = tmp_path / "incoming"
    path.write_bytes(chunk(b"one"))
    with path.open("rb") as file:
        target = tmp_path / xet.xorb_hash(file)
    done: list[str] = []

    def sync(handle: int) -> None:
        named = "with" if target.exists() else "without"
        done.append(f"{Path(f'/proc/self/fd/{handle}').readlink().name} {named} its name")

    monkeypatch.setattr(os, "fsync", sync)
    with path.open("rb+") as file:
        xet._keep_xorb(file, target)
    assert done == ["incoming without its name", f"{tmp_path.name} with its name"]
