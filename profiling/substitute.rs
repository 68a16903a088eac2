//! An op with a kernel of one's own: the lowering of a variant that exists, with another text.

use std::path::Path;
use std::sync::Arc;

use muybridge_kernels::Case;
use muybridge_runtime::{Code, Cost, Lowering, Mismatch, Op, Result, Site, Target, TensorDesc, Variant, files};

use crate::Error;

/// Longest kernel that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// An op whose only variant is one's own.
#[derive(Debug)]
pub struct Substitute {
    op: Arc<dyn Op>,
    like: Variant,
    own: &'static [Variant],
    file: &'static str,
    text: &'static str,
}

impl Substitute {
    /// The variant `name` of the case's op: grid, constants, arguments and entry of the variant `like`, and the text of `file`.
    /// The text stands where the existing one does, after the generated header and the language's prelude. What is read stays
    /// in memory until the process ends, as every kernel's text does.
    ///
    /// # Errors
    /// The file cannot be read; no variant has this name for this kernel language.
    pub fn of(case: &Case, target: Target, like: &str, name: &str, file: &Path) -> crate::Result<Case> {
        let text = files::read(file, MAX_BYTES).map_err(|e| Error::file(file, e))?;
        let text = String::from_utf8(text).map_err(|e| Error::file(file, e))?;
        let variants = case.op.variants();
        let found = variants.iter().find(|v| v.target == target && v.name == like);
        let known: Vec<&str> = variants.iter().filter(|v| v.target == target).map(|v| v.name).collect();
        let none = || Error::Call(format!("{}: no {target} variant {like:?}: {}", case.op.name(), known.join(", ")));
        let like = *found.ok_or_else(none)?;
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let own = Variant { name: leak(name.into()), ..like };
        let op = Substitute {
            op: case.op.clone(),
            like,
            own: Box::leak(vec![own].into_boxed_slice()),
            file: leak(file.display().to_string()),
            text: leak(text),
        };
        Ok(Case { op: Arc::new(op), ..case.clone() })
    }
}

impl Op for Substitute {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        self.op.infer(inputs)
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        self.op.cost(inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        self.own
    }

    fn lower(&self, _: &Variant, site: &Site<'_>) -> Option<Lowering> {
        let mut lowering = self.op.lower(&self.like, site)?;
        for launch in &mut lowering.launches {
            let Code::Kernel(source) = &mut launch.code else { return None };
            (source.file, source.text) = (self.file, self.text);
        }
        Some(lowering)
    }

    fn tiles(&self, _: &Variant) -> &'static [&'static str] {
        self.op.tiles(&self.like)
    }

    fn reads_summary(&self, operand: usize) -> bool {
        self.op.reads_summary(operand)
    }

    fn identity(&self) -> String {
        self.op.identity()
    }
}
