//! How near generated video comes to real video: the formulas, and the networks that some of them look through.
//!
//! Per frame: PSNR and SSIM ([`image`]), LPIPS ([`Lpips`]), the cosine of ArcFace embeddings of aligned faces ([`IResNet`],
//! [`align`]; [`Scrfd`] finds the faces). Over sets of clips: the Fréchet distance ([`frechet`]) of I3D features ([`I3d`]).

pub mod align;
pub mod bootstrap;
pub mod clip;
mod eigen;
pub mod evaluate;
mod folded;
pub mod frechet;
pub mod i3d;
pub mod identity;
pub mod image;
pub mod iresnet;
pub mod lpips;
pub mod scrfd;

pub use i3d::I3d;
pub use iresnet::IResNet;
pub use lpips::Lpips;
pub use scrfd::Scrfd;

/// A vector in the same direction, of length 1; zeros stay zeros.
pub fn unit(v: &[f32]) -> Vec<f32> {
    let norm = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    v.iter().map(|x| (f64::from(*x) * factor) as f32).collect()
}

/// The cosine of the angle between two vectors: 0 where one of them is 0.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_of_plain_vectors() {
        assert!((cosine(&[1.0, 1.0], &[1.0, 0.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(unit(&[3.0, -4.0]), [0.6, -0.8]);
        assert_eq!(unit(&[0.0]), [0.0]);
    }
}
