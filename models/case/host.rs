//! Kinds that need no device: `scheduler`, `rng`, `resize` and `aa_context`.

use std::collections::BTreeMap;

use muybridge_loaders::Config;
use muybridge_runtime::{HostTensor, Shape};
use serde_json::Value as Json;

use super::{Call, MOST_SIDE};
use crate::context::{Between, Windows, interpolate};
use crate::error::{Error, Result};
use crate::noise::{NoiseSource, TorchCpu, TorchCuda};
use crate::resize::{Picture, Resize};
use crate::schedulers::{self, At, Churn, Run, Scheduler, StepInput};

type Named = BTreeMap<String, HostTensor>;

pub(super) fn run(call: &Call<'_>) -> Result<Named> {
    match (call.case.kind(), call.record.op.as_str()) {
        ("scheduler", "tables") => tables(call),
        ("scheduler", "add_noise") => add_noise(call),
        ("scheduler", "trajectory") => trajectory(call),
        ("rng", "randn" | "randn_sequence") => randn(call),
        ("resize", "resize") => resize(call),
        ("aa_context", "windows") => windows(call),
        ("aa_context", "interpolate") => between(call),
        _ => Err(call.unknown_op()),
    }
}

impl Call<'_> {
    pub(super) fn known_args(&self, known: &[&str]) -> Result<()> {
        match self.record.args.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(self.wrong(format!("argument {name:?} is not known to op {:?}", self.record.op))),
            None => Ok(()),
        }
    }

    fn integer(&self, name: &str) -> Result<u64> {
        let found = self.record.args.get(name).and_then(Json::as_u64);
        found.ok_or_else(|| self.wrong(format!("no whole number {name:?}")))
    }

    pub(super) fn extent(&self, name: &str) -> Result<usize> {
        usize::try_from(self.integer(name)?).map_err(|e| self.wrong(format!("{name}: {e}")))
    }

    /// Pixels of a picture's side.
    pub(super) fn side(&self, name: &str) -> Result<usize> {
        match self.extent(name)? {
            n @ 1..=MOST_SIDE => Ok(n),
            n => Err(self.wrong(format!("{name} {n}, wanted 1 to {MOST_SIDE}"))),
        }
    }

    fn text(&self, name: &str) -> Result<&str> {
        let found = self.record.args.get(name).and_then(Json::as_str);
        found.ok_or_else(|| self.wrong(format!("no text {name:?}")))
    }

    fn list<T>(&self, name: &str, each: impl Fn(&Json) -> Option<T>) -> Result<Vec<T>> {
        let list = self.record.args.get(name).and_then(Json::as_array);
        let list = list.and_then(|l| l.iter().map(each).collect::<Option<Vec<T>>>());
        list.ok_or_else(|| self.wrong(format!("no list {name:?}")))
    }

    fn scheduler(&self) -> Result<Box<dyn Scheduler>> {
        let component = self.case.record.components.get("").ok_or_else(|| self.wrong("no component"))?;
        let file = component.config.as_deref().unwrap_or("scheduler_config.json");
        schedulers::open(&Config::open(self.case.dir.join(file))?)
    }
}

fn vector(values: Vec<f32>) -> Result<HostTensor> {
    Ok(HostTensor::new([values.len()], values)?)
}

fn tables(call: &Call<'_>) -> Result<Named> {
    call.known_args(&[])?;
    let scheduler = call.scheduler()?;
    let tables = scheduler.tables().ok_or_else(|| call.wrong("this scheduler has no tables"))?;
    let named = [("betas", &tables.betas), ("alphas_cumprod", &tables.alphas_cumprod)];
    named.into_iter().map(|(name, values)| Ok((name.to_string(), vector(values.clone())?))).collect()
}

const RUN: [&str; 12] = [
    "num_inference_steps",
    "begin_index",
    "eta",
    "use_clipped_model_output",
    "s_churn",
    "s_tmin",
    "s_tmax",
    "s_noise",
    "mu",
    "strength",
    "original_inference_steps",
    "model",
];

fn options(call: &Call<'_>) -> Result<Run> {
    let plain = Churn::default();
    let given = |name: &str| call.record.args.get(name).is_some_and(|v| !v.is_null());
    let to = if given("s_tmax") && call.text("s_tmax").is_err() { call.number("s_tmax")? } else { plain.to };
    Ok(Run {
        steps: call.extent("num_inference_steps")?,
        eta: call.number_or("eta", 0.0)?,
        use_clipped_model_output: call.flag("use_clipped_model_output"),
        churn: Churn {
            amount: call.number_or("s_churn", 0.0)?,
            from: call.number_or("s_tmin", plain.from)?,
            to,
            noise: call.number_or("s_noise", plain.noise)?,
        },
        mu: if given("mu") { Some(call.number("mu")?) } else { None },
        strength: call.number_or("strength", 1.0)?,
        original_steps: if given("original_inference_steps") {
            Some(call.extent("original_inference_steps")?)
        } else {
            None
        },
    })
}

