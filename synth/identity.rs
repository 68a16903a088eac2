//! Who a person is: proportions, skin, hair, clothes. A pure function of a number.

use crate::math::{Vec3, mix, vec3};
use crate::random::{Random, derive};

/// Lengths of a body, in metres.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// From the ground to the crown.
    pub height: f32,
    /// Radius of the head.
    pub head: f32,
    /// From the middle to a shoulder joint.
    pub shoulders: f32,
    /// From the middle to a hip joint.
    pub hips: f32,
    /// Radius of the chest, and of the waist.
    pub chest: [f32; 2],
    /// Radius of the belly in front; more than the waist in stout people.
    pub belly: f32,
    /// Radius of the seat.
    pub seat: f32,
    /// Upper and lower arm.
    pub arm: [f32; 2],
    /// Upper and lower leg.
    pub leg: [f32; 2],
    /// Height of the ankles.
    pub ankle: f32,
    /// Length of a hand.
    pub hand: f32,
    /// Length of a foot.
    pub foot: f32,
    /// Thickness of limbs; 1 on average.
    pub girth: f32,
    /// 0 to 1: breadth of the chest in front.
    pub bust: f32,
}

/// Shapes of hair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HairStyle {
    Bald,
    Short,
    Tousled,
    Bob,
    Long,
    Ponytail,
    Bun,
    Afro,
    Cap,
}

/// What covers the upper body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TopCut {
    Tank,
    Tee,
    Long,
    Hoodie,
}

/// What covers the lower body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BottomCut {
    Trousers,
    Leggings,
    Wide,
    Shorts,
    Skirt,
}

/// What is printed on cloth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// One colour.
    Plain,
    /// Rings round body and limbs; the period in metres.
    Rings(f32),
    /// Stripes along body and limbs.
    Pinstripes(f32),
    /// Squares.
    Checks(f32),
    /// Lines that cross over stripes.
    Tartan(f32),
    /// Dots.
    Dots(f32),
    /// A broad band round the chest, or down the sides.
    Band,
    /// The upper half in one colour, the lower in the other.
    Halves,
    /// A sign on the chest: which one of eight.
    Logo(u8),
}

/// Cloth: two colours and how they are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Cloth {
    /// The ground.
    pub base: Vec3,
    /// The print.
    pub print: Vec3,
    /// Where which colour is.
    pub pattern: Pattern,
}

/// A person.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The number it is made from.
    pub id: u64,
    /// Proportions.
    pub build: Build,
    /// Linear colour of the skin.
    pub skin: Vec3,
    /// Shape of the hair.
    pub hair: HairStyle,
    /// Linear colour of the hair, or of the cap.
    pub hair_colour: Vec3,
    /// Colour of the irises.
    pub eyes: Vec3,
    /// Colour of the lips.
    pub lips: Vec3,
    /// 0 to 1: how much beard there is.
    pub beard: f32,
    /// Glasses, and their colour.
    pub glasses: Option<Vec3>,
    /// Cut of the top.
    pub top_cut: TopCut,
    /// Cloth of the top.
    pub top: Cloth,
    /// Cut of what covers the legs.
    pub bottom_cut: BottomCut,
    /// Its cloth.
    pub bottom: Cloth,
    /// Colour of the shoes.
    pub shoes: Vec3,
    /// Colour of their soles.
    pub soles: Vec3,
}

/// A display colour (0 to 255, as designers write them) as linear light: the square, as gamma is 2 here.
fn srgb(hex: u32) -> Vec3 {
    let part = |shift: u32| {
        let v = ((hex >> shift) & 255) as f32 / 255.0;
        v * v
    };
    vec3(part(16), part(8), part(0))
}

const SKIN: [u32; 10] =
    [0xFBDDC7, 0xF3CDB0, 0xEBBB96, 0xDDA47B, 0xC98A5F, 0xB0744C, 0x935C3A, 0x76472C, 0x5C3723, 0x47291B];
