//! The components of a pipeline: one folder each, as published checkpoints have them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device};

use crate::clip::ClipVision;
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::guider::{Guider, GuiderConfig, GuiderKind};
use crate::presets::Preset;
use crate::referencenet::ReferenceNet;
use crate::schedulers::{self, Scheduler};
use crate::unet::Unet;
use crate::vae::Vae;

const MODEL: &str = "Animator";

/// The sampler of the published pipelines: DDIM that predicts velocities, over betas rescaled to no signal at the end.
const DDIM: &str = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
    "clip_sample": false, "steps_offset": 1, "prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
    "timestep_spacing": "trailing"}"#;

/// A configuration, where there is one, and tensors.
struct Component {
    config: Option<Config>,
    weights: Weights,
}

/// What became of the files of a component.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The component's name: that of its folder.
    pub name: String,
    /// What became of its tensors.
    pub report: LoadReport,
    /// What else there is to say: the number of motion modules, a configuration that was assumed.
    pub notes: Vec<String>,
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.report)?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// The components of a pipeline that animates a person. Nothing is read before it is wanted.
pub struct Components {
    named: BTreeMap<String, Component>,
    scheduler: Option<Config>,
    /// ControlNets beside the guiders, and their folders.
    controls: Vec<(String, Component)>,
    /// Whether motion modules are left out.
    still: bool,
}

impl fmt::Debug for Components {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Components({})", self.named.keys().cloned().collect::<Vec<_>>().join(", "))
    }
}

/// Components that every pipeline has.
const WANTED: [&str; 4] = ["denoising_unet", "reference_unet", "vae", "image_encoder"];
/// Kinds of guidance that Champ has encoders for, in the order in which it sums them.
const GUIDANCE: [&str; 4] = ["depth", "normal", "semantic_map", "dwpose"];
/// A guider that reads the reference itself, carried along the motion or for all frames the same: behind the others, where a
/// checkpoint has it.
pub(crate) const SCENE: &str = "reference";

impl Components {
    /// The folders of a published checkpoint: `denoising_unet`, `reference_unet`, `vae`, `image_encoder`, and `pose_guider`
    /// (AnimateAnyone) or `guidance_encoder_KIND` (Champ); maybe `guidance_encoder_reference`, which sees the reference itself,
    /// `motion_module`, where motion modules are kept apart, and `scheduler`. A folder without a `config.json` is taken for the published network, and so is a file of the component's
    /// name (`denoising_unet.pth`). For narrow activations, files of the variant `fp16` go before others.
    ///
    /// # Errors
    /// A folder is missing, or its files cannot be read.
    pub fn open(dir: impl AsRef<Path>, dtype: DType) -> Result<Components> {
        let dir = dir.as_ref();
        let mut named = BTreeMap::new();
        let guiders = GUIDANCE.iter().chain(&[SCENE]).map(|kind| format!("guidance_encoder_{kind}"));
        let optional: Vec<String> =
            ["pose_guider", "motion_module"].map(String::from).into_iter().chain(guiders).collect();
        for (name, wanted) in
            WANTED.iter().map(|n| (n.to_string(), true)).chain(optional.into_iter().map(|n| (n, false)))
        {
            match place(dir, &name) {
                Some(place) => drop(named.insert(name, Component::open(&place, dtype)?)),
                None if wanted => return Err(Error::call(MODEL, format!("{}: no folder {name}", dir.display()))),
                None => {}
            }
        }
        let scheduler = ["scheduler_config.json", "config.json"].map(|file| dir.join("scheduler").join(file));
        let scheduler = scheduler.iter().find(|file| file.exists()).map(Config::open).transpose()?;
        Components::checked(named, scheduler)
    }

    /// Components under the names of their folders, and the sampler's configuration.
    ///
    /// # Errors
    /// One is missing.
    pub fn of(parts: BTreeMap<String, (Config, Weights)>, scheduler: Option<Config>) -> Result<Components> {
        let component = |(name, (config, weights))| (name, Component { config: Some(config), weights });
        Components::checked(parts.into_iter().map(component).collect(), scheduler)
    }

