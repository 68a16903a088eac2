//! Networks that run once per step: what stays the same for a whole clip is computed apart, once.
//!
//! A network is built into two graphs at the same time. `once` makes the features of a clip (keys and values of its context,
//! embeddings of its sizes and classes, the embedded condition image), and `step` takes them as operands.

use std::fmt;

use muybridge_kernels as ops;
use muybridge_runtime::{
    DType, Device, Graph, HostTensor, Plan, PlanOptions, PlanReport, Tensor, TensorDesc, Value, Weight,
};

use crate::backbone::FusionBlocks;
use crate::config::TrunkConfig;
use crate::embeddings::ClassOptions;
use crate::error::{Error, Result};

/// Extents, dtype and options of a plan of a UNet or a ControlNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnetShape {
    /// Latents at a time.
    pub batch: usize,
    /// Height of the latents.
    pub height: usize,
    /// Width of the latents.
    pub width: usize,
    /// Tokens of the context.
    pub context: usize,
    /// Dtype of the activations. Weights stay as they are on disk.
    pub dtype: DType,
    /// The context's tokens have a mask, `encoder_attention_mask [B,1,M]`: 1 keeps a token, 0 hides it.
    pub mask: bool,
    /// Residuals of ControlNets come as operands: `down_residual.i`, `mid_residual`.
    pub residuals: bool,
    /// A guidance embedding comes as the operand `timestep_cond`, in networks that have `time_cond_proj_dim`.
    pub timestep_cond: bool,
    /// Sizes for each item of the batch, in networks with `text_time` embeddings.
    pub time_ids: usize,
    /// Frames of each clip, where the batch counts clips; 1 for pictures. Operands and results then have `batch · frames`
    /// items, clip after clip.
    pub frames: usize,
    /// All clips of the batch denoise the same latents (the halves of guidance do): `sample` has the frames of one of them.
    pub shared: bool,
    /// Features of poses come as the operand `pose_features`, of the extents of the first convolution's result, one map for
    /// each map of `sample`.
    pub pose_features: bool,
    /// Features of a reference network come as the operands `reference.PATH`, a map for each transformer block.
    pub reference: Option<ReferenceShape>,
    /// Frames of the one clip that spatial work is done for at a time, which takes less memory and more launches; 0 for all.
    /// Only motion modules, and norms over all frames, read several frames.
    pub at_a_time: usize,
}

/// Features of a reference network that a denoising network reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferenceShape {
    /// References: one for all clips that read, or one for each of them.
    pub items: usize,
    /// Height of the reference's latents.
    pub height: usize,
    /// Width of the reference's latents.
    pub width: usize,
    /// The first clip of the batch that reads them: under guidance the unconditional half comes first and does not.
    pub first_clip: usize,
    /// The blocks that read them.
    pub blocks: FusionBlocks,
}

impl Default for UnetShape {
    /// One 512 × 512 picture with a context of 77 tokens, in f32.
    fn default() -> UnetShape {
        UnetShape {
            batch: 1,
            height: 64,
            width: 64,
            context: 77,
            dtype: DType::F32,
            mask: false,
            residuals: false,
            timestep_cond: false,
            time_ids: 6,
            frames: 1,
            shared: false,
            pose_features: false,
            reference: None,
            at_a_time: 0,
        }
    }
}

impl UnetShape {
    /// Maps of the batch: all frames of all clips.
    pub fn items(&self) -> usize {
        self.batch * self.frames
    }

    /// Extents beyond any network: their products would not fit 64 bits.
    fn check(&self) -> Result<()> {
        let fits = |n: usize, bits: u32| (1..=1usize << bits).contains(&n);
        let batch = fits(self.batch, 12) && fits(self.frames, 12) && fits(self.items(), 14);
        let map = batch && fits(self.height, 13) && fits(self.width, 13);
        let sizes = |r: ReferenceShape| fits(r.items, 12) && fits(r.height, 13) && fits(r.width, 13);
        let map = map && self.reference.is_none_or(sizes);
        if map && fits(self.context, 17) && fits(self.time_ids, 6) {
            return Ok(());
        }
        Err(Error::call("UNet2DConditionModel", format!("extents of zero, or beyond any use: {self:?}")))
    }
}

