#!/usr/bin/env bash
# Checks muybridge on this machine's GPU and times it, beside PyTorch where that is installed:
#   run.sh [--quick] [--only PART,…] [--device cuda:0] [--out results] [--minutes N] [--jobs N] [--program FILE] [--golden FOLDER]
# Needs Linux on x86-64 with glibc 2.35, NVIDIA's driver, and for all but the networks' times NVRTC (a PyTorch brings it, or
# `pip install nvidia-cuda-nvrtc`); no Rust, no CUDA toolkit.
#   --only      some of: wrappers ops golden video wgsl models kernels pytorch. What they wrote before is kept
#   --quick     one op, two recorded cases, no large model: whether the folder works
#   --minutes   all of it ends by then: what is under way is ended, and what is left is reported as failed
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export device=cuda:0 program="$here/muybridge" golden="$here/golden"
out=results quick= minutes=600 parts=wrappers,ops,golden,video,wgsl,models,kernels,pytorch jobs=$(nproc)
[ "$jobs" -le 8 ] || jobs=8
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=1; shift; continue ;;
    --only | --device | --out | --minutes | --jobs | --program | --golden) [ $# -ge 2 ] || { echo "$1 takes a value" >&2; exit 2; } ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  case "$1" in
    --only) parts=$2 ;;
    --device) device=$2 ;;
    --out) out=$2 ;;
    --minutes) minutes=$2 ;;
    --jobs) jobs=$2 ;;
    --program) program=$(realpath "$2") ;;
    --golden) golden=$(realpath "$2") ;;
  esac
  shift 2
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
# Neither a table of tuned kernels nor compiled kernels of the user's take part. What is compiled here serves the next call, too.
export MUYBRIDGE_TUNED= MUYBRIDGE_CACHE="$out/cache"
[ -n "${MUYBRIDGE_KERNELS+set}" ] || { [ -e "$here/kernels.pack" ] && export MUYBRIDGE_KERNELS="$here/kernels.pack"; }
export NODEVICE_SELECT=1 XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"
failed=()

# What takes longer than so many seconds is ended, and everything when the minutes are over: a GPU may hang.
export deadline=$(($(date +%s) + 60 * minutes))
limited() {
  local most=$1 left=$((deadline - $(date +%s)))
  shift
  [ "$left" -gt 0 ] || { echo "no time left for: $*" >&2; return 124; }
  timeout -k 10 "$((most < left ? most : left))" "$@"
}
export -f limited
wanted() { [[ ",$parts," == *",$1,"* ]]; }
step() { printf '\n== %s (after %d s)\n' "$1" "$SECONDS"; }

