"""What the linear layers of a transformer were given and gave, hooks of others included."""

import comfy.patcher_extension
import torch


def watch_linears(model) -> list:
    """A list that gets (path, module, x, output) of every call of a linear layer. Wrappers run in
    the order in which they were added, so this one's hooks come after those of the model's own."""
    seen: list[tuple] = []

    def wrapper(executor, *args, **kwargs):
        handles = []
        for path, module in executor.class_obj.named_modules():
            if isinstance(module, torch.nn.Linear):

                def hook(module, inputs, output, path=path):
                    seen.append((path, module, inputs[0].clone(), output.clone()))

                handles.append(module.register_forward_hook(hook))
        try:
            return executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "watching", wrapper)
    return seen