/// The two graphs of a network while it is built.
#[derive(Debug, Default)]
pub struct Stages {
    /// Runs once per clip.
    pub once: Graph,
    /// Runs once per step.
    pub step: Graph,
    features: Vec<usize>,
    prefix: String,
}

impl Stages {
    /// Two empty graphs.
    pub fn new() -> Stages {
        Stages::default()
    }

    /// Makes a value of `once` an operand of `step`.
    pub fn hand_over(&mut self, name: &str, value: Value) -> Value {
        let desc = self.once.desc(value);
        let name = format!("{}{name}", self.prefix);
        self.once.output(&name, value);
        self.features.push(self.step.input_descs().count());
        self.step.input(name, desc)
    }

    /// Names of features handed over from here on begin with this.
    pub(crate) fn set_prefix(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }
}

/// The operands of a network: those of every step, and those of the clip.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Dtype of the activations.
    pub dtype: DType,
    /// Latents `[B·F,h,w,C]`, of each step.
    pub sample: Value,
    /// Times, f32 `[B]`, of each step.
    pub timestep: Value,
    /// The context `[B,M,K]`.
    pub encoder_hidden_states: Value,
    /// Bias of the context's tokens `[B,1,M]`: 0 keeps a token, −10000 hides it.
    pub mask: Option<Value>,
    /// Class labels, as the network's kind of class embedding reads them.
    pub class_labels: Option<Value>,
    /// Guidance embedding `[B,K]`.
    pub timestep_cond: Option<Value>,
    /// Pooled text `[B,K]`.
    pub text_embeds: Option<Value>,
    /// Sizes, f32 `[B,n]`.
    pub time_ids: Option<Value>,
    /// Features of poses `[B·F,h,w,C]`, of each step.
    pub pose_features: Option<Value>,
    /// Clips of the batch.
    pub clips: usize,
    /// Frames of each.
    pub frames: usize,
    /// All clips denoise the same latents.
    pub shared: bool,
    /// Features of a reference network.
    pub reference: Option<ReferenceShape>,
    /// Frames that spatial work is done for at a time; 0 for all.
    pub at_a_time: usize,
}

