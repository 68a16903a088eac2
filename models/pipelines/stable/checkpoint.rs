//! A pipeline's directory in the layout of diffusers: `model_index.json` and a folder for each component.

use std::path::{Path, PathBuf};

use muybridge_loaders::{Config, Tokenizer, Weights};
use muybridge_runtime::Device;

use crate::clip::ClipText;
use crate::error::{Error, Result};
use crate::lora::{Lora, LoraTargets};
use crate::schedulers::{self, Scheduler};
use crate::unet::Unet;
use crate::vae::Vae;

/// The directory of a Stable Diffusion pipeline.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    index: Config,
    variant: Option<String>,
    loras: Vec<(Lora, LoraTargets)>,
}

impl Checkpoint {
    /// Opens a directory with `model_index.json`; nothing else is read yet.
    ///
    /// # Errors
    /// There is no such file, it is not what it should be, or a component that every pipeline has is missing.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint> {
        let dir = dir.as_ref().to_path_buf();
        let index = Config::open(dir.join("model_index.json"))?;
        let checkpoint = Checkpoint { dir, index, variant: None, loras: Vec::new() };
        for name in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
            if !checkpoint.has(name)? {
                return Err(checkpoint
                    .index
                    .error(name, "this pipeline needs it, and the index does not name one")
                    .into());
            }
        }
        Ok(checkpoint)
    }

    /// The same checkpoint, weights read from the files of a variant (`fp16`) where a component has them.
    #[must_use]
    pub fn variant(mut self, variant: impl Into<String>) -> Checkpoint {
        self.variant = Some(variant.into());
        self
    }

    /// The same checkpoint with a LoRA merged into its networks when they are opened. The order of several does not matter,
    /// up to rounding.
    ///
    /// # Errors
    /// The LoRA has modules that no network of the checkpoint has; the error names them.
    pub fn lora(mut self, lora: Lora) -> Result<Checkpoint> {
        let names = ["unet", "text_encoder", "text_encoder_2"].into_iter().take(if self.is_xl()? { 3 } else { 2 });
        let weights = names.map(|name| Ok((name, self.stored(name)?))).collect::<Result<Vec<_>>>()?;
        let components: Vec<(&str, &Weights)> = weights.iter().map(|(name, w)| (*name, w)).collect();
        let targets = lora.targets(&components)?;
        self.loras.push((lora, targets));
        Ok(self)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it is of the XL family: two text towers, and sizes as conditions.
    ///
    /// # Errors
    /// The index is not what it should be.
    pub fn is_xl(&self) -> Result<bool> {
        self.has("text_encoder_2")
    }

    /// Whether the index names a component.
    ///
    /// # Errors
    /// The entry is no pair of library and class.
    pub fn has(&self, component: &str) -> Result<bool> {
        let entry = self.index.opt::<Vec<Option<String>>>(component)?;
        Ok(entry.is_some_and(|pair| pair.iter().all(Option::is_some) && pair.len() == 2))
    }

    /// An absent negative prompt is a state of zeros rather than that of the empty text.
    ///
    /// # Errors
    /// The field is neither true nor false.
    pub fn zeros_for_no_prompt(&self) -> Result<bool> {
        Ok(self.index.or("force_zeros_for_empty_prompt", false)?)
    }

    /// The configuration of a component.
    ///
    /// # Errors
    /// There is none, or it is not what it should be.
    pub fn config(&self, component: &str) -> Result<Config> {
        Ok(Config::open(self.dir.join(component))?)
    }

    /// The tensors of a component, LoRAs merged in.
    ///
    /// # Errors
    /// There are none, a header lies, or a LoRA does not fit them.
    pub fn weights(&self, component: &str) -> Result<Weights> {
        let merge = |w, (lora, targets): &(Lora, LoraTargets)| lora.merge(component, targets, w);
        self.loras.iter().try_fold(self.stored(component)?, merge)
    }

    fn stored(&self, component: &str) -> Result<Weights> {
        let dir = self.dir.join(component);
        let varied = self.variant.as_ref().filter(|v| has_variant(&dir, v));
        let weights = match varied {
            Some(variant) => Weights::open_variant(&dir, variant)?,
            None => Weights::open(&dir)?,
        };
        Ok(weights.strip_wrappers()?)
    }

    /// The denoising network.
    ///
    /// # Errors
    /// As [`Unet::open`].
    pub fn unet(&self, device: &Device) -> Result<Unet> {
        Unet::of(&self.config("unet")?, self.weights("unet")?, device)
    }

    /// The autoencoder.
    ///
    /// # Errors
    /// As [`Vae::open`].
    pub fn vae(&self, device: &Device) -> Result<Vae> {
        Vae::of(&self.config("vae")?, self.weights("vae")?, device)
    }

    /// A text tower: `text_encoder` or `text_encoder_2`.
    ///
    /// # Errors
    /// As [`ClipText::open`].
    pub fn text(&self, component: &str, device: &Device) -> Result<ClipText> {
        ClipText::of(&self.config(component)?, self.weights(component)?, device)
    }

    /// A tokenizer: `tokenizer` or `tokenizer_2`.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn tokenizer(&self, component: &str) -> Result<Tokenizer> {
        Ok(Tokenizer::open(self.dir.join(component))?)
    }

    /// The scheduler, of the class that its file names or of another one.
    ///
    /// # Errors
    /// As [`schedulers::from_config`].
    pub fn scheduler(&self, class: Option<&str>) -> Result<Box<dyn Scheduler>> {
        let config = Config::open(self.dir.join("scheduler/scheduler_config.json"))?;
        match class {
            Some(class) => schedulers::from_config(class, &config),
            None => schedulers::open(&config),
        }
    }

    /// Height and width in latents that the denoising network was trained on.
    ///
    /// # Errors
    /// The field is no number and no pair of numbers.
    pub fn sample_size(&self) -> Result<[usize; 2]> {
        let size = self.config("unet")?.opt_list_or_scalar::<usize>("sample_size", 2)?;
        match size.as_deref() {
            None => Ok([64, 64]),
            Some(&[height, width]) => Ok([height, width]),
            Some(_) => Err(Error::call("Checkpoint", "sample_size: wanted a number or a pair")),
        }
    }
}

fn has_variant(dir: &Path, variant: &str) -> bool {
    let mark = format!(".{variant}.");
    std::fs::read_dir(dir)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains(&mark)))
}
