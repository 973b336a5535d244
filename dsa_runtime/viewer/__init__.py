"""The page of `dsa play`: a world in the browser, with what the runtime decides under it.

    door         who may come in: this machine's own browser, or whoever has the token
    controls     keys, gamepad and touch for an action space, and the action that is held by them
    stops        where the quality slider can stand
    command      what the page may ask for, read strictly from its messages
    words        a tick's decision as a sentence
    packing      pictures and decisions as binary messages
    lane         one session and how it is played; two of them are side by side
    player       what a tab does: play, pause, step, rewind, fork, reset, save. Knows no clock
    inbox, loop  a tab's thread: beats at the world's rate, and commands in between
    outbox       what waits for a tab: the newest picture, never a queue of them
    watcher      the same place in a tab that looks on at a running `dsa serve`
    tabs         the tabs there are, bounded; one that was closed is kept for a while
    config, page settings, and HTTP and WebSocket (aiohttp, of the extra `viewer`)

`PAGE.md` is what page and server say to each other; `static` is the page, without a build step.
"""
