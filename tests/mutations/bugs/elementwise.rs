use super::Bug;

pub const BUGS: &[Bug] = &[
    Bug("row not repeated", "elementwise", "vec8", "add_row", "i % params.period", "i"),
    Bug(
        "limits swapped",
        "elementwise",
        "vec8",
        "clamp_octets",
        "fminf(fmaxf(v, params.low), params.high)",
        "fmaxf(fminf(v, params.low), params.high)",
    ),
];
