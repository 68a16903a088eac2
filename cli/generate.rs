//! `muybridge generate`

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::loaders::Picture;
use muybridge::lora::Lora;
use muybridge::pipelines::stable::{
    Checkpoint, Control, Generate, MemoryPlan, Progress, PromptOptions, Stage, Start, generate, preview,
};
use muybridge::runtime::{DType, Device};

use crate::{DeviceArgs, Failure, interrupt};

const EXAMPLES: &str = "\
Examples:
  muybridge generate sd15 -p \"a cat in a red hat\" -o cat.png
  muybridge generate sd15 -p \"a dancer\" --control openpose:pose.png -o dancer.png
  muybridge generate sd15 -p \"oil painting\" --image photo.jpg --strength 0.6 -o painting.png
  muybridge generate sd15-inpaint -p \"a blue door\" --image house.png --mask door.png -o house2.png
  muybridge generate sdxl -p \"a lighthouse\" --size 1024x1024 --count 4 --max-memory 8G -o light.png
  muybridge generate sd15 -p \"a cat\" --lora style.safetensors:0.8 --lora detail.safetensors:0.3 -o cat.png

The checkpoint is a folder in the layout of diffusers: model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/,
and for XL text_encoder_2/ and tokenizer_2/. The same seed gives the same picture on every device, up to rounding.";

/// Options of the verb.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of a Stable Diffusion 1.x, 2.x or XL pipeline
    checkpoint: PathBuf,
    /// What the picture shows
    #[arg(long, short, default_value = "", value_name = "TEXT")]
    prompt: String,
    /// What it must not show
    #[arg(long, short, value_name = "TEXT")]
    negative: Option<String>,
    /// Picture to write; with --count, a number goes before its .png
    #[arg(long, short, default_value = "picture.png", value_name = "FILE.png")]
    output: PathBuf,
    /// Width and height in pixels; by default what the network was trained on, or the size of --image
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Denoising steps: fewer are faster, and rougher
    #[arg(long, default_value_t = 30, value_name = "N")]
    steps: usize,
    /// Strength of guidance: how literally the prompt is taken. 1 is none, and twice as fast
    #[arg(long, short = 'g', default_value_t = 7.5, value_name = "G")]
    guidance: f32,
    /// Draws overexposed colours of strong guidance back, from 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    guidance_rescale: f32,
    /// Seed of the noise; further pictures count on from it
    #[arg(long, short, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Pictures to make
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,
    /// Another scheduler than the checkpoint's: ddim, ddpm, pndm, euler, euler-a, heun, dpm++, unipc, deis, lcm, or a class name
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Share of fresh noise in each step (ddim)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    eta: f64,
    /// Layers of the text network left out at its end; some checkpoints were trained with 1
    #[arg(long, default_value_t = 0, value_name = "N")]
    clip_skip: usize,
    /// Begin with this picture instead of noise
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Paint anew only where this picture is white, and keep the rest of --image
    #[arg(long, value_name = "FILE", requires = "image")]
    mask: Option<PathBuf>,
    /// How far from --image to go, from 0 (nowhere) to 1; by default 0.8, and 1 with a mask
    #[arg(long, value_name = "SHARE", requires = "image")]
    strength: Option<f32>,
    /// A ControlNet's folder and the picture that it follows, maybe with its strength and the part of the run that it is
    /// active in: pose-net:pose.png, pose-net:pose.png:0.8, pose-net:pose.png:0.8:0-0.6. Any number of them
    #[arg(long, value_name = "DIR:FILE[:SCALE[:FROM-TO]]")]
    control: Vec<ControlArg>,
    /// Let ControlNets guess what their pictures show: they steer even without a prompt
    #[arg(long, requires = "control")]
    guess_mode: bool,
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
    #[arg(long, value_name = "BYTES", value_parser = crate::animate::bytes)]
    max_memory: Option<u64>,
    /// Write a rough preview here during the run, now and then
    #[arg(long, value_name = "FILE.png")]
    preview: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size(pub [usize; 2]);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let one = |part: &str| part.parse().ok().filter(|n| (8..=16_384).contains(n));
        let pair = text.split_once('x').and_then(|(w, h)| Some([one(w)?, one(h)?]));
        pair.map(Size).ok_or_else(|| format!("{text:?} is not of the form WxH, with numbers from 8 to 16384"))
    }
}

