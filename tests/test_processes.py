"""The end of a job on several processes: nothing of the group may live on into the interpreter's end."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LAUNCHED = """
    import os

    import torch

    from llm_unlearn import processes


    def threads() -> int:
        names = [open(f"/proc/self/task/{each}/comm").read() for each in os.listdir("/proc/self/task")]
        return sum("gloo" in name for name in names)


    torch.distributed.init_process_group("gloo")
    holder = [torch.distributed.group.WORLD]
    holder.append(holder)  # a cycle, as a trainer leaves behind
    assert len(processes.gathered({0: "mine"})) == 2 and threads(), "no thread to end: this test sees nothing"
    del holder
    processes.leave()
    assert not threads(), "threads of the group are left"
"""


@pytest.mark.dist
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted where Linux lists them")
def test_leaving_the_group_ends_its_threads_though_something_awaits_collection(tmp_path: Path) -> None:
    (tmp_path / "launched.py").write_text(textwrap.dedent(LAUNCHED))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "launched.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
