//! Cases of the kinds `aa_pose_guider` and `champ_guidance_encoder`.

use std::collections::BTreeMap;

use muybridge_runtime::{DType, HostTensor};

use super::Call;
use crate::error::Result;
use crate::guider::{Guider, GuiderKind, GuiderShape};

pub(super) fn run(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    if call.record.op != "forward" {
        return Err(call.unknown_op());
    }
    let (config, weights) = call.component("")?;
    let (pixels, [clips, frames, height, width]) = frames_of(call, "pixels")?;
    let shape = GuiderShape { frames: clips * frames, height, width, dtype: call.dtype };
    let kind = if call.case.kind() == "aa_pose_guider" { GuiderKind::Pose } else { GuiderKind::Guidance };
    let plan = Guider::of(kind, &config, &weights, call.device)?.plan(shape)?;
    let results = plan.run_host(&[&pixels])?;
    let [features] = &results[..] else { return Err(call.wrong("the guider has other results")) };
    Ok([("features".to_string(), clips_of(features, clips)?)].into())
}

/// A recorded video `[B,C,F,H,W]` as this engine has it: `[B·F,H,W,C]` in the call's dtype; and B, F, H and W.
pub(super) fn frames_of(call: &Call<'_>, name: &str) -> Result<(HostTensor, [usize; 4])> {
    let video = call.input(name)?;
    let &[b, c, f, h, w] = video.shape().dims() else {
        return Err(call.wrong(format!("input {name} is {}, wanted [B,C,F,H,W]", video.shape())));
    };
    let frames = video.permute(&[0, 2, 3, 4, 1])?.reshape([b * f, h, w, c])?;
    Ok((frames.convert(call.dtype), [b, f, h, w]))
}

/// Frames `[B·F,H,W,C]` of `clips` clips as they are recorded: `[B,C,F,H,W]`, in f32.
pub(super) fn clips_of(frames: &HostTensor, clips: usize) -> Result<HostTensor> {
    let dims = frames.shape();
    let [h, w, c] = [dims[1], dims[2], dims[3]];
    let wide = frames.convert(DType::F32).reshape([clips, dims[0] / clips.max(1), h, w, c])?;
    Ok(wide.permute(&[0, 4, 1, 2, 3])?)
}
