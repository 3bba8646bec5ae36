/* The pump's hot path: streams in which bytes just flow, from beginning to end.
 *
 * What flow.py and engine.py do in splice mode, for a pair of sockets of which
 * neither direction fails: fill a pipe, drain it, wait for the side that makes
 * us wait, pass an end on, close both when both have ended.  Everything else
 * (errors, copying, deadlines, the broker) is engine.py's: a pair in which
 * something fails leaves here with all that is known about it and does not come
 * back.
 *
 * Nothing here looks at a byte that it carries; there is nothing to parse.
 * Optional: without it the pump does the same in Python (turns.py).
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _GNU_SOURCE
/* A small part of the pump is C. The pump in Python met every goal but one: 64 streams
   of small messages beside a bulk stream, 1.63 times socat where 1.8 was wanted, because
   the interpreter costs as much there as the system calls. So the turns of streams that
   only flow are taken in C, as an optional extension of the stable ABI inside the pump's
   own confined process. It was kept from being a second relay: whatever is not a plain
   turn or a plain end (an error, a deadline, a message of the broker) is handed back to
   the Python loop, whose behaviour the tests know, and the stream does not return. It
   begins and ends such streams because of the short ones: the sockets, directions and
   sides that Python would make for each cost 60 of the pump's 145 µs, and a task in
   `brokerctl proxy relay` 80 of its 170. Without compiler or `Python.h` the installation
   continues without it. */

#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256 };

/* The numbers of flow.State. */
enum state { FLOWING, BLOCKED, ENDED, READ_FAILED, WRITE_FAILED };

struct end {
	struct end *other;
	struct pair *pair;
	int fd;
	int gone;               /* it will receive nothing more, and that was acted on */
	uint32_t mask;          /* as it stands in the epoll set */
	/* the direction that begins here */
	enum state state;
	int error;
	int pipe[2];            /* only while held */
	size_t held;
	uint64_t count;
};

struct pair {
	struct end a, b;
	unsigned long long token;
	double active;
};

struct turns {
	PyObject_HEAD
	struct end **ends;      /* by descriptor number */
	Py_ssize_t size;
	int epoll;
	int (*pool)[2];         /* empty pipes */
	int pooled, pool_size;
	int rounds, many;
	size_t pipe_bytes;
	double now;
};

