/* Fuzz target: the guest's agent in C (shims/minimal), its broker being hostile.
 *
 * The kernel's calls are answered here, at random and within what the kernel may answer;
 * nothing is started and no file is opened.  fuzz/minimal_agent.py has the invariant.
 *
 *     minimal_agent SECONDS SEED SESSIONS
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HOSTED
#define MOCKED
#include "../shims/minimal/agent.c"

enum { STREAM_BYTES = 400000 };

static uint64_t state;
static unsigned char stream[STREAM_BYTES];
static size_t length, at;
static jmp_buf out;
static unsigned long long messages, sent, started, connected, calls;
static long next_pid;
static size_t frame_left, head_got;
static unsigned char head[4];

static uint64_t draw(uint64_t below)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return below ? state % below : 0;
}

static void finding(const char *what)
{
	fprintf(stderr, "finding: %s\n", what);
	abort();
}

/* What the agent sends is frames of a size that the broker takes. */
static void check_sent(const unsigned char *data, size_t size)
{
	while (size) {
		if (frame_left) {
			size_t step = size < frame_left ? size : frame_left;
			frame_left -= step, data += step, size -= step;
			continue;
		}
		head[head_got++] = *data++, size--;
		if (head_got == 4) {
			head_got = 0;
			frame_left = head[0] | head[1] << 8 | head[2] << 16 | (size_t)head[3] << 24;
			if (!frame_left || frame_left > FRAME_BYTES)
				finding("a frame of the agent has a wrong size");
			sent++;
		}
	}
}

static long from_stream(char *to, size_t size)
{
	size_t left = length - at, step = 1 + draw(draw(4) ? 70000 : 8);
	step = step < size ? step : size;
	step = step < left ? step : left;
	memcpy(to, stream + at, step);
	at += step;
	return (long)step;
}

static long call6(long n, long a, long b, long c, long d, long e, long f)
{
	(void)d, (void)e, (void)f;
	if (++calls > 60000)
		longjmp(out, 2);
	switch (n) {
	case __NR_exit_group:
		longjmp(out, 1);
	case __NR_recvfrom:
		return draw(8) ? from_stream((char *)b, (size_t)c) : -EAGAIN;
	case __NR_sendto:
		if (!draw(4000)) {
			frame_left = head_got = 0;  /* the next bytes are another connection's */
			return -EPIPE;
		}
		c = draw(4) ? c : (long)(1 + draw((uint64_t)c));
		check_sent((unsigned char *)b, (size_t)c);
		return c;
	case __NR_read:
		if (!draw(8))
			return draw(2) ? 0 : -EINTR;
		return from_stream((char *)b, (size_t)c);
	case __NR_write:
		return draw(8) ? c : draw(2) ? (long)(1 + draw((uint64_t)c)) : -EAGAIN;
	case __NR_clone:
		return draw(8) ? started++, ++next_pid : -EAGAIN;
	case __NR_wait4:
		if (a != -1)
			return a;
		*(int *)b = (int)draw(65536);
		return draw(2) && next_pid > 100 ? 100 + (long)draw((uint64_t)(next_pid - 99)) : 0;
	case __NR_ppoll:
		for (long i = 0; a && i < b; i++)
			((struct poll_entry *)a)[i].found = (short)(draw(2) ? IN | OUT : 0);
		return 1;
	case __NR_pipe2:
		((int *)a)[0] = 10 + (int)draw(1000), ((int *)a)[1] = 10 + (int)draw(1000);
		return draw(16) ? 0 : -EMFILE;
	case __NR_uname:
		memset((void *)a, 'k', sizeof(struct kernel_names) - 1);
		((struct kernel_names *)a)->words[2][64] = 0;
		return 0;
	case __NR_clock_gettime:
		((struct pause_time *)b)->seconds = 1 + (long)(calls / 1000);
		return 0;
	case __NR_statx:
		((struct statx *)e)->stx_mode = PLAIN_FILE, ((struct statx *)e)->stx_size = draw(100000);
		return 0;
	case __NR_socket: case __NR_openat: case __NR_pidfd_open: case __NR_accept4: case __NR_fcntl:
		return draw(16) ? 10 + (long)draw(1000) : -EMFILE;
	case __NR_execve:
		return -ENOENT;
	case __NR_renameat2:
		return draw(3) ? 0 : draw(2) ? -EEXIST : -ENOSPC;
	default:
		return draw(64) || n == __NR_close || n == __NR_getpid ? 0 : -EIO;
	}
}

static void add(const char *text, size_t size)
{
	if (size > STREAM_BYTES - length)
		size = STREAM_BYTES - length;
	memcpy(stream + length, text, size);
	length += size;
}

/* A text in quotes: often plain, sometimes long, escaped or broken. */
static void add_string(char *body, size_t *used, const char *plain_text)
{
	static const char *const odd[] = { "\\u0000", "\\ud83d\\ude00", "\\ud83d", "\\u00e9", "\\", "\\\"", "\x01",
		"..", "/", "=", "\\/", "\xc3", "-", "\\u12", "AAAA" };
	size_t size = draw(12) ? 0 : draw(draw(3) ? 300 : 60000);
	*used += (size_t)sprintf(body + *used, "\"%s", draw(5) ? plain_text : odd[draw(sizeof odd / sizeof *odd)]);
	while (size-- && *used < 60000)
		body[(*used)++] = "aA=/.\\"[draw(draw(200) ? 2 : 6)];
	*used += (size_t)sprintf(body + *used, "\"");
}

