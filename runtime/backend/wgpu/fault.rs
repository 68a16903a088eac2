//! Errors that wgpu reports outside a call: kept until the next call returns them.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};

#[derive(Debug, Default)]
struct State {
    /// Why the device was lost. Stays.
    lost: Option<String>,
    /// The first error that no scope caught since the last check.
    stray: Option<wgpu::Error>,
}

/// The record of one device's faults.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    device: String,
    state: Arc<Mutex<State>>,
}

impl Faults {
    pub fn new(device: &str) -> Faults {
        Faults { device: device.into(), state: Arc::default() }
    }

    /// Has the device report to this record instead of panicking.
    pub fn watch(&self, device: &wgpu::Device) {
        let stray = self.clone();
        device.on_uncaptured_error(Arc::new(move |e| {
            stray.lock().stray.get_or_insert(e);
        }));
        let lost = self.clone();
        device.set_device_lost_callback(move |_, reason| lost.lose(reason));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Records that the device is gone.
    pub fn lose(&self, reason: String) {
        self.lock().lost.get_or_insert(reason);
    }

    /// The loss of the device, or else the last error that no scope caught (which is returned once).
    pub fn check(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(reason) = &state.lost {
            return Err(Error::DeviceLost { device: self.device.clone(), reason: reason.clone() });
        }
        match state.stray.take() {
            None => Ok(()),
            Some(e) => Err(self.typed(e, "an earlier call", 0)),
        }
    }

    /// wgpu's error in the engine's words.
    pub fn typed(&self, error: wgpu::Error, what: &str, wanted: u64) -> Error {
        let device = self.device.clone();
        match error {
            wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { device, what: what.into(), wanted, limit: None },
            other => Error::Driver { device, reason: format!("{what}: {other}") },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_error_is_returned_once_and_a_loss_for_good() {
        let faults = Faults::new("wgpu:0");
        assert!(faults.check().is_ok());
        let source = Box::new(std::fmt::Error);
        faults.lock().stray = Some(wgpu::Error::OutOfMemory { source });
        assert!(matches!(faults.check(), Err(Error::OutOfMemory { .. })));
        assert!(faults.check().is_ok());
        faults.lose("first".into());
        faults.lose("second".into());
        for _ in 0..2 {
            let reason = match faults.check() {
                Err(Error::DeviceLost { reason, .. }) => reason,
                other => panic!("{other:?}"),
            };
            assert_eq!(reason, "first");
        }
    }
}
