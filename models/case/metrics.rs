//! Cases of the metrics: `iresnet`, `scrfd`, `lpips` and `i3d` on a device, `formulas` on the host.

use std::collections::BTreeMap;

use muybridge_runtime::{DType, HostTensor, Shape};

use super::Call;
use crate::error::Result;
use crate::metrics::frechet::Moments;
use crate::metrics::image::{self, Frame, Ssim};
use crate::metrics::{I3d, IResNet, Lpips, Scrfd, clip, cosine, i3d, unit};

type Named = BTreeMap<String, HostTensor>;

pub(super) fn iresnet(call: &Call<'_>) -> Result<Named> {
    forward(call)?;
    let (_, weights) = call.component("")?;
    let net = IResNet::of(weights, call.device)?;
    let [batch, _, height, width] = call.map_extents("images")?;
    if [height, width] != [112, 112] {
        return Err(call.wrong(format!("images of {width} x {height} pixels, wanted 112 x 112")));
    }
    let results = net.plan(batch, call.dtype)?.run_host(&[&call.map("images")?])?;
    let all = results.first().map(HostTensor::to_f32).unwrap_or_default();
    let rows: Vec<&[f32]> = all.chunks(net.width()).collect();
    let normalized: Vec<Vec<f32>> = rows.iter().map(|r| unit(r)).collect();
    let cosines = rows.iter().map(|r| cosine(r, rows[0]) as f32).collect();
    let named = [
        ("embedding", HostTensor::new([batch, net.width()], all.clone())?),
        ("normalized", HostTensor::new([batch, net.width()], normalized.concat())?),
        ("cosine_to_first", HostTensor::new([batch, 1], cosines)?),
    ];
    Ok(named.map(|(name, tensor)| (name.to_string(), tensor)).into())
}

/// Scores, boxes and points of every level, as the network gives them.
pub(super) fn scrfd(call: &Call<'_>) -> Result<Named> {
    forward(call)?;
    call.known_args(&[])?;
    let (_, weights) = call.component("")?;
    let net = Scrfd::of(weights, call.device)?;
    let [batch, _, height, width] = call.map_extents("images")?;
    let plan = net.plan(batch, [height, width], call.dtype)?;
    let results = plan.run_host(&[&call.map("images")?])?;
    let named = plan.outputs().zip(&results);
    named.map(|((name, _), tensor)| Ok((name.to_string(), super::recorded_layout(tensor)?))).collect()
}

pub(super) fn lpips(call: &Call<'_>) -> Result<Named> {
    forward(call)?;
    call.known_args(&["normalize"])?;
    let (config, weights) = call.component("")?;
    let trunk = config.str("net")?.parse().map_err(|e| config.error("net", e))?;
    let metric = Lpips::of(trunk, weights, call.device)?;
    let [batch, _, height, width] = call.map_extents("in0")?;
    if call.map_extents("in1")? != call.map_extents("in0")? {
        return Err(call.wrong("in0 and in1 differ in their extents"));
    }
    let plan = metric.plan(batch, [height, width], call.flag("normalize"), call.dtype)?;
    let both = [call.input("in0")?, call.input("in1")?].map(|t| t.nchw_to_nhwc().map(|t| t.to_f32()));
    let [in0, in1] = both;
    let pictures = HostTensor::new([2 * batch, height, width, 3], [in0?, in1?].concat())?.convert(call.dtype);
    let (total, layers) = metric.distances(&plan, &pictures)?;
    let named = |name: String, v: Vec<f32>| Ok((name, HostTensor::new([batch, 1, 1, 1], v)?));
    let layers = layers.into_iter().enumerate().map(|(i, l)| (format!("layer.{i}"), l));
    layers.chain([("distance".to_string(), total)]).map(|(name, v)| named(name, v)).collect()
}

pub(super) fn i3d(call: &Call<'_>) -> Result<Named> {
    forward(call)?;
    call.known_args(&[])?;
    let (config, weights) = call.component("")?;
    let source = config.str("source")?.parse().map_err(|e| config.error("source", e))?;
    let net = I3d::of(weights, source, call.device)?;
    let video = call.input("video")?;
    let &[batch, 3, frames, height, width] = video.shape().dims() else {
        return Err(call.wrong(format!("video {}, wanted [B,3,T,H,W]", video.shape())));
    };
    let plan = net.plan(batch, frames, [height, width], call.dtype)?;
    let results = plan.run_host(&[&video.permute(&[0, 2, 3, 4, 1])?.convert(call.dtype)])?;
    let [logits, features] = &results[..] else { return Err(call.wrong("the network has other results")) };
    let rows = i3d::mean_over_time(logits).concat();
    let features = features.convert(DType::F32).permute(&[0, 4, 1, 2, 3])?;
    Ok([("logits".into(), HostTensor::new([batch, net.classes()], rows)?), ("features".into(), features)].into())
}

fn forward(call: &Call<'_>) -> Result<()> {
    if call.record.op == "forward" { Ok(()) } else { Err(call.unknown_op()) }
}

