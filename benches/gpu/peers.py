"""Times PyTorch on the work that muybridge was timed on, in the same run, and prints a table of ratios.

    peers.py [--ours results] [--output results/peers.json] [--only TEXT] [--tiny] [--device cuda]

Ops: cuDNN convolutions in channels_last (the fastest that its benchmark finds), cuBLASLt matmuls, scaled_dot_product_attention with
the best of its backends, each as a CUDA graph between two events, after the second-level cache was overwritten, as ours are timed.
Models: eager mode, then torch.compile with reduce-overhead and with max-autotune (both capture CUDA graphs), until a
synchronisation. Everything is f16; times are medians after runs to warm up. A ratio above 1 means that muybridge is faster: `ratio` is of the
kernel that plans choose, `best` of the fastest of ours. What is quick comes first, and the file is written after every row.
`--tiny --device cpu` shows that the script works.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from networks import STEERED, build

parser = argparse.ArgumentParser()
parser.add_argument("--ours", default="results")
parser.add_argument("--output")
parser.add_argument("--only", default="")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--device", default="cuda")
parser.add_argument("--repeats", type=int, default=31)
args = parser.parse_args()
ON_GPU = args.device.startswith("cuda")
DTYPE = torch.float16 if ON_GPU else torch.float32
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION] if ON_GPU else [SDPBackend.MATH]
if args.tiny:
    args.repeats = 3


def wait():
    if ON_GPU:
        torch.cuda.synchronize()


def seconds(call):
    """Median of a call until the device is done, which is repeated within a measurement until that takes a millisecond."""
    for _ in range(3):
        call()
    wait()
    start = time.perf_counter()
    call()
    wait()
    inside = max(1, min(1000, int(1e-3 / (time.perf_counter() - start))))
    times = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        for _ in range(inside):
            call()
        wait()
        times.append((time.perf_counter() - start) / inside)
    return statistics.median(times)


def random(*shape):
    return torch.randn(*shape, device=args.device, dtype=DTYPE)


def of_op(call):
    """Median of an op on the device's own clock, of a CUDA graph, so that launching costs what it costs in ours."""
    if not ON_GPU:
        return seconds(call)
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    # While the device overwrites its cache, the host asks for what comes next.
    cache = torch.empty(2 * torch.cuda.get_device_properties(args.device).L2_cache_size, dtype=torch.uint8, device=args.device)
    times = []
    for _ in range(args.repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache.zero_()
        begin.record()
        graph.replay()
        end.record()
        wait()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


# Cases of muybridge's tables: map, channels, channels; rows, columns, length, and whether bias and residual are added; queries, keys,
# heads, width.
CONVS = {
    "unet_down0": (1, 64, 320, 320), "unet_down1": (1, 32, 640, 640), "unet_down2": (1, 16, 1280, 1280),
    "unet_mid": (1, 8, 1280, 1280), "unet_up3": (1, 64, 960, 320), "vae_up3": (1, 512, 128, 128),
}
MATMULS = {
    "unet_down0_qkv": (4096, 960, 320, False), "unet_down0_ff_out": (4096, 320, 1280, True), "unet_mid_ff_out": (64, 1280, 5120, True),
}
ATTENTIONS = {"unet_down0_self": (4096, 4096, 8, 40), "unet_down1_self": (1024, 1024, 8, 80), "unet_down0_text": (4096, 77, 8, 40)}


def ops():
    for name, (batch, side, cin, cout) in CONVS.items():
        side, cin, cout = (8, 16, 16) if args.tiny else (side, cin, cout)
        x = random(batch, cin, side, side).contiguous(memory_format=torch.channels_last)
        w = random(cout, cin, 3, 3).contiguous(memory_format=torch.channels_last)
        bias = random(cout)
        yield f"conv2d:{name}", of_op(lambda: F.conv2d(x, w, bias, padding=1)), "cuDNN" if ON_GPU else "CPU"
    for name, (m, n, k, added) in MATMULS.items():
        m, n, k = (16, 16, 16) if args.tiny else (m, n, k)
        a, w, bias, residual = random(m, k), random(n, k), random(n), random(m, n)
        call = (lambda: F.linear(a, w, bias) + residual) if added else (lambda: F.linear(a, w))
        yield f"matmul:{name}", of_op(call), "cuBLASLt" if ON_GPU else "CPU"
    for name, (queries, keys, heads, width) in ATTENTIONS.items():
        queries, keys = (16, 16) if args.tiny else (queries, keys)
        q, k, v = random(1, heads, queries, width), random(1, heads, keys, width), random(1, heads, keys, width)
        best = None
        for backend in BACKENDS:
            try:
                with sdpa_kernel(backend):
                    took = of_op(lambda: F.scaled_dot_product_attention(q, k, v))
            except RuntimeError:
                continue
            best = min(best or (took, backend.name), (took, backend.name))
        if best:
            yield f"attention:{name}", best[0], best[1]


MODELS = {"sd15-unet": (2, 64), "sd15-controlnet": (2, 64), STEERED: (2, 64), "sd-vae": (1, 64), "sdxl-unet": (2, 128)}


def inputs(name, batch, side, context):
    latents = random(batch, 4, side, side).contiguous(memory_format=torch.channels_last)
    if name == "sd-vae":
        return (latents,)
    step = torch.full((batch,), 501.0, device=args.device)
    text = random(batch, 24 if args.tiny else 77, context)
    if name.endswith("sd15-controlnet"):
        return latents, step, text, random(batch, 3, 8 * side, 8 * side).contiguous(memory_format=torch.channels_last)
    return (latents, step, text, random(batch, 2816)) if name == "sdxl-unet" and not args.tiny else (latents, step, text)


@torch.inference_mode()
def models(mode):
    """The networks in eager mode, or compiled in this mode; a failure's time is its message."""
    for name, (batch, side) in MODELS.items():
        if args.only not in name:
            continue
        context = 24 if args.tiny else 2048 if name == "sdxl-unet" else 768
        with torch.device(args.device):
            torch.set_default_dtype(DTYPE)
            net = build(name, args.tiny).eval().to(memory_format=torch.channels_last)
            torch.set_default_dtype(torch.float32)
        given = inputs(name, batch, 8 if args.tiny else side, context)
        run = torch.compile(net, mode=mode) if mode else net
        try:
            took = seconds(lambda: run(*given))
        except Exception as e:
            took = f"{type(e).__name__}: {e}"
        yield name, took, f"torch.compile {mode}" if mode else "eager"
        del net, run
        torch._dynamo.reset()
        if ON_GPU:
            torch.cuda.empty_cache()


def ours():
    """Seconds of muybridge by model and by op:case, from the files of run.sh: as it runs, of its fastest kernel, and that one's name."""
    found = {}
    models = os.path.join(args.ours, "models.jsonl")
    if os.path.exists(models):
        for line in filter(str.strip, open(models)):
            one = json.loads(line)
            name = one["name"] if one["name"] != "muybridge" else os.path.basename(str(one["model"]))
            found[name] = (one["median"], one["median"], None)
    kernels, case = os.path.join(args.ours, "kernels.txt"), None
    if os.path.exists(kernels):
        for line in open(kernels):
            heading = re.match(r"(\w+:\w+) in \w+ on ", line)
            row = re.match(r"\S+:(\S+)\s+([0-9.]+)\s", line)
            if heading:
                case = heading.group(1)
            elif row and case and "tf32" not in row.group(1):
                kernel, took = row.group(1), float(row.group(2)) / 1e3
                # The first is the one that plans choose.
                usual, best, name = found.get(case, (took, took, kernel))
                found[case] = (usual, took, kernel) if took < best else (usual, best, name)
    return found


def everything():
    yield from (op for op in ops() if args.only in op[0])
    for mode in [None] if args.tiny else [None, "reduce-overhead", "max-autotune"]:
        yield from models(mode)


def main():
    mine = ours()
    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if ON_GPU else "cpu", "dtype": str(DTYPE), "tiny": args.tiny}
    if ON_GPU:
        torch.backends.cudnn.benchmark = True
        about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    results, failed = [], False
    print(f"{'work':28} {'muybridge ms':>12} {'its best':>9} {'PyTorch ms':>11} {'ratio':>6} {'best':>6}  by")
    for name, took, by in everything():
        row = {"work": name, "by": by}
        if isinstance(took, str):
            failed = True
            row["failed"] = took
            print(f"{name:28} {by} FAILED: {took.splitlines()[0]}", flush=True)
        else:
            usual, best, kernel = mine.get(name, (None, None, None))
            row |= {"torch_seconds": took, "muybridge_seconds": usual, "best_seconds": best, "best_kernel": kernel}
            row |= {"ratio": usual and took / usual, "best": best and took / best}
            shown = lambda value, form: f"{value:{form}}" if value else f"{'-':>{form.split('.')[0]}}"
            own = f"{shown(usual and 1e3 * usual, '12.3f')} {shown(best and 1e3 * best, '9.3f')}"
            print(f"{name:28} {own} {1e3 * took:11.3f} {shown(row['ratio'], '6.2f')} {shown(row['best'], '6.2f')}  {by}", flush=True)
        results.append(row)
        if args.output:
            with open(args.output + ".part", "w") as out:
                json.dump({**about, "results": results}, out, indent=1)
            os.replace(args.output + ".part", args.output)
    sys.exit(failed)


main()
