/* Vitrail's agent for a guest without Python: one program without libc.
 *
 * It speaks to the broker as version 3 of shims/guest does (broker/ipc/agent.py): it
 * starts programs, reports output and end, and carries the connections of one waypipe
 * server and of sound.  For programs of the broker it is vitrail-files, vitrail-copy and
 * vitrail-open as well.  It maps no shared folders, draws in no arena, provides no bus.
 *
 *     vitrail-agent                 the agent
 *     vitrail-copy, vitrail-open    by these names
 *
 * A broker is believed no length: frames, lists, names and numbers have bounds, and a
 * message that has others ends the connection.  Nothing is allocated.
 */
#include "system.h"
#include "json.h"

static char **environment;

static const char *variable(const char *name, const char *otherwise)
{
	for (char **at = environment; at && *at; at++)
		if (starts(*at, name) && (*at)[strlen(name)] == '=')
			return *at + strlen(name) + 1;
	return otherwise;
}

static const struct { const char *name; unsigned port; } ports[] = {
	{ "VITRAIL_AGENT", 6500 }, { "VITRAIL_DISPLAY", 6501 }, { "VITRAIL_AUDIO", 6502 },
	{ "VITRAIL_OPEN_URL", 6510 }, { "VITRAIL_COPY", 6512 },
};

/* Connect to ``vsock:CID:PORT`` or ``unix:PATH``; by default port 65xx of the host. */
static int reach(const char *name)
{
	struct sockaddr_vm vm = { .svm_family = AF_VSOCK_, .svm_cid = VMADDR_CID_HOST };
	struct sockaddr_un un = { .sun_family = 1 };
	const char *text = variable(name, "");
	long fd, code;
	for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
		if (same(ports[i].name, name))
			vm.svm_port = ports[i].port;
	if (starts(text, "vsock:")) {
		unsigned numbers[2] = { 0, 0 };
		int at = 0;
		for (text += 6; *text; text++) {
			if (*text == ':' && !at)
				at++;
			else if (*text >= '0' && *text <= '9')
				numbers[at] = numbers[at] * 10 + (unsigned)(*text - '0');
			else
				return -EINVAL;
		}
		vm.svm_cid = numbers[0];
		vm.svm_port = numbers[1];
	}
	if (starts(text, "unix:")) {
		if (strlen(text + 5) >= sizeof un.sun_path)
			return -EINVAL;
		memcpy(un.sun_path, text + 5, strlen(text + 5) + 1);
		fd = CALL(socket, un.sun_family, STREAM | CLOEXEC, 0);
		code = fd < 0 ? fd : CALL(connect, fd, &un, sizeof un);
	} else {
		fd = CALL(socket, AF_VSOCK_, STREAM | CLOEXEC, 0);
		code = fd < 0 ? fd : CALL(connect, fd, &vm, sizeof vm);
	}
	if (code < 0 && fd >= 0)
		CALL(close, fd);
	return (int)(code < 0 ? code : fd);
}

static long fork_(void) { return CALL(clone, CHLD, 0, 0, 0, 0); }

static void end(int code)
{
	for (;;)
		CALL(exit_group, code);
}

static void wait_ms(long ms)
{
	struct pause_time t = { ms / 1000, ms % 1000 * 1000000 };
	CALL(ppoll, 0, 0, &t, 0, 0);
}

static long seconds(void)
{
	struct pause_time t;
	CALL(clock_gettime, 7 /* CLOCK_BOOTTIME */, &t);
	return t.seconds;
}

/* SIGPIPE: a program that reads no more of its input must not end the agent. */
static void pipe_signal(bool block)
{
	uint64_t set = 1ull << (PIPE_ - 1);
	CALL(rt_sigprocmask, block ? 0 : 1, &set, 0, 8);
}

