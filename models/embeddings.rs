//! The time embedding, and what is added to it: classes, sizes and pooled text.

use muybridge_kernels as ops;
use muybridge_kernels::Activation;
use muybridge_loaders::{Config, Weights};
use muybridge_runtime::{DType, Graph, HostTensor, Value, Weight};

use crate::config::{activation, look_at, unknown};
use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::stages::{Operands, Stages};

/// Numbers of a table that is turned over when it is read: its extents are a configuration's, and need no file.
const MOST_NUMBERS: usize = 1 << 28;

/// How a time becomes the embedding that residual blocks read.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeOptions {
    /// Columns of the sinusoids.
    pub channels: usize,
    /// Columns of the embedding.
    pub dim: usize,
    /// Cosines come first.
    pub cosine_first: bool,
    /// Subtracted from the number of frequencies.
    pub freq_shift: f32,
    /// Before the residual blocks' projections.
    pub activation: Activation,
    /// Between the two layers.
    pub between: Activation,
    /// After the second layer.
    pub post: Activation,
    /// After everything has been added.
    pub last: Activation,
    /// Columns of a guidance embedding that is projected and added to the sinusoids.
    pub condition: Option<usize>,
    /// Class embedding.
    pub class: Option<ClassOptions>,
    /// The class embedding stands beside the time embedding, instead of being added.
    pub concat: bool,
    /// Size and text embedding.
    pub addition: Option<AdditionOptions>,
}

/// How classes are embedded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClassOptions {
    /// By a table of this many rows.
    Table(usize),
    /// As times are, with this activation between the layers.
    Timestep(Activation),
    /// They are embedded already.
    Identity,
    /// By two layers from this many columns.
    Projection(usize),
    /// By one layer from this many columns.
    SimpleProjection(usize),
}

/// `text_time`: sinusoids of sizes beside a pooled text embedding, then two layers (Podell et al., "SDXL", 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdditionOptions {
    /// Columns for each size.
    pub time_dim: usize,
    /// Columns of text and sizes together.
    pub input: usize,
}

impl TimeOptions {
    /// Reads the fields that concern embeddings. A ControlNet has fewer of them than a UNet.
    pub(crate) fn read(c: &Config, channels: usize, unet: bool) -> Result<TimeOptions> {
        let act = activation(c, "act_fn")?.unwrap_or(Activation::Silu);
        let mut options = TimeOptions {
            channels,
            dim: 4 * channels,
            cosine_first: c.or("flip_sin_to_cos", true)?,
            freq_shift: c.or("freq_shift", 0.0)?,
            activation: act,
            between: act,
            post: Activation::None,
            last: Activation::None,
            condition: None,
            class: ClassOptions::read(c, act, unet)?,
            concat: false,
            addition: AdditionOptions::read(c)?,
        };
        if unet {
            options.dim = c.or("time_embedding_dim", options.dim)?;
            options.post = activation(c, "timestep_post_act")?.unwrap_or_default();
            options.last = activation(c, "time_embedding_act_fn")?.unwrap_or_default();
            options.condition = c.opt("time_cond_proj_dim")?;
            options.concat = c.or("class_embeddings_concat", false)? && options.class.is_some();
            match c.opt::<String>("time_embedding_type")?.as_deref() {
                None | Some("positional") => {}
                Some(other) => return Err(unknown(c, "time_embedding_type", other, "positional")),
            }
        }
        if options.concat && options.addition.is_some() {
            let reason = "true cannot be had together with an addition_embed_type";
            return Err(c.error("class_embeddings_concat", reason).into());
        }
        look_at(c, &["num_class_embeds", "addition_time_embed_dim", "projection_class_embeddings_input_dim"]);
        Ok(options)
    }

    /// Columns of the embedding as residual blocks read it.
    pub fn width(&self) -> usize {
        if self.concat { 2 * self.dim } else { self.dim }
    }

    fn sinusoids(&self, dim: usize, dtype: DType) -> ops::TimestepEmbedding {
        let plain = ops::TimestepEmbedding::new(dim, dtype);
        ops::TimestepEmbedding { cosine_first: self.cosine_first, freq_shift: self.freq_shift, ..plain }
    }
}

impl AdditionOptions {
    pub(crate) fn read(c: &Config) -> Result<Option<AdditionOptions>> {
        let dim = c.opt("addition_time_embed_dim")?;
        let input = c.opt("projection_class_embeddings_input_dim")?;
        match c.opt::<String>("addition_embed_type")?.as_deref() {
            None => Ok(None),
            Some("text_time") => {
                let time_dim = dim.ok_or_else(|| c.error("addition_time_embed_dim", "is absent"))?;
                let input = input.ok_or_else(|| c.error("projection_class_embeddings_input_dim", "is absent"))?;
                Ok(Some(AdditionOptions { time_dim, input }))
            }
            Some(other) => Err(unknown(c, "addition_embed_type", other, "text_time")),
        }
    }
}

