//! Uploads through two buffers of pinned memory: while the bus moves one part, the host fills the other, from a mapped file say.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::result::{self, event};
use cudarc::driver::sys;

use super::gpu::{Context, Gpu};
use crate::error::Result;

/// Bytes of one buffer: long enough that a copy runs at the bus's rate.
const BYTES: usize = 8 << 20;

/// A buffer of pinned memory, and the moment when its last part has left it.
struct Slot {
    memory: NonNull<u8>,
    left: sys::CUevent,
}

/// The two buffers of a device. Whoever uploads holds its lock.
pub(super) struct Staging {
    slots: [Slot; 2],
    next: usize,
    /// Given up last.
    context: Arc<Context>,
}

// SAFETY: memory and events are handles that any thread may use; the lock round it lets one do so at a time.
unsafe impl Send for Staging {}

impl Slot {
    fn new() -> Option<Slot> {
        // SAFETY: freed by `Staging::drop`, or below. Flags 0: nothing special.
        let memory = unsafe { result::malloc_host(BYTES, 0) }.ok().and_then(|p| NonNull::new(p.cast::<u8>()))?;
        match event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING) {
            Ok(left) => Some(Slot { memory, left }),
            Err(_) => {
                // SAFETY: just allocated, and used by nothing.
                let _ = unsafe { result::free_host(memory.as_ptr().cast()) };
                None
            }
        }
    }

    fn free(&self) {
        // SAFETY: made in `new`; the stream that read the memory was waited for, or is lost.
        unsafe {
            let _ = event::destroy(self.left);
            let _ = result::free_host(self.memory.as_ptr().cast());
        }
    }
}

impl Staging {
    /// `None` where the system has no such memory to give.
    pub fn new(context: Arc<Context>) -> Option<Staging> {
        let first = Slot::new()?;
        match Slot::new() {
            Some(second) => Some(Staging { slots: [first, second], next: 0, context }),
            None => {
                first.free();
                None
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            self.slots.iter().for_each(Slot::free);
        }
    }
}

impl Gpu {
    /// Copies to device memory, ordered after everything asked before. Returns when `bytes` have been read; a failure of the
    /// device that comes later is reported by a later call. The caller has checked the range and entered the context.
    pub fn upload(&self, to: sys::CUdeviceptr, bytes: &[u8]) -> Result<()> {
        let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
        let ring = staging.get_or_insert_with(|| Staging::new(self.context.clone()));
        let Some(ring) = ring else { return self.upload_directly(to, bytes) };
        for (i, part) in bytes.chunks(BYTES).enumerate() {
            let slot = &ring.slots[ring.next];
            ring.next = 1 - ring.next;
            // An event that was never recorded is no wait.
            // SAFETY: the event lives as long as the ring.
            self.checked(unsafe { sys::cuEventSynchronize(slot.left) }.result(), "an upload", part.len() as u64)?;
            // SAFETY: the buffer has room for a part, and the event says that nothing reads it any more.
            let pinned = unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), slot.memory.as_ptr(), part.len());
                std::slice::from_raw_parts(slot.memory.as_ptr(), part.len())
            };
            let at = to + (i * BYTES) as u64;
            // SAFETY: the range is the caller's (checked); the buffer is not written before the event recorded here.
            let sent = unsafe { result::memcpy_htod_async(at, pinned, self.stream) };
            self.checked(sent, "an upload", part.len() as u64)?;
            // SAFETY: event and stream are alive.
            self.checked(unsafe { event::record(slot.left, self.stream) }, "an upload", 0)?;
        }
        Ok(())
    }

    fn upload_directly(&self, to: sys::CUdeviceptr, bytes: &[u8]) -> Result<()> {
        // SAFETY: the range is the caller's (checked), and the wait below keeps `bytes` borrowed until the copy is done: from
        // memory that is locked to its pages, the driver copies after it returns.
        let sent = unsafe { result::memcpy_htod_async(to, bytes, self.stream) };
        self.checked(sent, "an upload", bytes.len() as u64)?;
        self.wait()
    }
}
