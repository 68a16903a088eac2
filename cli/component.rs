//! A model on the command line: a preset, a checkpoint's folder, or a bare config.json.

use std::path::Path;

use muybridge::presets::Preset;
use muybridge::runtime::{HostTensor, Pins, PlanOptions, PlanReport, TensorDesc, Weight};
use muybridge::{
    Config, ControlNet, DType, Device, Error, FusionBlocks, Plan, ReferenceNet, ReferenceShape, StepPlan, Tensor, Unet,
    UnetShape, Vae, VaeShape, Weights,
};

use crate::Failure;

/// Which model, of what size, in what numbers.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// sd15-unet, sd21-unet, sdxl-unet, sd15-controlnet, animateanyone-unet3d, animateanyone-reference, sd-vae; a
    /// folder with config.json and safetensors; or a config.json
    pub model: String,
    /// A ControlNet that steers a UNet in the same plan: a preset, a folder or a config.json. Any number of them
    #[arg(long, value_name = "MODEL")]
    pub control: Vec<String>,
    /// Size in latent cells, with a batch in front where it is not 1: 64x64, 2x64x96. For a video network the batch counts
    /// clips; two of one that reads a reference are the halves of a guided step
    #[arg(long, default_value = "64x64", value_name = "[B]xHxW")]
    pub shape: Extents,
    /// Frames of a clip, for video networks
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub frames: usize,
    /// Tokens of the context; 77 by default, 1 for networks that read a reference
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Numbers of the activations: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    pub dtype: DType,
    /// Numbers of random weights, where no checkpoint is given: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    pub weights: DType,
}

/// Latent cells of all items: more than any picture has, few enough that operands for them can be made up.
const MOST_CELLS: usize = 1 << 26;

/// Batch, height and width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extents(pub [usize; 3]);

impl std::str::FromStr for Extents {
    type Err = String;

    fn from_str(text: &str) -> Result<Extents, String> {
        let bad = || {
            format!(
                "{text:?} is not of the form HxW or BxHxW, with numbers from 1 to 65536 and at most {MOST_CELLS} cells"
            )
        };
        let one = |part: &str| part.parse().ok().filter(|n| (1..=65_536).contains(n)).ok_or_else(bad);
        let extents = match text.split('x').map(one).collect::<Result<Vec<usize>, _>>()?[..] {
            [h, w] => [1, h, w],
            [b, h, w] => [b, h, w],
            _ => return Err(bad()),
        };
        let cells = extents.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent));
        if cells.is_some_and(|n| n <= MOST_CELLS) { Ok(Extents(extents)) } else { Err(bad()) }
    }
}

/// A network and where its weights come from.
pub enum Component {
    /// And the ControlNets that steer it.
    Unet(Box<Unet>, Vec<ControlNet>),
    /// A video network that reads a reference and poses.
    Unet3d(Box<Unet>),
    ReferenceNet(Box<ReferenceNet>),
    ControlNet(Box<ControlNet>),
    Vae(Box<Vae>),
}

/// A plan of a component, under a name.
pub enum Part {
    /// A network of every step, with what it computes once per clip.
    Step(Box<StepPlan>),
    /// One plan.
    Whole(&'static str, Box<Plan>),
}

impl ModelArgs {
    /// The model and what steers it: `sd15-unet+sd15-controlnet`.
    pub fn name(&self) -> String {
        let all: Vec<&str> = std::iter::once(&self.model).chain(&self.control).map(String::as_str).collect();
        all.join("+")
    }

    /// What is measured, in words: model, part, extents, dtypes.
    pub fn subject(&self, part: &str) -> String {
        let Extents([b, h, w]) = self.shape;
        format!("{} {part} {b}x{h}x{w} {} on {} weights", self.name(), self.dtype, self.weights)
    }

