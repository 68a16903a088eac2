//! Tensors in host memory: owned, and borrowed as kernels see them.

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::tensor::{DType, Element, MAX_RANK, Shape, TensorDesc};

#[derive(Clone, Debug, PartialEq)]
enum HostData {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

/// A tensor in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    shape: Shape,
    data: HostData,
}

impl HostTensor {
    /// A tensor of `T` elements in row-major order.
    ///
    /// # Errors
    /// The number of elements is not the shape's.
    pub fn new<T: Element>(shape: impl Into<Shape>, elements: Vec<T>) -> Result<HostTensor> {
        let shape = shape.into();
        if shape.count() != elements.len() {
            return Err(Error::Call(format!("{} elements for a tensor of shape {shape}", elements.len())));
        }
        Ok(HostTensor { shape, data: pack(elements) })
    }

    /// An f32 tensor whose elements are `f(index)`.
    pub fn from_fn(shape: impl Into<Shape>, f: impl FnMut(usize) -> f32) -> HostTensor {
        let shape = shape.into();
        HostTensor { shape, data: HostData::F32((0..shape.count()).map(f).collect()) }
    }

    /// A tensor of zeros.
    pub fn zeros(desc: TensorDesc) -> HostTensor {
        let n = desc.shape.count();
        let data = match desc.dtype {
            DType::F32 => HostData::F32(vec![0.0; n]),
            DType::F16 => HostData::F16(vec![f16::ZERO; n]),
            DType::BF16 => HostData::BF16(vec![bf16::ZERO; n]),
        };
        HostTensor { shape: desc.shape, data }
    }

    /// A tensor from little-endian bytes in row-major order; they may be unaligned.
    ///
    /// # Errors
    /// The number of bytes is not the description's.
    pub fn from_bytes(desc: TensorDesc, bytes: &[u8]) -> Result<HostTensor> {
        if desc.bytes() != bytes.len() as u64 {
            return Err(Error::Call(format!("{} bytes for a tensor {desc}", bytes.len())));
        }
        let data = match desc.dtype {
            DType::F32 => HostData::F32(bytemuck::pod_collect_to_vec(bytes)),
            DType::F16 => HostData::F16(bytemuck::pod_collect_to_vec(bytes)),
            DType::BF16 => HostData::BF16(bytemuck::pod_collect_to_vec(bytes)),
        };
        Ok(HostTensor { shape: desc.shape, data })
    }

