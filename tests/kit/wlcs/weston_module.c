/*
 * A module for weston 10: a seat with pointer, keyboard and one finger, and windows moved
 * by their titles, by order of one program on the socket WLCS_CONTROL (integration.c).
 *
 * weston looks for what is under a pointer in the list of views of its last repaint, so
 * an order is carried out after one and answered after the next.
 */
#define _GNU_SOURCE
#include <libweston-desktop/libweston-desktop.h>
#include <libweston/libweston.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Of libweston/backend.h, which has no package. */
void weston_seat_init(struct weston_seat *, struct weston_compositor *, char const *name);
void weston_seat_init_pointer(struct weston_seat *);
int weston_seat_init_keyboard(struct weston_seat *, struct xkb_keymap *);
int weston_seat_init_touch(struct weston_seat *);
struct weston_touch_device *weston_touch_create_touch_device(struct weston_touch *,
                                                             char const *syspath, void *,
                                                             void const *operations);
void notify_motion(struct weston_seat *, struct timespec const *,
                   struct weston_pointer_motion_event *);
void notify_motion_absolute(struct weston_seat *, struct timespec const *, double x, double y);
void notify_button(struct weston_seat *, struct timespec const *, int32_t button,
                   enum wl_pointer_button_state);
void notify_pointer_frame(struct weston_seat *);
void notify_touch_normalized(struct weston_touch_device *, struct timespec const *, int id,
                             double x, double y,
                             struct weston_point2d_device_normalized const *, int type);
void notify_touch_frame(struct weston_touch_device *);

enum { MOST_REPAINTS = 600 };

static struct weston_compositor *compositor;
static struct weston_seat seat;
static struct weston_touch_device *touch;
static int client = -1;
static struct wl_event_source *client_source;
static char line[200];
static size_t got;
static int repaints;
static int done;
static struct wl_listener painted;

static struct weston_view *find(char const *title)
{
    struct weston_view *view;

    wl_list_for_each(view, &compositor->view_list, link) {
        if (!weston_surface_is_desktop_surface(view->surface))
            continue;
        struct weston_desktop_surface *window = weston_surface_get_desktop_surface(view->surface);
        char const *has = weston_desktop_surface_get_title(window);
        size_t more = has ? strlen(has) : 0, length = strlen(title);
        if (more >= length && !strcmp(has + more - length, title) &&
            (more == length || has[more - length - 1] == ' '))
            return view;
    }
    return NULL;
}

/* 1: done; 0: try again after the next repaint; -1: not an order. */
static int obey(void)
{
    struct timespec now;
    char title[50];
    double x, y;
    int code, state;

    weston_compositor_get_time(&now);
    if (sscanf(line, "place %49s %lf %lf", title, &x, &y) == 3) {
        struct weston_view *view = find(title);
        if (!view)
            return 0;
        struct weston_geometry at = weston_desktop_surface_get_geometry(
            weston_surface_get_desktop_surface(view->surface));
        weston_view_set_position(view, x - at.x, y - at.y);
        weston_view_update_transform(view);
    } else if (sscanf(line, "motion %lf %lf", &x, &y) == 2) {
        notify_motion_absolute(&seat, &now, x, y);
        notify_pointer_frame(&seat);
    } else if (sscanf(line, "moved %lf %lf", &x, &y) == 2) {
        struct weston_pointer_motion_event event = {
            .mask = WESTON_POINTER_MOTION_REL | WESTON_POINTER_MOTION_REL_UNACCEL,
            .time = now, .dx = x, .dy = y, .dx_unaccel = x, .dy_unaccel = y};
        notify_motion(&seat, &now, &event);
        notify_pointer_frame(&seat);
    } else if (sscanf(line, "button %d %d", &code, &state) == 2) {
        notify_button(&seat, &now, code, state);
        notify_pointer_frame(&seat);
    } else if (sscanf(line, "down %lf %lf", &x, &y) == 2) {
        notify_touch_normalized(touch, &now, 0, x, y, NULL, WL_TOUCH_DOWN);
        notify_touch_frame(touch);
    } else if (sscanf(line, "slide %lf %lf", &x, &y) == 2) {
        notify_touch_normalized(touch, &now, 0, x, y, NULL, WL_TOUCH_MOTION);
        notify_touch_frame(touch);
    } else if (!strcmp(line, "up\n")) {
        notify_touch_normalized(touch, &now, 0, 0, 0, NULL, WL_TOUCH_UP);
        notify_touch_frame(touch);
    } else
        return -1;
    return 1;
}

static void answer(char const *text)
{
    wl_list_remove(&painted.link);
    got = 0;
    if (send(client, text, strlen(text), MSG_NOSIGNAL) < 0)
        weston_log("wlcs: the answer '%s' was not sent\n", text);
}

static void after_repaint(void *data)
{
    (void)data;
    if (done) {
        answer("ok\n");
        return;
    }
    done = obey();
    if (done < 0)
        answer("this is not an order\n");
    else if (!done && ++repaints > MOST_REPAINTS)
        answer("no window has this title\n");
    else
        weston_compositor_damage_all(compositor);
}

/* A repaint that is asked for within one is forgotten at its end. */
static void on_repaint(struct wl_listener *listener, void *data)
{
    (void)listener, (void)data;
    wl_event_loop_add_idle(wl_display_get_event_loop(compositor->wl_display), after_repaint, NULL);
}

static int on_data(int fd, uint32_t mask, void *data)
{
    (void)mask, (void)data;
    ssize_t more = recv(fd, line + got, sizeof line - 1 - got, MSG_DONTWAIT);
    if (more <= 0) {
        wl_event_source_remove(client_source);
        close(client);
        client = -1;
        return 0;
    }
    got += more;
    line[got] = 0;
    if (!strchr(line, '\n'))
        return 0;
    done = repaints = 0;
    struct weston_output *output =
        wl_container_of(compositor->output_list.next, output, link);
    wl_signal_add(&output->frame_signal, &painted);
    weston_compositor_damage_all(compositor);
    return 0;
}

static int on_connection(int fd, uint32_t mask, void *data)
{
    (void)mask, (void)data;
    int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (accepted < 0 || client >= 0) {
        close(accepted);
        return 0;
    }
    client = accepted;
    client_source = wl_event_loop_add_fd(wl_display_get_event_loop(compositor->wl_display),
                                         client, WL_EVENT_READABLE, on_data, NULL);
    return 0;
}

WL_EXPORT int wet_module_init(struct weston_compositor *given, int *argc, char *argv[])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char const *path = getenv("WLCS_CONTROL");
    (void)argc, (void)argv;

    compositor = given;
    painted.notify = on_repaint;
    weston_seat_init(&seat, compositor, "wlcs");
    weston_seat_init_pointer(&seat);
    if (weston_seat_init_keyboard(&seat, NULL) || weston_seat_init_touch(&seat))
        return -1;
    touch = weston_touch_create_touch_device(seat.touch_state, "wlcs", NULL, NULL);
    if (!touch || !path || strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 1))
        return -1;
    wl_event_loop_add_fd(wl_display_get_event_loop(compositor->wl_display), listener,
                         WL_EVENT_READABLE, on_connection, NULL);
    return 0;
}