impl Operands {
    /// Declares the operands that a network of this configuration has; `context` counts the context's channels.
    ///
    /// # Errors
    /// The shape asks for what the configuration does not have.
    pub fn declare(s: &mut Stages, shape: &UnetShape, c: &TrunkConfig, context: usize) -> Result<Operands> {
        shape.check()?;
        if shape.at_a_time > 0 && shape.batch > 1 {
            let reason = format!("{} frames at a time of {} clips: wanted one clip", shape.at_a_time, shape.batch);
            return Err(Error::call("UNet2DConditionModel", reason));
        }
        let UnetShape { batch: b, height: h, width: w, dtype, .. } = *shape;
        let (once, step) = (&mut s.once, &mut s.step);
        let full = |extents: [usize; 2]| TensorDesc::new(extents, DType::F32);
        let maps = if shape.shared { shape.frames } else { shape.items() };
        let sample = step.input("sample", TensorDesc::new([maps, h, w, c.in_channels], dtype));
        let timestep = step.input("timestep", TensorDesc::new([b], DType::F32));
        let states = TensorDesc::new([b, shape.context, context], dtype);
        let encoder_hidden_states = once.input("encoder_hidden_states", states);
        let class_desc = c.time.class.map(|class| match class {
            ClassOptions::Table(n) | ClassOptions::Projection(n) | ClassOptions::SimpleProjection(n) => {
                TensorDesc::new([b, n], dtype)
            }
            ClassOptions::Timestep(_) => TensorDesc::new([b], DType::F32),
            ClassOptions::Identity => TensorDesc::new([b, c.time.dim], dtype),
        });
        let mut operands = Operands {
            dtype,
            sample,
            timestep,
            encoder_hidden_states,
            mask: None,
            class_labels: class_desc.map(|desc| once.input("class_labels", desc)),
            timestep_cond: None,
            text_embeds: None,
            time_ids: None,
            pose_features: None,
            clips: b,
            frames: shape.frames,
            shared: shape.shared,
            reference: shape.reference,
            at_a_time: shape.at_a_time,
        };
        if shape.pose_features {
            let finest = c.levels.first().map_or(0, |l| l.channels);
            let desc = TensorDesc::new([maps, h, w, finest], dtype);
            operands.pose_features = Some(step.input("pose_features", desc));
        }
        if shape.mask {
            operands.mask = Some(mask_bias(once, b, shape.context, dtype)?);
        }
        if shape.timestep_cond {
            let none = || Error::call("UNet2DConditionModel", "timestep_cond: this network has no time_cond_proj_dim");
            let n = c.time.condition.ok_or_else(none)?;
            operands.timestep_cond = Some(once.input("timestep_cond", TensorDesc::new([b, n], dtype)));
        }
        if let Some(a) = c.time.addition {
            let sizes = shape.time_ids * a.time_dim;
            let too_many =
                || format!("{} time_ids of {} columns in an embedding of {}", shape.time_ids, a.time_dim, a.input);
            let text = a.input.checked_sub(sizes).filter(|n| *n > 0);
            let text = text.ok_or_else(|| Error::call("UNet2DConditionModel", too_many()))?;
            operands.text_embeds = Some(once.input("text_embeds", TensorDesc::new([b, text], dtype)));
            operands.time_ids = Some(once.input("time_ids", full([b, shape.time_ids])));
        }
        Ok(operands)
    }
}

/// The bias `(1 − mask) · −10000` of `encoder_attention_mask [B,1,M]`.
fn mask_bias(g: &mut Graph, batch: usize, tokens: usize, dtype: DType) -> Result<Value> {
    // What 10000 is in this dtype, so that a token that is kept gets exactly 0.
    let far = HostTensor::from_fn([1], |_| 1e4).convert(dtype).to_f32()[0];
    let mask = g.input("encoder_attention_mask", TensorDesc::new([batch, 1, tokens], dtype));
    let row = HostTensor::from_fn([tokens], |_| -far).convert(dtype);
    let row = g.weight(&Weight::owned("encoder_attention_mask.bias", row));
    let scaled = g.node("encoder_attention_mask", ops::Elementwise::Scale(far), &[mask])?;
    Ok(g.node("encoder_attention_mask", ops::Elementwise::ADD, &[scaled, row])?)
}

/// Features of a clip: results of the first stage of a plan, on its device.
#[derive(Clone, Debug)]
pub struct Features(Vec<Tensor>);

impl Features {
    /// The tensors, in the order of the plan.
    pub fn tensors(&self) -> &[Tensor] {
        &self.0
    }
}

/// A network bound to a device: a plan that runs once per clip, and one that runs at every step.
#[derive(Debug)]
pub struct StepPlan {
    once: Plan,
    step: Plan,
    features: Vec<usize>,
}

impl StepPlan {
    /// Binds both graphs.
    ///
    /// # Errors
    /// As [`Plan::with`].
    pub fn with(stages: &Stages, device: &Device, options: &PlanOptions) -> Result<StepPlan> {
        let step = Plan::with(&stages.step, device, options)?;
        // A clip's features are made before its steps run: in their arena.
        let once = Plan::beside(&stages.once, &step, options)?;
        Ok(StepPlan { once, step, features: stages.features.clone() })
    }

