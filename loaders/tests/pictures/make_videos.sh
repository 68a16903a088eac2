#!/usr/bin/env bash
# Makes the videos of this folder with ffmpeg and x264, and beside those that are read the RGB that ffmpeg reads from them.
set -euo pipefail
cd "$(dirname "$0")"
make() { # NAME SIZE OPTIONS…
  local name=$1 size=$2
  shift 2
  ffmpeg -v error -y -f lavfi -i "testsrc2=size=$size:rate=25:duration=0.24" -bitexact "$@" "$name"
}
raw() { ffmpeg -v error -y -i "$1" -fps_mode passthrough -f rawvideo -pix_fmt rgb24 "$1.raw"; }

make high.mp4 50x34 -c:v libx264 -profile:v high -bf 3 -crf 18 -pix_fmt yuv420p
make full.mp4 48x32 -vf scale=out_color_matrix=bt709:out_range=full -c:v libx264 -crf 18 -pix_fmt yuvj420p -color_range pc \
  -colorspace bt709 -color_primaries bt709 -color_trc bt709
make upright.mp4 48x32 -c:v libx264 -crf 18 -pix_fmt yuv420p
ffmpeg -v error -y -i upright.mp4 -c copy -bitexact -metadata:s:v:0 rotate=90 turned.mp4
rm upright.mp4
for name in high full turned; do raw "$name.mp4"; done
make other.mp4 32x32 -c:v mpeg4
make deep.mp4 32x32 -c:v libx264 -pix_fmt yuv420p10le -frames:v 1
make fragments.mp4 32x32 -c:v libx264 -pix_fmt yuv420p -movflags frag_keyframe+empty_moov -frames:v 1
