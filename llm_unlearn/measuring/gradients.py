"""How hard one row pulls at a model: the norm of its loss's gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from llm_unlearn.errors import TaskError
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.tasks import Example, Task
from llm_unlearn.weights.importance import allowed


def last_block(model: nn.Module) -> Mapping[str, nn.Parameter]:
    """Return the weights of the model's own last block, by name; those of an adapter on it are left out.

    So the same weights are meant in `before`, in `after` with its adapter on, and in `gold`, and by W + BA the adapter's
    model has the gradient of the merged one.  A bridged module's is the last block of its last stage.  Raises TaskError for
    a model without a list of blocks or with quantised ones.
    """
    inner = unwrapped(model)
    lists = [(name, module) for name, module in inner.named_modules() if isinstance(module, nn.ModuleList) and module]
    adapter = getattr(getattr(inner, "base_model", None), "prefix", None)  # peft: "lora_" begins its parameters' names
    block = getattr(inner, "last_stage", None)  # of a VisionBridge
    if block is None and lists:
        block = max(lists, key=lambda found: len(found[1]))[1][-1]
    if block is not None:
        name = next(name for name, module in inner.named_modules() if module is block)
        chosen = {
            f"{name}.{path}": weight
            for path, weight in block.named_parameters()
            if weight.is_floating_point() and not (adapter and any(p.startswith(adapter) for p in path.split(".")))
        }
        if chosen:
            return chosen
    raise TaskError(
        f"{type(inner).__name__} has no list of blocks with weights that can have a gradient, which grad_norm is taken by; "
        "measure without it."
    )


def gradient_norm(model: nn.Module, task: Task, example: Example) -> float:
    """Return the 2-norm of the gradient of the row's loss L (nats a scored decision) by the weights of the last block.

    One row at a time, in eval mode; flags of `requires_grad` and of training are put back, `.grad` is not touched.
    """
    chosen = list(last_block(model).values())
    batch = {name: column.to(chosen[0].device) for name, column in task.collate([example]).items()}
    with in_eval(model), torch.enable_grad(), allowed(model, chosen):
        loss = task.decisions(model, batch).loss()[0]
        parts = torch.autograd.grad(
            loss, chosen, allow_unused=True
        )  # a block may hold weights that this row does not use
    norms: list[Tensor] = [part.detach().float().norm() for part in parts if part is not None]
    if not norms:
        raise TaskError(f"the loss of {type(unwrapped(model)).__name__} does not reach its last block.")
    return float(torch.stack([norm.cpu() for norm in norms]).norm())