static size_t make_body(char *body)
{
	static const char *const types[] = { "run", "ping", "input", "signal", "resize", "mount", "delivery", "file", "dir",
		"end", "go", "wait", "refused", "done", "hello" };
	static const char *const numbers[] = { "program", "number", "rows", "columns", "displays", "size", "window" };
	static const char *const values[] = { "1", "2", "3", "0", "-1", "65", "99999999999999999", "1e9", "4294967296",
		"999999999999999999999", "7.5", "null", "true", "[[[[[[", "24" };
	static const char *const truths[] = { "display", "stdin", "tty", "end", "open", "stderr" };
	static const char *const texts[] = { "data", "serving", "source", "reason", "what", "back" };
	size_t used = 0, count = draw(9);
	used += (size_t)sprintf(body, "{\"type\":");
	add_string(body, &used, types[draw(sizeof types / sizeof *types)]);
	if (draw(4))
		used += (size_t)sprintf(body + used, ",\"program\":%d", 1 + (int)draw(40));
	for (size_t i = 0; i < count && used < 58000; i++) {
		size_t items = draw(6) ? draw(4) : draw(3000);
		switch (draw(6)) {
		case 0:
			used += (size_t)sprintf(body + used, ",\"%s\":%s", numbers[draw(7)], values[draw(15)]);
			break;
		case 1:
			used += (size_t)sprintf(body + used, ",\"%s\":%s", truths[draw(6)], draw(9) ? "true" : "tru");
			break;
		case 2:
			used += (size_t)sprintf(body + used, ",\"%s\":", texts[draw(6)]);
			add_string(body, &used, draw(2) ? "aGVsbG8=" : "work");
			break;
		case 3: case 4:
			used += (size_t)sprintf(body + used, ",\"%s\":[", draw(3) ? "argv" : "path");
			for (size_t j = 0; j < items && used < 59000; j++) {
				used += (size_t)sprintf(body + used, "%s", j ? "," : "");
				if (items > 9)
					used += (size_t)sprintf(body + used, "\"a\"");
				else
					add_string(body, &used, draw(3) ? "name" : "vitrail-files");
			}
			used += (size_t)sprintf(body + used, "%s", draw(20) ? "]" : "");
			break;
		default:
			used += (size_t)sprintf(body + used, ",\"env\":{");
			for (size_t j = 0; j < items && used < 59000; j++) {
				used += (size_t)sprintf(body + used, "%s", j ? "," : "");
				add_string(body, &used, "KEY");
				used += (size_t)sprintf(body + used, ":");
				add_string(body, &used, "value");
			}
			used += (size_t)sprintf(body + used, "}");
		}
	}
	used += (size_t)sprintf(body + used, "%s", draw(30) ? "}" : "");
	while (!draw(6) && used)
		body[draw(used)] = (char)draw(256);
	return used;
}

static void make_stream(void)
{
	static char body[200000];
	static const uint32_t sizes[] = { 0, 1, 65536, 65537, 0xffffffff, 0x7fffffff, 0x80000000 };
	length = at = 0;
	for (size_t left = 1 + draw(60); left; left--) {
		size_t used = make_body(body);
		uint32_t said = draw(60) ? (uint32_t)used : sizes[draw(7)];
		char size[4] = { (char)said, (char)(said >> 8), (char)(said >> 16), (char)(said >> 24) };
		add(size, 4);
		add(body, used);
		messages++;
	}
}

static void session(void)
{
	static char token[] = "abababababababababababababababab", first[] = "firefox", file[] = "some/file", more[] = "-x";
	char *received[] = { token, first, more }, *copied[] = { file, file };
	memset(&agent, 0, sizeof agent);
	next_pid = 100;
	frame_left = head_got = 0;
	calls = 0;
	make_stream();
	switch (draw(6)) {
	case 0:
		receive_files(received, 1 + draw(3));
		return;
	case 1:
		copy_files(copied, 1 + draw(2));
		return;
	case 2:
		open_address("https://example.org/\xff\"\\");
		return;
	default:
		set_up();
		while (at < length) {
			if (agent.fd < 0) {
				connected++;
				connect_broker();
			}
			turn();
		}
	}
}

int main(int argc, char **argv)
{
	static char *none[] = { "PATH=/usr/bin:/bin", "HOME=/home/user", "XDG_RUNTIME_DIR=/run/user/1000", NULL };
	static volatile unsigned long sessions;
	if (argc != 4)
		return 2;
	time_t end_time = time(NULL) + atol(argv[1]);
	unsigned long first = strtoul(argv[2], NULL, 10), most = strtoul(argv[3], NULL, 10);
	for (; sessions < most && time(NULL) < end_time; sessions++) {
		state = (first + sessions) * 0x9e3779b97f4a7c15ull + 1;
		environment = none;
		if (!setjmp(out))
			session();
	}
	printf("{\"sessions\": %lu, \"messages\": %llu, \"sent\": %llu, \"started\": %llu, \"connected\": %llu}\n", (unsigned long)sessions, messages,
		sent, started, connected);
	return 0;
}
