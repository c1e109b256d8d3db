"""The device's features, as `hotset.protos.device_features` states them: to train on, and to replay with."""

from hotset.predictor.device.heads import DeviceHeads
from hotset.predictor.device.state import DeviceState, new_device_state

__all__ = ["DeviceHeads", "DeviceState", "new_device_state"]
