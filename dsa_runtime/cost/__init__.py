"""What a world costs on paper: operations, bytes, memory and time, by formula. Nothing here has run on the device.

shape, family, linear    a generator, and the layers it consists of
decoder                  latents to pictures, as a list of convolutions
named, wan               shapes and devices by name, and the shape of a world package
cost, precision, stages  the work of one denoising step, commit, prompt or decode
device, this_cpu         what a machine could do at best
efficiency, roofline     what share of that is assumed, and the time that follows; tick: of all stages
memory, capacity         what has to lie in memory, and how many sessions fit
prediction, published    all of it as one document, and the published figures that it is held against
"""
