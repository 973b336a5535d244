"""Worlds over ZeroMQ: the protocol DSA1 (PROTOCOL.md), its server and its Python client.

wire, fields, wire_tick       messages, ticks and pictures to and from parts; pure
server, bell                  the thread that takes messages in, and the sockets
desk, roster, cancels,        the protocol's rules, one thread at a time: who asked what of which session, what is
draining, admission, about    stored, which leases have run out, who is let in
host, handlers, outlet        one session's thread, what it does with each request, and how its frames leave
observer                      what metrics and logs are told
frame_ring, pictures,         frames in shared memory, as pictures, and for onlookers; both sides
spectator
security, keys                where a server may listen, and who may connect
client, remote_session        `dsa_runtime.connect` and what it gives
berth, channel, journal       a remote session's place at a server: asking there, and finding another one
"""
