//! Configurations: a JSON object with typed, range-checked fields.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Map, Value};

use crate::error::{LoadError, Result, shown};
use crate::json::{check_length, parse_value, quote_bare_words, read_bounded};

/// A `config.json`. A field that is `null` counts as absent. It remembers which fields were looked at.
#[derive(Debug)]
pub struct Config {
    file: PathBuf,
    /// Where this object lies in the file: empty, or `outer.`.
    prefix: String,
    fields: Map<String, Value>,
    read: Mutex<BTreeSet<String>>,
}

impl Config {
    /// Largest file that is read, in bytes.
    pub const MAX_BYTES: u64 = 1 << 20;
    /// Largest value of an unsigned integer field: products of a few extents then fit 64 bits.
    pub const MAX_INTEGER: u64 = 1 << 20;
    /// Longest list of a field.
    pub const MAX_LIST: usize = 1 << 16;

    /// Reads a configuration file; given a directory, the `config.json` in it.
    ///
    /// # Errors
    /// The file cannot be read, is larger than [`Config::MAX_BYTES`], or is not a JSON object with unique names.
    pub fn open(path: impl AsRef<Path>) -> Result<Config> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
        Config::parse(&read_bounded(&file, Config::MAX_BYTES)?, &file)
    }

    /// Parses the bytes of a configuration; `file` is only used in errors.
    ///
    /// # Errors
    /// The bytes are not a JSON object, an object has a name twice, or values nest deeper than 128.
    pub fn parse(bytes: &[u8], file: impl AsRef<Path>) -> Result<Config> {
        let file = file.as_ref();
        check_length(file, bytes.len() as u64, Config::MAX_BYTES)?;
        match parse_value(&quote_bare_words(bytes)).map_err(|e| LoadError::config(file, "", e))? {
            Value::Object(fields) => Ok(Config::at(file, String::new(), fields)),
            other => Err(LoadError::config(file, "", format!("wanted an object, found {}", kind(&other)))),
        }
    }

    fn at(file: &Path, prefix: String, fields: Map<String, Value>) -> Config {
        Config { file: file.into(), prefix, fields, read: Mutex::default() }
    }

    /// The file it came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An error about a field: for what only the model can judge (an activation that it does not know).
    pub fn error(&self, field: &str, reason: impl ToString) -> LoadError {
        LoadError::config(&self.file, &format!("{}{field}", self.prefix), reason)
    }

    /// A field, where it is present and not null.
    ///
    /// # Errors
    /// It is of another type, or out of its type's range.
    pub fn opt<T: Field>(&self, field: &str) -> Result<Option<T>> {
        match self.value(field) {
            None => Ok(None),
            Some(value) => T::from_json(value).map(Some).map_err(|reason| self.error(field, reason)),
        }
    }

    /// A field that must be present.
    ///
    /// # Errors
    /// It is absent or null, of another type, or out of its type's range.
    pub fn get<T: Field>(&self, field: &str) -> Result<T> {
        self.opt(field)?.ok_or_else(|| self.error(field, "is absent"))
    }

    /// A field, or `default` where it is absent or null.
    ///
    /// # Errors
    /// It is of another type, or out of its type's range.
    pub fn or<T: Field>(&self, field: &str, default: T) -> Result<T> {
        Ok(self.opt(field)?.unwrap_or(default))
    }

    /// A field that must be an integer from 0 to [`Config::MAX_INTEGER`].
    ///
    /// # Errors
    /// As [`Config::get`].
    pub fn usize(&self, field: &str) -> Result<usize> {
        self.get(field)
    }

    /// A field that must be a number.
    ///
    /// # Errors
    /// As [`Config::get`].
    pub fn f64(&self, field: &str) -> Result<f64> {
        self.get(field)
    }

    /// A number that may be infinite, as Python writes it (`-Infinity`). None where it is absent.
    ///
    /// # Errors
    /// It is of another type, or NaN.
    pub fn opt_extended(&self, field: &str) -> Result<Option<f64>> {
        match self.value(field).and_then(Value::as_str) {
            Some("Infinity") => Ok(Some(f64::INFINITY)),
            Some("-Infinity") => Ok(Some(f64::NEG_INFINITY)),
            _ => self.opt(field),
        }
    }

    /// A field that must be `true` or `false`.
    ///
    /// # Errors
    /// As [`Config::get`].
    pub fn bool(&self, field: &str) -> Result<bool> {
        self.get(field)
    }

    /// A field that must be a string.
    ///
    /// # Errors
    /// As [`Config::get`].
    pub fn str(&self, field: &str) -> Result<&str> {
        match self.value(field) {
            None => Err(self.error(field, "is absent")),
            Some(Value::String(s)) => Ok(s),
            Some(other) => Err(self.error(field, format!("wanted a string, found {}", kind(other)))),
        }
    }

    /// A field that is one value for all of `n` blocks, or a list of one value per block: always `n` values.
    /// None where it is absent.
    ///
    /// # Errors
    /// The list has another length, or a value is of another type or out of its type's range.
    pub fn opt_list_or_scalar<T: Field + Clone>(&self, field: &str, n: usize) -> Result<Option<Vec<T>>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        if n > Config::MAX_LIST {
            return Err(self.error(field, format!("{n} values wanted, where at most {} are had", Config::MAX_LIST)));
        }
        if !value.is_array() {
            let one = T::from_json(value).map_err(|reason| self.error(field, reason))?;
            return Ok(Some(vec![one; n]));
        }
        let list = Vec::<T>::from_json(value).map_err(|reason| self.error(field, reason))?;
        if list.len() != n {
            return Err(self.error(field, format!("wanted {n} values, found {}", list.len())));
        }
        Ok(Some(list))
    }

    /// As [`Config::opt_list_or_scalar`], for a field that must be present.
    ///
    /// # Errors
    /// It is absent, or as [`Config::opt_list_or_scalar`].
    pub fn list_or_scalar<T: Field + Clone>(&self, field: &str, n: usize) -> Result<Vec<T>> {
        self.opt_list_or_scalar(field, n)?.ok_or_else(|| self.error(field, "is absent"))
    }

    /// A field that is an object, as a configuration of its own. None where it is absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn object(&self, field: &str) -> Result<Option<Config>> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => {
                Ok(Some(Config::at(&self.file, format!("{}{field}.", self.prefix), fields.clone())))
            }
            Some(other) => Err(self.error(field, format!("wanted an object, found {}", kind(other)))),
        }
    }

    /// Whether a field is present and not null. Counts as looking at it.
    pub fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// Whether a field is written down as null. In some fields that says something else than absence
    /// (`"mid_block_type": null` is a network without a middle).
    pub fn is_null(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    /// Names of the fields that are present, not null, and were never looked at: what the model does not know about.
    /// Names that begin with `_` (`_class_name`, `_diffusers_version`) describe the file and are left out.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.lock().unwrap_or_else(|e| e.into_inner());
        let present = self.fields.iter().filter(|(_, value)| !value.is_null());
        present.map(|(name, _)| name).filter(|n| !n.starts_with('_') && !read.contains(*n)).cloned().collect()
    }

    fn value(&self, field: &str) -> Option<&Value> {
        let value = self.fields.get(field)?;
        self.read.lock().unwrap_or_else(|e| e.into_inner()).insert(field.into());
        (!value.is_null()).then_some(value)
    }
}

