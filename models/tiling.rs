//! Decoding large pictures in overlapping tiles.
