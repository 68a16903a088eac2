//! Prompts to the states that a denoising network reads.

use muybridge_loaders::Tokenizer;
use muybridge_runtime::{DType, Device, HostTensor, PlanReport, Shape};

use super::Checkpoint;
use crate::clip::{ClipText, ClipTextShape};
use crate::error::{Error, Result};

/// What is said, and how it is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptOptions {
    /// What is wanted.
    pub prompt: String,
    /// What is not wanted. None and the empty text differ in XL checkpoints that say so.
    pub negative_prompt: Option<String>,
    /// Layers of the text towers left out at their end for the prompt. The negative prompt is read with all of them, as
    /// diffusers reads it.
    pub clip_skip: usize,
    /// There is a negative half, before the other.
    pub guided: bool,
}

/// States of prompts: one row, or two under guidance, the negative one first.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// `[n,L,C]`, f32.
    pub states: HostTensor,
    /// Pooled texts `[n,P]`, f32, in XL checkpoints.
    pub pooled: Option<HostTensor>,
    /// What a reader should know: prompts that were cut.
    pub notes: Vec<String>,
}

impl Conditioning {
    /// Rows: 2 under guidance, else 1.
    pub fn rows(&self) -> usize {
        self.states.shape()[0]
    }

    /// Tokens of the states.
    pub fn tokens(&self) -> usize {
        self.states.shape()[1]
    }
}

/// One of the text towers with its tokenizer, over their folders.
const TOWERS: [(&str, &str); 2] = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")];

impl Checkpoint {
    /// Reads prompts with the text towers, each of which is freed before the next is opened.
    ///
    /// # Errors
    /// Files of the towers or tokenizers that cannot be used, a `clip_skip` beyond their layers, and the device's errors.
    pub fn condition(&self, options: &PromptOptions, dtype: DType, device: &Device) -> Result<Conditioning> {
        let xl = self.is_xl()?;
        let negative = options.negative_prompt.as_deref();
        let texts: Vec<&str> = match options.guided {
            true => vec![negative.unwrap_or(""), &options.prompt],
            false => vec![&options.prompt],
        };
        let mut notes = Vec::new();
        let (mut parts, mut pooled) = (Vec::new(), None);
        for (tower, tokenizer) in TOWERS.into_iter().take(if xl { 2 } else { 1 }) {
            let tokenizer = self.tokenizer(tokenizer)?;
            if parts.is_empty() {
                notes.extend(texts.iter().filter_map(|text| cut(&tokenizer, text)));
            }
            let text = self.text(tower, device)?;
            let mut rows: Vec<(HostTensor, Option<HostTensor>)> = Vec::new();
            for (i, words) in texts.iter().enumerate() {
                let skip = if i + 1 == texts.len() { options.clip_skip } else { 0 };
                // In XL, the states before the last layer are meant, whatever is skipped besides.
                let read = text.encode(&[tokenizer.encode(words)], None, skip + usize::from(xl), dtype)?;
                rows.push((if xl { read.hidden_states } else { read.skipped_states }, read.text_embeds));
            }
            let (states, embeds): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            parts.push(stacked(&states)?);
            pooled = embeds.into_iter().collect::<Option<Vec<_>>>().map(|all| stacked(&all)).transpose()?;
        }
        let mut states = beside(&parts)?;
        if xl && options.guided && negative.is_none() && self.zeros_for_no_prompt()? {
            (states, pooled) = (zero_first(&states), pooled.as_ref().map(zero_first));
        }
        if xl && pooled.is_none() {
            return Err(Error::call("Checkpoint", "text_encoder_2 has no text_projection, where XL needs one"));
        }
        Ok(Conditioning { states, pooled: pooled.filter(|_| xl), notes })
    }

    /// Bytes that the largest text tower takes on the device.
    pub(super) fn text_memory(&self, dtype: DType, trace: &Device) -> Result<u64> {
        let mut most = 0;
        for (tower, tokenizer) in TOWERS.into_iter().take(if self.is_xl()? { 2 } else { 1 }) {
            let weights = self.weights(tower)?.unchecked();
            let text = ClipText::of(&self.config(tower)?, weights, trace)?;
            let tokens = self.tokenizer(tokenizer)?.length();
            let plan = text.plan(ClipTextShape { batch: 1, tokens, dtype, mask: false, skip: 0 })?;
            most = most.max(total(plan.report()));
        }
        Ok(most)
    }
}

/// Bytes of a plan on its device.
pub(super) fn total(report: &PlanReport) -> u64 {
    report.arena + report.weights + report.states
}

/// A note where a text has more tokens than are read.
fn cut(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    let (found, read) = (tokenizer.ids(text).len(), tokenizer.length() - 2);
    let start: String = text.chars().take(40).collect();
    (found > read).then(|| format!("the prompt {start:?}… has {found} tokens, of which the first {read} are read"))
}

/// Tensors of one item each, one after the other.
fn stacked(items: &[HostTensor]) -> Result<HostTensor> {
    let Some(first) = items.first() else { return Err(Error::call("Checkpoint", "no prompt")) };
    let mut extents = first.shape().dims().to_vec();
    extents[0] = items.len();
    let all: Vec<f32> = items.iter().flat_map(HostTensor::to_f32).collect();
    Ok(HostTensor::new(Shape::new(&extents)?, all)?)
}

/// States of several towers, side by side.
fn beside(parts: &[HostTensor]) -> Result<HostTensor> {
    let Some(first) = parts.first() else { return Err(Error::call("Checkpoint", "no text tower")) };
    let rows = first.shape().rows();
    if parts.iter().any(|p| p.shape().rows() != rows) {
        return Err(Error::call("Checkpoint", "the text towers read different numbers of tokens"));
    }
    let width: usize = parts.iter().map(|p| p.shape().last()).sum();
    let values: Vec<(usize, Vec<f32>)> = parts.iter().map(|p| (p.shape().last(), p.to_f32())).collect();
    let row = |r: usize| values.iter().flat_map(move |(c, v)| v[r * c..(r + 1) * c].iter().copied());
    let all: Vec<f32> = (0..rows).flat_map(row).collect();
    Ok(HostTensor::new(first.shape().with_last(width), all)?)
}

/// The tensor with zeros in its first item.
fn zero_first(tensor: &HostTensor) -> HostTensor {
    let (values, shape) = (tensor.to_f32(), tensor.shape());
    let item = shape.count() / shape[0].max(1);
    HostTensor::from_fn(shape, |i| if i < item { 0.0 } else { values[i] })
}
