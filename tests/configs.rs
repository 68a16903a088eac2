//! Configurations: what the engine does not do is refused by file, field and value, and nothing in a file makes it panic.

use muybridge::presets::{PRESETS, Preset};
use muybridge::runtime::{DType, Device};
use muybridge::{Config, ControlNet, ReferenceNet, Unet, UnetShape, Vae, Weights};
use serde_json::{Value, json};

fn with(preset: &Preset, fields: &[(&str, Value)]) -> Config {
    let mut object: Value = serde_json::from_str(preset.json).unwrap();
    for (field, value) in fields {
        object[*field] = value.clone();
    }
    Config::parse(object.to_string().as_bytes(), "some/config.json").unwrap()
}

/// Opens the network of a configuration over procedural tensors, and gives the fields that had no effect.
fn open(preset: &Preset, config: &Config) -> muybridge::Result<Vec<String>> {
    let (weights, device) = (Weights::procedural(1, DType::F16), Device::open("trace:cpu")?);
    Ok(match preset.class {
        "UNet2DConditionModel" | "UNet3DConditionModel" => Unet::of(config, weights, &device)?.unread_fields().to_vec(),
        "ReferenceUNet2DConditionModel" => ReferenceNet::of(config, weights, &device)?.unread_fields().to_vec(),
        "ControlNetModel" => ControlNet::of(config, weights, &device)?.unread_fields().to_vec(),
        "AutoencoderKL" => Vae::of(config, weights, &device)?.unread_fields().to_vec(),
        other => panic!("no network of class {other} is opened here"),
    })
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refused = [
        (
            "sd15-unet",
            "down_block_types",
            json!(["KDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]),
            "KDownBlock2D",
        ),
        ("sd15-unet", "up_block_types", json!(["UpBlock2D"]), "1 blocks"),
        ("sd15-unet", "mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn"), "UNetMidBlock2DSimpleCrossAttn"),
        ("sd15-unet", "attention_type", json!("gated"), "default"),
        ("sd15-unet", "dual_cross_attention", json!(true), "false"),
        ("sd15-unet", "act_fn", json!("elu"), "elu"),
        ("sd15-unet", "time_embedding_type", json!("fourier"), "fourier"),
        ("sd15-unet", "timestep_post_act", json!("tanh"), "tanh"),
        ("sd15-unet", "class_embed_type", json!("other"), "other"),
        ("sd15-unet", "class_embed_type", json!("projection"), "projection_class_embeddings_input_dim"),
        ("sd15-unet", "addition_embed_type", json!("image"), "image"),
        ("sd15-unet", "addition_embed_type", json!("text"), "text_time"),
        ("sd15-unet", "encoder_hid_dim_type", json!("image_proj"), "image_proj"),
        ("sd15-unet", "resnet_time_scale_shift", json!("ada_group"), "ada_group"),
        ("sd15-unet", "norm_num_groups", json!(null), "null"),
        ("sd15-unet", "attention_head_dim", json!(0), "0 heads"),
        ("sd15-unet", "attention_head_dim", json!([8, 8]), "wanted 4 values"),
        ("sd15-unet", "cross_attention_dim", json!([768, 768, 1024, 768]), "one context"),
        ("sd15-unet", "transformer_layers_per_block", json!([[1, 1], 1, 1, 1]), "reverse_transformer_layers_per_block"),
        ("sd15-unet", "layers_per_block", json!(1000), "1000"),
        ("sd15-unet", "conv_in_kernel", json!(4), "4"),
        ("sd15-unet", "downsample_padding", json!(17), "at most 16"),
        (
            "animateanyone-unet3d",
            "motion_module_kwargs",
            json!({"temporal_position_encoding_max_len": 4097}),
            "temporal_position_encoding_max_len",
        ),
        ("sd15-controlnet", "controlnet_conditioning_channel_order", json!("gbr"), "gbr"),
        ("sd15-controlnet", "encoder_hid_dim", json!(8), "does not project"),
        ("sd15-controlnet", "class_embed_type", json!("simple_projection"), "simple_projection"),
        ("sd15-controlnet", "conditioning_embedding_out_channels", json!([]), "0 widths"),
        ("sd-vae", "down_block_types", json!(["AttnDownEncoderBlock2D"]), "AttnDownEncoderBlock2D"),
        ("sd-vae", "scaling_factor", json!(0.0), "0"),
        ("sd-vae", "latents_mean", json!([0.0, 0.0, 0.0, 0.0]), "latents_std"),
        ("sd-vae", "block_out_channels", json!("many"), "list"),
    ];
    for (name, field, value, word) in refused {
        let preset = Preset::find(name).unwrap();
        let error = open(preset, &with(preset, &[(field, value)])).expect_err(field).to_string();
        assert!(error.contains("some/config.json: field"), "{error}");
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn motion_beyond_any_use_is_refused_by_name() {
    let preset = Preset::find("sd15-unet").unwrap();
    let of = |class: &str| {
        let blocks = |way: &str| json!([format!("{way}BlockMotion"), format!("{way}BlockMotion")]);
        let channels = ("block_out_channels", json!([32, 64]));
        let (down, up) = (("down_block_types", blocks("Down")), ("up_block_types", blocks("Up")));
        vec![("_class_name", json!(class)), channels, down, up, ("attention_head_dim", json!(null))]
    };
    for (field, value) in [
        ("mid_block_layers", json!(1 << 20)),
        ("temporal_transformer_layers_per_mid_block", json!(1000)),
        ("motion_max_seq_length", json!(1 << 20)),
    ] {
        let mut fields = of("UNetMotionModel");
        fields.push((field, value));
        let error = open(preset, &with(preset, &fields)).expect_err(field).to_string();
        assert!(error.contains(field) && error.contains("at most"), "{error}");
    }
}

#[test]
fn tables_beyond_any_use_are_refused_by_name() {
    for name in ["sd15-unet", "sd15-controlnet"] {
        let preset = Preset::find(name).unwrap();
        let error = open(preset, &with(preset, &[("num_class_embeds", json!(1 << 20))])).expect_err(name).to_string();
        assert!(error.contains("class_embedding.weight"), "{error}");
    }
}

#[test]
fn fields_without_effect_are_told() {
    for preset in PRESETS {
        let config = with(preset, &[("an_option_of_tomorrow", json!(7)), ("_diffusers_version", json!("9.9"))]);
        assert_eq!(open(preset, &config).unwrap(), ["an_option_of_tomorrow"]);
    }
}

#[test]
fn absent_fields_have_the_defaults_of_the_library() {
    // The configuration of 2022 says little more than this, and lacks `mid_block_type` and `transformer_layers_per_block`.
    let config = Config::parse(br#"{"cross_attention_dim": 768}"#, "config.json").unwrap();
    let device = Device::open("trace:cpu").unwrap();
    let unet = Unet::of(&config, Weights::procedural(1, DType::F16), &device).unwrap();
    let known = Preset::find("sd15-unet").unwrap().config().unwrap();
    let same = Unet::of(&known, Weights::procedural(1, DType::F16), &device).unwrap();
    assert_eq!(unet.config(), same.config());
}

#[test]
fn no_value_of_a_field_makes_it_panic() {
    let values = [
        json!(0),
        json!(-1),
        json!(1 << 20),
        json!(1e300),
        json!("x"),
        json!(true),
        json!([]),
        json!([0, 0, 0, 0]),
        json!([[], [], [], []]),
        json!([null, null, null, null]),
        json!({"a": 1}),
        json!(null),
        json!(0.5),
        json!(7),
    ];
    for preset in PRESETS.iter().filter(|p| ["sd15-unet", "sd15-controlnet", "sd-vae"].contains(&p.name)) {
        let fields: Value = serde_json::from_str(preset.json).unwrap();
        for field in fields.as_object().unwrap().keys() {
            for value in &values {
                let config = with(preset, &[(field, value.clone())]);
                // A network of many channels is as good as refused: no file has its tensors.
                let _ = open(preset, &config);
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let preset = Preset::find("sd15-unet").unwrap();
    let device = Device::open("trace:cpu").unwrap();
    let unet = Unet::of(&preset.config().unwrap(), Weights::procedural(1, DType::F16), &device).unwrap();
    let usual = UnetShape::default();
    for shape in [
        UnetShape { batch: 0, ..usual },
        UnetShape { height: 0, ..usual },
        UnetShape { width: usize::MAX, ..usual },
        UnetShape { context: 0, ..usual },
        UnetShape { timestep_cond: true, ..usual },
    ] {
        assert!(unet.plan(shape).is_err(), "{shape:?}");
    }
    assert!(unet.plan(UnetShape { height: 1, width: 3, ..usual }).is_ok(), "one row of latents");
}
