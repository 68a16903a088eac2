//! The table of a checkpoint: every tensor name, and where its elements come from.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use muybridge_runtime::{ByteOwner, DType, HostTensor, Shape, TensorDesc, Weight};

use safetensors::tensor::Dtype;

use crate::error::{LoadError, Result, shown};
use crate::file::SafetensorsFile;
use crate::finite::first_non_finite;
use crate::header::{TensorEntry, element};
use crate::index::Index;
use crate::json::{first_bytes, read_bounded};
use crate::locate::file_names;
use crate::procedural::{AnyShape, Rule, read_spec};
use crate::tensors::format_dtype;
use crate::torch::{TorchFile, TorchTensor};

/// One tensor of a checkpoint.
#[derive(Clone)]
pub(crate) struct Listed {
    /// The name that the file gives to it.
    pub(crate) stored_name: String,
    pub(crate) file: Arc<Path>,
    pub(crate) shape: Vec<usize>,
    /// The stored type, in the words of the format.
    pub(crate) dtype: String,
    pub(crate) bytes: u64,
    pub(crate) origin: Origin,
}

/// Where the elements of a tensor come from.
#[derive(Clone)]
pub(crate) enum Origin {
    Mapped(Arc<SafetensorsFile>, TensorEntry),
    Torch(Arc<TorchFile>, TorchTensor),
    Ruled(Rule),
    Held(Weight),
}

impl Listed {
    fn mapped(file: &Arc<SafetensorsFile>, path: &Arc<Path>, entry: &TensorEntry) -> Listed {
        Listed {
            stored_name: entry.name.clone(),
            file: path.clone(),
            shape: entry.shape.clone(),
            dtype: entry.dtype.to_string(),
            bytes: entry.range.len() as u64,
            origin: Origin::Mapped(file.clone(), entry.clone()),
        }
    }

    fn torch(file: &Arc<TorchFile>, path: &Arc<Path>, tensor: &TorchTensor) -> Listed {
        let elements: u64 = tensor.shape.iter().map(|e| *e as u64).product();
        Listed {
            stored_name: tensor.name.clone(),
            file: path.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype.to_string(),
            bytes: elements * tensor.dtype.bitsize() as u64 / 8,
            origin: Origin::Torch(file.clone(), tensor.clone()),
        }
    }

    /// Shape and type as the engine's.
    fn desc(&self, dtype: Dtype) -> Result<TensorDesc> {
        let dtype = element(dtype).ok_or_else(|| LoadError::DType {
            file: self.file.to_path_buf(),
            tensor: shown(&self.stored_name),
            found: self.dtype.clone(),
        })?;
        let shape = Shape::new(&self.shape).map_err(|e| self.wrong(e))?;
        Ok(TensorDesc { shape, dtype })
    }

    /// The tensor as it is stored, under the name that was asked for.
    pub(crate) fn weight(&self, name: &str) -> Result<Weight> {
        match &self.origin {
            Origin::Held(weight) => Ok(weight.clone()),
            Origin::Ruled(rule) => {
                let desc = TensorDesc::new(rule.shape, DType::F32);
                Ok(Weight::procedural(name, desc, rule.seed, rule.amplitude, 0.0))
            }
            Origin::Torch(file, tensor) => {
                let desc = self.desc(tensor.dtype)?;
                match tensor.range() {
                    Some(range) => Weight::stored(name, desc, file.clone(), range).map_err(|e| self.wrong(e)),
                    None => {
                        let held = HostTensor::from_bytes(desc, &file.data(tensor)?).map_err(|e| self.wrong(e))?;
                        Ok(Weight::owned(name, held))
                    }
                }
            }
            Origin::Mapped(file, entry) => {
                let desc = self.desc(entry.dtype)?;
                Weight::stored(name, desc, file.clone(), entry.range.clone()).map_err(|e| self.wrong(e))
            }
        }
    }

    /// The stored type.
    pub(crate) fn stored_type(&self) -> Dtype {
        match &self.origin {
            Origin::Mapped(_, entry) => entry.dtype,
            Origin::Torch(_, tensor) => tensor.dtype,
            Origin::Ruled(_) => Dtype::F32,
            Origin::Held(weight) => format_dtype(weight.desc().dtype),
        }
    }

