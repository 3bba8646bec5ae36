/* Loaded into vhost-user-gpu, makes it draw without a render node: EGL without a
 * surface, by Mesa's software.  QEMU has no option for that. */
#define _GNU_SOURCE
#include <dlfcn.h>

#define VIRGL_RENDERER_USE_SURFACELESS 8

int virgl_renderer_init(void *cookie, int flags, void *callbacks) {
    int (*next)(void *, int, void *) = dlsym(RTLD_NEXT, "virgl_renderer_init");
    return next(cookie, flags | VIRGL_RENDERER_USE_SURFACELESS, callbacks);
}
