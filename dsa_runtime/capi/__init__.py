"""From C: the Python half of libdsa_runtime (`embedded`), and how the library is built (`build`).

    python -m dsa_runtime.capi build --out DIR        # DIR/lib/libdsa_runtime.so, DIR/include/dsa_runtime.h
    cc program.c $(python -m dsa_runtime.capi --cflags --libs --out DIR)

The C half lies in `bindings/c/` of a checkout, and in `sources/` of an installed package.
"""
