/* Files and addresses: what the broker starts here, and what a user of the guest types.
 *
 * Each runs in a process of its own, with one connection to the broker.
 */
enum { PIECE_BYTES = 28672, FAILED = 1, NO_ROOM = 73, TOPS = 64, NAME_BYTES = 256 };

struct stream { int fd; char body[FRAME_BYTES + 1]; };

static bool send_frame(int fd, const struct text *t)
{
	if (t->full)
		return false;
	uint32_t size = (uint32_t)t->used;
	char head[4] = { (char)size, (char)(size >> 8), (char)(size >> 16), (char)(size >> 24) };
	return write_all(fd, head, 4) && write_all(fd, t->data, t->used);
}

static bool read_all(int fd, char *data, size_t size)
{
	while (size) {
		long got = CALL(read, fd, data, size);
		if (got == -EINTR)
			continue;
		if (got <= 0)
			return false;
		data += got;
		size -= (size_t)got;
	}
	return true;
}

/* The next message, which lives until the one after it. */
static bool receive(struct stream *s, struct message *m)
{
	unsigned char head[4];
	if (!read_all(s->fd, (char *)head, 4))
		return false;
	uint32_t size = head[0] | head[1] << 8 | head[2] << 16 | (uint32_t)head[3] << 24;
	return size && size <= FRAME_BYTES && read_all(s->fd, s->body, size) && decode(s->body, size, m);
}

/* Wait for a message of this type; a refusal is printed. */
static bool expect(struct stream *s, struct message *m, const char *type)
{
	while (receive(s, m)) {
		if (same(m->type, type))
			return true;
		if (same(m->type, "wait") && m->what)
			say(m->what, "", "");
		if (same(m->type, "refused")) {
			say(m->reason ? m->reason : "refused", "", "");
			return false;
		}
	}
	say("the broker closed the connection", "", "");
	return false;
}

static bool plain(const char *name)
{
	size_t size = strlen(name);
	for (const char *at = name; *at; at++)
		if (*at == '/')
			return false;
	return size && size < NAME_BYTES && !same(name, ".") && !same(name, "..");
}