    fn files(&self, model: &str) -> Result<(Config, Weights, bool), Failure> {
        let procedural = Weights::procedural(0, self.weights);
        if let Ok(preset) = Preset::find(model) {
            return Ok((preset.config()?, procedural, true));
        }
        let path = Path::new(model);
        if !path.exists() {
            let presets: Vec<&str> = muybridge::presets::PRESETS.iter().map(|p| p.name).collect();
            return Err(Failure(format!("{model}: no such file, and no preset; presets: {}", presets.join(", "))));
        }
        let config = Config::open(path)?;
        // A bare config.json, or a folder with nothing else, is planned with random weights.
        match path.is_dir().then(|| Weights::open(path)) {
            Some(Ok(weights)) => Ok((config, weights.strip_wrappers()?, false)),
            Some(Err(e)) if has_weights(path) => Err(e.into()),
            _ => Ok((config, procedural, true)),
        }
    }

    /// Opens the model. `true` if its weights are random.
    pub fn open(&self, device: &Device) -> Result<(Component, Weights, bool), Failure> {
        let (config, weights, random) = self.files(&self.model)?;
        let component = match config.str("_class_name")? {
            "UNet2DConditionModel" | "UNetMotionModel" => {
                let control = |model: &String| -> Result<ControlNet, Failure> {
                    let (config, weights, _) = self.files(model)?;
                    Ok(ControlNet::of(&config, weights, device)?)
                };
                let controls = self.control.iter().map(control).collect::<Result<_, _>>()?;
                Component::Unet(Box::new(Unet::of(&config, weights.clone(), device)?), controls)
            }
            _ if !self.control.is_empty() => {
                return Err(Failure(format!("{}: --control steers UNets for pictures only", self.model)));
            }
            "UNet3DConditionModel" => Component::Unet3d(Box::new(Unet::of(&config, weights.clone(), device)?)),
            "ReferenceUNet2DConditionModel" => {
                Component::ReferenceNet(Box::new(ReferenceNet::of(&config, weights.clone(), device)?))
            }
            "ControlNetModel" => Component::ControlNet(Box::new(ControlNet::of(&config, weights.clone(), device)?)),
            "AutoencoderKL" => Component::Vae(Box::new(Vae::of(&config, weights.clone(), device)?)),
            other => {
                let known = "UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel, ReferenceUNet2DConditionModel, \
                             ControlNetModel, AutoencoderKL";
                return Err(Failure(format!("{}: class {other} is not known here; known: {known}", self.model)));
            }
        };
        Ok((component, weights, random))
    }

    /// Random latents of the asked extents: uniform in ±1.
    pub fn latents(&self, channels: usize) -> Result<HostTensor, Failure> {
        let Extents([batch, height, width]) = self.shape;
        let desc = TensorDesc::new([batch, height, width, channels], self.dtype);
        Ok(Weight::procedural("latents", desc, 0, 1.0, 0.0).read().map_err(Error::from)?)
    }

    /// The shape of a UNet that the options ask for.
    pub fn unet_shape(&self, component: &Component) -> UnetShape {
        let Extents([batch, height, width]) = self.shape;
        let reads = matches!(component, Component::Unet3d(_) | Component::ReferenceNet(_));
        let context = self.context.unwrap_or(if reads { 1 } else { 77 });
        let shape = UnetShape { batch, height, width, context, dtype: self.dtype, ..UnetShape::default() };
        match component {
            // The last half of a guided step, or the only clip, reads a reference of the clip's own size.
            Component::Unet3d(_) => UnetShape {
                frames: self.frames,
                shared: batch > 1,
                pose_features: true,
                reference: Some(ReferenceShape {
                    items: 1,
                    height,
                    width,
                    first_clip: batch - 1,
                    blocks: FusionBlocks::Full,
                }),
                ..shape
            },
            Component::Unet(..) => UnetShape { frames: self.frames, ..shape },
            _ => shape,
        }
    }

