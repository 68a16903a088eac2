//! CUDA C++ text of a kernel.

use std::fmt::Write;

use super::{Binding, Constant};
use crate::op::{Access, Arg, KernelSource};
use crate::tensor::DType;

/// Whole CUDA C++ text of a kernel: numbers and flags that it names as `constexpr`, the prelude, type aliases, then operands and file.
///
/// The buffers are the kernel's parameters: a text writes `KERNEL name(OPERANDS, const Params params)`, where `OPERANDS`
/// lists one pointer per buffer in the order of the launch's `args`, `const` where the launch only reads it. After it comes,
/// where the file declares a `struct Params`, that struct by value: the same bytes as in WGSL. `read_NAME(i)` and its
/// relatives are macros over the pointer of that name, so they work wherever the pointer is in scope. The prelude defines
/// `f16`, `bf16`, `Vec<T, N>` and the functions `widen`, `narrow`, `load_quad`, `store_quad` that they expand to.
pub fn cuda(source: &KernelSource, args: &[Arg]) -> String {
    let mut out = String::with_capacity(source.prelude.len() + source.text.len() + 2048);
    let mut types = String::new();
    // What nobody names would only make texts differ.
    let named = |name: &str| names(source.prelude, name) || names(source.text, name);
    for (name, constant) in source.constants.iter().filter(|(name, _)| named(name)) {
        // Writing to a String cannot fail.
        let _ = match constant {
            Constant::U32(v) => writeln!(out, "constexpr unsigned {name} = {v}u;"),
            Constant::F32(v) => writeln!(out, "constexpr float {name} = {};", float(*v)),
            Constant::Bool(v) => writeln!(out, "constexpr bool {name} = {v};"),
            Constant::Missing => writeln!(out, "constexpr float* {name} = nullptr;"),
            Constant::Type(t) => {
                let t = type_name(*t);
                writeln!(types, "typedef {t} {name};\ntypedef Vec<{t}, 2> {name}2;\ntypedef Vec<{t}, 4> {name}4;")
            }
        };
    }
    out.push_str(source.prelude);
    out.push_str(&types);
    let mut args = args.iter();
    let (mut operands, mut maps) = (Vec::new(), Vec::new());
    for binding in &source.bindings {
        match *binding {
            Binding::Buffer { name, dtype, lanes, .. } => {
                let reads = args.next().is_some_and(|a| a.access == Access::Read);
                let constant = if reads { "const " } else { "" };
                operands.push(format!("{constant}{}* __restrict__ {name}", type_name(dtype)));
                buffer(&mut out, name, dtype, lanes);
            }
            Binding::Map { name } => maps.push(format!("const __grid_constant__ TensorMap {name}")),
            Binding::Absent { name, value } => {
                let value = float(value);
                let _ = writeln!(
                    out,
                    "#define read_{name}(i) {value}\n#define read4_{name}(i) Quad{{{{{value}, {value}, {value}, {value}}}}}"
                );
                if named(&format!("write_{name}")) {
                    let _ = writeln!(out, "#define write_{name}(i, v) (void)0");
                }
            }
        }
    }
    operands.append(&mut maps);
    let _ = writeln!(out, "#define OPERANDS {}\n#line 1 \"{}\"", operands.join(", "), source.file);
    out.push_str(source.text);
    out
}

/// Whether a text holds this name, or one that begins with it (`elem2`).
fn names(text: &str, name: &str) -> bool {
    let before = |at: usize| text[..at].chars().next_back();
    text.match_indices(name).any(|(at, _)| !before(at).is_some_and(|c| c.is_alphanumeric() || c == '_'))
}

/// The readers and writers of a buffer. `lanes` says what alignment vectors of four may rely on.
fn buffer(out: &mut String, name: &str, dtype: DType, lanes: u32) {
    let t = type_name(dtype);
    let aligned = lanes == 4;
    // As in WGSL, a buffer of vectors has no writer of single elements.
    let _ = writeln!(
        out,
        "#define read_{name}(i) widen({name}[i])\n\
         #define read4_{name}(i) load_quad<{aligned}>({name} + 4 * (unsigned long long)(i))\n\
         #define write4_{name}(i, v) store_quad<{aligned}>({name} + 4 * (unsigned long long)(i), v)"
    );
    if !aligned {
        let _ = writeln!(out, "#define write_{name}(i, v) ({name}[i] = narrow<{t}>(v))");
    }
}

fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
    }
}

fn float(v: f32) -> String {
    // C++ has no literal for infinities and NaN; no kernel asks for one.
    format!("{v:?}f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_specialises_the_text() {
        let buffer = |name, dtype, lanes| Binding::Buffer { name, dtype, lanes, constant: false };
        let source = KernelSource {
            file: "kernels/scale.cu",
            prelude: "// prelude\n",
            text: "KERNEL scale(OPERANDS) { elem2 own; BLOCK; EPS; FLAG; }\n",
            entry: "scale",
            constants: vec![
                ("elem", DType::BF16.into()),
                ("BLOCK", 64u32.into()),
                ("EPS", 1e-5f32.into()),
                ("FLAG", true.into()),
                ("LAG", 1u32.into()),
            ],
            bindings: vec![
                buffer("x", DType::BF16, 1),
                Binding::Absent { name: "bias", value: 0.0 },
                buffer("y", DType::F32, 4),
            ],
        };
        let text = cuda(&source, &[Arg::input(0), Arg::output()]);
        for line in [
            "constexpr unsigned BLOCK = 64u;",
            "constexpr float EPS = 1e-5f;",
            "constexpr bool FLAG = true;",
            "typedef bf16 elem;",
            "#define OPERANDS const bf16* __restrict__ x, float* __restrict__ y",
            "#define read_x(i) widen(x[i])",
            "#define read_bias(i) 0.0f",
            "#line 1 \"kernels/scale.cu\"",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
        assert!(!text.contains("unsigned LAG"), "nobody names it");
        assert!(!text.contains("write_y("), "vectors of four are written whole");
        assert!(text.ends_with(source.text));
    }
}
