//! `muybridge pull`

mod cache;
mod hub;
mod known;

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use self::cache::Cache;
use self::hub::{Hub, Listing, RemoteFile};
use crate::table::{self, say};
use crate::{Failure, interrupt};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// A pipeline by its name here, or a repository: OWNER/NAME; without it, the known pipelines are listed
    name: Option<String>,
    /// Files of the repository, by name or by end (.safetensors); what its networks need by default
    files: Vec<String>,
    /// Branch, tag or commit
    #[arg(long, default_value = "main", value_name = "NAME")]
    revision: String,
    /// Look in the cache only (also: HF_HUB_OFFLINE=1)
    #[arg(long)]
    offline: bool,
}

/// Fetches what is missing, and says where it lies.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let Some(name) = &args.name else {
        say!("known pipelines:");
        known::PIPELINES.iter().for_each(|p| say!("  {:<24} {}", p.name, p.what));
        return Ok(ExitCode::SUCCESS);
    };
    let cache = Cache::of_environment()?;
    let offline = args.offline || hub::flag("HF_HUB_OFFLINE");
    let wanted: Vec<(String, Vec<String>)> = match known::PIPELINES.iter().find(|p| p.name == name) {
        Some(pipeline) => pipeline
            .repositories
            .iter()
            .map(|(repo, files)| (repo.to_string(), files.iter().map(ToString::to_string).collect()))
            .collect(),
        None => vec![(checked(name)?, args.files.clone())],
    };
    for (repo, files) in &wanted {
        let folder = if offline {
            cache.find(repo, &args.revision, files)?
        } else {
            fetch(&cache, repo, &args.revision, files)?
        };
        say!("{repo}: {}", folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A repository's name, which also names a folder.
fn checked(name: &str) -> Result<String, Failure> {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('.')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match name.split('/').collect::<Vec<_>>()[..] {
        [owner, name] if part(owner) && part(name) => Ok(format!("{owner}/{name}")),
        _ => {
            let known: Vec<&str> = known::PIPELINES.iter().map(|p| p.name).collect();
            Err(Failure(format!("{name:?} is neither OWNER/NAME nor one of {}", known.join(", "))))
        }
    }
}

fn fetch(cache: &Cache, repo: &str, revision: &str, files: &[String]) -> Result<std::path::PathBuf, Failure> {
    let hub = Hub::of_environment();
    let listing = hub.list(repo, revision)?;
    let chosen = choose(&listing, repo, files)?;
    let total: u64 = chosen.iter().map(|file| file.size).sum();
    let bar = ProgressBar::new(total);
    let style = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).map_err(|e| Failure(e.to_string()))?);
    let mut fetched = 0;
    for file in &chosen {
        bar.set_message(file.name.clone());
        let blob = cache.blob(repo, file)?;
        if cache.has(&blob, file) {
            bar.inc(file.size);
        } else {
            hub.download(repo, &listing.commit, file, &blob, &mut |bytes| {
                bar.inc(bytes);
                interrupt::check()
            })?;
            fetched += file.size;
        }
        cache.link(repo, &listing.commit, file, &blob)?;
    }
    bar.finish_and_clear();
    cache.name(repo, revision, &listing.commit)?;
    say!("{} files, {} of which {} were fetched", chosen.len(), table::bytes(total), table::bytes(fetched));
    Ok(cache.snapshot(repo, &listing.commit))
}

/// The files that are wanted: each name, or end of names, must be there.
fn choose<'a>(listing: &'a Listing, repo: &str, files: &[String]) -> Result<Vec<&'a RemoteFile>, Failure> {
    let ends = |file: &&RemoteFile, end: &str| file.name == end || (end.starts_with('.') && file.name.ends_with(end));
    if let Some(absent) = files.iter().find(|end| !listing.files.iter().any(|file| ends(&file, end))) {
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).take(40).collect();
        return Err(Failure(format!("{repo} has no file {absent}; there are {}", names.join(", "))));
    }
    if !files.is_empty() {
        return Ok(listing.files.iter().filter(|file| files.iter().any(|end| ends(file, end))).collect());
    }
    let safe = listing.files.iter().any(|file| file.name.ends_with(".safetensors"));
    let weights: &[&str] = if safe { &[".safetensors"] } else { &[".bin", ".pth", ".pt", ".ckpt"] };
    let tables = [".json", ".txt"];
    let needed = |file: &&RemoteFile| weights.iter().chain(&tables).any(|end| ends(file, end));
    let chosen: Vec<&RemoteFile> = listing.files.iter().filter(needed).collect();
    if chosen.is_empty() { Err(Failure(format!("{repo} has no weights"))) } else { Ok(chosen) }
}
