"""The end of a job on several processes."""

import threading
import time

import pytest
import torch

from llm_unlearn import processes


def test_the_group_is_left_when_a_thread_that_waits_for_the_interpreter_has_had_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gloo's threads let go of tensors late: destroying the group, or ending, before they did hangs or aborts."""
    done: list[str] = []

    def thread() -> None:
        time.sleep(0.05)
        done.append("let go")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("left"))
    threading.Thread(target=thread, daemon=True).start()
    processes.leave()
    assert done == ["let go", "left"]


def test_without_a_group_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    processes.leave()
    assert not waited