    /// The stored elements, row-major.
    pub(crate) fn data(&self) -> Result<Cow<'_, [u8]>> {
        match &self.origin {
            Origin::Mapped(file, entry) => file.data(entry).map(Cow::Borrowed),
            Origin::Torch(file, tensor) => file.data(tensor),
            Origin::Held(weight) => Ok(weight.bytes()),
            Origin::Ruled(_) => Ok(Cow::Owned(self.weight(&self.stored_name)?.bytes().into_owned())),
        }
    }

    /// The stored pages are not needed soon.
    pub(crate) fn release(&self) {
        match &self.origin {
            Origin::Mapped(file, entry) => file.release(entry.range.clone()),
            Origin::Torch(file, tensor) => tensor.range().into_iter().for_each(|range| file.release(range)),
            Origin::Ruled(_) | Origin::Held(_) => {}
        }
    }

    /// Looks for NaN and infinities in its weight; rules make none.
    pub(crate) fn check(&self, weight: &Weight) -> Result<()> {
        if matches!(self.origin, Origin::Ruled(_)) {
            return Ok(());
        }
        match first_non_finite(weight.desc().dtype, &weight.bytes()) {
            None => Ok(()),
            Some((index, value)) => Err(LoadError::NonFinite {
                file: self.file.to_path_buf(),
                tensor: shown(&self.stored_name),
                index,
                value,
            }),
        }
    }

    /// Its weight in another type. A finite number that the type can't hold is an error, not an infinity.
    pub(crate) fn converted(&self, weight: Weight, dtype: Option<DType>) -> Result<Weight> {
        let Some(dtype) = dtype.filter(|d| *d != weight.desc().dtype) else { return Ok(weight) };
        let wide = weight.read().map_err(|e| self.wrong(e))?;
        let narrow = wide.convert(dtype);
        if let Some((i, _)) = first_non_finite(dtype, narrow.bytes())
            && let Some(value) = wide.to_f32().get(i)
            && value.is_finite()
        {
            return Err(self.wrong(format!("element {i} is {value}, beyond the range of {dtype}")));
        }
        Ok(Weight::owned(weight.name(), narrow))
    }

    pub(crate) fn wrong(&self, reason: impl ToString) -> LoadError {
        LoadError::tensor(&self.file, &self.stored_name, reason)
    }
}

/// Everything that the cursors over one checkpoint share.
pub(crate) struct Table {
    /// What was opened, for errors.
    pub(crate) label: PathBuf,
    /// The tensors, by the names that models ask for.
    pub(crate) tensors: BTreeMap<String, Listed>,
    /// Tensors that a shard has beside those that the index puts there.
    pub(crate) unmapped: Vec<Listed>,
    /// Safetensors files beside the shards that no index entry names.
    pub(crate) stray_files: Vec<PathBuf>,
    /// Answers for names that are not in the table.
    pub(crate) any: Option<AnyShape>,
    pub(crate) asked: Mutex<Asked>,
}

/// What was asked of a checkpoint so far.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) names: HashSet<String>,
    /// Names, or paths of whole parts, that need not be asked for.
    pub(crate) ignored: Vec<String>,
    /// Weights that were handed out, and whether they were checked: a weight asked for twice is one weight, uploaded once.
    pub(crate) given: HashMap<String, Vec<(Weight, bool)>>,
}

impl Table {
    pub(crate) fn empty(label: &Path) -> Table {
        Table {
            label: label.into(),
            tensors: BTreeMap::new(),
            unmapped: Vec::new(),
            stray_files: Vec::new(),
            any: None,
            asked: Mutex::default(),
        }
    }

    /// All tensors of some files.
    pub(crate) fn of_files(label: &Path, paths: &[impl AsRef<Path>]) -> Result<Table> {
        let mut table = Table::empty(label);
        for path in paths {
            if TorchFile::is(&first_bytes(path.as_ref())?) {
                table.add_torch(path.as_ref())?;
                continue;
            }
            table.add_file(&SafetensorsFile::open(path)?)?;
        }
        Ok(table)
    }

    /// The tensors of a file that was built into the program.
    pub(crate) fn of_embedded(label: &Path, bytes: &'static [u8]) -> Result<Table> {
        let mut table = Table::empty(label);
        table.add_file(&SafetensorsFile::embedded(label, bytes)?)?;
        Ok(table)
    }

    /// Adds all tensors of a file.
    fn add_file(&mut self, file: &Arc<SafetensorsFile>) -> Result<()> {
        let path: Arc<Path> = file.path().into();
        let mut each = file.header().tensors.iter();
        each.try_for_each(|entry| self.insert(entry.name.clone(), Listed::mapped(file, &path, entry)))
    }

    fn add_torch(&mut self, path: &Path) -> Result<()> {
        let file = TorchFile::open(path)?;
        let path: Arc<Path> = path.into();
        for tensor in file.tensors() {
            self.insert(tensor.name.clone(), Listed::torch(&file, &path, tensor))?;
        }
        Ok(())
    }

