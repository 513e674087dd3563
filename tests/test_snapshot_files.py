"""Snapshots in a file: room is claimed first, kernels and plain Python read and write alike."""

import errno
import os

import numpy as np
import pytest

import tapejit as tj
from tapejit.checkpointing import files as snapshot_files
from tapejit.checkpointing.files import SnapshotFile
from tapejit.interpreters import files
from tapejit.interpreters.cache import compile_entry


def there_and_back(write, read, tmp_path):
    file = SnapshotFile(3, 80, str(tmp_path))
    values, back = np.arange(10.0), np.zeros(10)
    for slot in range(3):
        shifted = values + slot
        assert write(file.descriptor, shifted.ctypes.data, 80, 80 * slot)
    for slot in (1, 2, 0):
        assert read(file.descriptor, back.ctypes.data, 80, 80 * slot)
        np.testing.assert_array_equal(back, np.arange(10.0) + slot)
    assert not read(file.descriptor, back.ctypes.data, 80, 240), "past the end"
    file.close()
    assert not write(file.descriptor, values.ctypes.data, 80, 0), "a closed file"


def test_files_in_plain_python(tmp_path):
    there_and_back(files.write_at, files.read_at, tmp_path)


def test_files_compiled(tmp_path):
    signature = "boolean(int64,int64,int64,int64)"
    write = compile_entry(signature, files.write_at)
    read = compile_entry(signature, files.read_at)
    there_and_back(write, read, tmp_path)


def test_the_file_has_no_name_and_goes_with_its_owner(tmp_path):
    file = SnapshotFile(2, 4096, str(tmp_path))
    assert os.listdir(tmp_path) == []
    assert os.fstat(file.descriptor).st_size == 8192
    descriptor = file.descriptor
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_full_disk_is_an_error_before_anything_runs(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(snapshot_files.os, "posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(tj.ScheduleError, match=r"5 snapshots of 1 MB .* No space left on device"):
        SnapshotFile(5, 10**6, str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before and os.listdir(tmp_path) == []


def test_a_directory_that_is_not_there():
    with pytest.raises(tj.ScheduleError, match="No such file or directory"):
        SnapshotFile(1, 8, "/nowhere/at/all")
