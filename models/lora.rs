//! LoRA: low-rank additions to the weights of a checkpoint, merged when it is opened.
//!
//! Hu et al., "LoRA: low-rank adaptation of large language models" (2022): `W + s · (alpha / r) · up · down`. Files name their
//! modules as kohya's scripts do (`lora_unet_…_to_q.lora_down.weight`, for XL also after the names of the original code) or as
//! diffusers and peft do (`unet.….to_q.lora_A.weight`, `….processor.to_q_lora.down.weight`).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use muybridge_loaders::Weights;
use muybridge_runtime::{HostTensor, Weight};

use crate::error::{Error, Result};

const MODEL: &str = "LoRA";

/// One low-rank addition.
#[derive(Clone, Debug, Default)]
struct Module {
    down: Option<Weight>,
    up: Option<Weight>,
    alpha: Option<f32>,
}

/// A file of low-rank additions, and how strongly it is to count.
#[derive(Clone, Debug)]
pub struct Lora {
    file: PathBuf,
    scale: f32,
    /// By the module's name in the file.
    modules: BTreeMap<String, Module>,
}

/// Ends of the names of a module's tensors.
const DOWN: [&str; 6] = [
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_A.default.weight",
    ".lora.down.weight",
    ".lora_linear_layer.down.weight",
    "_lora.down.weight",
];
const UP: [&str; 6] = [
    ".lora_up.weight",
    ".lora_B.weight",
    ".lora_B.default.weight",
    ".lora.up.weight",
    ".lora_linear_layer.up.weight",
    "_lora.up.weight",
];

impl Lora {
    /// Opens a file, to count with `scale`: 1 is as trained.
    ///
    /// # Errors
    /// It cannot be read, it holds no low-rank additions, or tensors besides them, which the error names.
    pub fn open(file: impl AsRef<Path>, scale: f32) -> Result<Lora> {
        let file = file.as_ref();
        Lora::of(&Weights::open(file)?, file, scale)
    }

    /// The low-rank additions among the tensors of a file.
    ///
    /// # Errors
    /// As [`Lora::open`].
    pub fn of(w: &Weights, file: &Path, scale: f32) -> Result<Lora> {
        let mut modules: BTreeMap<String, Module> = BTreeMap::new();
        let mut unknown = Vec::new();
        for entry in w.census() {
            let name = entry.name.as_str();
            let ending = |ends: &[&str]| ends.iter().find_map(|end| name.strip_suffix(end)).map(String::from);
            if let Some(module) = ending(&DOWN) {
                modules.entry(module).or_default().down = Some(w.get_any(name)?);
            } else if let Some(module) = ending(&UP) {
                modules.entry(module).or_default().up = Some(w.get_any(name)?);
            } else if let Some(module) = ending(&[".alpha"]) {
                let alpha = w.get_any(name)?.read()?.to_f32();
                modules.entry(module).or_default().alpha = alpha.first().copied();
            } else {
                unknown.push(entry.name);
            }
        }
        // An alpha alone says nothing; with peft's names it may stand beside the module's.
        modules.retain(|_, m| m.down.is_some() || m.up.is_some());
        if !unknown.is_empty() || modules.is_empty() {
            let reason = if unknown.is_empty() {
                "no low-rank additions".into()
            } else {
                listed("tensors that are no part of one", &unknown)
            };
            return Err(Error::call(MODEL, format!("{}: {reason}", file.display())));
        }
        if !scale.is_finite() {
            return Err(Error::call(MODEL, format!("{}: the weight {scale} is no number", file.display())));
        }
        Ok(Lora { file: file.into(), scale, modules })
    }