    /// The tensors that an index names, each from the shard that it names.
    pub(crate) fn of_index(label: &Path, index_path: &Path) -> Result<Table> {
        let index = Index::parse(&read_bounded(index_path, Index::MAX_BYTES)?, index_path)?;
        let dir = index_path.parent().unwrap_or(Path::new(""));
        let mut table = Table::empty(label);
        for shard in index.shards() {
            let path = dir.join(shard);
            if !path.exists() {
                let first = index.weight_map.iter().find(|(_, s)| *s == shard).map_or("", |(tensor, _)| tensor);
                return Err(shard_error(index_path, first, shard, "the file does not exist"));
            }
            let file = SafetensorsFile::open(&path)?;
            let path: Arc<Path> = path.into();
            for entry in &file.header().tensors {
                let listed = Listed::mapped(&file, &path, entry);
                match index.weight_map.get(&entry.name) {
                    Some(home) if home == shard => table.insert(entry.name.clone(), listed)?,
                    _ => table.unmapped.push(listed),
                }
            }
        }
        if let Some((tensor, shard)) = index.weight_map.iter().find(|(tensor, _)| !table.tensors.contains_key(*tensor))
        {
            return Err(shard_error(index_path, tensor, shard, "the file has no such tensor"));
        }
        let beside = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let stray = file_names(beside)?.into_iter().filter(|n| n.ends_with(".safetensors"));
        table.stray_files = stray.filter(|n| !index.shards().contains(n.as_str())).map(|n| dir.join(n)).collect();
        Ok(table)
    }

    /// Adds the tensors that a `weights_spec.json` gives by rules.
    pub(crate) fn add_spec(&mut self, path: &Path) -> Result<()> {
        let file: Arc<Path> = path.into();
        for (name, rule) in read_spec(path)? {
            let desc = TensorDesc::new(rule.shape, DType::F32);
            let listed = Listed {
                stored_name: name.clone(),
                file: file.clone(),
                shape: rule.shape.dims().to_vec(),
                dtype: "F32".into(),
                bytes: desc.bytes(),
                origin: Origin::Ruled(rule),
            };
            self.insert(name, listed)?;
        }
        Ok(())
    }

    /// Tensors that are already in memory.
    pub(crate) fn of_tensors(tensors: BTreeMap<String, HostTensor>) -> Table {
        let mut table = Table::empty(Path::new("memory"));
        let file: Arc<Path> = Path::new("memory").into();
        for (name, tensor) in tensors {
            let desc = tensor.desc();
            let listed = Listed {
                stored_name: name.clone(),
                file: file.clone(),
                shape: desc.shape.dims().to_vec(),
                dtype: desc.dtype.name().to_uppercase(),
                bytes: desc.bytes(),
                origin: Origin::Held(Weight::owned(name.clone(), tensor)),
            };
            table.tensors.insert(name, listed);
        }
        table
    }

    /// The same tensors under other names, and nothing asked for yet.
    pub(crate) fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Result<Table> {
        let mut table = Table {
            unmapped: self.unmapped.clone(),
            stray_files: self.stray_files.clone(),
            any: self.any,
            ..Table::empty(&self.label)
        };
        for (name, listed) in &self.tensors {
            table.insert(rename(name).unwrap_or_else(|| name.clone()), listed.clone())?;
        }
        Ok(table)
    }

    /// Adds everything that another table has.
    pub(crate) fn add(&mut self, other: &Table) -> Result<()> {
        self.unmapped.extend(other.unmapped.iter().cloned());
        self.stray_files.extend(other.stray_files.iter().cloned());
        self.any = self.any.or(other.any);
        other.tensors.iter().try_for_each(|(name, listed)| self.insert(name.clone(), listed.clone()))
    }

    fn insert(&mut self, name: String, listed: Listed) -> Result<()> {
        if let Some(other) = self.tensors.get(&name) {
            let (place, stored) = (other.file.display(), shown(&other.stored_name));
            let reason = format!("{place} has the same name for {stored}");
            return Err(LoadError::Duplicate { file: listed.file.to_path_buf(), tensor: shown(&name), reason });
        }
        self.tensors.insert(name, listed);
        Ok(())
    }
}

fn shard_error(index: &Path, tensor: &str, shard: &str, reason: &str) -> LoadError {
    LoadError::Shard { file: index.into(), tensor: shown(tensor), shard: shown(shard), reason: reason.into() }
}
