"""From trained modules to a world package, and the comparison of the two.

`write.write_package` makes the package, `verify.verify_package` plays it beside torch on real recordings, and
`reexport.reexport_package` brings an older one up to date (its weights `recover`ed from itself). In between:
`rounding` (the weights as they will be stored), `lean` (the generator in fewer operators), `graphs` (what the graphs
compute), `translate` (the custom operators in torch and ONNX), `export` (from a graph to an ONNX file and the shared
`weights_file`), `forms` (plain and with custom operators, compared), `clips` and `describe` (start contexts and spec
parts from a dataset).
"""