    /// The file it came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The tensors of a checkpoint that this changes, by component.
    ///
    /// # Errors
    /// A module that no component has; the error names the modules.
    pub fn targets(&self, components: &[(&str, &Weights)]) -> Result<LoraTargets> {
        let tables: Vec<(&str, HashMap<String, String>)> =
            components.iter().map(|(name, w)| (*name, flat_names(name, w))).collect();
        let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for module in self.modules.keys() {
            let (component, flat) = place(module);
            let table = tables.iter().find(|(name, _)| *name == component).map(|(_, table)| table);
            match table.and_then(|t| t.get(&flat)) {
                Some(tensor) => found.entry(component.into()).or_default().push((tensor.clone(), module.clone())),
                None => unknown.push(module.clone()),
            }
        }
        if !unknown.is_empty() {
            let reason = listed("modules that the checkpoint does not have", &unknown);
            return Err(Error::call(MODEL, format!("{}: {reason}", self.file.display())));
        }
        Ok(LoraTargets(found))
    }

    /// Adds this to the tensors of a component that it changes; sums are f32, results of the stored dtype.
    ///
    /// # Errors
    /// A module whose extents do not fit its tensor, or that lacks a half.
    pub fn merge(&self, component: &str, targets: &LoraTargets, w: Weights) -> Result<Weights> {
        let Some(list) = targets.0.get(component) else { return Ok(w) };
        let mut changed: BTreeMap<String, HostTensor> = BTreeMap::new();
        for (tensor, module) in list {
            let weight = match changed.remove(tensor) {
                Some(before) => before,
                None => w.get_any(tensor)?.read()?,
            };
            changed.insert(tensor.clone(), self.add(module, tensor, &weight)?);
        }
        Ok(w.replace(changed)?)
    }

    fn add(&self, name: &str, tensor: &str, weight: &HostTensor) -> Result<HostTensor> {
        let wrong = |reason: String| Error::call(MODEL, format!("{}: {name}: {reason}", self.file.display()));
        let module = self.modules.get(name).ok_or_else(|| wrong("no such module".into()))?;
        let half = |half: &Option<Weight>, which: &str| -> Result<HostTensor> {
            Ok(half.as_ref().ok_or_else(|| wrong(format!("it has no {which} half")))?.read()?)
        };
        let (down, up) = (half(&module.down, "down")?, half(&module.up, "up")?);
        let rank = down.shape().dims().first().copied().unwrap_or(0);
        let rows = weight.shape().dims().first().copied().unwrap_or(0);
        let columns = weight.shape().count() / rows.max(1);
        let fits = rank > 0 && down.shape().count() == rank * columns && up.shape().count() == rows * rank;
        if !fits || up.shape().dims().first() != Some(&rows) {
            let (d, u, w) = (down.shape(), up.shape(), weight.shape());
            return Err(wrong(format!("down {d} and up {u} do not make an addition to {tensor} {w}")));
        }
        let factor = self.scale * module.alpha.unwrap_or(rank as f32) / rank as f32;
        let mut sum = weight.to_f32();
        add_product(&mut sum, &up.to_f32(), &down.to_f32(), rank, factor);
        Ok(HostTensor::new(weight.shape(), sum)?.convert(weight.dtype()))
    }
}

/// `sum += factor · up · down`: `sum [N,K]`, `up [N,r]`, `down [r,K]`.
fn add_product(sum: &mut [f32], up: &[f32], down: &[f32], rank: usize, factor: f32) {
    let columns = down.len() / rank.max(1);
    for (row, coefficients) in sum.chunks_mut(columns.max(1)).zip(up.chunks(rank)) {
        let mut delta = vec![0.0f32; row.len()];
        for (c, line) in coefficients.iter().zip(down.chunks(columns.max(1))) {
            delta.iter_mut().zip(line).for_each(|(d, x)| *d += c * x);
        }
        row.iter_mut().zip(&delta).for_each(|(w, d)| *w += factor * d);
    }
}

/// The tensors that a LoRA changes: by component, each with the module that changes it.
#[derive(Clone, Debug, Default)]
pub struct LoraTargets(BTreeMap<String, Vec<(String, String)>>);

