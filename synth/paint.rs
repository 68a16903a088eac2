//! The colour of a surface: cloth with its print, skin, hair, a face.

use crate::identity::{BottomCut, Cloth, HairStyle, Identity, Pattern};
use crate::math::{Vec3, fract, mix, smoothstep, vec3};
use crate::nocs::on_torso;
use crate::pose::{Skeleton, side};
use crate::random::{clouds, noise};
use crate::scene::Look;
use crate::shape::{Material, Part, Shape};

/// What is painted, on whom.
pub struct Paint<'a> {
    /// The person.
    pub who: &'a Identity,
    /// The bones, whose frames carry the prints along.
    pub bones: &'a Skeleton,
    /// Whether there is grain.
    pub look: Look,
}

/// A linear colour, and how much it shines.
pub struct Surface {
    /// Linear colour.
    pub colour: Vec3,
    /// 0 matt to 1 glossy.
    pub gloss: f32,
}

impl Paint<'_> {
    /// The surface of a shape at a point.
    pub fn at(&self, shape: &Shape, p: Vec3) -> Surface {
        let q = shape.frame.local(p);
        match shape.material {
            Material::Skin => Surface { colour: self.skin(q), gloss: 0.16 },
            Material::Face => self.face(p),
            Material::Hair => self.hair(p),
            Material::Top => self.top(shape, q, p),
            Material::Bottom => self.bottom(shape, q, p),
            Material::Shoe => self.shoe(shape, p),
            Material::Glasses => self.lens(p),
        }
    }

    fn grain(&self, q: Vec3, cells: f32, amount: f32) -> f32 {
        match self.look {
            Look::Synthetic => 1.0,
            Look::Real => 1.0 - 0.5 * amount + amount * clouds(self.who.id as u32, q * cells, 2),
        }
    }

    fn skin(&self, q: Vec3) -> Vec3 {
        self.who.skin * self.grain(q, 60.0, 0.10)
    }

    fn top(&self, shape: &Shape, q: Vec3, p: Vec3) -> Surface {
        let cloth = &self.who.top;
        let h = self.who.build.height;
        let torso = shape.part == Part::Chest;
        let at = if torso { on_torso(&self.who.build, self.bones, p) } else { vec3(q.z, q.y, q.x) };
        let ink = match cloth.pattern {
            Pattern::Band if torso => edge(0.045 * h, (at.y - 0.185 * h).abs()),
            Pattern::Band => edge(0.022 * h, (at.y + 0.055 * h).abs()),
            Pattern::Halves if torso => smoothstep(-0.004, 0.004, at.y - 0.165 * h),
            Pattern::Halves => 1.0,
            Pattern::Logo(sign) if torso && at.z > 0.0 => {
                logo(sign, at.x / (0.062 * h), (at.y - 0.205 * h) / (0.062 * h))
            }
            Pattern::Logo(_) => 0.0,
            other => print(other, at),
        };
        self.cloth(cloth, ink, at)
    }

    fn bottom(&self, shape: &Shape, q: Vec3, p: Vec3) -> Surface {
        let cloth = &self.who.bottom;
        let h = self.who.build.height;
        let i = usize::from(matches!(shape.part, Part::RightThigh | Part::RightCalf));
        let skirt = self.who.bottom_cut == BottomCut::Skirt;
        let at = if skirt || shape.part == Part::Hips { self.bones.pelvis.local(p) } else { vec3(q.x, q.y, q.z) };
        let ink = match cloth.pattern {
            Pattern::Band if skirt => {
                let leg = self.bones.legs[i].upper.local(p);
                edge(0.02 * h, (leg.y + 0.7 * self.who.build.leg[0]).abs())
            }
            Pattern::Band if shape.part == Part::Hips => 0.0,
            Pattern::Band => edge(0.016 * h, at.z.abs()) * if side(i) * at.x > 0.0 { 1.0 } else { 0.0 },
            other => print(other, at),
        };
        self.cloth(cloth, ink, at)
    }

    fn cloth(&self, cloth: &Cloth, ink: f32, at: Vec3) -> Surface {
        let weave = self.grain(at, 170.0, 0.12) * self.grain(at, 17.0, 0.16);
        Surface { colour: cloth.base.mix(cloth.print, ink) * weave, gloss: 0.04 }
    }

    fn shoe(&self, shape: &Shape, p: Vec3) -> Surface {
        let i = usize::from(shape.part == Part::RightFoot);
        let q = self.bones.legs[i].foot.local(p);
        let b = &self.who.build;
        let sole = edge(-0.74 * b.ankle, q.y);
        let cap = 0.4 * smoothstep(0.54, 0.58, q.z / b.foot);
        Surface { colour: self.who.shoes.mix(self.who.soles, sole.max(cap)), gloss: 0.22 }
    }

    fn hair(&self, p: Vec3) -> Surface {
        let q = self.bones.head.local(p) / self.who.build.head;
        if self.who.hair == HairStyle::Cap {
            let seam = edge(0.035, q.x.abs()) * 0.18 + 0.25 * edge(0.40, q.y);
            return Surface { colour: self.who.hair_colour * (1.0 - seam), gloss: 0.05 };
        }
        // Strands run down from the crown.
        let strand = noise(self.who.id as u32, vec3(q.x * 15.0, q.y * 1.7, q.z * 15.0));
        let tone = 0.76 + 0.48 * strand;
        Surface {
            colour: self.who.hair_colour * tone,
            gloss: if self.who.hair == HairStyle::Afro { 0.03 } else { 0.30 },
        }
    }

    fn lens(&self, p: Vec3) -> Surface {
        let q = self.bones.head.local(p) / self.who.build.head;
        let (x, y) = ((q.x.abs() - 0.34) / 0.25, (q.y - 0.06) / 0.21);
        let rim = smoothstep(0.52, 0.66, x * x + y * y);
        let frame = self.who.glasses.unwrap_or(Vec3::ZERO);
        let eye = self.face(p).colour;
        Surface { colour: eye.mix(Vec3::all(0.5), 0.12).mix(frame, rim), gloss: 0.5 }
    }

    fn face(&self, p: Vec3) -> Surface {
        let who = self.who;
        let q = self.bones.head.local(p) / who.build.head;
        let mut colour = self.skin(q * 0.1);
        let front = smoothstep(0.1, 0.4, q.z);
        let x = q.x.abs();
        // Warm cheeks, nose and ears.
        let warm = oval(x - 0.52, q.y + 0.26, 0.34, 0.24) * 0.45 + oval(q.x, q.y + 0.10, 0.12, 0.12) * 0.25;
        let blush = who.skin.times(vec3(1.02, 0.62, 0.58));
        colour = colour.mix(blush, warm * front + 0.4 * smoothstep(0.8, 0.95, x));
        if who.beard > 0.0 {
            let low = smoothstep(-0.22, -0.42, q.y - 0.30 * (x - 0.45).max(0.0)) * smoothstep(-0.25, 0.0, q.z);
            let lip = oval(q.x, q.y + 0.47, 0.24, 0.10);
            let grain = 0.75 + 0.5 * noise(who.id as u32, q * 24.0);
            colour = colour.mix(who.hair_colour * grain, 0.85 * who.beard * low * (1.0 - lip));
        }
        if who.hair == HairStyle::Bald || who.hair == HairStyle::Short {
            let stubble = smoothstep(0.42, 0.62, q.y + 0.55 * (0.4 - q.z).max(0.0));
            colour = colour.mix(who.hair_colour, if who.hair == HairStyle::Bald { 0.16 } else { 0.75 } * stubble);
        }
        colour = self.mouth(colour, q, front);
        colour = self.eyes(colour, q, front);
        Surface { colour, gloss: 0.18 }
    }

    fn mouth(&self, colour: Vec3, q: Vec3, front: f32) -> Vec3 {
        // A smile: corners a little up.
        let curve = q.y + 0.49 - 0.55 * q.x * q.x;
        let lips = oval(q.x, curve, 0.27, 0.085) * front;
        let line = oval(q.x, curve, 0.25, 0.022) * front;
        colour.mix(self.who.lips, lips).mix(self.who.lips * 0.3, 0.8 * line)
    }

    fn eyes(&self, colour: Vec3, q: Vec3, front: f32) -> Vec3 {
        let x = q.x.abs() - 0.34;
        let y = q.y - 0.06;
        let brow_line = y - 0.25 + 0.5 * x * x + 0.08 * x;
        let dark = if self.who.hair == HairStyle::Cap { Vec3::all(0.02) } else { self.who.hair_colour * 0.6 };
        let brow = oval(x + 0.01, brow_line, 0.22, 0.055) * front;
        let mut c = colour.mix(dark, 0.9 * brow);
        let open = oval(x, y, 0.185, 0.135) * front;
        let lash = (oval(x, y - 0.02, 0.215, 0.165) - oval(x, y + 0.03, 0.20, 0.145)).max(0.0) * front;
        let lash = lash * smoothstep(-0.05, 0.03, y);
        c = c.mix(Vec3::all(0.86), open);
        c = c.mix(self.who.eyes, oval(x, y + 0.005, 0.105, 0.112) * open);
        c = c.mix(Vec3::all(0.008), oval(x, y + 0.005, 0.056, 0.06) * open);
        // The light that makes an eye alive is on the same side in both.
        let glint = oval(q.x - q.x.signum() * 0.34 - 0.045, y - 0.05, 0.034, 0.034);
        c.mix(Vec3::all(1.0), glint * open).mix(Vec3::all(0.015), 0.9 * lash)
    }
}