pub(super) fn formulas(call: &Call<'_>) -> Result<Named> {
    match call.record.op.as_str() {
        "image" => pictures(call),
        "frechet" => frechet(call),
        "cosine" => cosines(call),
        "i3d_preprocess" => preprocess(call),
        _ => Err(call.unknown_op()),
    }
}

fn scalars(values: impl IntoIterator<Item = (&'static str, f64)>) -> Result<Named> {
    let one = |(name, value): (&'static str, f64)| Ok((name.to_string(), HostTensor::new([1], vec![value as f32])?));
    values.into_iter().map(one).collect()
}

fn pictures(call: &Call<'_>) -> Result<Named> {
    call.known_args(&[])?;
    let bytes = |name: &str| -> Result<(Vec<u8>, [usize; 2])> {
        let t = call.input(name)?;
        let &[height, width, 3] = t.shape().dims() else {
            return Err(call.wrong(format!("{name} {}, wanted [H,W,3]", t.shape())));
        };
        Ok((t.to_f32().into_iter().map(|v| v as u8).collect(), [height, width]))
    };
    let ((a, [h, w]), (b, [h2, w2])) = (bytes("a")?, bytes("b")?);
    let (a, b) = (Frame::new(w, h, &a)?, Frame::new(w2, h2, &b)?);
    let ssim = |variant| image::ssim(&a, &b, variant);
    // Only what was recorded: small pictures have some of the variants and not others.
    let value = |name: &String| -> Result<(String, HostTensor)> {
        let value = match name.as_str() {
            "psnr.skimage_uint8" | "psnr.unit" | "psnr.torchmetrics_unit" => image::psnr(&a, &b),
            "l1.unit" => image::l1(&a, &b),
            "mse.unit" => image::mse(&a, &b),
            // SSIM does not change when pixels and their range are both divided by 255.
            "ssim.skimage_default_uint8" | "ssim.skimage_default_unit" => ssim(Ssim::Default),
            "ssim.skimage_gaussian_wang" | "ssim.gauss11_valid_unit" => ssim(Ssim::Gaussian),
            "ssim.skimage_default_gray" => ssim(Ssim::DefaultGray),
            "ssim.torchmetrics_unit" => ssim(Ssim::GaussianReflected),
            _ => return Err(call.wrong(format!("output {name}, which no metric of pictures has"))),
        };
        Ok((name.clone(), HostTensor::new([1], vec![value? as f32])?))
    };
    call.record.outputs.keys().map(value).collect()
}

fn frechet(call: &Call<'_>) -> Result<Named> {
    call.known_args(&[])?;
    let moments = |name: &str| -> Result<Moments> {
        let t = call.input(name)?;
        Moments::of(t.to_f32().chunks(t.shape().last().max(1)))
    };
    let d = moments("f1")?.distance(&moments("f2")?)?;
    scalars([
        ("mean_term", d.mean_term),
        ("trace_sqrt", d.trace_sqrt),
        ("frechet.styleganv", d.distance),
        ("frechet.symmetric", d.distance),
    ])
}

fn cosines(call: &Call<'_>) -> Result<Named> {
    call.known_args(&[])?;
    let (e1, e2) = (call.input("e1")?, call.input("e2")?);
    if e1.shape() != e2.shape() {
        return Err(call.wrong(format!("e1 {} and e2 {}", e1.shape(), e2.shape())));
    }
    let (width, a, b) = (e1.shape().last().max(1), e1.to_f32(), e2.to_f32());
    let cosines: Vec<f32> = a.chunks(width).zip(b.chunks(width)).map(|(a, b)| cosine(a, b) as f32).collect();
    Ok([("cosine".to_string(), HostTensor::new([cosines.len()], cosines)?)].into())
}

/// Clips in [0, 1] as I3D takes them; in VideoGPT's code by way of 8 bits, cut.
fn preprocess(call: &Call<'_>) -> Result<Named> {
    call.known_args(&["resolution"])?;
    let (video, side) = (call.input("video")?, call.side("resolution")?);
    let &[batch, 3, frames, height, width] = video.shape().dims() else {
        return Err(call.wrong(format!("video {}, wanted [B,3,T,H,W]", video.shape())));
    };
    let video = video.permute(&[0, 2, 3, 4, 1])?.to_f32();
    let whole = |value: &dyn Fn(f32) -> f32| -> Result<HostTensor> {
        let pixels: Vec<f32> = video.iter().map(|v| value(*v)).collect();
        let each = pixels.chunks((height * width * 3).max(1)).map(|f| clip::i3d_frame(f, [height, width], side));
        let all = each.collect::<Result<Vec<_>>>()?.concat();
        let shape = Shape::from([batch, frames, side, side, 3]);
        Ok(HostTensor::new(shape, all)?.permute(&[0, 4, 1, 2, 3])?)
    };
    let bytes = |v: f32| (v * 255.0).clamp(0.0, 255.0).floor() / 255.0;
    Ok([("styleganv".into(), whole(&|v| v)?), ("videogpt".into(), whole(&bytes)?)].into())
}
