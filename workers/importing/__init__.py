"""Foreign networks brought in as packages: ONNX files, MONAI bundles, nnU-Net and others."""
