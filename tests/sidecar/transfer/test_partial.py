"""Partial files: resumed after any end, whatever the files look like then."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.digests import Digest
from sidecar.errors import BlobMismatch, DiskFull, QuotaExceeded, TransferError
from sidecar.transfer import files
from sidecar.transfer.chunks import CHUNK_BYTES, ChunkTable
from sidecar.transfer.partial import UNHASHED_CHUNKS, DiskPolicy, PartialFile
from sidecar.transfer.verified import VerifiedBlob, WholeHash, verify_file
from tests.sidecar.transfer.memory_source import Blob, make_blob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOB = make_blob(20 * CHUNK_BYTES + 1234)


def open_partial(root: Path, blob: Blob = BLOB, policy: DiskPolicy | None = None) -> PartialFile:
    return PartialFile(root / "partial", root / "blobs", blob.digest, len(blob.data), blob.table, policy)


def batch(*indexes: int, blob: Blob = BLOB) -> list[tuple[int, bytes]]:
    return [(index, blob.chunk(index)) for index in indexes]


def held(partial: PartialFile) -> list[int]:
    return [index for index in range(partial.have.total) if partial.have.has(index)]


def home(root: Path) -> Path:
    return root / "partial" / BLOB.digest.hex


def test_whole_blob_in_any_order(tmp_path: Path) -> None:
    with open_partial(tmp_path) as partial:
        assert partial.write_batch(batch(5, 4, 3, 20)).written == [3, 4, 5, 20]
        partial.advance(100)
        assert partial.hashed == 0
        partial.write_batch(batch(*range(6, 20), 0, 1, 2))
        assert partial.advance(1000) == []
        blob = partial.finish()
    assert blob.path == tmp_path / "blobs" / BLOB.digest.file_name
    assert blob.path.read_bytes() == BLOB.data
    assert (blob.digest, blob.size) == (BLOB.digest, len(BLOB.data))
    assert not home(tmp_path).exists()


def test_t06_wrong_chunks_are_not_written(tmp_path: Path) -> None:
    with open_partial(tmp_path) as partial:
        bad = [(0, b"x" * CHUNK_BYTES), (1, BLOB.chunk(1)[:-1]), (2, BLOB.chunk(3)), (20, BLOB.chunk(20) + b"0")]
        report = partial.write_batch([*bad, *batch(7)])
        assert report.wrong == [(0, 0), (1, 1), (2, 2), (3, 20)]
        assert report.written == held(partial) == [7]


def test_t06_of_chunks_that_came_together_the_right_ones_are_written(tmp_path: Path) -> None:
    with open_partial(tmp_path) as partial:
        report = partial.write_batch(
            [(3, BLOB.chunk(3) + bytes(CHUNK_BYTES) + BLOB.chunk(5)), (0, BLOB.data[: 3 * CHUNK_BYTES])]
        )
        assert report.wrong == [(0, 4)]
        assert report.written == held(partial) == [0, 1, 2, 3, 5]


def test_resume_knows_what_was_written(tmp_path: Path) -> None:
    with open_partial(tmp_path) as partial:
        partial.write_batch(batch(0, 1, 2, 9))
    with open_partial(tmp_path) as partial:
        assert held(partial) == [0, 1, 2, 9]
        partial.write_batch(batch(*(index for index in range(21) if index not in {0, 1, 2, 9})))
        assert partial.advance(1000) == []
        assert partial.finish().path.read_bytes() == BLOB.data


@pytest.mark.parametrize(
    "damage",
    [b"", b"short", b"x" * 51, b"x" * 5000],
    ids=["empty", "short", "wrong header", "long"],
)
def test_damaged_bitmap_means_reading_again_what_is_there(tmp_path: Path, damage: bytes) -> None:
    with open_partial(tmp_path) as partial:
        partial.write_batch(batch(0, 1, 2, 9))
    (home(tmp_path) / "chunks").write_bytes(damage)
    with open_partial(tmp_path) as partial:
        assert held(partial) == [0, 1, 2, 9]


def test_bits_after_the_last_chunk_are_damage(tmp_path: Path) -> None:
    with open_partial(tmp_path) as partial:
        partial.write_batch(batch(0))
    path = home(tmp_path) / "chunks"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with open_partial(tmp_path) as partial:
        assert held(partial) == [0]


def test_data_lost_in_a_power_cut_is_noticed_and_fetched_again(tmp_path: Path) -> None:
    """The bitmap reached the disk and two chunks did not."""
    with open_partial(tmp_path) as partial:
        partial.write_batch(batch(*range(21)))
    with (home(tmp_path) / "data").open("r+b") as file:
        file.seek(3 * CHUNK_BYTES)
        file.write(bytes(CHUNK_BYTES))
        file.truncate(20 * CHUNK_BYTES)
    with open_partial(tmp_path) as partial:
        assert partial.have.complete
        assert partial.advance(1000) == [3]
        partial.write_batch(batch(3))
        assert partial.advance(1000) == [20]
        partial.write_batch(batch(20))
        assert partial.advance(1000) == []
        assert partial.finish().path.read_bytes() == BLOB.data


def test_another_size_claimed_for_the_same_digest_starts_from_what_fits(tmp_path: Path) -> None:
    longer = make_blob(30 * CHUNK_BYTES, seed=2)
    lie = Blob(longer.data, BLOB.digest, longer.table)
    with open_partial(tmp_path, lie) as partial:
        partial.write_batch(batch(0, 25, blob=lie))
    with open_partial(tmp_path) as partial:
        assert held(partial) == []
        partial.write_batch(batch(*range(21)))
        partial.advance(1000)
        assert partial.finish().path.read_bytes() == BLOB.data


def test_t06_table_that_is_not_of_the_digest_never_finishes(tmp_path: Path) -> None:
    other = make_blob(len(BLOB.data), seed=3)
    lie = Blob(other.data, BLOB.digest, other.table)
    with open_partial(tmp_path, lie) as partial:
        partial.write_batch(batch(*range(21), blob=lie))
        partial.advance(1000)
        with pytest.raises(BlobMismatch):
            partial.finish()
        partial.distrust()
        assert partial.advance(1000) == []
        with pytest.raises(BlobMismatch):
            partial.finish()
    assert not list((tmp_path / "blobs").iterdir())


def test_unfinished_file_cannot_be_finished(tmp_path: Path) -> None:
    with open_partial(tmp_path) as partial:
        partial.write_batch(batch(*range(20)))
        partial.advance(1000)
        with pytest.raises(BlobMismatch):
            partial.finish()


def test_hash_catches_up_from_the_disk_when_memory_is_short(tmp_path: Path) -> None:
    blob = make_blob((UNHASHED_CHUNKS + 40) * CHUNK_BYTES)
    with open_partial(tmp_path, blob) as partial:
        for first in range(0, blob.table.count, 8):
            partial.write_batch(batch(*range(first, first + 8), blob=blob))
        assert len(partial._unhashed) <= UNHASHED_CHUNKS + 16
        assert partial.advance(1000) == []
        assert partial.finish().path.read_bytes() == blob.data


def test_large_blob_is_dropped_from_the_cache_behind_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(files, "drop_cached", lambda fd, length: dropped.append(length))
    for name in ("KEEP_CACHED_BYTES", "WRITTEN_BY_THEN_BYTES", "WRITE_BACK_BYTES"):
        monkeypatch.setattr(f"sidecar.transfer.partial.{name}", 2 * CHUNK_BYTES)
    with open_partial(tmp_path) as partial:
        for first in range(0, 20, 2):
            partial.write_batch(batch(first, first + 1))
            assert max(dropped, default=0) <= partial.hashed * CHUNK_BYTES
            partial.advance(2 if first < 10 else 0)
        partial.write_batch(batch(20))
        partial.advance(100)
        assert partial.finish().path.read_bytes() == BLOB.data
    assert max(dropped) == 10 * CHUNK_BYTES


def test_dropping_cached_pages_keeps_the_bytes(tmp_path: Path) -> None:
    fd = files.open_private(tmp_path / "file")
    files.write_at(fd, [BLOB.data], 0)
    files.drop_cached(fd, len(BLOB.data))
    assert files.read_at(fd, len(BLOB.data), 0) == BLOB.data
    os.close(fd)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with open_partial(tmp_path), pytest.raises(TransferError, match="already being fetched"):
        open_partial(tmp_path)
    with open_partial(tmp_path):
        pass


def test_two_processes_at_once_are_refused(tmp_path: Path) -> None:
    script = (
        "import sys, fcntl, os; fd = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with open_partial(tmp_path):
        pass
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(home(tmp_path) / "chunks")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(TransferError, match="already being fetched"):
            open_partial(tmp_path)
        child.kill()
    with open_partial(tmp_path):
        pass  # a dead process holds nothing


def test_t07_symlinked_data_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    home(tmp_path).mkdir(parents=True)
    (home(tmp_path) / "data").symlink_to(victim)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        open_partial(tmp_path)
    assert victim.read_bytes() == b"precious"


def test_t20_refused_before_start_when_it_does_not_fit_beside_the_reserve(tmp_path: Path) -> None:
    total = 100 * len(BLOB.data)
    reserve = int(total * files.RESERVE_SHARE)
    for free, fits in ((len(BLOB.data) + reserve, True), (len(BLOB.data) + reserve - 1, False)):
        policy = DiskPolicy(measure=lambda folder, free=free: (total, free))  # type: ignore[misc]
        if fits:
            open_partial(tmp_path, policy=policy).close()
        else:
            with pytest.raises(DiskFull, match="reserve"):
                open_partial(tmp_path, policy=policy)
    assert (home(tmp_path) / "data").stat().st_size == 0, "nothing is allocated before"


def test_t20_reserve_is_two_gib_at_most(tmp_path: Path) -> None:
    files.check_space(tmp_path, 10, lambda folder: (1 << 50, (2 << 30) + 10))
    with pytest.raises(DiskFull):
        files.check_space(tmp_path, 11, lambda folder: (1 << 50, (2 << 30) + 10))


def test_t20_quota_is_asked_for_what_is_missing(tmp_path: Path) -> None:
    asked: list[int] = []

    def refuse(needed: int) -> None:
        asked.append(needed)
        raise QuotaExceeded("over")

    with pytest.raises(QuotaExceeded):
        open_partial(tmp_path, policy=DiskPolicy(admit=refuse))
    with open_partial(tmp_path) as partial:
        partial.write_batch(batch(0, 1))
    with pytest.raises(QuotaExceeded):
        open_partial(tmp_path, policy=DiskPolicy(admit=refuse))
    assert asked == [len(BLOB.data), 19 * CHUNK_BYTES]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 1 MiB; where none can be mounted, a file size limit of that much."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        sys.platform == "linux"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if mounted:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_t20_disk_full_in_the_middle_keeps_what_was_written(small_disk: Path) -> None:
    plenty = DiskPolicy(measure=lambda folder: (1 << 40, 1 << 40))  # others filled the disk after we asked

    def write_all(partial: PartialFile) -> None:
        for first in range(0, 20, 2):
            partial.write_batch(batch(first, first + 1))

    with open_partial(small_disk, policy=plenty) as partial:
        with pytest.raises(DiskFull, match="disk is full"):
            write_all(partial)
        before = held(partial)
    assert before
    with open_partial(small_disk, policy=plenty) as partial:
        assert held(partial) == before
        assert partial.advance(100) == [], "what was noted is really there"
        assert partial.hashed == len(before)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files._write_some
    monkeypatch.setattr(files, "_write_some", lambda fd, buffers, offset: real(fd, [bytes(buffers[0])[:1000]], offset))
    with open_partial(tmp_path) as partial:
        partial.write_batch(batch(0, 1, 2))
        monkeypatch.undo()
        assert partial.advance(10) == []
        assert (home(tmp_path) / "data").read_bytes() == BLOB.data[: 3 * CHUNK_BYTES]


def test_only_verification_makes_a_verified_blob(tmp_path: Path) -> None:
    path = BLOB.write(tmp_path / "file")
    with pytest.raises(TypeError, match="made by verifying"):
        VerifiedBlob(path, BLOB.digest, len(BLOB.data), proof=None)
    with pytest.raises(BlobMismatch):
        WholeHash().seal(path, BLOB.digest, len(BLOB.data))
    assert verify_file(path, BLOB.digest, len(BLOB.data)).path == path
    with pytest.raises(BlobMismatch):
        verify_file(path, BLOB.digest, len(BLOB.data) + 1)
    with pytest.raises(BlobMismatch):
        verify_file(path, Digest.of(b"other"), len(BLOB.data))


def test_empty_table_is_one_of_an_empty_blob(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "partial", tmp_path / "blobs", Digest.of(b""), 0, ChunkTable(b"")) as partial:
        assert partial.finish().path.read_bytes() == b""
