"""demo/slim.py: LoRA files cut down to a size."""

import sys
from pathlib import Path

import pytest
import torch

DEMO = Path(__file__).absolute().parents[2] / "demo"


@pytest.fixture
def slim(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMO))
    known = set(sys.modules)
    import slim as module

    yield module
    for name in set(sys.modules) - known:  # mos_core too: the pack has a name of its own here
        if name.split(".")[0] in ("slim", "mos_core"):
            del sys.modules[name]


def random_lora(*modules, rank=4, alpha=None):
    generator = torch.Generator().manual_seed(0)
    tensors = {"emb.<x>": torch.ones(3, 8)}
    for name, out, *into in modules:
        ones = [1] * (len(into) - 1)
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *into, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, rank, *ones, generator=generator)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


def product(tensors, name):
    down, up = (tensors[f"{name}.lora_{half}.weight"].float() for half in ("down", "up"))
    return up.flatten(1) @ down.flatten(1) * (tensors.get(f"{name}.alpha", len(down)) / len(down))


def test_with_room_enough_every_layer_is_what_it_was(slim):
    lora = random_lora(("a", 16, 8), ("b", 6, 5, 3, 3), alpha=2)
    kept, share, rank = slim.slim(lora, 10**6)
    assert share == pytest.approx(1)
    assert rank == 4
    assert torch.equal(kept["emb.<x>"], lora["emb.<x>"])
    assert kept["b.lora_down.weight"].shape == (4, 5, 3, 3)
    assert kept["b.lora_up.weight"].shape == (6, 4, 1, 1)
    for name in "ab":
        torch.testing.assert_close(product(kept, name), product(lora, name), rtol=0, atol=0.02)


def test_less_room_keeps_the_largest_singular_values_of_all_layers(slim):
    lora = random_lora(("a", 16, 16), ("b", 16, 16))
    lora["a.lora_up.weight"] *= 100
    sizes = [slim.slim(lora, size) for size in (600, 700, 1500)]
    kept, share, _ = sizes[1]
    assert "b.lora_up.weight" not in kept
    assert 0 < len(kept["a.lora_down.weight"]) < 4
    exact = product(lora, "a")
    _, values, _ = torch.linalg.svd(exact)
    left = (exact - product(kept, "a")).square().sum()
    rank = len(kept["a.lora_down.weight"])
    assert left.item() == pytest.approx(values[rank:].square().sum().item(), rel=0.01)
    assert [s for _, s, _ in sizes] == sorted(s for _, s, _ in sizes)
    assert share < sizes[2][1]
