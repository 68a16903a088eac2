//! A generated clip beside the real one it stands for: every metric per frame, in one walk over both.
//!
//! Memory is a few frames and, where the Fréchet video distance is asked for, one window of small ones.

use std::collections::BTreeMap;

use muybridge_loaders::{Frames, Picture};
use muybridge_runtime::{DType, HostTensor, Plan};
use serde::{Deserialize, Serialize};

use super::clip::i3d_frame;
use super::identity;
use super::image::{Frame, Ssim, psnr_capped, ssim};
use super::{I3d, IResNet, Lpips, Scrfd, cosine, unit};
use crate::clip::{ClipVision, Preprocess};
use crate::error::{Error, Result};
use crate::resize::{Filter, Resize};

const MODEL: &str = "evaluation";

/// Five points of a face: eyes, nose, corners of the mouth.
pub type Points = [[f32; 2]; 5];

/// A metric of frames and what it tells.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in every output.
    pub name: &'static str,
    /// What it is, in a line.
    pub what: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
}

/// Every metric of frames, in the order of tables.
pub const METRICS: &[Metric] = &[
    Metric { name: "psnr", what: "PSNR in dB, RGB, 100 for equal frames", more_is_better: true },
    Metric { name: "ssim_wang", what: "SSIM, 11x11 Gaussian, RGB", more_is_better: true },
    Metric { name: "ssim_disco", what: "SSIM, 7x7 uniform, 8-bit grey", more_is_better: true },
    Metric { name: "lpips", what: "LPIPS 0.1, pixels in [-1, 1], mean over pixels", more_is_better: false },
    Metric { name: "csim_reference", what: "cosine of ArcFace embeddings to the reference's", more_is_better: true },
    Metric { name: "csim_truth", what: "the same to the real frame's", more_is_better: true },
    Metric {
        name: "second_difference",
        what: "mean |second difference in time of generated - real|, pixels in [0, 1]",
        more_is_better: false,
    },
    Metric {
        name: "clip_consistency",
        what: "cosine of CLIP embeddings of neighbouring generated frames",
        more_is_better: true,
    },
];

/// What is known of the faces of a clip, frame by frame: nothing where none was found. Without any, a detector looks for them.
#[derive(Clone, Debug, Default)]
pub struct Faces<'a> {
    /// Of the real frames.
    pub real: &'a [Option<Points>],
    /// Of the generated frames.
    pub generated: &'a [Option<Points>],
    /// A picture of the person, and the face in it where it is known.
    pub reference: Option<(&'a Picture, Option<Points>)>,
}

/// Scores of one clip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClipScores {
    /// Its name.
    pub id: String,
    /// Number of frames.
    pub frames: usize,
    /// A number per frame for each metric (fewer for those of neighbouring frames, and where no face was found).
    pub series: BTreeMap<String, Vec<f64>>,
    /// Generated frames in which a face was found, where faces were asked for.
    pub faces: Option<usize>,
    /// I3D features of each window of the real and of the generated clip.
    pub features: [Vec<Vec<f32>>; 2],
    /// Why there are no scores.
    pub error: Option<String>,
}

impl ClipScores {
    /// The mean of a metric over the frames that have it.
    pub fn mean(&self, metric: &str) -> Option<f64> {
        let series = self.series.get(metric).filter(|s| !s.is_empty())?;
        Some(series.iter().sum::<f64>() / series.len() as f64)
    }
}

/// How clips are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocol {
    /// Width and height to which both clips are brought first (Pillow's bicubic filter); without, they must be equal.
    pub size: Option<[usize; 2]>,
    /// Frames of a window for I3D, and the step between them.
    pub window: usize,
    /// Every how many frames one enters a window.
    pub stride: usize,
    /// Side of I3D's frames.
    pub side: usize,
    /// Numbers of the networks' activations.
    pub dtype: DType,
}

/// The networks that are at hand. A metric without its network is left out.
#[derive(Debug, Default)]
pub struct Networks {
    /// For `lpips`.
    pub lpips: Option<Lpips>,
    /// For the Fréchet video distance.
    pub i3d: Option<I3d>,
    /// For `csim_*`.
    pub faces: Option<IResNet>,
    /// Finds the faces of clips that come without landmarks.
    pub detector: Option<Scrfd>,
    /// For `clip_consistency`.
    pub clip: Option<(ClipVision, Preprocess)>,
}

/// Walks over clips; plans are made once per size of frames.
#[derive(Debug)]
pub struct Evaluator {
    networks: Networks,
    protocol: Protocol,
    lpips: Option<([usize; 2], Plan)>,
    i3d: Option<Plan>,
    faces: Option<identity::Faces>,
    clip: Option<Plan>,
}

/// What one walk remembers.
#[derive(Default)]
struct Walk {
    scores: ClipScores,
    /// The last two pairs of frames.
    before: Vec<[Vec<u8>; 2]>,
    /// The embedding of the last generated frame.
    embedding: Option<Vec<f32>>,
    /// Frames of the window that fills, real and generated.
    window: [Vec<f32>; 2],
}