/// A ControlNet on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlArg {
    pub dir: PathBuf,
    pub file: PathBuf,
    pub scale: f32,
    pub range: [f32; 2],
}

impl FromStr for ControlArg {
    type Err = String;

    fn from_str(text: &str) -> Result<ControlArg, String> {
        let bad = || format!("{text:?} is not of the form DIR:FILE, DIR:FILE:SCALE or DIR:FILE:SCALE:FROM-TO");
        let parts: Vec<&str> = text.split(':').collect();
        let (&[dir, file, ref more @ ..], true) = (&parts[..], parts.len() <= 4) else { return Err(bad()) };
        let number = |text: &str| text.parse::<f32>().ok().filter(|n| n.is_finite()).ok_or_else(bad);
        let scale = more.first().map_or(Ok(1.0), |s| number(s))?;
        let range = match more.get(1) {
            None => [0.0, 1.0],
            Some(range) => {
                let (from, to) = range.split_once('-').ok_or_else(bad)?;
                [number(from)?, number(to)?]
            }
        };
        if dir.is_empty() || file.is_empty() {
            return Err(bad());
        }
        Ok(ControlArg { dir: dir.into(), file: file.into(), scale, range })
    }
}

/// A LoRA on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg(pub PathBuf, pub f32);

impl FromStr for LoraArg {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraArg, String> {
        match text.rsplit_once(':') {
            Some((file, weight)) if !file.is_empty() => match weight.parse::<f32>() {
                Ok(weight) if weight.is_finite() => Ok(LoraArg(file.into(), weight)),
                _ => Err(format!("{text:?}: the weight after the colon is no number")),
            },
            _ => Ok(LoraArg(text.into(), 1.0)),
        }
    }
}

/// Opens a pipeline's folder with its LoRAs.
pub fn checkpoint(dir: &Path, variant: Option<&str>, loras: &[LoraArg]) -> Result<Checkpoint, Failure> {
    let mut checkpoint = Checkpoint::open(dir)?;
    if let Some(variant) = variant {
        checkpoint = checkpoint.variant(variant);
    }
    for LoraArg(file, weight) in loras {
        checkpoint = checkpoint.lora(Lora::open(file, *weight)?)?;
    }
    Ok(checkpoint)
}

/// The class of a scheduler by its short name.
pub fn scheduler_class(name: &str) -> String {
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

/// The dtype asked for, or the fastest that the device computes in without harm.
pub fn dtype_for(asked: Option<DType>, device: &Device) -> DType {
    let gpu = !device.name().starts_with("cpu");
    asked.unwrap_or(if gpu && device.caps().f16 { DType::F16 } else { DType::F32 })
}

/// Makes pictures.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let png = args.output.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if !png || args.count == 0 || args.count > 10_000 {
        return Err(Failure(format!("{}: wanted 1 to 10000 pictures in a .png file", args.output.display())));
    }
    let device = args.device.open()?;
    let checkpoint = checkpoint(&args.checkpoint, args.variant.as_deref(), &args.lora)?;
    let request = request(args, &device)?;
    let xl = checkpoint.is_xl()?;
    let bar = bar();
    let mut failed = None;
    let mut watch = |p: &Progress<'_>| {
        show(&bar, p);
        if let (Some(file), Some(picture)) = (&args.preview, p.latents.and_then(|l| preview(l, xl)))
            && (p.done.is_multiple_of(5) || p.done == p.steps)
            && let Err(e) = picture.write_png(file)
        {
            failed = Some(Failure::from(e));
            return ControlFlow::Break(());
        }
        if interrupt::check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut plan = |memory: &MemoryPlan| {
        eprintln!("{} in {}: {memory}", device.name(), request.dtype);
    };
    let made = generate(&checkpoint, &request, &device, &mut plan, &mut watch);
    bar.finish_and_clear();
    let generated = match (made, failed) {
        (_, Some(failure)) => return Err(failure),
        (Err(muybridge::Error::Interrupted), None) => return interrupt::check().map(|()| ExitCode::FAILURE),
        (made, None) => made?,
    };
    for note in &generated.notes {
        eprintln!("muybridge: {note}");
    }
    for (i, (picture, seed)) in generated.pictures.iter().zip(&request.seeds).enumerate() {
        let file = numbered(&args.output, i, generated.pictures.len());
        picture.write_png(&file)?;
        eprintln!("{}: {} x {}, seed {seed}", file.display(), picture.width, picture.height);
    }
    Ok(ExitCode::SUCCESS)
}

