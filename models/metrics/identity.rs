//! Whether the person in generated frames is the one in the reference picture, frame by frame as they come.

use muybridge_loaders::Picture;
use muybridge_runtime::{DType, HostTensor, Plan};

use super::align::{SIDE, align, face_input};
use super::evaluate::Points;
use super::image::Frame;
use super::scrfd::{self, Scrfd, main_face};
use super::{IResNet, cosine};
use crate::error::{Error, Result};

const MODEL: &str = "identity";

/// ArcFace's network with its plan, and a detector where faces are not given.
#[derive(Debug)]
pub struct Faces {
    net: IResNet,
    plan: Plan,
    detector: Option<(Scrfd, Plan)>,
    dtype: DType,
}

impl Faces {
    /// For one face at a time, of the largest near the middle of a picture of any size where a detector is given.
    ///
    /// # Errors
    /// What making plans can fail with.
    pub fn new(net: IResNet, detector: Option<Scrfd>, dtype: DType) -> Result<Faces> {
        let plan = net.plan(1, dtype)?;
        let planned = |d: Scrfd| d.plan(1, [scrfd::SIDE; 2], dtype).map(|plan| (d, plan));
        Ok(Faces { net, plan, detector: detector.map(planned).transpose()?, dtype })
    }

    /// Whether faces are looked for.
    pub fn detects(&self) -> bool {
        self.detector.is_some()
    }

    /// Five points of the face that a picture is of; nothing where none is found, or nothing looks for it.
    ///
    /// # Errors
    /// Those of the detector.
    pub fn find(&self, picture: &Picture) -> Result<Option<Points>> {
        let Some((net, plan)) = &self.detector else { return Ok(None) };
        let found = net.detect(plan, picture, scrfd::THRESHOLD)?;
        Ok(main_face(&found, [picture.width, picture.height]).map(|f| f.points))
    }

    /// The embedding, of length 1, of the face with these points.
    ///
    /// # Errors
    /// Points that span nothing, and the errors of the device.
    pub fn embed(&self, picture: &Picture, points: &Points) -> Result<Vec<f32>> {
        let picture = picture.clone().rgb();
        let face = align(&Frame::new(picture.width, picture.height, &picture.pixels)?, points)?;
        let input = HostTensor::new([1, SIDE, SIDE, 3], face_input(&face))?.convert(self.dtype);
        self.net.embed(&self.plan, &input)?.pop().ok_or_else(|| Error::call(MODEL, "no embedding"))
    }
}

/// A person to compare faces with.
#[derive(Debug)]
pub struct Identity {
    faces: Faces,
    reference: Vec<f32>,
}

impl Identity {
    /// Of the face in a reference picture: at the given points, or where the detector finds it.
    ///
    /// # Errors
    /// No points and no face found, and the errors of the networks.
    pub fn of(faces: Faces, reference: &Picture, points: Option<Points>) -> Result<Identity> {
        let missing = || {
            let why =
                if faces.detects() { "the detector finds none" } else { "no landmarks and no detector are given" };
            Error::call(MODEL, format!("no face in the reference: {why}"))
        };
        let points = match points {
            Some(points) => points,
            None => faces.find(reference)?.ok_or_else(missing)?,
        };
        let reference = faces.embed(reference, &points)?;
        Ok(Identity { faces, reference })
    }

    /// The cosine of a frame's face to the reference's: of the face that the detector finds, or without one of that at the given
    /// points. Nothing where there is no face.
    ///
    /// # Errors
    /// Those of the networks.
    pub fn score(&self, frame: &Picture, given: Option<Points>) -> Result<Option<f64>> {
        let points = if self.faces.detects() { self.faces.find(frame)? } else { given };
        let one = |points: Points| Ok(cosine(&self.reference, &self.faces.embed(frame, &points)?));
        points.map(one).transpose()
    }
}
