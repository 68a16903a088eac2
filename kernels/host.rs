//! What references share: operands as f32, whatever they are stored as.

use half::{bf16, f16};
use muybridge_runtime::{DType, Element, TensorView, TensorViewMut};
use std::borrow::Cow;

/// The elements as f32. Operands of a host call are aligned, so an f32 operand is borrowed.
pub(crate) fn values<'a>(view: &TensorView<'a>) -> Cow<'a, [f32]> {
    match view.desc.dtype {
        DType::F32 => Cow::Borrowed(view.try_as::<f32>().unwrap_or(&[])),
        DType::F16 => Cow::Owned(widen(view.try_as::<f16>().unwrap_or(&[]))),
        DType::BF16 => Cow::Owned(widen(view.try_as::<bf16>().unwrap_or(&[]))),
    }
}

fn widen<T: Element>(elements: &[T]) -> Vec<f32> {
    elements.iter().map(|e| e.to_f32()).collect()
}

/// Rounds to the output's dtype and stores.
pub(crate) fn store(output: &mut TensorViewMut<'_>, values: impl IntoIterator<Item = f64>) {
    match output.desc.dtype {
        DType::F32 => narrow::<f32>(output, values),
        DType::F16 => narrow::<f16>(output, values),
        DType::BF16 => narrow::<bf16>(output, values),
    }
}

fn narrow<T: Element>(output: &mut TensorViewMut<'_>, values: impl IntoIterator<Item = f64>) {
    let elements = output.try_as::<T>().unwrap_or(&mut []);
    elements.iter_mut().zip(values).for_each(|(e, v)| *e = T::from_f32(v as f32));
}