static double monotonic(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* -- pipes ------------------------------------------------------------------ */

static int take(struct turns *t, int pipe[2])
{
	if (!t->pooled)
		return pipe2(pipe, O_CLOEXEC | O_NONBLOCK);
	t->pooled--;
	pipe[0] = t->pool[t->pooled][0];
	pipe[1] = t->pool[t->pooled][1];
	return 0;
}

static void close_pipe(const int pipe[2])
{
	close(pipe[0]);
	close(pipe[1]);
}

/* Only an empty pipe may be kept: another stream gets it next. */
static void give(struct turns *t, const int pipe[2])
{
	if (t->pooled == t->pool_size) {
		close_pipe(pipe);
		return;
	}
	t->pool[t->pooled][0] = pipe[0];
	t->pool[t->pooled][1] = pipe[1];
	t->pooled++;
}

/* -- a turn ------------------------------------------------------------------ */

static enum state failed(struct end *e, enum state state)
{
	e->error = errno;
	return state;
}

/* Fill and drain in turn; the pipe is empty afterwards unless e->held. */
static enum state carry(struct turns *t, struct end *e, int rounds)
{
	const unsigned flags = SPLICE_F_NONBLOCK | SPLICE_F_MOVE;

	for (int round = 0; round < rounds; round++) {
		if (!e->held) {
			ssize_t n = splice(e->fd, NULL, e->pipe[1], NULL, t->pipe_bytes, flags);
			if (n < 0)
				return errno == EAGAIN ? FLOWING : failed(e, READ_FAILED);
			if (n == 0)
				return ENDED;
			e->held = (size_t)n;
		}
		size_t filled = e->held;
		while (e->held) {
			ssize_t n = splice(e->pipe[0], NULL, e->other->fd, NULL, e->held, flags);
			if (n < 0)
				return errno == EAGAIN ? BLOCKED : failed(e, WRITE_FAILED);
			e->held -= (size_t)n;
			e->count += (uint64_t)n;
		}
		/* A small fill has emptied the source, most likely. */
		if (filled < t->pipe_bytes / 4)
			break;
	}
	return FLOWING;
}

static enum state move(struct turns *t, struct end *e, int rounds)
{
	if (!e->held && take(t, e->pipe) < 0)
		return e->state = failed(e, READ_FAILED);
	e->state = carry(t, e, rounds);
	if (!e->held)
		give(t, e->pipe);
	if (e->state == ENDED) /* ENOTCONN: it is gone, which shows when it is read */
		shutdown(e->other->fd, SHUT_WR);
	return e->state;
}

/* Whether e sends nothing more and is not yet known to receive nothing more. */
static int half_closed(const struct end *e)
{
	return e->state == ENDED && e->other->state == FLOWING && !e->gone;
}

/* Make the epoll set agree with what is awaited from this side. */
static int watch(struct turns *t, struct end *e)
{
	struct epoll_event event = { 0 };
	uint32_t mask = (e->state == FLOWING ? (uint32_t)EPOLLIN : 0)
	              | (e->other->state == BLOCKED ? (uint32_t)EPOLLOUT : 0);

	/* EPOLLHUP cannot be masked, and would spin: who is not awaited is parked, as
	 * in engine.py.  It keeps its entry, because another might not be had. */
	if (!mask)
		mask = half_closed(e) ? EPOLLET : EPOLLONESHOT;
	if (mask == e->mask)
		return 0;
	event.events = mask;
	event.data.fd = e->fd;
	if (epoll_ctl(t->epoll, EPOLL_CTL_MOD, e->fd, &event) < 0)
		return -1;
	e->mask = mask;
	return 0;
}

enum outcome { BAD = -1, LEAVES, STAYS, OVER };

/* LEAVES: something for the engine.  BAD: errno. */
static enum outcome turn(struct turns *t, struct end *e, uint32_t events, int rounds)
{
	struct end *o = e->other;

	e->pair->active = t->now;
	if (e->state == FLOWING && events & ~(uint32_t)EPOLLOUT)
		if (move(t, e, rounds) > ENDED)
			return LEAVES;
	if (o->state == BLOCKED && events & ~(uint32_t)EPOLLIN)
		if (move(t, o, rounds) > ENDED)
			return LEAVES;
	if (half_closed(e) && events & (EPOLLHUP | EPOLLERR)) {
		/* Stop the other side from sending more; what it sent meets the error. */
		e->gone = 1;
		shutdown(o->fd, SHUT_RD);
		if (move(t, o, rounds) > ENDED)
			return LEAVES;
	}
	if (e->state == ENDED && o->state == ENDED)
		return OVER;
	return watch(t, e) < 0 || watch(t, o) < 0 ? BAD : STAYS;
}

/* -- what Python sees --------------------------------------------------------- */

static struct end *find(struct turns *t, int fd)
{
	return fd >= 0 && fd < t->size ? t->ends[fd] : NULL;
}

static struct end *known(struct turns *t, int fd)
{
	struct end *e = find(t, fd);
	if (!e)
		PyErr_Format(PyExc_KeyError, "no pair has the descriptor %d", fd);
	return e;
}

/* (fd, mask, state, held, count, error, pipe read, pipe write) */
static PyObject *described(const struct end *e)
{
	int has = e->held > 0;
	return Py_BuildValue("(iIinKiii)", e->fd, e->mask, (int)e->state,
	                     (Py_ssize_t)e->held, (unsigned long long)e->count, e->error,
	                     has ? e->pipe[0] : -1, has ? e->pipe[1] : -1);
}

static void forget(struct turns *t, struct pair *pair)
{
	t->ends[pair->a.fd] = t->ends[pair->b.fd] = NULL;
	PyMem_Free(pair);
}

/* Let go of a pair; a pipe that still holds bytes goes with it. */
static PyObject *let_go(struct turns *t, struct end *e)
{
	struct pair *pair = e->pair;
	PyObject *left = Py_BuildValue("(KdNN)", pair->token, pair->active,
	                               described(&pair->a), described(&pair->b));
	if (!left)
		return NULL;
	forget(t, pair);
	return left;
}

/* Another process may still have the file: only then closing is not enough. */
static void unwatch(struct turns *t, int fd)
{
	epoll_ctl(t->epoll, EPOLL_CTL_DEL, fd, NULL);
}

/* Close both sides of a pair of which both directions have ended. */
static PyObject *finish(struct turns *t, struct pair *pair)
{
	struct end *ends[] = { &pair->a, &pair->b };
	PyObject *over = Py_BuildValue("(KKK)", pair->token, (unsigned long long)pair->a.count,
	                               (unsigned long long)pair->b.count);
	if (!over)
		return NULL;
	for (int i = 0; i < 2; i++) {
		unwatch(t, ends[i]->fd);
		close(ends[i]->fd);
	}
	forget(t, pair);
	return over;
}

static int grow(struct turns *t, int fd)
{
	if (fd < t->size)
		return 0;
	Py_ssize_t size = t->size ? t->size : 64;
	while (size <= fd)
		size *= 2;
	struct end **ends = PyMem_Realloc(t->ends, (size_t)size * sizeof *ends);
	if (!ends) {
		PyErr_NoMemory();
		return -1;
	}
	for (Py_ssize_t i = t->size; i < size; i++)
		ends[i] = NULL;
	t->ends = ends;
	t->size = size;
	return 0;
}

static PyObject *turns_domains(PyObject *self, PyObject *args)
{
	int fd[2], domain[2];

	(void)self;
	if (!PyArg_ParseTuple(args, "ii", &fd[0], &fd[1]))
		return NULL;
	for (int i = 0; i < 2; i++) {
		socklen_t size = sizeof domain[i];
		if (getsockopt(fd[i], SOL_SOCKET, SO_DOMAIN, &domain[i], &size) < 0)
			return PyErr_SetFromErrno(PyExc_OSError);
	}
	return Py_BuildValue("(ii)", domain[0], domain[1]);
}

/* Have a socket wait for nothing, and its bytes awaited. */
static int enter(struct turns *t, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
	int on = 1;

	if (ioctl(fd, FIONBIO, &on) < 0)
		return -1;
	return epoll_ctl(t->epoll, EPOLL_CTL_ADD, fd, &event);
}

static PyObject *turns_adopt(PyObject *self, PyObject *args)
{
	struct turns *t = (struct turns *)self;
	unsigned long long token;
	int a, b;

	if (!PyArg_ParseTuple(args, "Kii", &token, &a, &b))
		return NULL;
	if (a < 0 || b < 0 || a == b || find(t, a) || find(t, b)) {
		PyErr_SetString(PyExc_ValueError, "not two new descriptors");
		return NULL;
	}
	if (grow(t, a) < 0 || grow(t, b) < 0)
		return NULL;
	struct pair *pair = PyMem_Calloc(1, sizeof *pair);
	if (!pair)
		return PyErr_NoMemory();
	if (enter(t, a) < 0 || enter(t, b) < 0) {
		PyErr_SetFromErrno(PyExc_OSError);
		unwatch(t, a);
		PyMem_Free(pair);
		return NULL;
	}
	pair->token = token;
	pair->active = monotonic();
	pair->a = (struct end){ .other = &pair->b, .pair = pair, .fd = a, .mask = EPOLLIN };
	pair->b = (struct end){ .other = &pair->a, .pair = pair, .fd = b, .mask = EPOLLIN };
	t->ends[a] = &pair->a;
	t->ends[b] = &pair->b;
	Py_RETURN_NONE;
}

static PyObject *turns_release(PyObject *self, PyObject *args)
{
	struct turns *t = (struct turns *)self;
	int fd;

	if (!PyArg_ParseTuple(args, "i", &fd))
		return NULL;
	struct end *e = known(t, fd);
	return e ? let_go(t, e) : NULL;
}

static PyObject *turns_look(PyObject *self, PyObject *args)
{
	struct turns *t = (struct turns *)self;
	int fd;

	if (!PyArg_ParseTuple(args, "i", &fd))
		return NULL;
	struct end *e = known(t, fd);
	if (!e)
		return NULL;
	return Py_BuildValue("(KdNN)", e->pair->token, e->pair->active,
	                     described(&e->pair->a), described(&e->pair->b));
}

/* One round: 0 and what is not ours appended to the lists, or -1. */
static int round_of(struct turns *t, const struct epoll_event *events, int n,
                    PyObject *others, PyObject *left, PyObject *over)
{
	int rounds = n > t->many ? 1 : t->rounds;

	for (int i = 0; i < n; i++) {
		struct end *e = find(t, events[i].data.fd);
		PyObject *item, *list;
		if (e) {
			enum outcome went = turn(t, e, events[i].events, rounds);
			if (went == STAYS)
				continue;
			if (went == BAD) {
				PyErr_SetFromErrno(PyExc_OSError);
				return -1;
			}
			list = went == OVER ? over : left;
			item = went == OVER ? finish(t, e->pair) : let_go(t, e);
		} else {
			item = Py_BuildValue("(iI)", events[i].data.fd, events[i].events);
			list = others;
		}
		if (!item)
			return -1;
		int bad = PyList_Append(list, item);
		Py_DecRef(item);
		if (bad)
			return -1;
	}
	return 0;
}

/* Milliseconds until then, rounded up: a little late is better than spinning. */
static int patience(const struct turns *t, double until)
{
	if (until < 0)
		return -1;
	double left = (until - t->now) * 1000 + 1;
	return left < 0 ? 0 : left > 1e9 ? 1000000000 : (int)left;
}

static PyObject *turns_wait(PyObject *self, PyObject *args)
{
	struct turns *t = (struct turns *)self;
	struct epoll_event events[EVENTS];
	double until;

	if (!PyArg_ParseTuple(args, "d", &until))
		return NULL;
	PyObject *others = PyList_New(0), *left = PyList_New(0), *over = PyList_New(0);
	if (!others || !left || !over)
		goto fail;
	t->now = monotonic();
	do {
		int n, wait = patience(t, until);
		Py_BEGIN_ALLOW_THREADS
		n = epoll_wait(t->epoll, events, EVENTS, wait);
		Py_END_ALLOW_THREADS
		t->now = monotonic();
		if (n < 0 && errno != EINTR) {
			PyErr_SetFromErrno(PyExc_OSError);
			goto fail;
		}
		if (n < 0 && PyErr_CheckSignals())
			goto fail;
		if (n > 0 && round_of(t, events, n, others, left, over) < 0)
			goto fail;
	} while (!PyList_Size(others) && !PyList_Size(left) && !PyList_Size(over)
	         && (until < 0 || t->now < until));
	return Py_BuildValue("(dNNN)", t->now, others, left, over);
fail:
	Py_DecRef(others);
	Py_DecRef(left);
	Py_DecRef(over);
	return NULL;
}

static PyObject *turns_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "epoll", "pipe_bytes", "rounds", "many", "pool", NULL };
	int epoll, rounds, many, pool;
	Py_ssize_t pipe_bytes;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iniii", names, &epoll, &pipe_bytes,
	                                 &rounds, &many, &pool))
		return NULL;
	if (pipe_bytes <= 0 || rounds <= 0 || many < 0 || pool < 0) {
		PyErr_SetString(PyExc_ValueError, "sizes are positive");
		return NULL;
	}
	allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct turns *t = (struct turns *)alloc(type, 0);
	if (!t)
		return NULL;
	t->pool = PyMem_Calloc((size_t)pool + 1, sizeof *t->pool);
	if (!t->pool) {
		Py_DecRef((PyObject *)t);
		return PyErr_NoMemory();
	}
	t->epoll = epoll;
	t->pipe_bytes = (size_t)pipe_bytes;
	t->rounds = rounds;
	t->many = many;
	t->pool_size = pool;
	return (PyObject *)t;
}

