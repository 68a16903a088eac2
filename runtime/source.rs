//! Kernel sources: the generated header that specialises one text for a dtype and a set of constants.

use std::fmt::Write;

use crate::op::KernelSource;
use crate::tensor::DType;

/// A constant of a generated header: a real constant of the kernel's language.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Constant {
    /// An unsigned integer.
    U32(u32),
    /// A float, written so that it is read back exactly.
    F32(f32),
    /// A flag.
    Bool(bool),
    /// An alias of an element type (`elem`, `welem`), with vectors of two and four beside it (`elem2`, `elem4`).
    Type(DType),
}

impl From<u32> for Constant {
    fn from(v: u32) -> Self {
        Constant::U32(v)
    }
}

impl From<f32> for Constant {
    fn from(v: f32) -> Self {
        Constant::F32(v)
    }
}

impl From<bool> for Constant {
    fn from(v: bool) -> Self {
        Constant::Bool(v)
    }
}

impl From<DType> for Constant {
    fn from(v: DType) -> Self {
        Constant::Type(v)
    }
}

/// Whole WGSL text of a kernel: directives, constants, then the file. `subgroup_directive` adds `enable subgroups;`, which
/// browsers require and naga 30 refuses.
///
/// bf16 has no WGSL type: a source that asks for it gets none, and no WGSL variant may do so.
pub fn wgsl(source: &KernelSource, subgroup_directive: bool) -> String {
    let mut out = String::with_capacity(source.text.len() + 512);
    if source.constants.iter().any(|(_, c)| *c == Constant::Type(DType::F16)) {
        out.push_str("enable f16;\n");
    }
    if subgroup_directive && source.text.contains("subgroup") {
        out.push_str("enable subgroups;\n");
    }
    for (name, constant) in &source.constants {
        // Writing to a String cannot fail.
        let _ = match constant {
            Constant::U32(v) => writeln!(out, "const {name}: u32 = {v}u;"),
            Constant::F32(v) => writeln!(out, "const {name}: f32 = {};", wgsl_f32(*v)),
            Constant::Bool(v) => writeln!(out, "const {name}: bool = {v};"),
            Constant::Type(t) => {
                let t = if *t == DType::F16 { "f16" } else { "f32" };
                writeln!(out, "alias {name} = {t};\nalias {name}2 = vec2<{t}>;\nalias {name}4 = vec4<{t}>;")
            }
        };
    }
    out.push_str(source.text);
    out
}

fn wgsl_f32(v: f32) -> String {
    // WGSL has no literal for infinities and NaN; no kernel asks for one.
    format!("{v:?}f")
}
