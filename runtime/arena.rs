//! Where every activation of a plan lies: a pure function from lifetimes to offsets.
//!
//! Two values may share memory if no step needs both. Finding the smallest arena is NP-hard (dynamic storage allocation);
//! first fit over a few orders comes within a few per cent of the lower bound on diffusion networks. Compare Pisarchyk
//! and Lee, "Efficient memory management for deep neural net inference" (2020), greedy by size.

/// One value's need: it lives from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The step that writes it.
    pub first: usize,
    /// The last step that reads it.
    pub last: usize,
    /// Its size.
    pub bytes: u64,
}

impl Lifetime {
    fn overlaps(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// Which slab: always 0 where one buffer can hold the arena.
    pub slab: usize,
    /// First byte within the slab.
    pub offset: u64,
}

/// A laid-out arena.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Layout {
    /// One place per lifetime, in the same order.
    pub places: Vec<Place>,
    /// Bytes of each slab.
    pub slabs: Vec<u64>,
    /// The most bytes that are alive at one step: no layout can be smaller.
    pub lower_bound: u64,
}

impl Layout {
    /// Bytes of all slabs together.
    pub fn bytes(&self) -> u64 {
        self.slabs.iter().sum()
    }
}

/// Lays values out so that no two live ones overlap. Offsets and sizes are rounded up to `align` (a power of two); a slab
/// is at most `max_slab` bytes.
///
/// # Errors
/// The index of a value that alone is larger than a slab.
pub fn layout(values: &[Lifetime], align: u64, max_slab: u64) -> Result<Layout, usize> {
    let rounded: Vec<Lifetime> =
        values.iter().map(|v| Lifetime { bytes: v.bytes.next_multiple_of(align), ..*v }).collect();
    if let Some(i) = rounded.iter().position(|v| v.bytes > max_slab) {
        return Err(i);
    }
    let lower_bound = lower_bound(&rounded);
    let mut best: Option<Layout> = None;
    for order in orders(&rounded) {
        let (places, slabs) = first_fit(&rounded, &order, max_slab);
        let candidate = Layout { places, slabs, lower_bound };
        if best.as_ref().is_none_or(|b| candidate.bytes() < b.bytes()) {
            best = Some(candidate);
        }
        if best.as_ref().is_some_and(|b| b.bytes() == lower_bound) {
            break;
        }
    }
    Ok(best.unwrap_or_default())
}

/// The most bytes alive at one step.
fn lower_bound(values: &[Lifetime]) -> u64 {
    let mut events: Vec<(usize, bool, u64)> = Vec::with_capacity(values.len() * 2);
    for v in values {
        events.push((v.first, true, v.bytes));
        events.push((v.last + 1, false, v.bytes));
    }
    // At one step deaths come before births: `last` is included, so a death is filed at the step after it.
    events.sort_unstable_by_key(|&(step, birth, _)| (step, birth));
    let (mut live, mut peak) = (0u64, 0u64);
    for (_, birth, bytes) in events {
        if birth {
            live += bytes;
            peak = peak.max(live);
        } else {
            live -= bytes;
        }
    }
    peak
}

/// Orders worth trying: by size, by area, by length of life, by birth.
fn orders(values: &[Lifetime]) -> [Vec<usize>; 4] {
    let sorted = |key: &dyn Fn(&Lifetime) -> u128| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(key(&values[i])));
        order
    };
    let span = |v: &Lifetime| (v.last - v.first + 1) as u128;
    [
        sorted(&|v| u128::from(v.bytes)),
        sorted(&|v| span(v) << 64 | u128::from(v.bytes)),
        sorted(&|v| span(v) * u128::from(v.bytes)),
        sorted(&|v| u128::MAX - v.first as u128),
    ]
}

/// Puts each value, in this order, at the lowest offset of the first slab where it meets no live neighbour.
fn first_fit(values: &[Lifetime], order: &[usize], max_slab: u64) -> (Vec<Place>, Vec<u64>) {
    let mut places = vec![Place::default(); values.len()];
    let mut slabs: Vec<u64> = Vec::new();
    let mut residents: Vec<Vec<usize>> = Vec::new();
    for &i in order {
        let v = &values[i];
        let mut slab = 0;
        let offset = loop {
            if slab == slabs.len() {
                slabs.push(0);
                residents.push(Vec::new());
            }
            match lowest_gap(v, values, &places, &residents[slab], max_slab) {
                Some(offset) => break offset,
                None => slab += 1,
            }
        };
        places[i] = Place { slab, offset };
        slabs[slab] = slabs[slab].max(offset + v.bytes);
        // Residents stay sorted by offset, so that gaps can be swept from below.
        let at = residents[slab].partition_point(|&r| places[r].offset <= offset);
        residents[slab].insert(at, i);
    }
    (places, slabs)
}

/// The lowest offset at which `v` meets no value that is alive with it, or `None` if that lies beyond the slab.
fn lowest_gap(v: &Lifetime, values: &[Lifetime], places: &[Place], residents: &[usize], max_slab: u64) -> Option<u64> {
    let mut offset = 0;
    for &r in residents {
        if !values[r].overlaps(v) {
            continue;
        }
        if places[r].offset >= offset + v.bytes {
            break;
        }
        offset = offset.max(places[r].offset + values[r].bytes);
    }
    (offset + v.bytes <= max_slab).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lifetimes() -> impl Strategy<Value = Vec<Lifetime>> {
        let one = (0usize..60, 0usize..12, 0u64..5000);
        proptest::collection::vec(
            one.prop_map(|(first, span, bytes)| Lifetime { first, last: first + span, bytes }),
            0..80,
        )
    }

    proptest! {
        #[test]
        fn live_values_never_overlap(values in lifetimes(), slab in prop_oneof![Just(u64::MAX), Just(8192u64)]) {
            let l = layout(&values, 256, slab).unwrap();
            for (i, a) in values.iter().enumerate() {
                prop_assert_eq!(l.places[i].offset % 256, 0);
                prop_assert!(l.places[i].offset + a.bytes <= l.slabs[l.places[i].slab]);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    let (p, q) = (l.places[i], l.places[j]);
                    let apart = p.slab != q.slab || p.offset + a.bytes <= q.offset || q.offset + b.bytes <= p.offset;
                    prop_assert!(apart || !a.overlaps(b) || a.bytes == 0 || b.bytes == 0, "{i} and {j} overlap");
                }
            }
            prop_assert!(l.slabs.iter().all(|&s| s <= slab));
            prop_assert!(l.bytes() >= l.lower_bound);
        }

        #[test]
        fn the_lower_bound_is_the_fullest_step(values in lifetimes()) {
            let at = |step: usize| -> u64 {
                values.iter().filter(|v| v.first <= step && step <= v.last).map(|v| v.bytes).sum()
            };
            let fullest = (0..80).map(at).max().unwrap_or(0);
            prop_assert_eq!(layout(&values, 1, u64::MAX).unwrap().lower_bound, fullest);
        }
    }

    #[test]
    fn a_value_larger_than_a_slab_is_named() {
        let v = |bytes| Lifetime { first: 0, last: 0, bytes };
        assert_eq!(layout(&[v(10), v(9000)], 256, 8192), Err(1));
    }

    #[test]
    fn a_chain_needs_two_places() {
        let chain: Vec<Lifetime> = (0..100).map(|i| Lifetime { first: i, last: i + 1, bytes: 1024 }).collect();
        let l = layout(&chain, 256, u64::MAX).unwrap();
        assert_eq!(l.bytes(), 2048);
    }
}
