"""The configuration file: what may stand in it (`models`), where (`lines`), and how it is read (`load`, `tables`)."""

from .load import ConfigError, load, locate
from .models import Config, DeviceModel, DeviceName, KeyModel

__all__ = ["Config", "ConfigError", "DeviceModel", "DeviceName", "KeyModel", "load", "locate"]
