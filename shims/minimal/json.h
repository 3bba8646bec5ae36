/* The messages of broker and guest: one JSON object in a frame, decoded in place.
 *
 * Each field that a message may have is in the table; any other, a value of another
 * type, a NUL and a number that is no integer make the message invalid, as in
 * shims/guest/protocol.py.
 */
enum { FRAME_BYTES = 65536, WORDS = 200, DEPTH = 16 };

struct message {
	char *type, *data, *serving, *source, *reason, *what, *back;
	long long program, number, rows, columns, displays, size, window;
	bool display, input, tty, end, open, apart, environment;
	size_t words, names, parts;
	char *argv[WORDS + 1], *name[WORDS], *value[WORDS], *path[DEPTH];
};

enum kind { STRING, NUMBER, TRUTH, ARGV, PATH, PAIRS };

#define FIELD(name, kind, member) { name, kind, offsetof(struct message, member) }
static const struct { const char *name; enum kind kind; size_t at; } fields[] = {
	FIELD("type", STRING, type), FIELD("data", STRING, data),
	FIELD("serving", STRING, serving), FIELD("source", STRING, source),
	FIELD("reason", STRING, reason), FIELD("what", STRING, what),
	FIELD("back", STRING, back), FIELD("program", NUMBER, program),
	FIELD("number", NUMBER, number), FIELD("rows", NUMBER, rows),
	FIELD("columns", NUMBER, columns), FIELD("displays", NUMBER, displays),
	FIELD("size", NUMBER, size), FIELD("window", NUMBER, window),
	FIELD("display", TRUTH, display), FIELD("stdin", TRUTH, input),
	FIELD("tty", TRUTH, tty), FIELD("end", TRUTH, end), FIELD("open", TRUTH, open),
	FIELD("stderr", TRUTH, apart), FIELD("argv", ARGV, argv),
	FIELD("path", PATH, path), FIELD("env", PAIRS, environment),
};

struct cursor { char *at, *end; };

static char next(struct cursor *c)
{
	while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r'))
		c->at++;
	return c->at < c->end ? *c->at : 0;
}

static bool take(struct cursor *c, char wanted)
{
	if (next(c) != wanted)
		return false;
	c->at++;
	return true;
}

static long hex4(struct cursor *c)
{
	long value = 0;
	if (c->end - c->at < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char d = *c->at++;
		int digit = d >= '0' && d <= '9' ? d - '0' : d >= 'a' && d <= 'f' ? d - 'a' + 10
			: d >= 'A' && d <= 'F' ? d - 'A' + 10 : -1;
		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* At most four bytes, for six or twelve that were read. */
static char *put_code(char *out, long code)
{
	if (code < 0x80) {
		*out++ = (char)code;
	} else if (code < 0x800) {
		*out++ = (char)(0xc0 | code >> 6);
		*out++ = (char)(0x80 | (code & 63));
	} else {
		if (code < 0x10000) {
			*out++ = (char)(0xe0 | code >> 12);
		} else {
			*out++ = (char)(0xf0 | code >> 18);
			*out++ = (char)(0x80 | (code >> 12 & 63));
		}
		*out++ = (char)(0x80 | (code >> 6 & 63));
		*out++ = (char)(0x80 | (code & 63));
	}
	return out;
}

/* The string's end takes the place of its closing quote, at the latest. */
static char *string(struct cursor *c)
{
	static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
	if (!take(c, '"'))
		return NULL;
	char *begin = c->at, *out = begin;
	while (c->at < c->end) {
		char d = *c->at++;
		if (d == '"') {
			*out = 0;
			return begin;
		}
		if ((unsigned char)d < 32)
			return NULL;
		if (d != '\\') {
			*out++ = d;
			continue;
		}
		if (c->at >= c->end)
			return NULL;
		d = *c->at++;
		if (d == 'u') {
			long code = hex4(c);
			if (code >= 0xd800 && code < 0xdc00 && c->end - c->at >= 6 && *c->at == '\\' && c->at[1] == 'u') {
				c->at += 2;
				long low = hex4(c);
				code = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00) : -1;
			} else if (code >= 0xd800 && code < 0xe000) {
				code = -1;
			}
			if (code <= 0)
				return NULL;
			out = put_code(out, code);
			continue;
		}
		size_t i = 0;
		while (escapes[i] && escapes[i] != d)
			i += 2;
		if (!escapes[i])
			return NULL;
		*out++ = escapes[i + 1];
	}
	return NULL;
}

static bool number(struct cursor *c, long long *value)
{
	char d = next(c);
	bool minus = d == '-';
	c->at += minus;
	long long found = 0;
	char *begin = c->at;
	while (c->at < c->end && *c->at >= '0' && *c->at <= '9') {
		if (c->at - begin >= 18)
			return false;
		found = found * 10 + (*c->at++ - '0');
	}
	*value = minus ? -found : found;
	return c->at > begin;
}

static bool truth(struct cursor *c, bool *value)
{
	static const char *const words[] = { "false", "true" };
	next(c);
	for (int i = 0; i < 2; i++) {
		size_t size = strlen(words[i]);
		if ((size_t)(c->end - c->at) >= size && starts(c->at, words[i])) {
			c->at += size;
			*value = i;
			return true;
		}
	}
	return false;
}

static bool list(struct cursor *c, char **into, size_t most, size_t *count)
{
	if (*count || !take(c, '['))
		return false;
	if (take(c, ']'))
		return true;
	do {
		if (*count == most || !(into[*count] = string(c)))
			return false;
		++*count;
	} while (take(c, ','));
	return take(c, ']');
}

static bool pairs(struct cursor *c, struct message *m)
{
	if (m->names || !take(c, '{'))
		return false;
	if (take(c, '}'))
		return true;
	do {
		if (m->names == WORDS || !(m->name[m->names] = string(c)) || !take(c, ':')
				|| !(m->value[m->names] = string(c)))
			return false;
		char *name = m->name[m->names++];
		bool good = *name;
		for (; *name; name++)
			good = good && *name != '=';
		if (!good)
			return false;
	} while (take(c, ','));
	return take(c, '}');
}

static bool value(struct cursor *c, struct message *m, const char *name)
{
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		char *at = (char *)m + fields[i].at;
		if (!same(fields[i].name, name))
			continue;
		switch (fields[i].kind) {
		case STRING:
			return (*(char **)at = string(c));
		case NUMBER:
			return number(c, (long long *)at);
		case TRUTH:
			return truth(c, (bool *)at);
		case ARGV:
			return list(c, m->argv, WORDS, &m->words);
		case PATH:
			return list(c, m->path, DEPTH, &m->parts);
		case PAIRS:
			return pairs(c, m);
		}
	}
	return false;
}

