"""How good a trained world is, measured on held-out recordings: `python -m exporters.evaluation CONFIG --json OUT`.

fidelity     frames against what really happened, for 1..K steps
state        what a probe reads from the frames, beside what the simulator says
response     does the world do what it is told?
drift        thousands of ticks of free play
allocation   are steps that go where the confidence is low worth more than as many steps spent otherwise?

`report` runs the parts; `cases` and `playing` give them moments and rollouts, `metrics`, `interval` figures.
"""
