"""What the runtime decides inside a step, as the daemon sees and steers it: its model, its thresholds, how it does.

The model is evaluated on the device (hotset.protos.device_model): a round trip to a daemon takes longer than a layer.
"""
