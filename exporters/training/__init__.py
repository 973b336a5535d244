"""The staged training recipe: autoencoder, teacher, consistency, distillation, confidence, calibration."""
