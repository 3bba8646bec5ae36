/*
 * The Wayland Conformance Suite's way to a compositor of a test.
 *
 * Loaded by wlcs as its integration module, and preloaded before libwayland-client:
 *
 * - The suite asks to place a window by its wl_surface, which only its client knows. So
 *   each xdg_toplevel is given a title ("wlcs-1", ...) as it is made, by which a compositor
 *   finds it also through a filter.
 * - Clients of releases before 1.8 attach a buffer without waiting for the first configure
 *   event, some without the commit that asks for it, and acknowledge none, which xdg-shell
 *   forbids. Here those with a listener for it commit and wait, and what the listener does
 *   not acknowledge is acknowledged after it.
 *
 * Environment: WLCS_DISPLAY, the socket of the Wayland display that is tested;
 * WLCS_CONTROL, the socket of who moves pointer and windows: it takes a line ("place
 * wlcs-1 10 20", "motion X Y", "moved DX DY", "button CODE 0|1", "down X Y", "slide X
 * Y", "up") and answers each by a line, "ok", "unsupported" or what is wrong; WLCS_GLOBALS, what the
 * display offers ("wl_seat:7 ..."); WLCS_FRAME, how far a window's content lies inside
 * of it ("4 4").
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <wayland-client.h>
#include <wlcs/display_server.h>
#include <wlcs/pointer.h>
#include <wlcs/touch.h>

enum { MOST_WINDOWS = 1024, MOST_GLOBALS = 128, MOST_ARGUMENTS = 20, MOST_WAITS = 100 };
enum { FAILED = 70, UNSUPPORTED = 77 }; /* Exit codes. */
/* Requests, by their place in the protocol. */
enum { SURFACE_ATTACH = 1, SURFACE_COMMIT = 6, XDG_ACK_CONFIGURE = 4, TOPLEVEL_SET_TITLE = 2 };

/* How libwayland's objects begin; it has functions for both since 1.23 and 1.24. */
struct wl_proxy {
    struct wl_interface const *interface;
    void const *implementation;
    uint32_t id;
    struct wl_display *display;
};

static struct window {
    struct wl_proxy *surface, *xdg_surface;
    bool has_role, committed, configured, acknowledged;
    void (**listener)(void *data, struct wl_proxy *xdg_surface, uint32_t serial);
    void *data;
} windows[MOST_WINDOWS]; /* The n-th xdg_surface that was made, in all. */
static int made;
static int control = -1;

static void fail(char const *what, char const *why)
{
    fprintf(stderr, "wlcs integration: %s: %s\n", what, why);
    _exit(FAILED);
}

static int connect_to(char const *variable)
{
    char const *path = getenv(variable);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (!path || strlen(path) >= sizeof address.sun_path)
        fail(variable, "not set, or too long");
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        fail(path, "no connection");
    return fd;
}

__attribute__((format(printf, 1, 2))) static void order(char const *format, ...)
{
    char line[200], answer[200];
    size_t got = 0;
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof line ||
        send(control, line, length, MSG_NOSIGNAL) != length)
        fail(line, "not sent");
    while (!got || answer[got - 1] != '\n') {
        ssize_t more = recv(control, answer + got, sizeof answer - 1 - got, 0);
        if (more <= 0)
            fail(line, "no answer");
        got += more;
    }
    answer[got] = 0;
    if (!strcmp(answer, "unsupported\n"))
        _exit(UNSUPPORTED);
    if (strcmp(answer, "ok\n"))
        fail(line, answer);
}

/* Windows, and all requests about them. */

static struct window *window_of(struct wl_proxy *surface, struct wl_proxy *xdg_surface)
{
    /* Addresses are used again: the last one counts. */
    for (int i = made; i--;)
        if (windows[i].surface == surface || windows[i].xdg_surface == xdg_surface)
            return &windows[i];
    return NULL;
}

static struct wl_proxy *marshal(struct wl_proxy *proxy, uint32_t opcode,
                                struct wl_interface const *interface, uint32_t version,
                                uint32_t flags, union wl_argument *arguments)
{
    static __typeof__(&wl_proxy_marshal_array_flags) next;

    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "wl_proxy_marshal_array_flags");
    return next(proxy, opcode, interface, version, flags, arguments);
}

