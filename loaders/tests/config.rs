//! Configurations: fields of every type, and files that lie.

use std::fs;

use muybridge_loaders::{Config, LoadError};

fn parse(text: &str) -> Config {
    Config::parse(text.as_bytes(), "dir/config.json").unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T, LoadError>, field: &str, words: &str) {
    let error = result.err().expect("the field was accepted");
    assert!(matches!(&error, LoadError::Config { field: f, .. } if f == field), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("dir/config.json: ") && text.contains(field) && text.contains(words), "{text}");
}

#[test]
fn fields_are_read_by_type_and_null_is_absent() {
    let c = parse(
        r#"{"_class_name":"UNet","act_fn":"silu","in_channels":4,"eps":1e-5,"flag":true,"none":null,"shift":-3,
            "channels":[320,640],"depths":[1,null],"lambda":-Infinity,"text":"say \"NaN\" \\","extra":1}"#,
    );
    assert_eq!((c.str("act_fn").unwrap(), c.usize("in_channels").unwrap()), ("silu", 4));
    assert_eq!((c.f64("eps").unwrap(), c.bool("flag").unwrap(), c.get::<i64>("shift").unwrap()), (1e-5, true, -3));
    assert_eq!(c.f64("in_channels").unwrap(), 4.0);
    assert_eq!((c.opt::<usize>("none").unwrap(), c.opt::<usize>("absent").unwrap()), (None, None));
    assert_eq!((c.or("none", 7usize).unwrap(), c.has("none"), c.has("flag")), (7, false, true));
    assert_eq!(c.get::<Vec<usize>>("channels").unwrap(), [320, 640]);
    assert_eq!(c.get::<Vec<Option<usize>>>("depths").unwrap(), [Some(1), None]);
    assert_eq!(c.opt_extended("lambda").unwrap(), Some(f64::NEG_INFINITY));
    assert_eq!(c.str("text").unwrap(), "say \"NaN\" \\");
    assert_eq!(c.list_or_scalar::<usize>("in_channels", 3).unwrap(), [4, 4, 4]);
    assert_eq!(c.list_or_scalar::<usize>("channels", 2).unwrap(), [320, 640]);
    assert_eq!(c.opt_list_or_scalar::<usize>("none", 2).unwrap(), None);
    assert_eq!(c.unread(), ["extra"]);
}

#[test]
fn an_object_within_is_a_configuration_of_its_own() {
    let c = parse(r#"{"outer":{"inner":{"n":-1,"m":2}},"list":[]}"#);
    let inner = c.object("outer").unwrap().unwrap().object("inner").unwrap().unwrap();
    refused(inner.usize("n"), "outer.inner.n", "found -1");
    assert_eq!(inner.unread(), ["m"]);
    assert!(c.object("absent").unwrap().is_none());
    refused(c.object("list"), "list", "wanted an object, found a list");
}

#[test]
fn fields_of_another_type_or_out_of_range_are_refused_by_name() {
    let c = parse(
        r#"{"s":"x","n":1.5,"neg":-1,"big":1048577,"huge":18446744073709551616,"b":1,"l":[1,"x"],"nan":NaN,"inf":Infinity,
            "wide":1e300,"three":[1,2,3]}"#,
    );
    refused(c.usize("absent"), "absent", "is absent");
    refused(c.usize("s"), "s", "found \"x\"");
    for field in ["n", "neg", "big", "huge", "l"] {
        refused(c.usize(field), field, "wanted an integer from 0 to 1048576");
    }
    refused(c.get::<i64>("big"), "big", "wanted an integer");
    refused(c.f64("nan"), "nan", "wanted a finite number");
    refused(c.f64("inf"), "inf", "wanted a finite number");
    refused(c.opt_extended("nan"), "nan", "wanted a finite number");
    refused(c.get::<f32>("wide"), "wide", "32 bits");
    refused(c.bool("b"), "b", "true or false");
    refused(c.str("b"), "b", "wanted a string, found a number");
    refused(c.get::<Vec<usize>>("l"), "l", "value 1");
    refused(c.get::<Vec<usize>>("s"), "s", "wanted a list");
    refused(c.list_or_scalar::<usize>("three", 2), "three", "wanted 2 values, found 3");
    refused(c.list_or_scalar::<usize>("big", usize::MAX), "big", "at most");
    refused::<()>(Err(c.error("s", "unknown activation")), "s", "unknown activation");
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let rows = [
        ("", "EOF"),
        ("[]", "wanted an object, found a list"),
        ("{\"a\":1,}", "line 1"),
        ("{} x", "trailing"),
        ("{\"a\":-Infinit}", "line 1"),
        ("{\"a\":1,\"a\":2}", "\"a\" is there twice"),
        ("{\"o\":{\"b\":1,\"b\":1}}", "\"b\" is there twice"),
        (&deep, "recursion limit"),
    ];
    for (text, words) in rows {
        refused(Config::parse(text.as_bytes(), "dir/config.json"), "", words);
    }
    refused(Config::parse(b"{\"a\":\"\xFF\"}", "dir/config.json"), "", "unicode");
}

#[test]
fn a_file_is_found_in_its_directory_and_a_long_one_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Config::open(dir.path()), Err(LoadError::Io { file, .. }) if file.ends_with("config.json")));
    let path = dir.path().join("config.json");
    fs::write(&path, "{\"n\":1}").unwrap();
    assert_eq!(Config::open(dir.path()).unwrap().usize("n").unwrap(), 1);
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = Config::open(&path).unwrap_err();
    assert!(matches!(error, LoadError::TooLong { length, .. } if length == 1 << 40), "{error}");
}