fn add_noise(call: &Call<'_>) -> Result<Named> {
    call.known_args(&[RUN.as_slice(), &["timestep_indices"]].concat())?;
    let mut scheduler = call.scheduler()?;
    let mut named = Named::new();
    let timesteps = if call.record.args.contains_key("timestep_indices") {
        scheduler.set_timesteps(&options(call)?)?;
        let pick = |i: &Json| i.as_u64().and_then(|i| scheduler.timesteps().get(usize::try_from(i).ok()?).copied());
        let picked = call.list("timestep_indices", pick)?;
        named.insert("timesteps".into(), vector(picked.clone())?);
        picked
    } else {
        call.input("timestep")?.to_f32()
    };
    let (sample, noise) = (call.input("sample")?, call.input("noise")?);
    let places: Vec<At> = timesteps.into_iter().map(At::Timestep).collect();
    let (x, z) = (sample.to_f32(), noise.to_f32());
    named.insert("noisy".into(), HostTensor::new(sample.shape(), scheduler.add_noise(&x, &z, &places)?)?);
    if call.record.outputs.contains_key("velocity") {
        named.insert("velocity".into(), HostTensor::new(sample.shape(), scheduler.velocity(&x, &z, &places)?)?);
    }
    Ok(named)
}

/// The tensors of an input one after the other.
struct Recorded {
    noise: Vec<f32>,
    taken: usize,
}

impl NoiseSource for Recorded {
    fn normal(&mut self, n: usize) -> Result<Vec<f32>> {
        let left = self.noise.get(self.taken..self.taken + n);
        let drawn = left.ok_or_else(|| Error::call("case", "more noise is drawn than was recorded"))?;
        self.taken += n;
        Ok(drawn.to_vec())
    }
}

/// A run with a network that is no network: `a·x + b·fixed + c·t/1000`.
fn trajectory(call: &Call<'_>) -> Result<Named> {
    call.known_args(&RUN)?;
    let mut scheduler = call.scheduler()?;
    scheduler.set_timesteps(&options(call)?)?;
    let model =
        if call.record.args.contains_key("model") { call.list("model", Json::as_f64)? } else { vec![0.1, 1.0, 0.05] };
    let [a, b, c] = model[..] else { return Err(call.wrong("model: wanted three numbers")) };
    let first = if call.record.args.contains_key("begin_index") { call.extent("begin_index")? } else { 0 };
    let (shape, fixed) = (call.input("sample")?.shape(), call.input("fixed")?.to_f32());
    let batch = shape.dims().first().copied().unwrap_or(1);
    let mut sample = call.input("sample")?.to_f32();
    if first > 0 {
        let places = vec![At::Step(first); batch];
        sample = scheduler.add_noise(&sample, &call.input("start_noise")?.to_f32(), &places)?;
    } else {
        sample.iter_mut().for_each(|x| *x *= scheduler.init_noise_sigma());
    }
    let noise = if call.has("noise") { call.input("noise")?.to_f32() } else { Vec::new() };
    let mut source = Recorded { noise, taken: 0 };
    let timesteps = scheduler.timesteps().to_vec();
    let (mut walked, mut scaled, mut originals, mut drawn) = (sample.clone(), Vec::new(), Vec::new(), Vec::new());
    for (i, t) in timesteps.iter().enumerate().skip(first) {
        let x = scheduler.scale_model_input(&sample, i)?;
        let predict =
            |(x, f): (&f32, &f32)| (a * f64::from(*x) + b * f64::from(*f) + c * f64::from(*t) / 1000.0) as f32;
        let output: Vec<f32> = x.iter().zip(&fixed).map(predict).collect();
        let before = source.taken;
        let step = scheduler.step(i, &StepInput { sample: &sample, output: &output, batch }, &mut source)?;
        drawn.push(f32::from(u8::from(source.taken > before)));
        sample = step.prev_sample;
        walked.extend_from_slice(&sample);
        scaled.extend(x);
        originals.extend(step.pred_original.into_iter().flatten());
    }
    let along = |values: Vec<f32>| -> Result<HostTensor> {
        let steps = values.len() / shape.count().max(1);
        let extents: Vec<usize> = [steps].into_iter().chain(shape.dims().iter().copied()).collect();
        Ok(HostTensor::new(Shape::new(&extents)?, values)?)
    };
    let mut named = Named::from([
        ("timesteps".to_string(), vector(timesteps)?),
        ("sigmas".to_string(), vector(scheduler.sigmas().to_vec())?),
        ("init_noise_sigma".to_string(), vector(vec![scheduler.init_noise_sigma()])?),
        ("trajectory".to_string(), along(walked)?),
        ("scaled_inputs".to_string(), along(scaled)?),
        ("noise_drawn".to_string(), vector(drawn)?),
    ]);
    if !originals.is_empty() {
        named.insert("pred_original".into(), along(originals)?);
    }
    Ok(named)
}

