"""Records small runs of diffusers' schedulers with options that the other cases leave out.

    pip install diffusers==0.42.1 torch scipy; python generate_samplers.py

Each case is one configuration with one run of the network that is no network: output = 0.1 x + fixed + 0.05 t / 1000.
"""

import importlib
import json
import pathlib

import diffusers
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
SHAPE = (2, 1, 2, 3)
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
V = dict(prediction_type="v_prediction")
FLOW = dict(use_flow_sigmas=True, prediction_type="flow_prediction")
MIN = dict(final_sigmas_type="sigma_min")

# name: class, configuration, steps, arguments of set_timesteps, arguments of step, first step
CASES = {
    "ddpm_sigmoid": ("DDPM", dict(beta_schedule="sigmoid", variance_type="fixed_small_log"), 6, {}, {}, 0),
    "ddpm_cosine_quantile": (
        "DDPM",
        dict(beta_schedule="squaredcos_cap_v2", thresholding=True, sample_max_value=1.5, dynamic_thresholding_ratio=0.9),
        6, {}, {}, 0,
    ),
    "ddim_trained": (
        "DDIM", dict(trained_betas=[0.001 + 0.00005 * i for i in range(100)], num_train_timesteps=100), 8, {},
        dict(eta=0.5, use_clipped_model_output=True), 0,
    ),
    "ddim_unlucky_spacing": ("DDIM", dict(SD, timestep_spacing="trailing", clip_sample=False), 48, {}, {}, 0),
    "pndm_warm_up": ("PNDM", dict(SD, set_alpha_to_one=True, **V), 6, {}, {}, 0),
    "euler_beta": ("EulerDiscrete", dict(SD, use_beta_sigmas=True, sigma_min=0.05, sigma_max=11.0), 9, {}, {}, 0),
    "euler_exponential_sample": (
        "EulerDiscrete", dict(SD, use_exponential_sigmas=True, prediction_type="sample", **MIN), 7, {}, {}, 0,
    ),
    "euler_churn": (
        "EulerDiscrete", dict(SD), 8, {}, dict(s_churn=3.0, s_noise=1.003, s_tmin=0.3, s_tmax=10.0), 0,
    ),
    "euler_log_linear": ("EulerDiscrete", dict(SD, interpolation_type="log_linear"), 7, {}, {}, 0),
    "euler_continuous": (
        "EulerDiscrete",
        dict(SD, timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, **V), 7, {}, {}, 0,
    ),
    "euler_zero_snr": ("EulerDiscrete", dict(SD, rescale_betas_zero_snr=True, timestep_spacing="trailing", **V), 7, {}, {}, 0),
    "euler_a_from_1": ("EulerAncestralDiscrete", dict(SD, **V), 8, {}, {}, 1),
    "heun_karras_clip": ("HeunDiscrete", dict(beta_schedule="exp", use_karras_sigmas=True, clip_sample=True), 5, {}, {}, 0),
    "dpm_3": ("DPMSolverMultistep", dict(SD, solver_order=3), 9, {}, {}, 0),
    "dpm_3_noise": ("DPMSolverMultistep", dict(SD, solver_order=3, algorithm_type="dpmsolver", **MIN), 17, {}, {}, 0),
    "dpm_3_sde": ("DPMSolverMultistep", dict(SD, solver_order=3, algorithm_type="sde-dpmsolver++"), 17, {}, {}, 0),
    "dpm_heun_sde_noise": (
        "DPMSolverMultistep", dict(SD, solver_type="heun", algorithm_type="sde-dpmsolver", **MIN), 8, {}, {}, 0,
    ),
    "dpm_lu": ("DPMSolverMultistep", dict(SD, use_lu_lambdas=True, euler_at_final=True), 8, {}, {}, 0),
    "dpm_clipped_lambda": (
        "DPMSolverMultistep", dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1), 8, {}, {}, 0,
    ),
    "dpm_flow": ("DPMSolverMultistep", dict(FLOW, use_dynamic_shifting=True), 8, dict(mu=0.8), {}, 0),
    "unipc_3_bh1": ("UniPCMultistep", dict(SD, solver_order=3, solver_type="bh1", **MIN), 9, {}, {}, 0),
    "unipc_noise": ("UniPCMultistep", dict(SD, predict_x0=False, disable_corrector=[1], **MIN, **V), 9, {}, {}, 0),
    "unipc_karras": ("UniPCMultistep", dict(SD, use_karras_sigmas=True, thresholding=True, **MIN), 9, {}, {}, 2),
    "unipc_flow": ("UniPCMultistep", dict(FLOW, flow_shift=3.0, shift_terminal=0.1), 8, {}, {}, 0),
    "deis_3": ("DEISMultistep", dict(SD, solver_order=3, lower_order_final=False), 9, {}, {}, 0),
    "deis_flow": ("DEISMultistep", dict(FLOW, flow_shift=3.0), 8, {}, {}, 0),
    "lcm_strength": ("LCM", dict(timestep_scaling=5.0, **V), 5, dict(strength=0.6, original_inference_steps=40), {}, 0),
    "flow_dynamic": (
        "FlowMatchEulerDiscrete", dict(use_dynamic_shifting=True, time_shift_type="linear", shift_terminal=0.1), 7,
        dict(mu=0.9), {}, 0,
    ),
    "flow_stochastic": ("FlowMatchEulerDiscrete", dict(stochastic_sampling=True, shift=2.0, use_karras_sigmas=True), 7, {}, {}, 0),
    "flow_inverted": ("FlowMatchEulerDiscrete", dict(invert_sigmas=True, shift=2.0), 7, {}, {}, 0),
}