/// 1 below `at`, 0 above it, over a millimetre or the like.
fn edge(at: f32, v: f32) -> f32 {
    smoothstep(at + 0.003, at - 0.003, v)
}

/// 1 within an ellipse of these half axes, 0 outside.
fn oval(x: f32, y: f32, a: f32, b: f32) -> f32 {
    let r = (x * x / (a * a) + y * y / (b * b)).sqrt();
    smoothstep(1.12, 0.88, r)
}

/// A wave of plateaus: 1 over the share `duty` of each period.
fn stripe(v: f32, period: f32, duty: f32) -> f32 {
    let u = (fract(v / period) - 0.5).abs();
    smoothstep(0.5 * duty + 0.02, 0.5 * duty - 0.02, u)
}

fn print(pattern: Pattern, at: Vec3) -> f32 {
    match pattern {
        Pattern::Rings(period) => stripe(at.y, period, 0.5),
        Pattern::Pinstripes(period) => stripe(at.x, period, 0.36),
        Pattern::Checks(period) => {
            let (a, b) = (stripe(at.x, period, 0.5), stripe(at.y, period, 0.5));
            a + b - 2.0 * a * b
        }
        Pattern::Tartan(period) => {
            let broad = 0.45 * (stripe(at.x, period, 0.5) + stripe(at.y, period, 0.5));
            let thin = stripe(at.x + 0.5 * period, period, 0.12).max(stripe(at.y + 0.5 * period, period, 0.12));
            broad.max(thin)
        }
        Pattern::Dots(period) => {
            let row = (at.y / period).floor();
            let shift = if row as i32 % 2 == 0 { 0.0 } else { 0.5 };
            let (u, v) = (fract(at.x / period + shift) - 0.5, fract(at.y / period) - 0.5);
            oval(u, v, 0.3, 0.3)
        }
        _ => 0.0,
    }
}