static int directory(int parent, const char *name, bool make)
{
	if (make)
		CALL(mkdirat, parent, name, 0700);
	return (int)CALL(openat, parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
}

/* What arrives: built in a hidden directory, and renamed when it is complete. */
struct arrival { int top, staging; size_t tops; char hidden[32], names[TOPS][NAME_BYTES]; };

static bool note_top(struct arrival *a, const char *name)
{
	for (size_t i = 0; i < a->tops; i++)
		if (same(a->names[i], name))
			return true;
	if (a->tops == TOPS)
		return false;
	memcpy(a->names[a->tops++], name, strlen(name) + 1);
	return true;
}

/* Write an entry's ``size`` bytes; returns an exit code. */
static int fill(struct stream *s, int fd, long long size)
{
	static char piece[PIECE_BYTES];
	while (size > 0) {
		size_t step = size < PIECE_BYTES ? (size_t)size : PIECE_BYTES;
		if (!read_all(s->fd, piece, step))
			return FAILED;
		if (!write_all(fd, piece, step))
			return NO_ROOM;
		size -= (long long)step;
	}
	return 0;
}

static int store(struct stream *s, struct message *m, struct arrival *a)
{
	int parent = a->staging, code = FAILED;
	bool file = same(m->type, "file");
	for (size_t i = 0; i < m->parts; i++)
		if (!plain(m->path[i]))
			return FAILED;
	if (!m->parts || m->size < 0 || (!file && !same(m->type, "dir")) || !note_top(a, m->path[0]))
		return FAILED;
	for (size_t i = 0; parent >= 0 && i + file < m->parts; i++) {
		int inner = directory(parent, m->path[i], !file && i + 1 == m->parts);
		if (parent != a->staging)
			CALL(close, parent);
		parent = inner;
	}
	if (parent < 0)
		return FAILED;
	if (file) {
		long fd = CALL(openat, parent, m->path[m->parts - 1],
			O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		code = fd < 0 ? (fd == -ENOSPC ? NO_ROOM : FAILED) : fill(s, (int)fd, m->size);
		if (fd >= 0)
			CALL(close, fd);
	} else {
		code = 0;
	}
	if (parent != a->staging)
		CALL(close, parent);
	return code;
}

/* Move what is complete to its place; a name that is taken gets a number. */
static int show(struct arrival *a, struct text *first)
{
	for (size_t i = 0; i < a->tops; i++) {
		long code = -EEXIST;
		char name[NAME_BYTES + 16];
		for (int n = 0; n < 1000 && code == -EEXIST; n++) {
			struct text t = TEXT(name);
			put_text(&t, a->names[i]);
			if (n) {
				put_text(&t, " (");
				put_number(&t, n);
				put_text(&t, ")");
			}
			code = CALL(renameat2, a->staging, a->names[i], a->top, name, NO_REPLACE);
		}
		if (code)
			return FAILED;
		put_text(first, i ? "" : name);
	}
	CALL(unlinkat, a->top, a->hidden, AT_REMOVEDIR);
	return 0;
}

static int open_with(const char *what, char **fallback, size_t words);

/* ``receive TOKEN [COMMAND…]``: keep the files of a delivery, or open the one. */
static int receive_files(char **words, size_t count)
{
	static struct stream s;
	static struct message m;
	static struct arrival a;
	static char place[4096], path[4600];
	struct text top = TEXT(place), file = TEXT(path);
	char request[200];
	struct text ask = TEXT(request), hidden = TEXT(a.hidden);
	put_text(&ask, "{\"type\":\"take\",\"token\":");
	put_string(&ask, words[0]);
	put_text(&ask, "}");
	if ((s.fd = reach("VITRAIL_COPY")) < 0 || !send_frame(s.fd, &ask) || !expect(&s, &m, "delivery"))
		return FAILED;
	bool open = m.open;
	if (!m.source || !plain(m.source))
		return FAILED;
	put_text(&top, variable(open ? "XDG_RUNTIME_DIR" : "HOME", "/tmp"));
	int base = directory(AT_CWD, place, false);
	if (!open) {
		put_text(&top, "/Incoming/");
		put_text(&top, m.source);
		base = directory(base, "Incoming", true);
		base = directory(base, m.source, true);
	}
	put_text(&hidden, ".vitrail-");
	put_number(&hidden, CALL(getpid, 0));
	a.top = base;
	a.staging = directory(base, a.hidden, true);
	if (base < 0 || a.staging < 0 || top.full) {
		say("cannot write to ", place, "");
		return FAILED;
	}
	int code = 0;
	while (!code && receive(&s, &m)) {
		if (!same(m.type, "end")) {
			code = store(&s, &m, &a);
			continue;
		}
		put_text(&file, place);
		put_text(&file, "/");
		if (show(&a, &file) || file.full)
			return FAILED;
		CALL(close, s.fd);
		if (!open || a.tops != 1)
			return open ? FAILED : 0;
		code = open_with(path, words + 1, count - 1);
		CALL(unlinkat, AT_CWD, path, 0);
		return code;
	}
	say("the transfer was interrupted", "", "");
	return code ? code : FAILED;
}

static bool send_content(struct stream *s, int fd, unsigned long long size)
{
	static char piece[PIECE_BYTES];
	while (size) {
		long got = CALL(read, fd, piece, size < PIECE_BYTES ? size : PIECE_BYTES);
		if (got <= 0 || !write_all(s->fd, piece, (size_t)got))
			return false;
		size -= (unsigned long long)got;
	}
	return true;
}

/* ``vitrail-copy [--to TARGET] [--] FILE…``: plain files, to where a rule says. */
static int copy_files(char **words, size_t count)
{
	static struct stream s;
	static struct message m;
	static char request[FRAME_BYTES];
	static int files[WORDS];
	static unsigned long long sizes[WORDS];
	struct text t = TEXT(request);
	const char *target = "";
	if (count > 1 && same(*words, "--to")) {
		target = words[1];
		words += 2, count -= 2;
	}
	if (count && same(*words, "--"))
		words++, count--;
	unsigned long long total = 0;
	for (size_t i = 0; i < count && i < WORDS; i++) {
		struct statx facts;
		files[i] = (int)CALL(openat, AT_CWD, words[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
		if (files[i] < 0 || CALL(statx, files[i], "", AT_EMPTY_PATH, STATX_SIZE | STATX_TYPE, &facts)
				|| (facts.stx_mode & KIND_MASK) != PLAIN_FILE) {
			say(words[i], " is not a file that can be read", "");
			return FAILED;
		}
		total += sizes[i] = facts.stx_size;
	}
	if (!count || count > WORDS) {
		say("usage: vitrail-copy [--to TARGET] FILE…", "", "");
		return 2;
	}
	put_text(&t, "{\"type\":\"copy\",\"name\":");
	put_string(&t, base_name(words[0]));
	put_text(&t, ",\"files\":");
	put_number(&t, (long long)count);
	put_text(&t, ",\"size\":");
	put_number(&t, (long long)total);
	put_text(&t, ",\"target\":");
	put_string(&t, target);
	put_text(&t, "}");
	if ((s.fd = reach("VITRAIL_COPY")) < 0 || !send_frame(s.fd, &t) || !expect(&s, &m, "go"))
		return FAILED;
	for (size_t i = 0; i < count; i++) {
		t.used = 0;
		put_text(&t, "{\"type\":\"file\",\"path\":[");
		put_string(&t, base_name(words[i]));
		put_text(&t, "],\"size\":");
		put_number(&t, (long long)sizes[i]);
		put_text(&t, "}");
		if (!send_frame(s.fd, &t) || !send_content(&s, files[i], sizes[i])) {
			// Its reason, if the broker gave one.
			expect(&s, &m, "done");
			return FAILED;
		}
	}
	t.used = 0;
	put_text(&t, "{\"type\":\"end\"}");
	return send_frame(s.fd, &t) && expect(&s, &m, "done") ? 0 : FAILED;
}

/* ``vitrail-open URL``: an address, where a rule says. */
static int open_address(const char *url)
{
	static struct stream s;
	static struct message m;
	static char request[FRAME_BYTES];
	struct text t = TEXT(request);
	put_text(&t, "{\"type\":\"open-url\",\"url\":");
	put_string(&t, url);
	put_text(&t, "}");
	if ((s.fd = reach("VITRAIL_OPEN_URL")) < 0 || !send_frame(s.fd, &t))
		return FAILED;
	return expect(&s, &m, "done") ? 0 : FAILED;
}

/* Run the guest's program for an address or a file: VITRAIL_OPENER, or the first there. */
static int open_with(const char *what, char **fallback, size_t words)
{
	static const char *const openers[] = { "firefox-esr", "firefox", "chromium", "epiphany", "xdg-open" };
	static char *argv[WORDS + 2];
	const char *own = variable("VITRAIL_OPENER", "");
	if (*what == '-')
		return FAILED;
	argv[0] = (char *)own;
	argv[1] = (char *)what;
	if (*own)
		return run_and_wait(argv);
	for (size_t i = 0; i < sizeof openers / sizeof *openers; i++) {
		argv[0] = (char *)openers[i];
		int code = run_and_wait(argv);
		if (code != 127)
			return code;
	}
	for (size_t i = 0; i < words && i < WORDS; i++)
		argv[i] = fallback[i];
	argv[words] = (char *)what;
	if (words)
		return run_and_wait(argv);
	say("no program in this sandbox can open ", what, "; set VITRAIL_OPENER");
	return FAILED;
}

static bool is_tool(const char *name)
{
	return same(name, "vitrail-files") || same(name, "vitrail-copy") || same(name, "vitrail-open");
}

static int tool(char **words, size_t count)
{
	if (same(*words, "vitrail-copy"))
		return copy_files(words + 1, count - 1);
	if (same(*words, "vitrail-open") && count == 2)
		return open_address(words[1]);
	if (same(*words, "vitrail-files") && count > 2 && same(words[1], "receive"))
		return receive_files(words + 2, count - 2);
	if (same(*words, "vitrail-files") && count > 2 && same(words[1], "open-here"))
		return open_with(words[2], words + 3, count - 3);
	say(*words, ": the minimal agent cannot do this", "");
	return 2;
}
