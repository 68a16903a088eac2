//! A cursor over the tensor names of a checkpoint.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use muybridge_runtime::{DType, HostTensor, Shape, Weight};
use safetensors::tensor::Dtype;

use crate::error::{LoadError, Result, shown};
use crate::locate::{Place, locate};
use crate::procedural::AnyShape;
use crate::report::{CensusEntry, LoadReport};
use crate::table::{Asked, Listed, Table};

/// A place in the tree of names of a checkpoint (`down_blocks.0.resnets.1`). Cursors over one checkpoint share what was
/// asked for, so that [`Weights::finish`] can tell what was not. Nothing is read before it is asked for.
///
/// A weight is checked for NaN and infinities when it is handed out, which reads it once from start to end;
/// [`Weights::unchecked`] leaves that out.
#[derive(Clone)]
pub struct Weights {
    table: Arc<Table>,
    path: String,
    dtype: Option<DType>,
    checked: bool,
}

impl Weights {
    fn over(table: Table) -> Weights {
        Weights { table: Arc::new(table), path: String::new(), dtype: None, checked: true }
    }

    /// Opens a checkpoint: a safetensors file, the index of a sharded one, or a directory with one of them
    /// (`diffusion_pytorch_model` and `model` go before other names; a directory with several others is refused). A
    /// checkpoint of PyTorch (`.pth`, `.bin`, `.ckpt`) is read as [`crate::TorchFile`] says, where it is named itself.
    ///
    /// # Errors
    /// There is no checkpoint, or one of its headers, its index or its pickle lies.
    pub fn open(path: impl AsRef<Path>) -> Result<Weights> {
        Weights::open_place(path.as_ref(), None)
    }

    /// As [`Weights::open`], with only the files of a variant in a directory: `fp16` for `model.fp16.safetensors`.
    ///
    /// # Errors
    /// As [`Weights::open`]; the directory has no such variant.
    pub fn open_variant(path: impl AsRef<Path>, variant: &str) -> Result<Weights> {
        Weights::open_place(path.as_ref(), Some(variant))
    }

    fn open_place(path: &Path, variant: Option<&str>) -> Result<Weights> {
        let table = match locate(path, variant)? {
            Place::File(file) => Table::of_files(&file, &[&file])?,
            Place::Index(index) => Table::of_index(&index, &index)?,
        };
        Ok(Weights::over(table))
    }

    /// Opens several files as one checkpoint.
    ///
    /// # Errors
    /// One of the headers lies, or two files have a tensor of the same name.
    pub fn open_files(paths: &[impl AsRef<Path>]) -> Result<Weights> {
        let label = paths.first().map_or(Path::new("no file"), |p| p.as_ref());
        Ok(Weights::over(Table::of_files(label, paths)?))
    }