const HAIR: [u32; 12] = [
    0x1B1716, 0x2A211E, 0x3D2A20, 0x53382A, 0x6E4930, 0x8F6237, 0xB98A4B, 0xDDBB78, 0xA3452A, 0x7C7976, 0xC9C5C0,
    0x8A3B62,
];
const CLOTH: [u32; 28] = [
    0xF5F3EE, 0xE2DDD2, 0xB9B6B0, 0x6F7278, 0x3A3D44, 0x1E2026, 0xD8332F, 0xA61E2C, 0x6E1423, 0xEE7A2D, 0xF2A93B,
    0xF4D64E, 0x9CBF3F, 0x4E9A46, 0x23694A, 0x17473A, 0x2FA7A0, 0x57B8DE, 0x2F7FC9, 0x1F4FA3, 0x1B2C63, 0x5A45A6,
    0x8E5BB5, 0xC45BA0, 0xF08CB0, 0xF6C6CF, 0x8A5A36, 0xC9A57A,
];
const TROUSERS: [u32; 16] = [
    0x24324F, 0x35507E, 0x5C7EA8, 0x1D1F25, 0x383B41, 0x6B6E72, 0xA59B86, 0xC8B690, 0x5A4632, 0x44522F, 0x74293A,
    0xEDE9E1, 0x2E4D4A, 0x3F3563, 0x8E3B2C, 0x12263A,
];

fn colour(random: &mut Random, palette: &[u32]) -> Vec3 {
    let c = srgb(random.pick(palette));
    let shade = random.range(0.85, 1.12);
    vec3(c.x * shade * random.range(0.94, 1.06), c.y * shade, c.z * shade * random.range(0.94, 1.06))
        .map(|v| v.clamp(0.003, 0.93))
}

/// A colour that is told from another one at a glance.
fn contrast(random: &mut Random, palette: &[u32], other: Vec3) -> Vec3 {
    let mut best = colour(random, palette);
    for _ in 0..12 {
        if display_distance(best, other) > 0.42 {
            break;
        }
        let next = colour(random, palette);
        if display_distance(next, other) > display_distance(best, other) {
            best = next;
        }
    }
    best
}

fn display_distance(a: Vec3, b: Vec3) -> f32 {
    (a.map(f32::sqrt) - b.map(f32::sqrt)).length()
}

fn top_pattern(r: &mut Random) -> Pattern {
    match r.below(20) {
        0..4 => Pattern::Plain,
        4..7 => Pattern::Rings(r.range(0.07, 0.15)),
        7 => Pattern::Pinstripes(r.range(0.05, 0.09)),
        8..10 => Pattern::Checks(r.range(0.09, 0.15)),
        10 => Pattern::Tartan(r.range(0.12, 0.18)),
        11 => Pattern::Dots(r.range(0.08, 0.13)),
        12..14 => Pattern::Band,
        14..16 => Pattern::Halves,
        _ => Pattern::Logo(r.below(8) as u8),
    }
}

fn bottom_pattern(r: &mut Random, cut: BottomCut) -> Pattern {
    match (r.below(12), cut) {
        (0, _) => Pattern::Band,
        (1, BottomCut::Skirt | BottomCut::Leggings) => Pattern::Rings(r.range(0.08, 0.14)),
        (2, BottomCut::Skirt | BottomCut::Shorts) => Pattern::Tartan(r.range(0.12, 0.18)),
        (3, BottomCut::Skirt) => Pattern::Dots(r.range(0.08, 0.12)),
        (4, BottomCut::Skirt | BottomCut::Wide) => Pattern::Checks(r.range(0.1, 0.15)),
        (5 | 6, BottomCut::Trousers | BottomCut::Leggings) => Pattern::Band,
        _ => Pattern::Plain,
    }
}

