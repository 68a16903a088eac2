//! Kernel sources: the generated header that specialises one text for a dtype and a set of constants.

mod cuda;

use std::fmt::Write;

use crate::op::KernelSource;
use crate::tensor::DType;

pub use self::cuda::cuda;

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
    /// An array that the text names where this launch never uses it: in CUDA a null pointer to f32. No WGSL text names one.
    Missing,
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

/// What a kernel knows an operand by: its name, and how its elements are stored. The generated header hides the storage:
/// a text reads with `read_NAME(i)` (element i as f32) or `read4_NAME(i)` (elements 4i..4i+4), and writes with
/// `write_NAME(i, value)` or `write4_NAME(i, value)`. The functions that a text calls are the ones that exist.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Binding {
    /// A buffer: the launch's next argument.
    Buffer {
        /// Name of the array in the text.
        name: &'static str,
        /// Type of the elements.
        dtype: DType,
        /// Elements of one entry of the array: 1, or 4 where the range is a whole number of aligned vectors.
        lanes: u32,
        /// A constant of the model. Everything else is bound for reading and writing, even where it is only read.
        constant: bool,
    },
    /// A [`BoxMap`](crate::op::BoxMap) of the launch, as the text's `TensorMap`: after the buffers, in the order of the launch's
    /// `maps`. CUDA only.
    Map {
        /// Its name in the text.
        name: &'static str,
    },
    /// An optional operand that this launch does without: it takes no argument, reads as one value everywhere, and keeps
    /// nothing that is written to it (in CUDA; no WGSL text writes one).
    Absent {
        /// Name of the array that there would be.
        name: &'static str,
        /// What it reads as.
        value: f32,
    },
}

/// Whole WGSL text of a kernel: directives, constants, bindings with their readers, then prelude and file.
/// `subgroup_directive` adds `enable subgroups;`, which browsers require and naga 30 refuses.
///
/// Where the file declares a `struct Params`, `params` is bound after the last buffer. bf16 has no WGSL type: a source that
/// asks for it gets none, and no WGSL variant may do so.
pub fn wgsl(source: &KernelSource, subgroup_directive: bool) -> String {
    let mut out = String::with_capacity(source.prelude.len() + source.text.len() + 2048);
    let types = source.constants.iter().filter_map(|(_, c)| if let Constant::Type(t) = c { Some(*t) } else { None });
    let stored = source.bindings.iter().filter_map(|b| match b {
        Binding::Buffer { dtype, .. } => Some(*dtype),
        Binding::Absent { .. } | Binding::Map { .. } => None,
    });
    if types.chain(stored).any(|t| t == DType::F16) {
        out.push_str("enable f16;\n");
    }
    if subgroup_directive && uses_subgroups(source.text) {
        out.push_str("enable subgroups;\n");
    }
    for (name, constant) in &source.constants {
        // Writing to a String cannot fail.
        let _ = match constant {
            Constant::U32(v) => writeln!(out, "const {name}: u32 = {v}u;"),
            Constant::F32(v) => writeln!(out, "const {name}: f32 = {};", wgsl_f32(*v)),
            Constant::Bool(v) => writeln!(out, "const {name}: bool = {v};"),
            Constant::Missing => Ok(()),
            Constant::Type(t) => {
                let t = wgsl_type(*t);
                writeln!(out, "alias {name} = {t};\nalias {name}2 = vec2<{t}>;\nalias {name}4 = vec4<{t}>;")
            }
        };
    }
    let mut index = 0;
    for binding in &source.bindings {
        wgsl_binding(&mut out, binding, index, source.text);
        index += u32::from(matches!(binding, Binding::Buffer { .. }));
    }
    if source.text.contains("struct Params") {
        let _ = writeln!(out, "@group(0) @binding({index}) var<uniform> params: Params;");
    }
    out.push_str(source.prelude);
    out.push_str(source.text);
    out
}

/// Whether a text calls a subgroup function or asks for a subgroup's built-in values.
fn uses_subgroups(text: &str) -> bool {
    let after = |(i, word): (usize, &str)| text[i + word.len()..].chars().next();
    text.match_indices("subgroup").filter_map(after).any(|c| c.is_ascii_uppercase() || c == '_')
}

/// Declares a buffer, and those of its readers and writers that the text calls.
fn wgsl_binding(out: &mut String, binding: &Binding, index: u32, text: &str) {
    let (name, reads) = match *binding {
        Binding::Buffer { name, dtype, lanes, constant } => {
            let t = wgsl_type(dtype);
            let access = if constant { "read" } else { "read_write" };
            let entry = if lanes == 4 { format!("vec4<{t}>") } else { t.into() };
            let _ = writeln!(out, "@group(0) @binding({index}) var<storage, {access}> {name}: array<{entry}>;");
            if !constant {
                wgsl_writers(out, name, t, lanes, text);
            }
            let quad = [0, 1, 2, 3].map(|k| format!("f32({name}[4u * i + {k}u])")).join(", ");
            match lanes {
                4 => (name, [format!("f32({name}[i / 4u][i % 4u])"), format!("vec4<f32>({name}[i])")]),
                _ => (name, [format!("f32({name}[i])"), format!("vec4<f32>({quad})")]),
            }
        }
        Binding::Map { .. } => return,
        Binding::Absent { name, value } => {
            let value = wgsl_f32(value);
            (name, [value.clone(), format!("vec4<f32>({value})")])
        }
    };
    for (function, result, body) in [("read", "f32", &reads[0]), ("read4", "vec4<f32>", &reads[1])] {
        if text.contains(&format!("{function}_{name}(")) {
            let _ = writeln!(out, "fn {function}_{name}(i: u32) -> {result} {{ return {body}; }}");
        }
    }
}

fn wgsl_writers(out: &mut String, name: &str, t: &str, lanes: u32, text: &str) {
    if lanes != 4 && text.contains(&format!("write_{name}(")) {
        let _ = writeln!(out, "fn write_{name}(i: u32, v: f32) {{ {name}[i] = {t}(v); }}");
    }
    if text.contains(&format!("write4_{name}(")) {
        let stores = match lanes {
            4 => format!("{name}[i] = vec4<{t}>(v);"),
            _ => (0..4).map(|k| format!("{name}[4u * i + {k}u] = {t}(v[{k}]);")).collect::<Vec<_>>().join(" "),
        };
        let _ = writeln!(out, "fn write4_{name}(i: u32, v: vec4<f32>) {{ {stores} }}");
    }
}

fn wgsl_type(dtype: DType) -> &'static str {
    if dtype == DType::F16 { "f16" } else { "f32" }
}

fn wgsl_f32(v: f32) -> String {
    // WGSL has no literal for infinities and NaN; no kernel asks for one.
    format!("{v:?}f")
}