    /// Binds both graphs in the arena of another plan, as far as it is large enough: they never run at the same time.
    ///
    /// # Errors
    /// As [`Plan::with`].
    pub fn beside(stages: &Stages, other: &StepPlan, options: &PlanOptions) -> Result<StepPlan> {
        let step = Plan::beside(&stages.step, &other.step, options)?;
        let once = Plan::beside(&stages.once, &step, options)?;
        Ok(StepPlan { once, step, features: stages.features.clone() })
    }

    /// Computes the features of a clip from the operands of [`StepPlan::clip_inputs`], in this order.
    ///
    /// # Errors
    /// Operands that do not fit, and the device's errors.
    pub fn features(&self, inputs: &[&Tensor]) -> Result<Features> {
        Ok(Features(self.once.run(inputs)?))
    }

    /// One step: the operands of [`StepPlan::step_inputs`], in this order, and the features of the clip.
    ///
    /// # Errors
    /// Operands that do not fit, and the device's errors.
    pub fn step(&self, inputs: &[&Tensor], features: &Features) -> Result<Vec<Tensor>> {
        Ok(self.step.run(&self.operands(inputs, features)?)?)
    }

    /// As [`StepPlan::step`], into tensors that exist: allocates nothing on the device.
    ///
    /// # Errors
    /// Operands that do not fit, and the device's errors.
    pub fn step_into(&self, inputs: &[&Tensor], features: &Features, outputs: &[Tensor]) -> Result<()> {
        Ok(self.step.run_into(&self.operands(inputs, features)?, outputs)?)
    }

    /// Features and one step together: the operands of every step, then those of the clip
    /// (`[&sample, &timestep, &encoder_hidden_states]` for most networks; see [`StepPlan::inputs`]).
    ///
    /// # Errors
    /// Operands that do not fit, and the device's errors.
    pub fn run(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let own = self.step_inputs().count();
        let (step, clip) = inputs.split_at_checked(own).ok_or_else(|| self.count(inputs.len()))?;
        let features = self.features(clip)?;
        self.step(step, &features)
    }

    /// Operands of [`StepPlan::run`].
    pub fn inputs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.step_inputs().chain(self.clip_inputs())
    }

    /// Operands of every step.
    pub fn step_inputs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        let own = |i: &usize| self.features.binary_search(i).is_err();
        self.step.inputs().enumerate().filter(move |(i, _)| own(i)).map(|(_, input)| input)
    }

    /// Operands of a clip.
    pub fn clip_inputs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.once.inputs()
    }

    /// Results of a step.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, TensorDesc)> {
        self.step.outputs()
    }

    /// The plan of every step.
    pub fn step_plan(&self) -> &Plan {
        &self.step
    }

    /// Only the plan of every step.
    pub fn into_step_plan(self) -> Plan {
        self.step
    }

    /// The plan of a clip.
    pub fn clip_plan(&self) -> &Plan {
        &self.once
    }

    /// Launches, memory and work of a step.
    pub fn report(&self) -> &PlanReport {
        self.step.report()
    }

    fn operands<'a>(&self, own: &[&'a Tensor], features: &'a Features) -> Result<Vec<&'a Tensor>> {
        let total = self.step.inputs().count();
        if own.len() + features.0.len() != total || features.0.len() != self.features.len() {
            return Err(self.count(own.len()));
        }
        let (mut own, mut features) = (own.iter().copied(), features.0.iter());
        let next = |i| if self.features.binary_search(&i).is_ok() { features.next() } else { own.next() };
        let operands: Option<Vec<&Tensor>> = (0..total).map(next).collect();
        operands.ok_or_else(|| self.count(0))
    }

    fn count(&self, given: usize) -> Error {
        let names: Vec<&str> = self.inputs().map(|(name, _)| name).collect();
        let split = self.step_inputs().count();
        let (step, clip) = names.split_at(split.min(names.len()));
        let reason = format!("{given} operands given; of a step: {}; of a clip: {}", step.join(", "), clip.join(", "));
        Error::call("StepPlan", reason)
    }
}

impl fmt::Display for StepPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "each step: {}; once per clip: {}", self.step, self.once)
    }
}
