//! CLIP's tokenizer: byte-level byte-pair encoding of lower-cased words.
//!
//! Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units" (2016), over the bytes of UTF-8 as
//! in Radford et al. (2019), with `</w>` at the end of each word (Radford et al., 2021).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::error::{LoadError, Result, shown};
use crate::json::{check_length, parse_value, read_bounded};

/// Marks the last symbol of a word.
const WORD_END: &str = "</w>";
/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Most tokens of a text.
const MAX_LENGTH: u64 = 1 << 16;

/// A vocabulary and its merges, and how texts are ended, cut and filled up.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: HashMap<String, u32>,
    /// Two neighbours that become one: how early that is done, and what they become.
    merges: HashMap<(u32, u32), (usize, u32)>,
    /// Tokens that are cut out of a text as it is, before anything else: ends, padding, the unknown.
    special: Vec<(String, u32)>,
    start: u32,
    end: u32,
    pad: u32,
    length: usize,
}

impl Tokenizer {
    /// Opens a directory of a tokenizer: `vocab.json` and `merges.txt`, or `tokenizer.json`. Special tokens come from
    /// `special_tokens_map.json`, their number from `tokenizer_config.json` (`model_max_length`), where these are there.
    ///
    /// # Errors
    /// A file is missing, or is not what such a file should be; a tokenizer of another kind.
    pub fn open(dir: impl AsRef<Path>) -> Result<Tokenizer> {
        let dir = dir.as_ref();
        let object = |name: &str| read_json(&dir.join(name));
        let (vocab, merges, whole) = (dir.join("vocab.json"), dir.join("merges.txt"), dir.join("tokenizer.json"));
        let mut tokenizer = if vocab.exists() || !whole.exists() {
            let text = read_bounded(&merges, MAX_BYTES)?;
            Tokenizer::new(&vocab, read_json(&vocab)?, &merges, lines(&merges, &text)?)?
        } else {
            let (vocabulary, pairs) = model(&whole, object("tokenizer.json")?)?;
            Tokenizer::new(&whole, vocabulary, &whole, pairs)?
        };
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            if dir.join(name).exists() {
                tokenizer.configure(&dir.join(name), &object(name)?)?;
            }
        }
        Ok(tokenizer)
    }

    fn new(file: &Path, vocabulary: Value, merges_file: &Path, pairs: Vec<(String, String)>) -> Result<Tokenizer> {
        let Value::Object(entries) = vocabulary else { return Err(wrong(file, "the vocabulary is no object")) };
        let mut all = HashMap::with_capacity(entries.len());
        for (token, id) in entries {
            let number = id.as_u64().filter(|n| *n < 1 << 24);
            let number = number.ok_or_else(|| wrong(file, format!("token {:?} has the id {id}", shown(&token))))?;
            all.insert(token, number as u32);
        }
        let mut merges = HashMap::with_capacity(pairs.len());
        for (rank, (a, b)) in pairs.into_iter().enumerate() {
            let id = |token: &str| {
                let unknown = || wrong(merges_file, format!("merge {rank}: no token {:?}", shown(token)));
                all.get(token).copied().ok_or_else(unknown)
            };
            let merged = (rank, id(&format!("{a}{b}"))?);
            merges.entry((id(&a)?, id(&b)?)).or_insert(merged);
        }
        let special = |token: &str| {
            let id = all.get(token).copied();
            id.map(|id| (token.to_string(), id)).ok_or_else(|| wrong(file, format!("no token {token}")))
        };
        let special = vec![special("<|startoftext|>")?, special("<|endoftext|>")?];
        let (start, end) = (special[0].1, special[1].1);
        Ok(Tokenizer { vocabulary: all, merges, special, start, end, pad: end, length: 77 })
    }

    /// Reads the special tokens and the length from an object of the settings.
    fn configure(&mut self, file: &Path, settings: &Value) -> Result<()> {
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            let Some(field) = settings.get(name).filter(|v| !v.is_null()) else { continue };
            let text = field.get("content").unwrap_or(field).as_str().filter(|text| !text.is_empty());
            let text = text.ok_or_else(|| wrong(file, format!("{name}: wanted a token")))?;
            let id = self.vocabulary.get(text).copied();
            let id = id.ok_or_else(|| wrong(file, format!("{name}: no token {:?} in the vocabulary", shown(text))))?;
            match name {
                "bos_token" => self.start = id,
                "eos_token" => self.end = id,
                "pad_token" => self.pad = id,
                _ => {}
            }
            if !self.special.iter().any(|(token, _)| token == text) {
                self.special.push((text.to_string(), id));
            }
        }
        // Absent limits are written as numbers like 1e30.
        if let Some(length) = settings.get("model_max_length").and_then(Value::as_u64).filter(|n| *n <= MAX_LENGTH) {
            if length < 2 {
                return Err(wrong(file, format!("model_max_length: {length} leaves no room for the ends of a text")));
            }
            self.length = length as usize;
        }
        Ok(())
    }

    /// Tokens of an encoded text, its ends included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The id that fills texts up.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The id after the last token of a text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The ids of a text as networks read them: the start, at most `length − 2` tokens, the end, and padding up to
    /// `length`.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.start];
        ids.extend(self.ids(text).into_iter().take(self.length.saturating_sub(2)));
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        ids
    }

    /// The ids of a text alone, however many.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut rest = text;
        loop {
            let found = |(token, id): &(String, u32)| rest.find(token).map(|at| (at, Reverse(token.len()), *id));
            let next = self.special.iter().filter_map(found).min();
            let plain = next.map_or(rest, |(at, ..)| &rest[..at]);
            let clean: Vec<char> = plain.nfc().flat_map(char::to_lowercase).collect();
            pieces(&clean).iter().for_each(|piece| self.word(piece, &mut ids));
            let Some((at, Reverse(length), id)) = next else { return ids };
            ids.push(id);
            rest = &rest[at + length..];
        }
    }

    /// Merges the symbols of a word, the earliest merge first, and of its places the first.
    fn word(&self, piece: &[char], ids: &mut Vec<u32>) {
        let text: String = piece.iter().collect();
        let bytes = text.as_bytes();
        let symbol = |(i, byte): (usize, &u8)| {
            let end = if i + 1 == bytes.len() { WORD_END } else { "" };
            let name = format!("{}{end}", printable(*byte));
            self.vocabulary.get(&name).copied().unwrap_or(self.end)
        };
        let mut symbols: Vec<u32> = bytes.iter().enumerate().map(symbol).collect();
        // Symbols as a list in both directions, so that a merge costs the same in words of any length. One that was merged
        // away has no neighbour.
        let mut next: Vec<usize> = (1..=symbols.len()).collect();
        let mut previous: Vec<usize> = (0..symbols.len()).map(|at| at.saturating_sub(1)).collect();
        let merge = |symbols: &[u32], next: &[usize], at: usize| {
            let pair = (symbols[at], *symbols.get(next[at])?);
            self.merges.get(&pair).copied()
        };
        let entry =
            |symbols: &[u32], next: &[usize], at: usize| merge(symbols, next, at).map(|(rank, _)| Reverse((rank, at)));
        let mut waiting: BinaryHeap<_> = (0..symbols.len()).filter_map(|at| entry(&symbols, &next, at)).collect();
        while let Some(Reverse((rank, at))) = waiting.pop() {
            // A pair that has changed since was entered anew.
            let Some((_, merged)) = merge(&symbols, &next, at).filter(|(now, _)| *now == rank) else { continue };
            let right = next[at];
            symbols[at] = merged;
            next[at] = std::mem::replace(&mut next[right], symbols.len());
            if let Some(previous) = previous.get_mut(next[at]) {
                *previous = at;
            }
            waiting.extend([previous[at], at].into_iter().filter_map(|at| entry(&symbols, &next, at)));
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at) {
            ids.push(*symbol);
            at = next[at];
        }
    }
}

