"""Times PyTorch on the work that muybridge was timed on, in the same run, and prints a table of ratios.

    peers.py [--ours results] [--output results/peers.json] [--only TEXT] [--tiny] [--device cuda]

Ops: cuDNN convolutions in channels_last, cuBLASLt matmuls, scaled_dot_product_attention with the best of its backends. Models:
torch.compile with max-autotune, which captures CUDA graphs, and eager mode. Everything is f16; times are medians of runs that
end with a synchronisation, after runs to warm up. A ratio above 1 means that muybridge is faster. `--tiny --device cpu` shows that the script works.
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
    """Median of a call, which is repeated within a measurement until that takes a millisecond."""
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


def graphed(call):
    """The call from a CUDA graph, so that launching costs what it costs in ours."""
    if not ON_GPU:
        return call
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


# Cases of muybridge's tables: map, channels, channels; rows, columns, length; queries, keys, heads, width.
CONVS = {
    "unet_down0": (1, 64, 320, 320), "unet_down1": (1, 32, 640, 640), "unet_down2": (1, 16, 1280, 1280),
    "unet_mid": (1, 8, 1280, 1280), "unet_up3": (1, 64, 960, 320), "vae_up3": (1, 512, 128, 128),
}
MATMULS = {"unet_down0_qkv": (4096, 960, 320), "unet_down0_ff_out": (4096, 320, 1280), "unet_mid_ff_out": (64, 1280, 5120)}
ATTENTIONS = {"unet_down0_self": (4096, 4096, 8, 40), "unet_down1_self": (1024, 1024, 8, 80), "unet_down0_text": (4096, 77, 8, 40)}


def ops():
    for name, (batch, side, cin, cout) in CONVS.items():
        side, cin, cout = (8, 16, 16) if args.tiny else (side, cin, cout)
        x = random(batch, cin, side, side).contiguous(memory_format=torch.channels_last)
        w = random(cout, cin, 3, 3).contiguous(memory_format=torch.channels_last)
        bias = random(cout)
        yield f"conv2d:{name}", seconds(graphed(lambda: F.conv2d(x, w, bias, padding=1))), "cuDNN" if ON_GPU else "CPU"
    for name, (m, n, k) in MATMULS.items():
        m, n, k = (16, 16, 16) if args.tiny else (m, n, k)
        a, w = random(m, k), random(n, k)
        yield f"matmul:{name}", seconds(graphed(lambda: F.linear(a, w))), "cuBLASLt" if ON_GPU else "CPU"
    for name, (queries, keys, heads, width) in ATTENTIONS.items():
        queries, keys = (16, 16) if args.tiny else (queries, keys)
        q, k, v = random(1, heads, queries, width), random(1, heads, keys, width), random(1, heads, keys, width)
        best = None
        for backend in BACKENDS:
            try:
                with sdpa_kernel(backend):
                    took = seconds(graphed(lambda: F.scaled_dot_product_attention(q, k, v)))
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
def models():
    for name, (batch, side) in MODELS.items():
        if args.only not in name:
            continue
        context = 24 if args.tiny else 2048 if name == "sdxl-unet" else 768
        with torch.device(args.device):
            torch.set_default_dtype(DTYPE)
            net = build(name, args.tiny).eval().to(memory_format=torch.channels_last)
            torch.set_default_dtype(torch.float32)
        given = inputs(name, batch, 8 if args.tiny else side, context)
        yield name, seconds(lambda: net(*given)), "eager"
        if not args.tiny:
            compiled = torch.compile(net, mode="max-autotune")
            try:
                yield name, seconds(lambda: compiled(*given)), "torch.compile max-autotune"
            except Exception as e:
                print(f"{name}: torch.compile: {e}", file=sys.stderr)
            torch._dynamo.reset()
        del net
        if ON_GPU:
            torch.cuda.empty_cache()


def ours():
    """Seconds of muybridge by model and by op:case, from the files of run.sh."""
    found = {}
    models = os.path.join(args.ours, "models.jsonl")
    if os.path.exists(models):
        for line in filter(str.strip, open(models)):
            one = json.loads(line)
            found[one["name"] if one["name"] != "muybridge" else preset(one)] = one["median"]
    kernels, case = os.path.join(args.ours, "kernels.txt"), None
    if os.path.exists(kernels):
        for line in open(kernels):
            heading = re.match(r"(\w+:\w+) in \w+ on ", line)
            row = re.match(r"\S+:(\S+)\s+([0-9.]+)\s", line)
            if heading:
                case = heading.group(1)
            elif row and case and "tf32" not in row.group(1):
                found[case] = min(found.get(case, float("inf")), float(row.group(2)) / 1e3)
    return found


def preset(line):
    return os.path.basename(str(line["model"]))


def main():
    mine, results = ours(), []
    print(f"{'work':32} {'muybridge ms':>13} {'PyTorch ms':>11} {'ratio':>6}  by")
    for name, took, by in [*((o for o in ops() if args.only in o[0])), *models()]:
        own = mine.get(name)
        ratio = took / own if own else None
        results.append({"work": name, "muybridge_seconds": own, "torch_seconds": took, "ratio": ratio, "by": by})
        shown = (f"{1e3 * own:13.3f}", f"{ratio:6.2f}") if own else (f"{'-':>13}", f"{'-':>6}")
        print(f"{name:32} {shown[0]} {1e3 * took:11.3f} {shown[1]}  {by}", flush=True)
    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if ON_GPU else "cpu", "dtype": str(DTYPE), "tiny": args.tiny}
    if ON_GPU:
        about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if args.output:
        with open(args.output + ".part", "w") as out:
            json.dump({**about, "results": results}, out, indent=1)
        os.replace(args.output + ".part", args.output)


main()
