#!/usr/bin/env bash
# Checks muybridge on this machine's GPU and times it, beside PyTorch where that is installed: run.sh [--quick] [--device cuda:0]
# [--no-times]. Needs Linux on x86-64 and NVIDIA's driver; no Rust, no CUDA toolkit. Everything goes to results/.
#   --quick     one op, one recorded case, no large model: whether the folder works
#   --no-times  checks only
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
device=cuda:0 quick= times=1
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=1 ;;
    --no-times) times= ;;
    --device) device=${2:?--device takes a name}; shift ;;
    *) sed -n 2,5p "$0"; exit 2 ;;
  esac
  shift
done
out=results
mkdir -p "$out"
# Neither a table of tuned kernels nor compiled kernels of the user's take part.
export MUYBRIDGE_TUNED= MUYBRIDGE_CACHE="$here/$out/cache" MUYBRIDGE_KERNELS="${MUYBRIDGE_KERNELS-$here/kernels.pack}"
export NODEVICE_SELECT=1 XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"
muybridge="$here/muybridge"
failed=()
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
  "$muybridge" --version
  "$muybridge" devices
} 2>&1 | tee "$out/machine.txt"
if ! "$muybridge" devices | grep -q "^ *${device%%:*}"; then
  echo "no device ${device%%:*} is listed above" >&2
fi

step "instructions of the device, one by one, against the emulator's record"
"$muybridge" doctor --wrappers --device "$device" | tee "$out/wrappers.txt" || failed+=("wrappers on $device")

step "every op, case and kernel on $device against the f64 reference"
"$muybridge" doctor --device "$device" ${quick:+--untimed layout/} -o "$out/ops.json" | tee "$out/ops.txt" || failed+=("ops on $device")

# Recorded cases of other implementations, each in these dtypes.
golden() {
  local device=$1 case dtype log
  shift
  for case in golden/*/; do
    case=$(basename "$case")
    [ -n "$quick" ] && [ "$case" != "$quick_case" ] && continue
    for dtype in "$@"; do
      if log=$("$muybridge" run "golden/$case" --check --device "$device" --dtype "$dtype" 2>&1); then
        echo "ok    $case $dtype"
      else
        printf 'WRONG %s %s\n%s\n' "$case" "$dtype" "$log"
        return_code=1
      fi
    done
  done
}
quick_case=vae_mid_attn
step "recorded cases on $device"
return_code=0
golden "$device" f32 f16 bf16 > >(tee "$out/golden.txt")
[ "$return_code" = 0 ] || failed+=("recorded cases on $device")

# Cases of the built-in model would need its weights twice: the video that it makes is held against the truth.
if [ -z "$quick" ]; then
  step "the built-in model on $device"
  "$muybridge" animate --device "$device" --sheet "$out/animate.png" -o "$out/animate.webp" | tee "$out/animate.txt" || failed+=("the built-in model")
fi

step "WGSL on the Vulkan driver"
wgpu=$("$muybridge" devices 2>/dev/null | grep -o 'wgpu:[0-9]*' | head -n 1)
if ! ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; then
  echo "passed over: no Vulkan loader (libvulkan.so.1)"
elif [ -z "$wgpu" ]; then
  echo "passed over: no Vulkan device"
elif [ -n "$quick" ]; then
  echo "passed over: asked to be quick"
else
  "$muybridge" doctor --device "$wgpu" --untimed -o "$out/ops-wgpu.json" | tee "$out/ops-wgpu.txt" || failed+=("ops on $wgpu")
  return_code=0
  golden "$wgpu" f32 f16 > >(tee "$out/golden-wgpu.txt")
  [ "$return_code" = 0 ] || failed+=("recorded cases on $wgpu")
fi

# Full-size ops and models: one line of JSON each.
models=(sd15-unet:2x64x64 sd15-controlnet:2x64x64 sd15-unet+sd15-controlnet:2x64x64 sd-vae:64x64 sdxl-unet:2x128x128)
repeats=30
[ -n "$quick" ] && models=(sd-vae:1x1x1) repeats=1
if [ -n "$times" ]; then
  step "models on $device"
  : >"$out/models.jsonl"
  for model in "${models[@]}"; do
    name=${model%%:*}
    control=${name#"${name%%+*}"}
    "$muybridge" bench "${name%%+*}" ${control:+--control "${control#+}"} --shape "${model#*:}" --dtype f16 --weights f16 --device "$device" --repeats "$repeats" --json \
      >"$out/line" && cat "$out/line" | tee -a "$out/models.jsonl" || failed+=("time of $model")
  done
  rm -f "$out/line"
  if [ -z "$quick" ]; then
    "$muybridge" profile sd15-unet --shape 2x64x64 --dtype f16 --weights f16 --device "$device" --json "$out/profile-sd15-unet.json" \
      >"$out/profile-sd15-unet.txt" || failed+=("profile of sd15-unet")
    step "full-size ops on $device"
    for case in conv2d:unet_down{0,1,2} conv2d:unet_mid conv2d:unet_up3 conv2d:vae_up3 matmul:unet_down0_qkv \
      matmul:unet_down0_ff_out matmul:unet_mid_ff_out attention:unet_down0_self attention:unet_down1_self attention:unet_down0_text; do
      "$muybridge" kernels --case "$case" --dtype f16 --device "$device" --repeats 31 || true
    done 2>&1 | tee "$out/kernels.txt"
  fi
  step "PyTorch"
  if python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    python3 peers.py --ours "$out" --output "$out/peers.json" || failed+=("PyTorch")
  else
    echo "passed over: python3 has no torch that sees a GPU"
  fi
fi

step "done"
rm -rf "$out/cache"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "everything passed; results are in $here/$out"
