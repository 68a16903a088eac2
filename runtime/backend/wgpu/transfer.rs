//! Copies between host and device. The device copies whole 4-byte words; these calls take any range.

use std::sync::atomic::Ordering;
use std::sync::mpsc;

use wgpu::{BufferUsages, SubmissionIndex};

use super::WgpuBuffer;
use super::gpu::Gpu;
use crate::backend::{Buffer, Span};
use crate::error::{Error, Result};

/// The device's unit of copies, in bytes.
pub(super) const WORD: u64 = 4;

/// Bytes that one staging buffer takes.
const UPLOAD_CHUNK: usize = 32 << 20;

/// Bytes that are staged before they are sent. Twice as much is staged at most, however much is uploaded.
const UPLOAD_BATCH: u64 = 128 << 20;

/// Bytes that are read back at once.
const READ_CHUNK: u64 = 64 << 20;

/// Uploads that the device has not been given yet.
#[derive(Default)]
pub(super) struct Uploads {
    staged: u64,
    sent: Option<SubmissionIndex>,
}

/// How long a callback of a finished submission may take: it is run by a thread that is awake, so this is generous.
const CALLBACK: std::time::Duration = std::time::Duration::from_secs(60);

impl Gpu {
    /// This device's buffer behind the trait, with the range checked.
    pub fn own<'b>(&self, buffer: &'b dyn Buffer, offset: u64, bytes: u64) -> Result<&'b WgpuBuffer> {
        let fail = |reason: String| Error::Driver { device: self.name.clone(), reason };
        let own =
            buffer.as_any().downcast_ref::<WgpuBuffer>().filter(|b| std::sync::Arc::ptr_eq(&b.memory, &self.memory));
        let own = own.ok_or_else(|| fail("a buffer of another device".into()))?;
        if offset.checked_add(bytes).is_none_or(|end| end > own.raw.size()) {
            return Err(fail(format!("bytes {offset}..+{bytes} of a buffer of {}", own.bytes)));
        }
        Ok(own)
    }

    pub fn own_span<'s>(&self, span: &'s Span) -> Result<&'s WgpuBuffer> {
        self.own(&*span.buffer, span.offset, span.bytes)
    }

    pub fn write(&self, buffer: &dyn Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.faults.check()?;
        let own = self.own(buffer, offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let fresh = own.fresh.swap(false, Ordering::Relaxed);
        // The first and the last word may be written in part: their other bytes stay as they are.
        let first = offset / WORD * WORD;
        let head = ((offset - first) as usize != 0).then(|| (first + WORD - offset).min(bytes.len() as u64) as usize);
        let (head, rest) = bytes.split_at(head.unwrap_or(0));
        if !head.is_empty() {
            self.write_part(own, first, (offset - first) as usize, head, fresh)?;
        }
        let start = offset + head.len() as u64;
        let (body, tail) = rest.split_at(rest.len() / WORD as usize * WORD as usize);
        self.write_words(own, start, body)?;
        if tail.is_empty() {
            return Ok(());
        }
        self.write_part(own, start + body.len() as u64, 0, tail, fresh)
    }

    /// Writes a part of the word at `word`.
    fn write_part(&self, own: &WgpuBuffer, word: u64, at: usize, bytes: &[u8], fresh: bool) -> Result<()> {
        let mut whole = [0u8; WORD as usize];
        if !fresh {
            self.read(own, word, &mut whole)?;
        }
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        self.write_words(own, word, &whole)
    }

    fn write_words(&self, own: &WgpuBuffer, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut uploads = self.uploads.lock().unwrap_or_else(|e| e.into_inner());
        let mut at = offset;
        for chunk in bytes.chunks(UPLOAD_CHUNK) {
            let staged = chunk.len() as u64;
            self.guarded("staging an upload", staged, || self.queue.write_buffer(&own.raw, at, chunk))?;
            at += staged;
            uploads.staged += staged;
            if uploads.staged >= UPLOAD_BATCH {
                let sent = self.guarded("sending an upload", uploads.staged, || self.queue.submit([]))?;
                uploads.staged = 0;
                if let Some(before) = uploads.sent.replace(sent) {
                    self.wait(Some(before))?;
                }
            }
        }
        Ok(())
    }

    pub fn read(&self, buffer: &dyn Buffer, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.faults.check()?;
        let own = self.own(buffer, offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let first = offset / WORD * WORD;
        let end = (offset + bytes.len() as u64).next_multiple_of(WORD);
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let staging = self.create_buffer((end - first).min(READ_CHUNK), usage, "staging of a download")?;
        let mut rest = bytes;
        let mut at = first;
        while at < end {
            let words = (end - at).min(READ_CHUNK);
            let skip = offset.saturating_sub(at) as usize;
            let take = ((words as usize) - skip).min(rest.len());
            let (part, after) = rest.split_at_mut(take);
            self.read_words(&own.raw, at, &staging, words, |found| part.copy_from_slice(&found[skip..skip + take]))?;
            rest = after;
            at += words;
        }
        Ok(())
    }

    /// Copies words to the staging buffer, waits, and lends them to `take`.
    fn read_words(
        &self,
        from: &wgpu::Buffer,
        at: u64,
        staging: &wgpu::Buffer,
        words: u64,
        take: impl FnOnce(&[u8]),
    ) -> Result<()> {
        let (tell, told) = mpsc::channel();
        let submission = self.guarded("a download", words, || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            encoder.copy_buffer_to_buffer(from, at, staging, 0, words);
            let submission = self.queue.submit([encoder.finish()]);
            // The receiver outlives the wait, and a result that nobody takes is of no use.
            staging.map_async(wgpu::MapMode::Read, 0..words, move |done| drop(tell.send(done)));
            submission
        })?;
        self.wait(Some(submission))?;
        let fail = |reason: String| Error::Driver { device: self.name.clone(), reason };
        // Another thread's poll may have taken the callback and not have run it yet: the wait above does not cover that.
        match told.recv_timeout(CALLBACK) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(fail(format!("mapping a download: {e}"))),
            Err(_) => return Err(fail("the driver did not map a download".into())),
        }
        let view = staging.get_mapped_range(0..words).map_err(|e| fail(format!("mapping a download: {e}")))?;
        take(&view);
        drop(view);
        staging.unmap();
        Ok(())
    }

    /// Reads a mappable range that the device wrote, such as resolved timestamps.
    pub fn read_raw(&self, from: &wgpu::Buffer, bytes: &mut [u8]) -> Result<()> {
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let words = bytes.len() as u64;
        let staging = self.create_buffer(words, usage, "staging of a download")?;
        self.read_words(from, 0, &staging, words, |found| bytes.copy_from_slice(found))
    }
}