impl Walk {
    fn enter(&mut self, metric: &str, value: f64) {
        self.scores.series.entry(metric.into()).or_default().push(value);
    }
}

impl Evaluator {
    /// For these networks.
    ///
    /// # Errors
    /// A protocol that cannot be followed, and what making plans can fail with.
    pub fn new(mut networks: Networks, protocol: Protocol) -> Result<Evaluator> {
        if protocol.window == 0 || protocol.stride == 0 {
            return Err(Error::call(MODEL, "windows and steps of 0 frames"));
        }
        let Protocol { window, side, dtype, .. } = protocol;
        let i3d = networks.i3d.as_ref().map(|n| n.plan(1, window, [side, side], dtype)).transpose()?;
        let detector = networks.detector.take();
        let faces = networks.faces.take().map(|n| identity::Faces::new(n, detector, dtype)).transpose()?;
        let clip = networks.clip.as_ref().map(|(n, _)| n.plan(1, 0, dtype)).transpose()?;
        Ok(Evaluator { networks, protocol, lpips: None, i3d, faces, clip })
    }

    /// Scores of a pair of clips.
    ///
    /// # Errors
    /// Frames that cannot be read, clips of different length or size, and the errors of the networks.
    pub fn clip(&mut self, id: &str, real: Frames, generated: Frames, faces: &Faces<'_>) -> Result<ClipScores> {
        let mut walk = Walk::default();
        walk.scores.id = id.into();
        let reference = self.reference(faces)?;
        let (mut real, mut generated) = (real, generated);
        loop {
            let pair = match (real.next().transpose()?, generated.next().transpose()?) {
                (Some(real), Some(generated)) => [self.sized(real)?, self.sized(generated)?],
                (None, None) => break,
                (real, _) => {
                    let (longer, n) = (if real.is_some() { "real" } else { "generated" }, walk.scores.frames);
                    return Err(Error::call(MODEL, format!("only the {longer} clip has more than {n} frames")));
                }
            };
            self.pair(&mut walk, &pair)?;
            if let Some(networks) = &self.faces {
                identity(networks, &mut walk, &pair, faces, reference.as_deref())?;
            }
            walk.scores.frames += 1;
        }
        if walk.scores.frames == 0 {
            return Err(Error::call(MODEL, "no frames"));
        }
        Ok(walk.scores)
    }

    fn sized(&self, picture: Picture) -> Result<Picture> {
        let picture = picture.rgb();
        match self.protocol.size {
            Some([w, h]) if (picture.width, picture.height) != (w, h) => picture.resize(w, h, Filter::Bicubic),
            _ => Ok(picture),
        }
    }

    /// All but identity.
    fn pair(&mut self, walk: &mut Walk, [real, generated]: &[Picture; 2]) -> Result<()> {
        let [a, b] = [frame(real)?, frame(generated)?];
        walk.enter("psnr", psnr_capped(&a, &b)?);
        walk.enter("ssim_wang", ssim(&a, &b, Ssim::Gaussian)?);
        walk.enter("ssim_disco", ssim(&a, &b, Ssim::Disco)?);
        if let [first, second] = &walk.before[..] {
            let value =
                second_difference([&first[0], &second[0], &real.pixels], [&first[1], &second[1], &generated.pixels]);
            walk.enter("second_difference", value);
            walk.before.remove(0);
        }
        walk.before.push([real.pixels.clone(), generated.pixels.clone()]);
        self.perceptual(walk, real, generated)?;
        if let (Some((net, preprocess)), Some(plan)) = (&self.networks.clip, &self.clip) {
            let now = embed(net, preprocess, plan, std::slice::from_ref(generated), self.protocol.dtype)?.concat();
            if let Some(last) = walk.embedding.replace(now.clone()) {
                walk.enter("clip_consistency", cosine(&last, &now));
            }
        }
        self.window(walk, [real, generated])
    }

    fn perceptual(&mut self, walk: &mut Walk, real: &Picture, generated: &Picture) -> Result<()> {
        let Some(net) = &self.networks.lpips else { return Ok(()) };
        let size = [real.height, real.width];
        let plan = match &mut self.lpips {
            Some((planned, plan)) if *planned == size => plan,
            other => &mut other.insert((size, net.plan(1, size, false, self.protocol.dtype)?)).1,
        };
        let both: Vec<f32> = real.pixels.iter().chain(&generated.pixels).map(|v| f32::from(*v) / 127.5 - 1.0).collect();
        let pictures = HostTensor::new([2, size[0], size[1], 3], both)?.convert(self.protocol.dtype);
        let (distances, _) = net.distances(plan, &pictures)?;
        walk.enter("lpips", distances.first().map_or(f64::NAN, |d| f64::from(*d)));
        Ok(())
    }

