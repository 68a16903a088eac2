//! Descriptions of operands from which hardware copies boxes to shared memory.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::gpu::Gpu;
use crate::error::Result;
use crate::op::BoxMap;
use crate::tensor::DType;

/// A kernel's parameter, aligned as the driver wants it.
#[repr(C, align(64))]
pub(super) struct TensorMap(sys::CUtensorMap);

impl TensorMap {
    /// The map of a range of the device's memory that begins at `address` and was checked to be as large as the extents say.
    pub fn encode(gpu: &Gpu, map: &BoxMap, dtype: DType, address: sys::CUdeviceptr) -> Result<TensorMap> {
        let kind = match dtype {
            DType::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        };
        let extents = map.extents.map(u64::from);
        let layer = 2 * extents[0] * extents[1];
        let strides = [2 * extents[0], layer, layer * extents[2]];
        let steps = [1u32; 4];
        let swizzle = match map.of_box[0] {
            64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        };
        // SAFETY: a C struct of integers, for which all zeros is valid.
        let mut made = TensorMap(unsafe { std::mem::zeroed() });
        // SAFETY: all pointers are to locals of as many elements as the rank says (strides: one less); the call only writes the
        // map. The symbol is in every driver since CUDA 12.0.
        let done = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut made.0,
                kind,
                4,
                address as *mut c_void,
                extents.as_ptr(),
                strides.as_ptr(),
                map.of_box.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        gpu.checked(done.result(), "a tensor map", 0).map(|()| made)
    }
}
