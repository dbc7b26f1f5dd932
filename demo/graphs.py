"""A network that is trained as CUDA graphs: a small one has thousands of kernels in a step, and to
start them takes longer than they do.

    model = Graphed(model, bf16=False)      # then called like the model itself
"""

import contextlib

import torch


class Call(torch.nn.Module):
    """The network with some inputs by name, in one type, as a graph wants it: tensors alone."""

    def __init__(self, network: torch.nn.Module, names: tuple[str, ...], bf16: bool):
        super().__init__()
        self.network, self.names, self.bf16 = network, names, bf16

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        count = len(tensors) - len(self.names)
        named = dict(zip(self.names, tensors[count:], strict=True))
        cast = (
            torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
            if self.bf16
            else contextlib.nullcontext()
        )
        with cast:
            return self.network(*tensors[:count], **named).float()


class Graphed:
    """A graph for each combination of shapes that the network is called with; captured at the
    first call, and anew never: the weights may change, their places may not."""

    def __init__(self, network: torch.nn.Module, bf16: bool):
        self.network, self.bf16 = network, bf16
        self.graphs: dict[tuple, torch.nn.Module] = {}

    def __call__(self, *given: torch.Tensor, transformer_options=None, **named: torch.Tensor):
        """transformer_options: for the sake of the network's own signature; empty."""
        tensors, names = (*given, *named.values()), tuple(named)
        key = (names, *(tensor.shape for tensor in tensors))
        with torch.autocast("cuda", enabled=False):
            if key not in self.graphs:
                samples = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
                self.graphs[key] = torch.cuda.make_graphed_callables(
                    Call(self.network, names, self.bf16), samples, allow_unused_input=True
                )
            return self.graphs[key](*tensors)
