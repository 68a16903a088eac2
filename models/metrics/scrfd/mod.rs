//! SCRFD: where faces are in a picture, and five points of each.
//!
//! Guo et al., "Sample and computation redistribution for efficient face detection" (2021): a residual network, a pyramid of
//! features with a path up again, and at each cell of each level anchors with a score, a box and five points. Depths and widths
//! are those of the checkpoint.
//!
//! Names are those of insightface's training code (`scrfd_2.5g_bnkps`, `scrfd_10g_bnkps`): `backbone.stem.*`,
//! `backbone.layer1.0.{conv1,bn1,conv2,bn2,downsample.*}`, `neck.{lateral_convs,fpn_convs,downsample_convs,pafpn_convs}.N.conv`,
//! `bbox_head.cls_stride_convs.(8, 8).N.{conv,bn}`, `bbox_head.{stride_cls,stride_reg,stride_kps}.(8, 8)`,
//! `bbox_head.scales.N.scale`. A convolution with a bias and no norm beside it has its norm folded in, as in the ONNX files.

mod faces;
mod network;

use std::path::Path;

use muybridge_loaders::{LoadReport, Picture, Weights};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc};

use self::faces::{Level, suppressed};
use self::network::Network;
use super::evaluate::Points;
use crate::error::{Error, Result};

const MODEL: &str = "SCRFD";

/// Side of the square in which insightface looks for faces.
pub const SIDE: usize = 640;

/// Scores below this are no face, and boxes that share more of their area than this are one: insightface's defaults.
pub const THRESHOLD: f32 = 0.5;
const OVERLAP: f32 = 0.4;

/// A face in a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Face {
    /// How sure the network is, within 0 and 1.
    pub score: f32,
    /// Left, top, right and bottom.
    pub bounds: [f32; 4],
    /// Eyes, nose and corners of the mouth.
    pub points: Points,
}

/// The network.
#[derive(Clone, Debug)]
pub struct Scrfd {
    network: Network,
    report: LoadReport,
    device: Device,
}

impl Scrfd {
    /// Opens a checkpoint's folder or file.
    ///
    /// # Errors
    /// Files that cannot be used, and those of [`Scrfd::of`].
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Scrfd> {
        Scrfd::of(Weights::open(path)?.strip_wrappers()?, device)
    }

    /// The network that these weights are of.
    ///
    /// # Errors
    /// Tensors that are missing, do not fit each other, or that nothing asks for; a variant without points, with group norms or
    /// with depthwise convolutions.
    pub fn of(weights: Weights, device: &Device) -> Result<Scrfd> {
        let network = Network::open(&weights)?;
        // The bins of a distribution that these variants do not predict.
        weights.ignore("bbox_head.integral.project");
        Ok(Scrfd { network, report: weights.finish()?, device: device.clone() })
    }

    /// What was loaded.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// A plan for `images [batch,height,width,3]`, RGB as `(v − 127.5) / 128`, to `score.S [batch,H/S,W/S,A]` (logits),
    /// `bounds.S [..,4A]` and `points.S [..,10A]` for each stride S, distances in strides.
    ///
    /// # Errors
    /// Extents that are no multiple of 32, a device that fails, too little memory.
    pub fn plan(&self, batch: usize, size: [usize; 2], dtype: DType) -> Result<Plan> {
        if size.iter().any(|n| *n == 0 || !n.is_multiple_of(32)) {
            let reason = format!("pictures of {} x {}, wanted multiples of 32", size[1], size[0]);
            return Err(Error::call(MODEL, reason));
        }
        let mut g = Graph::new();
        let x = g.input("images", TensorDesc::new([batch, size[0], size[1], 3], dtype));
        self.network.build(&mut g, x)?;
        Ok(Plan::new(&g, &self.device)?)
    }

    /// The faces of a picture, the surest first, by a plan for one picture: it is brought into the plan's size with its sides'
    /// ratio kept, black beside it.
    ///
    /// # Errors
    /// A plan for several pictures, an empty picture, and the errors of the device.
    pub fn detect(&self, plan: &Plan, picture: &Picture, threshold: f32) -> Result<Vec<Face>> {
        let desc = plan.inputs().next().map(|(_, d)| d).ok_or_else(|| Error::call(MODEL, "a plan without operands"))?;
        let &[1, height, width, 3] = desc.shape.dims() else {
            return Err(Error::call(MODEL, format!("a plan for {desc}, wanted one picture")));
        };
        let (pixels, scale) = faces::boxed(&picture.clone().rgb(), [height, width])?;
        let results = plan.run_host(&[&HostTensor::new(desc.shape, pixels)?.convert(desc.dtype)])?;
        let mut found = Vec::new();
        for (i, stride) in self.network.strides().into_iter().enumerate() {
            let of = |name: &str| {
                let place = plan.outputs().position(|(n, _)| n == format!("{name}.{stride}"));
                let missing = || Error::call(MODEL, format!("a plan without {name}.{stride}"));
                place.map(|p| results[p].to_f32()).ok_or_else(missing)
            };
            let level = Level {
                stride,
                columns: width / stride,
                anchors: self.network.anchors(),
                factor: self.network.scale(i),
                scores: &of("score")?,
                bounds: &of("bounds")?,
                points: &of("points")?,
            };
            found.extend(level.faces(threshold));
        }
        let mut kept = suppressed(found, OVERLAP);
        kept.iter_mut().for_each(|f| f.shrink(scale));
        Ok(kept)
    }
}

impl Face {
    fn shrink(&mut self, scale: f32) {
        self.bounds.iter_mut().chain(self.points.iter_mut().flatten()).for_each(|v| *v /= scale);
    }
}

/// The face that a picture is of: the largest, with some weight on the middle, as insightface chooses.
pub fn main_face(faces: &[Face], [width, height]: [usize; 2]) -> Option<&Face> {
    let middle = [(width / 2) as f32, (height / 2) as f32];
    let value = |f: &Face| {
        let [left, top, right, bottom] = f.bounds;
        let off = [(left + right) / 2.0 - middle[0], (top + bottom) / 2.0 - middle[1]];
        (right - left) * (bottom - top) - 2.0 * (off[0] * off[0] + off[1] * off[1])
    };
    faces.iter().max_by(|a, b| value(a).total_cmp(&value(b)))
}
