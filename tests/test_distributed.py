"""Two processes give the adapter that one gives: what is measured, clipped, gated and squared is the whole step's."""

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import Bench, shortened, weights
from safetensors.torch import load_file, save_file

from llm_unlearn.method import find

CASES = {  # name of the method, changes of its schedule, accumulation steps
    "npo": ("npo", {}, 1),
    "kl": ("kl", {}, 1),
    "nabla_tau": ("nabla_tau", {"retain_per_forget": 2}, 1),
    "nabla_tau accumulated": ("nabla_tau", {"retain_per_forget": 2}, 2),
}
SETTINGS = {"steps": 6, "forget_batch": 4, "learning_rate": 1e-3}
SCRIPT = """
    import os, pickle, sys
    from pathlib import Path

    import torch
    from accelerate import PartialState
    from conftest import shortened, weights
    from safetensors.torch import save_file
    from test_distributed import CASES, SETTINGS

    from llm_unlearn import fit
    from llm_unlearn.method import find

    folder = Path(sys.argv[1])
    bench = pickle.loads((folder / "bench.pickle").read_bytes())
    inner, seen = fit.ObjectiveTrainer.compute_loss, set()

    def compute_loss(self, model, *args, **kwargs):
        seen.add(type(model).__name__)
        return inner(self, model, *args, **kwargs)

    fit.ObjectiveTrainer.compute_loss = compute_loss
    for case, (name, changes, accumulation) in CASES.items():
        run = bench.run(folder / case, trainer={"gradient_accumulation_steps": accumulation})
        shortened(find(name), **SETTINGS, **changes).unlearn(run)
        save_file(weights(run.model), folder / f"{case}.{os.environ['RANK']}.safetensors")
    assert PartialState().num_processes == 2
    assert seen == {"DistributedDataParallel"}, seen
    (folder / f"passed.{os.environ['RANK']}").touch()
"""


@pytest.mark.dist
def test_two_processes_equal_one(language: Bench, tmp_path: Path) -> None:
    """Also where the objective's term is not linear in the batch mean, and where a reference is consulted in between."""
    (tmp_path / "bench.pickle").write_bytes(pickle.dumps(language))
    (tmp_path / "two.py").write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(tmp_path)],
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert all((tmp_path / f"passed.{rank}").exists() for rank in (0, 1))

    for case, (name, changes, accumulation) in CASES.items():
        run = language.run(tmp_path / "one" / case, trainer={"gradient_accumulation_steps": accumulation})
        start = weights(run.model)
        shortened(find(name), **SETTINGS, **changes).unlearn(run)
        alone = weights(run.model)
        assert max((alone[key] - start[key]).abs().max().item() for key in alone) > 1e-3
        first, second = (load_file(tmp_path / f"{case}.{rank}.safetensors") for rank in (0, 1))
        for key, weight in alone.items():
            assert torch.equal(first[key], second[key]), f"{case}: the processes drifted apart in {key}"
            torch.testing.assert_close(first[key], weight, rtol=0, atol=1e-5, msg=f"{case} {key}")
        assert not list((tmp_path / case / "fit").glob("checkpoint-*"))


def test_the_weights_can_be_compared(tmp_path: Path) -> None:
    """Non-vacuity of the comparison above: safetensors keep fp32 bits."""
    save_file({"a": torch.tensor([1.0 + 2e-7])}, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")["a"].item() == torch.tensor(1.0 + 2e-7).item()
