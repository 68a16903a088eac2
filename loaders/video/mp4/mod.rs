//! H.264 in MP4: the container is read and written here, the pictures are coded by OpenH264.
//!
//! The container: ISO/IEC 14496-12 and -15. It is a tree of boxes, each with its length and a name of four letters, and
//! the tables of a track say where its samples lie. The crates that read it allocate by what those tables claim; here they
//! are looked at in place.

mod colour;
mod decode;
mod encode;
mod parameters;
mod tables;
mod write;

pub(crate) use decode::open;
pub(crate) use encode::Mp4Sink;
