//! `muybridge convert`

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use muybridge::loaders::{Piece, TorchFile, copy_tensors, write_json};
use muybridge::presets::Preset;
use muybridge::{DType, Weights, ldm};
use serde_json::Value;

use crate::table::{self, say};
use crate::{Failure, interrupt};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint (.pth, .pt, .bin, .ckpt or .safetensors), or the folder of an animator with denoising_unet.pth
    input: PathBuf,
    /// A .safetensors file, or a folder to be made
    output: PathBuf,
    /// Numbers of the floats: f32, f16 or bf16; as they are by default
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    /// What is made of the input
    #[arg(long, value_enum, default_value_t = Layout::Auto)]
    layout: Layout,
}

/// What is made of an input.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Layout {
    /// What the input's names call for
    Auto,
    /// One file, names as they are
    Plain,
    /// Folders unet/, vae/, text_encoder/ … of a checkpoint in LDM's names
    Diffusers,
    /// Folders denoising_unet/, reference_unet/, pose_guider/ … of AnimateAnyone's or Champ's files
    Animator,
}

/// A file to be written.
struct Job {
    to: PathBuf,
    weights: Weights,
    pieces: Vec<Piece>,
    config: Option<Value>,
    left_out: usize,
}

/// Reads the input, writes the output, and says what became of what.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let jobs = match (args.layout, args.input.is_dir()) {
        (Layout::Animator, _) | (Layout::Auto, true) => animator(args)?,
        (Layout::Plain, _) => vec![plain(&args.input, &args.output)?],
        (layout, _) => {
            let weights = Weights::open(&args.input)?.strip_wrappers()?;
            let parts = ldm::parts(&weights)?;
            if parts.is_empty() && layout == Layout::Diffusers {
                return Err(Failure(format!("{}: its names are not LDM's", args.input.display())));
            }
            match parts.is_empty() {
                true => vec![plain(&args.input, &args.output)?],
                false => folders(args, &weights, parts)?,
            }
        }
    };
    let whole = args.output.extension().is_some_and(|e| e == "safetensors");
    match jobs.iter().map(|job| job.to.as_path()).collect::<Vec<_>>()[..] {
        [one] if whole && one == args.output => {}
        _ if whole => {
            return Err(Failure(format!("{}: it becomes folders; name a folder", args.output.display())));
        }
        _ => {}
    }
    leftovers(&args.input);
    jobs.iter().try_for_each(|job| write(job, args.dtype))?;
    Ok(ExitCode::SUCCESS)
}

/// What a PyTorch file holds beside tensors.
fn leftovers(input: &Path) {
    if let Ok(file) = TorchFile::open(input)
        && !file.left_out().is_empty()
    {
        say!("left out, being no tensors: {}", file.left_out().join(", "));
    }
}

fn all(weights: &Weights) -> Vec<Piece> {
    weights.census().into_iter().map(|entry| Piece::new(entry.name.clone(), entry.name)).collect()
}

/// One file under the same names.
fn plain(input: &Path, output: &Path) -> Result<Job, Failure> {
    let weights = Weights::open(input)?.strip_wrappers()?;
    let whole = output.extension().is_some_and(|e| e == "safetensors");
    let to = if whole { output.into() } else { output.join("diffusion_pytorch_model.safetensors") };
    Ok(Job { to, pieces: all(&weights), weights, config: None, left_out: 0 })
}

/// The networks of a checkpoint of one file, each in its folder.
fn folders(args: &Args, weights: &Weights, parts: Vec<ldm::Part>) -> Result<Vec<Job>, Failure> {
    // A ControlNet or an autoencoder alone needs no folder within a folder.
    let alone = parts.len() == 1;
    let mut taken = BTreeSet::new();
    let jobs: Vec<Job> = parts
        .into_iter()
        .map(|part| {
            let folder = if alone { args.output.clone() } else { args.output.join(part.folder) };
            taken.extend(part.pieces.iter().map(|piece| piece.source.clone()));
            taken.extend(part.left_out.iter().cloned());
            let to = folder.join(format!("{}.safetensors", part.stem));
            let left_out = part.left_out.len();
            Job { to, weights: weights.clone(), pieces: part.pieces, config: Some(part.config), left_out }
        })
        .collect();
    let others = weights.census().iter().filter(|entry| !taken.contains(&entry.name)).count();
    if others > 0 {
        say!("{others} tensors belong to no network here (tables of the trainer, averaged copies): left out");
    }
    Ok(jobs)
}