/* Look for a program in PATH as a shell does; returns an errno. */
static long run_program(char **argv, char **env)
{
	static char path[4500];
	const char *folders = variable("PATH", "/usr/local/bin:/usr/bin:/bin");
	long code = -ENOENT;
	for (const char *at = argv[0]; *at; at++)
		if (*at == '/')
			return CALL(execve, argv[0], argv, env);
	while (*folders) {
		struct text t = TEXT(path);
		size_t size = 0;
		while (folders[size] && folders[size] != ':')
			size++;
		put(&t, folders, size);
		put_text(&t, "/");
		put_text(&t, argv[0]);
		folders += size + (folders[size] == ':');
		if (!t.full && size) {
			long found = CALL(execve, path, argv, env);
			code = found == -ENOENT ? code : found;
		}
	}
	return code;
}

static int run_and_wait(char **argv)
{
	int status = 0;
	long pid = fork_();
	if (!pid) {
		long code = run_program(argv, environment);
		end(code == -ENOENT ? 127 : 126);
	}
	if (pid < 0 || CALL(wait4, pid, &status, 0, 0) != pid)
		return 1;
	return status & 127 ? 128 + (status & 127) : status >> 8 & 255;
}

#include "files.h"

enum {
	PROGRAMS = 32, RELAYS = 64, INPUT_BYTES = 32768, OUTPUT_BYTES = 8192,
	CONTROL_BYTES = 3584, SILENCE = 6, FIRST_SILENCE = 60, LOST_PINGS = 4,
};

struct program {
	long long number;
	long pid;
	int output, input, status, pidfd, code;
	bool tty, started, ended, failed, input_ends;
	size_t waiting;
	char unwritten[INPUT_BYTES];
};

static struct {
	int fd, doors[2], feed;
	char in[4 + FRAME_BYTES + 1];
	size_t filled;
	char serving[40];
	long heard, display;
	int unseen;
	bool greeted;
	struct program programs[PROGRAMS];
	struct { long pid; bool display; } relays[RELAYS];
	char runtime[100], session[100];
} agent;

static void lose(const char *why)
{
	if (agent.fd < 0)
		return;
	say("lost the connection to the broker: ", why, "");
	CALL(close, agent.fd);
	agent.fd = -1;
}

/* No transport loses a part of a piece of this size (CONTROL_PIECE_BYTES). */
static void send_message(const struct text *t)
{
	static char frame[4 + FRAME_BYTES];
	if (agent.fd < 0 || t->full)
		return;
	uint32_t size = (uint32_t)t->used;
	for (int i = 0; i < 4; i++)
		frame[i] = (char)(size >> (8 * i));
	memcpy(frame + 4, t->data, t->used);
	for (size_t at = 0, all = t->used + 4; at < all;) {
		size_t step = all - at < CONTROL_BYTES ? all - at : CONTROL_BYTES;
		long done = CALL(sendto, agent.fd, frame + at, step, NOSIGNAL, 0, 0);
		if (done == -EINTR)
			continue;
		if (done <= 0) {
			lose("it reads nothing");
			return;
		}
		at += (size_t)done;
	}
}

static void report(const char *type, const struct program *p, const char *key, long long number, const char *text)
{
	char buffer[1200];
	struct text t = TEXT(buffer);
	put_text(&t, "{\"type\":\"");
	put_text(&t, type);
	put_text(&t, "\",\"program\":");
	put_number(&t, p->number);
	if (key) {
		put_text(&t, ",\"");
		put_text(&t, key);
		put_text(&t, "\":");
	}
	if (text)
		put_string(&t, text);
	else if (key)
		put_number(&t, number);
	put_text(&t, "}");
	send_message(&t);
}

static void hop(const char *name, const char *detail)
{
	char buffer[600];
	struct text t = TEXT(buffer);
	put_text(&t, "{\"type\":\"hop\",\"name\":");
	put_string(&t, name);
	put_text(&t, *detail ? ",\"ok\":false,\"detail\":" : ",\"ok\":true,\"detail\":");
	put_string(&t, detail);
	put_text(&t, "}");
	send_message(&t);
}