/// One of eight signs, within ±1 in both directions.
fn logo(sign: u8, x: f32, y: f32) -> f32 {
    let soft = |d: f32| smoothstep(0.05, -0.05, d);
    let r = (x * x + y * y).sqrt();
    match sign {
        0 => soft(r - 0.9),
        1 => soft((r - 0.72).abs() - 0.2),
        2 => soft(x.abs() + y.abs() - 1.0),
        3 => soft(x.abs().min(y.abs()) - 0.26) * soft(x.abs().max(y.abs()) - 0.92),
        4 => {
            // A heart.
            let v = y + 0.15;
            let bulge = (x.abs() * 1.0 - 0.42) * (x.abs() - 0.42) + (v - 0.32) * (v - 0.32);
            soft(bulge.sqrt() - 0.48).max(soft((x.abs() + (v - 0.18).abs() * 1.0 - 0.85).max(v - 0.32)))
        }
        5 => soft((0.62 * y + x.abs() * 1.0 - 0.5).max(-y - 0.8)),
        6 => {
            // A star: five half planes, of which all but one must hold.
            let rays = [(0.0, 1.0), (0.951, 0.309), (0.588, -0.809), (-0.588, -0.809), (-0.951, 0.309)];
            let mut d = rays.map(|(a, b)| a * x + b * y - 0.36);
            d.sort_by(f32::total_cmp);
            soft(d[3].max(r - 0.95))
        }
        _ => {
            let bars = stripe(y, 0.62, 0.55);
            bars * soft(x.abs() - mix(0.95, 0.55, (0.5 + 0.5 * y).clamp(0.0, 1.0)))
        }
    }
}
