//! The bugs, by op.

mod attention;
mod conv2d;
mod elementwise;
mod matmul;
mod norms;

/// A bug: what it is, the op, variant and case that show it, and the edit of the kernel's text.
pub struct Bug(
    pub &'static str,
    pub &'static str,
    pub &'static str,
    pub &'static str,
    pub &'static str,
    pub &'static str,
);

/// Bugs that at least one schedule must show.
pub fn bugs() -> impl Iterator<Item = &'static Bug> {
    [matmul::BUGS, conv2d::BUGS, norms::BUGS, attention::BUGS, elementwise::BUGS].into_iter().flatten()
}
