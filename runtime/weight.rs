//! Weights: named tensors that are read when a device first needs them, and held there once per layout.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use crate::backend::Buffer;
use crate::error::{Error, Result};
use crate::host::HostTensor;
use crate::op::Prepare;
use crate::tensor::{Shape, TensorDesc};

/// Something that owns bytes for as long as weights refer to them: a mapped file, a vector.
pub trait ByteOwner: Send + Sync {
    /// All bytes of the owner.
    fn bytes(&self) -> &[u8];
    /// The pages of this range are not needed soon: a mapped file may drop them from memory.
    fn release(&self, _range: Range<usize>) {}
}

impl ByteOwner for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

#[derive(Clone)]
enum Data {
    Stored { owner: Arc<dyn ByteOwner>, range: Range<usize> },
    Procedural { seed: u64, amplitude: f32, offset: f32 },
    Concat(Vec<Weight>),
}

/// A resident copy of a weight: which device and layout it is for, and the buffer while anyone uses it.
type Resident = (u64, String, Weak<dyn Buffer>);

struct Shared {
    name: String,
    desc: TensorDesc,
    data: Data,
    resident: Mutex<Vec<Resident>>,
}

/// A named tensor of a checkpoint. Cloning shares it; its elements are read when a plan needs them.
#[derive(Clone)]
pub struct Weight(Arc<Shared>);

impl Weight {
    fn from_data(name: impl Into<String>, desc: TensorDesc, data: Data) -> Weight {
        Weight(Arc::new(Shared { name: name.into(), desc, data, resident: Mutex::default() }))
    }

    /// A tensor whose elements are `range` of the owner's bytes (little-endian, row-major, maybe unaligned).
    ///
    /// # Errors
    /// The range does not lie within the owner, or is not as long as the description says.
    pub fn stored(
        name: impl Into<String>,
        desc: TensorDesc,
        owner: Arc<dyn ByteOwner>,
        range: Range<usize>,
    ) -> Result<Weight> {
        let name = name.into();
        let len = range.end.checked_sub(range.start);
        if range.end > owner.bytes().len() || len.map(|l| l as u64) != Some(desc.bytes()) {
            return Err(Error::Weight { name, reason: format!("bytes {range:?} do not hold a tensor {desc}") });
        }
        Ok(Weight::from_data(name, desc, Data::Stored { owner, range }))
    }

    /// A tensor held in host memory.
    pub fn owned(name: impl Into<String>, tensor: HostTensor) -> Weight {
        let (desc, bytes) = (tensor.desc(), tensor.bytes().to_vec());
        let range = 0..bytes.len();
        Weight::from_data(name, desc, Data::Stored { owner: Arc::new(bytes), range })
    }

    /// A tensor given by a rule: element `i` is `offset + amplitude * r(i)`, with `r` in [−1, 1) from SplitMix64 of
    /// `seed + (i + 1)` times the golden-ratio constant. Costs no memory until a device needs it.
    pub fn procedural(name: impl Into<String>, desc: TensorDesc, seed: u64, amplitude: f32, offset: f32) -> Weight {
        Weight::from_data(name, desc, Data::Procedural { seed, amplitude, offset })
    }

    /// Tensors stacked along their first axis (packed QKV, stacked time projections).
    ///
    /// # Errors
    /// No parts, or parts that differ in dtype or in an extent after the first.
    pub fn concat(name: impl Into<String>, parts: &[Weight]) -> Result<Weight> {
        let name = name.into();
        let bad = |reason: String| Error::Weight { name: name.clone(), reason };
        let first = parts.first().ok_or_else(|| bad("stacked from no parts".into()))?.desc();
        let mut extents = first.shape.dims().to_vec();
        if extents.is_empty() {
            return Err(bad("scalars cannot be stacked".into()));
        }
        extents[0] = 0;
        for p in parts {
            let d = p.desc();
            if d.dtype != first.dtype || d.shape.rank() != extents.len() || d.shape.dims()[1..] != extents[1..] {
                return Err(bad(format!("{} is {d}, which cannot be stacked on {first}", p.name())));
            }
            extents[0] += d.shape[0];
        }
        let desc = TensorDesc { shape: Shape::new(&extents)?, dtype: first.dtype };
        Ok(Weight::from_data(name, desc, Data::Concat(parts.to_vec())))
    }

