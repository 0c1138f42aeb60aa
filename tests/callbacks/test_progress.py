"""The progress bar, with and without a terminal."""

import pytest
from rich.console import Console

import callbacks.progress
from callbacks import PeriodicScore, StepProgressBar
from meanflow.metrics.features import PixelFeatures
from tests import tiny


def test_prints_lines_where_there_is_no_terminal(store, tmp_path, capsys):
    bar = StepProgressBar(num_lines=2)
    tiny.fit(
        tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=[bar], enable_progress_bar=True, max_steps=4
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/4", "step 4/4"]
    assert "loss" in lines[0]


@pytest.mark.parametrize("limits", [{"max_steps": 6}, {"max_steps": -1, "max_epochs": 2}])
def test_shows_one_bar_over_all_epochs_in_a_terminal(store, tmp_path, capsys, monkeypatch, limits):
    monkeypatch.setattr(callbacks.progress, "Console", lambda: Console(force_terminal=True, width=120))
    tiny.fit(
        tiny.flow_module(),
        tiny.datamodule(store),
        tmp_path,
        callbacks=[StepProgressBar()],
        enable_progress_bar=True,
        **limits,
    )
    assert "6/6" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:fd_pixels from")
def test_shows_the_headline_value_of_the_score(store, tmp_path, capsys):
    protocol = tiny.protocol(metrics=["precision_recall_pixels", "fd_pixels"])
    score = PeriodicScore(protocol, {"pixels": PixelFeatures()}, tmp_path, every_n_train_steps=1)
    bar = StepProgressBar(num_lines=1)
    trainer = tiny.fit(
        tiny.flow_module(),
        tiny.datamodule(store),
        tmp_path,
        callbacks=[score, bar],
        enable_progress_bar=True,
        max_steps=1,
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"precision_pixels {trainer.callback_metrics['score/precision_pixels']:.4g}")
