"""Times muybridge and its peers on the same models, in turn, in one run, and writes a table of ratios.

    compare.py [--rounds N] [--frameworks torch,onnxruntime,openvino] [--peer-python PYTHON]
               [--muybridge target/release/muybridge] [--output results.json] [MODEL:HEIGHTxWIDTH ...]

Every round runs each framework in a process of its own, so that none profits from another's warm caches and each peak of
memory is its own. The figure of a framework is the median over all its timed runs; a ratio above 1 means that muybridge is
faster.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

parser = argparse.ArgumentParser()
parser.add_argument("models", nargs="*", default=["sd15-unet:64x64", "vae-decode:64x64"])
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--repeats", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--frameworks", default="torch,onnxruntime,openvino")
parser.add_argument("--peer-python", default=sys.executable)
parser.add_argument("--muybridge", default=os.path.join(HERE, "../../target/release/muybridge"))
parser.add_argument("--output")
args = parser.parse_args()


def last_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(model, shape, extra=()):
    names = {"vae-decode": ["sd-vae", "--part", "decode"], "vae-encode": ["sd-vae", "--part", "encode"]}
    return last_json([
        args.muybridge, "bench", *names.get(model, [model]), "--shape", shape, "--device", "cpu", "--threads", str(args.threads),
        "--repeats", str(args.repeats), "--json", *extra,
    ])


def peer(framework, model, shape):
    script = os.path.join(HERE, "peer.py")
    return last_json([
        args.peer_python, script, framework, model, shape, "--repeats", str(args.repeats), "--threads", str(args.threads),
    ])


def cpu_name():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


results = []
for spec in args.models:
    model, shape = spec.split(":")
    runs = {}
    for round_ in range(args.rounds):
        for name in ["muybridge", "muybridge f16 weights", *args.frameworks.split(",")]:
            if name == "muybridge":
                run = ours(model, shape)
            elif name == "muybridge f16 weights":
                run = ours(model, shape, ["--weights", "f16"])
            else:
                run = peer(name, model, shape)
            if run is None:
                print(f"{spec}: {name} failed", file=sys.stderr)
                continue
            runs.setdefault(name, []).append(run)
            print(f"{spec} round {round_ + 1}: {name} {min(run['seconds']):.3f} s", file=sys.stderr)
    if "muybridge" not in runs:
        sys.exit(f"{spec}: muybridge did not run")
    median = {name: statistics.median(t for r in rs for t in r["seconds"]) for name, rs in runs.items()}
    print(f"\n{spec} on {cpu_name()}, {args.threads} threads, f32")
    print(f"{'':24}{'version':>16}{'median s':>10}{'best s':>10}{'peak GB':>10}{'ratio':>8}")
    for name, rs in runs.items():
        best = min(t for r in rs for t in r["seconds"])
        peak = max(r["peak_bytes"] for r in rs)
        ratio = median[name] / median["muybridge"]
        print(f"{name:24}{rs[0]['version']:>16}{median[name]:10.3f}{best:10.3f}{peak / 1e9:10.2f}{ratio:8.2f}")
        results.append(dict(
            model=model, shape=shape, name=name, version=rs[0]["version"], median=median[name], best=best,
            peak_bytes=peak, ratio_to_muybridge=ratio,
        ))
if args.output:
    with open(args.output + ".part", "w") as f:
        json.dump(dict(cpu=cpu_name(), threads=args.threads, rounds=args.rounds, repeats=args.repeats, results=results), f, indent=1)
    os.replace(args.output + ".part", args.output)