/// Files of an animator's folder by their names, and the presets that say their form.
const ANIMATOR: [(&str, Option<&str>); 7] = [
    ("denoising_unet", Some("animateanyone-unet3d")),
    ("reference_unet", Some("animateanyone-reference")),
    ("pose_guider", None),
    ("guidance_encoder_depth", None),
    ("guidance_encoder_normal", None),
    ("guidance_encoder_semantic_map", None),
    ("guidance_encoder_dwpose", None),
];

/// The files of AnimateAnyone or Champ, each in its folder, with the motion modules in the network that has them.
fn animator(args: &Args) -> Result<Vec<Job>, Failure> {
    let find = |stem: &str| {
        let ends = ["safetensors", "pth", "pt", "bin", "ckpt"];
        ends.iter().map(|end| args.input.join(format!("{stem}.{end}"))).find(|path| path.is_file())
    };
    let mut jobs = Vec::new();
    for (stem, preset) in ANIMATOR {
        let Some(path) = find(stem) else { continue };
        let mut job = plain(&path, &args.output.join(stem))?;
        if let Some(preset) = preset {
            let text = Preset::find(preset)?.json;
            job.config = Some(serde_json::from_str(text).map_err(|e| Failure(format!("{preset}: {e}")))?);
        }
        if let Some(motion) = find("motion_module").filter(|_| stem == "denoising_unet") {
            job.weights = merged(&path, &motion)?;
            job.pieces = all(&job.weights);
        }
        jobs.push(job);
    }
    if jobs.is_empty() {
        let names = ANIMATOR.map(|(stem, _)| stem).join(", ");
        return Err(Failure(format!("{}: has no file of an animator; known: {names}", args.input.display())));
    }
    Ok(jobs)
}

/// Two files as one checkpoint; what both have, the second one has.
fn merged(network: &Path, motion: &Path) -> Result<Weights, Failure> {
    let newer: BTreeSet<String> = Weights::open(motion)?.census().into_iter().map(|entry| entry.name).collect();
    let older = Weights::open(network)?;
    if let Some(twice) = older.census().iter().find(|entry| newer.contains(&entry.name)) {
        let (network, motion) = (network.display(), motion.display());
        return Err(Failure(format!("{}: both {network} and {motion} have it", twice.name)));
    }
    Ok(Weights::open_files(&[network, motion])?)
}

fn write(job: &Job, dtype: Option<DType>) -> Result<(), Failure> {
    let folder = job.to.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(folder) = folder {
        fs::create_dir_all(folder).map_err(|e| Failure(format!("{}: {e}", folder.display())))?;
    }
    let bar = ProgressBar::new_spinner().with_message(job.to.display().to_string());
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} {bytes} at {binary_bytes_per_sec}").map_err(failed)?);
    let mut progress = |bytes| {
        bar.inc(bytes);
        interrupt::check().is_ok()
    };
    let length = copy_tensors(&job.weights, &job.pieces, &job.to, dtype, &mut progress)?;
    bar.finish_and_clear();
    if let (Some(config), Some(folder)) = (&job.config, folder) {
        write_json(folder.join("config.json"), config)?;
    }
    let left = if job.left_out > 0 { format!(", {} left out", job.left_out) } else { String::new() };
    say!("{}: {} tensors, {}{left}", job.to.display(), job.pieces.len(), table::bytes(length));
    Ok(())
}

fn failed(e: indicatif::style::TemplateError) -> Failure {
    Failure(e.to_string())
}