# NVRTC compiles what the pack has no code for; a wheel of PyTorch or of nvidia-cuda-nvrtc brings it.
nvrtc=$(python3 -c 'import glob, site, sys
paths = [*site.getsitepackages(), site.getusersitepackages()]
print(next((f.rsplit("/", 1)[0] for p in paths for f in glob.glob(p + "/nvidia/*/lib/libnvrtc.so*")), ""))' 2>/dev/null)
[ -n "$nvrtc" ] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$nvrtc"

step "the machine"
{
  date -u
  uname -srm
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv 2>/dev/null
  echo "NVRTC: ${nvrtc:-only where the system has one}"
  "$program" --version
  limited 60 "$program" devices
} 2>&1 | tee "$out/machine.txt"
if ! grep "^${device%%:*}" "$out/machine.txt" | grep -qv ' missing: '; then
  echo "FAILED: there is no device ${device%%:*}, see above" >&2
  exit 1
fi
# One kernel that no pack holds tells whether the others can be compiled.
if ! limited 120 "$program" kernels --case elementwise:add --dtype f32 --device "$device" --repeats 1 >"$out/first.txt" 2>&1; then
  cat "$out/first.txt"
  failed+=("the first kernel: without it, most others fail too")
fi

if wanted wrappers; then
  step "instructions of the device, one by one, against the emulator's record"
  limited 300 "$program" doctor --wrappers --device "$device" | tee "$out/wrappers.txt" || failed+=("wrappers on $device")
fi

# Every kernel in a process of its own: one that hangs or crashes costs no other finding.
ops() {
  local device=$1 name=$2
  limited 1500 "$program" doctor --device "$device" --isolate --jobs "$jobs" --limit 120 --untimed ${quick:+layout/} -o "$out/$name.json" |
    tee "$out/$name.txt" || failed+=("ops on $device")
}
if wanted ops; then
  step "every op, case and kernel on $device against the f64 reference"
  ops "$device" ops
fi

# Recorded cases of other implementations, each in these dtypes.
one_case() {
  local device=$1 case=$2 dtype=$3 log code
  log=$(limited 180 "$program" run "$golden/$case" --check --device "$device" --dtype "$dtype" 2>&1)
  code=$?
  case $code in
    0) printf 'ok       %s %s\n' "$case" "$dtype" ;;
    3) printf 'unjudged %s %s: it has no tolerance\n' "$case" "$dtype" ;;
    *) printf 'WRONG    %s %s (exit status %d)\n%s\n' "$case" "$dtype" "$code" "$log" ;;
  esac
}
export -f one_case
cases() {
  local device=$1 file=$2 case dtype
  shift 2
  for case in "$golden"/*/; do
    case=$(basename "$case")
    [ -n "$quick" ] && [[ "$case" != @(vae_mid_attn|aa_pose_guider) ]] && continue
    for dtype in "$@"; do printf '%s %s %s\n' "$device" "$case" "$dtype"; done
  done | xargs -P "$jobs" -L 1 bash -c 'one_case "$@"' _ | tee "$file"
  ! grep -q '^WRONG' "$file"
}
if wanted golden; then
  step "recorded cases on $device"
  cases "$device" "$out/golden.txt" f32 f16 bf16 || failed+=("recorded cases on $device")
fi

if wanted video && [ -z "$quick" ]; then
  step "the built-in model on $device"
  limited 300 "$program" animate --device "$device" --sheet "$out/animate.png" -o "$out/animate.webp" | tee "$out/animate.txt" || failed+=("the built-in model")
  # On CPUs it comes 30.1 dB near the truth.
  grep -oE '[0-9.]+ dB' "$out/animate.txt" | head -n 1 | awk '{ exit !($1 > 28) }' || failed+=("the built-in model is far from the truth")
fi

if wanted wgsl; then
  step "WGSL on the Vulkan driver"
  wgpu=$(grep -E '^wgpu:[0-9]' "$out/machine.txt" | grep -viE 'missing: |llvmpipe' | grep -o 'wgpu:[0-9]*' | head -n 1)
  if [ -z "$wgpu" ]; then
    echo "passed over: no Vulkan device but software"
  elif [ -n "$quick" ]; then
    echo "passed over: asked to be quick"
  else
    ops "$wgpu" ops-wgpu
    cases "$wgpu" "$out/golden-wgpu.txt" f32 f16 || failed+=("recorded cases on $wgpu")
  fi
fi

# Full-size models and ops: one line of JSON for each model.
models=(sd15-unet:2x64x64 sd15-controlnet:2x64x64 sd15-unet+sd15-controlnet:2x64x64 sd-vae:64x64 sdxl-unet:2x128x128)
repeats=30
[ -n "$quick" ] && models=(sd-vae:1x1x1) repeats=1
if wanted models; then
  step "models on $device"
  : >"$out/models.jsonl"
  for model in "${models[@]}"; do
    name=${model%%:*}
    control=${name#"${name%%+*}"}
    line=$(limited 300 "$program" bench "${name%%+*}" ${control:+--control "${control#+}"} --shape "${model#*:}" --dtype f16 --weights f16 \
      --device "$device" --repeats "$repeats" --json) && echo "$line" | tee -a "$out/models.jsonl" || failed+=("time of $model")
  done
  if [ -z "$quick" ]; then
    limited 300 "$program" profile sd15-unet --shape 2x64x64 --dtype f16 --weights f16 --device "$device" --json "$out/profile-sd15-unet.json" \
      >"$out/profile-sd15-unet.txt" || failed+=("profile of sd15-unet")
  fi
fi
if wanted kernels && [ -z "$quick" ]; then
  step "full-size ops on $device"
  for case in conv2d:unet_down{0,1,2} conv2d:unet_mid conv2d:unet_up3 conv2d:vae_up3 matmul:unet_down0_qkv \
    matmul:unet_down0_ff_out matmul:unet_mid_ff_out attention:unet_down0_self attention:unet_down1_self attention:unet_down0_text; do
    limited 120 "$program" kernels --case "$case" --dtype f16 --device "$device" --repeats 31 || echo "FAILED: $case"
  done 2>&1 | tee "$out/kernels.txt"
  ! grep -q '^FAILED' "$out/kernels.txt" || failed+=("full-size ops")
fi
if wanted pytorch; then
  step "PyTorch"
  if python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    limited 3600 python3 "$here/peers.py" --ours "$out" --output "$out/peers.json" | tee "$out/peers.txt" || failed+=("PyTorch")
  else
    echo "passed over: python3 has no torch that sees a GPU"
  fi
fi

step "done"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "everything passed; results are in $out"