static void turns_dealloc(PyObject *self)
{
	struct turns *t = (struct turns *)self;
	PyTypeObject *type = Py_TYPE(self);

	for (Py_ssize_t i = 0; i < t->size; i++) {
		struct end *e = t->ends[i];
		if (!e)
			continue;
		if (e->held)
			close_pipe(e->pipe);
		t->ends[i] = NULL;
		if (t->ends[e->other->fd] == NULL)
			PyMem_Free(e->pair);
	}
	while (t->pooled)
		close_pipe(t->pool[--t->pooled]);
	PyMem_Free(t->pool);
	PyMem_Free(t->ends);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	release(self);
	Py_DecRef((PyObject *)type);
}

static PyMethodDef methods[] = {
	{ "domains", turns_domains, METH_VARARGS, "The families of two sockets." },
	{ "adopt", turns_adopt, METH_VARARGS,
	  "Take a token's two sockets; they are the caller's still where that fails." },
	{ "release", turns_release, METH_VARARGS, "Let go of the pair with this socket." },
	{ "look", turns_look, METH_VARARGS, "How the pair with this socket stands." },
	{ "wait", turns_wait, METH_VARARGS,
	  "Take turns until a moment, or until something is not ours." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_new, turns_new },
	{ Py_tp_dealloc, turns_dealloc },
	{ Py_tp_methods, methods },
	{ Py_tp_doc, "Turns of streams in which bytes just flow (see turns.py)." },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "broker.helpers.pump._turns.Turns",
	.basicsize = sizeof(struct turns),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = slots,
};

static int fill_module(PyObject *module)
{
	PyObject *type = PyType_FromSpec(&spec);
	if (!type)
		return -1;
	int bad = PyModule_AddObjectRef(module, "Turns", type);
	Py_DecRef(type);
	return bad;
}

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, fill_module },
	{ 0, NULL },
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_turns",
	.m_doc = "The pump's hot path in C; optional.",
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__turns(void)
{
	return PyModuleDef_Init(&module);
}
