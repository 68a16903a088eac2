//! Cases of the kinds `aa_pipeline` and `champ_pipeline`: pictures to a video.

use std::collections::BTreeMap;

use muybridge_loaders::Config;
use muybridge_runtime::{DType, HostTensor};
use serde_json::Value as Json;

use super::Call;
use super::guiders::{clips_of, frames_of};
use crate::error::Result;
use crate::pipelines::{AnimateInput, AnimateOptions, Animator, Components, Event, Flow, Motion, SCENE};
use crate::resize::Picture;

type Named = BTreeMap<String, HostTensor>;

/// Networks of the pipeline in a case's record, besides its guiders.
const PARTS: [&str; 4] = ["reference_unet", "denoising_unet", "vae", "image_encoder"];

pub(super) fn run(call: &Call<'_>) -> Result<Named> {
    if call.record.op != "pipeline" {
        return Err(call.unknown_op());
    }
    let motion = motion(call)?;
    // The guider of the reference sees what was recorded for it, or the reference itself.
    let carried = format!("guidance.{SCENE}");
    let carried = if call.record.inputs.contains_key(&carried) { pictures(call, &carried)? } else { Vec::new() };
    let guiders = motion.iter().map(|m| match m.kind.as_str() {
        "pose" => "pose_guider".to_string(),
        kind => format!("guidance_encoder_{kind}"),
    });
    let scene = Some(format!("guidance_encoder_{SCENE}")).filter(|name| call.case.record.components.contains_key(name));
    let names = PARTS.map(String::from).into_iter().chain(guiders).chain(scene);
    let parts = names.map(|name| Ok((name.clone(), call.component(&name)?))).collect::<Result<_>>()?;
    let recorded = call.case.record.components.get("scheduler").and_then(|c| c.config.as_ref());
    let scheduler = recorded.map(|file| Config::open(call.case.dir.join(file))).transpose()?;
    let components = Components::of(parts, scheduler)?;
    let number = |name: &str, default: f64| call.number_or(name, default);
    let options = AnimateOptions {
        width: number("width", 512.0)? as usize,
        height: number("height", 784.0)? as usize,
        frames: motion.first().map_or(0, |m| m.frames.len()),
        steps: number("num_inference_steps", 30.0)? as usize,
        guidance: number("guidance_scale", 3.5)? as f32,
        dtype: call.dtype,
        window: number("context_frames", 24.0)? as usize,
        strides: number("context_stride", 1.0)? as usize,
        overlap: number("context_overlap", 4.0)? as usize,
        ..AnimateOptions::default()
    };
    let (latents, _) = frames_of(call, "latents")?;
    // As recorded, whatever dtype the networks run in.
    let latents = Some(latents.convert(DType::F32));
    let reference = pictures(call, "ref_image")?.remove(0);
    let input = AnimateInput { carried, latents, ..AnimateInput::new(reference, motion) };
    let animator = Animator::open(components, call.device, options)?;
    let mut heard = Heard::default();
    animator.run(&input, &mut |event| heard.hear(&event))?;
    heard.outputs()
}

/// Pictures of poses (AnimateAnyone), or of every kind of guidance (Champ).
fn motion(call: &Call<'_>) -> Result<Vec<Motion>> {
    if call.case.kind() == "aa_pipeline" {
        return Ok(vec![Motion { kind: "pose".into(), frames: pictures(call, "pose_images")? }]);
    }
    let kinds = call.record.args.get("guidance_types").and_then(Json::as_array).cloned().unwrap_or_default();
    let one = |kind: &str| Ok(Motion { kind: kind.into(), frames: pictures(call, &format!("guidance.{kind}"))? });
    kinds.iter().filter_map(Json::as_str).map(one).collect()
}

/// Pictures `[n,H,W,3]`, or one `[H,W,3]`.
fn pictures(call: &Call<'_>, name: &str) -> Result<Vec<Picture>> {
    let bytes = call.input(name)?;
    let (count, [height, width, channels]) = match *bytes.shape().dims() {
        [h, w, c] => (1, [h, w, c]),
        [n, h, w, c] => (n, [h, w, c]),
        _ => return Err(call.wrong(format!("input {name} is {}, wanted [n,H,W,3]", bytes.shape()))),
    };
    let all: Vec<u8> = bytes.to_f32().into_iter().map(|p| p as u8).collect();
    let each = (height * width * channels).max(1);
    let picture = |pixels: &[u8]| Picture { width, height, channels, pixels: pixels.to_vec() };
    let list: Vec<Picture> = all.chunks(each).map(picture).collect();
    if list.is_empty() || list.len() != count {
        return Err(call.wrong(format!("input {name} has no pictures")));
    }
    Ok(list)
}