    /// Shape and dtype.
    pub fn desc(&self) -> TensorDesc {
        TensorDesc { shape: self.shape, dtype: self.dtype() }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            HostData::F32(_) => DType::F32,
            HostData::F16(_) => DType::F16,
            HostData::BF16(_) => DType::BF16,
        }
    }

    /// The elements' bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            HostData::F32(v) => bytemuck::cast_slice(v),
            HostData::F16(v) => bytemuck::cast_slice(v),
            HostData::BF16(v) => bytemuck::cast_slice(v),
        }
    }

    /// The elements' bytes, to be overwritten.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.data {
            HostData::F32(v) => bytemuck::cast_slice_mut(v),
            HostData::F16(v) => bytemuck::cast_slice_mut(v),
            HostData::BF16(v) => bytemuck::cast_slice_mut(v),
        }
    }

    /// A borrowed view.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { desc: self.desc(), bytes: self.bytes() }
    }

    /// The elements as f32, whatever they are stored as.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            HostData::F32(v) => v.clone(),
            HostData::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            HostData::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// The f32 elements of an f32 tensor.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            HostData::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The same numbers in another dtype, rounded to nearest even.
    pub fn convert(&self, dtype: DType) -> HostTensor {
        if dtype == self.dtype() {
            return self.clone();
        }
        let wide = self.to_f32();
        let data = match dtype {
            DType::F32 => HostData::F32(wide),
            DType::F16 => HostData::F16(wide.into_iter().map(f16::from_f32).collect()),
            DType::BF16 => HostData::BF16(wide.into_iter().map(bf16::from_f32).collect()),
        };
        HostTensor { shape: self.shape, data }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// The element counts differ.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> Result<HostTensor> {
        let shape = shape.into();
        if shape.count() != self.shape.count() {
            return Err(Error::Call(format!("{} elements cannot take the shape {shape}", self.shape.count())));
        }
        self.shape = shape;
        Ok(self)
    }

    /// Elements in a new order of axes: axis `i` of the result is axis `axes[i]` of the source.
    ///
    /// # Errors
    /// `axes` is not a permutation of the tensor's axes.
    pub fn permute(&self, axes: &[usize]) -> Result<HostTensor> {
        let rank = self.shape.rank();
        let mut seen = [false; MAX_RANK];
        let fits = axes.len() == rank && axes.iter().all(|&a| a < rank && !std::mem::replace(&mut seen[a], true));
        if !fits {
            return Err(Error::Call(format!("axes {axes:?} are no permutation for a tensor of shape {}", self.shape)));
        }
        let extents: Vec<usize> = axes.iter().map(|&a| self.shape[a]).collect();
        let shape = Shape::new(&extents)?;
        let data = match &self.data {
            HostData::F32(v) => HostData::F32(gather(v, self.shape, axes)),
            HostData::F16(v) => HostData::F16(gather(v, self.shape, axes)),
            HostData::BF16(v) => HostData::BF16(gather(v, self.shape, axes)),
        };
        Ok(HostTensor { shape, data })
    }

    /// `[B,C,H,W]` (PyTorch) → `[B,H,W,C]` (this engine).
    ///
    /// # Errors
    /// The tensor is not of rank 4.
    pub fn nchw_to_nhwc(&self) -> Result<HostTensor> {
        self.permute(&[0, 2, 3, 1])
    }

    /// `[B,H,W,C]` (this engine) → `[B,C,H,W]` (PyTorch).
    ///
    /// # Errors
    /// The tensor is not of rank 4.
    pub fn nhwc_to_nchw(&self) -> Result<HostTensor> {
        self.permute(&[0, 3, 1, 2])
    }
}

fn pack<T: Element>(v: Vec<T>) -> HostData {
    match T::DTYPE {
        DType::F32 => HostData::F32(bytemuck::cast_vec(v)),
        DType::F16 => HostData::F16(bytemuck::cast_vec(v)),
        DType::BF16 => HostData::BF16(bytemuck::cast_vec(v)),
    }
}

fn gather<T: Copy>(source: &[T], shape: Shape, axes: &[usize]) -> Vec<T> {
    let rank = shape.rank();
    let mut strides = [1usize; MAX_RANK];
    for i in (0..rank.saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    let extents: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
    let steps: Vec<usize> = axes.iter().map(|&a| strides[a]).collect();
    let mut out = Vec::with_capacity(source.len());
    let mut index = [0usize; MAX_RANK];
    for _ in 0..source.len() {
        out.push(source[(0..rank).map(|i| index[i] * steps[i]).sum::<usize>()]);
        for i in (0..rank).rev() {
            index[i] += 1;
            if index[i] < extents[i] {
                break;
            }
            index[i] = 0;
        }
    }
    out
}

/// A borrowed tensor in host memory.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Shape and dtype.
    pub desc: TensorDesc,
    /// Little-endian elements in row-major order; aligned for the dtype only where the giver says so.
    pub bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// The elements, where they are of type `T` and aligned for it (operands of a [`HostCall`](crate::HostCall) are).
    pub fn try_as<T: Element>(&self) -> Option<&'a [T]> {
        if T::DTYPE != self.desc.dtype {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes).ok()
    }

    /// An owned copy.
    ///
    /// # Errors
    /// The bytes are not as many as the description says.
    pub fn to_host(&self) -> Result<HostTensor> {
        HostTensor::from_bytes(self.desc, self.bytes)
    }
}

/// A borrowed tensor in host memory that a kernel writes.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    /// Shape and dtype.
    pub desc: TensorDesc,
    /// Little-endian elements in row-major order, aligned for the dtype.
    pub bytes: &'a mut [u8],
}

impl TensorViewMut<'_> {
    /// The elements, where they are of type `T` and aligned for it.
    pub fn try_as<T: Element>(&mut self) -> Option<&mut [T]> {
        if T::DTYPE != self.desc.dtype {
            return None;
        }
        bytemuck::try_cast_slice_mut(self.bytes).ok()
    }
}
