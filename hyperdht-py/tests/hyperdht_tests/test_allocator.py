"""The allocator setting, in a process of its own because it cannot be undone."""

import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys
from hyperdht.io import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "set" else False)
def batch(): return [bytes(65600) for _ in range(16)]
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100): batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has the setting")
def test_batches_cost_no_page_faults_once_it_is_set() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS, "set"], capture_output=True, text=True, check=True)
    was_set, faults = done.stdout.split()
    if was_set != "True":
        pytest.skip("this C library has no mallopt")
    assert int(faults) < 100  # 25,600 pages were used
