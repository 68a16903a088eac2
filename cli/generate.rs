//! `muybridge generate`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use muybridge::pipelines::stable::{Control, Generate, Start, generate};
use muybridge::runtime::Device;

use crate::parsed::{ControlArg, opaque};
use crate::table::tell;
use crate::{Failure, output, prompted};

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
    /// Picture to write; with --count, a number goes before its .png
    #[arg(long, short, default_value = "picture.png", value_name = "FILE.png")]
    output: PathBuf,
    /// Denoising steps: fewer are faster, and rougher
    #[arg(long, default_value_t = 30, value_name = "N")]
    steps: usize,
    /// Draws overexposed colours of strong guidance back, from 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    guidance_rescale: f32,
    /// Pictures to make
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,
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
    #[command(flatten)]
    common: prompted::Args,
}

/// Makes pictures.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let png = args.output.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if !png || args.count == 0 || args.count > 10_000 {
        return Err(Failure(format!("{}: wanted 1 to 10000 pictures in a .png file", args.output.display())));
    }
    output::file(&numbered(&args.output, 0, args.count as usize))?;
    let (device, checkpoint) = args.common.open(&args.checkpoint)?;
    let request = request(args, &device)?;
    let xl = checkpoint.is_xl()?;
    let generated = args.common.watched(&device, xl, |listener| generate(&checkpoint, &request, &device, listener))?;
    for note in &generated.notes {
        tell!("muybridge: {note}");
    }
    for (i, (picture, seed)) in generated.pictures.iter().zip(&request.seeds).enumerate() {
        let file = numbered(&args.output, i, generated.pictures.len());
        picture.write_png(&file)?;
        tell!("{}: {} x {}, seed {seed}", file.display(), picture.width, picture.height);
    }
    Ok(ExitCode::SUCCESS)
}

fn request(args: &Args, device: &Device) -> Result<Generate, Failure> {
    let start = match (&args.image, &args.mask) {
        (None, _) => Start::Noise,
        (Some(image), None) => Start::Picture { picture: opaque(image)?, strength: args.strength.unwrap_or(0.8) },
        (Some(image), Some(mask)) => {
            Start::Inpaint { picture: opaque(image)?, mask: opaque(mask)?, strength: args.strength.unwrap_or(1.0) }
        }
    };
    let control = |c: &ControlArg| -> Result<Control, Failure> {
        Ok(Control { dir: c.dir.clone(), picture: c.picture()?, scale: c.scale, range: c.range })
    };
    let common = &args.common;
    Ok(Generate {
        prompt: common.prompt(),
        size: common.size(),
        steps: args.steps,
        scheduler: common.scheduler(),
        guidance_scale: common.guidance,
        guidance_rescale: args.guidance_rescale,
        eta: common.eta,
        seeds: (0..args.count).map(|i| common.seed.wrapping_add(i)).collect(),
        start,
        controls: args.control.iter().map(control).collect::<Result<_, _>>()?,
        guess_mode: args.guess_mode,
        dtype: common.dtype(device),
        max_memory: common.max_memory,
    })
}

/// `cat.png` of one picture, `cat.000.png` of several.
fn numbered(file: &Path, i: usize, count: usize) -> PathBuf {
    if count == 1 { file.to_path_buf() } else { file.with_extension(format!("{i:03}.png")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_pictures_get_numbers() {
        assert_eq!(numbered(Path::new("out/cat.png"), 0, 1), Path::new("out/cat.png"));
        assert_eq!(numbered(Path::new("out/cat.png"), 2, 3), Path::new("out/cat.002.png"));
    }
}