static void greet(void)
{
	struct kernel_names names;
	char buffer[2048];
	struct text t = TEXT(buffer);
	CALL(uname, &names);
	put_text(&t, "{\"type\":\"hello\",\"version\":3,\"waypipe\":\"unknown\",\"kernel\":");
	put_string(&t, names.words[2]);
	put_text(&t, ",\"programs\":[");
	bool first = true;
	for (size_t i = 0; i < PROGRAMS; i++) {
		if (!agent.programs[i].number)
			continue;
		put_text(&t, first ? "" : ",");
		put_number(&t, agent.programs[i].number);
		first = false;
	}
	put_text(&t, "]}");
	send_message(&t);
}

#include "carry.h"
#include "programs.h"

static void power_off(void)
{
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < PROGRAMS; i++)
			if (agent.programs[i].number && agent.programs[i].pid > 0)
				CALL(kill, -agent.programs[i].pid, round ? KILL_ : TERM);
		for (int i = 0; i < 40 && !round; i++) {
			bool running = false;
			reap();
			for (size_t j = 0; j < PROGRAMS; j++)
				running = running || (agent.programs[j].number && agent.programs[j].pid > 0);
			if (!running)
				break;
			wait_ms(50);
		}
	}
	reap();
	for (size_t i = 0; i < PROGRAMS; i++)
		settle(&agent.programs[i]);
	cut(false);
	if (agent.display > 0)
		CALL(kill, agent.display, TERM);
	end(0);
}

static void pinged(const struct message *m)
{
	struct text t = TEXT(agent.serving);
	bool other = *agent.serving && m->serving && !same(agent.serving, m->serving);
	t.used = 0;
	put_text(&t, m->serving ? m->serving : "");
	agent.unseen = m->displays ? 0 : agent.unseen + 1;
	if (other || agent.unseen >= LOST_PINGS) {
		cut(!other);
		agent.unseen = 0;
	}
	agent.greeted = true;
}

/* Carry out a message; returns whether it was one. */
static bool obey(const struct message *m)
{
	bool mine = m->program > 0 && m->program <= 0xffffffffll;
	struct program *p = mine ? find(m->program) : NULL;
	if (same(m->type, "ping")) {
		pinged(m);
	} else if (same(m->type, "poweroff")) {
		power_off();
	} else if (same(m->type, "run")) {
		if (!mine || !m->words || !*m->argv[0])
			return false;
		run(m);
	} else if (same(m->type, "signal")) {
		if (!mine || m->number < 1 || m->number > 64)
			return false;
		if (p && p->pid > 0)
			CALL(kill, -p->pid, m->number);
	} else if (same(m->type, "input")) {
		long size = m->data ? from_base64(m->data) : 0;
		if (!mine || size < 0)
			return false;
		if (p)
			feed(p, m, (size_t)size);
	} else if (same(m->type, "resize")) {
		if (!mine || m->rows < 1 || m->columns < 1)
			return false;
		if (p && p->tty && p->output >= 0)
			set_size(p->output, m);
	} else {
		return false;
	}
	return true;
}

/* Act on the whole frames that have come. */
static void read_broker(void)
{
	static struct message m;
	long got = CALL(recvfrom, agent.fd, agent.in + agent.filled, sizeof agent.in - 1 - agent.filled, 0x40, 0, 0);
	if (got == -EAGAIN || got == -EINTR)
		return;
	if (got <= 0) {
		lose("it closed the connection");
		return;
	}
	agent.filled += (size_t)got;
	agent.heard = seconds();
	while (agent.fd >= 0 && agent.filled >= 4) {
		const unsigned char *head = (const unsigned char *)agent.in;
		uint32_t size = head[0] | head[1] << 8 | head[2] << 16 | (uint32_t)head[3] << 24;
		if (!size || size > FRAME_BYTES) {
			lose("invalid frame size");
			return;
		}
		if (agent.filled < 4 + (size_t)size)
			return;
		// The byte behind the frame is the next one's: decode() ends the text there.
		char behind = agent.in[4 + size];
		bool good = decode(agent.in + 4, size, &m) && obey(&m);
		agent.in[4 + size] = behind;
		if (!good) {
			lose("invalid message");
			return;
		}
		agent.filled -= 4 + (size_t)size;
		memmove(agent.in, agent.in + 4 + size, agent.filled);
	}
}

