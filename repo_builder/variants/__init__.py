"""What is derived from an exported ONNX file: smaller and faster files, and engines."""