impl ClassOptions {
    fn read(c: &Config, activation: Activation, unet: bool) -> Result<Option<ClassOptions>> {
        let (table, input) = (c.opt("num_class_embeds")?, c.opt("projection_class_embeddings_input_dim")?);
        let input = || input.ok_or_else(|| c.error("projection_class_embeddings_input_dim", "is absent"));
        Ok(match c.opt::<String>("class_embed_type")?.as_deref() {
            None => table.map(ClassOptions::Table),
            Some("timestep") => Some(ClassOptions::Timestep(if unet { activation } else { Activation::Silu })),
            Some("identity") => Some(ClassOptions::Identity),
            Some("projection") => Some(ClassOptions::Projection(input()?)),
            Some("simple_projection") if unet => Some(ClassOptions::SimpleProjection(input()?)),
            Some(other) => {
                let known = "timestep, identity, projection, and for a UNet simple_projection";
                return Err(unknown(c, "class_embed_type", other, known));
            }
        })
    }
}

/// Two layers with an activation between: `[B,K]` → `[B,N]`.
#[derive(Clone, Debug)]
struct Perceptron {
    linear_1: Linear,
    linear_2: Linear,
    activation: Activation,
}

impl Perceptron {
    fn open(w: &Weights, k: usize, n: usize, activation: Activation) -> Result<Perceptron> {
        let (linear_1, linear_2) = (Linear::open(&w.at("linear_1"), k, n)?, Linear::open(&w.at("linear_2"), n, n)?);
        Ok(Perceptron { linear_1, linear_2, activation })
    }

    fn build(&self, g: &mut Graph, x: Value, last: Activation, residual: Option<Value>) -> Result<Value> {
        let h = self.linear_1.activate(g, x, self.activation)?;
        match residual {
            Some(residual) => self.linear_2.activate_add(g, h, last, residual),
            None => self.linear_2.activate(g, h, last),
        }
    }
}

#[derive(Clone, Debug)]
enum ClassEmbedding {
    /// A table `[n, dim]` as a layer that reads rows with a single one in them.
    Table(Linear),
    Timestep(Perceptron),
    Identity,
    Projection(Perceptron),
    SimpleProjection(Linear),
}

impl ClassEmbedding {
    fn open(w: &Weights, options: ClassOptions, time: &TimeOptions) -> Result<ClassEmbedding> {
        let (w, dim) = (&w.at("class_embedding"), time.dim);
        Ok(match options {
            ClassOptions::Table(n) => ClassEmbedding::Table(transposed(w, n, dim)?),
            ClassOptions::Timestep(act) => ClassEmbedding::Timestep(Perceptron::open(w, time.channels, dim, act)?),
            ClassOptions::Identity => ClassEmbedding::Identity,
            ClassOptions::Projection(n) => ClassEmbedding::Projection(Perceptron::open(w, n, dim, Activation::Silu)?),
            ClassOptions::SimpleProjection(n) => ClassEmbedding::SimpleProjection(Linear::open(w, n, dim)?),
        })
    }

    fn build(&self, g: &mut Graph, time: &TimeOptions, classes: Value, o: &Operands) -> Result<Value> {
        match self {
            ClassEmbedding::Table(table) => table.apply(g, classes),
            ClassEmbedding::Timestep(mlp) => {
                let e = g.node("time_proj", time.sinusoids(time.channels, o.dtype), &[classes])?;
                mlp.build(g, e, Activation::None, None)
            }
            ClassEmbedding::Identity => Ok(classes),
            ClassEmbedding::Projection(mlp) => mlp.build(g, classes, Activation::None, None),
            ClassEmbedding::SimpleProjection(linear) => linear.apply(g, classes),
        }
    }
}

/// An embedding table `[n, dim]` as a layer `[B, n]` → `[B, dim]`, for rows with a single one in them.
fn transposed(w: &Weights, n: usize, dim: usize) -> Result<Linear> {
    if n.checked_mul(dim).is_none_or(|count| count > MOST_NUMBERS) {
        let reason = format!("{} [{n}, {dim}], at most {MOST_NUMBERS} numbers are read", w.name("weight"));
        return Err(Error::call("TimeEmbedding", reason));
    }
    let table = w.get("weight", [n, dim])?;
    let columns = table.read()?.permute(&[1, 0])?;
    Ok(Linear::of(w.path(), Weight::owned(table.name(), columns)))
}

/// Everything from a timestep to the stacked time projections.
#[derive(Clone, Debug)]
pub struct TimeEmbedding {
    time_embedding: Perceptron,
    cond_proj: Option<Linear>,
    class_embedding: Option<ClassEmbedding>,
    add_embedding: Option<Perceptron>,
    options: TimeOptions,
}

