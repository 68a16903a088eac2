//! Recorded cases: inputs and outputs of the field's own implementations, run here and judged.
//!
//! A case is a folder: `case.json` says what was computed, with which components and inputs, and how near an output must
//! come; tensors lie beside it in safetensors files, in PyTorch's layout.

mod animate;
mod clip;
mod controlnet;
mod guiders;
mod host;
mod judge;
mod metrics;
mod motion;
mod pipeline;
mod record;
mod unet2d;
mod vae;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use muybridge_loaders::{Config, Weights, read_tensors};
use muybridge_runtime::{DType, Device, HostTensor, Shape, Tensor, TensorDesc, Weight};
use serde_json::Value as Json;

use crate::error::{Error, Result};
pub use judge::{Report, Row, Verdict};
use record::{CallRecord, Component, InputRecord, Record};

/// Outputs of a call in PyTorch's layout, by the key of the expected tensor.
pub type Outputs = BTreeMap<String, HostTensor>;

/// A recorded case.
#[derive(Debug)]
pub struct Case {
    dir: PathBuf,
    record: Record,
    inputs: BTreeMap<String, HostTensor>,
    expected: BTreeMap<String, Vec<f64>>,
}

impl Case {
    /// The kinds that [`Case::run_call`] knows.
    pub const KINDS: &[&str] = &[
        "vae",
        "unet2d",
        "controlnet",
        "controlnet_chain",
        "aa_pose_guider",
        "champ_guidance_encoder",
        "clip_text",
        "clip_vision",
        "aa_denoise",
        "champ_denoise",
        "aa_pipeline",
        "champ_pipeline",
        "unet_motion",
        "unet_motion_whole",
        "iresnet",
        "scrfd",
        "lpips",
        "i3d",
    ];

    /// The kinds that run on the host, whatever the device.
    pub const HOST_KINDS: &[&str] = &["scheduler", "rng", "resize", "aa_context", "formulas"];

    /// Reads a case's folder.
    ///
    /// # Errors
    /// A file is missing or is not what it should be.
    pub fn open(dir: impl AsRef<Path>) -> Result<Case> {
        let dir = dir.as_ref().to_path_buf();
        let record = Record::read(&dir.join("case.json"))?;
        let inputs = match dir.join("inputs.safetensors") {
            file if file.exists() => read_tensors(file)?,
            _ => BTreeMap::new(),
        };
        let expected = judge::read_exactly(&dir.join("expected.safetensors"))?;
        Ok(Case { dir, record, inputs, expected })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// What kind of component it records.
    pub fn kind(&self) -> &str {
        &self.record.kind
    }

    /// What is special about it, in the recorder's words.
    pub fn note(&self) -> &str {
        &self.record.note
    }

    /// Names of its calls.
    pub fn calls(&self) -> impl Iterator<Item = &str> {
        self.record.calls.iter().map(|c| c.name.as_str())
    }

    /// Runs one call. Weights come from the file of the same dtype where there is one, else from that in f32, else from
    /// the only one.
    ///
    /// # Errors
    /// No such call, a kind or op that is not known here, and the errors of the model.
    pub fn run_call(&self, name: &str, device: &Device, dtype: DType) -> Result<Outputs> {
        let call = Call { case: self, record: self.call(name)?, device, dtype };
        let named = match self.kind() {
            "vae" => vae::run(&call)?,
            "unet2d" => unet2d::run(&call)?,
            "controlnet" => controlnet::run(&call)?,
            "controlnet_chain" => controlnet::run_chain(&call)?,
            "clip_text" => clip::run_text(&call)?,
            "clip_vision" => clip::run_vision(&call)?,
            "aa_pipeline" | "champ_pipeline" => pipeline::run(&call)?,
            "aa_denoise" | "champ_denoise" => animate::run(&call)?,
            "unet_motion" | "unet_motion_whole" => motion::run(&call)?,
            "aa_pose_guider" | "champ_guidance_encoder" => guiders::run(&call)?,
            "iresnet" => metrics::iresnet(&call)?,
            "scrfd" => metrics::scrfd(&call)?,
            "lpips" => metrics::lpips(&call)?,
            "i3d" => metrics::i3d(&call)?,
            "formulas" => metrics::formulas(&call)?,
            kind if Case::HOST_KINDS.contains(&kind) => host::run(&call)?,
            other => {
                let known = [Case::KINDS, Case::HOST_KINDS].concat().join(", ");
                return Err(self.wrong(format!("cases of kind {other:?} are not run here; known: {known}")));
            }
        };
        let key = |(name, tensor)| call.record.outputs.get(&name).map(|o| (o.key.clone(), tensor));
        Ok(named.into_iter().filter_map(key).collect())
    }

    /// Judges the outputs of a call that ran in `dtype`.
    ///
    /// # Errors
    /// No such call, or an expected tensor that the file does not have.
    pub fn judge(&self, name: &str, outputs: &Outputs, dtype: DType) -> Result<Report> {
        judge::judge(self, self.call(name)?, outputs, dtype)
    }

    /// Runs one call and judges its outputs.
    ///
    /// # Errors
    /// As [`Case::run_call`] and [`Case::judge`].
    pub fn check(&self, name: &str, device: &Device, dtype: DType) -> Result<Report> {
        self.judge(name, &self.run_call(name, device, dtype)?, dtype)
    }

    fn call(&self, name: &str) -> Result<&CallRecord> {
        let found = self.record.calls.iter().find(|c| c.name == name);
        let known = || self.calls().collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| self.wrong(format!("no call {name:?}; there is {}", known())))
    }

    fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::Case { file: self.dir.join("case.json"), reason: reason.into() }
    }
}

/// Most elements of a tensor that a line of a case's file asks for, and most pixels of a side.
const MOST_ELEMENTS: usize = 1 << 31;
const MOST_SIDE: usize = 1 << 14;

/// One call on one device: what the runners of the kinds read.
struct Call<'a> {
    case: &'a Case,
    record: &'a CallRecord,
    device: &'a Device,
    dtype: DType,
}

impl Call<'_> {
    fn wrong(&self, reason: impl std::fmt::Display) -> Error {
        self.case.wrong(format!("call {}: {reason}", self.record.name))
    }

    fn unknown_op(&self) -> Error {
        self.wrong(format!("op {:?} is not known for cases of kind {:?}", self.record.op, self.case.kind()))
    }

    fn component(&self, name: &str) -> Result<(Config, Weights)> {
        let found = self.case.record.components.get(name);
        let component: &Component = found.ok_or_else(|| self.wrong(format!("no component {name:?}")))?;
        let dir = &self.case.dir;
        let config = Config::open(dir.join(component.config.as_deref().unwrap_or("config.json")))?;
        let files = &component.weights;
        let own = match self.dtype {
            DType::F16 => files.get("float16"),
            DType::BF16 => files.get("bfloat16"),
            DType::F32 => None,
        };
        let file = own.or(files.get("float32")).or(files.values().next());
        let spec = dir.join(component.dir.as_deref().unwrap_or(name)).join("weights_spec.json");
        let weights = match (file, component.procedural) {
            (Some(file), true) => Weights::open(dir.join(file))?.and_spec(spec)?,
            (Some(file), false) => Weights::open(dir.join(file))?,
            (None, true) => Weights::open_spec(spec)?,
            (None, false) => return Err(self.wrong(format!("component {name:?} has no weights"))),
        };
        Ok((config, weights))
    }

    /// An input as it was recorded: f32, PyTorch's layout.
    fn input(&self, name: &str) -> Result<HostTensor> {
        let missing = || self.wrong(format!("no input {name:?}"));
        let record: &InputRecord = self.record.inputs.get(name).ok_or_else(missing)?;
        if let Some(rule) = &record.procedural {
            let seed =
                rule.seed.number().ok_or_else(|| self.wrong(format!("input {name}: a seed that is no number")))?;
            let shape = self.shape(&rule.shape)?;
            let desc = TensorDesc { shape, dtype: DType::F32 };
            return Ok(Weight::procedural(name, desc, seed, rule.amp as f32, 0.0).read()?);
        }
        let key = record.key.as_deref().unwrap_or(name);
        self.case.inputs.get(key).cloned().ok_or_else(missing)
    }

    /// A shape that the case's file gives.
    fn shape(&self, extents: &[usize]) -> Result<Shape> {
        let shape = Shape::new(extents)?;
        if shape.count() > MOST_ELEMENTS {
            return Err(self.wrong(format!("{shape} has more than {MOST_ELEMENTS} elements")));
        }
        Ok(shape)
    }

    fn has(&self, name: &str) -> bool {
        self.record.inputs.contains_key(name)
    }

    /// A map `[B,C,H,W]` as this engine has it: `[B,H,W,C]`, in the call's dtype.
    fn map(&self, name: &str) -> Result<HostTensor> {
        Ok(self.input(name)?.nchw_to_nhwc()?.convert(self.dtype))
    }

    /// Height and width of a map.
    fn map_extents(&self, name: &str) -> Result<[usize; 4]> {
        let shape = self.input(name)?.shape();
        shape.dims().try_into().map_err(|_| self.wrong(format!("input {name} is {shape}, wanted [B,C,H,W]")))
    }

    fn number(&self, name: &str) -> Result<f64> {
        self.record.args.get(name).and_then(Json::as_f64).ok_or_else(|| self.wrong(format!("no number {name:?}")))
    }

    fn number_or(&self, name: &str, default: f64) -> Result<f64> {
        if self.record.args.get(name).is_none_or(Json::is_null) { Ok(default) } else { self.number(name) }
    }

    fn flag(&self, name: &str) -> bool {
        self.record.args.get(name).and_then(Json::as_bool).unwrap_or(false)
    }

    /// The timestep of each of `batch` items: an input, or an argument for all of them.
    fn timesteps(&self, batch: usize) -> Result<HostTensor> {
        let given =
            if self.has("timestep") { self.input("timestep")?.to_f32() } else { vec![self.number("timestep")? as f32] };
        match given.len() {
            1 => Ok(HostTensor::from_fn([batch], |_| given[0])),
            n if n == batch => Ok(HostTensor::new([batch], given)?),
            n => Err(self.wrong(format!("{n} timesteps for {batch} items"))),
        }
    }

    fn upload(&self, tensors: &[HostTensor]) -> Result<Vec<Tensor>> {
        Ok(tensors.iter().map(|t| self.device.tensor(t)).collect::<Result<_, _>>()?)
    }
}

/// A result as PyTorch has it: maps back to `[B,C,H,W]`, in f32.
fn recorded_layout(tensor: &HostTensor) -> Result<HostTensor> {
    let wide = tensor.convert(DType::F32);
    Ok(if wide.shape().rank() == 4 { wide.nhwc_to_nchw()? } else { wide })
}
