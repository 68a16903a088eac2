//! A person in a pose as a list of shapes.

use crate::identity::{BottomCut, HairStyle, Identity, TopCut};
use crate::math::{Axes, Frame, Vec3, degrees, vec3};
use crate::pose::{Arm, Leg, Skeleton, side};
use crate::shape::{Material, Part, Shape};

/// Groups, in the order in which a body lists them.
mod group {
    pub const HEAD: u8 = 0;
    pub const HAIR: u8 = 1;
    pub const TOP: u8 = 2;
    pub const BOTTOM: u8 = 3;
    pub const ARM: [u8; 2] = [4, 5];
    pub const SLEEVE: [u8; 2] = [6, 7];
    pub const LEG: [u8; 2] = [8, 9];
    pub const TROUSER: [u8; 2] = [10, 11];
    pub const SHOE: [u8; 2] = [12, 13];
    pub const GLASSES: u8 = 14;
}

/// A body: shapes sorted by group.
#[derive(Clone, Debug)]
pub struct Body {
    /// The shapes.
    pub shapes: Vec<Shape>,
    /// The few that throw shadows: end points and radius.
    pub blockers: Vec<[f32; 7]>,
}

/// What is built at the moment: the person, the bones, and the shapes so far.
struct Builder<'a> {
    who: &'a Identity,
    bones: &'a Skeleton,
    shapes: Vec<Shape>,
}

const LEFT: [[Part; 2]; 6] = [
    [Part::LeftUpperArm, Part::RightUpperArm],
    [Part::LeftForearm, Part::RightForearm],
    [Part::LeftHand, Part::RightHand],
    [Part::LeftThigh, Part::RightThigh],
    [Part::LeftCalf, Part::RightCalf],
    [Part::LeftFoot, Part::RightFoot],
];

impl Body {
    /// The shapes of a person whose bones lie like this.
    pub fn new(who: &Identity, bones: &Skeleton) -> Body {
        let mut b = Builder { who, bones, shapes: Vec::with_capacity(96) };
        b.head();
        b.hair();
        b.torso();
        for i in 0..2 {
            b.arm(i, &bones.arms[i]);
            b.leg(i, &bones.legs[i]);
        }
        let mut shapes = b.shapes;
        shapes.sort_by_key(|s| s.group);
        Body { blockers: blockers(who, bones), shapes }
    }
}

/// Capsules of about the size of the limbs.
fn blockers(who: &Identity, bones: &Skeleton) -> Vec<[f32; 7]> {
    let b = &who.build;
    let capsule = |a: Vec3, b: Vec3, r: f32| [a.x, a.y, a.z, b.x, b.y, b.z, r];
    let mut list = vec![
        capsule(bones.head.out(vec3(0.0, -0.4 * b.head, 0.0)), bones.head.out(vec3(0.0, 0.2 * b.head, 0.0)), b.head),
        capsule(bones.pelvis.at, bones.chest.out(vec3(0.0, -0.05 * b.height, 0.0)), 1.05 * b.chest[1]),
    ];
    let (skirt, g) = (who.bottom_cut == BottomCut::Skirt, b.girth);
    for i in 0..2 {
        let (arm, leg) = (&bones.arms[i], &bones.legs[i]);
        list.push(capsule(arm.upper.at, arm.lower.at, 0.048 * g));
        list.push(capsule(arm.lower.at, arm.hand.out(vec3(0.0, -0.6 * b.hand, 0.0)), 0.038 * g));
        list.push(capsule(leg.upper.at, leg.lower.at, if skirt { 0.11 } else { 0.07 } * g));
        list.push(capsule(leg.lower.at, leg.foot.at, 0.05 * g));
        list.push(capsule(leg.foot.at, leg.toe, 0.04));
    }
    list
}

