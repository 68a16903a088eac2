//! What `generate` and `motion` have in common: a checkpoint that reads words, and a run that is watched.

use std::path::PathBuf;

use muybridge::lora::Lora;
use muybridge::pipelines::stable::{Checkpoint, PromptOptions};
use muybridge::pipelines::{Event, Flow};
use muybridge::runtime::{DType, Device};

use crate::parsed::{LoraArg, Size, bytes, dtype_for};
use crate::progress::Shown;
use crate::{DeviceArgs, Failure, interrupt, output};

/// Options of both verbs.
#[derive(clap::Args)]
// Verbs flatten it beside their own `Args`, whose group has that name.
#[group(skip)]
pub struct Args {
    /// What is to be seen
    #[arg(long, short, default_value = "", value_name = "TEXT")]
    prompt: String,
    /// What must not be seen
    #[arg(long, short, value_name = "TEXT")]
    negative: Option<String>,
    /// Width and height in pixels; by default what the network was trained on, or the size of a picture given
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Strength of guidance: how literally the prompt is taken. 1 is none, and twice as fast
    #[arg(long, short = 'g', default_value_t = 7.5, value_name = "G")]
    pub guidance: f32,
    /// Seed of the noise; further pictures count on from it
    #[arg(long, short, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Another scheduler than the checkpoint's: ddim, ddpm, pndm, euler, euler-a, heun, dpm++, unipc, deis, lcm, or a class name
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Share of fresh noise in each step (ddim)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub eta: f64,
    /// Layers of the text network left out at its end; some checkpoints were trained with 1
    #[arg(long, default_value_t = 0, value_name = "N")]
    clip_skip: usize,
    /// A LoRA and its weight (1 by default), added to the weights before the run. Any number of them
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    lora: Vec<LoraArg>,
    /// Files of a variant, where components have them: fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Numbers of the activations: f32, f16 or bf16; by default f16 on GPUs that have it
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    /// Most memory on the device: the halves of guidance run one after the other, and pictures are decoded in tiles, where
    /// that keeps to it; if nothing does, the least possible is named. 4.5G, 800M, 6Gi
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_memory: Option<u64>,
    /// Write a rough preview here during the run, after each step
    #[arg(long, value_name = "FILE.png")]
    preview: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    /// The device, and the checkpoint with its LoRAs. Previews are known to be writable then.
    pub fn open(&self, folder: &PathBuf) -> Result<(Device, Checkpoint), Failure> {
        self.preview.iter().try_for_each(|file| output::file(file))?;
        let device = self.device.open()?;
        let mut checkpoint = Checkpoint::open(folder)?;
        if let Some(variant) = &self.variant {
            checkpoint = checkpoint.variant(variant);
        }
        for LoraArg(file, weight) in &self.lora {
            checkpoint = checkpoint.lora(Lora::open(file, *weight)?)?;
        }
        Ok((device, checkpoint))
    }

    /// The words, and how they are read.
    pub fn prompt(&self) -> PromptOptions {
        PromptOptions {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative.clone(),
            clip_skip: self.clip_skip,
            guided: false,
        }
    }

    /// Width and height, if they are asked for.
    pub fn size(&self) -> Option<[usize; 2]> {
        self.size.map(|s| s.0)
    }

    /// The scheduler's class, if one is asked for.
    pub fn scheduler(&self) -> Option<String> {
        self.scheduler.as_deref().map(scheduler_class)
    }

    /// The activations' dtype on a device.
    pub fn dtype(&self, device: &Device) -> DType {
        dtype_for(self.dtype, device)
    }

    /// Runs a pipeline under the eyes of somebody at the terminal.
    pub fn watched<T>(
        &self,
        device: &Device,
        xl: bool,
        run: impl FnOnce(&mut dyn FnMut(Event<'_>) -> Flow) -> muybridge::Result<T>,
    ) -> Result<T, Failure> {
        let mut shown = Shown::new(self.preview.as_deref(), xl);
        let made = run(&mut |event| {
            if let Event::Planned(memory) = &event {
                shown.say(&format!("{} in {}: {memory}", device.name(), self.dtype(device)));
            }
            shown.hear(&event)
        });
        match (made, shown.end()) {
            (_, Err(failure)) => Err(failure),
            (Err(muybridge::Error::Interrupted), Ok(())) => {
                interrupt::check()?;
                Err(Failure("the run was stopped".into()))
            }
            (made, Ok(())) => Ok(made?),
        }
    }
}

/// The class of a scheduler by its short name.
fn scheduler_class(name: &str) -> String {
    let class = match name.to_ascii_lowercase().as_str() {
        "ddim" => "DDIMScheduler",
        "ddpm" => "DDPMScheduler",
        "pndm" => "PNDMScheduler",
        "euler" => "EulerDiscreteScheduler",
        "euler-a" | "euler_a" => "EulerAncestralDiscreteScheduler",
        "heun" => "HeunDiscreteScheduler",
        "dpm++" | "dpm" => "DPMSolverMultistepScheduler",
        "unipc" => "UniPCMultistepScheduler",
        "deis" => "DEISMultistepScheduler",
        "lcm" => "LCMScheduler",
        _ => name,
    };
    class.into()
}