    /// A safetensors file that was built into the program; `label` is what errors call it.
    ///
    /// # Errors
    /// Its header lies.
    pub fn embedded(label: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Weights> {
        Ok(Weights::over(Table::of_embedded(label.as_ref(), bytes)?))
    }

    /// Opens a `weights_spec.json` (tensor name → shape, seed, amplitude): tensors given by rules.
    ///
    /// # Errors
    /// The file cannot be read, or a rule in it makes no tensor.
    pub fn open_spec(path: impl AsRef<Path>) -> Result<Weights> {
        let mut table = Table::empty(path.as_ref());
        table.add_spec(path.as_ref())?;
        Ok(Weights::over(table))
    }

    /// Tensors that are already in memory.
    pub fn in_memory(tensors: BTreeMap<String, HostTensor>) -> Weights {
        Weights::over(Table::of_tensors(tensors))
    }

    /// A source that has every tensor that is asked for, in any shape: reproducible noise, scaled so that activations
    /// stay of order one. Networks can be planned, timed and traced from their configuration alone. Since it has
    /// everything, [`Weights::has`] and [`Weights::optional`] can't tell a network's structure from it: they say no.
    pub fn procedural(seed: u64, dtype: DType) -> Weights {
        let mut table = Table::empty(Path::new("procedural weights"));
        table.any = Some(AnyShape { seed, dtype });
        Weights::over(table)
    }

    /// Adds the tensors of a `weights_spec.json`. To be called before anything is asked for.
    ///
    /// # Errors
    /// The file cannot be read, a rule in it makes no tensor, or the checkpoint has a tensor of the same name.
    pub fn and_spec(self, path: impl AsRef<Path>) -> Result<Weights> {
        let mut table = self.table.renamed(|_| None)?;
        table.add_spec(path.as_ref())?;
        Ok(Weights { table: Arc::new(table), ..self })
    }

    /// Adds the tensors of another checkpoint (motion modules that are kept apart from their UNet). To be called before
    /// anything is asked for.
    ///
    /// # Errors
    /// Both have a tensor of the same name.
    pub fn and(self, other: &Weights) -> Result<Weights> {
        let mut table = self.table.renamed(|_| None)?;
        table.add(&other.table)?;
        Ok(Weights { table: Arc::new(table), ..self })
    }

    /// Puts tensors in the place of those of the same names (weights with additions merged in). To be called before
    /// anything is asked for.
    ///
    /// # Errors
    /// There is no tensor of such a name, or it has another shape.
    pub fn replace(self, tensors: BTreeMap<String, HostTensor>) -> Result<Weights> {
        let mut table = self.table.renamed(|_| None)?;
        for (name, tensor) in tensors {
            let listed = table.tensors.get_mut(&name).ok_or_else(|| self.missing(&name))?;
            if tensor.shape().dims() != listed.shape {
                return Err(listed.wrong(format!("{} does not take the place of {:?}", tensor.shape(), listed.shape)));
            }
            listed.dtype = tensor.dtype().to_string();
            listed.bytes = tensor.desc().bytes();
            listed.origin = crate::table::Origin::Held(Weight::owned(name, tensor));
        }
        Ok(Weights { table: Arc::new(table), ..self })
    }

    /// Gives tensors the names that models ask for: `rename` maps a stored name to another, or to none where it stays.
    /// To be called before anything is asked for.
    ///
    /// # Errors
    /// Two tensors would have one name.
    pub fn rename(self, rename: impl Fn(&str) -> Option<String>) -> Result<Weights> {
        let table = self.table.renamed(rename)?;
        Ok(Weights { table: Arc::new(table), ..self })
    }

    /// Renames whole parts of names: with `("query", "to_q")`, `mid.query.weight` becomes `mid.to_q.weight`.
    ///
    /// # Errors
    /// As [`Weights::rename`].
    pub fn rename_parts(self, rules: &[(&str, &str)]) -> Result<Weights> {
        self.rename(|name| {
            let new = |part| rules.iter().find(|(old, _)| *old == part).map_or(part, |(_, new)| *new);
            Some(name.split('.').map(new).collect::<Vec<_>>().join("."))
        })
    }

    /// Takes a prefix (`text_model.`) off the names that have it.
    ///
    /// # Errors
    /// As [`Weights::rename`].
    pub fn strip_prefix(self, prefix: &str) -> Result<Weights> {
        self.rename(|name| name.strip_prefix(prefix).map(String::from))
    }

    /// Takes off what training frameworks wrap round a whole network (`module.`, `_orig_mod.`), where all names have it.
    ///
    /// # Errors
    /// As [`Weights::rename`].
    pub fn strip_wrappers(mut self) -> Result<Weights> {
        while let Some(wrapper) = ["module.", "_orig_mod."]
            .into_iter()
            .find(|w| !self.table.tensors.is_empty() && self.table.tensors.keys().all(|n| n.starts_with(w)))
        {
            self = self.strip_prefix(wrapper)?;
        }
        Ok(self)
    }

    /// The same place; weights asked for through it are converted to `dtype` (rounded to nearest even) and held in host
    /// memory. Without this they stay in their file, as they are stored.
    pub fn converted(&self, dtype: DType) -> Weights {
        Weights { dtype: Some(dtype), ..self.clone() }
    }

    /// The same place; weights asked for through it are not checked for NaN and infinities.
    pub fn unchecked(&self) -> Weights {
        Weights { checked: false, ..self.clone() }
    }

    /// The place `part` below this one.
    pub fn at(&self, part: impl fmt::Display) -> Weights {
        Weights { path: self.name(part), ..self.clone() }
    }

    /// Where the cursor stands: empty at the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full name of `part` below this place.
    pub fn name(&self, part: impl fmt::Display) -> String {
        if self.path.is_empty() { part.to_string() } else { format!("{}.{part}", self.path) }
    }

    /// The file or directory that was opened.
    pub fn label(&self) -> &Path {
        &self.table.label
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, part: impl fmt::Display) -> bool {
        self.table.tensors.contains_key(&self.name(part))
    }

    /// Whether there is a tensor anywhere below this name (`conv_shortcut` for `conv_shortcut.weight`).
    pub fn has_prefix(&self, part: impl fmt::Display) -> bool {
        let below = format!("{}.", self.name(part));
        self.table.tensors.range(below.clone()..).next().is_some_and(|(name, _)| name.starts_with(&below))
    }

    /// The shape of a tensor as it is stored, or none where there is no such tensor. Does not count as asking for it.
    pub fn shape(&self, part: impl fmt::Display) -> Option<Vec<usize>> {
        self.table.tensors.get(&self.name(part)).map(|listed| listed.shape.clone())
    }

    /// A tensor of exactly this shape. A matrix `[N, K]` may be stored as a convolution of one point `[N, K, 1, 1]`,
    /// and the reverse: the elements are the same, and the weight has the shape that was asked for.
    ///
    /// # Errors
    /// There is no such tensor, it has another shape, its type can't be a weight, or it holds NaN or an infinity.
    pub fn get(&self, part: impl fmt::Display, shape: impl Into<Shape>) -> Result<Weight> {
        self.fetch(self.name(part), Some(shape.into()))
    }

    /// A tensor in the shape in which it is stored.
    ///
    /// # Errors
    /// As [`Weights::get`]; a procedural source has no shapes of its own.
    pub fn get_any(&self, part: impl fmt::Display) -> Result<Weight> {
        self.fetch(self.name(part), None)
    }

    /// A tensor that a checkpoint may lack (a bias): none where it does.
    ///
    /// # Errors
    /// It is there, and [`Weights::get`] fails.
    pub fn optional(&self, part: impl fmt::Display, shape: impl Into<Shape>) -> Result<Option<Weight>> {
        let name = self.name(part);
        if self.table.tensors.contains_key(&name) { self.fetch(name, Some(shape.into())).map(Some) } else { Ok(None) }
    }

    /// A tensor, or everything below a place, that need not be asked for.
    pub fn ignore(&self, part: impl fmt::Display) {
        let name = self.name(part);
        self.asked().ignored.push(name);
    }

    /// Every tensor below this place, by name.
    pub fn census(&self) -> Vec<CensusEntry> {
        self.below().map(|(name, listed)| CensusEntry::new(name, listed)).collect()
    }

    /// What was asked for below this place, and what was not.
    pub fn report(&self) -> LoadReport {
        let asked = self.asked();
        LoadReport::new(self.below(), &self.table, &asked)
    }

    /// Ends loading below this place.
    ///
    /// # Errors
    /// [`LoadError::Unused`] where tensors are present that nothing asked for, other than those told to
    /// [`Weights::ignore`] and the buffers that PyTorch saves along (`position_ids`, `num_batches_tracked`).
    pub fn finish(&self) -> Result<LoadReport> {
        let report = self.report();
        let left: Vec<String> = report.unused.iter().chain(&report.unmapped).map(|name| shown(name)).collect();
        if left.is_empty() { Ok(report) } else { Err(LoadError::Unused { file: self.label().into(), tensors: left }) }
    }

    /// Reads every weight below this place once, and looks for NaN and infinities. Weights that are asked for are
    /// checked anyway; this is for judging a file as a whole. Tensors that cannot be weights are passed over.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`] names the first tensor that has one.
    pub fn check_finite(&self) -> Result<()> {
        for (name, listed) in self.below() {
            match listed.weight(name) {
                Ok(weight) => listed.check(&weight)?,
                Err(LoadError::DType { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// The stored type and shape of a tensor.
    pub(crate) fn stored_form(&self, part: &str) -> Result<(Dtype, Vec<usize>)> {
        let listed = self.listed(part)?;
        Ok((listed.stored_type(), listed.shape.clone()))
    }

    /// The stored elements of a tensor, row-major.
    pub(crate) fn stored_bytes(&self, part: &str) -> Result<Cow<'_, [u8]>> {
        self.listed(part)?.data()
    }

    /// A tensor's pages are not needed soon.
    pub(crate) fn release(&self, part: &str) {
        if let Ok(listed) = self.listed(part) {
            listed.release();
        }
    }

    fn listed(&self, part: &str) -> Result<&Listed> {
        let name = self.name(part);
        self.table.tensors.get(&name).ok_or_else(|| self.missing(&name))
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.table.asked.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn below(&self) -> impl Iterator<Item = (&String, &Listed)> {
        let within = |name: &str| {
            let rest = name.strip_prefix(self.path.as_str());
            rest.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('.'))
        };
        self.table.tensors.iter().filter(move |(name, _)| within(name))
    }

    fn fetch(&self, name: String, shape: Option<Shape>) -> Result<Weight> {
        let Some(listed) = self.table.tensors.get(&name) else {
            return match (self.table.any, shape) {
                (Some(any), Some(shape)) => {
                    let dtype = self.dtype.unwrap_or(any.dtype);
                    self.hand_out(name, shape, Some(dtype), |name| Ok(AnyShape { dtype, ..any }.weight(name, shape)))
                }
                _ => Err(self.missing(&name)),
            };
        };
        let shape = match shape {
            Some(wanted) if !same_elements(wanted.dims(), &listed.shape) => {
                return Err(LoadError::Shape {
                    file: listed.file.to_path_buf(),
                    tensor: shown(&listed.stored_name),
                    wanted: wanted.to_string(),
                    found: format!("{:?}", listed.shape),
                });
            }
            Some(wanted) => wanted,
            None => Shape::new(&listed.shape).map_err(|e| listed.wrong(e))?,
        };
        self.hand_out(name, shape, self.dtype, |name| {
            let stored = listed.weight(name)?;
            if self.checked {
                listed.check(&stored)?;
            }
            let weight = listed.converted(stored, self.dtype)?;
            if weight.desc().shape == shape { Ok(weight) } else { weight.reshape(shape).map_err(|e| listed.wrong(e)) }
        })
    }

    /// The weight that was given for the same question before, or a new one.
    fn hand_out(
        &self,
        name: String,
        shape: Shape,
        dtype: Option<DType>,
        make: impl FnOnce(&str) -> Result<Weight>,
    ) -> Result<Weight> {
        let fits = |(w, checked): &&(Weight, bool)| {
            w.desc().shape == shape && dtype.is_none_or(|d| w.desc().dtype == d) && (*checked || !self.checked)
        };
        if let Some((weight, _)) = self.asked().given.get(&name).and_then(|given| given.iter().find(fits)) {
            return Ok(weight.clone());
        }
        let weight = make(&name)?;
        let mut asked = self.asked();
        asked.given.entry(name.clone()).or_default().push((weight.clone(), self.checked));
        asked.names.insert(name);
        Ok(weight)
    }

    /// The error for a name that does not exist, with the names that share most of its beginning and end.
    fn missing(&self, name: &str) -> LoadError {
        let alike = |other: &str| {
            let start = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let end = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            (start + end).min(name.len())
        };
        let mut near: Vec<(usize, &String)> = self.table.tensors.keys().map(|other| (alike(other), other)).collect();
        near.retain(|(score, _)| score * 2 >= name.len());
        near.sort_by_key(|(score, other)| (Reverse(*score), *other));
        let near = near.into_iter().take(3).map(|(_, other)| shown(other)).collect();
        LoadError::Missing { file: self.label().into(), tensor: shown(name), near }
    }
}

/// Equal shapes, or a matrix and a convolution of one point with the same rows and columns.
fn same_elements(wanted: &[usize], found: &[usize]) -> bool {
    fn point(shape: &[usize]) -> Option<(&[usize], &[usize])> {
        shape.split_at_checked(2).filter(|(_, rest)| rest.iter().all(|&e| e == 1))
    }
    match (point(wanted), point(found)) {
        (Some((a, _)), Some((b, _))) => a == b,
        _ => wanted == found,
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({} at {:?}, {} tensors)", self.label().display(), self.path, self.table.tensors.len())
    }
}