impl Build {
    fn of(r: &mut Random) -> Build {
        // 0: broad shoulders, narrow hips; 1: the reverse.
        let form = r.unit();
        let height = mix(1.80, 1.67, form) + 0.11 * r.bell();
        let stout = 0.5 + 0.5 * r.bell();
        let girth = mix(0.86, 1.20, stout) * mix(1.05, 0.94, form);
        let legs = 0.505 + 0.02 * r.bell();
        let ankle = 0.052 * height;
        let (knee, hip) = (0.282 * height + 0.01 * r.bell(), legs * height);
        Build {
            height,
            head: (0.0735 + 0.004 * r.bell()) * (0.45 * height + 0.95),
            shoulders: mix(0.112, 0.098, form) * height * mix(0.97, 1.05, stout),
            hips: mix(0.052, 0.058, form) * height,
            chest: [
                mix(0.079, 0.070, form) * height * mix(0.92, 1.13, stout),
                0.060 * height * girth * mix(1.04, 0.9, form),
            ],
            belly: 0.060 * height * mix(0.85, 1.42, stout * stout),
            seat: mix(0.068, 0.075, form) * height * mix(0.93, 1.1, stout),
            arm: [0.168 * height, 0.147 * height],
            leg: [hip - knee, knee - ankle],
            ankle,
            hand: 0.116 * height,
            foot: 0.152 * height,
            girth,
            bust: (1.6 * form - 0.7).max(0.0) * r.range(0.4, 1.0),
        }
    }
}

impl Identity {
    /// The person of a number.
    pub fn new(id: u64) -> Identity {
        let r = &mut Random::new(derive(id, 0x1DE4));
        let build = Build::of(r);
        let skin = colour(r, &SKIN);
        let slim = build.bust > 0.0;
        let hair = if slim {
            r.pick(&[
                HairStyle::Bob,
                HairStyle::Long,
                HairStyle::Ponytail,
                HairStyle::Bun,
                HairStyle::Tousled,
                HairStyle::Afro,
            ])
        } else {
            let short = [HairStyle::Short, HairStyle::Short, HairStyle::Tousled, HairStyle::Bald, HairStyle::Cap];
            if r.chance(0.15) { r.pick(&[HairStyle::Afro, HairStyle::Bun]) } else { r.pick(&short) }
        };
        let hair_colour = if hair == HairStyle::Cap { colour(r, &CLOTH) } else { colour(r, &HAIR) };
        let top_cut = r.pick(&[TopCut::Tee, TopCut::Tee, TopCut::Long, TopCut::Long, TopCut::Hoodie, TopCut::Tank]);
        let cuts = [BottomCut::Trousers, BottomCut::Trousers, BottomCut::Leggings, BottomCut::Wide, BottomCut::Shorts];
        let bottom_cut = if slim && r.chance(0.4) { BottomCut::Skirt } else { r.pick(&cuts) };
        let base = colour(r, &CLOTH);
        let top = Cloth { base, print: contrast(r, &CLOTH, base), pattern: top_pattern(r) };
        let palette: &[u32] = if bottom_cut == BottomCut::Trousers { &TROUSERS } else { &CLOTH };
        let base = contrast(r, palette, top.base);
        let bottom = Cloth { base, print: contrast(r, &CLOTH, base), pattern: bottom_pattern(r, bottom_cut) };
        let lips = skin.times(vec3(0.98, 0.50, 0.50)).mix(srgb(0xB0323A), if slim { r.range(0.1, 0.6) } else { 0.08 });
        Identity {
            id,
            build,
            skin,
            hair,
            hair_colour,
            eyes: colour(r, &[0x3B2417, 0x5A3A20, 0x6E7F3C, 0x3F6F9E, 0x58748A, 0x2A1A12]),
            lips,
            beard: if !slim && r.chance(0.3) { r.range(0.5, 1.0) } else { 0.0 },
            glasses: r.chance(0.15).then(|| colour(r, &[0x1B1716, 0x6E1423, 0x1B2C63, 0xC9A57A])),
            top_cut,
            top,
            bottom_cut,
            bottom,
            shoes: colour(r, &[0xF5F3EE, 0x1E2026, 0xD8332F, 0x2F7FC9, 0x8A5A36, 0xF4D64E, 0x6F7278, 0x23694A]),
            soles: colour(r, &[0xF5F3EE, 0xE2DDD2, 0x3A3D44, 0xC9A57A]),
        }
    }
}
