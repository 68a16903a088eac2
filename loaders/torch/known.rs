//! What a pickle may name.

use safetensors::tensor::Dtype;

/// A name that a pickle may use. None of them is the function of that name: each is a rule of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Makes a dictionary.
    OrderedDict,
    /// Makes a tensor of a storage.
    Rebuild,
    /// As [`Known::Rebuild`], before PyTorch 0.4: without hooks.
    RebuildOld,
    /// As [`Known::Rebuild`], of a storage without a type.
    RebuildTyped,
    /// Takes a tensor as it is.
    Parameter,
    /// The type of a storage.
    Storage(Dtype),
    /// A storage without a type.
    Untyped,
    /// The type of a tensor's elements.
    Type(Dtype),
    /// Makes something of no use here.
    Inert,
    /// A class that trainers leave beside the tensors, never called.
    Class,
}

/// The whole list: module, name, rule.
const KNOWN: &[(&str, &str, Known)] = &[
    ("collections", "OrderedDict", Known::OrderedDict),
    ("torch._utils", "_rebuild_tensor", Known::RebuildOld),
    ("torch._utils", "_rebuild_tensor_v2", Known::Rebuild),
    ("torch._utils", "_rebuild_tensor_v3", Known::RebuildTyped),
    ("torch._utils", "_rebuild_parameter", Known::Parameter),
    ("torch", "FloatStorage", Known::Storage(Dtype::F32)),
    ("torch", "HalfStorage", Known::Storage(Dtype::F16)),
    ("torch", "BFloat16Storage", Known::Storage(Dtype::BF16)),
    ("torch", "DoubleStorage", Known::Storage(Dtype::F64)),
    ("torch", "LongStorage", Known::Storage(Dtype::I64)),
    ("torch", "IntStorage", Known::Storage(Dtype::I32)),
    ("torch", "ShortStorage", Known::Storage(Dtype::I16)),
    ("torch", "CharStorage", Known::Storage(Dtype::I8)),
    ("torch", "ByteStorage", Known::Storage(Dtype::U8)),
    ("torch", "BoolStorage", Known::Storage(Dtype::BOOL)),
    ("torch.storage", "UntypedStorage", Known::Untyped),
    ("torch", "float32", Known::Type(Dtype::F32)),
    ("torch", "float16", Known::Type(Dtype::F16)),
    ("torch", "bfloat16", Known::Type(Dtype::BF16)),
    ("torch", "float64", Known::Type(Dtype::F64)),
    ("torch", "int64", Known::Type(Dtype::I64)),
    ("torch", "int32", Known::Type(Dtype::I32)),
    ("torch", "int16", Known::Type(Dtype::I16)),
    ("torch", "int8", Known::Type(Dtype::I8)),
    ("torch", "uint8", Known::Type(Dtype::U8)),
    ("torch", "uint16", Known::Type(Dtype::U16)),
    ("torch", "uint32", Known::Type(Dtype::U32)),
    ("torch", "uint64", Known::Type(Dtype::U64)),
    ("torch", "bool", Known::Type(Dtype::BOOL)),
    ("torch", "float8_e4m3fn", Known::Type(Dtype::F8_E4M3)),
    ("torch", "float8_e5m2", Known::Type(Dtype::F8_E5M2)),
    ("torch", "Size", Known::Inert),
    ("torch", "device", Known::Inert),
    ("numpy.core.multiarray", "scalar", Known::Inert),
    ("numpy._core.multiarray", "scalar", Known::Inert),
    ("numpy", "dtype", Known::Inert),
    ("_codecs", "encode", Known::Inert),
    ("builtins", "set", Known::Inert),
    ("__builtin__", "set", Known::Inert),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", Known::Class),
    ("pytorch_lightning.callbacks", "ModelCheckpoint", Known::Class),
];

impl Known {
    pub(crate) fn find(module: &str, name: &str) -> Option<Known> {
        KNOWN.iter().find(|(m, n, _)| (*m, *n) == (module, name)).map(|(_, _, known)| *known)
    }

    /// A name for errors.
    pub(crate) fn name(self) -> &'static str {
        KNOWN.iter().find(|(_, _, known)| *known == self).map_or("", |(_, name, _)| name)
    }
}
