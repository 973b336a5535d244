"""Conversion: recordings made elsewhere (video files, Minari, LeRobot) -> the dataset that worlds are trained on."""
