//! WGSL on any vendor's GPU through wgpu.
use super::Backend;
use crate::{DeviceOptions, Error, Found, Result};
use std::sync::Arc;
/// stub
pub fn open(_: usize, _: &DeviceOptions) -> Result<Arc<dyn Backend>> {
    Err(Error::Unsupported("wgpu".into()))
}
/// stub
pub fn list() -> Vec<Found> {
    Vec::new()
}
/// stub
pub fn best_adapter() -> Option<usize> {
    None
}