fn request(args: &Args, device: &Device) -> Result<Generate, Failure> {
    let open = |file: &Path| -> Result<Picture, Failure> { Ok(Picture::open(file)?.over([0; 3])) };
    let start = match (&args.image, &args.mask) {
        (None, _) => Start::Noise,
        (Some(image), None) => Start::Picture { picture: open(image)?, strength: args.strength.unwrap_or(0.8) },
        (Some(image), Some(mask)) => {
            Start::Inpaint { picture: open(image)?, mask: open(mask)?, strength: args.strength.unwrap_or(1.0) }
        }
    };
    let control = |c: &ControlArg| -> Result<Control, Failure> {
        Ok(Control { dir: c.dir.clone(), picture: open(&c.file)?, scale: c.scale, range: c.range })
    };
    Ok(Generate {
        prompt: PromptOptions {
            prompt: args.prompt.clone(),
            negative_prompt: args.negative.clone(),
            clip_skip: args.clip_skip,
            guided: false,
        },
        size: args.size.map(|s| s.0),
        steps: args.steps,
        scheduler: args.scheduler.as_deref().map(scheduler_class),
        guidance_scale: args.guidance,
        guidance_rescale: args.guidance_rescale,
        eta: args.eta,
        seeds: (0..args.count).map(|i| args.seed.wrapping_add(i)).collect(),
        start,
        controls: args.control.iter().map(control).collect::<Result<_, _>>()?,
        guess_mode: args.guess_mode,
        dtype: dtype_for(args.dtype, device),
        max_memory: args.max_memory,
    })
}

/// `cat.png` of one picture, `cat.000.png` of several.
fn numbered(file: &Path, i: usize, count: usize) -> PathBuf {
    if count == 1 { file.to_path_buf() } else { file.with_extension(format!("{i:03}.png")) }
}

/// A progress bar on standard error, or nothing where that is no terminal.
pub fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:8} {bar:30} {pos}/{len} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}

/// Shows how far a run is.
pub fn show(bar: &ProgressBar, p: &Progress<'_>) {
    bar.set_prefix(match p.stage {
        Stage::Text => "prompt",
        Stage::Encode => "encode",
        Stage::Denoise => "denoise",
        Stage::Decode => "decode",
    });
    bar.set_length(p.steps as u64);
    bar.set_position(p.done as u64);
    let left = p.left.filter(|_| p.done < p.steps).map(|left| format!(", {} left", time(left)));
    let item = if p.items > 1 { format!("{} of {}", p.item + 1, p.items) } else { String::new() };
    bar.set_message(format!("{item}{}", left.unwrap_or_default()).trim_start_matches(", ").to_string());
}

fn time(left: Duration) -> String {
    let seconds = left.as_secs();
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_strictly() {
        assert_eq!("512x768".parse(), Ok(Size([512, 768])));
        let control: ControlArg = "net:pose.png:0.8:0.1-0.6".parse().unwrap();
        assert_eq!((control.scale, control.range), (0.8, [0.1, 0.6]));
        assert_eq!("net:pose.png".parse::<ControlArg>().unwrap().range, [0.0, 1.0]);
        assert_eq!("a.safetensors:0.5".parse(), Ok(LoraArg("a.safetensors".into(), 0.5)));
        assert_eq!("a.safetensors".parse(), Ok(LoraArg("a.safetensors".into(), 1.0)));
        for bad in ["", "512", "0x8", "512x", "x8"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for bad in ["net", "net:", ":a", "net:a:b", "net:a:1:2", "net:a:1:0-1:9"] {
            assert!(bad.parse::<ControlArg>().is_err(), "{bad}");
        }
        assert!("a:b".parse::<LoraArg>().is_err());
    }

    #[test]
    fn several_pictures_get_numbers() {
        assert_eq!(numbered(Path::new("out/cat.png"), 0, 1), Path::new("out/cat.png"));
        assert_eq!(numbered(Path::new("out/cat.png"), 2, 3), Path::new("out/cat.002.png"));
    }
}
