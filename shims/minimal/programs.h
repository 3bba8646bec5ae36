/* The programs that the broker asks for: input, output, ends. */
static struct program *find(long long number_)
{
	for (size_t i = 0; i < PROGRAMS; i++)
		if (agent.programs[i].number == number_)
			return &agent.programs[i];
	return NULL;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		CALL(close, *fd);
	*fd = -1;
}

static void set_size(int fd, const struct message *m)
{
	struct terminal_size size = { (unsigned short)(m->rows & 65535), (unsigned short)(m->columns & 65535), 0, 0 };
	CALL(ioctl, fd, SET_SIZE, &size);
}

/* The variables of a program: the agent's, the display's, then the broker's. */
static char **variables(const struct message *m)
{
	static char *env[3 * WORDS];
	static char texts[FRAME_BYTES + 4096];
	static const char *const shown[] = { "WAYLAND_DISPLAY=vitrail-0", "XDG_SESSION_TYPE=wayland",
		"GDK_BACKEND=wayland", "QT_QPA_PLATFORM=wayland", "SDL_VIDEODRIVER=wayland", "MOZ_ENABLE_WAYLAND=1" };
	struct text t = TEXT(texts);
	size_t used = 0;
	for (size_t i = 0; i < m->names; i++) {
		env[used++] = texts + t.used;
		put_text(&t, m->name[i]);
		put_text(&t, "=");
		put_text(&t, m->value[i]);
		put(&t, "", 1);
	}
	env[used++] = texts + t.used;
	put_text(&t, "XDG_RUNTIME_DIR=");
	put_text(&t, agent.session);
	put(&t, "", 1);
	env[used++] = texts + t.used;
	put_text(&t, "PULSE_SERVER=unix:");
	put_text(&t, agent.runtime);
	put_text(&t, "/audio");
	put(&t, "", 1);
	for (size_t i = 0; m->display && i < sizeof shown / sizeof *shown; i++)
		env[used++] = (char *)shown[i];
	size_t ours = used;
	for (char **at = environment; *at && used < sizeof env / sizeof *env - 1; at++) {
		bool again = false;
		for (size_t i = 0; i < ours && !again; i++) {
			size_t name = 0;
			while (env[i][name] && env[i][name] != '=')
				name++;
			again = starts(*at, "WAYLAND_DISPLAY=") || starts(*at, "DISPLAY=");
			size_t j = 0;
			while (j <= name && (*at)[j] == env[i][j])
				j++;
			again = again || j > name;
		}
		if (!again)
			env[used++] = *at;
	}
	env[used] = NULL;
	return t.full ? NULL : env;
}

/* In the new process: the display first, as far as it takes. */
static void become(const struct message *m, int source, int sink, int status)
{
	static char place[200];
	struct text t = TEXT(place);
	char **env = variables(m);
	const char *home = variable("HOME", "/");
	CALL(setsid, 0);
	CALL(dup3, source, 0, 0);
	CALL(dup3, sink, 1, 0);
	CALL(dup3, sink, 2, 0);
	if (m->tty)
		CALL(ioctl, 0, SET_TTY, 0);
	put_text(&t, agent.session);
	put_text(&t, "/vitrail-0");
	for (int i = 0; m->display && i < 1000 && CALL(faccessat, AT_CWD, place, 0); i++)
		wait_ms(20);
	pipe_signal(false);
	CALL(chdir, home);
	char **argv = (char **)m->argv;
	long code = -E2BIG;
	if (env) {
		environment = env;
		if (is_tool(argv[0])) {
			CALL(close, status);
			end(tool(argv, m->words));
		}
		code = run_program(argv, env);
	}
	char byte = (char)-code;
	write_all(status, &byte, 1);
	end(127);
}

static bool open_streams(struct program *p, const struct message *m, int *source, int *sink)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 };
	if (m->tty) {
		int unlocked = 0;
		p->output = (int)CALL(openat, AT_CWD, "/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK, 0);
		if (p->output < 0 || CALL(ioctl, p->output, UNLOCK_TTY, &unlocked))
			return false;
		*source = (int)CALL(ioctl, p->output, PEER_TTY, O_RDWR | O_NOCTTY | O_CLOEXEC);
		*sink = *source;
		set_size(p->output, m);
		p->input = (int)CALL(fcntl, p->output, F_DUPFD_CLOEXEC, 3);
		return *source >= 0 && p->input >= 0;
	}
	if (CALL(pipe2, out, CLOEXEC))
		return false;
	p->output = out[0];
	*sink = out[1];
	CALL(fcntl, p->output, F_SETFL, NONBLOCK);
	if (!m->input)
		return (*source = (int)CALL(openat, AT_CWD, "/dev/null", O_RDONLY | O_CLOEXEC, 0)) >= 0;
	if (CALL(pipe2, in, CLOEXEC))
		return false;
	*source = in[0];
	p->input = in[1];
	CALL(fcntl, p->input, F_SETFL, NONBLOCK);
	return true;
}

static void forget(struct program *p)
{
	close_fd(&p->output);
	close_fd(&p->input);
	close_fd(&p->status);
	close_fd(&p->pidfd);
	p->number = 0;
}

