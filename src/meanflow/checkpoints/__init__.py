"""Reading and writing of trained models. No code in a file is ever executed."""

from meanflow.checkpoints.convert import convert
from meanflow.checkpoints.folder import load_folder, save_folder
from meanflow.checkpoints.lightning import load_lightning
from meanflow.checkpoints.load import load, load_network, load_weights

__all__ = ["convert", "load", "load_folder", "load_lightning", "load_network", "load_weights", "save_folder"]