static void connect_broker(void)
{
	struct pause_time most = { 30, 0 };
	agent.fd = reach("VITRAIL_AGENT");
	if (agent.fd < 0) {
		wait_ms(1000);
		return;
	}
	CALL(setsockopt, agent.fd, SOL_SOCKET_, SEND_TIMEOUT, &most, sizeof most);
	agent.filled = 0;
	agent.greeted = false;
	agent.heard = seconds();
	greet();
}

static void watch_programs(struct poll_entry *p, size_t *count, const struct program *of[])
{
	for (size_t i = 0; i < PROGRAMS; i++) {
		const struct program *one = &agent.programs[i];
		const struct { int fd; short events; } all[] = { { one->status, IN }, { one->pidfd, IN },
			{ one->output, IN }, { one->waiting ? one->input : -1, OUT } };
		if (!one->number)
			continue;
		for (size_t j = 0; j < 4; j++) {
			// Output and news wait for the broker.
			if (all[j].fd < 0 || (agent.fd < 0 && j != 1))
				continue;
			of[*count] = one;
			p[(*count)++] = (struct poll_entry){ all[j].fd, all[j].events, 0 };
		}
	}
}

static void turn(void)
{
	static struct poll_entry p[3 + 4 * PROGRAMS];
	static const struct program *of[3 + 4 * PROGRAMS];
	size_t count = 0;
	struct pause_time most = { 1, 0 };
	for (int i = 0; i < 2; i++)
		p[count++] = (struct poll_entry){ agent.doors[i], IN, 0 };
	p[count++] = (struct poll_entry){ agent.fd, IN, 0 };
	watch_programs(p, &count, of);
	CALL(ppoll, p, count, &most, 0, 0);
	for (int i = 0; i < 2; i++)
		if (p[i].found & IN)
			accept_one(i);
	for (size_t i = 3; i < count; i++) {
		struct program *one = (struct program *)of[i];
		if (!p[i].found || !one->number)
			continue;
		if (p[i].fd == one->status)
			read_status(one);
		else if (p[i].fd == one->output)
			read_output(one);
		else if (p[i].fd == one->input)
			write_input(one);
	}
	reap();
	for (size_t i = 0; i < PROGRAMS; i++)
		settle(&agent.programs[i]);
	if (agent.fd >= 0 && p[2].found)
		read_broker();
	if (agent.fd >= 0 && seconds() - agent.heard > (agent.greeted ? SILENCE : FIRST_SILENCE))
		lose("it sent nothing");
}

static void set_up(void)
{
	struct text runtime = TEXT(agent.runtime), session = TEXT(agent.session);
	put_text(&session, variable("XDG_RUNTIME_DIR", "/tmp"));
	put_text(&runtime, variable("VITRAIL_RUNTIME", ""));
	if (!runtime.used) {
		put_text(&runtime, agent.session);
		put_text(&runtime, "/vitrail");
	}
	if (session.full || runtime.full) {
		say("XDG_RUNTIME_DIR or VITRAIL_RUNTIME is too long", "", "");
		end(1);
	}
	CALL(mkdirat, AT_CWD, agent.runtime, 0700);
	agent.doors[0] = listen_at(agent.runtime, "/display");
	agent.doors[1] = listen_at(agent.runtime, "/audio");
	agent.fd = -1;
	pipe_signal(true);
}

int start(int argc, char **argv, char **env);
int start(int argc, char **argv, char **env)
{
	environment = env;
	if (argc > 0) {
		argv[0] = (char *)base_name(argv[0]);
		if (is_tool(argv[0]))
			return tool(argv, (size_t)argc);
	}
	set_up();
	start_display();
	for (;;) {
		if (agent.fd < 0)
			connect_broker();
		turn();
	}
}

#ifndef HOSTED
__attribute__((used)) static void begin(long *stack)
{
	end(start((int)*stack, (char **)(stack + 1), (char **)(stack + 2 + *stack)));
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl begin\n");
#endif
#endif
