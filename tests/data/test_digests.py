"""Digests are those of the bytes, computed once, and never those of a file that has changed."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from contextbench.data import digests
from contextbench.data.base import DataError
from contextbench.data.digests import (
    CACHE_VARIABLE,
    SETTLED_NS,
    DigestCache,
    cache_folder,
    file_digests,
    verify_digests,
)

LONG_AGO = 10**18  # nanoseconds since 1970


class Disk:
    """Files whose inodes changed long ago, as far as anybody asks, and how many are read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.read, self.times = root, [], {}
        self._sha256 = digests._sha256
        monkeypatch.setattr(digests, "_sha256", self._counted)
        monkeypatch.setattr(digests, "_stamp", self._stamp)
        monkeypatch.setenv(CACHE_VARIABLE, str(root.parent / "cache"))

    def _counted(self, path: Path) -> str:
        self.read.append(path.name)
        return self._sha256(path)

    def write(self, name: str, text: str, *, changed: int = LONG_AGO) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.times[path] = changed
        return path

    def _stamp(self, path: Path) -> digests.Stamp:
        """No test can set the time at which an inode changed."""
        status = path.stat()
        return status.st_size, LONG_AGO, self.times[path], 1


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path / "data", monkeypatch)


def test_digests_are_those_of_the_bytes(disk: Disk) -> None:
    paths = [disk.write(name, name * 3) for name in ("a", "b/c", "b/d")]
    found = file_digests(disk.root, [*paths, paths[0]])
    assert found == {path: hashlib.sha256(path.read_bytes()).digest() for path in paths}
    assert sorted(disk.read) == ["a", "c", "d"]


def test_a_file_is_read_once_and_again_when_it_has_changed(disk: Disk) -> None:
    one, other = disk.write("one", "1"), disk.write("other", "2")
    before = file_digests(disk.root, [one, other])
    assert file_digests(disk.root, [one, other]) == before
    assert sorted(disk.read) == ["one", "other"]
    disk.write("one", "3", changed=LONG_AGO + 1)  # of the same size, with its old date
    assert file_digests(disk.root, [one, other])[one] == hashlib.sha256(b"3").digest()
    assert sorted(disk.read) == ["one", "one", "other"]


def test_what_changed_just_now_is_not_remembered(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change within the same tick of the clock would leave the same stamp."""
    now = LONG_AGO + 5 * SETTLED_NS
    monkeypatch.setattr(digests.time, "time_ns", lambda: now)
    settled = disk.write("settled", "1", changed=now - SETTLED_NS - 1)
    fresh = disk.write("fresh", "1", changed=now - SETTLED_NS)
    for _ in range(2):
        file_digests(disk.root, [settled, fresh])
    assert sorted(disk.read) == ["fresh", "fresh", "settled"]
    disk.write("fresh", "2", changed=now - SETTLED_NS)
    assert file_digests(disk.root, [fresh])[fresh] == hashlib.sha256(b"2").digest()


def test_real_files_that_were_just_written_are_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing replaced here: a rewrite that keeps size and date is seen."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "data/a"
    path.parent.mkdir()
    path.write_text("1")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    before = file_digests(path.parent, [path])
    path.write_text("2")
    os.utime(path, ns=times)
    assert file_digests(path.parent, [path]) != before


def test_verifying_reads_everything_and_names_what_is_not_as_remembered(disk: Disk) -> None:
    paths = [disk.write(name, name) for name in "abc"]
    file_digests(disk.root, paths)
    paths[1].write_text("x")  # behind the back of the stamp
    assert file_digests(disk.root, paths)[paths[1]] == hashlib.sha256(b"b").digest()
    assert verify_digests(disk.root, paths) == [paths[1]]
    assert len(disk.read) == 6
    assert file_digests(disk.root, paths)[paths[1]] == hashlib.sha256(b"x").digest()
    assert verify_digests(disk.root, paths) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\xff", b"[]", b"{}", b'{"form": 1, "root": 3}', b"[" * 10**5],
)
def test_a_damaged_cache_is_none(disk: Disk, content: bytes) -> None:
    path = disk.write("a", "1")
    before = file_digests(disk.root, [path])
    cache = DigestCache(disk.root).path
    assert cache is not None
    cache.write_bytes(content)
    assert file_digests(disk.root, [path]) == before


@pytest.mark.parametrize("entry", [[1, 2, 3, 4, "ab"], [1, 2, 3], 5, [1, 2, 3, 4, 5], None])
def test_a_damaged_entry_is_none(disk: Disk, entry: object) -> None:
    path = disk.write("a", "1")
    before = file_digests(disk.root, [path])
    cache = DigestCache(disk.root).path
    assert cache is not None
    content = json.loads(cache.read_text())
    cache.write_text(json.dumps({**content, "files": {"a": entry}}))
    assert file_digests(disk.root, [path]) == before


def test_without_a_cache_or_with_one_that_cannot_be_written_files_are_read(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = disk.write("a", "1")
    expected = {path: hashlib.sha256(b"1").digest()}
    blocked = disk.root / "a/cache"  # below a file
    for folder in ("", str(blocked)):
        monkeypatch.setenv(CACHE_VARIABLE, folder)
        for _ in range(2):
            assert file_digests(disk.root, [path]) == expected
    assert len(disk.read) == 4


def test_two_processes_add_to_what_the_other_remembers(disk: Disk) -> None:
    one, other = disk.write("one", "1"), disk.write("other", "2")
    mine = DigestCache(disk.root)
    file_digests(disk.root, [other])  # another process, after this one has read the cache
    mine.add({one: digests.Remembered(digests._stamp(one), hashlib.sha256(b"1").hexdigest())})
    file_digests(disk.root, [one, other])
    assert disk.read == ["other"]


def test_an_interruption_keeps_what_was_read(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [disk.write(name, name) for name in "abc"]
    counted = digests._sha256

    def stopped(path: Path) -> str:
        if path.name == "c":
            raise KeyboardInterrupt
        return counted(path)

    monkeypatch.setattr(digests, "_sha256", stopped)
    with pytest.raises(KeyboardInterrupt):
        file_digests(disk.root, paths)
    monkeypatch.setattr(digests, "_sha256", counted)
    file_digests(disk.root, paths)
    assert sorted(disk.read) == ["a", "b", "c"]


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(CACHE_VARIABLE, "~/own")
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_folder() is None
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_folder() == tmp_path / "xdg/contextbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache/contextbench"


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        file_digests(tmp_path, [tmp_path / "gone.png"])
