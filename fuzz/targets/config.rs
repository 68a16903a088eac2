//! Configurations. Whatever type a field is read as, the value is in range and an error names the field.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muybridge_loaders::{Config, Result};

fuzz_target!(|bytes: &[u8]| {
    match Config::parse(bytes, "c") {
        Ok(config) => check(&config, 0),
        Err(error) => assert!(error.to_string().starts_with("c: "), "{error} does not name its file"),
    }
});

fn check(config: &Config, depth: usize) {
    for name in config.unread() {
        named(&name, config.usize(&name)).inspect(|&v| assert!(v as u64 <= Config::MAX_INTEGER));
        named(&name, config.opt::<i64>(&name)).flatten().inspect(|v| assert!(v.unsigned_abs() <= Config::MAX_INTEGER));
        named(&name, config.f64(&name)).inspect(|v| assert!(v.is_finite()));
        named(&name, config.get::<f32>(&name)).inspect(|v| assert!(v.is_finite()));
        named(&name, config.opt_extended(&name)).flatten().inspect(|v| assert!(!v.is_nan()));
        named(&name, config.bool(&name));
        named(&name, config.str(&name).map(String::from));
        named(&name, config.opt::<Vec<Option<Vec<usize>>>>(&name));
        named(&name, config.list_or_scalar::<usize>(&name, 4)).inspect(|v| assert_eq!(v.len(), 4));
        named(&name, config.list_or_scalar::<String>(&name, 2)).inspect(|v| assert_eq!(v.len(), 2));
        if let Some(inner) = named(&name, config.object(&name)).flatten() {
            check(&inner, depth + 1);
        }
        assert!(!config.unread().contains(&name));
    }
    assert!(depth < 128);
}

fn named<T>(name: &str, result: Result<T>) -> Option<T> {
    result
        .inspect_err(|e| assert!(name.contains(char::is_control) || name.len() > 100 || e.to_string().contains(name)))
        .ok()
}
