/* Connections of waypipe and of sound, carried to the broker's ports. */
struct way { int from, to; size_t size, sent; bool ended, closed; char data[PIECE_BYTES]; };

static bool move(struct way *w)
{
	if (!w->ended && !w->size) {
		long got = CALL(recvfrom, w->from, w->data, PIECE_BYTES, 0x40 /* DONTWAIT */, 0, 0);
		if (got < 0)
			return got == -EAGAIN || got == -EINTR;
		w->size = (size_t)got;
		w->sent = 0;
		w->ended = !got;
	}
	if (w->sent < w->size) {
		long done = CALL(sendto, w->to, w->data + w->sent, w->size - w->sent, NOSIGNAL | 0x40, 0, 0);
		if (done < 0)
			return done == -EAGAIN || done == -EINTR;
		w->sent += (size_t)done;
		w->size = w->sent == w->size ? 0 : w->size;
	}
	if (w->ended && !w->size && !w->closed) {
		w->closed = true;
		CALL(shutdown, w->to, SHUT_WRITE);
	}
	return true;
}

static void relay(int near, const char *name)
{
	static struct way out, back;
	int far = reach(name);
	if (far < 0)
		end(1);
	out.from = back.to = near;
	out.to = back.from = far;
	while (!out.closed || !back.closed) {
		struct poll_entry p[2] = { { near, 0, 0 }, { far, 0, 0 } };
		p[0].events = (short)((out.ended || out.size ? 0 : IN) | (back.size ? OUT : 0));
		p[1].events = (short)((back.ended || back.size ? 0 : IN) | (out.size ? OUT : 0));
		// Hybrid vsock makes a half-close a full one, so no end may follow.
		struct pause_time most = { 10, 0 };
		long found = CALL(ppoll, p, 2, out.closed || back.closed ? &most : 0, 0, 0);
		if (!found || !move(&out) || !move(&back))
			end(0);
		if ((p[0].found | p[1].found) & 8 /* ERR */)
			end(0);
	}
	end(0);
}

static int listen_at(const char *folder, const char *name)
{
	struct sockaddr_un un = { .sun_family = 1 };
	struct text t = TEXT(un.sun_path);
	put_text(&t, folder);
	put_text(&t, name);
	CALL(unlinkat, AT_CWD, un.sun_path, 0);
	long fd = CALL(socket, 1, STREAM | CLOEXEC | NONBLOCK, 0);
	if (t.full || fd < 0 || CALL(bind, fd, &un, sizeof un) || CALL(fchmodat, AT_CWD, un.sun_path, 0600)
			|| CALL(listen, fd, 64)) {
		say("cannot listen at ", un.sun_path, "");
		end(1);
	}
	return (int)fd;
}

static void accept_one(int door)
{
	size_t i = 0;
	while (i < RELAYS && agent.relays[i].pid)
		i++;
	long near = CALL(accept4, agent.doors[door], 0, 0, CLOEXEC);
	if (near < 0)
		return;
	long pid = i < RELAYS ? fork_() : -1;
	if (!pid)
		relay((int)near, door ? "VITRAIL_AUDIO" : "VITRAIL_DISPLAY");
	if (pid > 0) {
		agent.relays[i].pid = pid;
		agent.relays[i].display = !door;
		// Pings of before it count no lost display.
		agent.unseen = door ? agent.unseen : 0;
	}
	CALL(close, near);
}

static void cut(bool displays_alone)
{
	for (size_t i = 0; i < RELAYS; i++)
		if (agent.relays[i].pid && (agent.relays[i].display || !displays_alone))
			CALL(kill, agent.relays[i].pid, KILL_);
}

static void start_display(void)
{
	static char path[200];
	struct text t = TEXT(path);
	static char *argv[] = { "waypipe", "--compress", "none", "--no-gpu", "--socket", path,
		"--display", "vitrail-0", "server", "--", "cat", NULL };
	// It lives as long as its command, and that as long as we hold the pipe.
	int feed[2];
	if (agent.display > 0 || CALL(pipe2, feed, CLOEXEC))
		return;
	if (agent.feed > 0)
		CALL(close, agent.feed);
	agent.feed = feed[1];
	put_text(&t, agent.session);
	put_text(&t, "/vitrail-0");
	CALL(unlinkat, AT_CWD, path, 0);
	t.used = 0;
	put_text(&t, agent.runtime);
	put_text(&t, "/display");
	agent.display = fork_();
	if (!agent.display) {
		CALL(setsid, 0);
		CALL(dup3, feed[0], 0, 0);
		pipe_signal(false);
		end(run_program(argv, environment) == -ENOENT ? 127 : 126);
	}
	CALL(close, feed[0]);
}
