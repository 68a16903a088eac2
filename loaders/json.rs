//! JSON from files that are not trusted: bounded in size and depth, and no name twice.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Number, Value};

use crate::error::{LoadError, Result, shown};
use crate::partial::Partial;

/// Reads a whole regular file of at most `most` bytes.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    check_length(path, length, most)?;
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(most + 1).read_to_end(&mut bytes).map_err(LoadError::io(path))?;
    check_length(path, bytes.len() as u64, most)?;
    Ok(bytes)
}

/// Writes a value as an indented JSON file. It appears under its name when it is complete and on disk, or not at all.
///
/// # Errors
/// The system refuses to write.
pub fn write_json(path: impl AsRef<Path>, value: &Value) -> Result<()> {
    let path = path.as_ref();
    let (partial, mut file) = Partial::file(path).map_err(LoadError::io(path))?;
    file.write_all(format!("{value:#}\n").as_bytes()).map_err(LoadError::io(path))?;
    partial.commit(file).map_err(LoadError::io(path))
}

/// Refuses a length above `most`.
pub(crate) fn check_length(file: &Path, length: u64, most: u64) -> Result<()> {
    if length > most { Err(LoadError::TooLong { file: file.into(), length, most }) } else { Ok(()) }
}

/// Opens a regular file and tells its length. Pipes and devices are refused before they are opened: they could block.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let meta = std::fs::metadata(path).map_err(LoadError::io(path))?;
    if !meta.is_file() {
        return Err(LoadError::NotFound { file: path.into(), reason: "is not a regular file".into() });
    }
    let file = File::open(path).map_err(LoadError::io(path))?;
    let length = file.metadata().map_err(LoadError::io(path))?.len();
    Ok((file, length))
}

/// The first bytes of a file, by which its kind is told: sixteen, or zeros beyond its end.
pub(crate) fn first_bytes(path: &Path) -> Result<[u8; 16]> {
    let mut start = [0; 16];
    let (mut file, mut filled) = (open_regular(path)?.0, 0);
    while filled < start.len() {
        match file.read(&mut start[filled..]).map_err(LoadError::io(path))? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(start)
}

/// Most names of an object: more than any checkpoint has, and few enough that they fit in little memory.
pub(crate) const MAX_NAMES: usize = 1 << 18;

/// A JSON object whose names are all different.
pub(crate) struct UniqueMap<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value()?;
            if all.contains_key(&name) {
                return Err(twice(&name));
            }
            if all.len() == MAX_NAMES {
                return Err(A::Error::custom(format!("more than {MAX_NAMES} names")));
            }
            all.insert(name, value);
        }
        Ok(UniqueMap(all))
    }
}

fn twice<E: de::Error>(name: &str) -> E {
    E::custom(format!("the name {:?} is there twice", shown(name)))
}

/// Parses a JSON value. The parser's own limit bounds the depth (128), and no object may have a name twice.
pub(crate) fn parse_value(bytes: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict)? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if all.contains_key(&name) {
                return Err(twice(&name));
            }
            all.insert(name, map.next_value_seed(Strict)?);
        }
        Ok(Value::Object(all))
    }
}

/// Python writes infinities and NaN as bare words, which JSON does not have (`"lambda_min_clipped": -Infinity` is in the
/// published configuration of a scheduler). They become strings of the same letters.
pub(crate) fn quote_bare_words(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(bytes.len());
    let (mut in_string, mut at) = (false, 0);
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|w| !in_string && rest.starts_with(w.as_bytes()));
        let taken = match (word, byte) {
            (Some(word), _) => word.len(),
            (None, b'\\') if in_string => rest.len().min(2),
            _ => 1,
        };
        if word.is_none() && byte == b'"' {
            in_string = !in_string;
        }
        quoted.extend(word.map(|_| b'"'));
        quoted.extend_from_slice(&rest[..taken]);
        quoted.extend(word.map(|_| b'"'));
        at += taken;
    }
    quoted
}
