//! What a `case.json` says.

use std::collections::BTreeMap;
use std::path::Path;

use muybridge_runtime::files;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

/// A whole case.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    pub name: String,
    pub kind: String,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub components: BTreeMap<String, Component>,
    pub calls: Vec<CallRecord>,
}

/// A network or scheduler of a case; paths are relative to the case's folder.
#[derive(Debug, Deserialize)]
pub(super) struct Component {
    pub config: Option<String>,
    /// File by dtype. All hold the same numbers.
    #[serde(default)]
    pub weights: BTreeMap<String, String>,
    pub dir: Option<String>,
    /// A `weights_spec.json` gives the tensors that the file lacks.
    #[serde(default)]
    pub procedural: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct CallRecord {
    pub name: String,
    pub op: String,
    #[serde(default)]
    pub args: Map<String, Json>,
    #[serde(default)]
    pub inputs: BTreeMap<String, InputRecord>,
    pub outputs: BTreeMap<String, OutputRecord>,
}

#[derive(Debug, Deserialize)]
pub(super) struct InputRecord {
    pub key: Option<String>,
    pub procedural: Option<Rule>,
}

/// Elements by the procedural rule.
#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    pub shape: Vec<usize>,
    pub seed: Seed,
    pub amp: f64,
}

/// A seed has 64 bits, more than many JSON writers keep of a number: it may be written as a string.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Seed {
    Number(u64),
    Text(String),
}

impl Seed {
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Seed::Number(n) => Some(*n),
            Seed::Text(text) => text.parse().ok(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct OutputRecord {
    pub key: String,
    /// Nothing but equality passes.
    #[serde(default)]
    pub exact: bool,
    /// Largest difference of an f32 result.
    pub atol_f32: Option<f64>,
    /// PyTorch's own error in narrow dtypes.
    #[serde(default)]
    pub torch_low: BTreeMap<String, Low>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Low {
    pub rel_rms: f64,
}

impl Record {
    /// Longest `case.json` that is read, in bytes.
    const MAX_BYTES: u64 = 16 << 20;

    pub(super) fn read(file: &Path) -> Result<Record> {
        let wrong = |reason: String| Error::Case { file: file.into(), reason };
        let bytes = files::read(file, Record::MAX_BYTES).map_err(|e| wrong(e.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))
    }
}