    fn checked(named: BTreeMap<String, Component>, scheduler: Option<Config>) -> Result<Components> {
        if let Some(missing) = WANTED.iter().find(|name| !named.contains_key(**name)) {
            return Err(Error::call(MODEL, format!("no component {missing}")));
        }
        let components = Components { named, scheduler, controls: Vec::new(), still: false };
        if components.kinds().is_empty() {
            let reason = "no pose_guider and no guidance_encoder_KIND: nothing to read the motion";
            return Err(Error::call(MODEL, reason));
        }
        Ok(components)
    }

    /// Kinds of motion pictures that there are guiders for: `pose`, or Champ's, in the order in which they are summed.
    pub fn kinds(&self) -> Vec<String> {
        if self.named.contains_key("pose_guider") {
            return vec!["pose".into()];
        }
        let there = |kind: &&&str| self.named.contains_key(&format!("guidance_encoder_{kind}"));
        GUIDANCE.iter().filter(there).map(|kind| kind.to_string()).collect()
    }

    /// Whether a guider sees the reference itself beside the motion.
    pub fn guided_by_reference(&self) -> bool {
        self.named.contains_key(&format!("guidance_encoder_{SCENE}"))
    }

    /// The same with a ControlNet beside the guiders: a folder with `config.json` and weights.
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn with_control(self, dir: impl AsRef<Path>, dtype: DType) -> Result<Components> {
        let dir = dir.as_ref();
        let (name, config) = (dir.display().to_string(), Config::open(dir)?);
        let weights = Component::open(dir, dtype)?.weights;
        Ok(self.with_control_of(name, config, weights))
    }

    /// As [`Components::with_control`], of a configuration over a checkpoint. The name is what reports call it.
    #[must_use]
    pub fn with_control_of(mut self, name: impl Into<String>, config: Config, weights: Weights) -> Components {
        self.controls.push((name.into(), Component { config: Some(config), weights }));
        self
    }

    /// The same without motion modules: frames do not see each other, which shows what the modules do.
    #[must_use]
    pub fn without_motion(self) -> Components {
        Components { still: true, ..self }
    }

    /// ControlNets beside the guiders.
    pub fn controls(&self) -> usize {
        self.controls.len()
    }

    pub(super) fn control_nets(&self, device: &Device) -> Result<Vec<(ControlNet, Loaded)>> {
        let open = |(dir, part): &(String, Component)| {
            let missing = || Error::call(MODEL, format!("{dir}: no config.json"));
            let net = ControlNet::of(part.config.as_ref().ok_or_else(missing)?, part.weights.clone(), device)?;
            let loaded = Loaded { name: dir.clone(), report: net.load_report().clone(), notes: Vec::new() };
            Ok((net, loaded))
        };
        self.controls.iter().map(open).collect()
    }

    fn part(&self, name: &str) -> Result<&Component> {
        self.named.get(name).ok_or_else(|| Error::call(MODEL, format!("no component {name}")))
    }

    pub(super) fn unet(&self, device: &Device) -> Result<(Unet, Loaded)> {
        let part = self.part("denoising_unet")?;
        let weights = match self.named.get("motion_module") {
            Some(motion) => part.weights.clone().and(&motion.weights)?,
            None => part.weights.clone(),
        };
        let (config, mut notes) = part.config("animateanyone-unet3d")?;
        let open = if self.still { Unet::still } else { Unet::of };
        let unet = open(config.as_ref(), weights, device)?;
        let modules = unet.motion_modules();
        notes.push(format!("motion modules {modules}/{modules}"));
        let loaded = Loaded { name: "denoising_unet".into(), report: unet.load_report().clone(), notes };
        Ok((unet, loaded))
    }

    pub(super) fn reference(&self, device: &Device) -> Result<(ReferenceNet, Loaded)> {
        let part = self.part("reference_unet")?;
        let (config, notes) = part.config("sd15-unet")?;
        let net = ReferenceNet::of(config.as_ref(), part.weights.clone(), device)?;
        let loaded = Loaded { name: "reference_unet".into(), report: net.load_report().clone(), notes };
        Ok((net, loaded))
    }

