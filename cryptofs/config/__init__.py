"""The configuration file: its allowed contents (`models`), positions of keys (`lines`), and its reading (`load`,
`tables`)."""

from .load import ConfigError, load, locate
from .models import Config, DeviceModel, DeviceName, KeyModel

__all__ = ["Config", "ConfigError", "DeviceModel", "DeviceName", "KeyModel", "load", "locate"]