    /// The same elements under another shape (a 1x1 convolution seen as a matrix).
    ///
    /// # Errors
    /// The element counts differ.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Weight> {
        let shape = shape.into();
        if shape.count() != self.desc().shape.count() {
            let reason = format!("{} cannot take the shape {shape}", self.desc());
            return Err(Error::Weight { name: self.name().into(), reason });
        }
        let desc = TensorDesc { shape, dtype: self.desc().dtype };
        Ok(Weight::from_data(self.name(), desc, self.0.data.clone()))
    }

    /// Name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Shape and dtype as stored.
    pub fn desc(&self) -> TensorDesc {
        self.0.desc
    }

    /// Reads the elements, in the stored dtype.
    ///
    /// # Errors
    /// The elements are not as many as the description says.
    pub fn read(&self) -> Result<HostTensor> {
        HostTensor::from_bytes(self.desc(), &self.bytes())
    }

    /// The elements' bytes: borrowed where they are stored in one piece, and maybe unaligned.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.0.data {
            Data::Stored { owner, range } => Cow::Borrowed(&owner.bytes()[range.clone()]),
            Data::Procedural { seed, amplitude, offset } => {
                let d = self.desc();
                let wide = HostTensor::from_fn(d.shape, |i| offset + amplitude * uniform(*seed, i as u64));
                Cow::Owned(wide.convert(d.dtype).bytes().to_vec())
            }
            Data::Concat(parts) => {
                let mut all = Vec::with_capacity(self.desc().bytes() as usize);
                parts.iter().for_each(|p| all.extend_from_slice(&p.bytes()));
                Cow::Owned(all)
            }
        }
    }

    /// Tells the owner of the stored bytes that they are not needed soon.
    pub(crate) fn release(&self) {
        match &self.0.data {
            Data::Stored { owner, range } => owner.release(range.clone()),
            Data::Concat(parts) => parts.iter().for_each(Weight::release),
            Data::Procedural { .. } => {}
        }
    }

    /// Identity: two handles are the same weight if and only if their keys are equal.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// The buffer that holds this weight on a device in the layout of `prepare`, made by `make` if there is none.
    pub(crate) fn resident(
        &self,
        device: u64,
        prepare: Option<&Prepare>,
        make: impl FnOnce() -> Result<Arc<dyn Buffer>>,
    ) -> Result<Arc<dyn Buffer>> {
        let layout = prepare.map_or("", |p| p.layout.as_str());
        let mut resident = self.0.resident.lock().unwrap_or_else(|e| e.into_inner());
        resident.retain(|(_, _, buffer)| buffer.strong_count() > 0);
        if let Some(found) = resident.iter().find(|(d, l, _)| *d == device && l == layout)
            && let Some(buffer) = found.2.upgrade()
        {
            return Ok(buffer);
        }
        let buffer = make()?;
        resident.push((device, layout.to_string(), Arc::downgrade(&buffer)));
        Ok(buffer)
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({} {})", self.name(), self.desc())
    }
}

/// Element `i` of the procedural rule: 24 bits of SplitMix64 mapped to [−1, 1).
/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014).
pub(crate) fn uniform(seed: u64, i: u64) -> f32 {
    let mut z = seed.wrapping_add(i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f32 * (1.0 / 8_388_608.0) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_procedural_rule_gives_its_published_values() {
        let u: Vec<u32> = (0..4).map(|i| ((uniform(1, i) + 1.0) * 8_388_608.0) as u32).collect();
        assert_eq!(u, [9505325, 12512141, 16290722, 7455110]);
    }

    #[test]
    fn stacking_keeps_order_and_refuses_other_widths() {
        let part = |n: &str, rows: usize, k: usize, v: f32| Weight::owned(n, HostTensor::from_fn([rows, k], |_| v));
        let both = Weight::concat("qk", &[part("q", 2, 3, 1.0), part("k", 1, 3, 2.0)]).unwrap();
        assert_eq!(both.desc().shape.dims(), [3, 3]);
        assert_eq!(both.read().unwrap().to_f32(), [1., 1., 1., 1., 1., 1., 2., 2., 2.]);
        assert!(Weight::concat("qk", &[part("q", 2, 3, 1.0), part("k", 1, 4, 2.0)]).is_err());
    }
}