impl Builder<'_> {
    fn add(&mut self, shape: Shape) {
        self.shapes.push(shape);
    }

    fn head(&mut self) {
        let (r, head) = (self.who.build.head, self.bones.head);
        let melt = 0.35 * r;
        let at = |x: f32, y: f32, z: f32| Frame { at: head.out(vec3(x, y, z) * r), axes: head.axes };
        let face = |frame, length: f32, r0: f32, r1: f32| {
            Shape::new(frame, length * r, r0 * r, r1 * r, Part::Head, Material::Face)
        };
        // Cranium and jaw, brow and chin, cheeks, nose, ears.
        self.add(face(at(0.0, 0.30, -0.06), 0.52, 0.86, 0.62).stretched(0.94, 1.0, 1.04).grouped(group::HEAD, melt));
        self.add(face(at(0.0, -0.52, 0.30), 0.22, 0.36, 0.26).stretched(1.15, 1.0, 1.0).grouped(group::HEAD, melt));
        self.add(face(at(0.0, -0.08, 0.80), 0.16, 0.075, 0.115).grouped(group::HEAD, 0.2 * r));
        for i in 0..2 {
            let s = side(i);
            self.add(
                face(at(0.84 * s, -0.02, -0.08), 0.16, 0.17, 0.11)
                    .stretched(0.55, 1.0, 1.0)
                    .grouped(group::HEAD, 0.06 * r),
            );
            self.add(face(at(0.40 * s, -0.24, 0.46), 0.10, 0.28, 0.24).grouped(group::HEAD, melt));
        }
        let neck = self.bones.neck.out(vec3(0.0, -0.03 * self.who.build.height, 0.0));
        let width = 0.031 * self.who.build.height * self.who.build.girth.sqrt();
        let to = head.out(vec3(0.0, -0.35, -0.12) * r);
        let neck = Shape::between(to, neck, head.axes.z, [0.95 * width, 1.12 * width], Part::Neck, Material::Skin);
        self.add(neck.grouped(group::HEAD, 0.03));
        if self.who.glasses.is_some() {
            for i in 0..2 {
                let lens = Frame { at: head.out(vec3(0.34 * side(i), 0.06, 0.86) * r), axes: head.axes };
                let rim = Shape::new(lens, 1e-4, 0.25 * r, 0.25 * r, Part::Head, Material::Glasses);
                self.add(rim.stretched(1.0, 0.85, 0.22).grouped(group::GLASSES, 0.01 * r));
            }
        }
    }

    fn hair(&mut self) {
        let (r, head) = (self.who.build.head, self.bones.head);
        let style = self.who.hair;
        let at = |x: f32, y: f32, z: f32| Frame { at: head.out(vec3(x, y, z) * r), axes: head.axes };
        let lock = |frame, length: f32, r0: f32, r1: f32| {
            Shape::new(frame, length * r, r0 * r, r1 * r, Part::Head, Material::Hair).grouped(group::HAIR, 0.18 * r)
        };
        // A cap over the cranium; a tilted plane leaves the face free.
        let cap = |thick: f32, low: f32, tilt: f32, line: f32| {
            let (s, c) = crate::math::sin_cos(degrees(tilt));
            lock(at(0.0, 0.36, -0.19), low, 0.89 + thick, 0.72 + thick)
                .stretched(0.96, 1.0, 1.04)
                .cut(vec3(0.0, -s, c), line * r)
        };
        match style {
            HairStyle::Bald => {}
            HairStyle::Short => self.add(cap(0.09, 0.42, 50.0, 0.14)),
            HairStyle::Tousled => {
                self.add(cap(0.13, 0.45, 46.0, 0.18));
                for (x, y, z, size) in [
                    (-0.34, 0.92, 0.42, 0.34),
                    (0.12, 1.0, 0.48, 0.38),
                    (0.5, 0.86, 0.30, 0.33),
                    (-0.05, 1.12, 0.0, 0.36),
                ] {
                    self.add(lock(at(x, y, z), 0.1, size, size * 0.8));
                }
            }
            HairStyle::Bob => {
                self.add(cap(0.14, 0.75, 40.0, 0.22));
                for s in [-1.0, 1.0] {
                    self.add(lock(at(0.74 * s, 0.2, -0.10), 0.95, 0.32, 0.34).stretched(0.75, 1.0, 1.15));
                }
                self.add(lock(at(0.0, 0.0, -0.62), 0.75, 0.5, 0.45).stretched(1.3, 1.0, 0.8));
                self.add(lock(at(0.0, 0.76, 0.66), 0.10, 0.26, 0.22).stretched(1.9, 0.9, 0.7));
            }
            HairStyle::Long => {
                self.add(cap(0.13, 0.6, 42.0, 0.20));
                for s in [-1.0, 1.0] {
                    self.add(lock(at(0.72 * s, 0.25, -0.12), 1.55, 0.30, 0.24).stretched(0.7, 1.0, 1.0));
                }
                self.add(lock(at(0.0, 0.1, -0.66), 2.05, 0.58, 0.42).stretched(1.35, 1.0, 0.62));
            }
            HairStyle::Ponytail => {
                self.add(cap(0.10, 0.45, 46.0, 0.16));
                self.add(lock(at(0.0, 0.42, -1.0), 0.05, 0.26, 0.24));
                let tail = Frame {
                    at: head.out(vec3(0.0, 0.38, -1.12) * r),
                    axes: head.axes.then(Axes::turn_x(degrees(-16.0))),
                };
                self.add(lock(tail, 1.35, 0.24, 0.12));
            }
            HairStyle::Bun => {
                self.add(cap(0.10, 0.45, 46.0, 0.16));
                self.add(lock(at(0.0, 1.22, -0.42), 0.02, 0.40, 0.38));
            }
            HairStyle::Afro => {
                self.add(lock(at(0.0, 0.55, -0.22), 0.2, 1.32, 1.22).cut(vec3(0.0, -0.64, 0.77), 0.14 * r))
            }
            HairStyle::Cap => {
                self.add(cap(0.12, 0.05, 74.0, -0.10));
                let (s, c) = crate::math::sin_cos(degrees(14.0));
                let brim = lock(at(0.0, 0.40, 0.72), 0.02, 0.52, 0.5).stretched(1.0, 0.13, 1.0);
                self.add(brim.cut(vec3(0.0, -s, -c), 0.3 * r));
            }
        }
    }

    fn torso(&mut self) {
        let (b, bones) = (self.who.build, self.bones);
        let (h, cut) = (b.height, self.who.top_cut);
        let loose = match cut {
            TopCut::Hoodie => 0.016,
            TopCut::Tank => 0.002,
            _ => 0.007,
        };
        let melt = 0.028 * h;
        let top = |frame: Frame, length, r0: f32, r1: f32, part| {
            Shape::new(frame, length, r0 + loose, r1 + loose, part, Material::Top).grouped(group::TOP, melt)
        };
        // How far the hem hangs below the place where it starts.
        let down = if cut == TopCut::Tank { 0.050 } else { 0.068 } * h;
        let [chest, waist] = b.chest;
        let at = |f: &Frame, y: f32, z: f32| Frame { at: f.out(vec3(0.0, y * h, z * h)), axes: f.axes };
        // Rib cage, belly, the yoke of the shoulders.
        self.add(
            top(at(&bones.chest, -0.045, 0.0), 0.10 * h, chest, waist * 1.02, Part::Chest).stretched(1.16, 1.0, 0.86),
        );
        self.add(
            top(at(&bones.waist, 0.03, 0.003), 0.075 * h, waist, waist * 1.02, Part::Chest).stretched(1.08, 1.0, 0.86),
        );
        let belly = (b.belly - 0.9 * waist).max(0.0);
        self.add(
            top(at(&bones.waist, 0.005, 0.012), 0.03 * h, waist * 0.9 + belly, waist * 0.88 + belly, Part::Chest)
                .cut(vec3(0.0, -1.0, 0.0), down + 0.033 * h),
        );
        let yoke = |s: f32| bones.chest.out(vec3(s * (b.shoulders - 0.018 * h), -0.008 * h, -0.002 * h));
        let across = Shape::between(
            yoke(1.0),
            yoke(-1.0),
            bones.chest.axes.z,
            [0.034 * h * b.girth + loose; 2],
            Part::Chest,
            Material::Top,
        );
        self.add(across.stretched(1.0, 1.0, 0.95).grouped(group::TOP, melt));
        // From the neck down to the shoulders.
        for i in 0..2 {
            let s = side(i);
            let (a, e) = (bones.neck.out(vec3(s * 0.016 * h, 0.004 * h, -0.004 * h)), yoke(0.8 * s));
            let slope = Shape::between(
                a,
                e,
                bones.chest.axes.z,
                [0.022 * h + 0.5 * loose, 0.03 * h + loose],
                Part::Chest,
                Material::Top,
            );
            self.add(slope.grouped(group::TOP, 0.03));
            if b.bust > 0.05 {
                let at = bones.chest.out(vec3(s * 0.034 * h, -0.062 * h, 0.041 * h));
                let bust = top(
                    Frame { at, axes: bones.chest.axes },
                    0.01,
                    0.026 * h * (0.75 + 0.45 * b.bust),
                    0.025 * h,
                    Part::Chest,
                );
                self.add(bust.grouped(group::TOP, 0.045));
            }
        }
        if cut == TopCut::Hoodie {
            let hood = Frame { at: bones.neck.out(vec3(0.0, 0.004 * h, -0.042 * h)), axes: bones.neck.axes };
            self.add(top(hood, 0.02 * h, 0.034 * h, 0.028 * h, Part::Chest).stretched(1.7, 0.8, 1.0));
        }
        // The hem hangs over the hips.
        let hem = at(&bones.pelvis, 0.055, 0.0);
        // Wide enough for the thighs under it.
        let wide = ((b.hips + 0.0575 * b.girth * h) / (1.02 * b.seat + loose)).clamp(1.08, 1.6);
        let hem = top(hem, 0.055 * h, waist * 1.03, 1.02 * b.seat, Part::Chest).stretched(wide, 1.0, 0.97);
        self.add(hem.cut(vec3(0.0, -1.0, 0.0), down));
        self.seat();
    }

    fn seat(&mut self) {
        let (b, bones) = (self.who.build, self.bones);
        let h = b.height;
        let bottom = |frame: Frame, length, r0, r1| {
            Shape::new(frame, length, r0, r1, Part::Hips, Material::Bottom).grouped(group::BOTTOM, 0.03 * h)
        };
        let frame = Frame { at: bones.pelvis.out(vec3(0.0, 0.03 * h, -0.002 * h)), axes: bones.pelvis.axes };
        self.add(bottom(frame, 0.045 * h, b.chest[1] * 1.0, b.seat).stretched(1.06, 1.0, 0.90));
        for i in 0..2 {
            let s = side(i);
            let at = bones.pelvis.out(vec3(s * 0.75 * b.hips, -0.012 * h, -0.026 * h));
            self.add(bottom(Frame { at, axes: bones.pelvis.axes }, 0.012 * h, 0.6 * b.seat, 0.62 * b.seat));
        }
    }

    fn arm(&mut self, i: usize, arm: &Arm) {
        let b = self.who.build;
        let (h, g) = (b.height, b.girth);
        let part = |row: usize| LEFT[row][i];
        let front = arm.upper.axes.z;
        let cut = self.who.top_cut;
        let skin = |a, e, r0: f32, r1: f32, part| {
            Shape::between(a, e, front, [r0 * g * h, r1 * g * h], part, Material::Skin).grouped(group::ARM[i], 0.006)
        };
        let along = |f: &Frame, t: f32, length: f32| f.out(vec3(0.0, -t * length, 0.0));
        let (upper, lower) = (b.arm[0], b.arm[1]);
        let covered = matches!(cut, TopCut::Long | TopCut::Hoodie);
        if covered {
            self.add(skin(along(&arm.lower, 0.8, lower), arm.hand.at, 0.0175, 0.0155, part(1)));
        } else {
            let belly = along(&arm.lower, 0.30, lower);
            self.add(skin(arm.upper.at, arm.lower.at, 0.0285, 0.0228, part(0)));
            self.add(skin(arm.lower.at, belly, 0.0228, 0.0238, part(1)));
            self.add(skin(belly, arm.hand.at, 0.0238, 0.0155, part(1)));
        }
        self.hand(i, arm);
        let loose = match cut {
            TopCut::Hoodie => 0.0085,
            TopCut::Tee => 0.0062,
            _ => 0.0038,
        };
        let sleeve = |a, e, r0: f32, r1: f32, part, group, melt| {
            let radii = [(r0 * g + loose) * h, (r1 * g + loose) * h];
            Shape::between(a, e, front, radii, part, Material::Top).grouped(group, melt)
        };
        match cut {
            TopCut::Tank => {}
            TopCut::Tee => {
                let end = along(&arm.upper, 0.56, upper);
                self.add(sleeve(arm.upper.at, end, 0.0290, 0.0268, part(0), group::TOP, 0.012 * h));
            }
            TopCut::Long | TopCut::Hoodie => {
                self.add(sleeve(
                    arm.upper.at,
                    along(&arm.upper, 0.72, upper),
                    0.0290,
                    0.0250,
                    part(0),
                    group::TOP,
                    0.028 * h,
                ));
                let cuff = along(&arm.lower, 0.94, lower);
                self.add(sleeve(
                    along(&arm.upper, 0.5, upper),
                    arm.lower.at,
                    0.0262,
                    0.0232,
                    part(0),
                    group::SLEEVE[i],
                    0.02,
                ));
                self.add(sleeve(arm.lower.at, cuff, 0.0236, 0.0172, part(1), group::SLEEVE[i], 0.006));
            }
        }
    }

    fn hand(&mut self, i: usize, arm: &Arm) {
        let l = self.who.build.hand;
        let part = LEFT[2][i];
        let bone = |a, e, r0: f32, r1: f32| {
            Shape::between(a, e, arm.hand.axes.z, [r0 * l, r1 * l], part, Material::Skin).grouped(group::ARM[i], 0.004)
        };
        let palm = Frame { at: arm.hand.out(vec3(0.0, -0.10 * l, 0.0)), axes: arm.hand.axes };
        let palm = Shape::new(palm, 0.30 * l, 0.19 * l, 0.24 * l, part, Material::Skin);
        self.add(palm.stretched(0.55, 1.0, 1.0).grouped(group::ARM[i], 0.008));
        for (f, joints) in arm.fingers.iter().enumerate() {
            let r = if f == 0 { 0.088 } else { 0.076 };
            self.add(bone(joints[0], joints[1], r * 1.1, r));
            self.add(bone(joints[1], joints[2], r, r * 0.92));
            self.add(bone(joints[2], joints[3], r * 0.92, r * 0.78));
        }
    }

    fn leg(&mut self, i: usize, leg: &Leg) {
        let b = self.who.build;
        let (h, g) = (b.height, b.girth);
        let (thigh, calf, foot) = (LEFT[3][i], LEFT[4][i], LEFT[5][i]);
        let front = leg.upper.axes.z;
        let along = |f: &Frame, t: f32, length: f32| f.out(vec3(0.0, -t * length, 0.0));
        let limb = |a, e, radii: [f32; 2], part, material, group, melt| {
            Shape::between(a, e, front, [radii[0] * g * h, radii[1] * g * h], part, material).grouped(group, melt)
        };
        let swell = leg.lower.out(vec3(0.0, -0.28 * b.leg[1], -0.012 * h));
        let cut = self.who.bottom_cut;
        if matches!(cut, BottomCut::Shorts | BottomCut::Skirt) {
            let (m, gr) = (Material::Skin, group::LEG[i]);
            self.add(limb(along(&leg.upper, 0.3, b.leg[0]), leg.lower.at, [0.045, 0.0340], thigh, m, gr, 0.008));
            self.add(limb(leg.lower.at, swell, [0.0340, 0.0345], calf, m, gr, 0.008));
            self.add(limb(swell, leg.foot.at, [0.0345, 0.0225], calf, m, gr, 0.008));
        }
        let m = Material::Bottom;
        let (seat, own) = (group::BOTTOM, group::TROUSER[i]);
        match cut {
            BottomCut::Skirt => {
                // Each leg lifts its side of the cloth; what is between melts into one.
                let hem = along(&leg.upper, 0.78, b.leg[0]);
                let middle = self.bones.pelvis.out(vec3(0.0, -0.8 * b.leg[0], 0.0));
                let to = hem.mix(middle, 0.28);
                let side = limb(leg.upper.at, to, [0.056, 0.076], thigh, m, seat, 0.11 * h).stretched(1.0, 1.0, 1.1);
                self.add(side.cut(vec3(0.0, -1.0, 0.0), (to - leg.upper.at).length()));
            }
            BottomCut::Shorts => {
                let to = along(&leg.upper, 0.66, b.leg[0]);
                self.add(limb(leg.upper.at, to, [0.056, 0.053], thigh, m, seat, 0.018 * h));
            }
            _ => {
                let [knee, calf_r, ankle] = match cut {
                    BottomCut::Leggings => [0.0325, 0.0335, 0.0225],
                    BottomCut::Wide => [0.0455, 0.0470, 0.0520],
                    _ => [0.0370, 0.0355, 0.0300],
                };
                let to = along(&leg.upper, 0.8, b.leg[0]);
                self.add(limb(leg.upper.at, to, [0.055, 0.0138 + 0.8 * knee], thigh, m, seat, 0.018 * h));
                self.add(limb(
                    along(&leg.upper, 0.55, b.leg[0]),
                    leg.lower.at,
                    [0.036f32.max(knee), knee],
                    thigh,
                    m,
                    own,
                    0.03,
                ));
                self.add(limb(leg.lower.at, swell, [knee, calf_r], calf, m, own, 0.008));
                let end = along(&leg.lower, 0.95, b.leg[1]);
                self.add(limb(swell, end, [calf_r, ankle], calf, m, own, 0.008));
            }
        }
        self.shoe(i, leg, foot);
    }

    fn shoe(&mut self, i: usize, leg: &Leg, part: Part) {
        let b = self.who.build;
        let (l, low) = (b.foot, -b.ankle);
        let at = |y: f32, z: f32| leg.foot.out(vec3(0.0, y, z * l));
        let gr = group::SHOE[i];
        let bone = |a, e, r0: f32, r1: f32| {
            Shape::between(a, e, leg.foot.axes.y, [r0 * l, r1 * l], part, Material::Shoe).grouped(gr, 0.02)
        };
        // Heel to ball, ball to toe, the collar round the ankle. The cut is the sole: flat on the ground.
        let sole = |s: Shape, from: Vec3| {
            let up = leg.foot.axes.y;
            let normal = s.frame.axes.local(-up);
            s.cut(normal, up.dot(from - leg.foot.at) - low)
        };
        let (heel, ball, toe) = (at(low + 0.15 * l, -0.10), at(low + 0.115 * l, 0.42), at(low + 0.09 * l, 0.66));
        self.add(sole(bone(heel, ball, 0.165, 0.155).stretched(1.05, 1.0, 1.0), heel));
        self.add(sole(bone(ball, toe, 0.155, 0.125).stretched(1.15, 1.0, 1.0), ball));
        let collar = at(0.15 * b.ankle, -0.02);
        self.add(sole(bone(collar, at(0.35 * low, 0.26), 0.145, 0.12), collar));
    }
}
