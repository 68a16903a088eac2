//! Samplers on data whose score is known, and what they refuse.

use muybridge::Config;
use muybridge::noise::NoNoise;
use muybridge::schedulers::{self, At, Run, Scheduler, StepInput};

type Fallible = Result<(), Box<dyn std::error::Error>>;

const SD: &str = r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear""#;
/// Power of the data, which is normal.
const POWER: f64 = 0.25;

fn scheduler(class: &str, fields: &str) -> muybridge::Result<Box<dyn Scheduler>> {
    let comma = if fields.is_empty() { "" } else { ", " };
    let text = format!(r#"{{"_class_name": "{class}"{comma}{fields}}}"#);
    schedulers::open(&Config::parse(text.as_bytes(), "scheduler_config.json")?)
}

/// Class, fields, whether the network predicts velocities, and where runs of so many steps take 1.
type Case = (&'static str, String, bool, [(usize, f64); 3]);

/// Where the sampler takes 1 when the network is exact: signal `a` and noise `s` of the variance-preserving frame, at a
/// whole timestep, tell the prediction. `velocity` chooses which one.
fn exact_run(scheduler: &mut dyn Scheduler, n: usize, velocity: bool) -> muybridge::Result<f64> {
    scheduler.set_timesteps(&Run::of(n))?;
    let mut x = vec![1.0f32];
    for i in 0..scheduler.timesteps().len() {
        let (a, s) = scheduler.scales(At::Step(i))?;
        let power = a * a * POWER + s * s;
        let factor = if velocity { a * s * (1.0 - POWER) / power } else { s / power };
        let output = [(factor * f64::from(x[0])) as f32];
        x = scheduler.step(i, &StepInput { sample: &x, output: &output, batch: 1 }, &mut NoNoise)?.prev_sample;
    }
    Ok(f64::from(x[0]))
}

/// Errors against the exact solution of the probability-flow ODE fall with the number of steps, as first and second order.
/// Values were computed once in f64 from the published formulas.
#[test]
fn samplers_follow_the_flow_of_normal_data() -> Fallible {
    let cases: [Case; 4] = [
        (
            "DDIMScheduler",
            format!(r#"{SD}, "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1"#),
            false,
            [(10, 0.406_577_442), (20, 0.448_960_985), (80, 0.487_874_022)],
        ),
        (
            "DDIMScheduler",
            format!(
                r#"{}, "clip_sample": false, "prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
                "timestep_spacing": "trailing""#,
                SD.replace("scaled_", "")
            ),
            true,
            [(10, 0.362_432_434), (30, 0.448_504_458), (100, 0.480_426_859)],
        ),
        (
            "DPMSolverMultistepScheduler",
            format!(r#"{SD}, "final_sigmas_type": "sigma_min""#),
            false,
            [(20, 0.566_443_666), (40, 0.530_894_329), (80, 0.512_722_794)],
        ),
        (
            "DPMSolverMultistepScheduler",
            format!(r#"{SD}, "solver_order": 1, "final_sigmas_type": "sigma_min""#),
            false,
            [(10, 0.399_934_777), (20, 0.444_975_701), (80, 0.485_544_369)],
        ),
    ];
    for (class, fields, velocity, runs) in cases {
        let mut scheduler = scheduler(class, &fields)?;
        for (n, wanted) in runs {
            let found = exact_run(&mut *scheduler, n, velocity)?;
            assert!((found - wanted).abs() < 2e-5, "{class} {fields} in {n} steps: {found}, wanted {wanted}");
        }
    }
    Ok(())
}

fn refusal(class: &str, fields: &str) -> String {
    scheduler(class, fields).map_or_else(|e| e.to_string(), |_| "nothing was refused".into())
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let cases = [
        ("DDIMScheduler", r#""beta_schedule": "quadratic""#, "field beta_schedule: quadratic"),
        ("DDIMScheduler", r#""prediction_type": "flow_prediction""#, "field prediction_type"),
        ("DDIMScheduler", r#""timestep_spacing": "even""#, "field timestep_spacing: even"),
        ("DDIMScheduler", r#""colour": "blue""#, "field colour: DDIMScheduler does not know"),
        ("DDPMScheduler", r#""variance_type": "fixed_large_log""#, "field variance_type"),
        ("DDPMScheduler", r#""trained_betas": [0.1, 0.2]"#, "field trained_betas: 2 values for 1000"),
        ("DDPMScheduler", r#""beta_end": 7.0"#, "field beta_end: a variance of"),
        ("PNDMScheduler", r#""prediction_type": "sample""#, "field prediction_type"),
        ("EulerDiscreteScheduler", r#""interpolation_type": "cubic""#, "field interpolation_type: cubic"),
        ("EulerDiscreteScheduler", r#""use_karras_sigmas": true, "use_beta_sigmas": true"#, "field use_beta_sigmas"),
        ("DPMSolverMultistepScheduler", r#""algorithm_type": "dpmsolver""#, "field final_sigmas_type"),
        ("DPMSolverMultistepScheduler", r#""solver_order": 4"#, "field solver_order: 4"),
        ("UniPCMultistepScheduler", r#""solver_p": {"_class_name": "X"}"#, "field solver_p"),
        ("UniPCMultistepScheduler", r#""shift_terminal": 0.1"#, "field shift_terminal"),
        ("FlowMatchEulerDiscreteScheduler", r#""time_shift_type": "cubic""#, "field time_shift_type"),
        ("KDPM2DiscreteScheduler", "", "field _class_name: KDPM2DiscreteScheduler"),
    ];
    for (class, fields, wanted) in cases {
        let found = refusal(class, fields);
        assert!(found.contains(wanted), "{class} {fields}: {found}");
    }
}

#[test]
fn runs_that_make_no_sense_are_errors() -> Fallible {
    let step = |s: &mut dyn Scheduler, i: usize, n: usize| {
        let x = vec![0.5f32; n];
        s.step(i, &StepInput { sample: &x, output: &x, batch: 1 }, &mut NoNoise).map(|_| ()).map_err(|e| e.to_string())
    };
    for class in schedulers::CLASSES {
        let mut s = scheduler(class, "")?;
        assert!(step(&mut *s, 0, 4).is_err_and(|e| e.contains("set_timesteps")), "{class}: a step before the schedule");
        assert!(s.set_timesteps(&Run::of(0)).is_err(), "{class}: no steps");
        assert!(s.set_timesteps(&Run { mu: Some(1.0), ..Run::of(4) }).is_err(), "{class}: an option it does not know");
        s.set_timesteps(&Run::of(8))?;
        let drawn = matches!(class, "DDPMScheduler" | "EulerAncestralDiscreteScheduler" | "LCMScheduler");
        if drawn {
            assert!(step(&mut *s, 0, 4).is_err_and(|e| e.contains("noise")), "{class}: without a source");
            continue;
        }
        step(&mut *s, 1, 4)?;
        assert!(step(&mut *s, 3, 4).is_err_and(|e| e.contains("step 2 comes next")), "{class}: a step left out");
        assert!(step(&mut *s, 2, 5).is_err_and(|e| e.contains("began with 4")), "{class}: another length");
        assert!(step(&mut *s, 99, 4).is_err(), "{class}: a step beyond the schedule");
        let x = [0.0; 4];
        assert!(s.add_noise(&x, &x[..3], &[At::Step(0)]).is_err(), "{class}: noise of another length");
        assert!(s.add_noise(&x, &x, &[At::Timestep(-3.0)]).is_err(), "{class}: a place that is none");
    }
    Ok(())
}

/// A network that predicts noise cannot start where no signal is left; one that predicts velocities can.
#[test]
fn zero_snr_wants_velocities() -> Fallible {
    let fields = r#""rescale_betas_zero_snr": true, "timestep_spacing": "trailing""#;
    let x = [0.5f32; 4];
    let input = StepInput { sample: &x, output: &x, batch: 1 };
    let mut s = scheduler("DDIMScheduler", fields)?;
    s.set_timesteps(&Run::of(10))?;
    assert!(s.step(0, &input, &mut NoNoise).is_err_and(|e| e.to_string().contains("no signal is left")));
    let mut s = scheduler("DDIMScheduler", &format!(r#"{fields}, "prediction_type": "v_prediction""#))?;
    s.set_timesteps(&Run::of(10))?;
    assert!(s.step(0, &input, &mut NoNoise)?.prev_sample.iter().all(|x| x.is_finite()));
    Ok(())
}

/// UniPC's variants with a last noise level of 0, at which the published class has no number.
#[test]
fn unipc_reaches_zero_noise() -> Fallible {
    for fields in [r#""solver_type": "bh1""#, r#""predict_x0": false"#, r#""lower_order_final": false"#] {
        let mut s = scheduler("UniPCMultistepScheduler", &format!("{SD}, {fields}"))?;
        let end = exact_run(&mut *s, 20, false)?;
        assert!((end - 0.5).abs() < 0.06, "{fields}: {end}");
    }
    Ok(())
}