fn randn(call: &Call<'_>) -> Result<Named> {
    call.known_args(&["generator", "seed", "shape", "shapes"])?;
    let seed = call.integer("seed")?;
    let mut source: Box<dyn NoiseSource> = match call.text("generator")? {
        "torch_cpu" => Box::new(TorchCpu::new(seed)),
        "torch_cuda" => Box::new(TorchCuda::new(seed)),
        other => return Err(call.wrong(format!("generator {other:?} is not known; known: torch_cpu, torch_cuda"))),
    };
    let extents = |shape: &Json| -> Option<Vec<usize>> {
        shape.as_array()?.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
    };
    let shapes = match call.record.op.as_str() {
        "randn" => vec![call.record.args.get("shape").and_then(extents).ok_or_else(|| call.wrong("no shape"))?],
        _ => call.list("shapes", extents)?,
    };
    let names: &[&str] =
        if call.record.op == "randn" { &["noise"] } else { &["first", "second", "third", "fourth", "fifth", "sixth"] };
    if shapes.len() > names.len() {
        return Err(call.wrong(format!("{} shapes, at most {} are drawn", shapes.len(), names.len())));
    }
    let mut draw = |(name, extents): (&&str, &Vec<usize>)| -> Result<(String, HostTensor)> {
        let shape = call.shape(extents)?;
        Ok((name.to_string(), HostTensor::new(shape, source.normal(shape.count())?)?))
    };
    names.iter().zip(&shapes).map(&mut draw).collect()
}

fn resize(call: &Call<'_>) -> Result<Named> {
    call.known_args(&["width", "height", "filter"])?;
    let image = call.input("image")?;
    let (height, width, channels) = match *image.shape().dims() {
        [height, width] => (height, width, 1),
        [height, width, channels] => (height, width, channels),
        _ => return Err(call.wrong(format!("an image of shape {}", image.shape()))),
    };
    let pixels = image.to_f32().into_iter().map(|p| p as u8).collect();
    let filter = call.text("filter")?.parse().map_err(|e| call.wrong(e))?;
    let picture = Picture { width, height, channels, pixels };
    let resized = picture.resize(call.side("width")?, call.side("height")?, filter)?;
    let extents = [resized.height, resized.width, channels];
    let shape = Shape::new(&extents[..image.shape().rank()])?;
    let pixels: Vec<f32> = resized.pixels.into_iter().map(f32::from).collect();
    Ok([("image".to_string(), HostTensor::new(shape, pixels)?)].into())
}

fn windows(call: &Call<'_>) -> Result<Named> {
    call.known_args(&["num_frames", "context_frames", "context_stride", "context_overlap", "step", "closed_loop"])?;
    let cut = Windows {
        frames: call.extent("num_frames")?,
        size: call.extent("context_frames")?,
        strides: call.extent("context_stride")?,
        overlap: call.extent("context_overlap")?,
        closed: call.record.args.get("closed_loop").and_then(Json::as_bool).unwrap_or(true),
    };
    let step = if call.record.args.contains_key("step") { call.integer("step")? } else { 0 };
    let windows = cut.at(step)?;
    let size = windows.iter().map(Vec::len).max().unwrap_or(0);
    let padded = |w: &Vec<usize>| (0..size).map(|k| w.get(k).map_or(-1.0, |f| *f as f32)).collect::<Vec<_>>();
    let rows: Vec<f32> = windows.iter().flat_map(padded).collect();
    Ok([("windows".to_string(), HostTensor::new([windows.len(), size], rows)?)].into())
}

fn between(call: &Call<'_>) -> Result<Named> {
    call.known_args(&["slerp", "factor"])?;
    let latents = call.input("latents")?;
    let &[batch, channels, frames, height, width] = latents.shape().dims() else {
        return Err(call.wrong(format!("latents of shape {}, wanted [B,C,F,H,W]", latents.shape())));
    };
    let way = if call.flag("slerp") { Between::Slerp } else { Between::Linear };
    let factor = call.extent("factor")?;
    let values = interpolate(&latents.to_f32(), [batch * channels, frames, height * width], factor, way)?;
    let longer = values.len() / (batch * channels * height * width).max(1);
    let extents = [batch, channels, longer, height, width];
    Ok([("latents".to_string(), HostTensor::new(extents, values)?)].into())
}
