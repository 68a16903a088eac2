"""Makes the checkpoints of this folder with PyTorch, and beside them what is in them as safetensors.

    python make.py          (PyTorch 2.15, safetensors 0.8)
"""
import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent


def tensors():
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    return OrderedDict(
        {
            "conv.weight": torch.randn(3, 2, 3, 3),
            "conv.bias": base[1],
            "turned": base.t(),
            "every_other": base[::2, 1::3],
            "spread": base[:, :1].expand(6, 4),
            "half": torch.randn(7).half(),
            "brain": torch.randn(2, 3).bfloat16(),
            "double": torch.randn(3, dtype=torch.float64),
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 4),
            "position_ids": torch.arange(5).unsqueeze(0),
            "mask": torch.tensor([True, False, True]),
            "bytes": torch.tensor([0, 255, 3], dtype=torch.uint8),
            "short": torch.tensor([-5, 7], dtype=torch.int16),
        }
    )


def main():
    all = tensors()
    save_file({k: v.contiguous().clone() for k, v in all.items()}, HERE / "expected.safetensors")
    torch.save(all, HERE / "archive.pth")
    torch.save(all, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(dict(all), HERE / "protocol4.pth", pickle_protocol=4)

    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, HERE / "net.safetensors")
    torch.save(torch.nn.DataParallel(net).state_dict(), HERE / "parallel.bin")
    torch.save({k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in net.state_dict().items()}, HERE / "parameters.pt")

    # A trainer's checkpoint: the network under a key of its own, a class as a key, NumPy's numbers.
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    for name in ["pytorch_lightning", "pytorch_lightning.callbacks"]:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[module.__name__] = module
    import numpy as np

    extra = {"epoch": 3, "global_step": 875000, "lr": 1e-4, "score": np.float64(0.25), "note": None, "big": 1 << 80}
    extra["callbacks"] = {module.ModelCheckpoint: {"best": torch.tensor(0.5), "path": "x"}}
    torch.save({**extra, "state_dict": net.state_dict()}, HERE / "trainer.ckpt")

    class Evil:
        def __reduce__(self):
            import os

            return os.system, ("echo executed",)

    torch.save({"weight": torch.zeros(1), "evil": Evil()}, HERE / "evil.pth")
    torch.save(net, HERE / "module.pth")
    torch.jit.save(torch.jit.script(net), HERE / "program.pt")


main()