    /// Plans a part of the component, or all its parts.
    pub fn parts(&self, component: &Component, part: Option<&str>) -> Result<Vec<Part>, Failure> {
        let Extents([batch, height, width]) = self.shape;
        let shape = self.unet_shape(component);
        let asked = |name: &str| part.is_none_or(|p| p == name);
        let mut parts = Vec::new();
        match component {
            Component::Unet(unet, controls) if asked("step") => {
                let (controls, options) =
                    (controls.iter().collect::<Vec<_>>(), PlanOptions { pins: Pins::from_env()?, guard: 0 });
                parts.push(Part::Step(Box::new(unet.plan_with(shape, &controls, &options)?)));
            }
            Component::Unet3d(unet) if asked("step") => parts.push(Part::Step(Box::new(unet.plan(shape)?))),
            Component::ReferenceNet(net) if asked("step") => {
                parts.push(Part::Step(Box::new(net.plan(shape, FusionBlocks::Full)?)));
            }
            Component::ControlNet(net) if asked("step") => parts.push(Part::Step(Box::new(net.plan(shape)?))),
            Component::Vae(vae) => {
                let of = |factor| VaeShape { batch, height: height * factor, width: width * factor, dtype: self.dtype };
                if asked("decode") {
                    parts.push(Part::Whole("decode", Box::new(vae.decoder(of(1))?)));
                }
                if asked("encode") {
                    parts.push(Part::Whole("encode", Box::new(vae.encoder(of(vae.config().factor()))?)));
                }
            }
            _ => {}
        }
        if parts.is_empty() {
            return Err(Failure(format!(
                "{}: no part {:?}; a VAE has decode and encode",
                self.model,
                part.unwrap_or("")
            )));
        }
        Ok(parts)
    }
}

fn has_weights(dir: &Path) -> bool {
    let weights = |name: std::ffi::OsString| name.to_string_lossy().contains(".safetensors");
    std::fs::read_dir(dir).is_ok_and(|d| d.flatten().any(|e| weights(e.file_name())))
}

impl Component {
    /// Its class in diffusers.
    pub fn class(&self) -> &'static str {
        match self {
            Component::Unet(..) => "UNet2DConditionModel",
            Component::Unet3d(_) => "UNet3DConditionModel",
            Component::ReferenceNet(_) => "ReferenceUNet2DConditionModel",
            Component::ControlNet(_) => "ControlNetModel",
            Component::Vae(_) => "AutoencoderKL",
        }
    }

    /// Fields of its configuration that have no effect here.
    pub fn unread(&self) -> &[String] {
        match self {
            Component::Unet(n, _) | Component::Unet3d(n) => n.unread_fields(),
            Component::ReferenceNet(n) => n.unread_fields(),
            Component::ControlNet(n) => n.unread_fields(),
            Component::Vae(n) => n.unread_fields(),
        }
    }
}

impl Part {
    /// The plan that a step runs, and its name.
    pub fn main(&self) -> (&'static str, &Plan) {
        match self {
            Part::Step(p) => ("step", p.step_plan()),
            Part::Whole(name, plan) => (name, plan),
        }
    }

    /// Reports of all plans by name.
    pub fn reports(&self) -> Vec<(&'static str, &PlanReport)> {
        let (name, plan) = self.main();
        match self {
            Part::Step(p) => vec![(name, plan.report()), ("once per clip", p.clip_plan().report())],
            Part::Whole(..) => vec![(name, plan.report())],
        }
    }
}

/// Random operands for a plan: uniform in ±1.
pub fn operands(plan: &Plan) -> Result<Vec<Tensor>, Error> {
    let noise = |(i, (name, desc))| Weight::procedural(name, desc, i as u64, 1.0, 0.0).read();
    let one = |input| Ok(plan.device().tensor(&noise(input)?)?);
    plan.inputs().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read_strictly() {
        assert_eq!("64x96".parse(), Ok(Extents([1, 64, 96])));
        assert_eq!("2x8x8".parse(), Ok(Extents([2, 8, 8])));
        for bad in ["", "64", "0x8", "8x", "x8", "8x-1", "1x2x3x4", "99999999999999999999x8", "65537x1", "65536x65536"]
        {
            assert!(bad.parse::<Extents>().is_err(), "{bad}");
        }
    }
}