    pub(super) fn vae(&self, device: &Device) -> Result<(Vae, Loaded)> {
        let part = self.part("vae")?;
        let (config, notes) = part.config("sd-vae")?;
        let vae = Vae::of(config.as_ref(), part.weights.clone(), device)?;
        let loaded = Loaded { name: "vae".into(), report: vae.load_report().clone(), notes };
        Ok((vae, loaded))
    }

    pub(super) fn image_encoder(&self, device: &Device) -> Result<(ClipVision, Loaded)> {
        let part = self.part("image_encoder")?;
        let missing = || Error::call(MODEL, "image_encoder: no config.json");
        let vision = ClipVision::of(part.config.as_ref().ok_or_else(missing)?, part.weights.clone(), device)?;
        let loaded = Loaded { name: "image_encoder".into(), report: vision.load_report().clone(), notes: Vec::new() };
        Ok((vision, loaded))
    }

    pub(super) fn guider(&self, kind: &str, device: &Device) -> Result<(Guider, Loaded)> {
        let name = if kind == "pose" { "pose_guider".to_string() } else { format!("guidance_encoder_{kind}") };
        let part = self.part(&name)?;
        let mut notes = if part.config.is_some() { Vec::new() } else { vec![ASSUMED.to_string()] };
        let which = if kind == "pose" { GuiderKind::Pose } else { GuiderKind::Guidance };
        let guider = match &part.config {
            Some(config) => Guider::of(which, config, &part.weights, device)?,
            None => Guider::with(which, GuiderConfig::default(), &part.weights, device)?,
        };
        if which == GuiderKind::Guidance && !guider.attends() {
            notes.push("no attention".into());
        }
        let report = guider.load_report().clone();
        Ok((guider, Loaded { name, report, notes }))
    }

    /// The sampler: the checkpoint's own, or that of the published pipelines.
    pub(super) fn scheduler(&self) -> Result<Box<dyn Scheduler>> {
        match &self.scheduler {
            Some(config) => schedulers::open(config),
            None => schedulers::open(&Config::parse(DDIM.as_bytes(), "the published sampler")?),
        }
    }
}

const ASSUMED: &str = "no config.json: taken for the published network";

/// A configuration that a checkpoint has, or one that it was taken for.
enum Parsed<'a> {
    Own(&'a Config),
    Preset(Box<Config>),
}

impl AsRef<Config> for Parsed<'_> {
    fn as_ref(&self) -> &Config {
        match self {
            Parsed::Own(config) => config,
            Parsed::Preset(config) => config,
        }
    }
}

/// The folder of a component, or a file of its name.
fn place(dir: &Path, name: &str) -> Option<PathBuf> {
    let files = ["safetensors", "pth", "ckpt", "bin"].map(|end| dir.join(format!("{name}.{end}")));
    [dir.join(name)].into_iter().filter(|p| p.is_dir()).chain(files.into_iter().filter(|p| p.is_file())).next()
}

/// Names that libraries give to checkpoints of PyTorch.
const PICKLED: [&str; 2] = ["diffusion_pytorch_model.bin", "pytorch_model.bin"];

impl Component {
    fn open(place: &Path, dtype: DType) -> Result<Component> {
        let file = place.join("config.json");
        let config = if file.exists() { Some(Config::open(&file)?) } else { None };
        let narrow = || Weights::open_variant(place, "fp16").ok();
        let variant = if dtype == DType::F32 || place.is_file() { None } else { narrow() };
        let pickled = PICKLED.iter().map(|name| place.join(name)).find(|file| file.is_file());
        let weights = match (variant, Weights::open(place), pickled) {
            (Some(weights), ..) | (None, Ok(weights), _) => weights,
            (None, Err(_), Some(file)) => Weights::open(file)?,
            (None, Err(e), None) => return Err(e.into()),
        };
        Ok(Component { config, weights: weights.strip_wrappers()? })
    }

    /// Its configuration, or a preset's.
    fn config(&self, preset: &str) -> Result<(Parsed<'_>, Vec<String>)> {
        match &self.config {
            Some(config) => Ok((Parsed::Own(config), Vec::new())),
            None => Ok((Parsed::Preset(Box::new(Preset::find(preset)?.config()?)), vec![ASSUMED.to_string()])),
        }
    }
}
