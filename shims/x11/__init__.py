"""Show each X11 window of this sandbox as a separate Wayland window.

    vitrail_x11.py [--listen FD] [-- PROGRAM [ARGUMENT...]]

A rootless Xwayland speaks to this program instead of the compositor.  Its messages are
passed on, its surfaces get their roles here (xdg_toplevel, xdg_popup), and this program
is its window manager.  It runs with the rights of the sandbox's programs and protects
nothing: what it sends is checked outside of the sandbox as any program's messages are.
"""
