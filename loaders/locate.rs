//! Which files of a directory make up a checkpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{LoadError, Result};

/// The file to open for a checkpoint: one safetensors file, or the index of a sharded one.
pub(crate) enum Place {
    File(PathBuf),
    Index(PathBuf),
}

/// Names that libraries give to the weights of one network, the most usual first.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// Finds the checkpoint at a path: the file itself, or the one in a directory. With a variant (`fp16`), only files of
/// that variant count (`model.fp16.safetensors`, `model.safetensors.index.fp16.json`).
pub(crate) fn locate(path: &Path, variant: Option<&str>) -> Result<Place> {
    if !path.is_dir() {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let is_index = name.ends_with(".json");
        return Ok(if is_index { Place::Index(path.into()) } else { Place::File(path.into()) });
    }
    let present = file_names(path)?;
    let (file_end, index_ends) = match variant {
        None => (".safetensors".to_string(), vec![".safetensors.index.json".to_string()]),
        Some(v) => (
            format!(".{v}.safetensors"),
            vec![format!(".safetensors.index.{v}.json"), format!(".{v}.safetensors.index.json")],
        ),
    };
    for stem in STEMS {
        let file = format!("{stem}{file_end}");
        if present.contains(&file) {
            return Ok(Place::File(path.join(file)));
        }
        if let Some(index) = index_ends.iter().map(|end| format!("{stem}{end}")).find(|name| present.contains(name)) {
            return Ok(Place::Index(path.join(index)));
        }
    }
    let indices: Vec<&String> = present.iter().filter(|n| index_ends.iter().any(|end| n.ends_with(end))).collect();
    let files: Vec<&String> = present.iter().filter(|n| n.ends_with(&file_end)).collect();
    match (&indices[..], &files[..]) {
        ([one], _) => Ok(Place::Index(path.join(one))),
        ([], [one]) => Ok(Place::File(path.join(one))),
        _ => Err(LoadError::NotFound { file: path.into(), reason: explain(&present, &indices, &files, &file_end) }),
    }
}

/// Names of the entries of a directory; names that are not Unicode cannot be a checkpoint's and are left out.
pub(crate) fn file_names(dir: &Path) -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(dir).map_err(LoadError::io(dir))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(LoadError::io(dir))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn explain(present: &BTreeSet<String>, indices: &[&String], files: &[&String], file_end: &str) -> String {
    let candidates: Vec<&str> = indices.iter().chain(files).map(|n| n.as_str()).collect();
    if !candidates.is_empty() {
        return format!("several checkpoints, name one of them: {}", candidates.join(", "));
    }
    let pickled: Vec<&str> = present
        .iter()
        .map(String::as_str)
        .filter(|n| n.ends_with(".bin") || n.ends_with(".ckpt") || n.ends_with(".pth"))
        .collect();
    if pickled.is_empty() {
        return format!("no *{file_end} and no index of one in this directory");
    }
    format!("no *{file_end} in this directory; {} must be converted to safetensors first", pickled.join(", "))
}
