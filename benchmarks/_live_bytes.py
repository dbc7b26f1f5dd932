"""How many bytes of tensors are alive at one time."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """The largest number of bytes of tensors made inside that were alive at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.users: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.enter(storage._cdata, storage.nbytes())
                weakref.finalize(tensor, self.leave, storage._cdata, storage.nbytes())
        return result

    def enter(self, name: int, size: int) -> None:
        if self.users.get(name, 0) == 0:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.users[name] = self.users.get(name, 0) + 1

    def leave(self, name: int, size: int) -> None:
        self.users[name] -= 1
        if self.users[name] == 0:
            self.now -= size