fn listed(what: &str, names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
    let more = names.len().saturating_sub(first.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{what}: {}{rest}", first.join(", "))
}

/// The component of a module, and its name there without dots.
fn place(module: &str) -> (&'static str, String) {
    const PREFIXES: [(&str, &str); 9] = [
        ("lora_unet_", "unet"),
        ("lora_te1_", "text_encoder"),
        ("lora_te2_", "text_encoder_2"),
        ("lora_te_", "text_encoder"),
        ("unet.", "unet"),
        ("text_encoder.", "text_encoder"),
        ("text_encoder_2.", "text_encoder_2"),
        ("base_model.model.", "unet"),
        ("", "unet"),
    ];
    let found = PREFIXES.iter().find_map(|(prefix, name)| module.strip_prefix(prefix).map(|rest| (*name, rest)));
    let (component, rest) = found.unwrap_or(("unet", module));
    (component, flat(&rest.replace(".processor.", ".")))
}

fn flat(name: &str) -> String {
    let name = name.replace('.', "_");
    name.strip_prefix("text_model_").map(String::from).unwrap_or(name)
}

/// The tensors of a component by their flat names, and those of a UNet also by the flat names of the original code.
fn flat_names(component: &str, w: &Weights) -> HashMap<String, String> {
    let mut table = HashMap::new();
    let entries = w.census();
    let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    let layers =
        names.iter().filter(|n| n.starts_with("down_blocks.0.resnets.") && n.ends_with(".conv1.weight")).count();
    for name in &names {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        table.insert(flat(module), name.to_string());
        if let Some(short) = module.strip_suffix(".to_out.0") {
            table.insert(flat(&format!("{short}.to_out")), name.to_string());
        }
        if component == "unet"
            && let Some(original) = original_name(module, layers, &names)
        {
            table.insert(flat(&original), name.to_string());
        }
    }
    table
}

/// The name of a UNet's module in the original code, which counts the blocks of all resolutions through.
fn original_name(module: &str, layers: usize, names: &[&str]) -> Option<String> {
    const ENDS: [(&str, &str); 9] = [
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.resnets.1", "middle_block.2"),
    ];
    const RESNET: [(&str, &str); 6] = [
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    ];
    let renamed = |part: &str| {
        let inner = RESNET.iter().find(|(own, _)| *own == part).map_or(part, |(_, original)| original);
        inner.to_string()
    };
    if let Some((own, original)) = ENDS.iter().find(|(own, _)| module == *own || module.starts_with(&format!("{own}.")))
    {
        let rest = module[own.len()..].trim_start_matches('.');
        return Some(if rest.is_empty() { original.to_string() } else { format!("{original}.{}", renamed(rest)) });
    }
    if let Some(rest) = module.strip_prefix("mid_block.attentions.0.") {
        return Some(format!("middle_block.1.{rest}"));
    }
    let parts: Vec<&str> = module.splitn(5, '.').collect();
    let &[way, block, kind, layer, rest] = &parts[..] else { return None };
    let (block, layer): (usize, usize) = (block.parse().ok()?, layer.parse().ok()?);
    let each = layers + 1;
    match (way, kind) {
        ("down_blocks", "resnets") => Some(format!("input_blocks.{}.0.{}", 1 + block * each + layer, renamed(rest))),
        ("down_blocks", "attentions") => Some(format!("input_blocks.{}.1.{rest}", 1 + block * each + layer)),
        ("down_blocks", "downsamplers") => Some(format!("input_blocks.{}.0.op", 1 + block * each + layers)),
        ("up_blocks", "resnets") => Some(format!("output_blocks.{}.0.{}", block * each + layer, renamed(rest))),
        ("up_blocks", "attentions") => Some(format!("output_blocks.{}.1.{rest}", block * each + layer)),
        ("up_blocks", "upsamplers") => {
            let attends = names.iter().any(|n| n.starts_with(&format!("up_blocks.{block}.attentions.")));
            Some(format!("output_blocks.{}.{}.{rest}", block * each + layers, if attends { 2 } else { 1 }))
        }
        _ => None,
    }
}
