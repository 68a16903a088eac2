//! Weights that are given by a rule: a benchmark needs a network's shapes, not somebody's checkpoint.

use std::path::Path;

use muybridge_runtime::{DType, Shape, TensorDesc, Weight};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{LoadError, Result, shown};
use crate::header::Header;
use crate::json::{parse_value, read_bounded};

/// A tensor of a `weights_spec.json`: element `i` is `amp` times the engine's procedural rule with this seed.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) shape: Shape,
    pub(crate) seed: u64,
    pub(crate) amplitude: f32,
}

#[derive(Deserialize)]
struct StoredRule {
    shape: Vec<usize>,
    seed: Seed,
    amp: f64,
}

/// A seed has 64 bits, more than many JSON writers keep of a number: it may be written as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seed {
    Number(u64),
    Text(String),
}

/// Longest specification that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Most elements of one tensor: a line of text must not ask for more memory than any weight has.
const MAX_ELEMENTS: usize = 1 << 31;

/// Reads a `weights_spec.json`: tensor name → shape, seed, amplitude.
pub(crate) fn read_spec(path: &Path) -> Result<Vec<(String, Rule)>> {
    let bytes = read_bounded(path, MAX_BYTES)?;
    let Value::Object(rules) = parse_value(&bytes).map_err(|e| LoadError::config(path, "", e))? else {
        return Err(LoadError::config(path, "", "wanted an object from tensor names to rules"));
    };
    rules.into_iter().map(|(name, rule)| check(path, &name, rule).map(|r| (name, r))).collect()
}

fn check(path: &Path, name: &str, stored: Value) -> Result<Rule> {
    let wrong = |reason: String| LoadError::tensor(path, name, reason);
    let stored: StoredRule = serde_json::from_value(stored).map_err(|e| wrong(e.to_string()))?;
    if name.len() > Header::MAX_NAME {
        return Err(wrong(format!("a name of {} bytes, where at most {} are read", name.len(), Header::MAX_NAME)));
    }
    let shape = Shape::new(&stored.shape).map_err(|e| wrong(e.to_string()))?;
    if shape.count() > MAX_ELEMENTS {
        return Err(wrong(format!("{shape} has more than {MAX_ELEMENTS} elements")));
    }
    let seed = match stored.seed {
        Seed::Number(n) => n,
        Seed::Text(text) => text.parse().map_err(|_| wrong(format!("the seed {:?} is no number", shown(&text))))?,
    };
    let amplitude = stored.amp as f32;
    if !amplitude.is_finite() {
        return Err(wrong(format!("the amplitude {} is not finite", stored.amp)));
    }
    Ok(Rule { shape, seed, amplitude })
}

/// A source that has every tensor that is asked for, in any shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnyShape {
    pub(crate) seed: u64,
    pub(crate) dtype: DType,
}

impl AnyShape {
    /// A tensor whose scale keeps activations of order one. With inputs of unit variance, a uniform distribution on
    /// ±sqrt(3 / fan-in) gives outputs of unit variance (LeCun et al., "Efficient BackProp", 1998, section 4.6). The
    /// scale of a norm varies round 1, an offset round 0.
    pub(crate) fn weight(&self, name: &str, shape: Shape) -> Weight {
        let (amplitude, offset) = match shape.dims() {
            [_, inner @ ..] if !inner.is_empty() => ((3.0 / inner.iter().product::<usize>().max(1) as f32).sqrt(), 0.0),
            _ if name.ends_with("weight") => (0.1, 1.0),
            _ => (0.05, 0.0),
        };
        Weight::procedural(name, TensorDesc { shape, dtype: self.dtype }, self.seed ^ hash(name), amplitude, offset)
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every release.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3))
}
