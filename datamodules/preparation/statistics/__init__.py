"""From images to reference statistics: ``prepare.py task=stats``."""
