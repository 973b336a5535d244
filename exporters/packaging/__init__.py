"""From trained modules to a world package, and the comparison of the two.

`write.write_package` makes the package, `verify.verify_package` plays it beside torch on real recordings. In between:
`rounding` (the weights as they will be stored), `lean` (the generator in fewer operators), `graphs` (what the graphs
compute), `translate` (the custom operator in torch and ONNX), `export` (from a graph to an ONNX file and the shared
`weights_file`), `clips` and `describe` (start contexts and spec parts from a dataset).
"""
