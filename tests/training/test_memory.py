import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from vqnmt.training.process import keep_freed_memory

assert keep_freed_memory()
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step = [torch.ones(size << 20) for size in (16, 9, 12, 5)]  # 168 MiB
    del step
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an allocator of Linux")
def test_memory_that_was_freed_is_not_fetched_page_by_page_again():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ran.stdout) < 4_000  # of 43,008 pages


def test_another_system_is_left_as_it_is(monkeypatch):
    from vqnmt.training import process

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not process.keep_freed_memory()
