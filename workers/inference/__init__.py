"""Running networks: loading them safely, on the device asked for, in windows and batches."""