/// A type that a field of a configuration can have.
pub trait Field: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What was wanted and what was found.
    fn from_json(value: &Value) -> Result<Self, String>;
}

impl Field for usize {
    fn from_json(value: &Value) -> Result<usize, String> {
        let most = Config::MAX_INTEGER;
        match value.as_u64() {
            Some(v) if v <= most => Ok(v as usize),
            _ => Err(format!("wanted an integer from 0 to {most}, found {}", found(value))),
        }
    }
}

impl Field for i64 {
    fn from_json(value: &Value) -> Result<i64, String> {
        let most = Config::MAX_INTEGER as i64;
        match value.as_i64() {
            Some(v) if (-most..=most).contains(&v) => Ok(v),
            _ => Err(format!("wanted an integer from -{most} to {most}, found {}", found(value))),
        }
    }
}

impl Field for f64 {
    fn from_json(value: &Value) -> Result<f64, String> {
        let v = value.as_f64().filter(|v| v.is_finite());
        v.ok_or_else(|| format!("wanted a finite number, found {}", found(value)))
    }
}

impl Field for f32 {
    fn from_json(value: &Value) -> Result<f32, String> {
        let v = value.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
        v.ok_or_else(|| format!("wanted a finite number of 32 bits, found {}", found(value)))
    }
}

impl Field for bool {
    fn from_json(value: &Value) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| format!("wanted true or false, found {}", found(value)))
    }
}

impl Field for String {
    fn from_json(value: &Value) -> Result<String, String> {
        value.as_str().map(String::from).ok_or_else(|| format!("wanted a string, found {}", found(value)))
    }
}

/// A value that may be null inside a list (`transformer_layers_per_block: [1, null]`).
impl<T: Field> Field for Option<T> {
    fn from_json(value: &Value) -> Result<Option<T>, String> {
        if value.is_null() { Ok(None) } else { T::from_json(value).map(Some) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn from_json(value: &Value) -> Result<Vec<T>, String> {
        let Value::Array(list) = value else { return Err(format!("wanted a list, found {}", found(value))) };
        if list.len() > Config::MAX_LIST {
            return Err(format!("a list of {} values, where at most {} are read", list.len(), Config::MAX_LIST));
        }
        let read = |(i, v)| T::from_json(v).map_err(|reason| format!("value {i}: {reason}"));
        list.iter().enumerate().map(read).collect()
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::String(s) => format!("{:?}", shown(s)),
        other => kind(other).to_string(),
    }
}
