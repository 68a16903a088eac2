//! Dense row-major tensors: their description, and tensors in device memory.

use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};

use crate::backend::Buffer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::host::HostTensor;

/// Element type of a tensor. Arithmetic inside a kernel accumulates in f32 whatever the storage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: f32 with the lower 16 bits cut.
    BF16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Lower-case name as it is used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = String;

    fn from_str(s: &str) -> Result<DType, String> {
        match s {
            "f32" | "float32" => Ok(DType::F32),
            "f16" | "float16" => Ok(DType::F16),
            "bf16" | "bfloat16" => Ok(DType::BF16),
            _ => Err(format!("unknown dtype {s:?}; known: f32, f16, bf16")),
        }
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: bytemuck::Pod + Send + Sync + Default + 'static {
    /// The matching [`DType`].
    const DTYPE: DType;
    /// Widen to f32 (exact).
    fn to_f32(self) -> f32;
    /// Narrow from f32 (round to nearest even).
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> f32 {
        value
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> f16 {
        f16::from_f32(value)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
}

/// Highest rank of a tensor.
pub(crate) const MAX_RANK: usize = 6;

/// Extents of a tensor, outermost first. At most 6 of them; the last one is contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape from its extents.
    ///
    /// # Errors
    /// A rank above 6, or a product of extents that does not fit 62 bits.
    pub fn new(extents: &[usize]) -> Result<Shape> {
        if extents.len() > MAX_RANK {
            return Err(Error::Call(format!("a tensor of rank {} (the highest is {MAX_RANK})", extents.len())));
        }
        let product = extents.iter().try_fold(1usize, |p, &e| p.checked_mul(e)).filter(|&p| p < 1 << 60);
        if product.is_none() {
            return Err(Error::Call(format!("extents {extents:?} overflow")));
        }
        let mut s = Shape { extents: [1; MAX_RANK], rank: extents.len() as u8 };
        s.extents[..extents.len()].copy_from_slice(extents);
        Ok(s)
    }

    /// The shape of a single element.
    pub const fn scalar() -> Shape {
        Shape { extents: [1; MAX_RANK], rank: 0 }
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.extents[..self.rank as usize]
    }

    /// Number of extents.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dims().iter().product()
    }

    /// The last extent, 1 for a scalar: the number of channels of an activation.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Product of all extents but the last: the number of rows of an activation.
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// The same shape with another last extent.
    pub fn with_last(mut self, last: usize) -> Shape {
        if let Some(i) = self.rank().checked_sub(1) {
            self.extents[i] = last;
        }
        self
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    /// Shapes written down in code: `N` is at most 6, checked at compile time.
    fn from(extents: [usize; N]) -> Shape {
        const { assert!(N <= MAX_RANK) };
        let mut s = Shape { extents: [1; MAX_RANK], rank: N as u8 };
        s.extents[..N].copy_from_slice(&extents);
        s
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = usize;
    fn index(&self, i: usize) -> &usize {
        &self.dims()[i]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shape and dtype of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TensorDesc {
    /// Extents, outermost first.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

impl TensorDesc {
    /// A description from extents written down in code.
    pub fn new(shape: impl Into<Shape>, dtype: DType) -> TensorDesc {
        TensorDesc { shape: shape.into(), dtype }
    }

    /// Bytes of the whole tensor.
    pub fn bytes(&self) -> u64 {
        (self.shape.count() * self.dtype.size()) as u64
    }
}

impl fmt::Display for TensorDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// A tensor in a device's memory. Cloning shares the memory.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) device: Device,
    pub(crate) buffer: Arc<dyn Buffer>,
    pub(crate) desc: TensorDesc,
}

impl Tensor {
    /// Shape and dtype.
    pub fn desc(&self) -> TensorDesc {
        self.desc
    }

    /// The device that holds it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits for pending work and copies the elements to the host.
    ///
    /// # Errors
    /// The device's errors; [`Error::Unsupported`] on the trace device, which holds no elements.
    pub fn to_host(&self) -> Result<HostTensor> {
        let mut host = HostTensor::zeros(self.desc);
        self.device.backend().read(&*self.buffer, 0, host.bytes_mut())?;
        Ok(host)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} on {})", self.desc, self.device.name())
    }
}