/// What a character is to the cutting of a text into words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Number,
    Other,
}

impl Class {
    fn of(c: char) -> Class {
        // Alphabetic is more than the category of letters: letter numbers, marks of some scripts, letters in circles.
        let symbol = matches!(c, '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f189}');
        match c {
            _ if c.is_whitespace() => Class::Space,
            _ if c.is_numeric() => Class::Number,
            _ if c.is_alphabetic() && !is_combining_mark(c) && !symbol => Class::Letter,
            _ => Class::Other,
        }
    }
}

/// The words of a text: English contractions, runs of letters, single digits, runs of everything else but space.
fn pieces(text: &[char]) -> Vec<&[char]> {
    const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    let mut all = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let class = Class::of(rest[0]);
        let contraction =
            CONTRACTIONS.iter().find(|c| rest.len() >= c.len() && c.chars().eq(rest[..c.len()].iter().copied()));
        let length = match (contraction, class) {
            (Some(c), _) => c.len(),
            (None, Class::Number) => 1,
            (None, _) => rest.iter().take_while(|c| Class::of(**c) == class).count(),
        };
        if class != Class::Space {
            all.push(&rest[..length]);
        }
        at += length;
    }
    all
}

/// The character that stands for a byte in a vocabulary: itself where it is visible, else one from U+0100 on.
fn printable(byte: u8) -> char {
    let visible = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !visible(*b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn wrong(file: &Path, reason: impl Into<String>) -> LoadError {
    LoadError::Tokenizer { file: PathBuf::from(file), reason: reason.into() }
}

fn read_json(file: &Path) -> Result<Value> {
    let bytes = read_bounded(file, MAX_BYTES)?;
    check_length(file, bytes.len() as u64, MAX_BYTES)?;
    parse_value(&bytes).map_err(|e| wrong(file, e.to_string()))
}

/// The pairs of a `merges.txt`: two symbols on each line, after a line that says its version.
fn lines(file: &Path, bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let text = std::str::from_utf8(bytes).map_err(|e| wrong(file, e.to_string()))?;
    let lines = text.lines().enumerate();
    let kept = lines.filter(|(i, line)| !(line.is_empty() || (*i == 0 && line.starts_with("#version"))));
    let pair = |(i, line): (usize, &str)| {
        pair_of(line).ok_or_else(|| wrong(file, format!("line {}: wanted two symbols", i + 1)))
    };
    kept.map(pair).collect()
}

fn pair_of(line: &str) -> Option<(String, String)> {
    let (a, b) = line.split_once(' ')?;
    (!a.is_empty() && !b.is_empty() && !b.contains(' ')).then(|| (a.into(), b.into()))
}

/// Vocabulary and merges of a `tokenizer.json`, which must describe CLIP's kind of tokenizer.
fn model(file: &Path, whole: Value) -> Result<(Value, Vec<(String, String)>)> {
    let model = whole.get("model").ok_or_else(|| wrong(file, "no model"))?;
    for (field, wanted) in [("type", "BPE"), ("end_of_word_suffix", WORD_END)] {
        let found = model.get(field).unwrap_or(&Value::Null);
        // Old files leave the type out.
        if found != wanted && !(field == "type" && found.is_null()) {
            return Err(wrong(file, format!("model.{field} is {found}, where CLIP's is {wanted:?}")));
        }
    }
    let list = model.get("merges").and_then(Value::as_array).ok_or_else(|| wrong(file, "no model.merges"))?;
    let pair = |(i, merge): (usize, &Value)| {
        let symbols = |m: &Value| Some((m.get(0)?.as_str()?.to_string(), m.get(1)?.as_str()?.to_string()));
        let pair = merge.as_str().map_or_else(|| symbols(merge), pair_of);
        pair.ok_or_else(|| wrong(file, format!("model.merges: {i}: wanted two symbols")))
    };
    let pairs = list.iter().enumerate().map(pair).collect::<Result<_>>()?;
    Ok((model.get("vocab").cloned().unwrap_or_default(), pairs))
}
