"""Times one model in one peer framework on the CPU and prints one JSON line.

    peer.py FRAMEWORK MODEL HEIGHTxWIDTH [--repeats N] [--threads N] [--onnx DIR]

FRAMEWORK is torch, onnxruntime or openvino; MODEL is sd15-unet, sd15-controlnet, vae-decode or vae-encode; HEIGHTxWIDTH is in
latent cells. Weights are random: speed does not depend on them. One process times one framework, so that its peak memory is
its own. The ONNX file is exported once into DIR by `--framework onnxruntime` or `openvino` where it is missing.
"""

import argparse
import json
import os
import resource
import statistics
import time

parser = argparse.ArgumentParser()
parser.add_argument("framework", choices=["torch", "onnxruntime", "openvino"])
parser.add_argument("model", choices=["sd15-unet", "sd15-controlnet", "vae-decode", "vae-encode"])
parser.add_argument("shape")
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--onnx", default="/tmp/muybridge-peers")
args = parser.parse_args()
height, width = (int(v) for v in args.shape.split("x"))
os.environ["OMP_NUM_THREADS"] = str(args.threads)


def build():
    """The module, its inputs, and their names."""
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    common = dict(cross_attention_dim=768, attention_head_dim=8)
    latents = torch.randn(1, 4, height, width)
    timestep = torch.tensor([501.0])
    context = torch.randn(1, 77, 768)

    if args.model == "sd15-unet":
        net = UNet2DConditionModel(**common).eval()
        return positional(net, lambda n, *i: n(*i, return_dict=False)[0]), (latents, timestep, context)
    if args.model == "sd15-controlnet":
        net = ControlNetModel(**common).eval()
        hint = torch.rand(1, 3, 8 * height, 8 * width)
        return positional(net, lambda n, *i: n(*i, return_dict=False)[0]), (latents, timestep, context, hint)
    channels = [128, 256, 512, 512]
    net = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        latent_channels=4,
    ).eval()
    if args.model == "vae-decode":
        return positional(net, lambda n, z: n.decode(z, return_dict=False)[0]), (latents,)
    pixels = torch.randn(1, 3, 8 * height, 8 * width)
    return positional(net, lambda n, x: n.encode(x, return_dict=False)[0].mode()), (pixels,)


def positional(net, call):
    """The network with only positional tensors, as exporters and timers want it."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, *inputs):
            return call(self.net, *inputs)

    return Positional()


def onnx_file():
    """Path of the exported model; exports it in a process of its own, whose memory is not ours."""
    import subprocess
    import sys

    folder = os.path.join(args.onnx, f"{args.model}-{args.shape}")
    path = os.path.join(folder, "model.onnx")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        code = (
            f"import sys; sys.argv={[sys.argv[0], 'torch', args.model, args.shape]!r}; import runpy;"
            f"m=runpy.run_path({os.path.abspath(__file__)!r}, run_name='export');"
            "import torch; net, inputs = m['build']();"
            f"torch.onnx.export(net, inputs, {path!r}, external_data=True, dynamo=True,"
            "input_names=['input%d' % i for i in range(len(inputs))])"
        )
        subprocess.run([sys.executable, "-c", code], check=True, stdout=sys.stderr)
    return path


def runner():
    """A function that runs the model once."""
    if args.framework == "torch":
        import torch

        net, inputs = build()
        net = net.to(memory_format=torch.channels_last)

        def run():
            with torch.inference_mode():
                net(*inputs)

        return run, torch.__version__
    path = onnx_file()
    import numpy as np

    rng = np.random.default_rng(0)
    if args.framework == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
        return lambda: session.run(None, feeds), ort.__version__
    import openvino as ov

    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": args.threads, "INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(core.read_model(path), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    feeds = [rng.standard_normal(i.shape).astype(np.float32) for i in compiled.inputs]
    request = compiled.create_infer_request()
    return lambda: request.infer(feeds), ov.__version__.split("-")[0]


if __name__ == "__main__":
    run, version = runner()
    run()
    times = []
    for _ in range(args.repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(dict(
        name=args.framework, version=version, model=args.model, shape=args.shape,
        seconds=times, median=statistics.median(times), best=min(times), peak_bytes=peak,
    )))