def record(name, kind, config, steps, laid, stepped, first):
    torch.manual_seed(sum(map(ord, name)))
    scheduler = getattr(diffusers, kind + "Scheduler")(**config)
    scheduler.set_timesteps(steps, **laid)
    inputs = {"sample": torch.randn(SHAPE), "fixed": torch.randn(SHAPE)}
    noise, drawn, taken = torch.randn((2 * steps, *SHAPE)), [], 0

    def draw(*_, **__):
        nonlocal taken
        taken += 1
        return noise[taken - 1]

    importlib.import_module(type(scheduler).__module__).randn_tensor = draw
    x = inputs["sample"] * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else inputs["sample"]
    if first:
        inputs["start_noise"] = torch.randn(SHAPE)
        scheduler.set_begin_index(first)
        x = scheduler.add_noise(inputs["sample"], inputs["start_noise"], scheduler.timesteps[first].repeat(SHAPE[0]))
    walked, scaled, originals = [x], [], []
    for t in scheduler.timesteps[first:]:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        before = taken
        result = scheduler.step(0.1 * seen + inputs["fixed"] + 0.05 * float(t) / 1000, t, x, **stepped)
        x = result.prev_sample
        drawn.append(taken > before)
        walked.append(x)
        scaled.append(seen)
        originals.append(result.get("pred_original_sample", result.get("denoised")))
    outputs = {
        "timesteps": scheduler.timesteps.float(),
        "init_noise_sigma": torch.tensor([float(getattr(scheduler, "init_noise_sigma", 1.0))]),
        "trajectory": torch.stack(walked),
        "scaled_inputs": torch.stack(scaled),
        "noise_drawn": torch.tensor(drawn),
    }
    if hasattr(scheduler, "sigmas"):
        outputs["sigmas"] = scheduler.sigmas.float()
    if originals[0] is not None:
        outputs["pred_original"] = torch.stack(originals)
    if taken:
        inputs["noise"] = noise[:taken]
    assert all(torch.isfinite(t.float()).all() for t in outputs.values()), name

    def tolerance(key, t):
        if key == "noise_drawn":
            return {"exact": True}
        rms = float(t.double().pow(2).mean().sqrt())
        return {"atol_f32": (2e-4 if key in ("trajectory", "scaled_inputs", "pred_original") else 2e-5) * rms}

    begin = {"begin_index": first} if first else {}
    call = {
        "name": "run",
        "op": "trajectory",
        "args": {"num_inference_steps": steps, **begin, **laid, **stepped},
        "inputs": {k: {"key": k, "shape": list(t.shape)} for k, t in inputs.items()},
        "outputs": {k: {"key": k, "shape": list(t.shape), **tolerance(k, t)} for k, t in outputs.items()},
    }
    folder = HERE / f"sampler_{name}"
    folder.mkdir(exist_ok=True)
    scheduler.save_pretrained(folder)
    component = {"class": kind + "Scheduler", "config": "scheduler_config.json", "weights": {}}
    case = {"name": folder.name, "kind": "scheduler", "components": {"": component}, "calls": [call]}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    save_file({k: t.contiguous().clone() for k, t in inputs.items()}, folder / "inputs.safetensors")
    save_file({k: t.contiguous().clone() for k, t in outputs.items()}, folder / "expected.safetensors")


for name, case in CASES.items():
    record(name, *case)