    /// Fills the window, and runs I3D on both clips when it is full. A last one that is not full is left out.
    fn window(&self, walk: &mut Walk, pair: [&Picture; 2]) -> Result<()> {
        let (Some(net), Some(plan)) = (&self.networks.i3d, &self.i3d) else { return Ok(()) };
        let Protocol { window, stride, side, dtype, .. } = self.protocol;
        if !walk.scores.frames.is_multiple_of(stride) {
            return Ok(());
        }
        for (i, picture) in pair.into_iter().enumerate() {
            let pixels: Vec<f32> = picture.pixels.iter().map(|v| f32::from(*v) / 255.0).collect();
            walk.window[i].extend(i3d_frame(&pixels, [picture.height, picture.width], side)?);
            if walk.window[i].len() == window * side * side * 3 {
                let clip = std::mem::take(&mut walk.window[i]);
                let clip = HostTensor::new([1, window, side, side, 3], clip)?.convert(dtype);
                walk.scores.features[i].extend(net.logits(plan, &clip)?);
            }
        }
        Ok(())
    }

    /// The embedding of the person's own picture.
    fn reference(&self, faces: &Faces<'_>) -> Result<Option<Vec<f32>>> {
        let (Some(networks), Some((picture, points))) = (&self.faces, faces.reference) else { return Ok(None) };
        let points = if points.is_some() { points } else { networks.find(picture)? };
        points.map(|p| networks.embed(picture, &p)).transpose()
    }
}

/// The face of this frame: as the landmarks say, where a clip has some, or as the detector finds it.
fn face_of(
    networks: &identity::Faces,
    given: &[Option<Points>],
    frame: usize,
    picture: &Picture,
) -> Result<Option<Points>> {
    if given.is_empty() { networks.find(picture) } else { Ok(given.get(frame).copied().flatten()) }
}

fn identity(
    networks: &identity::Faces,
    walk: &mut Walk,
    [real, generated]: &[Picture; 2],
    faces: &Faces<'_>,
    reference: Option<&[f32]>,
) -> Result<()> {
    let frame = walk.scores.frames;
    let found = walk.scores.faces.get_or_insert(0);
    let Some(points) = face_of(networks, faces.generated, frame, generated)? else { return Ok(()) };
    *found += 1;
    let own = networks.embed(generated, &points)?;
    if let Some(reference) = reference {
        walk.enter("csim_reference", cosine(reference, &own));
    }
    if let Some(points) = face_of(networks, faces.real, frame, real)? {
        walk.enter("csim_truth", cosine(&networks.embed(real, &points)?, &own));
    }
    Ok(())
}

fn frame(picture: &Picture) -> Result<Frame<'_>> {
    Frame::new(picture.width, picture.height, &picture.pixels)
}

/// CLIP embeddings of pictures, each of length 1, by a plan for as many pictures or more with no layer skipped.
///
/// # Errors
/// More pictures than the plan is for, a network without a projection, and the errors of the device.
pub fn embed(
    net: &ClipVision,
    preprocess: &Preprocess,
    plan: &Plan,
    pictures: &[Picture],
    dtype: DType,
) -> Result<Vec<Vec<f32>>> {
    let none = || Error::call("CLIPVisionModelWithProjection", "no visual_projection.weight");
    let place = plan.outputs().position(|(name, _)| name == "image_embeds").ok_or_else(none)?;
    let desc = plan.inputs().next().map(|(_, d)| d).ok_or_else(none)?;
    let mut patches = Vec::with_capacity(desc.shape.count());
    for picture in pictures {
        patches.extend(net.patches(&preprocess.apply(picture)?)?.to_f32());
    }
    if patches.len() > desc.shape.count() {
        return Err(Error::call(MODEL, format!("{} pictures for a plan of {}", pictures.len(), desc.shape[0])));
    }
    // What is left of the batch is zeros, and nobody looks at it.
    patches.resize(desc.shape.count(), 0.0);
    let results = plan.run_host(&[&HostTensor::new(desc.shape, patches)?.convert(dtype)])?;
    let all = results[place].to_f32();
    let width = (all.len() / desc.shape[0].max(1)).max(1);
    Ok(all.chunks(width).take(pictures.len()).map(unit).collect())
}

/// The mean over all pixels of `|Δ² generated − Δ² real|`, with Δ² the second difference of three frames in a row, in [0, 1].
fn second_difference(real: [&[u8]; 3], generated: [&[u8]; 3]) -> f64 {
    let second = |f: &[&[u8]; 3], i: usize| f64::from(f[2][i]) - 2.0 * f64::from(f[1][i]) + f64::from(f[0][i]);
    let count = real.iter().chain(&generated).map(|f| f.len()).min().unwrap_or(0);
    let sum: f64 = (0..count).map(|i| (second(&generated, i) - second(&real, i)).abs()).sum();
    sum / 255.0 / count.max(1) as f64
}
