//! Which files the known pipelines need, and no others.

/// A pipeline that can be asked for by name.
pub(super) struct Pipeline {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Repositories, and the files of each.
    pub(super) repositories: &'static [(&'static str, &'static [&'static str])],
}

const SD_VAE: (&str, &[&str]) = ("stabilityai/sd-vae-ft-mse", &["config.json", "diffusion_pytorch_model.safetensors"]);

/// All of them.
pub(super) const PIPELINES: &[Pipeline] = &[
    Pipeline {
        name: "sd15",
        what: "Stable Diffusion 1.5 in halves: UNet, VAE, text encoder, tokenizer",
        repositories: &[(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            &[
                "model_index.json",
                "scheduler/scheduler_config.json",
                "tokenizer/vocab.json",
                "tokenizer/merges.txt",
                "tokenizer/tokenizer_config.json",
                "text_encoder/config.json",
                "text_encoder/model.fp16.safetensors",
                "unet/config.json",
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/config.json",
                "vae/diffusion_pytorch_model.fp16.safetensors",
            ],
        )],
    },
    Pipeline {
        name: "controlnet-openpose",
        what: "ControlNet for poses, for Stable Diffusion 1.5, in halves",
        repositories: &[(
            "lllyasviel/control_v11p_sd15_openpose",
            &["config.json", "diffusion_pytorch_model.fp16.safetensors"],
        )],
    },
    Pipeline { name: "sd-vae-ft-mse", what: "the autoencoder that the animators use", repositories: &[SD_VAE] },
    Pipeline {
        name: "animateanyone",
        what: "AnimateAnyone's networks as published (pickles, for convert), and the autoencoder",
        repositories: &[
            (
                "patrolli/AnimateAnyone",
                &["denoising_unet.pth", "reference_unet.pth", "motion_module.pth", "pose_guider.pth"],
            ),
            SD_VAE,
        ],
    },
];