/// What was recorded on the way.
#[derive(Default)]
struct Heard {
    named: Named,
    timesteps: Vec<f32>,
    latents: Vec<HostTensor>,
    frames: Vec<HostTensor>,
    motion: Option<HostTensor>,
}

impl Heard {
    fn hear(&mut self, event: &Event<'_>) -> Flow {
        match event {
            Event::Reference { clip_pixels, embedding, pixels, latents } => {
                let parts = [
                    ("clip_pixels", *clip_pixels),
                    ("clip_embeds", *embedding),
                    ("ref_pixels", *pixels),
                    ("ref_latents", *latents),
                ];
                self.named.extend(parts.map(|(name, t)| (name.to_string(), t.convert(DType::F32))));
            }
            Event::Motion(pixels) if self.motion.is_none() => self.motion = Some((*pixels).clone()),
            Event::Step { timestep, latents, .. } => {
                self.timesteps.push(*timestep);
                self.latents.push((*latents).clone());
            }
            Event::Frame { pixels, .. } => self.frames.push((*pixels).clone()),
            _ => {}
        }
        Flow::Continue
    }

    fn outputs(mut self) -> Result<Named> {
        for name in ["clip_pixels", "ref_pixels", "ref_latents"] {
            if let Some(t) = self.named.remove(name) {
                self.named.insert(name.into(), t.nhwc_to_nchw()?);
            }
        }
        if let Some(t) = self.named.remove("clip_pixels") {
            // Every fourth pixel was recorded.
            let [_, c, h, w] = [0, 1, 2, 3].map(|i| t.shape()[i]);
            let (values, rows, columns) = (t.to_f32(), h.div_ceil(4), w.div_ceil(4));
            let at = |i: usize| (i / (rows * columns) * h + i / columns % rows * 4) * w + i % columns * 4;
            let every4 = HostTensor::from_fn([1, c, rows, columns], |i| values[at(i)]);
            self.named.insert("clip_pixels_every4".into(), every4);
        }
        if let Some(motion) = &self.motion {
            let first = part(motion, 0)?;
            self.named.insert("pose_pixels_frame0".into(), clips_of(&first, 1)?);
        }
        let steps = self.timesteps.len();
        self.named.insert("timesteps".into(), HostTensor::new([steps], self.timesteps)?);
        let latents = self.latents.iter().map(|t| clips_of(t, 1)).collect::<Result<Vec<_>>>()?;
        self.named.insert("latents".into(), joined(&latents)?);
        self.named.extend(latents.into_iter().enumerate().map(|(i, t)| (format!("latents.{i}"), t)));
        let frames: Vec<f32> = self.frames.iter().flat_map(HostTensor::to_f32).collect();
        if let Some(first) = self.frames.first() {
            let [_, h, w, c] = [0, 1, 2, 3].map(|i| first.shape()[i]);
            let video = HostTensor::new([self.frames.len(), h, w, c], frames)?;
            self.named.insert("video".into(), clips_of(&video, 1)?);
        }
        Ok(self.named)
    }
}

/// Frame `i` of `[n,H,W,C]`.
fn part(frames: &HostTensor, i: usize) -> Result<HostTensor> {
    let [_, h, w, c] = [0, 1, 2, 3].map(|i| frames.shape()[i]);
    let each = h * w * c;
    Ok(HostTensor::new([1, h, w, c], frames.to_f32()[i * each..(i + 1) * each].to_vec())?)
}

/// Tensors of one shape, with an axis for them in front.
fn joined(parts: &[HostTensor]) -> Result<HostTensor> {
    let inner = parts.first().map(|p| p.shape().dims().to_vec()).unwrap_or_default();
    let extents: Vec<usize> = [parts.len()].into_iter().chain(inner).collect();
    let values = parts.iter().flat_map(HostTensor::to_f32).collect();
    Ok(HostTensor::new(muybridge_runtime::Shape::new(&extents)?, values)?)
}