static void before_request(struct wl_proxy *proxy, uint32_t opcode, union wl_argument *arguments)
{
    char const *name = proxy->interface->name;
    struct window *window = NULL;

    if (!strcmp(name, "wl_surface"))
        window = window_of(proxy, NULL);
    else if (!strcmp(name, "xdg_surface") && opcode == XDG_ACK_CONFIGURE)
        window_of(NULL, proxy)->acknowledged = true;
    if (window && opcode == SURFACE_COMMIT)
        window->committed = true;
    if (!window || opcode != SURFACE_ATTACH || !arguments[0].o || !window->has_role ||
        !window->listener)
        return;
    if (!window->committed)
        marshal(proxy, SURFACE_COMMIT, NULL, wl_proxy_get_version(proxy), 0, NULL);
    window->committed = true;
    for (int i = 0; i < MOST_WAITS && !window->configured; i++)
        if (wl_display_roundtrip(proxy->display) < 0)
            break;
}

static void after_request(struct wl_proxy *proxy, struct wl_proxy *result, uint32_t version,
                          union wl_argument *arguments)
{
    char const *name = result->interface->name;

    if (!strcmp(name, "xdg_surface")) {
        if (made == MOST_WINDOWS)
            fail("xdg_surface", "too many");
        windows[made++] = (struct window){.surface = (struct wl_proxy *)arguments[1].o,
                                          .xdg_surface = result};
    } else if (!strcmp(name, "xdg_popup")) {
        window_of(NULL, proxy)->has_role = true;
    } else if (!strcmp(name, "xdg_toplevel")) {
        window_of(NULL, proxy)->has_role = true;
        char title[20];
        snprintf(title, sizeof title, "wlcs-%d", (int)(window_of(NULL, proxy) - windows));
        marshal(result, TOPLEVEL_SET_TITLE, NULL, version, 0,
                (union wl_argument[]){{.s = title}});
    }
}

WL_EXPORT struct wl_proxy *wl_proxy_marshal_flags(struct wl_proxy *proxy, uint32_t opcode,
                                                  struct wl_interface const *interface,
                                                  uint32_t version, uint32_t flags, ...)
{
    union wl_argument arguments[MOST_ARGUMENTS];
    int count = 0;
    va_list values;

    va_start(values, flags);
    for (char const *type = proxy->interface->methods[opcode].signature; *type; type++) {
        if (strchr("son", *type))
            arguments[count++].s = va_arg(values, char const *);
        else if (*type == 'a')
            arguments[count++].a = va_arg(values, struct wl_array *);
        else if (strchr("iufh", *type))
            arguments[count++].i = va_arg(values, int32_t);
    }
    va_end(values);
    before_request(proxy, opcode, arguments);
    struct wl_proxy *result = marshal(proxy, opcode, interface, version, flags, arguments);
    if (result)
        after_request(proxy, result, version, arguments);
    return result;
}

static void on_configure(void *data, struct wl_proxy *xdg_surface, uint32_t serial)
{
    struct window *window = data;

    window->acknowledged = false;
    window->listener[0](window->data, xdg_surface, serial);
    if (!window->acknowledged)
        marshal(xdg_surface, XDG_ACK_CONFIGURE, NULL, wl_proxy_get_version(xdg_surface), 0,
                (union wl_argument[]){{.u = serial}});
    window->configured = true;
}

WL_EXPORT int wl_proxy_add_listener(struct wl_proxy *proxy, void (**listener)(void), void *data)
{
    static __typeof__(&wl_proxy_add_listener) next;
    static void (*const ours[])(void *, struct wl_proxy *, uint32_t) = {on_configure};

    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "wl_proxy_add_listener");
    if (strcmp(proxy->interface->name, "xdg_surface"))
        return next(proxy, listener, data);
    struct window *window = window_of(NULL, proxy);
    window->listener = (void (**)(void *, struct wl_proxy *, uint32_t))listener;
    window->data = data;
    return next(proxy, (void (**)(void))ours, window);
}