/// What is known of the time embedding before the timestep is: it stays the same for a whole clip.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// `[B, channels]`, added to the sinusoids.
    condition: Option<Value>,
    /// `[B, dim]`, added to the embedding.
    added: Option<Value>,
    /// `[B, dim]`, put beside the embedding.
    beside: Option<Value>,
}

impl TimeEmbedding {
    /// `time_embedding`, `class_embedding` and `add_embedding` below the cursor.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, options: &TimeOptions) -> Result<TimeEmbedding> {
        let TimeOptions { channels, dim, between, .. } = *options;
        let at = w.at("time_embedding");
        let condition = |n| Linear::unbiased(&at.at("cond_proj"), n, channels);
        let addition = |a: AdditionOptions| Perceptron::open(&w.at("add_embedding"), a.input, dim, Activation::Silu);
        Ok(TimeEmbedding {
            time_embedding: Perceptron::open(&at, channels, dim, between)?,
            cond_proj: options.condition.map(condition).transpose()?,
            class_embedding: options.class.map(|class| ClassEmbedding::open(w, class, options)).transpose()?,
            add_embedding: options.addition.map(addition).transpose()?,
            options: options.clone(),
        })
    }

    /// The activated embedding `[B, dim]` that the time projections read: three launches a step where nothing is added.
    ///
    /// # Errors
    /// An operand that the network needs was not declared; shapes that do not fit.
    pub fn build(&self, s: &mut Stages, o: &Operands) -> Result<Value> {
        let known = self.known(s, o)?;
        let (g, t) = (&mut s.step, &self.options);
        let mut e = g.node("time_proj", t.sinusoids(t.channels, o.dtype), &[o.timestep])?;
        if let Some(condition) = known.condition {
            e = g.node("time_embedding.cond_proj", ops::Elementwise::ADD, &[e, condition])?;
        }
        let mut then = [t.post, t.last, t.activation].into_iter().filter(|a| *a != Activation::None).peekable();
        let plain = known.added.is_none() && known.beside.is_none();
        // The second layer takes the first activation into its launch, unless something is added before it.
        let fused = if plain || t.post != Activation::None { then.next() } else { None };
        e = self.time_embedding.build(g, e, fused.unwrap_or_default(), known.added)?;
        if let Some(beside) = known.beside {
            e = g.node("class_embedding", ops::Layout::Concat, &[e, beside])?;
        }
        for activation in then {
            e = g.node("time_embed_act", ops::Elementwise::Activate(activation), &[e])?;
        }
        Ok(e)
    }

    fn known(&self, s: &mut Stages, o: &Operands) -> Result<Known> {
        let mut known = Known::default();
        if let (Some(proj), Some(cond)) = (&self.cond_proj, o.timestep_cond) {
            let v = proj.apply(&mut s.once, cond)?;
            known.condition = Some(s.hand_over(proj.path(), v));
        }
        let class = match &self.class_embedding {
            Some(embedding) => {
                let classes = wanted(o.class_labels, "class_labels")?;
                Some(embedding.build(&mut s.once, &self.options, classes, o)?)
            }
            None => None,
        };
        if self.options.concat {
            known.beside = class.map(|v| s.hand_over("class_embedding", v));
            return Ok(known);
        }
        let added = match &self.add_embedding {
            Some(embedding) => Some(self.addition(&mut s.once, embedding, o, class)?),
            None => class,
        };
        known.added = added.map(|v| s.hand_over("added_embedding", v));
        Ok(known)
    }

    /// Pooled text and sizes, embedded, plus the class embedding.
    fn addition(&self, g: &mut Graph, mlp: &Perceptron, o: &Operands, class: Option<Value>) -> Result<Value> {
        let (text, ids) = (wanted(o.text_embeds, "text_embeds")?, wanted(o.time_ids, "time_ids")?);
        let dim = self.options.addition.map_or(0, |a| a.time_dim);
        let sizes = g.node("add_time_proj", self.options.sinusoids(dim, o.dtype), &[ids])?;
        let both = g.node("add_embedding", ops::Layout::Concat, &[text, sizes])?;
        mlp.build(g, both, Activation::None, class)
    }
}

fn wanted(value: Option<Value>, name: &str) -> Result<Value> {
    value.ok_or_else(|| Error::call("TimeEmbedding", format!("the operand {name} is wanted")))
}

/// Rows with a single one in them, `[B, n]`: class labels as a network with a table of `n` classes reads them.
///
/// # Errors
/// A label that is not below `n`.
pub fn one_hot(labels: &[usize], n: usize) -> Result<HostTensor> {
    if let Some(label) = labels.iter().find(|l| **l >= n) {
        return Err(Error::call("class_embedding", format!("class {label} of {n}")));
    }
    let row = |i: usize| labels.get(i / n.max(1)).is_some_and(|l| *l == i % n);
    Ok(HostTensor::from_fn([labels.len(), n], |i| if row(i) { 1.0 } else { 0.0 }))
}