static void run(const struct message *m)
{
	struct program *p = find(m->program) ? NULL : find(0);
	struct program none = { .number = m->program };
	int source = -1, sink = -1, status[2] = { -1, -1 };
	if (!p) {
		report("failed", &none, "reason", 0, "it is running already, or too many programs are");
		return;
	}
	memset(p, 0, sizeof *p);
	p->output = p->input = p->status = p->pidfd = -1;
	p->number = m->program;
	p->tty = m->tty;
	if (m->display)
		start_display();
	bool good = open_streams(p, m, &source, &sink) && !CALL(pipe2, status, CLOEXEC);
	p->pid = good ? fork_() : -1;
	if (!p->pid)
		become(m, source, sink, status[1]);
	p->status = status[0];
	close_fd(&status[1]);
	close_fd(&source);
	if (!m->tty)
		close_fd(&sink);
	p->pidfd = p->pid > 0 ? (int)CALL(pidfd_open, p->pid, 0) : -1;
	if (p->pid < 0 || p->pidfd < 0) {
		if (p->pid > 0)
			CALL(kill, p->pid, KILL_);
		report("failed", p, "reason", 0, "the guest has no room for a process");
		forget(p);
	}
}

static void took(struct program *p, size_t count)
{
	if (count)
		report("taken", p, "count", (long long)count, NULL);
}

static void write_input(struct program *p)
{
	while (p->input >= 0 && p->waiting) {
		long done = CALL(write, p->input, p->unwritten, p->waiting);
		if (done == -EAGAIN || done == -EINTR)
			return;
		if (done <= 0) {
			// Nothing reads it any more: the rest is lost, as with a closed pipe.
			done = (long)p->waiting;
			close_fd(&p->input);
		}
		p->waiting -= (size_t)done;
		memmove(p->unwritten, p->unwritten + done, p->waiting);
		took(p, (size_t)done);
	}
	if (p->input >= 0 && p->input_ends) {
		if (p->tty)
			CALL(write, p->input, "\4", 1);
		close_fd(&p->input);
	}
}

static void feed(struct program *p, const struct message *m, size_t size)
{
	if (p->input_ends || size > INPUT_BYTES - p->waiting)
		return;
	if (p->input < 0) {
		took(p, size);
		return;
	}
	memcpy(p->unwritten + p->waiting, m->data, size);
	p->waiting += size;
	p->input_ends = m->end;
	write_input(p);
}

/* Send what a program has written; returns whether there may be more. */
static bool read_output(struct program *p)
{
	static unsigned char data[OUTPUT_BYTES];
	static char buffer[2 * OUTPUT_BYTES];
	struct text t = TEXT(buffer);
	long got = p->output < 0 ? 0 : CALL(read, p->output, data, sizeof data);
	if (got == -EAGAIN || got == -EINTR)
		return false;
	if (got <= 0) {
		close_fd(&p->output);
		return false;
	}
	put_text(&t, "{\"type\":\"output\",\"program\":");
	put_number(&t, p->number);
	put_text(&t, ",\"data\":\"");
	put_base64(&t, data, (size_t)got);
	put_text(&t, "\"}");
	send_message(&t);
	return true;
}

static void read_status(struct program *p)
{
	unsigned char code = 0;
	char why[200];
	struct text t = TEXT(why);
	long got = CALL(read, p->status, &code, 1);
	close_fd(&p->status);
	if (got == 1) {
		put_text(&t, code == ENOENT ? "the program is not installed in the guest" : "it cannot be executed: errno ");
		if (code != ENOENT)
			put_number(&t, code);
		report("failed", p, "reason", 0, why);
		p->failed = true;
		return;
	}
	p->started = true;
	report("started", p, NULL, 0, NULL);
}

/* Report what has ended; not before there is a broker. */
static void settle(struct program *p)
{
	if (!p->number || !p->ended || agent.fd < 0)
		return;
	if (p->status >= 0)
		read_status(p);
	// A grandchild may hold the pipe open forever, so its end is not waited for.
	for (int i = 0; i < 256 && read_output(p);)
		i++;
	if (!p->failed)
		report("exited", p, "code", p->code, NULL);
	if (agent.fd >= 0)
		forget(p);
}

static void reap(void)
{
	int status;
	long pid;
	while ((pid = CALL(wait4, -1, &status, NOHANG, 0)) > 0) {
		int code = status & 127 ? -(status & 127) : status >> 8 & 255;
		if (pid == agent.display) {
			agent.display = 0;
			cut(true);
			hop("waypipe", code == 127 ? "waypipe is not installed in the guest" : "waypipe has ended");
		}
		for (size_t i = 0; i < RELAYS; i++)
			if (agent.relays[i].pid == pid) {
				agent.relays[i].pid = 0;
				if (code == 1)
					hop(agent.relays[i].display ? "display" : "audio", "cannot connect to the broker's port");
			}
		for (size_t i = 0; i < PROGRAMS; i++) {
			struct program *p = &agent.programs[i];
			if (p->number && p->pid == pid) {
				p->code = code;
				p->ended = true;
				p->pid = 0;
				close_fd(&p->pidfd);
			}
		}
	}
}
