"""Models from one format to another and back, exactly."""

from pathlib import Path

import pytest
import torch

import meanflow
from meanflow.checkpoints import convert, load_weights
from meanflow.checkpoints.__main__ import main
from tests import tiny
from tests.checkpoints import released

DATA = Path(__file__).parent.parent / "golden" / "data" / "formats"


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("make", [released.sit, released.aligned_sit, released.dmf])
def test_sit_and_dmf_round_trip(tmp_path, make):
    weights = dict(make().state_dict())
    torch.save(weights, tmp_path / "official.pt")
    convert(tmp_path / "official.pt", tmp_path / "ours", num_heads=2)
    convert(tmp_path / "ours", tmp_path / "back.pt")
    assert equal(torch.load(tmp_path / "back.pt", weights_only=True), weights)


@pytest.mark.parametrize("v_heads", [True, False])
def test_imf_round_trip(tmp_path, v_heads):
    weights = released.imf_weights(v_heads=v_heads)
    torch.save(weights, tmp_path / "official.pth")
    convert(tmp_path / "official.pth", tmp_path / "ours", input_size=8)
    convert(tmp_path / "ours", tmp_path / "back.pth")
    assert equal(torch.load(tmp_path / "back.pth", weights_only=True), weights)


def test_the_jax_release_becomes_the_official_torch_file(tmp_path):
    source = DATA / "imf_jax_checkpoint" / "data" / "orbax.zip"
    convert(source, tmp_path / "imf.pth", ema=False)
    convert(source, tmp_path / "eval.pth", v_heads=False)
    raw, evaluation = (torch.load(tmp_path / name, weights_only=True) for name in ("imf.pth", "eval.pth"))
    assert equal(load_weights(tmp_path / "imf.pth"), load_weights(source, ema=False))
    assert evaluation.keys() == {key for key in raw if ".v_heads." not in key}
    assert "net.v_final_layer.norm.weight" in evaluation
    assert meanflow.load(tmp_path / "eval.pth").network.config["v_heads"] is False


def test_command(tmp_path, capsys):
    source = DATA / "dmf_checkpoints" / "data" / "0001234.pt"
    main(
        [
            "convert",
            str(source),
            str(tmp_path / "dmf"),
            "--raw",
            "--state",
            "num_heads=4",
            "--state",
            "codec={name: identity, channels: 4}",
        ]
    )
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"reading {source}"
    assert out[1].startswith("  DMFTransformer, ")
    assert "dmf_depth=2" in out[1]
    assert out[2:] == [
        "  codec: {'name': 'identity', 'channels': 4}",
        "  normalization: scale_0_18215",
        "  sampler: {'name': 'FlowMapEuler', 'num_steps': 4, 'shift': 1.0, "
        "'guidance': {'name': 'ClassifierFreeGuidance', 'omega': 1.0, 'interval': [0.0, 1.0]}}",
        f"wrote {tmp_path / 'dmf'}",
    ]
    pipeline = meanflow.load(tmp_path / "dmf")
    assert equal(pipeline.network.state_dict(), load_weights(source, ema=False))
    assert pipeline.sample([0], num_steps=1).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt", "new"], "no checkpoint at missing.pt"),
        (["{dmf}", "{dmf}"], "exists already; it is not overwritten"),
        (["{dmf}", "new"], "['num_heads'] cannot be read from it and must be stated"),
        (
            ["{dmf}", "new.pth", "--state", "num_heads=4"],
            "imf-torch is the format of iMF networks, not of DMFTransformer",
        ),
        (["{imf}", "new.pt"], "dmf is the format of SiT and DMF networks, not of IMFTransformer"),
        (["{imf}", "new", "--without-v-heads"], "v heads can be left out of imf-torch only, not of folder"),
        (["{imf}", "new", "--state", "input_size"], "--state must be KEY=VALUE, got 'input_size'"),
        (["{imf}", "new", "--state", "codec={a"], "--state codec must have a YAML value, got '{a'"),
        (["{imf}", "new", "--state", "sampler=euler"], "sampler must be stated as an object or as its configuration"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    files = {
        "dmf": DATA / "dmf_checkpoints" / "data" / "bare_state_dict.pt",
        "imf": DATA / "imf_jax_checkpoint" / "data" / "orbax.zip",
    }
    with pytest.raises(SystemExit) as caught:
        main(["convert", *(argument.format(**files) if "{a" not in argument else argument for argument in arguments)])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    torch.save(released.sit().state_dict(), tmp_path / "official.pt")

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        convert(tmp_path / "official.pt", tmp_path / "new.pt", num_heads=2)
    assert [path.name for path in tmp_path.iterdir()] == ["official.pt"]


def test_unknown_formats_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"to must be one of \['dmf', 'folder', 'imf-torch'\], got 'onnx'"):
        convert(tmp_path, tmp_path / "new", to="onnx")


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["convert", "--help"])
    assert caught.value.code == 0
    assert "hf://he-vision-group/iMF/iMF-B-2.zip" in capsys.readouterr().out


def test_what_our_own_files_record_is_checked_too(tmp_path):
    path = meanflow.checkpoints.save_folder(tiny.dmf_pipeline(), tmp_path / "model")
    loaded = meanflow.load(path, depth=2, sampler={"name": "FlowMapEuler", "num_steps": 3}, attention="reference")
    assert loaded.sampler.num_steps == 3
    assert loaded.network.config["attention"] == "reference"
    with pytest.raises(ValueError, match=r"model: num_heads is 2 in the file, but 4 was stated"):
        meanflow.load(path, num_heads=4)
    with pytest.raises(ValueError, match=r"model: normalization is .* in the file, but .* was stated"):
        meanflow.load(path, normalization="imf")