static void place(WlcsDisplayServer *server, wl_display *client, wl_surface *surface, int x,
                  int y)
{
    int left = 0, top = 0;
    char const *frame = getenv("WLCS_FRAME");
    (void)server;

    if (frame && sscanf(frame, "%d %d", &left, &top) != 2)
        fail("WLCS_FRAME", frame);
    wl_display_flush(client);
    struct window *window = window_of((struct wl_proxy *)surface, NULL);
    if (window)
        order("place wlcs-%d %d %d\n", (int)(window - windows), x - left, y - top);
}

/* Pointer and touch. */

static void move_absolute(WlcsPointer *pointer, wl_fixed_t x, wl_fixed_t y)
{
    (void)pointer;
    order("motion %f %f\n", wl_fixed_to_double(x), wl_fixed_to_double(y));
}

static void move_relative(WlcsPointer *pointer, wl_fixed_t dx, wl_fixed_t dy)
{
    (void)pointer;
    order("moved %f %f\n", wl_fixed_to_double(dx), wl_fixed_to_double(dy));
}

static void button_up(WlcsPointer *pointer, int button)
{
    (void)pointer;
    order("button %d 0\n", button);
}

static void button_down(WlcsPointer *pointer, int button)
{
    (void)pointer;
    order("button %d 1\n", button);
}

static void destroy_pointer(WlcsPointer *pointer) { (void)pointer; }

static WlcsPointer *create_pointer(WlcsDisplayServer *server)
{
    static WlcsPointer pointer = {WLCS_POINTER_VERSION, move_absolute, move_relative,
                                  button_up, button_down, destroy_pointer};
    (void)server;
    return &pointer;
}

/* The suite passes whole pixels here, whatever the type says. */

static void touch_down(WlcsTouch *touch, wl_fixed_t x, wl_fixed_t y)
{
    (void)touch;
    order("down %d %d\n", x, y);
}

static void touch_move(WlcsTouch *touch, wl_fixed_t x, wl_fixed_t y)
{
    (void)touch;
    order("slide %d %d\n", x, y);
}

static void touch_up(WlcsTouch *touch)
{
    (void)touch;
    order("up\n");
}

static void destroy_touch(WlcsTouch *touch) { (void)touch; }

static WlcsTouch *create_touch(WlcsDisplayServer *server)
{
    static WlcsTouch touch = {WLCS_TOUCH_VERSION, touch_down, touch_move, touch_up,
                              destroy_touch};
    (void)server;
    return &touch;
}

/* The server, which runs elsewhere. */

static void start(WlcsDisplayServer *server)
{
    (void)server;
    control = connect_to("WLCS_CONTROL");
}

static void stop(WlcsDisplayServer *server)
{
    (void)server;
    close(control);
}

static int create_client_socket(WlcsDisplayServer *server)
{
    (void)server;
    return connect_to("WLCS_DISPLAY");
}

static WlcsIntegrationDescriptor const *get_descriptor(WlcsDisplayServer const *server)
{
    static WlcsExtensionDescriptor globals[MOST_GLOBALS];
    static WlcsIntegrationDescriptor descriptor = {WLCS_INTEGRATION_DESCRIPTOR_VERSION, 0,
                                                   globals};
    char *list = getenv("WLCS_GLOBALS"), *rest;
    (void)server;

    if (descriptor.num_extensions || !list)
        return &descriptor;
    for (char *word = strtok_r(strdup(list), " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *version = strchr(word, ':');
        if (!version || descriptor.num_extensions == MOST_GLOBALS)
            fail("WLCS_GLOBALS", word);
        *version++ = 0;
        globals[descriptor.num_extensions++] = (WlcsExtensionDescriptor){word, atoi(version)};
    }
    return &descriptor;
}

static WlcsDisplayServer *create_server(int argc, char const **argv)
{
    static WlcsDisplayServer server = {
        .version = WLCS_DISPLAY_SERVER_VERSION,
        .start = start,
        .stop = stop,
        .create_client_socket = create_client_socket,
        .position_window_absolute = place,
        .create_pointer = create_pointer,
        .create_touch = create_touch,
        .get_descriptor = get_descriptor,
    };
    (void)argc, (void)argv;
    return &server;
}

static void destroy_server(WlcsDisplayServer *server) { (void)server; }

WL_EXPORT WlcsServerIntegration const wlcs_server_integration = {
    WLCS_SERVER_INTEGRATION_VERSION, create_server, destroy_server};
