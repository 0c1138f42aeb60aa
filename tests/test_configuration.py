"""Every file under conf/ composes, every experiment builds what it names, the recipes hold the official numbers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from meanflow import codecs, samplers
from meanflow.attention import BACKENDS, get_attention
from meanflow.metrics.features import FEATURES

CONF = Path(__file__).parent.parent / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "task", "codec", "guidance", "weighting", "label_drop", "features")
)


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def train_config(*overrides: str) -> DictConfig:
    return compose("train", [*overrides, "output_dir=somewhere"])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group, option):
    config = train_config(f"{group}={option}", "++datamodule.path=store")
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(
    ("group", "option"), [("guidance", "none"), ("guidance", "model"), ("guidance", "distillation")]
)
def test_guidances_compose(group, option):
    config = train_config("method=dmf", f"{group}@objective.guidance={option}")
    if option == "distillation":
        assert OmegaConf.is_missing(config.objective.guidance.teacher, "path")
    else:
        instantiate(config.objective)


@pytest.mark.parametrize(("option", "name"), [("independent", "IndependentLabelDrop"), ("leading", "LeadingLabelDrop")])
def test_label_drops_build(option, name):
    config = train_config("method=imf", f"label_drop@objective.label_drop={option}")
    assert type(instantiate(config.objective).label_drop).__name__ == name


@pytest.mark.parametrize(
    ("method", "network", "objective", "sampler"),
    [
        ("flow", "SiT", "FlowMatching", "FlowEuler"),
        ("dmf", "DMFTransformer", "DecoupledMeanFlow", "FlowMapEuler"),
        ("imf", "IMFTransformer", "ImprovedMeanFlow", "FlowMapEuler"),
    ],
)
def test_a_method_chooses_network_objective_and_sampler(method, network, objective, sampler):
    module = instantiate(train_config(f"method={method}").module)
    parts = module.network, module.objective, module.pipeline.sampler
    assert tuple(type(part).__name__ for part in parts) == (network, objective, sampler)


def test_the_method_is_flow_unless_another_one_is_chosen():
    assert train_config() == train_config("method=flow")


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "weighting").glob("*.yaml")))
def test_weightings_build(option):
    config = train_config("method=dmf", f"weighting@objective.weighting={option}")
    assert instantiate(config.objective).weighting(torch.ones(2), torch.zeros(2)).ndim in (1, 2)


def built(group: str) -> dict[str, Any]:
    """Everything in a group, built, by the name of its file."""
    names = [option for option_group, option in OPTIONS if option_group == group]
    return {name: instantiate(train_config(f"{group}={name}")[group]) for name in names}


@pytest.mark.parametrize("network", ["sit", "dmf", "imf"])
@pytest.mark.parametrize("name", BACKENDS)
def test_attention_is_chosen_by_name(network, name):
    config = train_config(f"network={network}_digits", f"network.attention={name}")
    try:
        get_attention(name)
    except ImportError as error:
        pytest.skip(str(error))
    with torch.device("meta"):
        built_network = instantiate(config.network)
    attentions = [m.attention for m in built_network.modules() if hasattr(m, "attention")]
    assert attentions
    assert all(attention == BACKENDS[name] for attention in attentions)


def test_every_sampler_has_a_file_that_states_all_of_its_arguments():
    built_samplers = built("sampler")
    assert {type(sampler) for sampler in built_samplers.values()} == set(samplers.SAMPLERS.values())
    for name, sampler in built_samplers.items():
        stated = OmegaConf.to_container(train_config(f"sampler={name}").sampler)
        assert samplers.build(sampler.config).config == sampler.config
        assert sampler.config.keys() - stated.keys() == {"name"}
        assert sampler.config["guidance"].keys() - stated["guidance"].keys() == {"name"}


@pytest.mark.parametrize(
    ("option", "name"), [("classifier_free", "ClassifierFreeGuidance"), ("network", "NetworkGuidance")]
)
def test_every_sampling_guidance_is_that_without_guidance(option, name):
    guidance = instantiate(train_config(f"sampler/guidance={option}").sampler).guidance
    assert guidance.config == {"name": name, "omega": 1.0, "interval": [0.0, 1.0]}
    assert {path.stem for path in (CONF / "sampler" / "guidance").glob("*.yaml")} == {"classifier_free", "network"}


def test_sampling_guidance_is_set_by_key():
    overrides = ("sampler.guidance.omega=0.5", "sampler.guidance.interval=[-1,2]")
    assert instantiate(train_config(*overrides).sampler).guidance.config["interval"] == [-1.0, 2.0]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "features").glob("*.yaml")))
def test_every_feature_extractor_builds_under_its_name(name):
    config = compose("prepare", [f"+features={name}"])
    assert instantiate(config.features[name]).name == name


def test_feature_extractors_are_chosen_together():
    chosen = ["+features=[inception,efficientnet_lite0]", "features.inception.weights=a.pth"]
    extractors = instantiate(compose("prepare", chosen).features)
    assert list(extractors) == ["inception", "efficientnet_lite0"]
    assert extractors.inception.weights == "a.pth"
    assert extractors.efficientnet_lite0.weights is None
    assert {path.stem for path in (CONF / "features").glob("*.yaml")} == FEATURES.keys()


def test_schedules_build():
    for schedule in built("schedule").values():
        assert 0 <= schedule.factor(0, 1000, 10) <= 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds(name):
    """Module, callbacks, data module, and whatever is only partly built is called."""
    config = train_config(f"experiment={name}")
    with torch.device("meta"):
        module = instantiate(config.module)
    optimizer = module.optimizer(module.network.parameters())
    assert optimizer.defaults["lr"] == config.optimizer.lr
    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback is not None]
    assert all(callbacks)
    datamodule = instantiate(config.datamodule)
    assert datamodule.batch_size == config.datamodule.batch_size
    assert config.name == name


TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_composes_and_passes_what_its_function_takes(name):
    config = compose("prepare", [f"task={name}"])
    for key in [str(key) for key in config if OmegaConf.is_missing(config, str(key))]:
        config[key] = "somewhere"
    function = get_object(config.task._target_)
    given = config.task.keys() - {"_target_"}
    taken = inspect.signature(function).parameters
    assert given <= taken.keys()
    assert {key for key, parameter in taken.items() if parameter.default is parameter.empty} <= given
    for key in given:  # what has a default in the function has the same in the file, where it has one there
        value, default = config.task[key], taken[key].default
        if value != "somewhere" and default not in (None, inspect.Parameter.empty):
            assert value == default, key


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "codec").glob("*.yaml")))
def test_every_codec_builds(name):
    codec = instantiate(compose("prepare", ["task=latents", f"codec={name}"]).codec)
    assert codecs.build(codec.config).config == codec.config


def test_experiment_files_say_what_they_are():
    """Where the result is published, what to expect, on what hardware (or which file has ours)."""
    for name in EXPERIMENTS:
        header = (CONF / "experiment" / f"{name}.yaml").read_text().split("\ndefaults:")[0].lower()
        assert header.startswith("# @package _global_")
        assert "expected" in header or "not published" in header, name
        assert "hardware" in header or "cpu cores" in header, name


SHARED = {
    "optimizer.lr": 1e-4,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.weight_decay": 0.0,
    "callbacks.ema.decay": 0.9999,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "bf16-mixed",
    "datamodule.batch_size": 256,
    "objective.label_drop.prob_drop_label": 0.1,
    "latent.num_classes": 1000,
    "network.size": "XL/2",
    "latent.codec.path": "stabilityai/sd-vae-ft-mse",
    "latent.normalization.name": "scale_0_18215",
    "schedule._target_": "meanflow.modules.schedules.Constant",
}
SIT = {
    "network._target_": "meanflow.models.AlignedSiT.from_size",
    "network.alignment_depth": 8,
    "objective.alignment_weight": 0.5,
    "objective.times.P_mean": 0.0,
    "objective.times.P_std": 1.0,
    "module.representation.name": "vit_base_patch14_dinov2.lvd142m",
    "datamodule.images": True,
}
DMF = {
    "network.dmf_depth": 20,
    "objective.guidance._target_": "meanflow.objectives.ModelGuidance",
    "objective.guidance.omega": 0.6,
    "objective.weighting._target_": "meanflow.objectives.AllPairsLogVariance",
    "objective.flow_times.P_mean": 0.0,
    "objective.map_times.first.P_mean": 0.4,
    "objective.map_times.second.P_mean": -1.2,
    "objective.flow_times.P_std": 1.0,
    "objective.map_times.first.P_std": 1.0,
    "objective.map_times.second.P_std": 1.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "sit_xl_2_256": SIT
    | {"trainer.max_steps": 4_000_000, "latent.input_size": 32, "module.representation.grid_size": 16},
    "sit_xl_2_512": SIT
    | {"trainer.max_steps": 2_000_000, "latent.input_size": 64, "module.representation.grid_size": 32},
    "dmf_xl_2_256": DMF
    | {
        "trainer.max_steps": 400_000,
        "latent.input_size": 32,
        "objective.guidance.interval": [0.0, 0.7],
        "network.qk_norm": False,
        "sampler.shift": 1.0,
    },
    "dmf_xl_2_512": DMF
    | {
        "trainer.max_steps": 800_000,
        "latent.input_size": 64,
        "objective.guidance.interval": [0.0, 0.8],
        "network.qk_norm": True,
        "sampler.shift": 1.5,
        "trainer.num_nodes": 2,
    },
}


IMF = {
    "optimizer.lr": 1e-4,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.weight_decay": 0.0,
    "callbacks.ema.decay": 0.9999,
    "trainer.gradient_clip_val": None,
    "trainer.precision": "32-true",
    "trainer.max_epochs": 640,
    "datamodule.batch_size": 1024,
    "network.aux_head_depth": 8,
    "latent.num_classes": 1000,
    "latent.input_size": 32,
    "latent.codec.path": "stabilityai/sd-vae-ft-mse",
    "latent.normalization.name": "imf",
    "schedule._target_": "meanflow.modules.schedules.Constant",
    "schedule.ramp._target_": "meanflow.modules.schedules.RampFromZero",
    "objective.times.first.P_mean": -0.4,
    "objective.times.second.P_mean": -0.4,
    "objective.times.first.P_std": 1.0,
    "objective.times.second.P_std": 1.0,
    "objective.times.prob_r_equals_t": 0.5,
    "objective.scales.beta": 1.0,
    "objective.scales.s_max": 7.0,
    "objective.label_drop._target_": "meanflow.objectives.LeadingLabelDrop",
    "objective.label_drop.prob_drop_label": 0.1,
    "objective.weighting.p": 1.0,
    "objective.weighting.eps": 0.01,
}
for size in ("B", "M", "L", "XL"):
    RECIPES[f"imf_{size.lower()}_2_256"] = IMF | {"network.size": f"{size}/2", "schedule.warmup_epochs": 10}
PROTOCOLS = {
    "dmf_xl_2_256": ("edm2", "imgnet256.pkl"),
    "dmf_xl_2_512": ("edm2", "imgnet512.pkl"),
    "sit_xl_2_256": ("edm2", "imgnet256.pkl"),
    "sit_xl_2_512": ("edm2", "imgnet512.pkl"),
    "imf_b_2_256": ("imf", "imagenet_256_fid_stats.npz"),
    "imf_xl_2_256": ("imf", "imagenet_256_fid_stats.npz"),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_official_recipes_score_under_the_protocol_of_their_number(name):
    protocol = train_config(f"experiment={name}").protocol
    assert (protocol.name, Path(protocol.reference).name) == PROTOCOLS[name]
    assert protocol.reference_origin.endswith(PROTOCOLS[name][1])


CONTINUED = {"dmf_xl_2_256_released": "dmf_xl_2_256", "imf_b_2_256_released": "imf_b_2_256"}


@pytest.mark.parametrize("name", [*RECIPES, *CONTINUED])
def test_official_recipes(name):
    config = train_config(f"experiment={name}")
    recipe = RECIPES[CONTINUED.get(name, name)]
    if name in CONTINUED:
        assert config.init_from.startswith("ckpt/")
        recipe = {key: value for key, value in recipe.items() if key != "schedule.warmup_epochs"}
    for key, value in (recipe if "imf" in name else SHARED | recipe).items():
        assert OmegaConf.select(config, key) == value, key


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.dmf_depth=9", "experiment=quickstart_dmf"], r"dmf_depth must be from 0 to depth \(4\), got 9"),
        (["network.attention=fast"], r"attention must be one of"),
        (["objective.label_drop.prob_drop_label=2"], "prob_drop_label must be from 0 to 1, got 2"),
        (["objective.times.P_std=-1"], "P_std must be at least 0, got -1"),
        (["network.input_size=9"], r"input_size must be a multiple of patch_size \(2\), got 9"),
        (["network=sit", "network.size=XXL/2"], "size must be one of S/2, .*got 'XXL/2'"),
        (["sampler.num_steps=0"], "num_steps"),
        (["schedule=cosine", "schedule.final_factor=2"], "final_factor must be from 0 to 1, got 2"),
    ],
)
def test_bad_values_are_named(overrides, message):
    with pytest.raises(Exception, match="Error in call to target") as caught:
        instantiate(train_config(*overrides).module)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, ValueError):
        cause = cause.__cause__
    with pytest.raises(ValueError, match=message):
        raise cause or AssertionError("no ValueError behind it")
