"""What each command of `dsa` does. One module per command: `add_arguments(parser)` and `run(options)`.

`run` returns a `Result`; the command line decides how it is shown. Modules import what is heavy only when
they run.
"""