/* ``body`` has room for a NUL behind it, and must live as long as ``m``. */
static bool decode(char *body, size_t size, struct message *m)
{
	struct cursor c = { body, body + size };
	memset(m, 0, sizeof *m);
	m->display = true;
	m->rows = 24;
	m->columns = 80;
	body[size] = 0;
	if (!take(&c, '{'))
		return false;
	if (!take(&c, '}')) {
		do {
			char *name = string(&c);
			if (!name || !take(&c, ':') || !value(&c, m, name))
				return false;
		} while (take(&c, ','));
		if (!take(&c, '}'))
			return false;
	}
	return m->type && !next(&c) && c.at == c.end;
}

static long from_base64(char *text)
{
	size_t used = 0, bits = 0;
	unsigned value = 0;
	for (char *at = text; *at; at++) {
		int digit = *at >= 'A' && *at <= 'Z' ? *at - 'A' : *at >= 'a' && *at <= 'z' ? *at - 'a' + 26
			: *at >= '0' && *at <= '9' ? *at - '0' + 52 : *at == '+' ? 62 : *at == '/' ? 63 : -1;
		if (digit < 0)
			return *at == '=' && (!at[1] || (at[1] == '=' && !at[2])) ? (long)used : -1;
		value = value << 6 | (unsigned)digit;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			text[used++] = (char)(value >> bits);
			value &= (1u << bits) - 1;
		}
	}
	return (long)used;
}

static void put_base64(struct text *t, const unsigned char *data, size_t size)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	for (size_t i = 0; i < size; i += 3) {
		unsigned left = (unsigned)(size - i), v = (unsigned)data[i] << 16;
		v |= left > 1 ? (unsigned)data[i + 1] << 8 : 0;
		v |= left > 2 ? data[i + 2] : 0;
		char four[4] = { digits[v >> 18], digits[v >> 12 & 63],
			left > 1 ? digits[v >> 6 & 63] : '=', left > 2 ? digits[v & 63] : '=' };
		put(t, four, 4);
	}
}

/* The length of the character of UTF-8 that a text begins with; 0: it is none. */
static size_t character(const char *text)
{
	unsigned char first = (unsigned char)*text;
	size_t size = first < 0x80 ? 1 : first >= 0xc2 && first < 0xe0 ? 2
		: (first & 0xf0) == 0xe0 ? 3 : first >= 0xf0 && first < 0xf5 ? 4 : 0;
	for (size_t i = 1; i < size; i++)
		if (((unsigned char)text[i] & 0xc0) != 0x80)
			return 0;
	unsigned char second = size > 1 ? (unsigned char)text[1] : 0;
	bool bad = (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f)
		|| (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
	return bad ? 0 : size;
}

/* A string of this guest, which the broker reads as UTF-8: other bytes become '?'. */
static void put_string(struct text *t, const char *text)
{
	put(t, "\"", 1);
	while (*text) {
		size_t size = character(text);
		if (*text == '"' || *text == '\\')
			put(t, "\\", 1);
		put(t, size && (unsigned char)*text >= 32 ? text : "?", size ? size : 1);
		text += size ? size : 1;
	}
	put(t, "\"", 1);
}
